//! The only file that knows SQLite: it carries the registry's rows into the map of routes.
//!
//! [`Sync::look`] runs every 50 ms. It asks the file system whether the registry moved; if it did, it reads the table,
//! parses the rows whose text changed, and swaps the map once, so that all rows of a transaction come into force
//! together. Whatever goes wrong (a file that is missing, damaged, in the middle of being copied; a row with a fault)
//! keeps the last good version in service, is said once, and is mended by the first look that finds it right.
//!
//! # How it reads, and why no writer ever notices
//!
//! A plain `sqlite3` program does not wait for a lock: whatever lock another program holds at that moment makes its
//! INSERT fail with "database is locked". A SQLite reader does take locks, also in WAL mode: while it recovers a -wal that
//! a killed program left, and while the last writer wants to close. So the registry itself is never opened with SQLite.
//! Its files are read as plain bytes, without any lock, and SQLite is given a private copy of them:
//!
//! 1. Read the database, then its -wal, then its -journal. A file that is not there counts as empty.
//! 2. Read all of them a second time. Equal bytes mean that in the moment between the two readings the files had just
//!    these bytes: no clock and no file time is needed to know it. Of the -wal only the part read at first must be equal.
//!    It grows at its end, and its first part is a whole state by itself: it was read after the database, so it has every
//!    page that a checkpoint may have written there.
//! 3. Unequal bytes mean that a writer was at work: try again, a few times now, else in the next look.
//!
//! Such a picture is what a power failure at that moment would have left on the disk, and SQLite promises to make the
//! last committed state of that. So the copy is opened, SQLite replays its -wal or rolls its -journal back as need be, and
//! one SELECT reads the table. Uncommitted work is never seen, a transaction is seen whole or not at all, and what a
//! writer killed with SIGKILL left behind is read as if it had been mended. It works where the gateway may not write, it
//! works in rollback mode, and the gateway leaves no -wal or -shm beside the registry.
//!
//! # When it reads
//!
//! Each look compares device, inode, size and times of the three files with those before the last reading. Times have a
//! grain (up to 10 ms in some kernels): a second change in the same grain would not show. So as long as one of them is
//! younger than 100 ms, the next look reads again.
//!
//! The C original asked for `updated > last_sync` every 5 s: deletes never arrived, nor did edits within one second.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use crate::error::{Error, Result};
use crate::gateway::config_loader;
use crate::gateway::kv::{Kv, Route, Routes};
use crate::limits;
use crate::settings::Settings;

/// What SQLite appends to the name of a database for its write-ahead log and for its rollback journal.
const WAL: &str = "-wal";
const JOURNAL: &str = "-journal";

/// What `gateway --init` and `sqlite3 faas_meta.db < init.sql` run.
const INIT_SQL: &str = include_str!("../../init.sql");

/// Makes the registry from init.sql where there is no file of that name. It is made under another name and linked to
/// its own when it is complete, so nobody sees half of it, and a registry that somebody makes meanwhile is left alone.
pub fn create_registry(db: &Path) -> Result<()> {
    if db.exists() {
        return Ok(());
    }
    let unfinished = with_suffix(db, &format!(".{}.new", std::process::id()));
    remove_database(&unfinished);
    let fill = || {
        let connection = Connection::open(&unfinished)?;
        connection.execute_batch(INIT_SQL)?;
        connection.close().map_err(|(_, cause)| cause)
    };
    let made = fill().map_err(|cause| cause.to_string()).and_then(|()| {
        if !db.exists() {
            remove_leftovers(db); // A -wal of a database that is gone would be taken for ours.
        }
        match fs::hard_link(&unfinished, db) {
            Err(cause) if cause.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(_) if !db.exists() => fs::rename(&unfinished, db).map_err(|cause| cause.to_string()), // has no links
            result => result.map_err(|cause| cause.to_string()),
        }
    });
    remove_database(&unfinished);
    made.map_err(|cause| Error::Registry { path: db.to_path_buf(), cause })
}

/// The registry's reader. One for each gateway: its private copy lies in the run dir.
pub struct Sync {
    db: PathBuf,
    module_root: PathBuf,
    copy: PathBuf,
    kv: Arc<Kv>,
    /// The registry's rows as of the last reading, by key.
    rows: HashMap<String, Row>,
    /// Readings so far; a row that the newest one did not see is gone.
    readings: u64,
    /// The files before the last reading. `None` asks for another reading at once.
    seen: Option<Stamps>,
    /// When to try again although nothing moved.
    retry_at: Option<Instant>,
    trouble: Trouble,
}

