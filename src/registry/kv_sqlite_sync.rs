//! The sync thread: copies the registry's rows into the map of routes.
//!
//! The kernel tells the thread when a file of the registry changes ([`FolderWatch`]). Then, and five times a second
//! anyway, [`Sync::look`] asks the file system if the registry changed (stamps.rs). If so, it copies the changed parts
//! (snapshot.rs), writes the code that changed (modules.rs), and parses the rows whose text or code changed
//! (config_loader.rs). Then it swaps the map once (kv.rs), so all rows and modules of a transaction come into service
//! together. The functions that are new are handed to a callback of the gateway's.
//!
//! Invariant: after any failure, the last good version stays in service. That holds for a file that is missing, damaged
//! or half copied, and for a single row with a fault. The thread logs the fault once. The first look that finds the
//! registry good again brings it into service.
//!
//! With FAAS_FOLLOWER=1 another program writes the file as a copy, perhaps page by page. Then a state must be whole
//! (tables.rs, `tear`) and not older than the one in service. Without FAAS_FOLLOWER, the owner may restore an older
//! file: a backup.
//!
//! The C original asked for `updated > last_sync` every 5 s: deletes never arrived, nor did edits within one second.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::config_loader::{Function, Places};
use super::fault_log::FaultLog;
use super::kv::{Kv, Version};
use super::last_good::LastGood;
use super::modules::{Bundles, CodeDir, Entry};
use super::remarks::remarks;
use super::routes::Routes;
use super::rows::Rows;
use super::snapshot::{Snapshot, Taken};
use super::stamps::Stamps;
use super::tables::Tables;
use crate::log;
use crate::sandbox::User;
use crate::sandbox::protected::ProtectedPaths;
use crate::settings::Settings;
use crate::sys::{self, EventFd, FolderWatch, Watched};

/// Least time between two readings, however often the files change: a quarter of the 100 ms within which a commit must be
/// in service. It is also the time to the next look where the kernel tells nothing, where a change may hide behind an
/// equal stamp, and where the copy must catch up.
const PERIOD_MIN: Duration = Duration::from_millis(25);

/// Time between two looks while nothing is told. File systems of a network tell nothing of what other machines write
/// (inotify(7)), and a link on the way to the registry may lead elsewhere.
const PERIOD_MAX: Duration = Duration::from_millis(200);

/// Time from the first notice to the look: a small transaction writes its journal, its pages and its end in less.
const COMMIT_TIME: Duration = Duration::from_millis(5);

/// An unusable registry is read again after this time, even if it did not change: the cause may lie outside.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A fault is logged once it has lasted this long.
const LOGGED_FAULT_AGE_MIN: Duration = Duration::from_millis(300);

/// Lines on rows that one reading logs; it counts the rest.
const ROW_LINES_LOGGED_MAX: usize = 20;

/// Changed rows whose files one reading checks for remarks: checking 100,000 new rows would take a second.
const ROWS_LOOKED_AT_MAX: usize = 1000;

/// The registry's reader. One for each gateway: its private copy lies in the run dir.
pub struct Sync {
    db: PathBuf,
    /// `db` without symbolic links, as of the last reading. A link that leads elsewhere since then shows in the stamps.
    real_db: PathBuf,
    is_follower: bool,
    places: Places,
    code_dir: CodeDir,
    snapshot: Snapshot,
    kv: Arc<Kv>,
    rows: Rows,
    /// The user that functions run as, if it is not our own user.
    user: Option<User>,
    /// The files' stamps before the last reading. `None` asks for another reading at once.
    seen: Option<Stamps>,
    /// The end of the last reading.
    read_at: Option<Instant>,
    /// The time of the next try, even if nothing changed.
    retry_at: Option<Instant>,
    faults: FaultLog,
    arrived: Arrived,
}

/// Takes the functions of new and changed rows. Must not block.
type Arrived = Box<dyn Fn(&[Arc<Function>]) + Send>;

/// The result of a look at files that may have changed.
enum Read {
    New(Reading),
    /// They have the bytes whose state is in service.
    Same,
    /// Writers were too busy for a snapshot.
    Busy,
}

/// The result of one reading.
struct Reading {
    /// Key and descriptor of each row that differs from the last reading in its text or its code.
    rows: Vec<(String, String)>,
    /// Bundles that differ; `None` for those that no row names any more.
    bundles: Vec<(String, Option<Entry>)>,
    version: Option<Version>,
}

