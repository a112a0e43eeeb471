//! The fork servers of a worker, one per program: when one starts, when it is replaced, which modules it prepares.
//!
//! An invocation asks [`ForkServers::take`] for a child. If no fork server is ready, the answer is `None` and the
//! invocation goes by exec; meanwhile one thread, the keeper, starts a fork server. So no invocation ever waits for
//! one, and a failing fork server is no error, only slower.
//!
//! The keeper lives as long as the worker. It starts the fork servers, because they die with the thread that is their
//! parent (PR_SET_PDEATHSIG, prctl(2)).

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::Worker;
use super::child::Child;
use super::fork_server::{ForkServer, Word};
use super::runtime::{self, Server};
use super::version::Version;
use crate::error::start::{Result, StartError};
use crate::limits::KILL_WAIT_MAX;
use crate::protocol::function_spec::{FunctionSpec, push};
use crate::sandbox::orphans;
use crate::settings::Settings;
use crate::sys::{self, EventFd, Spawn, Watched};
use crate::{log, procfs};

/// From its start until it is ready; the keeper kills a fork server that takes longer.
const START_MAX: Duration = Duration::from_secs(30);
/// Pause before the next start after a fork server that never became ready; after one that did, the next starts sooner.
const RETRY_UNREADY: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);
/// Time between two checks of the fork servers when nothing happens.
const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// Resident memory above which a fork server is replaced, at the earliest after a while. With hundreds of prepared
/// modules one has about 60 MiB.
const RESIDENT_MAX: u64 = 256 << 20;
const GROWTH_MIN: Duration = Duration::from_secs(60);
/// Replaced fork servers that wait for their last child. At this number, the keeper replaces none.
const RETIRED_MAX: usize = 8;
/// A replaced fork server without children that has not exited after this time is killed.
const RETIRED_IDLE_MAX: Duration = Duration::from_secs(10);
/// Bytes of a line that a fork server writes to its stdout or stderr.
const LINE_BYTES_MAX: usize = 2048;
/// Versions of modules that are remembered; at this number, all are forgotten.
const MODULES_MAX: usize = 4096;
/// Time after which a called module is asked for again, since a fork server keeps only a limited number of modules
/// prepared, those asked for last.
const ASK_AGAIN: Duration = Duration::from_secs(60);

pub struct ForkServers {
    is_on: bool,
    /// False if fork servers prepare no modules.
    prepares: bool,
    /// One for each of [`Server::ALL`]. Held for a look or a change, never across a start, a request or a wait.
    places: [Mutex<Place>; Server::ALL.len()],
    /// Wakes the keeper.
    wake: EventFd,
    /// Children that may wait: the number of slots.
    ahead_max: usize,
}

#[derive(Default)]
struct Place {
    state: State,
    /// Versions of modules, as text, that the present fork server was asked to prepare, and when. `None`: it cannot.
    modules: HashMap<String, Option<Instant>>,
    /// Those of them that it has not answered, in the order of the requests.
    unanswered: VecDeque<String>,
    /// Versions of modules that have ended a fork server while they were prepared.
    by_exec: Vec<String>,
}

#[derive(Default)]
enum State {
    /// No invocation has needed it so far.
    #[default]
    Absent,
    /// The keeper shall start it.
    Wanted,
    /// It is starting.
    Coming,
    Ready(Arc<ForkServer>),
    /// Not to be started again before this time.
    Failed(Instant),
}

impl ForkServers {
    pub fn new(settings: &Settings) -> Result<ForkServers> {
        Ok(ForkServers {
            is_on: settings.has_fork_servers,
            prepares: !settings.requires_strict_sandbox,
            places: Default::default(),
            wake: EventFd::new().map_err(StartError::io("make", "an eventfd"))?,
            ahead_max: settings.worker_slots as usize,
        })
    }

