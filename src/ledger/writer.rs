//! The ledger's thread: takes calls out of the queue and writes them in batches, in any state of the file.
//!
//! | the file | then |
//! |---|---|
//! | is not there, or another one lies in its place | it is opened anew |
//! | is damaged | it is moved to NAME.damaged, and a new one is begun |
//! | is locked, full, not writable, or no ledger | the batch is kept and tried again every second; the queue fills, and what does not fit is counted |
//!
//! The thread logs a fault once, and its end once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Select};

use super::Call;
use super::file::{Fault, LedgerFile, Retention};
use crate::log;

/// A call waits this long for others: they share a transaction, and need not wake the thread one by one.
const GATHER: Duration = Duration::from_millis(100);
/// Rows of one transaction.
const BATCH_MAX: usize = 2048;
/// Pause before another try after a fault.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Interval of the retention; while rows are left to delete, it also runs after each batch.
const RETENTION_PERIOD: Duration = Duration::from_secs(5);

pub struct Writer {
    pub path: PathBuf,
    pub retention: Retention,
    /// True if this process runs the retention: during an upgrade two gateways write.
    pub is_current: Box<dyn Fn() -> bool + Send>,
    pub calls: Receiver<Box<Call>>,
    /// Carries no message; when it closes, the thread must end.
    pub stopped: Receiver<()>,
    pub unrecorded: Arc<AtomicU64>,
    pub file: Option<LedgerFile>,
    /// The fault that was logged.
    pub fault: Option<String>,
    /// The time when the retention had nothing left to delete.
    pub retained_at: Option<Instant>,
}

impl Writer {
    /// Runs until the gateway ends. The file exists from the start, so that a reader finds one before the first call.
    pub fn run(mut self) {
        let mut batch = Vec::new();
        let mut is_stopping = false;
        loop {
            batch.extend(self.calls.try_iter().take(BATCH_MAX - batch.len()));
            let has_written = self.write(&batch);
            if has_written {
                batch.clear();
            }
            if is_stopping && (!has_written || self.calls.is_empty()) {
                let lost = batch.len() + self.calls.len();
                if lost > 0 {
                    log!("ledger: {lost} calls were not recorded");
                }
                return;
            }
            is_stopping = is_stopping || self.wait(has_written);
        }
    }

    /// Waits for work; true when the thread must end.
    fn wait(&self, has_written: bool) -> bool {
        let stops_within = |time| self.stopped.recv_timeout(time) == Err(RecvTimeoutError::Disconnected);
        if !has_written {
            return stops_within(RETRY_PAUSE);
        }
        // With rows to delete the thread continues soon, otherwise with the next call.
        if self.retained_at.is_some() {
            let mut select = Select::new();
            select.recv(&self.calls);
            let stopped = select.recv(&self.stopped);
            if select.ready_timeout(RETENTION_PERIOD) == Ok(stopped) {
                return true;
            }
        }
        stops_within(GATHER)
    }

    /// True if the batch is in the file.
    fn write(&mut self, batch: &[Box<Call>]) -> bool {
        let unrecorded = self.unrecorded.swap(0, Ordering::Relaxed);
        match self.try_write(batch, unrecorded) {
            Ok(()) => {
                if self.fault.take().is_some() {
                    log!("ledger: {} is written again; {unrecorded} calls were not recorded", self.path.display());
                }
                true
            }
            Err(fault) => {
                self.unrecorded.fetch_add(unrecorded, Ordering::Relaxed);
                self.file = None;
                self.note(fault);
                false
            }
        }
    }

    fn try_write(&mut self, batch: &[Box<Call>], unrecorded: u64) -> Result<(), Fault> {
        self.file = self.file.take().filter(LedgerFile::is_in_place);
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(LedgerFile::open(&self.path)?),
        };
        // After a fault the thread always writes something: only a write shows that the fault has passed.
        let is_due = self.retained_at.is_none_or(|at| at.elapsed() >= RETENTION_PERIOD) || self.fault.is_some();
        let retains = is_due && (self.is_current)();
        if batch.is_empty() && unrecorded == 0 && !retains {
            return Ok(());
        }
        let has_more = file.write(batch, unrecorded, retains.then_some(self.retention))?;
        if retains {
            self.retained_at = (!has_more).then(Instant::now);
        }
        Ok(())
    }

    fn note(&mut self, fault: Fault) {
        let (is_damaged, text) = match fault {
            Fault::Damaged(text) => (true, text),
            Fault::Other(text) => (false, text),
        };
        let path = self.path.display();
        if self.fault.as_ref() != Some(&text) {
            log!("ledger: could not write to {path}: {text}; calls go on");
        }
        self.fault = Some(text);
        if is_damaged {
            match move_aside(&self.path) {
                Ok(to) => log!("ledger: moved {path} to {}; a new one is begun", to.display()),
                Err(cause) => self.fault = Some(format!("could not move it aside: {cause}")),
            }
        }
    }
}

/// Moves a damaged file, and the files that SQLite put beside it, to NAME.damaged. May replace an older one there.
fn move_aside(path: &Path) -> std::io::Result<PathBuf> {
    let beside = |suffix: &str| {
        let mut path = path.as_os_str().to_owned();
        path.push(suffix);
        PathBuf::from(path)
    };
    let _ = std::fs::remove_file(beside("-shm"));
    let _ = std::fs::rename(beside("-wal"), beside(".damaged-wal"));
    std::fs::rename(path, beside(".damaged"))?;
    Ok(beside(".damaged"))
}
