//! Notices of changes to the files of one folder: inotify(7).

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::check;

/// The changes that are told: a file is written to, truncated, made, removed, or renamed from or to here.
const CHANGES: u32 = libc::IN_MODIFY | libc::IN_CREATE | libc::IN_DELETE | libc::IN_MOVED_FROM | libc::IN_MOVED_TO;

/// Bytes of a notice before its name: watch, mask, cookie and length of the name, four bytes each.
const HEAD_BYTES: usize = 16;

/// A folder under watch. It stays the same folder when its path leads elsewhere.
pub struct FolderWatch(OwnedFd);

impl FolderWatch {
    /// # Errors
    /// If there is no such folder, or the user has as many watches as the kernel grants (fs.inotify.max_user_instances).
    pub fn new(folder: &Path) -> io::Result<FolderWatch> {
        let path = CString::new(folder.as_os_str().as_bytes())?;
        // SAFETY: inotify_init1 takes an integer.
        let fd = check(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) })?;
        // SAFETY: inotify_init1 has just returned this descriptor, so it is open and has no other owner.
        let watch = FolderWatch(unsafe { OwnedFd::from_raw_fd(fd) });
        // SAFETY: the path is a string that ends with a NUL, and outlives the call.
        check(unsafe { libc::inotify_add_watch(fd, path.as_ptr(), CHANGES | libc::IN_ONLYDIR) })?;
        Ok(watch)
    }

    /// Readable when there are notices.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Takes all notices that have come. True if one is of a file with a name that `is_wanted`, or if some were lost.
    pub fn take(&self, is_wanted: impl Fn(&OsStr) -> bool) -> bool {
        let mut has_found = false;
        let mut bytes = [0u8; 4096];
        loop {
            // SAFETY: the kernel writes at most as many bytes as the array has.
            let count = unsafe { libc::read(self.0.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len()) };
            // The only error is that no notice is left.
            let Ok(count @ 1..) = usize::try_from(count) else { return has_found };
            let mut rest = &bytes[..count];
            while let Some((head, behind)) = rest.split_first_chunk::<HEAD_BYTES>() {
                let number = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
                let (name, next) = behind.split_at((number(12) as usize).min(behind.len()));
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                has_found |= number(4) & libc::IN_Q_OVERFLOW != 0 || is_wanted(OsStr::from_bytes(name));
                rest = next;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn tells_of_changes_by_the_name_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("old"), "").unwrap();
        let watch = FolderWatch::new(folder.path()).unwrap();
        let has = |name: &str| watch.take(|found| found == name);
        assert!(!has("old"));
        fs::write(path("old"), "more").unwrap();
        assert!(has("old") && !has("old"));
        for number in 0..200 {
            fs::write(path(&format!("another-{number}")), "").unwrap();
        }
        fs::rename(path("another-7"), path("new")).unwrap();
        assert!(has("new"), "it is behind more notices than one read takes");
        fs::remove_file(path("new")).unwrap();
        assert!(!has("old"));
        assert!(FolderWatch::new(&path("none")).is_err() && FolderWatch::new(&path("old")).is_err());
    }
}