    fn place(&self, kind: Server) -> MutexGuard<'_, Place> {
        let number = Server::ALL.iter().position(|other| *other == kind).expect("the list has all");
        self.places[number].lock().expect("nothing panics under this lock")
    }

    /// A child for an invocation of this version of a module; `None` means exec. If no fork server runs, has the keeper
    /// start one.
    pub fn take(&self, kind: Server, version: &Version) -> Option<Child> {
        if !self.is_on {
            return None;
        }
        let mut place = self.place(kind);
        if !place.by_exec.is_empty() && place.by_exec.contains(&version.to_string()) {
            return None;
        }
        let server = match &place.state {
            State::Ready(server) => server.clone(),
            State::Wanted | State::Coming => return None,
            State::Failed(until) if Instant::now() < *until => return None,
            State::Absent | State::Failed(_) => {
                place.state = State::Wanted;
                self.wake.signal();
                return None;
            }
        };
        drop(place);
        let child = server.take();
        if server.is_over() {
            // The keeper replaces it.
            self.wake.signal();
        }
        child
    }

    /// Has a fork server prepare a module, unless it was asked for that lately.
    pub fn prepare(
        &self,
        kind: Server,
        server: &Arc<ForkServer>,
        spec: &FunctionSpec,
        version: &Version,
        artifact: Option<&Path>,
    ) {
        if !self.prepares {
            return;
        }
        let text = version.to_string();
        let now = Instant::now();
        let mut place = self.place(kind);
        let is_present = matches!(&place.state, State::Ready(present) if Arc::ptr_eq(present, server));
        let is_due = match place.modules.get(&text) {
            None => !version.is_young(),
            Some(None) => false,
            Some(Some(asked)) => now.duration_since(*asked) >= ASK_AGAIN,
        };
        if !is_present || !is_due {
            return;
        }
        if place.modules.len() >= MODULES_MAX {
            place.modules.clear();
        }
        place.modules.insert(text.clone(), Some(now));
        place.unanswered.push_back(text.clone());
        drop(place);
        let mut settings = Vec::with_capacity(512);
        push(&mut settings, "module", spec.module.as_os_str().as_bytes());
        push(&mut settings, "version", text.as_bytes());
        if let Some(artifact) = artifact {
            push(&mut settings, "artifact", artifact.as_os_str().as_bytes());
        }
        if !server.prepare(&settings) {
            self.place(kind).unanswered.retain(|other| *other != text);
        }
    }
}

/// The keeper's life: starts the fork servers that are wanted, reads what fork servers send, replaces those that are
/// over.
pub(super) fn keep(worker: &Worker) {
    let mut kept: Vec<Kept> = Vec::new();
    let mut next_look = Instant::now();
    loop {
        let mut watched = vec![Watched::read(worker.fork_servers.wake.as_fd())];
        for one in &kept {
            watched.push(Watched::read(one.server.control()));
            watched.push(one.said.as_ref().map_or_else(Watched::nothing, |said| Watched::read(said.as_fd())));
        }
        let pause = (!kept.is_empty()).then(|| next_look.saturating_duration_since(Instant::now()));
        let _ = sys::poll(&mut watched, pause);
        let ready: Vec<bool> = watched.iter().map(Watched::is_ready).collect();
        drop(watched);
        worker.fork_servers.wake.clear();
        for (one, ready) in kept.iter_mut().zip(ready[1..].chunks(2)) {
            if ready[1] {
                one.log_what_it_said();
            }
            if ready[0] {
                one.hear(worker);
            }
        }
        let is_due = Instant::now() >= next_look;
        let retired = kept.iter().filter(|one| one.retired.is_some()).count();
        for one in &mut kept {
            one.look_after(worker, is_due, retired < RETIRED_MAX);
        }
        kept.retain(|one| !one.has_ended);
        for kind in Server::ALL {
            kept.extend(start_if_wanted(worker, kind));
        }
        if is_due {
            next_look = Instant::now() + LOOK_PERIOD;
        }
    }
}

