//! The files that functions may read: all that their user may read, except the run dir and the registry.
//!
//! Landlock knows no exceptions: it allows everything beneath an allowed path. So this allows all siblings along the
//! path to a hidden file: for `/srv/faas/run` all entries of `/` but `srv`, all of `/srv` but `faas`, all of
//! `/srv/faas` but `run`. That takes a microsecond or two for each entry, so the ruleset is kept until one of the
//! folders on the path changes.
//!
//! A running function cannot read a file that appears in such a folder meanwhile; the next one can.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use crate::limits::{FOLDER_TIME_GRAIN, READABLE_ENTRIES_MAX};
use crate::sandbox::protected::ProtectedPaths;
use crate::settings::Settings;
use crate::sys;

pub struct Readable {
    pub protected: ProtectedPaths,
    /// Guards the last ruleset. Held while a new one is made, so that other threads need not make it too.
    last: Mutex<Option<Arc<Ruleset>>>,
}

pub struct Ruleset {
    pub landlock: OwnedFd,
    /// The folders whose entries were listed, as they were then.
    listed: Vec<(PathBuf, Stamp)>,
    entries: usize,
    /// True if one of them had changed so shortly before that a further change could fall into the same tick of the
    /// clock.
    is_young: bool,
}

/// Device, inode, and the time of the last change in seconds and nanoseconds.
type Stamp = (u64, u64, i64, i64);

impl Readable {
    pub fn new(settings: &Settings) -> Readable {
        Readable { protected: ProtectedPaths::new(settings), last: Mutex::new(None) }
    }

    /// The ruleset for a function that starts now.
    pub fn ruleset(&self) -> io::Result<Arc<Ruleset>> {
        let mut last = self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(ruleset) = last.as_ref().filter(|ruleset| ruleset.is_current()) {
            return Ok(ruleset.clone());
        }
        let landlock = sys::landlock_readable(sys::landlock_version())?;
        let mut ruleset = Ruleset { landlock, listed: Vec::new(), entries: 0, is_young: false };
        ruleset.allow_beside(&self.protected.hidden, Path::new("/"))?;
        Ok(last.insert(Arc::new(ruleset)).clone())
    }
}

impl Ruleset {
    fn is_current(&self) -> bool {
        !self.is_young && self.listed.iter().all(|(folder, then)| stamp(folder).is_some_and(|(now, _)| now == *then))
    }

    /// Allows the entries of `folder`, except the hidden ones and the path to them; continues in the folders on that
    /// path.
    fn allow_beside(&mut self, hidden: &[PathBuf], folder: &Path) -> io::Result<()> {
        let Some((stamp, age_is_young)) = stamp(folder) else { return Ok(()) };
        self.listed.push((folder.to_path_buf(), stamp));
        self.is_young |= age_is_young;
        let entries = match fs::read_dir(folder) {
            Err(error) if is_exhausted(&error) => return Err(error),
            // Functions have no more rights than this process, so they can use nothing in a folder that it may not
            // list.
            entries => entries.into_iter().flatten().flatten(),
        };
        for entry in entries {
            let path = entry.path();
            self.entries += 1;
            if self.entries > READABLE_ENTRIES_MAX {
                let (folder, first) = (folder.display(), hidden[0].display());
                return Err(io::Error::other(format!("{folder} holds too much to hide {first}; set FAAS_RUN_DIR")));
            }
            if hidden.contains(&path) {
                continue;
            }
            if hidden.iter().any(|hidden| hidden.starts_with(&path)) {
                self.allow_beside(hidden, &path)?;
                continue;
            }
            match sys::allow_reading(&self.landlock, &path) {
                Err(error) if is_exhausted(&error) => return Err(error),
                // Gone meanwhile, or not accessible to this process.
                _ => {}
            }
        }
        Ok(())
    }
}

/// True if descriptors or memory have run out: an entry left out for that would be missing for the function.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// The stamp of a folder, and true if its last change is younger than the clock's grain.
fn stamp(folder: &Path) -> Option<(Stamp, bool)> {
    let metadata = fs::metadata(folder).ok()?;
    let is_young = match SystemTime::now().duration_since(metadata.modified().ok()?) {
        Ok(age) => age < FOLDER_TIME_GRAIN,
        Err(_) => true,
    };
    Some(((metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec()), is_young))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ruleset_is_kept_until_a_folder_on_the_way_changes() {
        if sys::landlock_version() == 0 {
            return;
        }
        let top = std::env::temp_dir().join(format!("faas-readable-{}", std::process::id()));
        fs::create_dir_all(top.join("run")).unwrap();
        let hidden = vec![top.join("run")];
        let build = || {
            let landlock = sys::landlock_readable(sys::landlock_version()).unwrap();
            let mut ruleset = Ruleset { landlock, listed: Vec::new(), entries: 0, is_young: false };
            // Not from the root on: other processes work in the folder of temporary files meanwhile.
            ruleset.allow_beside(&hidden, &top).unwrap();
            ruleset
        };
        assert!(build().is_young && !build().is_current());
        let last_year = SystemTime::now() - std::time::Duration::from_secs(365 * 86_400);
        fs::File::open(&top).unwrap().set_modified(last_year).unwrap();
        let ruleset = build();
        assert!(ruleset.is_current());
        fs::write(top.join("run/inside"), "").unwrap();
        assert!(ruleset.is_current());
        fs::write(top.join("beside"), "").unwrap();
        assert!(!ruleset.is_current());
        fs::remove_dir_all(top).unwrap();
    }
}
