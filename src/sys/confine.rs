//! Confinement of a function: the rights that its process gives up before its exec. All of it runs by the rules of
//! spawn.rs.
//!
//! Every confined process also dies with the thread that spawned it, gains no privileges by executing anything, and
//! dumps no core.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;
use super::limits::{lower_limit, lower_priority};
use super::process::Pid;
use super::seccomp::SystemCalls;
use super::spawn::{SpawnError, Step, try_step};

/// The bounds of a function's process.
pub struct Confinement<'a> {
    /// The program to execute, already open, since its path may lie in a folder that the new user cannot enter. It must
    /// be a binary, not a script.
    pub program_file: Option<BorrowedFd<'a>>,
    /// RLIMIT_DATA in bytes: writable private memory (setrlimit(2)).
    pub data_bytes_max: u64,
    pub open_files_max: u64,
    /// The user namespace to enter, whose processes the kernel counts by themselves (user_namespace.rs).
    pub namespace: Option<BorrowedFd<'a>>,
    /// Processes and threads of the function's user, in `namespace` or else all together; root is exempt (setrlimit(2)).
    pub processes_max: Option<u64>,
    /// If true, it gives way to threads of ordinary priority ([`lower_priority`]).
    pub gives_way: bool,
    /// User and group to become, without any other group. Without one the process keeps its user, but no privilege.
    pub user: Option<(u32, u32)>,
    /// Landlock rulesets (landlock.rs). Each may forbid, and none can allow what another forbids.
    pub landlock: [Option<BorrowedFd<'a>>; 2],
    /// System calls that it gives up beyond those of this process ([`restrict_own_system_calls`]).
    pub system_calls: &'a SystemCalls,
    /// If true, orphans among its descendants become its children (sandbox/orphans.rs); otherwise they become ours.
    pub collects_orphans: bool,
}

/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h: 64 capabilities in two parts.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// The user and its namespace, Landlock and seccomp. Without privileges the last two demand no_new_privs.
pub(super) fn restrict_user_files_and_system_calls(confinement: &Confinement<'_>) -> Step<()> {
    offer_to_the_oom_killer();
    if let Some((user, group)) = confinement.user {
        try_step!("leave our groups", libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()));
        try_step!("change its group", libc::syscall(libc::SYS_setresgid, group, group, group));
        try_step!("change its user", libc::syscall(libc::SYS_setresuid, user, user, user));
    }
    if let Some(namespace) = confinement.namespace {
        // It gets all capabilities in there, which restrict_limits clears.
        try_step!("enter a user namespace", libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWUSER));
    }
    try_step!("forbid new privileges", libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    for ruleset in confinement.landlock.iter().flatten() {
        let call = libc::SYS_landlock_restrict_self;
        try_step!("restrict its files", libc::syscall(call, ruleset.as_raw_fd(), 0u32));
    }
    confinement.system_calls.restrict_self().or(Err("restrict its system calls"))
}

/// Makes the process the first that the kernel ends when the machine runs out of memory (proc(5), oom_score_adj).
/// Without /proc nothing changes.
fn offer_to_the_oom_killer() {
    let (path, most) = (c"/proc/self/oom_score_adj", b"1000");
    // SAFETY: open reads a C string.
    let file = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    if file >= 0 {
        // SAFETY: the kernel reads as many bytes as there are.
        unsafe { libc::write(file, most.as_ptr().cast(), most.len()) };
        // SAFETY: the descriptor was opened here, and nothing else knows it.
        unsafe { libc::close(file) };
    }
}

/// Limits, priority, capabilities, and the death signal.
pub(super) fn restrict_limits(confinement: &Confinement<'_>, parent: Pid) -> Step<()> {
    lower_limit(libc::RLIMIT_DATA, confinement.data_bytes_max).or(Err("limit its memory"))?;
    lower_limit(libc::RLIMIT_NOFILE, confinement.open_files_max).or(Err("limit its open files"))?;
    lower_limit(libc::RLIMIT_CORE, 0).or(Err("forbid core files"))?;
    // Where our user may raise a priority, a function would run before all else, this worker among it.
    for limit in [libc::RLIMIT_RTPRIO, libc::RLIMIT_NICE] {
        lower_limit(limit, 0).or(Err("forbid a higher priority"))?;
    }
    if confinement.gives_way {
        lower_priority();
    }
    // After the change of user: before it, a user that is over the limit already would make the exec fail.
    if let Some(processes_max) = confinement.processes_max {
        lower_limit(libc::RLIMIT_NPROC, processes_max).or(Err("limit its processes"))?;
    }
    give_up_capabilities()?;
    if confinement.collects_orphans {
        try_step!("make it a subreaper", libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
    }
    // After the change of user, which clears it.
    try_step!("tie its life to ours", libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0));
    // A parent that died before the prctl sends no signal.
    // SAFETY: getppid takes nothing and cannot fail.
    if unsafe { libc::getppid() } != parent {
        return Err("find its parent alive");
    }
    Ok(())
}

/// Clears all capabilities. With no_new_privs none comes back.
fn give_up_capabilities() -> Step<()> {
    let header = [CAPABILITY_VERSION, 0];
    let none = [0u32; 6];
    try_step!("give up capabilities", libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()));
    Ok(())
}

/// Empties the calling thread's capability bounding set, and so that of all threads and processes that it starts from now
/// on: no exec of theirs can give a capability (capabilities(7)). The thread keeps those that it has. Takes CAP_SETPCAP.
pub fn empty_bounding_set() -> io::Result<()> {
    for capability in 0.. {
        // SAFETY: this prctl takes integers only.
        match check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }) {
            Ok(_) => {}
            // The kernel has no capability of this number, nor of a higher one.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Restricts the calling thread for good, and the threads and processes that it starts from now on.
pub fn restrict_own_system_calls(system_calls: &SystemCalls) -> io::Result<()> {
    // SAFETY: this prctl takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    system_calls.restrict_self()
}

/// Confines the calling program, one of ours that strangers can talk to: it keeps its user, but loses all capabilities,
/// gains none by executing anything, dumps no core, has at most `data_bytes_max` of memory (RLIMIT_DATA), and dies with
/// its parent. To be called while this process has one thread only: capabilities belong to threads.
///
/// # Errors
/// Names the step that the kernel refused.
pub fn confine_own_program(data_bytes_max: u64) -> Result<(), SpawnError> {
    confine_self(data_bytes_max).map_err(|step| SpawnError { step, cause: io::Error::last_os_error() })
}

fn confine_self(data_bytes_max: u64) -> Step<()> {
    try_step!("forbid new privileges", libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    try_step!("tie its life to its parent's", libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0));
    give_up_capabilities()?;
    lower_limit(libc::RLIMIT_CORE, 0).or(Err("forbid core files"))?;
    lower_limit(libc::RLIMIT_DATA, data_bytes_max).or(Err("limit its memory"))
}