impl Sync {
    /// `arrived` is called with the functions of the new and changed rows of each reading, once they are in service. It
    /// must not block.
    pub fn new(
        settings: &Settings,
        kv: Arc<Kv>,
        user: Option<User>,
        arrived: impl Fn(&[Arc<Function>]) + Send + 'static,
    ) -> Sync {
        Sync {
            db: settings.db.clone(),
            real_db: settings.db.clone(),
            is_follower: settings.is_follower,
            places: Places {
                module_root: settings.module_root.clone(),
                protected: ProtectedPaths::new(settings),
                code: Bundles::default(),
            },
            code_dir: CodeDir::new(settings.code_dirs()),
            snapshot: Snapshot::new(settings.instance_dir().join("registry.copy")),
            kv,
            rows: Rows::new(LastGood::load(settings.run_dir.join("last_good.json"))),
            user,
            seen: None,
            read_at: None,
            retry_at: None,
            faults: FaultLog::default(),
            arrived: Box::new(arrived),
        }
    }

    /// Sets if no other gateway uses the same code dir (modules.rs).
    pub fn set_alone(&mut self, is_alone: bool) {
        self.code_dir.is_alone = is_alone;
    }

    /// The body of the thread: looks until `shutdown` is signalled. Calls `is_alone` each time.
    pub fn run(mut self, shutdown: &EventFd, is_alone: impl Fn() -> bool) {
        let mut watch = self.watch();
        while let Some(is_told) = self.wait(shutdown, watch.as_ref()) {
            let is_expected = is_told || self.seen.is_none();
            self.set_alone(is_alone());
            // The kernel told nothing of this change, so the registry may lie in another folder now.
            if self.look() && !is_expected {
                watch = self.watch();
            }
        }
    }

    /// A watch of the folder in which SQLite writes. `None` if the kernel grants none: then the thread looks more often.
    fn watch(&self) -> Option<FolderWatch> {
        let folder = self.real_db.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        FolderWatch::new(folder).ok()
    }

    /// Waits for the time of the next look; true if the kernel told of a change. `None` after `shutdown`.
    fn wait(&self, shutdown: &EventFd, watch: Option<&FolderWatch>) -> Option<bool> {
        let last = Instant::now();
        let period = if watch.is_none() || self.seen.is_none() { PERIOD_MIN } else { PERIOD_MAX };
        let database = self.real_db.file_name().unwrap_or_default().as_encoded_bytes();
        let is_registrys = |name: &OsStr| name.as_encoded_bytes().starts_with(database);
        loop {
            let notices = watch.map_or(Watched::nothing(), |watch| Watched::read(watch.as_fd()));
            let mut watched = [Watched::read(shutdown.as_fd()), notices];
            let ready = sys::poll(&mut watched, Some(period.saturating_sub(last.elapsed())));
            if watched[0].is_ready() || ready.is_err() {
                return None;
            }
            match watch {
                Some(watch) if watched[1].is_ready() => {
                    if watch.take(is_registrys) {
                        let rest = self.read_at.map_or(PERIOD_MIN, |at| at.elapsed());
                        let left = PERIOD_MIN.saturating_sub(rest).max(COMMIT_TIME);
                        sys::poll(&mut watched[..1], Some(left)).ok()?;
                        watch.take(is_registrys);
                        return (!watched[0].is_ready()).then_some(true);
                    }
                }
                _ => return Some(false),
            }
        }
    }

    /// Reads the registry if it changed; true if it was read. The first look loads the registry, so the gateway calls
    /// it once before it listens.
    pub fn look(&mut self) -> bool {
        let now = Instant::now();
        if self.code_dir.check(&mut self.places.code) {
            self.seen = None;
            self.snapshot.set_read(false);
        }
        let is_unchanged = self.seen.as_ref().is_some_and(|seen| *seen == Stamps::of(&self.db, &self.real_db));
        if is_unchanged && self.retry_at.is_none_or(|at| now < at) {
            return false;
        }
        self.real_db = fs::canonicalize(&self.db).unwrap_or_else(|_| self.db.clone());
        let stamps = Stamps::of(&self.db, &self.real_db);
        self.seen = (!stamps.are_young(SystemTime::now())).then_some(stamps);
        self.retry_at = None;
        let read = self.read();
        let is_same = matches!(read, Ok(Read::Same));
        let fault = match read {
            Ok(Read::New(reading)) => {
                // Before the swap: once these routes answer, nobody shall hear of a fault.
                self.kv.set_file_fault(None);
                self.take_over(reading);
                self.snapshot.set_read(true);
                if self.snapshot.is_behind() {
                    self.seen = None;
                }
                None
            }
            Ok(Read::Same) => None,
            Ok(Read::Busy) => {
                self.seen = None;
                Some("it changes faster than it can be read".to_string())
            }
            Err(fault) => {
                self.retry_at = Some(now + RETRY_PAUSE);
                Some(fault)
            }
        };
        if !is_same {
            self.read_at = Some(Instant::now());
        }
        let has_read = fault.is_none();
        // At the start no route is in service, so the fault is logged at once.
        let age_min = if self.kv.is_loaded() { LOGGED_FAULT_AGE_MIN } else { Duration::ZERO };
        if let Some(line) = self.faults.update(fault, now, age_min) {
            log!("registry {}: {line}; {} routes are in service", self.db.display(), self.kv.len());
            self.kv.set_file_fault(self.faults.logged().map(str::to_string));
        }
        has_read
    }

