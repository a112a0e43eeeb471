//! The only file with `unsafe`: what neither the standard library nor rustix offers behind a safe function.
//!
//! Each function takes and returns owned or borrowed descriptors, and says by which fact its unsafe call is sound.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use wasmtime::{Engine, Module};

/// Where a fork server finds its control socket.
const CONTROL: RawFd = 3;

/// Takes the control socket. It is `None` when there is no such descriptor, and at every call but the first.
pub fn take_control() -> Option<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    // SAFETY: F_GETFD reads a flag of a number that need not be a descriptor.
    let is_open = unsafe { libc::fcntl(CONTROL, libc::F_GETFD) } >= 0;
    if !is_open || TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    // SAFETY: it is open, it was opened by who started us, so nobody here owns it, and the swap lets only one pass.
    Some(unsafe { OwnedFd::from_raw_fd(CONTROL) })
}

/// On which side of a fork the caller is.
pub enum Forked {
    Server,
    Child,
}

/// Forks a child whose parent is our parent.
///
/// Must be called with one thread only: another one could hold a lock, malloc's for instance, that nobody would ever
/// release in the child.
pub fn fork_for_parent() -> io::Result<Forked> {
    // SAFETY: all-zero is a valid clone_args, it means a plain fork.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    // No exit signal: CLONE_PARENT takes over ours, and clone3(2) refuses one beside it.
    arguments.flags = libc::CLONE_PARENT as u64;
    // SAFETY: without CLONE_VM the child has a copy of everything, its stack too, and goes on where we do.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        _ => Ok(Forked::Server),
    }
}

/// Makes this process the one that orphaned descendants fall to.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: it changes an attribute of this process and takes no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }.into())
}

/// Has the kernel kill this process when its parent ends.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: it changes an attribute of this process and takes no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }.into())
}

/// Puts this process under a Landlock ruleset, for good.
pub fn restrict_by(ruleset: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: it takes a descriptor that is open as long as it is borrowed, and no pointer.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })
}

/// Ends the process without a further thought: no destructors, no handlers.
pub fn end(status: u8) -> ! {
    // SAFETY: _exit(2) has no requirements.
    unsafe { libc::_exit(status.into()) }
}

/// Maps a compiled module.
///
/// # Errors
/// Where it is not one, or was made by another version or for another processor.
pub fn map_artifact(engine: &Engine, artifact: &Path) -> wasmtime::Result<Module> {
    // SAFETY: an artifact is machine code, and is trusted as the program itself is: the worker keeps artifacts in a
    // folder that only it writes to, and replaces them by rename, so that a mapped one never changes.
    unsafe { Module::deserialize_file(engine, artifact) }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