/// A row, good or not.
struct Row {
    /// Its descriptor, to see whether it changed.
    text: String,
    /// What is in service for it: its newest version without fault, else the fault; `None` where the key is no route.
    route: Option<Arc<Route>>,
    inflight: Arc<AtomicU64>,
    /// The newest reading that saw it.
    reading: u64,
}

/// A row whose text is not that of the last reading: key and descriptor.
type Changed = (String, String);

impl Sync {
    pub fn new(settings: &Settings, kv: Arc<Kv>) -> Sync {
        Sync {
            db: settings.db.clone(),
            module_root: settings.module_root.clone(),
            copy: settings.run_dir.join("registry.copy"),
            kv,
            rows: HashMap::new(),
            readings: 0,
            seen: None,
            retry_at: None,
            trouble: Trouble::default(),
        }
    }

    /// The body of the thread: looks until `shutdown` has a message or no sender any more.
    pub fn run(mut self, shutdown: &Receiver<()>) {
        while shutdown.recv_timeout(limits::SYNC_PERIOD) == Err(RecvTimeoutError::Timeout) {
            self.look();
        }
    }

    /// One look: reads the registry if it moved, and says whether it has read it. The first one loads it, so the gateway
    /// calls it once before it listens.
    pub fn look(&mut self) -> bool {
        let db = fs::canonicalize(&self.db).unwrap_or_else(|_| self.db.clone()); // SQLite puts a -wal beside the target
        let stamps = Stamps::of(&db);
        let now = Instant::now();
        if self.seen.as_ref() == Some(&stamps) && self.retry_at.is_none_or(|at| now < at) {
            return false;
        }
        self.seen = (!stamps.are_young(SystemTime::now())).then_some(stamps);
        self.retry_at = None;
        let fault = match self.read(&db) {
            Ok(Some(changed)) => {
                self.take_over(changed);
                None
            }
            Ok(None) => {
                self.seen = None;
                Some("it changes faster than it can be read".to_string())
            }
            Err(fault) => {
                self.retry_at = Some(now + limits::SYNC_RETRY);
                Some(fault)
            }
        };
        let has_read = fault.is_none();
        // At the start nothing is in service, so there the fault is worth a line at once.
        let patience = if self.kv.is_loaded() { limits::SYNC_PATIENCE } else { Duration::ZERO };
        if let Some(line) = self.trouble.note(fault, now, patience) {
            crate::log!("registry {}: {line}; {} routes are in service", self.db.display(), self.kv.len());
        }
        has_read
    }

    /// The rows that changed; `None` where writers were faster; else the fault.
    fn read(&mut self, db: &Path) -> std::result::Result<Option<Vec<Changed>>, String> {
        let Some(picture) = Picture::take(db).map_err(|cause| cause.to_string())? else { return Ok(None) };
        let copied = picture.write_to(&self.copy);
        drop(picture);
        let rows = copied
            .map_err(|cause| format!("could not write its copy {}: {cause}", self.copy.display()))
            .and_then(|()| self.read_copy().map_err(|cause| cause.to_string()));
        remove_database(&self.copy);
        rows.map(Some)
    }

    /// Reads the table from the copy and marks the rows that are still there. Nothing else changes here, since the
    /// reading may yet fail at its last row.
    fn read_copy(&mut self) -> std::result::Result<Vec<Changed>, Box<dyn std::error::Error>> {
        self.readings += 1;
        let connection = open_copy(&self.copy)?;
        let mut select = connection.prepare("SELECT k, v FROM functions LIMIT ?1")?;
        let mut cursor = select.query([limits::ROUTES_MAX + 1])?;
        let (mut changed, mut count) = (Vec::new(), 0);
        while let Some(row) = cursor.next()? {
            count += 1;
            let key = clipped(row.get_ref(0)?, limits::ROUTE_KEY_BYTES_MAX);
            let text = clipped(row.get_ref(1)?, limits::DESCRIPTOR_BYTES_MAX);
            match self.rows.get_mut(key) {
                // A table that somebody made without a primary key can hold a key twice: one of the rows counts.
                Some(known) if known.reading == self.readings => {}
                Some(known) if known.text == text => known.reading = self.readings,
                _ => changed.push((key.to_string(), text.to_string())),
            }
        }
        if count > limits::ROUTES_MAX {
            return Err(format!("it has more than {} rows", limits::ROUTES_MAX).into());
        }
        Ok(changed)
    }