    /// Returns the changes, or the fault as text.
    fn read(&mut self) -> Result<Read, String> {
        match self.snapshot.take(&self.real_db).map_err(|cause| cause.to_string())? {
            Taken::New => self.compare_with_copy().map(Read::New),
            Taken::Same => Ok(Read::Same),
            Taken::CaughtUp => {
                self.seen = None;
                Ok(Read::Same)
            }
            Taken::Busy => Ok(Read::Busy),
        }
    }

    /// Reads the copy, writes the code that changed, and marks the rows that are the same. Changes nothing else, since
    /// the reading may still fail at its last row.
    fn compare_with_copy(&mut self) -> Result<Reading, String> {
        let tables = Tables::open(self.snapshot.path()).map_err(|cause| cause.to_string())?;
        let version = tables.version().map_err(|cause| cause.to_string())?;
        if self.is_follower {
            self.check_copy(&tables, version)?;
        }
        let bundles = self.code_dir.update(&tables, &self.places.code)?;
        let changed_bundles: HashSet<&str> = bundles.iter().map(|(name, _)| name.as_str()).collect();
        let (rows, mut changed) = (&mut self.rows, Vec::new());
        rows.begin_reading();
        tables
            .for_each_row(|key, text| {
                if !rows.is_unchanged(key, text, &changed_bundles) {
                    changed.push((key.to_string(), text.to_string()));
                }
            })
            .map_err(|cause| cause.to_string())?;
        Ok(Reading { rows: changed, bundles, version })
    }

    /// Rejects a state that a follower must not take into service.
    fn check_copy(&self, tables: &Tables, version: Option<Version>) -> Result<(), String> {
        if let Some(tear) = tables.tear().map_err(|cause| cause.to_string())? {
            return Err(format!("it is not a whole copy: {tear}"));
        }
        match (self.kv.generation(), version.map(|version| version.generation)) {
            (Some(ours), None) => Err(format!("it has no history, and generation {ours} is in service")),
            (Some(ours), Some(arrived)) if arrived < ours => {
                Err(format!("it is older than what is in service: generation {arrived}, not {ours}"))
            }
            _ => Ok(()),
        }
    }

    /// Parses changed rows, forgets removed ones, and brings the new map into service.
    fn take_over(&mut self, found: Reading) {
        self.code_dir.apply(found.bundles, &mut self.places.code);
        let (mut changes, mut lines, mut functions) = (0, Vec::new(), Vec::new());
        for (key, text) in found.rows {
            if self.rows.is_taken_over(&key) {
                continue; // Another row of this key counts.
            }
            changes += 1;
            match self.rows.take_over(key, text, &self.places) {
                Ok(function) => {
                    if changes <= ROWS_LOOKED_AT_MAX {
                        let remarks = remarks(&function, self.user.as_ref());
                        lines.extend(remarks.into_iter().map(|remark| format!("row {}: {remark}", function.route)));
                    }
                    functions.push(function);
                }
                Err(fault) => lines.push(fault),
            }
        }
        lines.iter().take(ROW_LINES_LOGGED_MAX).for_each(|line| log!("registry: {line}"));
        if lines.len() > ROW_LINES_LOGGED_MAX {
            log!("registry: {} more such lines; faas check checks all rows", lines.len() - ROW_LINES_LOGGED_MAX);
        }
        changes += self.rows.end_reading();
        if changes > 0 || !self.kv.is_loaded() {
            self.kv.swap(Routes::new(self.rows.routes()), found.version);
            self.kv.set_row_faults(self.rows.faults());
            (self.arrived)(&functions);
        } else {
            let before = self.kv.generation();
            self.kv.set_version(found.version);
            if before == self.kv.generation() {
                return;
            }
        }
        let generation = self.kv.generation().map_or("a version".to_string(), |number| format!("generation {number}"));
        log!("registry: {generation} is in service: {} routes, rows changed: {changes}", self.kv.len());
    }
}

#[cfg(test)]
mod tests;
