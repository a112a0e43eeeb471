//! The seccomp(2) filter of functions, fork servers and compilers: system calls that they cannot make.
//!
//! It denies no less than Docker's default profile does (docs/SECURITY.md has the difference), and one thing more: a
//! process whose parent is not its maker, which could outlive its invocation. A denied call fails with EPERM. Calls
//! that C libraries can do without fail with ENOSYS or EOPNOTSUPP, so that the libraries fall back.
//!
//! A filter is a BPF program that the kernel runs over a struct seccomp_data at each system call. The kernel takes
//! about 0.1 ms to install one: it translates the program, and runs it for every number to keep the answers (since
//! 5.11). So a worker installs the common filter for itself when it starts, and its functions inherit it. Functions and
//! fork servers install a second, small one. The strictest answer holds (seccomp(2)).

use std::ffi::{c_int, c_long};
use std::io;

use super::{check, quota};

/// True where [`SystemCalls`] can restrict on this kind of machine.
pub const CAN_RESTRICT_SYSTEM_CALLS: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// What a process may do that [`SystemCalls::further`] denies to others.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rights {
    /// Sockets of other families than Unix.
    pub network: bool,
    /// chmod, chown and the like.
    pub permissions: bool,
    /// Files that lie in memory and nowhere else.
    pub memory_files: bool,
    /// Entering a user namespace.
    pub namespaces: bool,
}

/// A filter: the system calls that a process may make. An empty one restricts nothing.
pub struct SystemCalls(Vec<libc::sock_filter>);

impl SystemCalls {
    /// The common filter: calls that neither a function nor a worker needs. Calls by another machine's numbers are
    /// denied as well, since they would bypass the filter. `namespaces` allows to enter a user namespace, for which the
    /// kernel demands a privilege in it.
    pub fn common(namespaces: bool) -> SystemCalls {
        if !CAN_RESTRICT_SYSTEM_CALLS {
            return SystemCalls(Vec::new());
        }
        let mut program = Program::begin();
        program.answer_calls(&[PERSISTENT_OBJECT_CALLS, KERNEL_CALLS].concat(), Answer::Deny);
        program.for_call(libc::SYS_setns, |program| {
            program.load(SECOND_ARGUMENT);
            program.unless_one_of(if namespaces { &[libc::CLONE_NEWUSER as u32] } else { &[] }, Answer::Deny);
        });
        // The machine has one number of asynchronous requests for all users (fs.aio-max-nr).
        program.when(IF_EQUAL, libc::SYS_io_setup as u32, Answer::NotThere);
        program.when(IF_EQUAL, libc::SYS_fallocate as u32, Answer::NotSupported);
        program.for_call(libc::SYS_ioctl, |program| {
            program.load(SECOND_ARGUMENT);
            for request in RESERVING_REQUESTS {
                program.when(IF_EQUAL, request, Answer::NotSupported);
            }
        });
        program.for_call(libc::SYS_clone, |program| {
            program.load(FIRST_ARGUMENT);
            program.when(IF_ANY_BIT, CLONE_DENIED as u32, Answer::Deny);
            // /proc shows the descriptors of a process's first thread only, so its others must share them.
            program.push(IF_ANY_BIT, libc::CLONE_THREAD as u32, 0, 2);
            program.push(IF_ANY_BIT, libc::CLONE_FILES as u32, 1, 0);
            program.answer(Answer::Deny);
        });
        program.for_call(libc::SYS_personality, |program| {
            program.load(FIRST_ARGUMENT);
            program.unless_one_of(&PERSONALITIES_ALLOWED, Answer::Deny);
        });
        // The kernel lets a process change the limits of all processes of its user.
        program.for_call(libc::SYS_prlimit64, |program| {
            program.load(FIRST_ARGUMENT);
            program.unless_one_of(&[0], Answer::Deny);
        });
        program.for_call(libc::SYS_socket, |program| {
            program.load(FIRST_ARGUMENT);
            program.check_family();
        });
        SystemCalls(program.finish())
    }