    /// Parses what changed, forgets what is gone, and brings the new map into force.
    fn take_over(&mut self, changed: Vec<Changed>) {
        let (mut changes, mut faults) = (0, 0);
        for (key, text) in changed {
            if self.rows.get(&key).is_some_and(|row| row.reading == self.readings) {
                continue; // Its other row counts.
            }
            changes += 1;
            if let Some(fault) = self.take_over_row(key, text) {
                faults += 1;
                if faults <= limits::ROW_FAULTS_SAID_MAX {
                    crate::log!("registry: {fault}");
                }
            }
        }
        if faults > limits::ROW_FAULTS_SAID_MAX {
            crate::log!("registry: {} more rows have faults", faults - limits::ROW_FAULTS_SAID_MAX);
        }
        let before = self.rows.len();
        self.rows.retain(|_, row| row.reading == self.readings);
        changes += before - self.rows.len();
        if changes > 0 || !self.kv.is_loaded() {
            self.kv.swap(Routes::new(self.rows.values().filter_map(|row| row.route.clone())));
            let (count, generation) = (self.kv.len(), self.kv.generation());
            crate::log!("registry: {count} routes are in service, {changes} rows changed (generation {generation})");
        }
    }

    /// Returns what to say where the row has a fault.
    fn take_over_row(&mut self, key: String, text: String) -> Option<String> {
        let reading = self.readings;
        let (old, inflight) = match self.rows.remove(&key) {
            Some(row) => (row.route, row.inflight),
            None => (None, Arc::default()),
        };
        let (route, said) = match config_loader::parse(&key, &text, &self.module_root, inflight.clone()) {
            Ok(function) => (Route::new(&key, Ok(Arc::new(function))).map(Arc::new), None),
            Err(fault) => match old.filter(|route| route.function().is_some()) {
                Some(good) => {
                    let said = format!("row {key}: {fault}; its last good version stays in service");
                    (Some(good), Some(said))
                }
                None => {
                    let said = format!("row {key}: {fault}");
                    (Route::new(&key, Err(fault)).map(Arc::new), Some(said))
                }
            },
        };
        self.rows.insert(key, Row { text, route, inflight, reading });
        said
    }
}

/// What the file system says about the registry's files.
#[derive(Debug, PartialEq, Eq)]
struct Stamps([Option<Stamp>; 3]);

#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds of the last write, and of the last write or change of the inode. The second cannot be set
    /// back, as `cp -p` and `touch` do with the first.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamps {
    fn of(db: &Path) -> Stamps {
        Stamps(["", WAL, JOURNAL].map(|suffix| fs::metadata(with_suffix(db, suffix)).ok().map(Stamp::of)))
    }

    /// Whether a second change since could show the same stamps.
    fn are_young(&self, now: SystemTime) -> bool {
        let newest = self.0.iter().flatten().map(Stamp::newest).max();
        newest.is_some_and(|(seconds, nanoseconds)| {
            let at = UNIX_EPOCH + Duration::new(seconds.max(0) as u64, nanoseconds as u32);
            // A time far in the future is a clock that was set back: no reason to read again and again until then.
            match now.duration_since(at) {
                Ok(age) => age < limits::SYNC_MTIME_GRAIN,
                Err(ahead) => ahead.duration() < limits::SYNC_MTIME_GRAIN,
            }
        })
    }
}

impl Stamp {
    fn of(file: fs::Metadata) -> Stamp {
        Stamp {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }

    fn newest(&self) -> (i64, i64) {
        self.modified.max(self.changed)
    }
}

/// The bytes of the registry's files at one moment. A file that did not exist is empty.
struct Picture {
    db: Vec<u8>,
    wal: Vec<u8>,
    journal: Vec<u8>,
}

impl Picture {
    /// `None` where writers were at work in each of the attempts. The order of the readings matters: see the head of
    /// this file.
    fn take(db: &Path) -> io::Result<Option<Picture>> {
        let (wal, journal) = (with_suffix(db, WAL), with_suffix(db, JOURNAL));
        for _ in 0..limits::SYNC_TRIES_MAX {
            let picture = Picture { db: bytes_of(db)?, wal: bytes_if_any(&wal)?, journal: bytes_if_any(&journal)? };
            if starts_with(db, &picture.db, true)?
                && starts_with(&wal, &picture.wal, false)?
                && starts_with(&journal, &picture.journal, true)?
            {
                return Ok(Some(picture));
            }
        }
        Ok(None)
    }

