//! The sync thread: carries the registry's rows into the map of routes.
//!
//! [`Sync::look`] runs every 50 ms. It asks the file system whether the registry moved (stamps.rs). If it did, it reads
//! the table (snapshot.rs), parses the rows whose text changed (config_loader.rs), and swaps the map once (kv.rs). So all
//! rows of a transaction come into service together.
//!
//! Invariant: whatever goes wrong, the last good version stays in service. That holds for a file that is missing,
//! damaged or in the middle of being copied, and for a single row with a fault. The fault is logged once, and the first
//! look that finds the registry good again brings it into service.
//!
//! The C original asked for `updated > last_sync` every 5 s: deletes never arrived, nor did edits within one second.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::config_loader::{self, Places};
use super::fault_log::FaultLog;
use super::files::remove_database;
use super::kv::{Kv, Route, Routes};
use super::snapshot::{Snapshot, for_each_row};
use super::stamps::Stamps;
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
    places: Places,
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
}

/// Key and descriptor of a row whose text differs from that of the last reading.
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

    /// Returns the rows that changed, `None` where writers were too busy for a snapshot, or the fault as text.
    fn read(&mut self, db: &Path) -> Result<Option<Vec<Changed>>, String> {
        let Some(snapshot) = Snapshot::take(db).map_err(|cause| cause.to_string())? else { return Ok(None) };
        let copied = snapshot.write_to(&self.copy);
        drop(snapshot);
        let rows = copied
            .map_err(|cause| format!("could not write its copy {}: {cause}", self.copy.display()))
            .and_then(|()| self.compare_with_copy());
        remove_database(&self.copy);
        rows.map(Some)
    }

    /// Reads the table from the copy and marks the rows that it still has. Nothing else changes here, since the reading
    /// may yet fail at its last row.
    fn compare_with_copy(&mut self) -> Result<Vec<Changed>, String> {
        self.readings += 1;
        let (reading, rows) = (self.readings, &mut self.rows);
        let mut changed = Vec::new();
        for_each_row(&self.copy, |key, text| match rows.get_mut(key) {
            // A table without a primary key can hold a key twice: one of the rows counts.
            Some(known) if known.reading == reading => {}
            Some(known) if known.text == text => known.reading = reading,
            _ => changed.push((key.to_string(), text.to_string())),
        })
        .map_err(|cause| cause.to_string())?;
        Ok(changed)
    }

    /// Parses what changed, forgets what is gone, and brings the new map into service.
    fn take_over(&mut self, changed: Vec<Changed>) {
        let (mut changes, mut faults) = (0, 0);
        for (key, text) in changed {
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
            self.kv.swap(Routes::new(self.rows.values().filter_map(|row| row.route.clone())));
            let (count, generation) = (self.kv.len(), self.kv.generation());
            log!("registry: generation {generation} is in service: {count} routes, rows changed: {changes}");
        }
    }

    /// Returns the line to log where the row has a fault.
    fn take_over_row(&mut self, key: String, text: String) -> Option<String> {
        let reading = self.readings;
        let (old, inflight) = match self.rows.remove(&key) {
            Some(row) => (row.route, row.inflight),
            None => (None, Arc::default()),
        };
        let (route, line) = match config_loader::parse(&key, &text, &self.places, inflight.clone()) {
            Ok(function) => (Route::new(&key, Ok(Arc::new(function))).map(Arc::new), None),
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
        self.rows.insert(key, Row { text, route, inflight, reading });
        line
    }
}

#[cfg(test)]
mod tests;