    /// The filter of a process that inherits the common one and gives up more: clone3, by which a worker starts processes
    /// in control groups, the calls by which it sets project quotas, the scheduling of other processes, which a worker
    /// changes to end them, and all that is not among its rights.
    pub fn further(rights: Rights) -> SystemCalls {
        if !CAN_RESTRICT_SYSTEM_CALLS {
            return SystemCalls(Vec::new());
        }
        let mut program = Program::begin();
        // A filter cannot look at clone3's flags, which lie in memory.
        program.when(IF_EQUAL, libc::SYS_clone3 as u32, Answer::NotThere);
        // The kernel lets a process slow down all processes of its user.
        for call in SCHEDULING_CALLS {
            program.for_call(call, |program| {
                program.load(FIRST_ARGUMENT);
                program.unless_one_of(&[0], Answer::Deny);
            });
        }
        for (call, of_user) in PRIORITY_CALLS {
            program.for_call(call, |program| {
                program.load(FIRST_ARGUMENT);
                program.when(IF_EQUAL, of_user, Answer::Deny);
                program.load(SECOND_ARGUMENT);
                program.unless_one_of(&[0], Answer::Deny);
            });
        }
        program.answer_calls(QUOTA_CALLS, Answer::Deny);
        program.for_call(libc::SYS_ioctl, |program| {
            program.load(SECOND_ARGUMENT);
            for request in ATTRIBUTE_REQUESTS {
                program.when(IF_EQUAL, request, Answer::NotSupported);
            }
        });
        if !rights.permissions {
            program.answer_calls(PERMISSION_CALLS, Answer::Deny);
        }
        if !rights.memory_files {
            program.answer_calls(MEMORY_FILE_CALLS, Answer::NotThere);
        }
        if !rights.namespaces {
            program.when(IF_EQUAL, libc::SYS_setns as u32, Answer::Deny);
        }
        if !rights.network {
            program.for_call(libc::SYS_socket, |program| {
                program.load(FIRST_ARGUMENT);
                program.unless_one_of(&[libc::AF_UNIX as u32], Answer::Deny);
            });
        }
        SystemCalls(program.finish())
    }

    /// Restricts the calling thread, and so the threads and processes that it starts from now on. Allocates nothing, so
    /// that it can run between vfork and exec. Without privileges it demands no_new_privs.
    pub(super) fn restrict_self(&self) -> io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let program = libc::sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr().cast_mut() };
        let (call, mode) = (libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER);
        // SAFETY: the kernel reads the program, which lives that long, and writes nothing to it.
        check(unsafe { libc::syscall(call, mode, 0u32, &raw const program) } as c_int).map(drop)
    }
}

