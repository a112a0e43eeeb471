//! The registry's rows as of the last reading, each with the version that it serves.
//!
//! Invariant: a row with a fault serves its last good version, while the row exists. That holds across a restart:
//! last_good.rs keeps the text of that version in the run dir.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::config_loader::{self, Function, Places, named_bundle};
use super::kv::{FAULTS_TOLD_MAX, RowFaults};
use super::last_good::LastGood;
use super::routes::Route;

pub struct Rows {
    rows: HashMap<String, Row>,
    /// Number of readings; a row that the newest one did not find is gone.
    reading: u64,
    /// Rows that the newest reading has found so far.
    found: usize,
    /// Rows with a fault. Usually there is none: then nobody need look for them among 100,000.
    faulty: usize,
    last_good: LastGood,
}

/// A row, with or without a fault.
struct Row {
    /// The descriptor as text, to see when it changes.
    text: String,
    /// In service for this key: the newest version without a fault, else the fault; `None` where the key is no route.
    route: Option<Arc<Route>>,
    /// The fault of `text`, where another version or nothing is in service.
    fault: Option<String>,
    /// The text of the version in service, where it differs from `text`.
    good: Option<String>,
    inflight: Arc<AtomicU64>,
    /// The newest reading that found it.
    reading: u64,
    /// The bundle that it names, if it names one.
    bundle: Option<String>,
}

impl Rows {
    pub fn new(last_good: LastGood) -> Rows {
        Rows { rows: HashMap::new(), reading: 0, found: 0, faulty: 0, last_good }
    }

    /// Must be called before the rows of a reading.
    pub fn begin_reading(&mut self) {
        self.reading += 1;
        self.found = 0;
    }

    /// True for a row that, with its code, is the same as in the last reading. Marks it as found.
    pub fn is_unchanged(&mut self, key: &str, text: &str, changed_bundles: &HashSet<&str>) -> bool {
        let Some(row) = self.rows.get_mut(key) else { return false };
        // A table without a primary key can hold a key twice: then one of the rows counts.
        if row.reading == self.reading {
            return true;
        }
        let has_new_code = row.bundle.as_ref().is_some_and(|name| changed_bundles.contains(name.as_str()));
        let is_unchanged = row.text == text && !has_new_code;
        if is_unchanged {
            row.reading = self.reading;
            self.found += 1;
        }
        is_unchanged
    }

    /// True if this reading has taken over another row of this key.
    pub fn is_taken_over(&self, key: &str) -> bool {
        self.rows.get(key).is_some_and(|row| row.reading == self.reading)
    }

    /// Takes over a row that is new or has changed.
    ///
    /// # Errors
    /// The line to log, if the row has a fault.
    pub fn take_over(&mut self, key: String, text: String, places: &Places) -> Result<Arc<Function>, String> {
        let old = self.rows.remove(&key);
        self.faulty -= usize::from(old.as_ref().is_some_and(|row| row.fault.is_some()));
        let inflight = old.as_ref().map_or_else(Arc::default, |row| row.inflight.clone());
        let parsed = config_loader::parse(&key, &text, places, inflight.clone()).map(Arc::new);
        let bundle = parsed.as_ref().map_or_else(|_| named_bundle(&text), |function| function.bundle.clone());
        let mut row = Row { text, route: None, fault: None, good: None, inflight, reading: self.reading, bundle };
        let result = match parsed {
            Ok(function) => {
                row.route = Route::new(&key, Ok(function.clone())).map(Arc::new);
                Ok(function)
            }
            Err(fault) => {
                let good = old.and_then(Row::into_good).or_else(|| self.restored(&key, places, &row.inflight));
                let line = format!("row {key}: {fault}");
                row.fault = Some(fault.clone());
                match good {
                    Some((route, text)) => {
                        (row.route, row.good) = (Some(route), Some(text));
                        Err(format!("{line}; its last good version stays in service"))
                    }
                    None => {
                        row.route = Route::new(&key, Err(fault)).map(Arc::new);
                        Err(line)
                    }
                }
            }
        };
        self.found += 1;
        self.faulty += usize::from(row.fault.is_some());
        self.rows.insert(key, row);
        result
    }

    /// The version of a row that was in service before a restart, if it still parses.
    fn restored(&self, key: &str, places: &Places, inflight: &Arc<AtomicU64>) -> Option<(Arc<Route>, String)> {
        let text = self.last_good.text_of(key)?;
        let function = config_loader::parse(key, text, places, inflight.clone()).ok()?;
        Some((Arc::new(Route::new(key, Ok(Arc::new(function)))?), text.to_string()))
    }

    /// Forgets the rows that this reading has not found, saves the data for a restart, and returns the number of
    /// removed rows.
    pub fn end_reading(&mut self) -> usize {
        let gone = self.rows.len() - self.found;
        if gone > 0 {
            self.rows.retain(|_, row| row.reading == self.reading);
            self.faulty = self.rows.values().filter(|row| row.fault.is_some()).count();
        }
        let good = |(key, row): (&String, &Row)| Some((key.clone(), row.good.clone()?));
        let good: Vec<_> = self.with_faults().filter_map(good).collect();
        self.last_good.keep(good.into_iter());
        gone
    }

    fn with_faults(&self) -> impl Iterator<Item = (&String, &Row)> {
        let looked_at = if self.faulty > 0 { self.rows.len() } else { 0 };
        self.rows.iter().take(looked_at).filter(|(_, row)| row.fault.is_some())
    }

    pub fn routes(&self) -> impl Iterator<Item = Arc<Route>> {
        self.rows.values().filter_map(|row| row.route.clone())
    }

    /// The rows with faults, for the operator.
    pub fn faults(&self) -> RowFaults {
        let fault = |(key, row): (&String, &Row)| row.fault.as_ref().map(|fault| (key.clone(), fault.clone()));
        let mut faults: Vec<_> = self.with_faults().filter_map(fault).collect();
        let count = faults.len();
        faults.sort_unstable();
        faults.truncate(FAULTS_TOLD_MAX);
        RowFaults { count, first: faults }
    }
}

impl Row {
    /// The version in service, where it is a function, and its text.
    fn into_good(self) -> Option<(Arc<Route>, String)> {
        let route = self.route.filter(|route| route.serves().is_ok())?;
        Some((route, self.good.unwrap_or(self.text)))
    }
}
