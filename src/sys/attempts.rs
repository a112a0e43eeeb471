//! Attempts at actions that a function must not be able to do, from inside of the sandbox (sandbox/probe.rs).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use super::check;
use super::process::Pid;

/// Makes a namespace in which this process would have all capabilities.
pub fn try_user_namespace() -> io::Result<()> {
    // SAFETY: unshare takes an integer.
    check(unsafe { libc::unshare(libc::CLONE_NEWUSER) }).map(drop)
}

/// Makes a file that lies in memory only.
pub fn try_memory_file() -> io::Result<()> {
    // SAFETY: memfd_create reads a C string.
    let fd = check(unsafe { libc::memfd_create(c"probe".as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: the kernel has just opened this descriptor for us.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

/// Makes a socket of IPv4.
pub fn try_internet_socket() -> io::Result<()> {
    // SAFETY: socket takes integers.
    let fd = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel has just opened this descriptor for us.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

/// Checks that this process may signal another one; sends nothing.
pub fn try_signal(pid: Pid) -> io::Result<()> {
    // SAFETY: kill takes integers.
    check(unsafe { libc::kill(pid, 0) }).map(drop)
}
