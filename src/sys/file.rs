//! Descriptors that std cannot open by itself: a reference without any access.

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Refers to a file or folder without access to its contents (O_PATH). Opening it needs no permission on it and never
/// blocks. `flags` are those of open(2): with O_NOFOLLOW a symbolic link stands for itself, O_DIRECTORY demands a folder.
pub fn refer_to(path: &Path, flags: c_int) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | flags).open(path)
}