    fn write_to(&self, copy: &Path) -> io::Result<()> {
        remove_database(copy);
        if let Some(folder) = copy.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        for (suffix, bytes) in [("", &self.db), (WAL, &self.wal), (JOURNAL, &self.journal)] {
            if suffix.is_empty() || !bytes.is_empty() {
                let path = with_suffix(copy, suffix);
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)?;
            }
        }
        Ok(())
    }
}

/// What the log was told about the registry as a whole.
#[derive(Default)]
struct Trouble {
    /// The fault that the last look found, and since when.
    fault: Option<(String, Instant)>,
    said: Option<String>,
}

impl Trouble {
    /// Takes a look's result and returns what is now worth a line: a fault once, when it has lasted for `patience`, and
    /// its end once, where it had been said.
    fn note(&mut self, fault: Option<String>, now: Instant, patience: Duration) -> Option<String> {
        let Some(fault) = fault else {
            self.fault = None;
            return self.said.take().map(|_| "it can be used again".to_string());
        };
        let since = match &self.fault {
            Some((last, since)) if *last == fault => *since,
            _ => now,
        };
        let is_due = now.duration_since(since) >= patience && self.said.as_ref() != Some(&fault);
        self.fault = Some((fault.clone(), since));
        if !is_due {
            return None;
        }
        self.said = Some(fault.clone());
        Some(format!("could not be used: {fault}"))
    }
}

/// Opens the copy for one reading. It may be written to, for SQLite to roll a journal back; it lives for milliseconds,
/// so nothing waits for a disk, and as nobody else has it, there need be no shared memory file.
fn open_copy(copy: &Path) -> rusqlite::Result<Connection> {
    let connection =
        Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = OFF; PRAGMA cell_size_check = ON")?;
    Ok(connection)
}

/// A value as text, cut to one character more than `bytes_max` bytes: enough to see that it is too long. What is no
/// UTF-8 text in the table becomes text that parses as neither a key nor a descriptor.
fn clipped(value: ValueRef<'_>, bytes_max: usize) -> &str {
    let Ok(text) = value.as_str() else { return "(not UTF-8 text)" };
    let mut end = text.len().min(bytes_max + 4);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Removes a database of our own, and what SQLite may have put beside it. What is not there is fine.
fn remove_database(path: &Path) {
    let _ = fs::remove_file(path);
    remove_leftovers(path);
}

fn remove_leftovers(path: &Path) {
    for suffix in [WAL, JOURNAL, "-shm"] {
        let _ = fs::remove_file(with_suffix(path, suffix));
    }
}

/// Opens a regular file of a size that a registry can have. Without O_NONBLOCK a FIFO of that name would hold us for ever.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if found.len() > limits::REGISTRY_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {} bytes", limits::REGISTRY_BYTES_MAX)));
    }
    Ok(file)
}

fn bytes_of(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::with_capacity(file.metadata()?.len() as usize);
    file.take(limits::REGISTRY_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn bytes_if_any(path: &Path) -> io::Result<Vec<u8>> {
    match bytes_of(path) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        result => result,
    }
}

/// Whether the file, read anew, starts with `bytes`, and where `exactly`, ends with them.
fn starts_with(path: &Path, bytes: &[u8], exactly: bool) -> io::Result<bool> {
    let mut file = match open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(bytes.is_empty()),
        Err(cause) => return Err(cause),
    };
    let mut chunk = vec![0; 64 * 1024];
    let mut rest = bytes;
    while !rest.is_empty() {
        let wanted = rest.len().min(chunk.len());
        match file.read(&mut chunk[..wanted]) {
            Ok(0) => return Ok(false),
            Ok(count) if chunk[..count] == rest[..count] => rest = &rest[count..],
            Ok(_) => return Ok(false),
            Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(!exactly || file.read(&mut chunk[..1])? == 0)
}
