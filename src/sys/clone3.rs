//! clone3(2): vfork into a control group. clone(2), as glibc offers it, has no room for the flag, and glibc offers no
//! clone3, because the child returns on another stack. So this calls the kernel by an instruction of its own.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::process::Pid;

/// The child's life, which must not return.
pub(super) type ChildMain = extern "C" fn(*mut c_void) -> c_int;

/// From linux/sched.h.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// True if the kernel, and the filter of a container around us, let this process call clone3.
pub fn has_clone3() -> bool {
    // SAFETY: a structure of no bytes is too small for the kernel, which reads none of it and makes no process.
    let made = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<c_void>(), 0) };
    made < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) && IS_WRITTEN
}

/// True on the machines for which [`call`] is written.
const IS_WRITTEN: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// Like clone(2) with `flags`, CLONE_VM and CLONE_VFORK among them, but the child is born in the control group whose
/// folder is `group`. It runs `main` with `argument` on `stack`, whose length is a multiple of 16.
///
/// # Safety
/// `stack` is aligned to 16, only the child uses it, and `main` does not return.
pub(super) unsafe fn vfork_into(
    group: BorrowedFd<'_>,
    flags: c_int,
    stack: (*mut u8, usize),
    main: ChildMain,
    argument: *mut c_void,
) -> io::Result<(Pid, OwnedFd)> {
    let mut pidfd: c_int = -1;
    // SAFETY: clone_args is integers, for which all-zero is valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags as u64 | CLONE_INTO_CGROUP;
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.stack = stack.0 as u64;
    arguments.stack_size = stack.1 as u64;
    arguments.cgroup = group.as_raw_fd() as u64;
    // SAFETY: the caller keeps the conditions, and the pidfd is written while this frame lives.
    let result = unsafe { call(&arguments, main, argument) };
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result as i32));
    }
    // SAFETY: clone3 has succeeded, so the kernel has opened this descriptor for us, close-on-exec.
    Ok((result as Pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// The child's id, or the negative errno. The parent returns with all registers as they were but those named; the child
/// has registers of its own.
#[cfg(target_arch = "x86_64")]
unsafe fn call(arguments: &libc::clone_args, main: ChildMain, argument: *mut c_void) -> isize {
    let mut result = libc::SYS_clone3 as isize;
    // SAFETY: the child goes on on its own stack, in `main`, and never comes to the second label. The parent waits for
    // its exec or end (CLONE_VFORK), as the caller demands.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") result,
            in("rdi") arguments,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") argument,
            in("r13") main,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn call(arguments: &libc::clone_args, main: ChildMain, argument: *mut c_void) -> isize {
    let mut result = &raw const *arguments as isize;
    // SAFETY: as above.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x9",
            "blr x10",
            "brk 1",
            "2:",
            inlateout("x0") result,
            in("x1") size_of::<libc::clone_args>(),
            in("x8") libc::SYS_clone3,
            in("x9") argument,
            in("x10") main,
        );
    }
    result
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn call(_: &libc::clone_args, _: ChildMain, _: *mut c_void) -> isize {
    -(libc::ENOSYS as isize)
}