fn start_if_wanted(worker: &Worker, kind: Server) -> Option<Kept> {
    let mut place = worker.fork_servers.place(kind);
    if !matches!(place.state, State::Wanted) {
        return None;
    }
    place.state = State::Coming;
    drop(place);
    match Kept::start(worker, kind) {
        Ok(one) => Some(one),
        Err(why) => {
            if let Some(why) = why {
                log!("worker {}: no fork server for {}: {why}", worker.id, kind.name());
            }
            worker.fork_servers.place(kind).state = State::Failed(Instant::now() + RETRY_UNREADY);
            None
        }
    }
}

/// A fork server that runs. Dropping it ends it.
struct Kept {
    kind: Server,
    server: Arc<ForkServer>,
    /// Its stdout and stderr. `None` at the end of the stream.
    said: Option<PipeReader>,
    line: Vec<u8>,
    /// Its program and the files that it read when it started, as they were then.
    read: Vec<(PathBuf, Option<Version>)>,
    started: Instant,
    /// The time since which it forks no more, and lives until its last child is reaped.
    retired: Option<Instant>,
    has_ended: bool,
}

impl Kept {
    /// # Errors
    /// Why it could not be started, for the log; `None` if its program is missing.
    fn start(worker: &Worker, kind: Server) -> std::result::Result<Kept, Option<String>> {
        let as_text = |step: &'static str| move |error: std::io::Error| Some(format!("could not {step}: {error}"));
        let command = runtime::server_command(worker, kind).ok_or(None)?;
        let read = runtime::files_read_at_start(worker, kind);
        let read = read.into_iter().map(|path| (path.clone(), Version::of_path(&path))).collect();
        let (control, theirs) = sys::packet_pair().map_err(as_text("make a socket pair"))?;
        let (said, says) = std::io::pipe().map_err(as_text("make a pipe"))?;
        sys::set_nonblocking(said.as_fd()).map_err(as_text("set up a pipe"))?;
        let sandbox = &worker.sandbox;
        let system_calls = sandbox.system_calls_of_fork_server(command.memfd, kind.starts_processes());
        let process = orphans::spawn(&Spawn {
            program: &command.program,
            arguments: &command.arguments,
            environment: &worker.inherited_environment,
            folder: Some(c"/"),
            stdin: worker.null.as_fd(),
            stdout: says.as_fd(),
            stderr: says.as_fd(),
            control: Some(theirs.as_fd()),
            // No Landlock: it runs nothing of a function, and its children restrict themselves before they do.
            confinement: Some(sandbox.confinement_of_fork_server(command.program_file.as_ref(), &system_calls)),
            group: None,
        })
        .map_err(|error| Some(format!("could not {}: {}", error.step, error.cause)))?;
        Ok(Kept {
            kind,
            server: Arc::new(ForkServer::new(control, process, worker.fork_servers.ahead_max)),
            said: Some(said),
            line: Vec::new(),
            read,
            started: Instant::now(),
            retired: None,
            has_ended: false,
        })
    }

    /// Takes all packets that have come on the control socket.
    fn hear(&mut self, worker: &Worker) {
        loop {
            let word = self.server.listen();
            let mut place = worker.fork_servers.place(self.kind);
            match word {
                Word::Ready if matches!(place.state, State::Coming) && self.retired.is_none() => {
                    place.modules.clear();
                    place.unanswered.clear();
                    place.state = State::Ready(self.server.clone());
                }
                Word::Ready => {}
                Word::Prepared { version } => place.unanswered.retain(|other| *other != version),
                Word::Unpreparable { version, reason } => {
                    place.unanswered.retain(|other| *other != version);
                    if let Some(asked) = place.modules.get_mut(&version) {
                        *asked = None;
                    }
                    drop(place);
                    log!("fork server of {}: a module is not prepared: {}", self.kind.name(), reason.trim_end());
                }
                Word::Nothing => return,
                Word::End => {
                    drop(place);
                    return self.bury(worker);
                }
            }
        }
    }

