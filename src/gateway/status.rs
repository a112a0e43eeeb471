//! Reports the gateway's state to its operator: a JSON line to each client of run/status.sock, at connect and every 500
//! ms.
//!
//! ```text
//! {"status":"ready","version":"0.1.0","uptime_s":7,"waiting":0,
//!  "routes":5,"generation":1,"generation_age_s":412,"lag_s":12,
//!  "registry":{"fault":null,"faulty_rows":1,"first":[{"route":"GET:/a","fault":"timeout is 0; it must be …"}]},
//!  "workers":[{"id":0,"pid":4711,"slots":8,"in_flight":0,"cpu":12.5,"mem":3.1,"io":0.0,"score":7.2,"fresh":true}],
//!  "choices":[{"at":1767225600.5,"worker":0,"why":"lowest score 7.2","scores":{"0":7.2,"1":9.9}}],
//!  "functions":[…],"untold":0,
//!  "sandbox":{"user":"nobody","landlock":6,"remarks":[],"promises":[{"promise":"…","level":"kernel","kept_by":"…"}]}}
//! ```
//!
//! `functions` has the counters of protocol/counters.rs, for the functions that changed since the line before. A client
//! gets all of them in its first lines; `untold` counts those still to come. `choices` explains a few of the latest
//! choices of a worker.
//!
//! The console is the usual client; any program that may enter the run dir can be one. The gateway drops a client that
//! does not read, and never waits for it. Without clients it composes no line. The C original shows its state to
//! everybody.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::counters::Counters;
use super::health::Health;
use super::scheduler::{Choice, Scheduler};
use crate::error::start::{Result, StartError};
use crate::registry::kv::Kv;
use crate::settings::Settings;
use crate::sys::{self, Pid, Watched};
use crate::{log, procfs};

/// The interval of the workers' samples; a shorter one would repeat the same figures.
const PERIOD: Duration = Duration::from_millis(500);
/// The console, an operator's tools, and some to spare.
const CLIENTS_MAX: usize = 8;
/// Pause before accepting again, after descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Parents that are followed from a client upwards; a function's process lies a few levels below the gateway.
const ANCESTORS_MAX: usize = 64;

pub struct Status {
    health: Arc<Health>,
    kv: Arc<Kv>,
    scheduler: Arc<Scheduler>,
    counters: Arc<Counters>,
    /// The sandbox's promises; they do not change while the gateway runs.
    sandbox: Value,
    started_at: Instant,
    /// Guards the list of the connected clients' process ids.
    connected: Mutex<Vec<Pid>>,
}

struct Client {
    stream: UnixStream,
    pid: Pid,
}

impl Status {
    pub fn new(
        health: Arc<Health>,
        kv: Arc<Kv>,
        scheduler: Arc<Scheduler>,
        counters: Arc<Counters>,
        sandbox: Value,
    ) -> Arc<Status> {
        let (started_at, connected) = (Instant::now(), Mutex::default());
        Arc::new(Status { health, kv, scheduler, counters, sandbox, started_at, connected })
    }

    /// Opens status.sock and serves it on a thread of its own, until the process ends.
    pub fn start(self: &Arc<Self>, settings: &Settings) -> Result<()> {
        let path = settings.status_socket();
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(StartError::io("open the socket", path.display()))?;
        listener.set_nonblocking(true).map_err(StartError::io("prepare the socket", path.display()))?;
        let status = self.clone();
        let thread = std::thread::Builder::new().name("status".into());
        let started = thread.spawn(move || status.serve(&listener));
        started.map(drop).map_err(|cause| StartError::Thread { cause })
    }

    /// True if the process with this id is a client.
    pub fn has_client(&self, pid: Pid) -> bool {
        self.connected.lock().expect("nothing panics under this lock").contains(&pid)
    }

