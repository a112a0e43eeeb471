//! Tells when to read the registry again, from the file system's facts about its files, without opening one.
//!
//! Two equal stamps mean that nothing has changed, with one exception. Times have a grain, up to 10 ms in some kernels,
//! and a second change within the same grain does not show. So a stamp that was younger than [`TIME_GRAIN`] when it was
//! taken proves nothing, and the next look reads again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::files::{JOURNAL, WAL, with_suffix};

/// A file time younger than this may hide a second change. Twice the coarsest grain.
const TIME_GRAIN: Duration = Duration::from_millis(20);

/// The database, its -wal and its -journal; `None` for a file that does not exist.
#[derive(Debug, PartialEq, Eq)]
pub struct Stamps([Option<Stamp>; 3]);

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds of the last write (mtime), which `cp -p` and `touch` can set to any value.
    modified: (i64, i64),
    /// Seconds and nanoseconds of the last write or change of the inode (ctime), which no program can set.
    changed: (i64, i64),
}

impl Stamps {
    /// `real_db` is the path of `db` without symbolic links: SQLite puts a -wal beside the target of a link.
    pub fn of(db: &Path, real_db: &Path) -> Stamps {
        let log = |suffix| Stamp::of(&with_suffix(real_db, suffix));
        Stamps([Stamp::of(db), log(WAL), log(JOURNAL)])
    }

    pub fn are_young(&self, now: SystemTime) -> bool {
        self.0.iter().flatten().any(|stamp| stamp.is_young(now))
    }
}

impl Stamp {
    /// `None` for a file that does not exist.
    pub fn of(path: &Path) -> Option<Stamp> {
        let file = fs::metadata(path).ok()?;
        Some(Stamp {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }

    pub fn is_same_file(&self, other: &Stamp) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// True while a second change could show the same stamp. A time far in the future does not keep the sync reading
    /// until then: a user has set it, or the clock was set back.
    pub fn is_young(&self, now: SystemTime) -> bool {
        [self.modified, self.changed].iter().any(|&(seconds, nanoseconds)| {
            let at = UNIX_EPOCH + Duration::new(seconds.max(0) as u64, nanoseconds as u32);
            now.duration_since(at).unwrap_or_else(|ahead| ahead.duration()) < TIME_GRAIN
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_young_for_one_grain() {
        let stamps =
            |modified, changed| Stamps([None, Some(Stamp { device: 1, inode: 1, size: 1, modified, changed }), None]);
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        assert!(stamps((100, 0), (50, 0)).are_young(at(100_019)));
        assert!(!stamps((100, 0), (50, 0)).are_young(at(100_020)));
        assert!(stamps((50, 0), (100, 0)).are_young(at(100_019)), "after cp -p, which sets an old mtime");
        assert!(stamps((900, 0), (100, 0)).are_young(at(100_019)), "after touch with a date in the future");
        assert!(!stamps((100, 0), (100, 0)).are_young(at(50_000)), "after the clock was set back");
        assert!(!Stamps([None, None, None]).are_young(at(0)));
    }
}
