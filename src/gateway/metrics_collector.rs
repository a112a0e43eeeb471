//! Receives the workers' metric samples: the C original's metrics_collector.c.
//!
//! A worker connects to metrics.sock, and its first line announces it; from then on the scheduler can choose it. When
//! its stream ends, the scheduler drops it at once. The gateway sends DRAIN down the same stream when it ends. One
//! thread serves each worker; the number of workers is bounded.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use super::scheduler::Scheduler;
use super::worker_link::WorkerLink;
use crate::error::start::{Result, StartError};
use crate::limits::{CONNECTION_STACK_BYTES, METRICS_LINE_BYTES_MAX, WORKERS};
use crate::log;
use crate::protocol::ProtocolError;
use crate::protocol::metrics::{DRAIN_LINE, OTHER_LINE, Sample};
use crate::settings::Settings;
use crate::sys;

pub struct MetricsCollector {
    scheduler: Arc<Scheduler>,
    /// Guards the streams of the connected workers, and what they are told; DRAIN is six bytes, which a local stream takes
    /// without waiting.
    streams: Mutex<Streams>,
}

#[derive(Default)]
struct Streams {
    /// Each under a number of its own.
    connected: HashMap<u64, UnixStream>,
    /// Set when the gateway ends. The supervisor may have restarted a worker just before, which connects only then, and
    /// would wait for its word until it is killed.
    ending: Option<Ending>,
}

/// How workers are to end.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Drain,
    CutOff,
}

impl Ending {
    fn tell(self, mut stream: &UnixStream) {
        let _ = match self {
            Ending::Drain => stream.write_all(DRAIN_LINE),
            Ending::CutOff => stream.shutdown(Shutdown::Both),
        };
    }
}

impl MetricsCollector {
    pub fn new(scheduler: Arc<Scheduler>) -> Arc<MetricsCollector> {
        Arc::new(MetricsCollector { scheduler, streams: Mutex::default() })
    }

    /// Opens metrics.sock and receives workers on a thread of its own, until the process ends.
    pub fn start(self: &Arc<Self>, settings: &Settings) -> Result<()> {
        let path = settings.pid_file();
        // Never closed again: closing it would release the gateway's own lock on the file.
        let pid_file = File::open(&path).map_err(StartError::io("open", path.display()))?;
        let path = settings.metrics_socket();
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(StartError::io("open the socket", path.display()))?;
        let collector = self.clone();
        let thread = std::thread::Builder::new().name("metrics".into());
        let started = thread.spawn(move || collector.accept(&listener, &pid_file));
        started.map(drop).map_err(|cause| StartError::Thread { cause })
    }

    /// Tells every worker to finish its invocations and exit.
    pub fn drain(&self) {
        self.end(Ending::Drain);
    }

    /// Ends the streams without DRAIN, as the death of the gateway would: every worker kills its invocations and exits.
    pub fn cut_off(&self) {
        self.end(Ending::CutOff);
    }

    fn end(&self, ending: Ending) {
        let mut streams = self.streams.lock().expect("nothing panics under this lock");
        streams.ending = Some(ending);
        streams.connected.values().for_each(|stream| ending.tell(stream));
    }

