//! Two kinds of descriptors that std cannot open by itself: a file in memory, and a reference without any access.

use std::ffi::{CStr, c_int};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::check;

/// A file that exists in memory only, as long as a process has it open.
pub fn memory_file(name: &CStr) -> io::Result<File> {
    // SAFETY: the kernel reads a C string.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: memfd_create has just returned this descriptor, so it is open and has no other owner.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Refers to a file or folder without access to its contents (O_PATH). Opening it needs no permission on it and never
/// blocks. `flags` are those of open(2): with O_NOFOLLOW a symbolic link stands for itself, O_DIRECTORY demands a folder.
pub fn refer_to(path: &Path, flags: c_int) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | flags).open(path)
}
