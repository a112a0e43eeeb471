//! The routes in service: what the C original called its key-value store, here one map (routes.rs) behind one lock.
//!
//! Invariants: one [`Kv::swap`] brings all rows of a transaction into force. A request that has found a route keeps
//! it, even if a later swap replaces it. The lock is held for a look-up (less than a microsecond) or for the exchange
//! of two maps. The thread that swaps builds the new maps before, and drops the old ones after.
//!
//! The C original handed out a pointer to a value after it had released the lock; a sync could free it in between.

use std::sync::{Mutex, MutexGuard};

use super::routes::{Found, Routes};

/// The registry's state that the routes come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Version {
    /// The newest id of the history.
    pub generation: u64,
    /// The time of that change, in seconds since 1970; 0 before the first change.
    pub changed_at: f64,
    /// The registry's newest sign of life, in seconds since 1970: that change, or the heartbeat in its table settings.
    pub alive_at: f64,
}

/// The routes in service.
#[derive(Debug, Default)]
pub struct Kv {
    service: Mutex<Service>,
}

/// The data that the lock guards.
#[derive(Debug, Default)]
struct Service {
    routes: Routes,
    is_loaded: bool,
    /// The registry's version that the routes come from; `None` where it keeps no history.
    version: Option<Version>,
    faults: Faults,
}

/// The registry's faults, for the operator.
#[derive(Debug, Default, Clone)]
pub struct Faults {
    /// The reason why the file cannot be used: the routes in service are those of its last good state.
    pub file: Option<String>,
    pub rows: RowFaults,
}

/// Rows with faults: each serves its last good version, or answers 500.
#[derive(Debug, Default, Clone)]
pub struct RowFaults {
    pub count: usize,
    /// Key and fault of the first [`FAULTS_TOLD_MAX`], by key.
    pub first: Vec<(String, String)>,
}

/// Rows with faults that are named to the operator.
pub const FAULTS_TOLD_MAX: usize = 20;

impl Kv {
    pub fn new() -> Kv {
        Kv::default()
    }

    /// The match for a request, and the registry's generation at that moment. `host` has no port.
    pub fn find(&self, method: &str, host: &str, path: &str) -> (Found, Option<u64>) {
        let service = self.lock();
        (service.routes.find(method, host, path), service.version.map(|version| version.generation))
    }

    /// True if a row of this key is in service.
    pub fn contains(&self, key: &str) -> bool {
        self.lock().routes.contains(key)
    }

    /// Brings `routes` into force, all at once, as the registry's state of `version`.
    pub fn swap(&self, routes: Routes, version: Option<Version>) {
        let old = {
            let mut service = self.lock();
            service.is_loaded = true;
            service.version = version;
            std::mem::replace(&mut service.routes, routes)
        };
        drop(old); // Here, without the lock: to free 100,000 routes takes milliseconds.
    }

    /// Sets another version for the routes in force: the change touched no route.
    pub fn set_version(&self, version: Option<Version>) {
        self.lock().version = version;
    }

    pub fn set_file_fault(&self, fault: Option<String>) {
        self.lock().faults.file = fault;
    }

    pub fn set_row_faults(&self, faults: RowFaults) {
        self.lock().faults.rows = faults;
    }

    pub fn faults(&self) -> Faults {
        self.lock().faults.clone()
    }

    /// True if the routes in service are those of the present file.
    pub fn is_current(&self) -> bool {
        self.lock().faults.file.is_none()
    }

    /// Number of routes in service, unusable ones included.
    pub fn len(&self) -> usize {
        self.lock().routes.count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The registry's generation in service; `None` where it keeps no history, or was never read.
    pub fn generation(&self) -> Option<u64> {
        self.version().map(|version| version.generation)
    }

    /// The version in service, with its times.
    pub fn version(&self) -> Option<Version> {
        self.lock().version
    }

    /// True once the registry was read.
    pub fn is_loaded(&self) -> bool {
        self.lock().is_loaded
    }

    fn lock(&self) -> MutexGuard<'_, Service> {
        self.service.lock().expect("nothing panics while it holds this lock")
    }
}
