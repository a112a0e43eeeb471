//! Files, as far as std does not go: permissions, a reference without any access, a regular file and nothing else, a
//! mount option, an attribute, another file as stdout.

use std::ffi::{CStr, CString, c_int};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::check;

/// True if programs cannot be started from the file system of `path` (mount option noexec).
pub fn is_noexec(path: &Path) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut found = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the kernel reads a C string, and writes the struct that it is given.
    check(unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) })?;
    // SAFETY: statvfs has succeeded, so the struct is filled.
    let found = unsafe { found.assume_init() };
    Ok(found.f_flag & libc::ST_NOEXEC != 0)
}

/// True if a file's contents lie in memory: on a tmpfs, in a file of memfd_create(2), or in a shared mapping.
pub fn is_in_memory(path: &Path) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut found = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the kernel reads a C string, and writes the struct that it is given.
    check(unsafe { libc::statfs(path.as_ptr(), found.as_mut_ptr()) })?;
    // SAFETY: statfs has succeeded, so the struct is filled.
    let found = unsafe { found.assume_init() };
    Ok(found.f_type == libc::TMPFS_MAGIC)
}

/// True if this process may read (4), write (2) or execute (1) the file at `path`: `what` is a sum of these.
pub fn may_access(path: &Path, what: u32) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: the kernel reads a C string; the other arguments are integers.
    check(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), what as c_int, libc::AT_EACCESS) }).is_ok()
}

/// Refers to a file or folder without access to its contents (O_PATH). Opening it needs no permission on it and never
/// blocks. `flags` are those of open(2): with O_NOFOLLOW a symbolic link stands for itself, O_DIRECTORY demands a
/// folder.
pub fn refer_to(path: &Path, flags: c_int) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | flags).open(path)
}

/// Opens a regular file for reading, and nothing that may have taken its place: to open a pipe is to wait for its writer,
/// and to open a device can have effects.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let found = refer_to(path, 0)?;
    if !found.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

/// The value of an extended attribute (xattr(7)), of 64 bytes at the most; `None` without it, or without the right to
/// read it.
pub fn attribute(path: &Path, name: &CStr) -> Option<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut value = vec![0; 64];
    // SAFETY: getxattr reads two C strings, and writes as many bytes as there are.
    let count = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(count).ok()?);
    Some(value)
}

/// Makes `file` this process's stdout, and also its stderr if `is_stderr_too` is set.
pub fn replace_output(file: BorrowedFd<'_>, is_stderr_too: bool) -> io::Result<()> {
    let streams = if is_stderr_too { &[libc::STDOUT_FILENO, libc::STDERR_FILENO][..] } else { &[libc::STDOUT_FILENO] };
    for stream in streams {
        // SAFETY: dup2 takes two integers. Nothing here owns 1 and 2, so no owner closes what they become.
        check(unsafe { libc::dup2(file.as_raw_fd(), *stream) })?;
    }
    Ok(())
}