/// Calls whose objects outlive their maker and belong to no file system: shared memory, queues, keys. A function could
/// leave them behind, or find those of another function of the same user.
const PERSISTENT_OBJECT_CALLS: &[c_long] = &[
    libc::SYS_shmget,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// Calls that reach parts of the kernel which no function needs, and in which faults are found. Most need a privilege
/// that functions lack. They are denied all the same, since a user namespace can give that privilege.
const KERNEL_CALLS: &[c_long] = &[
    // Namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    // Programs, counters and rings inside of the kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Other processes.
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_writev,
    // Memory policy of the machine.
    libc::SYS_get_mempolicy,
    libc::SYS_set_mempolicy,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    SYS_SET_MEMPOLICY_HOME_NODE,
    // The machine itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
];

/// Calls that make files without a name in memory. Their contents count as a process's memory only once it maps them.
const MEMORY_FILE_CALLS: &[c_long] = &[libc::SYS_memfd_create, libc::SYS_memfd_secret];

/// ioctl's requests that do what fallocate(2) does, on any file system: FS_IOC_RESVSP, FS_IOC_RESVSP64 and
/// FS_IOC_ZERO_RANGE of linux/falloc.h. All reserve blocks without writing to them: one call could take the whole disk,
/// between two samples of the scratch folder. C libraries write instead.
const RESERVING_REQUESTS: [u32; 3] = [0x4030_5828, 0x4030_582a, 0x4030_5839];

/// Calls that set project quotas: quotactl_fd, and file_setattr, which libc lacks.
const QUOTA_CALLS: &[c_long] = &[libc::SYS_quotactl_fd, 469];

/// ioctl's requests that change a file's project, or whether a folder hands its project down: FS_IOC_FSSETXATTR, and
/// FS_IOC_SETFLAGS of linux/fs.h. The kernel allows both to each file's owner, who could leave a quota so.
const ATTRIBUTE_REQUESTS: [u32; 2] = [quota::SET_ATTRIBUTES, 0x4008_6602];

/// The call that libc lacks. Numbers from 424 up are the same on all machines.
const SYS_SET_MEMPOLICY_HOME_NODE: c_long = 450;

/// Calls that change who may use a file, which Landlock does not restrict (landlock(7), "Filesystem actions"). libc
/// lacks those above 450, whose numbers are the same on all machines: fchmodat2, setxattrat, removexattrat.
const PERMISSION_CALLS: &[c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    452,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    463,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    466,
];

/// Calls that schedule the process whose id is their first argument; 0 is the calling thread.
const SCHEDULING_CALLS: [c_long; 4] =
    [libc::SYS_sched_setparam, libc::SYS_sched_setscheduler, libc::SYS_sched_setattr, libc::SYS_sched_setaffinity];

/// Calls that set a priority for a process, a group of processes or all processes of a user, by their first argument; in
/// the second, 0 is the caller's own. With the value for a user: PRIO_USER, IOPRIO_WHO_USER (linux/ioprio.h).
const PRIORITY_CALLS: [(c_long, u32); 2] = [(libc::SYS_setpriority, libc::PRIO_USER), (libc::SYS_ioprio_set, 3)];

/// clone(2) for a process whose parent is not its maker, which could outlive its invocation, and for namespaces.
const CLONE_DENIED: c_int = libc::CLONE_PARENT
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// Docker's: PER_LINUX, PER_LINUX32, both with UNAME26, and the question for the current one.
const PERSONALITIES_ALLOWED: [u32; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// seccomp's number of this machine: linux/audit.h.
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;
#[cfg(not(target_arch = "aarch64"))]
const AUDIT_ARCH: u32 = 0xc000_003e;

/// The second calling convention of x86_64 sets this bit in its numbers.
const X32_BIT: u32 = 0x4000_0000;

/// Offsets in struct seccomp_data. Of arguments the lower half: both machines are little-endian.
const NUMBER: u32 = 0;
const MACHINE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;
const SECOND_ARGUMENT: u32 = 24;
const THIRD_ARGUMENT: u32 = 32;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const SKIP: u32 = libc::BPF_JMP | libc::BPF_JA;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// The answer to a call that is not allowed.
#[derive(Clone, Copy)]
enum Answer {
    /// EPERM.
    Deny,
    /// ENOSYS.
    NotThere,
    /// EOPNOTSUPP.
    NotSupported,
}

/// A filter under construction.
#[derive(Default)]
struct Program(Vec<libc::sock_filter>);

impl Program {
    /// Denies calls by another machine's numbers, then loads the call's number.
    fn begin() -> Program {
        let mut program = Program::default();
        program.load(MACHINE);
        program.unless_one_of(&[AUDIT_ARCH], Answer::Deny);
        program.load(NUMBER);
        program.when(IF_AT_LEAST, X32_BIT, Answer::Deny);
        program
    }

    fn push(&mut self, code: u32, k: u32, jump_true: u8, jump_false: u8) {
        self.0.push(libc::sock_filter { code: code as u16, jt: jump_true, jf: jump_false, k });
    }

    fn load(&mut self, offset: u32) {
        self.push(LOAD, offset, 0, 0);
    }

    fn answer(&mut self, answer: Answer) {
        let errno = match answer {
            Answer::Deny => libc::EPERM,
            Answer::NotThere => libc::ENOSYS,
            Answer::NotSupported => libc::EOPNOTSUPP,
        };
        self.push(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0);
    }

    fn when(&mut self, condition: u32, k: u32, answer: Answer) {
        self.push(condition, k, 0, 1);
        self.answer(answer);
    }

    fn unless_one_of(&mut self, values: &[u32], answer: Answer) {
        for (at, value) in values.iter().enumerate() {
            // Jumps over the remaining comparisons, and the answer.
            self.push(IF_EQUAL, *value, (values.len() - at) as u8, 0);
        }
        self.answer(answer);
    }

    /// Answers the calls. For any other number the program goes on.
    fn answer_calls(&mut self, calls: &[c_long], answer: Answer) {
        let mut calls = calls.to_vec();
        calls.sort_unstable();
        self.answer_ascending(&calls, answer);
    }

    /// Searches by halves.
    fn answer_ascending(&mut self, calls: &[c_long], answer: Answer) {
        const LINEAR_MAX: usize = 4;
        if calls.len() > LINEAR_MAX {
            let (low, high) = calls.split_at(calls.len() / 2);
            let (mut below, mut above) = (Program::default(), Program::default());
            below.answer_ascending(low, answer);
            above.answer_ascending(high, answer);
            below.push(SKIP, above.0.len() as u32, 0, 0);
            self.push(IF_AT_LEAST, high[0] as u32, below.0.len() as u8, 0);
            self.0.extend(below.0);
            self.0.extend(above.0);
            return;
        }
        for (at, call) in calls.iter().enumerate() {
            let comparisons_left = calls.len() - 1 - at;
            // Jumps to the answer; the last comparison jumps over it.
            self.push(IF_EQUAL, *call as u32, comparisons_left as u8, u8::from(comparisons_left == 0));
        }
        self.answer(answer);
    }

    /// Applies `rules` to one call; it is allowed if they give no answer.
    fn for_call(&mut self, call: c_long, rules: impl FnOnce(&mut Program)) {
        let mut own = Program::default();
        rules(&mut own);
        own.push(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0);
        self.push(IF_EQUAL, call as u32, 0, own.0.len() as u8);
        self.0.extend(own.0);
    }

    /// Allows the families that programs use: Unix, IPv4, IPv6, and netlink, through which getaddrinfo asks for
    /// addresses and routes. Others, such as AF_VSOCK, AF_ALG and AF_PACKET, lead to rarely used parts of the kernel.
    fn check_family(&mut self) {
        self.push(IF_EQUAL, libc::AF_UNIX as u32, 6, 0);
        self.push(IF_EQUAL, libc::AF_INET as u32, 5, 0);
        self.push(IF_EQUAL, libc::AF_INET6 as u32, 4, 0);
        self.push(IF_EQUAL, libc::AF_NETLINK as u32, 0, 2);
        self.load(THIRD_ARGUMENT);
        self.push(IF_EQUAL, libc::NETLINK_ROUTE as u32, 1, 0);
        self.answer(Answer::Deny);
    }

    fn finish(mut self) -> Vec<libc::sock_filter> {
        self.push(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::each;

    /// The strictest answer of several filters: here all but one answer are ALLOW.
    fn run(filters: &[&SystemCalls], call: c_long, arguments: [u32; 3]) -> u32 {
        let answers = filters.iter().map(|filter| run_one(&filter.0, call, arguments));
        answers.min_by_key(|answer| answer & 0xffff_0000).unwrap()
    }

    /// Runs a filter as the kernel does.
    fn run_one(filter: &[libc::sock_filter], call: c_long, arguments: [u32; 3]) -> u32 {
        let field = |offset: u32| match offset {
            NUMBER => call as u32,
            MACHINE => AUDIT_ARCH,
            argument => arguments[(argument as usize - 16) / 8],
        };
        let (mut at, mut value) = (0, 0);
        loop {
            let step = &filter[at];
            at += 1;
            let jump = |is_true: bool| usize::from(if is_true { step.jt } else { step.jf });
            match u32::from(step.code) {
                LOAD => value = field(step.k),
                IF_EQUAL => at += jump(value == step.k),
                IF_ANY_BIT => at += jump(value & step.k != 0),
                IF_AT_LEAST => at += jump(value >= step.k),
                SKIP => at += step.k as usize,
                RETURN => return step.k,
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn calls_are_allowed_denied_or_not_there() {
        const DENIED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        const NOT_THERE: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        const NOT_SUPPORTED: u32 = libc::SECCOMP_RET_ERRNO | libc::EOPNOTSUPP as u32;
        const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;
        let common = SystemCalls::common(true);
        let further = SystemCalls::further(Rights::default());
        let (inet, netlink, vsock) = (libc::AF_INET as u32, libc::AF_NETLINK as u32, libc::AF_VSOCK as u32);
        let fork = libc::SIGCHLD as u32;
        let cases = [
            (libc::SYS_read, [0, 0, 0], ALLOWED, ALLOWED),
            (libc::SYS_bpf, [0, 0, 0], DENIED, DENIED),
            (libc::SYS_unshare, [0, 0, 0], DENIED, DENIED),
            (libc::SYS_setns, [3, libc::CLONE_NEWUSER as u32, 0], ALLOWED, DENIED),
            (libc::SYS_setns, [3, libc::CLONE_NEWNET as u32, 0], DENIED, DENIED),
            (libc::SYS_setns, [3, 0, 0], DENIED, DENIED),
            (libc::SYS_fchmod, [0, 0, 0], ALLOWED, DENIED),
            (libc::SYS_memfd_create, [0, 0, 0], ALLOWED, NOT_THERE),
            (libc::SYS_clone3, [0, 0, 0], ALLOWED, NOT_THERE),
            (libc::SYS_setpriority, [libc::PRIO_PROCESS, 0, 19], ALLOWED, ALLOWED),
            (libc::SYS_setpriority, [libc::PRIO_PROCESS, 7, 19], ALLOWED, DENIED),
            (libc::SYS_setpriority, [libc::PRIO_USER, 0, 19], ALLOWED, DENIED),
            (libc::SYS_ioprio_set, [3, 0, 0], ALLOWED, DENIED),
            (libc::SYS_sched_setaffinity, [0, 8, 0], ALLOWED, ALLOWED),
            (libc::SYS_sched_setaffinity, [7, 8, 0], ALLOWED, DENIED),
            (libc::SYS_io_setup, [1, 0, 0], NOT_THERE, NOT_THERE),
            (libc::SYS_fallocate, [1, 0, 0], NOT_SUPPORTED, NOT_SUPPORTED),
            (libc::SYS_ioctl, [1, libc::TCGETS as u32, 0], ALLOWED, ALLOWED),
            (libc::SYS_ioctl, [1, RESERVING_REQUESTS[0], 0], NOT_SUPPORTED, NOT_SUPPORTED),
            (libc::SYS_ioctl, [1, RESERVING_REQUESTS[2], 0], NOT_SUPPORTED, NOT_SUPPORTED),
            (libc::SYS_ioctl, [1, ATTRIBUTE_REQUESTS[0], 0], ALLOWED, NOT_SUPPORTED),
            (libc::SYS_ioctl, [1, ATTRIBUTE_REQUESTS[1], 0], ALLOWED, NOT_SUPPORTED),
            (libc::SYS_quotactl, [0, 0, 0], DENIED, DENIED),
            (libc::SYS_quotactl_fd, [0, 0, 0], ALLOWED, DENIED),
            (libc::SYS_clone, [fork, 0, 0], ALLOWED, ALLOWED),
            (libc::SYS_clone, [libc::CLONE_THREAD as u32, 0, 0], DENIED, DENIED),
            (libc::SYS_clone, [(libc::CLONE_THREAD | libc::CLONE_FILES) as u32, 0, 0], ALLOWED, ALLOWED),
            (libc::SYS_clone, [fork | libc::CLONE_PARENT as u32, 0, 0], DENIED, DENIED),
            (libc::SYS_clone, [fork | libc::CLONE_NEWUSER as u32, 0, 0], DENIED, DENIED),
            (libc::SYS_personality, [0, 0, 0], ALLOWED, ALLOWED),
            (libc::SYS_personality, [0xffff_ffff, 0, 0], ALLOWED, ALLOWED),
            (libc::SYS_personality, [0x4_0000, 0, 0], DENIED, DENIED),
            (libc::SYS_socket, [libc::AF_UNIX as u32, 1, 0], ALLOWED, ALLOWED),
            (libc::SYS_socket, [inet, 1, 0], ALLOWED, DENIED),
            (libc::SYS_socket, [libc::AF_INET6 as u32, 1, 0], ALLOWED, DENIED),
            (libc::SYS_socket, [netlink, 3, libc::NETLINK_ROUTE as u32], ALLOWED, DENIED),
            (libc::SYS_socket, [netlink, 3, libc::NETLINK_NETFILTER as u32], DENIED, DENIED),
            (libc::SYS_socket, [vsock, 1, 0], DENIED, DENIED),
        ];
        each(cases, |(call, arguments, expected, without_network)| {
            assert_eq!(run(&[&common], call, arguments), expected);
            assert_eq!(run(&[&common, &further], call, arguments), without_network);
        });
    }

    #[test]
    fn exactly_the_listed_calls_are_denied_whatever_their_arguments() {
        each([false, true], |permissions| {
            let rights = Rights { permissions, memory_files: true, ..Rights::default() };
            let filters = [SystemCalls::common(false), SystemCalls::further(rights)];
            each(0..1024, |call| {
                let is_listed = PERSISTENT_OBJECT_CALLS.contains(&call)
                    || KERNEL_CALLS.contains(&call)
                    || QUOTA_CALLS.contains(&call)
                    || call == libc::SYS_setns
                    || !permissions && PERMISSION_CALLS.contains(&call);
                let looks_at_arguments = [libc::SYS_clone, libc::SYS_personality, libc::SYS_socket].contains(&call);
                let has_other_answer = [libc::SYS_clone3, libc::SYS_io_setup, libc::SYS_fallocate].contains(&call);
                if !looks_at_arguments && !has_other_answer {
                    let answer = run(&[&filters[0], &filters[1]], call, [0; 3]);
                    let denied = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
                    assert_eq!(answer, if is_listed { denied } else { libc::SECCOMP_RET_ALLOW });
                }
            });
        });
    }
}
