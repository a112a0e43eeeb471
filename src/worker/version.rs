//! The version of a file at a path: it distinguishes a module, a program or a settings file from the one before it.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::sys;

/// A file that changes within this time may change again without a visible change of its times, for a reader that
/// counts in seconds, as PHP's opcache does.
const CLOCK_GRAIN: Duration = Duration::from_secs(2);

/// A file as it is now: its real path, device, inode, size, and the times of its last writing and its last change,
/// which includes a change of its permissions.
///
/// The path counts, since a release can be a hard link of the one before, and a script includes files relative to its
/// folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    path_hash: u64,
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    written: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    /// # Errors
    /// If the path does not lead to a regular file.
    pub fn of_file(path: &Path) -> io::Result<Version> {
        // Opened, so that the path and the rest are of the same file; without any right to it, so that the open never
        // blocks.
        let file = sys::refer_to(path, 0)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        Version::of_open_file(&file)
    }

    /// The version of a regular file that is open.
    pub fn of_open_file(file: &File) -> io::Result<Version> {
        let mut hasher = DefaultHasher::new();
        fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?.hash(&mut hasher);
        Ok(Version { path_hash: hasher.finish(), ..Version::of(&file.metadata()?) })
    }

    /// The version of the file or folder that a path leads to, without its real path; `None` if neither exists. Takes
    /// one system call instead of four.
    pub fn of_path(path: &Path) -> Option<Version> {
        fs::metadata(path).ok().map(|metadata| Version::of(&metadata))
    }

    /// The version of a file whose real path does not matter.
    pub fn of(metadata: &Metadata) -> Version {
        Version {
            path_hash: 0,
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// True if the file has changed so lately that a further change may not show in its version.
    pub fn is_young(&self) -> bool {
        let changed = Duration::new(self.changed.0.max(0) as u64, self.changed.1 as u32);
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + changed);
        age.is_ok_and(|age| age < CLOCK_GRAIN)
    }
}

/// Text without spaces, which can be part of a file's name.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Version { path_hash, device, inode, size, written, changed } = self;
        write!(f, "{path_hash:x}-{device:x}-{inode:x}-{size:x}-{:x}.{:x}-", written.0, written.1)?;
        write!(f, "{:x}.{:x}", changed.0, changed.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn content_permissions_and_the_folder_behind_a_link_change_the_version() {
        let folder = std::env::temp_dir().join(format!("faas-version-{}", std::process::id()));
        for release in ["1", "2"] {
            fs::create_dir_all(folder.join(release)).unwrap();
        }
        fs::write(folder.join("1/module"), "content").unwrap();
        symlink("1", folder.join("current")).unwrap();
        let module = folder.join("current/module");
        let first = Version::of_file(&module).unwrap();
        assert_eq!(Version::of_file(&folder.join("1/module")).unwrap(), first);
        assert!(first.is_young());
        fs::write(&module, "other content").unwrap();
        let second = Version::of_file(&module).unwrap();
        assert_ne!(first, second);
        // The same file under another path, as when a link is swapped.
        fs::hard_link(folder.join("1/module"), folder.join("2/module")).unwrap();
        let linked = Version::of_file(&module).unwrap();
        fs::remove_file(folder.join("current")).unwrap();
        symlink("2", folder.join("current")).unwrap();
        let swapped = Version::of_file(&module).unwrap();
        assert_ne!(linked, swapped);
        assert_ne!(linked.to_string(), swapped.to_string());
        assert!(Version::of_file(&folder).is_err() && Version::of_path(&folder).is_some());
        fs::remove_dir_all(folder).unwrap();
    }
}
