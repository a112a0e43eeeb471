//! Byte-range locks of fcntl(2). The pid file of an instance is one such file: byte 0 is the gateway's, byte 1 + N
//! worker N's.
//!
//! Unlike a flock(2), children do not inherit such a lock, and the kernel names the process that holds it. Beware:
//! closing any descriptor of a file gives up all locks that the process has on that file.

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::{Pid, check};

/// Locks one byte of `file` for this process, as long as it lives and keeps the file open. Returns false if another
/// process holds the lock.
pub fn try_lock(file: &File, byte: u64) -> io::Result<bool> {
    let range = byte_range(byte);
    // SAFETY: F_SETLK reads a flock.
    match check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const range) }) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The other process that holds the lock on one byte of `file`.
pub fn lock_holder(file: &File, byte: u64) -> io::Result<Option<Pid>> {
    let mut range = byte_range(byte);
    // SAFETY: F_GETLK reads and writes a flock.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut range) })?;
    // A read lock is not one of ours: any process that may read the file can take one.
    Ok((c_int::from(range.l_type) == libc::F_WRLCK).then_some(range.l_pid))
}

/// A write lock on one byte.
fn byte_range(byte: u64) -> libc::flock {
    // SAFETY: a flock is integers, for which all-zero is valid.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = libc::F_WRLCK as i16;
    range.l_whence = libc::SEEK_SET as i16;
    range.l_start = byte as libc::off_t;
    range.l_len = 1;
    range
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_names_its_holder_to_others_only() {
        let file = tempfile::tempfile().unwrap();
        assert!(try_lock(&file, 3).unwrap());
        assert_eq!(lock_holder(&file, 3).unwrap(), None);
    }
}
