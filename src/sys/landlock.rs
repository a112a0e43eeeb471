//! Landlock rulesets (landlock(7)): which files, sockets and processes a confined process can reach.
//!
//! libc has neither the calls nor the structs yet; the numbers here are those of linux/landlock.h. A kernel knows the
//! interface up to a version, and a ruleset leaves out what its version lacks.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::{check, refer_to};

const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_FILE: u64 = 1 << 8;
const TRUNCATE: u64 = 1 << 14;
/// Link and rename from folder to folder, since version 2. A ruleset that does not handle it forbids it.
const REFER: u64 = 1 << 13;
/// Remove, make and rename in a folder: bits 4 (REMOVE_DIR) to 13 (REFER).
const IN_FOLDER: u64 = ((1 << 14) - 1) & !((1 << 4) - 1);
const BIND_AND_CONNECT_TCP: u64 = 0b11;
/// Abstract Unix sockets and signals stay within the confined processes.
const SCOPES: u64 = 0b11;

/// The version of Landlock that the kernel has; 0 if it has none or has it switched off.
pub fn landlock_version() -> u32 {
    const VERSION_ONLY: u32 = 1;
    let call = libc::SYS_landlock_create_ruleset;
    // SAFETY: with this flag the kernel reads nothing through the pointer.
    let version = unsafe { libc::syscall(call, std::ptr::null::<c_void>(), 0, VERSION_ONLY) };
    version.max(0) as u32
}

/// A ruleset that restricts writing, and contact with other processes.
///
/// - Files: make, remove and rename only beneath `folders`; write only there and to `files`; in `flat_folder` make, write
///   and remove plain files. Reading stays as it is.
/// - Signals and abstract Unix sockets reach only the confined processes.
/// - With `cut_network`, TCP neither binds nor connects.
///
/// `version` is [`landlock_version`]'s. Truncation needs version 3, TCP 4, signals 6.
pub fn landlock_ruleset(
    version: u32,
    folders: &[BorrowedFd<'_>],
    flat_folder: Option<BorrowedFd<'_>>,
    files: &[BorrowedFd<'_>],
    cut_network: bool,
) -> io::Result<OwnedFd> {
    let refer = if version >= 2 { 0 } else { REFER };
    let truncate = if version >= 3 { TRUNCATE } else { 0 };
    let for_file = WRITE_FILE | truncate;
    let for_folder = (for_file | IN_FOLDER) & !refer;
    let attributes = [for_folder, if cut_network { BIND_AND_CONNECT_TCP } else { 0 }, SCOPES];
    let known = match version {
        0..=3 => 1,
        4..=5 => 2,
        _ => 3,
    };
    let ruleset = create_ruleset(&attributes[..known])?;
    let for_flat_folder = for_file | REMOVE_FILE | MAKE_FILE;
    let folders = folders.iter().map(|folder| (*folder, for_folder));
    let flat_folder = flat_folder.map(|folder| (folder, for_flat_folder));
    for (object, rights) in folders.chain(flat_folder).chain(files.iter().map(|file| (*file, for_file))) {
        allow_beneath(&ruleset, object, rights)?;
    }
    Ok(ruleset)
}

/// A ruleset under which files can be opened for reading only beneath what [`allow_reading`] adds to it. It does not
/// restrict executing files, listing folders, or moving files from folder to folder.
pub fn landlock_readable(version: u32) -> io::Result<OwnedFd> {
    let refer = if version >= 2 { REFER } else { 0 };
    let ruleset = create_ruleset(&[READ_FILE | refer])?;
    if refer != 0 {
        // The other ruleset decides where a file may go. Landlock itself forbids to move a file to a folder in which it
        // becomes readable.
        allow_beneath(&ruleset, refer_to(Path::new("/"), 0)?.as_fd(), refer)?;
    }
    Ok(ruleset)
}

/// Makes `path`, and all beneath it, readable under a ruleset of [`landlock_readable`]. Skips a symbolic link: only its
/// target counts.
pub fn allow_reading(ruleset: &OwnedFd, path: &Path) -> io::Result<()> {
    let object = refer_to(path, libc::O_NOFOLLOW)?;
    if object.metadata()?.is_symlink() {
        return Ok(());
    }
    allow_beneath(ruleset, object.as_fd(), READ_FILE)
}

/// `attributes` is the beginning of struct landlock_ruleset_attr that the kernel's version knows.
fn create_ruleset(attributes: &[u64]) -> io::Result<OwnedFd> {
    let (call, bytes) = (libc::SYS_landlock_create_ruleset, size_of_val(attributes));
    // SAFETY: the kernel reads `bytes` bytes, the size of the slice.
    let fd = check(unsafe { libc::syscall(call, attributes.as_ptr(), bytes, 0u32) } as c_int)?;
    // SAFETY: the kernel has just opened this descriptor for us, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn allow_beneath(ruleset: &OwnedFd, object: BorrowedFd<'_>, rights: u64) -> io::Result<()> {
    const PATH_BENEATH: c_int = 1;
    // struct landlock_path_beneath_attr is packed: the rights, then the descriptor.
    let mut rule = [0u8; 12];
    rule[..8].copy_from_slice(&rights.to_ne_bytes());
    rule[8..].copy_from_slice(&object.as_raw_fd().to_ne_bytes());
    let call = libc::SYS_landlock_add_rule;
    // SAFETY: the kernel reads twelve bytes, the size of the rule.
    let added = unsafe { libc::syscall(call, ruleset.as_raw_fd(), PATH_BENEATH, rule.as_ptr(), 0u32) };
    check(added as c_int).map(drop)
}
