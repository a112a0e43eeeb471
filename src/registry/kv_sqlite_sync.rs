//! The sync thread: carries the registry's rows into the map of routes.
//!
//! [`Sync::look`] runs every 50 ms. It asks the file system whether the registry moved (stamps.rs). If it did, it copies
//! the file (snapshot.rs), writes the code that changed (modules.rs), parses the rows whose text or code changed
//! (config_loader.rs), and swaps the map once (kv.rs). So all rows and modules of a transaction come into service together.
//!
//! Invariant: whatever goes wrong, the last good version stays in service. That holds for a file that is missing,
//! damaged or in the middle of being copied, and for a single row with a fault. The fault is logged once, and the first
//! look that finds the registry good again brings it into service.
//!
//! With FAAS_FOLLOWER=1 the file is a copy that another program writes, perhaps page by page. Then a state must be whole
//! (tables.rs, `tear`) and not older than the one in service. Elsewhere an older file is its owner's wish: a backup.
//!
//! The C original asked for `updated > last_sync` every 5 s: deletes never arrived, nor did edits within one second.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::config_loader::{self, Places, named_bundle};
use super::fault_log::FaultLog;
use super::files::remove_database;
use super::kv::{Kv, Route, Routes, Version};
use super::modules::{Bundles, CodeDir, Entry};
use super::snapshot::copy_registry;
use super::stamps::Stamps;
use super::tables::Tables;
use crate::log;
use crate::sandbox::protected::ProtectedPaths;
use crate::settings::Settings;

/// Time between two looks: half of the 100 ms that a commit may take to be in service.
const PERIOD: Duration = Duration::from_millis(50);

/// A registry that could not be used is read again after this time although nothing moved: the cause may lie outside.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A fault is logged when it has lasted this long.
const LOGGED_FAULT_AGE_MIN: Duration = Duration::from_millis(300);

/// Rows with a fault that one reading logs by name; it counts the rest.
const ROW_FAULTS_LOGGED_MAX: usize = 20;

/// The registry's reader. One for each gateway: its private copy lies in the run dir.
pub struct Sync {
    db: PathBuf,
    is_follower: bool,
    places: Places,
    code_dir: CodeDir,
    copy: PathBuf,
    kv: Arc<Kv>,
    /// The registry's rows as of the last reading, by key.
    rows: HashMap<String, Row>,
    /// Number of readings; a row that the newest one did not find is gone.
    readings: u64,
    /// The files before the last reading. `None` asks for another reading at once.
    seen: Option<Stamps>,
    /// When to try again although nothing moved.
    retry_at: Option<Instant>,
    faults: FaultLog,
}

/// A row, good or not.
struct Row {
    /// The descriptor as text, to see when it changes.
    text: String,
    /// In service for this key: the newest version without fault, else the fault; `None` where the key is no route.
    route: Option<Arc<Route>>,
    inflight: Arc<AtomicU64>,
    /// The newest reading that found it.
    reading: u64,
    /// The bundle that it names, if it names one.
    bundle: Option<String>,
}

/// What one reading found.
struct Reading {
    /// Key and descriptor of each row that differs from the last reading in its text or its code.
    rows: Vec<(String, String)>,
    /// Bundles that differ, `None` for those that no row names any more.
    bundles: Vec<(String, Option<Entry>)>,
    version: Option<Version>,
}

impl Sync {
    pub fn new(settings: &Settings, kv: Arc<Kv>) -> Sync {
        Sync {
            db: settings.db.clone(),
            is_follower: settings.is_follower,
            places: Places {
                module_root: settings.module_root.clone(),
                protected: ProtectedPaths::new(settings),
                code: Bundles::default(),
            },
            code_dir: CodeDir::new(settings.code_dirs()),
            copy: settings.run_dir.join("registry.copy"),
            kv,
            rows: HashMap::new(),
            readings: 0,
            seen: None,
            retry_at: None,
            faults: FaultLog::default(),
        }
    }

