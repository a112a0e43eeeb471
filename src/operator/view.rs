//! The registry as the console reads it: by a private copy, like the gateway (registry/snapshot.rs), so that no writer
//! ever meets a lock of a reader.
//!
//! Each change of the registry's files makes a new copy. It has no name: it is open, and its files are unlinked.
//!
//! POSIX locks belong to a process: when it closes any descriptor of a file, it loses all its locks on that file. While
//! SQLite writes to the registry on one thread, a copy on another thread would release SQLite's lock, and two writers
//! could damage the file. Therefore either a writer or a reader holds the files ([`View::claim`]).

use std::fs;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use super::registry::Registry;
use super::{OperationError, Result, failed};
use crate::registry::snapshot::{Snapshot, Taken};
use crate::registry::stamps::Stamps;
use crate::registry::tables::Tables;
use crate::settings::Settings;

/// Time to wait for the files; a writer may wait 5 s for another program's lock.
const CLAIM_WAIT_MAX: Duration = Duration::from_secs(10);

pub(crate) struct View {
    db: PathBuf,
    copy: PathBuf,
    /// True while a thread has the registry's files. Guards the flag.
    is_claimed: Mutex<bool>,
    released: Condvar,
    /// Guards the newest copy. A reader takes it out, so that the lock is not held while it reads.
    newest: Mutex<Option<Copy>>,
}

struct Copy {
    /// The files' stamps before the copy; `None` where these may hide a second change.
    stamps: Option<Stamps>,
    registry: Registry,
}

/// The registry's files, for one thread.
pub(crate) struct Claim<'a>(&'a View);

impl View {
    pub fn new(settings: &Settings) -> View {
        View {
            db: settings.db.clone(),
            copy: settings.console_copy(),
            is_claimed: Mutex::default(),
            released: Condvar::new(),
            newest: Mutex::default(),
        }
    }

    /// Reads the registry as it is now.
    pub fn read<T>(&self, read: impl FnOnce(&Registry) -> Result<T>) -> Result<T> {
        let db = fs::canonicalize(&self.db).unwrap_or_else(|_| self.db.clone());
        let stamps = Stamps::of(&db, &db);
        let newest = self.lock(&self.newest).take().filter(|copy| copy.stamps.as_ref() == Some(&stamps));
        let copy = match newest {
            Some(copy) => copy,
            None => {
                let _claim = self.claim()?;
                let stamps = Stamps::of(&db, &db);
                let stamps = (!stamps.are_young(SystemTime::now())).then_some(stamps);
                Copy { stamps, registry: self.copy(&db)? }
            }
        };
        let result = read(&copy.registry);
        *self.lock(&self.newest) = Some(copy);
        result
    }

    /// Takes the registry's files for a writer.
    ///
    /// # Errors
    /// Where another thread holds them too long.
    pub fn claim(&self) -> Result<Claim<'_>> {
        let guard = self.lock(&self.is_claimed);
        let waited = self.released.wait_timeout_while(guard, CLAIM_WAIT_MAX, |is_claimed| *is_claimed);
        let (mut is_claimed, waited) = waited.expect("nothing panics under this lock");
        if waited.timed_out() {
            let seconds = CLAIM_WAIT_MAX.as_secs();
            return Err(OperationError::Failed(format!("another change has taken more than {seconds} s; try again")));
        }
        *is_claimed = true;
        Ok(Claim(self))
    }

    fn copy(&self, db: &std::path::Path) -> Result<Registry> {
        let step = format!("read the registry {}", self.db.display());
        // Dropping it removes the copy's files: files that SQLite has open stay readable, and no later copy changes
        // them.
        let mut snapshot = Snapshot::new(self.copy.clone());
        if snapshot.take(db).map_err(failed(&step))? == Taken::Busy {
            return Err(OperationError::Failed("the registry changes faster than it can be read; try again".into()));
        }
        let opened = Tables::open(snapshot.path()).and_then(Tables::into_connection);
        Ok(Registry::from_copy(opened.map_err(failed(&step))?, self.db.clone()))
    }

    fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        mutex.lock().expect("nothing panics under this lock")
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        *self.0.lock(&self.0.is_claimed) = false;
        self.0.released.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn each_change_is_read_and_no_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let settings = [("FAAS_DB", path("registry.db")), ("FAAS_RUN_DIR", path("run"))];
        let lookup = |name: &str| settings.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        let view = View::new(&Settings::from_lookup(lookup).unwrap());
        assert!(view.read(Registry::routes).is_err());
        let writer = Connection::open(path("registry.db")).unwrap();
        writer.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE functions (k, v, updated)").unwrap();
        for count in 0..3 {
            assert_eq!(view.read(Registry::routes).unwrap().len(), count);
            writer.execute("INSERT INTO functions VALUES (?1, '{}', 1)", [format!("GET:/{count}")]).unwrap();
        }
        assert_eq!(view.read(Registry::routes).unwrap().len(), 3);
        assert_eq!(fs::read_dir(path("run")).unwrap().count(), 0);
    }
}
