//! The ledger: one row in a SQLite file for each call that met a route. It shows afterwards which function failed, was
//! slow, or used the processor.
//!
//! ```text
//! a request's thread ── record: try_send ──▶ queue ──▶ ledger's thread: a batch, one transaction ──▶ FAAS_LEDGER
//!                                                                                                       │ reader.rs
//!                                                                        faas calls · faas stats · console ◀
//! ```
//!
//! No call waits for the ledger. A call that does not fit into the bounded queue is counted, and the file holds that
//! count as well. Only the thread deals with a file that is locked, full, damaged or not writable (writer.rs).
//!
//! Of the two files, registry and ledger, the gateway writes only this one. Functions can neither read nor write it
//! (sandbox/protected.rs).

mod file;
pub mod reader;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};

use crate::error::start::{Result, StartError};
use crate::protocol::worker_protocol::Usage;
use crate::settings::Settings;
use writer::Writer;

/// Calls that wait to be written. The thread empties the queue five times a second, so this holds 10,000 calls a
/// second, more than the platform serves.
const QUEUE_MAX: usize = 2048;
/// With more calls than this in the queue, further calls lose their stderr: 4 KiB each would add up.
const QUEUE_WITH_STDERR_MAX: usize = 256;

/// One call of a function: a row of the table `calls`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Call {
    /// Arrival of the request, in milliseconds since 1970.
    pub at_ms: i64,
    pub request_id: String,
    /// As in the registry: `METHOD:/path`.
    pub route: String,
    pub function: String,
    pub status: u16,
    /// `None` where no worker was chosen.
    pub worker: Option<u32>,
    /// The way its process started: "forked" or "exec"; `None` where it had none.
    pub start: Option<&'static str>,
    pub queued_ms: f64,
    /// From the slot until the response was complete; `None` where the call got no slot.
    pub run_ms: Option<f64>,
    pub usage: Option<Usage>,
    /// Bytes of the request's body, and of the response's.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub client: String,
    /// The registry's generation when the function was looked up.
    pub generation: Option<u64>,
    /// The end of its stderr, where the call failed.
    pub stderr: Option<String>,
}

/// Calls with this status or a higher one have failed.
pub const FAILED_FROM: u16 = 500;

/// Suffixes of a ledger's files: the database, the files that SQLite puts beside it, and a damaged one that was moved.
pub const FILE_SUFFIXES: [&str; 6] = ["", "-wal", "-shm", "-journal", ".damaged", ".damaged-wal"];

/// The entry to the ledger. Without FAAS_LEDGER it records nothing.
#[derive(Default)]
pub struct Ledger {
    queue: Option<Sender<Box<Call>>>,
    /// Calls that did not fit into the queue and are not counted in the file yet.
    unrecorded: Arc<AtomicU64>,
}

/// The thread that writes the ledger.
pub struct LedgerThread {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Ledger {
    /// Starts the thread. An unusable file does not prevent the start.
    ///
    /// # Errors
    /// [`StartError::Usage`] where the ledger is the registry, and [`StartError::Thread`].
    pub fn start(
        settings: &Settings,
        is_current: impl Fn() -> bool + Send + 'static,
    ) -> Result<(Ledger, Option<LedgerThread>)> {
        let Some(path) = settings.ledger.clone() else { return Ok((Ledger::default(), None)) };
        refuse_registry(&path, &settings.db)?;
        let (queue, calls) = bounded(QUEUE_MAX);
        let (stop, stopped) = bounded(0);
        let unrecorded = Arc::new(AtomicU64::new(0));
        let retention = file::Retention { days: settings.ledger_days, bytes_max: settings.ledger_bytes_max };
        let writer = Writer {
            path,
            retention,
            is_current: Box::new(is_current),
            calls,
            stopped,
            unrecorded: unrecorded.clone(),
            file: None,
            fault: None,
            retained_at: None,
        };
        let thread = std::thread::Builder::new().name("ledger".into()).spawn(move || writer.run());
        let thread = thread.map_err(|cause| StartError::Thread { cause })?;
        Ok((Ledger { queue: Some(queue), unrecorded }, Some(LedgerThread { stop, thread })))
    }

    /// Records a call, without waiting.
    pub fn record(&self, call: Call) {
        let Some(queue) = &self.queue else { return };
        let mut call = Box::new(call);
        if queue.len() > QUEUE_WITH_STDERR_MAX {
            call.stderr = None;
        }
        if queue.try_send(call).is_err() {
            self.unrecorded.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl LedgerThread {
    /// Ends the thread once it has written the queue, or has found that it cannot.
    pub fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

/// Two names of one file count as one.
fn refuse_registry(ledger: &PathBuf, registry: &PathBuf) -> Result<()> {
    let resolved = |path: &PathBuf| std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
    match ledger == registry || resolved(ledger) == resolved(registry) {
        true => Err(StartError::Usage("FAAS_LEDGER and FAAS_DB name the same file; each needs its own".into())),
        false => Ok(()),
    }
}
