//! The worker's line to the gateway: announces the worker, sends its sample every 500 ms, and hears when to end.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::metrics_reader::MetricsReader;
use super::metrics_smoother::MetricsSmoother;
use super::{Ending, Worker};
use crate::error::start::{Result, StartError};
use crate::limits::{LINK_STALL_MAX, METRICS_PERIOD};
use crate::procfs;
use crate::protocol::metrics::{DRAIN_LINE, OTHER_LINE, Sample};
use crate::sandbox::orphans;
use crate::sys::{self, Watched};

/// Connects to the gateway that serves this run dir.
pub fn connect(worker: &Worker) -> Result<UnixStream> {
    let path = worker.settings.metrics_socket();
    let stream = UnixStream::connect(&path).map_err(StartError::io("reach a gateway at", path.display()))?;
    // A gateway that is stopped, or hangs, must not block this thread for good.
    stream.set_write_timeout(Some(LINK_STALL_MAX)).map_err(StartError::io("set a timeout on", path.display()))?;
    Ok(stream)
}

/// The thread's life: returns how the worker is to end, when it is to end.
pub fn run(worker: &Worker, stream: UnixStream) -> Ending {
    let mut reader = MetricsReader::new();
    let mut smoother = MetricsSmoother::new(worker.settings.weights.ema);
    let mut next = Instant::now();
    let mut begun_before = 0;
    loop {
        let is_ending = worker.ending.get().is_some();
        let (running, begun) = worker.load();
        let look = reader.read(running > 0 || begun != begun_before);
        begun_before = begun;
        let reading = smoother.smooth(look.reading);
        let sample = Sample {
            id: worker.id,
            pid: procfs::outer_pid(),
            socket: worker.settings.worker_socket(worker.id),
            // A worker that is to end offers no slots, so the gateway does not choose it any more.
            slots: if is_ending { 0 } else { worker.settings.worker_slots },
            cpu: reading.cpu,
            mem: reading.mem,
            io: reading.io,
            score: worker.settings.weights.score(reading.cpu, reading.mem, reading.io),
        };
        if (&stream).write_all(sample.to_line().as_bytes()).is_err() {
            return Ending::GatewayGone;
        }
        // Kill processes that were left behind after the clean-up of their invocation: see orphans.rs.
        if look.has_orphans {
            orphans::end_in_passing(METRICS_PERIOD);
        }
        // A fixed beat; after a stall (the machine slept) it restarts instead of catching up.
        next = (next + METRICS_PERIOD).max(Instant::now());
        let stop = if is_ending { Watched::nothing() } else { Watched::read(worker.stop.as_fd()) };
        if let Some(ending) = wait_for_word(&stream, stop, next) {
            return ending;
        }
    }
}

/// Waits until `next`, until `stop`, or until the gateway sends DRAIN or is gone.
fn wait_for_word(stream: &UnixStream, stop: Watched<'_>, next: Instant) -> Option<Ending> {
    let mut watched = [Watched::read(stream.as_fd()), stop];
    let mut heard = [0; DRAIN_LINE.len()];
    loop {
        let left = next.saturating_duration_since(Instant::now());
        match sys::poll(&mut watched, Some(left)) {
            Ok(0) => return None,
            Ok(_) if !watched[0].is_ready() => return None,
            Ok(_) => {}
            Err(_) => return Some(Ending::GatewayGone),
        }
        match (&mut &*stream).read(&mut heard) {
            // The line is six bytes on a local stream, written at once; any part of it can only be DRAIN.
            Ok(count) if count > 0 && DRAIN_LINE.starts_with(&heard[..count]) => return Some(Ending::Drain),
            Ok(count) if count > 0 && OTHER_LINE.starts_with(&heard[..count]) => return Some(Ending::OtherVersion),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return Some(Ending::GatewayGone),
        }
    }
}
