//! The only file that knows SQLite: it carries the registry's rows into the map of routes.
//!
//! [`Sync::look`] runs every 50 ms. It asks the file system whether the registry moved; if it did, it reads the table,
//! parses the rows whose text changed, and swaps the map once, so that all rows of a transaction come into force
//! together. Whatever goes wrong (a file that is missing, damaged, in the middle of being copied; a row with a fault)
//! keeps the last good version in service, is said once, and is mended by the first look that finds it right.
//!
//! # How it reads, and why no writer ever notices
//!
//! A plain `sqlite3` program does not wait for a lock: one that another program holds at that moment makes its INSERT
//! fail with "database is locked". Every SQLite reader takes locks: in rollback mode while it reads, in WAL mode while
//! it recovers a -wal that a killed program left; and a reader that is open when the last writer closes makes it leave
//! its -wal behind, which a plain `cp` then misses. So the registry itself is never opened with SQLite. Its files are
//! read as plain bytes, without any lock, and SQLite is given a private copy of them:
//!
//! 1. Read the database, then its -wal, then its -journal. A file that is not there counts as empty.
//! 2. Read all of them a second time. Equal bytes mean that in the moment between the two readings the files had just
//!    these bytes: no clock and no file time is needed to know it. Of the -wal only the part read at first must be
//!    equal. It grows at its end, and its first part is a whole state by itself: it was read after the database, so it
//!    has every page that a checkpoint may have written there.
//! 3. Unequal bytes mean that a writer was at work: try again, a few times now, else in the next look.
//!
//! Such a picture is what a power failure at that moment would have left on the disk, and SQLite promises to make the
//! last committed state of that. So the copy is opened, SQLite replays its -wal or rolls its -journal back as need be,
//! and one SELECT reads the table. Uncommitted work is never seen, a transaction is seen whole or not at all, and what
//! a writer killed with SIGKILL left behind is read as if it had been mended. It works where the gateway may not write,
//! it works in rollback mode, and the gateway leaves no -wal or -shm beside the registry.
//!
//! The price is that each change copies the whole file: 2.5 MB with 10,000 rows, 2 ms of the 15 ms that such a reading
//! takes. A file too large for that is refused (REGISTRY_BYTES_MAX).
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
use crate::limits;
use crate::registry::config_loader::{self, Places};
use crate::registry::kv::{Kv, Route, Routes};
use crate::sandbox::protected::ProtectedPaths;
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
    // For its owner's eyes: descriptors can hold secrets, and functions are to run beside it. SQLite gives the files that it
    // adds the same permissions.
    let make = || fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished);
    let fill = || {
        let connection = Connection::open(&unfinished)?;
        connection.execute_batch(INIT_SQL)?;
        connection.close().map_err(|(_, cause)| cause)
    };
    let filled = make().map_err(|cause| cause.to_string()).and_then(|_| fill().map_err(|cause| cause.to_string()));
    let made = filled.and_then(|()| {
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
    places: Places,
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
            places: Places { module_root: settings.module_root.clone(), protected: ProtectedPaths::new(settings) },
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

    /// One look: reads the registry if it moved, and says whether it has read it. The first one loads it, so the
    /// gateway calls it once before it listens.
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
            crate::log!("registry: generation {generation} is in service: {count} routes, rows changed: {changes}");
        }
    }

    /// Returns what to say where the row has a fault.
    fn take_over_row(&mut self, key: String, text: String) -> Option<String> {
        let reading = self.readings;
        let (old, inflight) = match self.rows.remove(&key) {
            Some(row) => (row.route, row.inflight),
            None => (None, Arc::default()),
        };
        let (route, said) = match config_loader::parse(&key, &text, &self.places, inflight.clone()) {
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
    /// Seconds and nanoseconds of the last write (mtime), which `cp -p` and `touch` set at will.
    modified: (i64, i64),
    /// The same of the last write or change of the inode (ctime), which nobody can set.
    changed: (i64, i64),
}

impl Stamps {
    fn of(db: &Path) -> Stamps {
        Stamps(["", WAL, JOURNAL].map(|suffix| fs::metadata(with_suffix(db, suffix)).ok().map(Stamp::of)))
    }

    /// Whether a second change since could show the same stamps. A time far in the future is somebody's setting, or a
    /// clock that was set back: no reason to read again and again until then.
    fn are_young(&self, now: SystemTime) -> bool {
        let mut times = self.0.iter().flatten().flat_map(|stamp| [stamp.modified, stamp.changed]);
        times.any(|(seconds, nanoseconds)| {
            let at = UNIX_EPOCH + Duration::new(seconds.max(0) as u64, nanoseconds as u32);
            now.duration_since(at).unwrap_or_else(|ahead| ahead.duration()) < limits::SYNC_MTIME_GRAIN
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
}

/// The bytes of the registry's files at one moment. A file that did not exist is empty.
struct Picture {
    db: Vec<u8>,
    wal: Vec<u8>,
    journal: Vec<u8>,
}

impl Picture {
    /// `None` where writers were at work in each of the attempts.
    fn take(db: &Path) -> io::Result<Option<Picture>> {
        for _ in 0..limits::SYNC_TRIES_MAX {
            let picture = Picture::read(db)?;
            if picture.holds(db)? {
                return Ok(Some(picture));
            }
        }
        Ok(None)
    }

    /// The first reading. Its order matters: see the head of this file.
    fn read(db: &Path) -> io::Result<Picture> {
        let db_bytes = bytes_of(db)?;
        let wal = bytes_if_any(&with_suffix(db, WAL))?;
        let journal = bytes_if_any(&with_suffix(db, JOURNAL))?;
        Ok(Picture { db: db_bytes, wal, journal })
    }

    /// The second reading: whether all that was read at first was there at one moment.
    fn holds(&self, db: &Path) -> io::Result<bool> {
        Ok(starts_with(db, &self.db, true)?
            && starts_with(&with_suffix(db, WAL), &self.wal, false)?
            && starts_with(&with_suffix(db, JOURNAL), &self.journal, true)?)
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

/// Opens a regular file of a size that a registry can have. Without O_NONBLOCK a FIFO of that name would hold us for
/// ever.
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

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::process::{Child, Command, Output, Stdio};
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;
    use crate::registry::config_loader::Function;
    use crate::registry::kv::Found;

    /// A folder of its own, with a registry, its reader and the routes that came of it.
    struct Fixture {
        folder: PathBuf,
        db: PathBuf,
        kv: Arc<Kv>,
        sync: Sync,
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    /// The C original's table, which takes every row.
    const WITHOUT_CHECKS: &str = "PRAGMA journal_mode = WAL;
        CREATE TABLE functions (k TEXT PRIMARY KEY, v TEXT NOT NULL, updated INTEGER);";

    /// What gives each row of a table many pages, so that a torn reading of them would show.
    const MANY_ROWS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
        INSERT INTO functions SELECT 'GET:/n/' || i, '{\"runtime\":\"php\",\"module\":\"x\",\"timeout\":1}', 0 FROM n;";

    impl Fixture {
        /// Without a registry.
        fn empty() -> Fixture {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let name = format!("faas-sync-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let folder = std::env::temp_dir().join(name);
            fs::create_dir(&folder).unwrap();
            let db = folder.join("faas_meta.db");
            let kv = Arc::new(Kv::new());
            let sync = Sync::new(&settings(&db, &folder.join("run")), kv.clone());
            Fixture { folder, db, kv, sync }
        }

        fn with(sql: &str) -> Fixture {
            let mut fixture = Fixture::empty();
            execute(&fixture.db, sql);
            assert!(fixture.sync.look());
            fixture
        }

        fn set(&self, key: &str, fields: &str) {
            let sql = "INSERT INTO functions VALUES (?1, ?2, 0) ON CONFLICT (k) DO UPDATE SET v = excluded.v";
            let text = format!(r#"{{"runtime":"php","module":"x.php",{fields}}}"#);
            Connection::open(&self.db).unwrap().execute(sql, (key, text)).unwrap();
        }

        fn function(&self, path: &str) -> Option<Arc<Function>> {
            match self.kv.find("GET", path) {
                Found::Function { function, .. } => Some(function),
                _ => None,
            }
        }

        fn timeout_s(&self, path: &str) -> u64 {
            self.function(path).map_or(0, |function| function.timeout.as_secs())
        }

        fn fault(&self, path: &str) -> String {
            match self.kv.find("GET", path) {
                Found::Unusable { fault, .. } => fault,
                other => panic!("{other:?}"),
            }
        }

        /// A second reader, as of a gateway that has just been started.
        fn restarted(&self) -> Fixture {
            let mut other = Fixture::empty();
            other.sync = Sync::new(&settings(&self.db, &other.folder.join("run")), other.kv.clone());
            assert!(other.sync.look());
            other
        }
    }

    fn settings(db: &Path, run_dir: &Path) -> Settings {
        Settings::from_lookup(|name| match name {
            "FAAS_DB" => Some(db.display().to_string()),
            "FAAS_RUN_DIR" => Some(run_dir.display().to_string()),
            _ => None,
        })
        .unwrap()
    }

    fn execute(db: &Path, sql: &str) {
        Connection::open(db).unwrap().execute_batch(sql).unwrap();
    }

    /// The plain sqlite3 program, with `sql` on its standard input as in `sqlite3 faas_meta.db << EOF`.
    fn sqlite3(db: &Path, sql: &str) -> Output {
        let mut child = session(db);
        child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn session(db: &Path) -> Child {
        let mut command = Command::new("sqlite3");
        command.arg(db).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("these tests need the sqlite3 program")
    }

    /// Runs `sql` in a sqlite3 program and kills it as soon as it has done all of it.
    fn killed_after(db: &Path, sql: &str) {
        let mut child = session(db);
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{sql}\nSELECT 'done';").unwrap();
        let lines = io::BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map(|line| line.unwrap()).any(|line| line == "done"));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn names_in(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    // ---- init.sql ----

    #[test]
    fn init_registers_the_examples_and_leaves_nothing_beside_the_registry() {
        let mut fixture = Fixture::empty();
        create_registry(&fixture.db).unwrap();
        assert_eq!(names_in(&fixture.folder), ["faas_meta.db"]);
        assert!(fixture.sync.look());
        let found = |method, path| match fixture.kv.find(method, path) {
            Found::Function { function, .. } => (function.runtime.as_str(), function.module.clone()),
            other => panic!("{method} {path}: {other:?}"),
        };
        for (method, path, runtime, module) in [
            ("POST", "/api/hello", "php", "functions/hello.php"),
            ("GET", "/api/info", "php", "functions/info.php"),
            ("POST", "/resize", "wasm", "functions/resize.wasm"),
            ("GET", "/ping", "wasm", "functions/ping.wasm"),
            ("GET", "/api/env", "native", "functions/env.sh"),
        ] {
            assert_eq!(found(method, path), (runtime, fixture.folder.join(module)));
        }
        assert_eq!(fixture.kv.len(), 5);
        let env = fixture.function("/api/env").unwrap();
        assert_eq!((env.memory_mib, env.timeout.as_secs()), (64, 5));
    }

    #[test]
    fn init_leaves_a_registry_that_exists_alone() {
        let mut fixture = Fixture::empty();
        create_registry(&fixture.db).unwrap();
        execute(&fixture.db, "DELETE FROM functions WHERE k <> 'GET:/ping'");
        create_registry(&fixture.db).unwrap();
        fixture.sync.look();
        assert_eq!(fixture.kv.len(), 1);
        // The script itself adds what is missing, and keeps what was edited.
        fixture.set("GET:/ping", r#""timeout":9"#);
        assert!(sqlite3(&fixture.db, INIT_SQL).stderr.is_empty());
        fixture.sync.look();
        assert_eq!((fixture.kv.len(), fixture.timeout_s("/ping")), (5, 9));
    }

    #[test]
    fn init_is_not_misled_by_the_wal_of_a_registry_that_is_gone() {
        let mut fixture = Fixture::empty();
        fs::write(with_suffix(&fixture.db, WAL), "left over").unwrap();
        create_registry(&fixture.db).unwrap();
        assert_eq!(names_in(&fixture.folder), ["faas_meta.db"]);
        assert!(fixture.sync.look());
    }

    #[test]
    fn init_that_cannot_write_names_the_registry() {
        let error = create_registry(Path::new("/nonexistent/folder/r.db")).unwrap_err();
        assert!(error.to_string().starts_with("could not use the registry /nonexistent/folder/r.db: "), "{error}");
    }

    #[test]
    fn the_readme_s_insert_and_update_work_in_the_plain_sqlite3_program() {
        let mut fixture = Fixture::with(INIT_SQL);
        let insert = r#"
INSERT INTO functions (k, v, updated) VALUES (
  'POST:/api/convert',
  '{"name":"imageConverter","runtime":"wasm","module":"/opt/functions/convert.wasm","handler":"convert","memory":512,"timeout":30}',
  strftime('%s','now')
);
"#;
        let output = sqlite3(&fixture.db, insert);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let update = r#"UPDATE functions
SET v='{"module":"/new/path.wasm","runtime":"wasm"}',
    updated=strftime('%s','now')
WHERE k='POST:/resize';"#;
        assert!(sqlite3(&fixture.db, update).stderr.is_empty());
        assert!(fixture.sync.look());
        assert!(matches!(fixture.kv.find("POST", "/api/convert"), Found::Function { function, .. }
            if function.name == "imageConverter" && function.handler == "convert"));
        assert!(matches!(fixture.kv.find("POST", "/resize"), Found::Function { function, .. }
            if function.module == Path::new("/new/path.wasm")));
        let unfilled = update.replace(r#""runtime":"wasm""#, "...");
        let said = String::from_utf8(sqlite3(&fixture.db, &unfilled).stderr).unwrap();
        assert!(said.contains("CHECK constraint failed: v must be a JSON object"), "{said}");
    }

    #[test]
    fn the_checks_of_init_sql_judge_as_the_parser_does() {
        let fixture = Fixture::with(INIT_SQL);
        let connection = Connection::open(&fixture.db).unwrap();
        let good = r#"{"runtime":"php","module":"x"}"#.to_string();
        let with = |field: &str| format!(r#"{{"runtime":"php","module":"x",{field}}}"#);
        let mut rows: Vec<(String, String)> = Vec::new();
        let ranges = [
            ("memory", limits::MEMORY_MIB),
            ("timeout", limits::TIMEOUT_S),
            ("max_inflight", limits::MAX_INFLIGHT),
            ("scratch", limits::SCRATCH_MIB),
        ];
        for (name, range) in ranges {
            let below = *range.start() as i64 - 1;
            for number in [below, *range.start() as i64, *range.end() as i64, *range.end() as i64 + 1] {
                rows.push(("GET:/t".into(), with(&format!(r#""{name}":{number}"#))));
            }
            for other in "null -1 20.0 20.5 \"20\" true [20] 1e2 18446744073709551616".split(' ') {
                rows.push(("GET:/t".into(), with(&format!(r#""{name}":{other}"#))));
            }
        }
        for name in "name handler env output stream net write unknown".split(' ') {
            for value in r#"null 1 true "" "raw" "Raw" {} []"#.split(' ') {
                rows.push(("GET:/t".into(), with(&format!(r#""{name}":{value}"#))));
            }
        }
        let texts = r#"| { | [] | 1 | null | "x" | {} | {"runtime":"php"} | {"module":"x"}
            | {"runtime":"PHP","module":"x"} | {"runtime":"native","module":""} | {"runtime":1,"module":"x"}
            | {"runtime":"wasm","module":["x"]}
            | {"runtime":null,"module":null} | {"runtime":"wasm","module":"x"} "#;
        rows.extend(texts.split('|').map(|text| ("GET:/t".into(), text.into())));
        let keys = "|GET|GET:|:/x|GET:x|get:/x|GE T:/x|G1:/x|GET:/a b|GET:/é|GÉT:/|GET:/a?b|GET:/a#b|GET:/a*|GET:/*/a\
            |GET:/a/**|GET:/\u{7f}|GET:/\t|GET:/healthz|POST:/healthz|GET:/healthz/x|GET:/|GET:/a/*|GET:/*|M-X:/a:b\
            |GET:/a%20b";
        rows.extend(keys.split('|').map(|key| (key.into(), good.clone())));
        for filler in [limits::DESCRIPTOR_BYTES_MAX, limits::DESCRIPTOR_BYTES_MAX + 1] {
            rows.push(("GET:/t".into(), format!("{good}{}", " ".repeat(filler - good.len()))));
        }
        for filler in [limits::ROUTE_KEY_BYTES_MAX, limits::ROUTE_KEY_BYTES_MAX + 1] {
            rows.push((format!("GET:/{}", "x".repeat(filler - 5)), good.clone()));
        }
        for (key, text) in rows {
            let parsed = config_loader::parse(&key, &text, &Places::default(), Arc::default());
            let inserted = connection.execute("INSERT INTO functions VALUES (?1, ?2, 0)", (&key, &text));
            assert_eq!(parsed.is_ok(), inserted.is_ok(), "{key:?} {text:?}\n{parsed:?}\n{inserted:?}");
            connection.execute("DELETE FROM functions WHERE k = ?1", [&key]).unwrap();
        }
        assert!(connection.execute("INSERT INTO functions VALUES (NULL, ?1, 0)", [&good]).is_err());
        assert!(connection.execute("INSERT INTO functions VALUES ('GET:/t', CAST(?1 AS BLOB), 0)", [&good]).is_err());
    }

    // ---- changes ----

    #[test]
    fn inserts_edits_and_deletes_arrive_and_what_did_not_change_is_kept() {
        let mut fixture = Fixture::with(WITHOUT_CHECKS);
        fixture.set("GET:/a", r#""timeout":1"#);
        fixture.set("GET:/b", r#""timeout":1"#);
        assert!(fixture.sync.look());
        let (a, b) = (fixture.function("/a").unwrap(), fixture.function("/b").unwrap());
        fixture.set("GET:/b", r#""timeout":2"#);
        assert!(fixture.sync.look());
        let (a_after, b_after) = (fixture.function("/a").unwrap(), fixture.function("/b").unwrap());
        assert!(Arc::ptr_eq(&a, &a_after));
        assert_eq!((b.timeout.as_secs(), b_after.timeout.as_secs()), (1, 2));
        assert!(Arc::ptr_eq(&b.inflight, &b_after.inflight), "the count of invocations belongs to the key");
        execute(&fixture.db, "DELETE FROM functions WHERE k = 'GET:/a'");
        assert!(fixture.sync.look());
        assert!(matches!(fixture.kv.find("GET", "/a"), Found::NotFound));
        assert_eq!((fixture.kv.len(), fixture.kv.generation()), (1, 4));
    }

    #[test]
    fn nothing_is_read_when_nothing_moved() {
        let mut fixture = Fixture::with(INIT_SQL);
        let deadline = Instant::now() + Duration::from_secs(10);
        while fixture.sync.look() {
            assert!(Instant::now() < deadline, "the file grows old, and then it is not read again");
        }
        assert!(!fixture.sync.look());
        assert_eq!(fixture.kv.generation(), 1, "to read the same again is no change");
        execute(&fixture.db, "UPDATE functions SET updated = 7");
        assert!(fixture.sync.look());
        assert_eq!(fixture.kv.generation(), 1, "the time of an edit alone is no change");
    }

    #[test]
    fn a_transaction_is_seen_whole_or_not_at_all() {
        for mode in ["WAL", "DELETE"] {
            let mut fixture = Fixture::with(&format!("{WITHOUT_CHECKS} {MANY_ROWS} PRAGMA journal_mode = {mode};"));
            let (db, is_over) = (fixture.db.clone(), Arc::new(AtomicBool::new(false)));
            let writer = std::thread::spawn({
                let is_over = is_over.clone();
                move || {
                    // A small cache and a small limit make for many writes into the file while it is being read.
                    let small = "PRAGMA cache_size = 5; PRAGMA wal_autocheckpoint = 5; PRAGMA synchronous = OFF;";
                    for timeout in 2..100 {
                        let set = format!("UPDATE functions SET v = json_set(v, '$.timeout', {timeout})");
                        execute(&db, &format!("{small} {set}"));
                    }
                    is_over.store(true, Ordering::Relaxed);
                }
            });
            let paths: Vec<String> = (1..=2000).map(|i| format!("/n/{i}")).collect();
            while !is_over.load(Ordering::Relaxed) {
                fixture.sync.look();
                let first = fixture.timeout_s(&paths[0]);
                assert!(paths.iter().all(|path| fixture.timeout_s(path) == first), "in mode {mode}");
            }
            writer.join().unwrap();
            assert!(fixture.sync.look());
            assert_eq!(fixture.timeout_s("/n/2000"), 99);
        }
    }

    #[test]
    fn a_row_with_a_fault_keeps_its_last_good_version_and_is_said_once() {
        let mut fixture = Fixture::with(WITHOUT_CHECKS);
        fixture.set("GET:/a", r#""timeout":1"#);
        fixture.sync.look();
        fixture.set("GET:/a", r#""timeout":0"#);
        fixture.set("GET:/new", r#""timeout":0"#);
        assert!(fixture.sync.look());
        assert_eq!(fixture.timeout_s("/a"), 1);
        let fault = "timeout is 0; it must be a whole number of seconds from 1 to 3600";
        assert_eq!(fixture.fault("/new"), fault);
        let generation = fixture.kv.generation();
        fixture.sync.seen = None;
        assert!(fixture.sync.look());
        assert_eq!(fixture.kv.generation(), generation, "the same fault is not taken over, nor said, again");
        fixture.set("GET:/a", r#""timeout":3"#);
        fixture.set("GET:/new", r#""timeout":3"#);
        fixture.sync.look();
        assert_eq!((fixture.timeout_s("/a"), fixture.timeout_s("/new")), (3, 3));
        execute(&fixture.db, "UPDATE functions SET v = '{}'; DELETE FROM functions WHERE k = 'GET:/a'");
        fixture.sync.look();
        assert!(matches!(fixture.kv.find("GET", "/a"), Found::NotFound), "a row that is gone has no last good version");
        assert_eq!(fixture.timeout_s("/new"), 3);
    }

    #[test]
    fn what_is_said_of_a_row_names_key_and_fault() {
        let mut fixture = Fixture::with(WITHOUT_CHECKS);
        let mut take = |key: &str, text: &str| fixture.sync.take_over_row(key.into(), text.into());
        assert_eq!(take("GET:/a", r#"{"runtime":"php","module":"x"}"#), None);
        let fault = "row GET:/a: runtime is missing; it must be php, wasm or native";
        assert_eq!(take("GET:/a", "{}"), Some(format!("{fault}; its last good version stays in service")));
        assert_eq!(take("GET:/b", "{}"), Some(fault.replace("/a", "/b")));
        assert!(take("get:/c", r#"{"runtime":"php","module":"x"}"#).unwrap().starts_with("row get:/c: k is get:/c;"));
    }

    #[test]
    fn rows_that_are_no_routes_harm_no_other() {
        let mut fixture = Fixture::with("CREATE TABLE functions (k, v, updated)");
        let mut sql =
            String::from("INSERT INTO functions (k, v) VALUES (NULL, NULL), (1, 2), (x'ff', x'ff'), ('get:/x', '{}')");
        sql.push_str(", ('GET:/blob', x'7b7d'), ('GET:/ff', CAST(x'ff' AS TEXT)), ('GET:/long', hex(zeroblob(40000)))");
        let row = |timeout: u32| format!(r#", ('GET:/a', '{{"runtime":"php","module":"x","timeout":{timeout}}}')"#);
        sql.push_str(&(row(1) + &row(2)));
        execute(&fixture.db, &sql);
        assert!(fixture.sync.look());
        assert_eq!(fixture.timeout_s("/a"), 1, "of two rows with one key the first counts");
        assert!(fixture.fault("/blob").starts_with("v is not JSON"));
        assert!(fixture.fault("/ff").starts_with("v is not JSON"));
        assert!(fixture.fault("/long").starts_with("v is longer than 65536 bytes"));
        let generation = fixture.kv.generation();
        fixture.sync.seen = None;
        assert!(fixture.sync.look());
        assert_eq!(fixture.kv.generation(), generation);
    }

    // ---- whatever happens to the file ----

    #[test]
    fn a_registry_that_cannot_be_used_keeps_what_is_in_service() {
        let mut fixture = Fixture::with(INIT_SQL);
        let whole = fs::read(&fixture.db).unwrap();
        let mut zeros_within = whole.clone();
        zeros_within[4096..8192].fill(0);
        let damages: [&dyn Fn(&Path); 7] = [
            &|db| fs::remove_file(db).unwrap(),
            &|db| fs::write(db, "").unwrap(),
            &|db| fs::write(db, "this is not a database ".repeat(1000)).unwrap(),
            &|db| fs::write(db, &whole[..whole.len() / 2]).unwrap(),
            &|db| fs::write(db, &zeros_within).unwrap(),
            &|db| execute(db, "DROP TABLE functions"),
            &|db| execute(db, "ALTER TABLE functions RENAME COLUMN v TO descriptor"),
        ];
        for (index, damage) in damages.iter().enumerate() {
            damage(&fixture.db);
            assert!(!fixture.sync.look(), "damage {index}");
            assert_eq!(fixture.kv.len(), 5, "damage {index}");
            fs::write(&fixture.db, &whole).unwrap();
            fixture.set("GET:/mended", &format!(r#""timeout":{}"#, index + 1));
            assert!(fixture.sync.look(), "damage {index}");
            assert_eq!(fixture.timeout_s("/mended"), index as u64 + 1);
            execute(&fixture.db, "DELETE FROM functions WHERE k = 'GET:/mended'");
            assert!(fixture.sync.look(), "damage {index}");
        }
    }

    #[test]
    fn a_fifo_or_a_folder_in_its_place_holds_nobody_up() {
        let mut fixture = Fixture::with(INIT_SQL);
        fs::remove_file(&fixture.db).unwrap();
        fs::create_dir(&fixture.db).unwrap();
        assert!(!fixture.sync.look());
        fs::remove_dir(&fixture.db).unwrap();
        assert!(Command::new("mkfifo").arg(&fixture.db).status().unwrap().success());
        assert!(!fixture.sync.look());
        assert_eq!(fixture.kv.len(), 5);
    }

    #[test]
    fn a_fault_that_nobody_touches_is_tried_again() {
        let mut fixture = Fixture::with(INIT_SQL);
        // Its copy cannot be written: the cause lies outside of the registry, whose files will not move again.
        fs::remove_dir_all(fixture.folder.join("run")).unwrap();
        fs::write(fixture.folder.join("run"), "in the way").unwrap();
        fixture.set("GET:/a", r#""timeout":1"#);
        assert!(!fixture.sync.look());
        fs::remove_file(fixture.folder.join("run")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while fixture.timeout_s("/a") == 0 {
            fixture.sync.look();
            assert!(Instant::now() < deadline);
        }
    }

    #[test]
    fn more_rows_than_are_served_are_refused_as_a_whole() {
        let mut fixture = Fixture::with(WITHOUT_CHECKS);
        fixture.set("GET:/a", r#""timeout":1"#);
        fixture.sync.look();
        execute(&fixture.db, &MANY_ROWS.replace("2000", &limits::ROUTES_MAX.to_string()));
        assert!(!fixture.sync.look());
        assert_eq!((fixture.kv.len(), fixture.timeout_s("/a")), (1, 1));
        execute(&fixture.db, "DELETE FROM functions WHERE k = 'GET:/a'");
        assert!(fixture.sync.look());
        assert_eq!(fixture.kv.len(), limits::ROUTES_MAX);
    }

    #[test]
    fn a_file_that_is_moved_or_copied_over_it_goes_into_service() {
        let mut fixture = Fixture::with(INIT_SQL);
        let other = fixture.folder.join("other.db");
        execute(&other, WITHOUT_CHECKS);
        let insert = |timeout: u32| {
            let text = format!(r#"{{"runtime":"php","module":"x","timeout":{timeout}}}"#);
            execute(&other, &format!("INSERT OR REPLACE INTO functions VALUES ('GET:/other', '{text}', 0)"));
        };
        insert(1);
        fs::copy(&other, &fixture.db).unwrap();
        assert!(fixture.sync.look());
        assert_eq!((fixture.kv.len(), fixture.timeout_s("/other")), (1, 1));
        insert(2);
        fs::rename(&other, &fixture.db).unwrap();
        assert!(fixture.sync.look());
        assert_eq!((fixture.kv.len(), fixture.timeout_s("/other")), (1, 2));
    }

    #[test]
    fn a_registry_behind_a_symbolic_link_is_read_with_its_wal() {
        let mut fixture = Fixture::empty();
        let target = fixture.folder.join("target.db");
        execute(&target, WITHOUT_CHECKS);
        std::os::unix::fs::symlink(&target, &fixture.db).unwrap();
        assert!(fixture.sync.look());
        let open = Connection::open(&target).unwrap();
        open.execute("INSERT INTO functions VALUES ('GET:/a', '{\"runtime\":\"php\",\"module\":\"x\"}', 0)", [])
            .unwrap();
        assert!(fs::metadata(with_suffix(&target, WAL)).unwrap().len() > 0);
        assert!(fixture.sync.look());
        assert!(fixture.function("/a").is_some());
    }

    #[test]
    fn vacuum_and_a_change_of_journal_mode_are_read_through() {
        let mut fixture = Fixture::with(&format!("{INIT_SQL}{MANY_ROWS}"));
        for (index, sql) in
            ["VACUUM", "PRAGMA journal_mode = DELETE", "VACUUM", "PRAGMA journal_mode = PERSIST"].iter().enumerate()
        {
            execute(&fixture.db, &format!("DELETE FROM functions WHERE k LIKE 'GET:/n/{index}%'; {sql};"));
            fixture.set("GET:/a", &format!(r#""timeout":{}"#, index + 1));
            assert!(fixture.sync.look());
            assert_eq!(fixture.timeout_s("/a"), index as u64 + 1, "after {sql}");
        }
    }

    #[test]
    fn a_database_that_others_hold_locked_is_read_all_the_same() {
        let mut fixture = Fixture::with(INIT_SQL);
        for mode in ["WAL", "DELETE"] {
            execute(&fixture.db, &format!("PRAGMA journal_mode = {mode}"));
            let holder = Connection::open(&fixture.db).unwrap();
            holder.execute_batch("BEGIN EXCLUSIVE; DELETE FROM functions").unwrap();
            fixture.sync.seen = None;
            assert!(fixture.sync.look());
            assert_eq!(fixture.kv.len(), 5, "what is not committed is not seen");
        }
    }

    // ---- programs that are killed ----

    #[test]
    fn a_wal_that_a_killed_program_left_is_read_up_to_its_last_commit() {
        let mut fixture = Fixture::with(INIT_SQL);
        let row = |path: &str| {
            format!("INSERT INTO functions VALUES ('GET:/{path}', '{{\"runtime\":\"php\",\"module\":\"x\"}}', 0);")
        };
        let begun = format!("PRAGMA cache_size = 1; BEGIN; {} {MANY_ROWS}", row("begun"));
        killed_after(&fixture.db, &format!("{}{begun}", row("committed")));
        assert!(fs::metadata(with_suffix(&fixture.db, WAL)).unwrap().len() > 64 * 1024, "pages of both are in it");
        fixture.sync.look();
        for reader in [&fixture, &fixture.restarted()] {
            assert!(reader.function("/committed").is_some() && reader.function("/begun").is_none());
            assert_eq!(reader.kv.len(), 6);
        }
        let output = sqlite3(&fixture.db, &row("next"));
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        fixture.sync.look();
        assert_eq!(fixture.kv.len(), 7);
    }

    #[test]
    fn a_journal_that_a_killed_program_left_is_rolled_back_in_the_copy_alone() {
        let mut fixture = Fixture::with(&format!("{INIT_SQL}{MANY_ROWS} PRAGMA journal_mode = DELETE;"));
        let before = fs::read(&fixture.db).unwrap();
        let update = "UPDATE functions SET v = json_set(v, '$.timeout', 77);";
        killed_after(&fixture.db, &format!("PRAGMA cache_size = 1; BEGIN; {update}"));
        let torn = fs::read(&fixture.db).unwrap();
        assert!(torn != before, "pages that were not committed are in the file");
        fixture.sync.look();
        for reader in [&fixture, &fixture.restarted()] {
            assert_eq!((reader.kv.len(), reader.timeout_s("/n/1"), reader.timeout_s("/n/2000")), (2005, 1, 1));
        }
        assert!(fs::read(&fixture.db).unwrap() == torn, "a reader leaves the registry as it is");
        assert!(sqlite3(&fixture.db, &update.replace("77", "78")).stderr.is_empty());
        assert!(fixture.sync.look());
        assert_eq!(fixture.timeout_s("/n/2000"), 78);
    }

    // ---- writers and readers at once ----

    #[test]
    fn no_insert_of_the_plain_sqlite3_program_ever_fails_because_of_the_reader() {
        for mode in ["WAL", "DELETE"] {
            let mut fixture = Fixture::with(&format!("{INIT_SQL} PRAGMA journal_mode = {mode};"));
            let (db, is_over) = (fixture.db.clone(), Arc::new(AtomicBool::new(false)));
            let writer = std::thread::spawn({
                let is_over = is_over.clone();
                move || {
                    let row = |i: u32| format!("('GET:/i/{i}', '{{\"runtime\":\"php\",\"module\":\"x\"}}', 0)");
                    let failed = (0..100).filter_map(|i| {
                        let output = sqlite3(&db, &format!("INSERT INTO functions VALUES {};", row(i)));
                        (!output.stderr.is_empty()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
                    });
                    let failed: Vec<String> = failed.collect();
                    is_over.store(true, Ordering::Relaxed);
                    failed
                }
            });
            while !is_over.load(Ordering::Relaxed) {
                fixture.sync.seen = None;
                fixture.sync.look();
            }
            assert_eq!(writer.join().unwrap(), Vec::<String>::new());
            fixture.sync.look();
            assert_eq!(fixture.kv.len(), 105);
        }
    }

    #[test]
    fn a_reading_leaves_nothing_behind() {
        let mut fixture = Fixture::with(INIT_SQL);
        let open = Connection::open(&fixture.db).unwrap();
        open.execute("DELETE FROM functions WHERE k = 'GET:/ping'", []).unwrap();
        assert!(fixture.sync.look());
        assert_eq!(fixture.kv.len(), 4);
        assert_eq!(names_in(&fixture.folder), ["faas_meta.db", "faas_meta.db-shm", "faas_meta.db-wal", "run"]);
        drop(open);
        assert_eq!(
            names_in(&fixture.folder),
            ["faas_meta.db", "run"],
            "the last program to close takes its -wal along"
        );
        assert!(fixture.sync.look());
        assert_eq!(names_in(&fixture.folder.join("run")), Vec::<String>::new());
    }

    #[test]
    fn the_thread_brings_changes_into_service_until_it_is_told_to_end() {
        let fixture = Fixture::with(INIT_SQL);
        let sync = Sync::new(&settings(&fixture.db, &fixture.folder.join("run")), fixture.kv.clone());
        let (stop, shutdown) = crossbeam_channel::bounded::<()>(0);
        let thread = std::thread::spawn(move || sync.run(&shutdown));
        fixture.set("GET:/a", r#""timeout":1"#);
        let deadline = Instant::now() + Duration::from_secs(10);
        while fixture.timeout_s("/a") == 0 {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        drop(stop);
        thread.join().unwrap();
    }

    // ---- the parts ----

    #[test]
    fn trouble_is_said_once_when_it_lasts_and_its_end_once() {
        let (mut trouble, start) = (Trouble::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let patience = Duration::from_millis(300);
        let fault = |text: &str| Some(text.to_string());
        assert_eq!(trouble.note(None, at(0), patience), None);
        assert_eq!(trouble.note(fault("gone"), at(50), patience), None);
        assert_eq!(trouble.note(None, at(100), patience), None, "what passes is not worth a line");
        assert_eq!(trouble.note(fault("gone"), at(150), patience), None);
        assert_eq!(trouble.note(fault("gone"), at(449), patience), None);
        assert_eq!(trouble.note(fault("gone"), at(450), patience), fault("could not be used: gone"));
        assert_eq!(trouble.note(fault("gone"), at(9999), patience), None);
        assert_eq!(trouble.note(fault("torn"), at(10_000), patience), None);
        assert_eq!(trouble.note(fault("torn"), at(10_300), patience), fault("could not be used: torn"));
        assert_eq!(trouble.note(None, at(10_400), patience), fault("it can be used again"));
        assert_eq!(trouble.note(None, at(10_500), patience), None);
        assert_eq!(trouble.note(fault("gone"), at(10_600), Duration::ZERO), fault("could not be used: gone"));
    }

    #[test]
    fn files_are_young_for_a_grain_after_their_last_change_of_any_kind() {
        let stamps =
            |modified, changed| Stamps([None, Some(Stamp { device: 1, inode: 1, size: 1, modified, changed }), None]);
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        assert!(stamps((100, 0), (50, 0)).are_young(at(100_099)));
        assert!(!stamps((100, 0), (50, 0)).are_young(at(100_100)));
        assert!(stamps((50, 0), (100, 0)).are_young(at(100_099)), "as after cp -p, which sets an old time of writing");
        assert!(stamps((900, 0), (100, 0)).are_young(at(100_099)), "as after touch with a date to come");
        assert!(!stamps((100, 0), (100, 0)).are_young(at(50_000)), "a clock that was set back is no reason to read on");
        assert!(!Stamps([None, None, None]).are_young(at(0)));
    }

    #[test]
    fn a_picture_holds_while_the_wal_grows_and_no_longer() {
        let fixture = Fixture::with(WITHOUT_CHECKS);
        let open = Connection::open(&fixture.db).unwrap();
        let insert = |key: &str| open.execute("INSERT INTO functions VALUES (?1, '{}', 0)", [key]).unwrap();
        insert("GET:/1");
        let with_wal = Picture::read(&fixture.db).unwrap();
        assert!(with_wal.holds(&fixture.db).unwrap());
        insert("GET:/2");
        assert!(with_wal.holds(&fixture.db).unwrap());
        open.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
        assert!(!with_wal.holds(&fixture.db).unwrap(), "the database was written");
        let copied_back = Picture::read(&fixture.db).unwrap();
        insert("GET:/3");
        assert!(!copied_back.holds(&fixture.db).unwrap(), "the wal began anew");
        open.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
        let alone = Picture::read(&fixture.db).unwrap();
        assert!(alone.wal.is_empty() && alone.journal.is_empty() && alone.holds(&fixture.db).unwrap());
        open.execute_batch("BEGIN IMMEDIATE; DELETE FROM functions").unwrap();
        assert!(!alone.holds(&fixture.db).unwrap(), "a journal was begun");
        let with_journal = Picture::read(&fixture.db).unwrap();
        assert!(with_journal.holds(&fixture.db).unwrap());
        open.execute_batch("COMMIT").unwrap();
        assert!(!with_journal.holds(&fixture.db).unwrap());
    }

    #[test]
    fn files_that_differ_from_their_first_reading_are_no_picture() {
        let fixture = Fixture::empty();
        fs::write(&fixture.db, "abcdef").unwrap();
        let is = |bytes: &str, exactly| starts_with(&fixture.db, bytes.as_bytes(), exactly).unwrap();
        assert!(is("abcdef", true) && is("abc", false) && is("", false));
        assert!(!is("abc", true) && !is("abx", false) && !is("abcdefg", false) && !is("", true));
        let gone = fixture.folder.join("gone");
        assert!(starts_with(&gone, b"", true).unwrap() && !starts_with(&gone, b"a", false).unwrap());
    }
}