    fn accept(self: &Arc<Self>, listener: &UnixListener, pid_file: &File) {
        let (mut is_failing, mut has_strangers) = (false, false);
        for number in 0.. {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        log!("metrics: could not accept a worker: {error}; trying on");
                    }
                    let _ = sys::poll(&mut [], Some(std::time::Duration::from_millis(50)));
                    continue;
                }
            };
            is_failing = false;
            // A function that runs as our own user can find the socket. Logged once: the function could try without
            // end.
            if !is_worker(&stream, pid_file) {
                if !std::mem::replace(&mut has_strangers, true) {
                    log!("metrics: rejected a connection: its process is no worker of this run dir");
                }
                continue;
            }
            if let Err(error) = self.take_in(number, stream) {
                log!("metrics: could not take in a worker: {error}");
            }
        }
    }

    fn take_in(self: &Arc<Self>, number: u64, stream: UnixStream) -> std::io::Result<()> {
        let own = stream.try_clone()?;
        {
            let mut streams = self.streams.lock().expect("nothing panics under this lock");
            if streams.connected.len() >= *WORKERS.end() as usize {
                return Err(std::io::Error::other("all worker ids are taken"));
            }
            if let Some(ending) = streams.ending {
                ending.tell(&own);
            }
            streams.connected.insert(number, own);
        }
        let collector = self.clone();
        let thread = std::thread::Builder::new().name("metrics stream".into()).stack_size(CONNECTION_STACK_BYTES);
        let started = thread.spawn(move || {
            collector.listen(stream);
            collector.streams.lock().expect("nothing panics under this lock").connected.remove(&number);
        });
        started.map(drop).inspect_err(|_| {
            self.streams.lock().expect("nothing panics under this lock").connected.remove(&number);
        })
    }

    /// Reads samples until the stream ends or breaks the protocol.
    fn listen(&self, stream: UnixStream) {
        let mut reader = BufReader::with_capacity(METRICS_LINE_BYTES_MAX, stream);
        let mut link: Option<Arc<WorkerLink>> = None;
        let mut line = String::new();
        let fault = loop {
            line.clear();
            match reader.by_ref().take(METRICS_LINE_BYTES_MAX as u64).read_line(&mut line) {
                Ok(0) => break None,
                Ok(_) => {}
                Err(error) => break Some(error.to_string()),
            }
            let sample = match Sample::parse(line.trim_end()) {
                Ok(sample) => sample,
                // A line cut off by the end of the stream means that the worker died, not that it broke the protocol.
                Err(_) if !line.ends_with('\n') => break None,
                Err(error) => {
                    if let ProtocolError::OtherVersion(_) = error {
                        let _ = reader.get_mut().write_all(OTHER_LINE);
                    }
                    break Some(error.to_string());
                }
            };
            let link = link.get_or_insert_with(|| {
                log!("worker {}: ready, process {}, {} slots", sample.id, sample.pid, sample.slots);
                Arc::new(WorkerLink::new(sample.id, sample.socket.clone()))
            });
            self.scheduler.update(link, sample);
        };
        match (link, fault) {
            (Some(link), fault) => {
                self.scheduler.remove(&link);
                match fault {
                    None => log!("worker {}: gone", link.id),
                    Some(fault) => log!("worker {}: rejected: {fault}", link.id),
                }
            }
            (None, Some(fault)) => log!("metrics: rejected a worker: {fault}"),
            (None, None) => {}
        }
    }
}

/// True if the peer is a worker: a process of our user that has locked its id in the pid file. Functions cannot lock
/// it, because they may not write the file (see `take_id` in worker/mod.rs).
fn is_worker(stream: &UnixStream, pid_file: &File) -> bool {
    let Ok((peer, uid)) = sys::peer(stream.as_fd()) else { return false };
    let holds = |id: u64| sys::lock_holder(pid_file, 1 + id).is_ok_and(|holder| holder == Some(peer));
    uid == sys::own_uid() && (0..*WORKERS.end()).any(holds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_worker_that_connects_when_the_gateway_ends_is_told_so() {
        for (ending, word) in [(Ending::Drain, DRAIN_LINE), (Ending::CutOff, &b""[..])] {
            let collector = MetricsCollector::new(Scheduler::new(1, Duration::from_secs(1)));
            collector.end(ending);
            let (stream, mut worker) = UnixStream::pair().unwrap();
            collector.take_in(0, stream).unwrap();
            worker.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut heard = vec![0; word.len().max(1)];
            let count = worker.read(&mut heard).unwrap();
            assert_eq!(&heard[..count], word, "{ending:?}");
        }
    }
}