    /// For a fork server that has ended or sent a malformed packet: ends the rest of it, and frees its place.
    fn bury(&mut self, worker: &Worker) {
        self.log_what_it_said();
        self.has_ended = true;
        let name = self.kind.name();
        let mut place = worker.fork_servers.place(self.kind);
        let was_ready = self.server.is_ready();
        let is_present = match &place.state {
            State::Ready(present) => Arc::ptr_eq(present, &self.server),
            State::Coming => !was_ready && self.retired.is_none(),
            _ => false,
        };
        if !is_present {
            return;
        }
        place.state = State::Failed(Instant::now() + if was_ready { RETRY } else { RETRY_UNREADY });
        let culprit = place.unanswered.pop_front();
        if let Some(version) = culprit.clone() {
            if place.by_exec.len() >= MODULES_MAX {
                place.by_exec.clear();
            }
            place.by_exec.push(version);
        }
        drop(place);
        log!("worker {}: the fork server of {name} has ended; functions start by exec", worker.id);
        if culprit.is_some() {
            log!("worker {}: it ended while it prepared a module, which starts by exec from now on", worker.id);
        }
    }

    /// Retires it if it is over, has grown, or read files that have changed since. `is_due` allows the checks that take
    /// longer.
    fn look_after(&mut self, worker: &Worker, is_due: bool, may_retire: bool) {
        if let Some(since) = self.retired {
            // It has no child any more, and yet has not exited.
            self.has_ended |= self.server.living() == 0 && since.elapsed() >= RETIRED_IDLE_MAX;
        }
        if self.has_ended || self.retired.is_some() {
            return;
        }
        if !self.server.is_ready() {
            if self.started.elapsed() >= START_MAX {
                log!("worker {}: the fork server of {} was not ready in time", worker.id, self.kind.name());
                self.bury(worker);
            }
            return;
        }
        if is_due {
            self.server.calm();
        }
        let why = match () {
            () if self.server.is_over() => "did not fork in time",
            () if is_due && may_retire && self.is_outdated() => "is replaced: what it was started with has changed",
            () if is_due && may_retire && self.has_grown() => "is replaced: it has grown",
            () => return,
        };
        log!("worker {}: the fork server of {} {why}", worker.id, self.kind.name());
        self.retired = Some(Instant::now());
        self.server.retire();
        worker.fork_servers.place(self.kind).state = State::Wanted;
    }

    fn is_outdated(&self) -> bool {
        self.read.iter().any(|(path, then)| Version::of_path(path) != *then)
    }

    fn has_grown(&self) -> bool {
        let resident = || procfs::resident_bytes(self.server.process().pid).unwrap_or(0);
        self.started.elapsed() >= GROWTH_MIN && resident() > RESIDENT_MAX
    }

    /// Logs the lines that it has written.
    fn log_what_it_said(&mut self) {
        let Some(said) = &mut self.said else { return };
        let mut buffer = [0; LINE_BYTES_MAX];
        let count = match said.read(&mut buffer) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            result => result.unwrap_or(0),
        };
        if count == 0 {
            self.said = None;
        }
        self.line.extend_from_slice(&buffer[..count]);
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n').or_else(|| {
            let is_last = count == 0 || self.line.len() >= LINE_BYTES_MAX;
            (is_last && !self.line.is_empty()).then(|| self.line.len() - 1)
        }) {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            let text = String::from_utf8_lossy(&line);
            log!("fork server of {}: {}", self.kind.name(), text.trim_end());
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let process = self.server.process();
        sys::kill_process(process.pidfd.as_fd());
        let _ = sys::poll(&mut [Watched::read(process.pidfd.as_fd())], Some(KILL_WAIT_MAX));
        let _ = orphans::reap(process.pid);
        self.server.dismiss();
        // Its children have died with it, and this worker reaps them.
        orphans::end_all();
    }
}