    fn serve(&self, listener: &UnixListener) {
        let mut clients: Vec<Client> = Vec::new();
        let mut next = Instant::now();
        let mut generation = self.generation();
        loop {
            let mut watched: Vec<_> = clients.iter().map(|client| Watched::hang_up(client.stream.as_fd())).collect();
            watched.push(Watched::read(listener.as_fd()));
            let wait = (!clients.is_empty()).then(|| next.saturating_duration_since(Instant::now()));
            let _ = sys::poll(&mut watched, wait);
            let has_news = watched.pop().is_some_and(|listener| listener.is_ready());
            let has_left: Vec<bool> = watched.iter().map(Watched::is_ready).collect();
            let mut has_left = has_left.into_iter();
            clients.retain(|_| has_left.next() == Some(false));
            if has_news {
                self.accept(listener, &mut clients);
            }
            if Instant::now() >= next {
                if self.generation() != generation {
                    generation = self.generation();
                    self.counters.retain(|route| self.kv.contains(route));
                }
                let line = self.line();
                clients.retain(|client| client.takes(&line));
                next = Instant::now() + PERIOD;
            }
            let pids = clients.iter().map(|client| client.pid).collect();
            *self.connected.lock().expect("nothing panics under this lock") = pids;
        }
    }

    /// Accepts one client, and sends its first line.
    fn accept(&self, listener: &UnixListener, clients: &mut Vec<Client>) {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Err(error) => {
                log!("status: could not accept a client: {error}; trying on");
                let _ = sys::poll(&mut [], Some(ACCEPT_PAUSE));
                return;
            }
        };
        let Ok((pid, _)) = sys::peer(stream.as_fd()) else { return };
        if clients.len() >= CLIENTS_MAX || is_function(pid) || stream.set_nonblocking(true).is_err() {
            return;
        }
        self.counters.tell_all();
        let client = Client { stream, pid };
        if client.takes(&self.line()) {
            clients.push(client);
        }
    }

    fn generation(&self) -> Option<u64> {
        self.kv.version().map(|version| version.generation)
    }

    /// The line with its newline.
    fn line(&self) -> String {
        let workers = self.scheduler.overview().into_iter().map(|(sample, in_flight, is_fresh)| {
            json!({
                "id": sample.id, "pid": sample.pid, "slots": sample.slots, "in_flight": in_flight,
                "cpu": sample.cpu, "mem": sample.mem, "io": sample.io, "score": sample.score, "fresh": is_fresh,
            })
        });
        let (functions, untold) = self.counters.tell();
        let mut line = json!({
            "status": self.health.status(),
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": self.started_at.elapsed().as_secs(),
            "registry": self.health.registry_faults(),
            "waiting": self.scheduler.waiting(),
            "workers": workers.collect::<Vec<_>>(),
            "choices": self.scheduler.explained_choices().iter().map(describe).collect::<Vec<_>>(),
            "functions": functions,
            "untold": untold,
            "sandbox": self.sandbox,
        });
        if let (Some(line), Value::Object(registry)) = (line.as_object_mut(), self.health.registry()) {
            line.extend(registry);
        }
        format!("{line}\n")
    }
}

impl Client {
    /// True if the buffer took the whole line at once. A client with room for only half of it has not read for a long
    /// time.
    fn takes(&self, line: &str) -> bool {
        (&self.stream).write(line.as_bytes()).is_ok_and(|count| count == line.len())
    }
}

fn describe(choice: &Choice) -> Value {
    let at = choice.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let tenths = |score: f64| (score * 10.0).round() / 10.0;
    let scores: Map<String, Value> =
        choice.scores.iter().map(|(worker, score)| (worker.to_string(), json!(tenths(*score)))).collect();
    json!({"at": at, "worker": choice.worker, "why": choice.why, "scores": scores})
}

/// True if a process belongs to an invocation: a function that runs as our own user can find the socket. The gateway's
/// children are its own programs; their descendants are not.
pub fn is_function(pid: Pid) -> bool {
    let own = std::process::id() as Pid;
    let mut ancestors = std::iter::successors(procfs::parent_of(pid), |pid| procfs::parent_of(*pid));
    ancestors.next();
    ancestors.take(ANCESTORS_MAX).any(|ancestor| ancestor == own)
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