    /// The body of the thread: looks until `shutdown` has a message or no sender any more.
    pub fn run(mut self, shutdown: &Receiver<()>) {
        while shutdown.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
            self.look();
        }
    }

    /// Reads the registry if it moved; returns true if it has read it. The first look loads the registry, so the gateway
    /// calls it once before it listens.
    pub fn look(&mut self) -> bool {
        // SQLite puts a -wal beside the target of a symbolic link.
        let db = fs::canonicalize(&self.db).unwrap_or_else(|_| self.db.clone());
        let stamps = Stamps::of(&db);
        let now = Instant::now();
        if self.code_dir.check(&mut self.places.code) {
            self.seen = None;
        }
        if self.seen.as_ref() == Some(&stamps) && self.retry_at.is_none_or(|at| now < at) {
            return false;
        }
        self.seen = (!stamps.are_young(SystemTime::now())).then_some(stamps);
        self.retry_at = None;
        let fault = match self.read(&db) {
            Ok(Some(reading)) => {
                self.take_over(reading);
                None
            }
            Ok(None) => {
                self.seen = None;
                Some("it changes faster than it can be read".to_string())
            }
            Err(fault) => {
                self.retry_at = Some(now + RETRY_PAUSE);
                Some(fault)
            }
        };
        let has_read = fault.is_none();
        // At the start nothing is in service, so there the fault is worth a line at once.
        let age_min = if self.kv.is_loaded() { LOGGED_FAULT_AGE_MIN } else { Duration::ZERO };
        if let Some(line) = self.faults.update(fault, now, age_min) {
            log!("registry {}: {line}; {} routes are in service", self.db.display(), self.kv.len());
        }
        has_read
    }

    /// Returns what changed, `None` where writers were too busy for a snapshot, or the fault as text.
    fn read(&mut self, db: &Path) -> Result<Option<Reading>, String> {
        let is_copied = copy_registry(db, &self.copy).map_err(|cause| cause.to_string());
        let reading = match is_copied {
            Ok(true) => self.compare_with_copy().map(Some),
            Ok(false) => Ok(None),
            Err(cause) => Err(cause),
        };
        remove_database(&self.copy);
        reading
    }

    /// Reads the copy, writes the code that changed, and marks the rows that are the same. Nothing else changes here, since
    /// the reading may yet fail at its last row.
    fn compare_with_copy(&mut self) -> Result<Reading, String> {
        let tables = Tables::open(&self.copy).map_err(|cause| cause.to_string())?;
        let version = tables.version().map_err(|cause| cause.to_string())?;
        if self.is_follower {
            self.check_copy(&tables, version)?;
        }
        let bundles = self.code_dir.update(&tables, &self.places.code)?;
        let changed_bundles: HashSet<&str> = bundles.iter().map(|(name, _)| name.as_str()).collect();
        let is_changed =
            |bundle: &Option<String>| bundle.as_ref().is_some_and(|name| changed_bundles.contains(name.as_str()));
        self.readings += 1;
        let (reading, rows) = (self.readings, &mut self.rows);
        let mut changed = Vec::new();
        tables
            .for_each_row(|key, text| match rows.get_mut(key) {
                // A table without a primary key can hold a key twice: one of the rows counts.
                Some(known) if known.reading == reading => {}
                Some(known) if known.text == text && !is_changed(&known.bundle) => known.reading = reading,
                _ => changed.push((key.to_string(), text.to_string())),
            })
            .map_err(|cause| cause.to_string())?;
        Ok(Reading { rows: changed, bundles, version })
    }

    /// Refuses what a follower must not take into service.
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

    /// Parses what changed, forgets what is gone, and brings the new map into service.
    fn take_over(&mut self, found: Reading) {
        self.code_dir.apply(found.bundles, &mut self.places.code);
        let (mut changes, mut faults) = (0, 0);
        for (key, text) in found.rows {
            if self.rows.get(&key).is_some_and(|row| row.reading == self.readings) {
                continue; // Another row of this key counts.
            }
            changes += 1;
            if let Some(fault) = self.take_over_row(key, text) {
                faults += 1;
                if faults <= ROW_FAULTS_LOGGED_MAX {
                    log!("registry: {fault}");
                }
            }
        }
        if faults > ROW_FAULTS_LOGGED_MAX {
            log!("registry: {} more rows have faults", faults - ROW_FAULTS_LOGGED_MAX);
        }
        let before = self.rows.len();
        self.rows.retain(|_, row| row.reading == self.readings);
        changes += before - self.rows.len();
        if changes > 0 || !self.kv.is_loaded() {
            self.kv.swap(Routes::new(self.rows.values().filter_map(|row| row.route.clone())), found.version);
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

    /// Returns the line to log where the row has a fault.
    fn take_over_row(&mut self, key: String, text: String) -> Option<String> {
        let reading = self.readings;
        let (old, inflight) = match self.rows.remove(&key) {
            Some(row) => (row.route, row.inflight),
            None => (None, Arc::default()),
        };
        let parsed = config_loader::parse(&key, &text, &self.places, inflight.clone());
        let bundle = parsed.as_ref().map_or_else(|_| named_bundle(&text), |function| function.bundle.clone());
        let (route, line) = match parsed {
            Ok(function) => {
                let line = unknown_fields_line(&key, &function.unknown_fields);
                (Route::new(&key, Ok(Arc::new(function))).map(Arc::new), line)
            }
            Err(fault) => match old.filter(|route| route.function().is_some()) {
                Some(good) => {
                    let line = format!("row {key}: {fault}; its last good version stays in service");
                    (Some(good), Some(line))
                }
                None => {
                    let line = format!("row {key}: {fault}");
                    (Route::new(&key, Err(fault)).map(Arc::new), Some(line))
                }
            },
        };
        self.rows.insert(key, Row { text, route, inflight, reading, bundle });
        line
    }
}

fn unknown_fields_line(key: &str, fields: &[String]) -> Option<String> {
    let (first, more) = (fields.first()?, fields.len() - 1);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    Some(format!("row {key}: the field {first}{more} does not exist, and is ignored"))
}

#[cfg(test)]
mod tests;
