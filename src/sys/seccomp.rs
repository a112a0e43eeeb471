//! The seccomp(2) filter of a function: system calls that it cannot make fail with EPERM.
//!
//! The filter is a BPF program that the kernel runs over a struct seccomp_data at each system call.

use std::ffi::c_long;

/// True where [`SystemCalls`] can restrict on this kind of machine.
pub const CAN_RESTRICT_SYSTEM_CALLS: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// The system calls that a function may make.
pub struct SystemCalls(Vec<libc::sock_filter>);

impl SystemCalls {
    /// Always forbids `PERSISTENT_OBJECT_CALLS`, and calls by another machine's numbers, which would bypass the filter.
    /// `cut_network` leaves Unix sockets only, `keep_permissions` forbids chmod and its like. Both forbid io_uring, whose
    /// operations no filter sees.
    pub fn new(cut_network: bool, keep_permissions: bool) -> SystemCalls {
        if !CAN_RESTRICT_SYSTEM_CALLS {
            return SystemCalls(Vec::new());
        }
        let mut forbidden = PERSISTENT_OBJECT_CALLS.to_vec();
        if keep_permissions {
            forbidden.extend(PERMISSION_CALLS);
        }
        if keep_permissions || cut_network {
            forbidden.push(libc::SYS_io_uring_setup);
        }
        let refuse = instruction(RETURN, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0);
        let mut filter = vec![
            instruction(LOAD, MACHINE, 0, 0),
            instruction(IF_EQUAL, AUDIT_ARCH, 1, 0),
            refuse,
            instruction(LOAD, NUMBER, 0, 0),
            instruction(IF_AT_LEAST, X32_BIT, 0, 1),
            refuse,
        ];
        for call in forbidden {
            filter.extend([instruction(IF_EQUAL, call as u32, 0, 1), refuse]);
        }
        if cut_network {
            filter.extend([
                instruction(IF_EQUAL, libc::SYS_socket as u32, 0, 3),
                instruction(LOAD, FIRST_ARGUMENT, 0, 0),
                instruction(IF_EQUAL, libc::AF_UNIX as u32, 1, 0),
                refuse,
            ]);
        }
        filter.push(instruction(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
        SystemCalls(filter)
    }

    pub(super) fn instructions(&self) -> &[libc::sock_filter] {
        &self.0
    }
}

/// Calls whose objects outlive their maker and belong to no file system: shared memory, queues, keys. A function could
/// leave them behind, or find those of another function of the same user.
const PERSISTENT_OBJECT_CALLS: [c_long; 7] = [
    libc::SYS_shmget,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// Calls that change who may use a file, which Landlock does not restrict (landlock(7), "Filesystem actions"). libc lacks
/// those above 450, whose numbers are the same on all machines: fchmodat2, setxattrat, removexattrat, file_setattr.
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
    469,
];

/// seccomp's number of this machine: linux/audit.h.
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;
#[cfg(not(target_arch = "aarch64"))]
const AUDIT_ARCH: u32 = 0xc000_003e;

/// The second calling convention of x86_64 sets this bit in its numbers.
const X32_BIT: u32 = 0x4000_0000;

/// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const MACHINE: u32 = 4;
/// The lower half of it: both machines are little-endian.
const FIRST_ARGUMENT: u32 = 16;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// A jump counts the instructions that it skips.
const fn instruction(code: u32, k: u32, jump_true: u8, jump_false: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: jump_true, jf: jump_false, k }
}
