//! The fork servers of a worker: which there are, when one starts, when it ends.
//!
//! Who has an invocation asks [`ForkServers::take`] for a child. Where there is no fork server for it yet, the answer is
//! `None`, the invocation goes the cold way, and one thread, the keeper, starts a fork server meanwhile. So nobody ever
//! waits for one, and whatever goes wrong with one is no error, only slower.
//!
//! The keeper lives as long as the worker. Fork servers and their children must be children of such a thread, because they
//! die with the thread that is their parent (PR_SET_PDEATHSIG, prctl(2)).

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{ErrorKind, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::Worker;
use super::fork_server::{Child, ForkServer};
use super::runtime;
use crate::error::{Error, Result};
use crate::limits::{
    CHILDREN_AHEAD_MIN, DESCRIPTORS_PER_FORK_SERVER, FORK_SERVER_IDLE_MAX, FORK_SERVER_LINE_BYTES_MAX,
    FORK_SERVER_RETRY, FORK_SERVER_START_MAX, FORK_SERVER_YIELDS, FORK_SERVERS_PERIOD, FORK_SERVERS_STARTING_MAX,
    KILL_WAIT_MAX,
};
use crate::log;
use crate::protocol::function_spec::{FunctionSpec, Runtime};
use crate::sys::{self, EventFd, Spawn, Spawned, Watched};

/// What the children of a fork server have in common, because they inherit it. Invocations that agree in all of it share
/// one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub runtime: Runtime,
    pub module: PathBuf,
    pub version: Version,
    /// What the module exports, for a runtime that looks at it before it forks.
    pub handler: String,
    pub memory_mib: u64,
    pub net: bool,
    pub dirs: Vec<(String, PathBuf)>,
}

/// A file as it is now: device, inode, size, and the time of its last change, which includes that of its permissions, in
/// seconds and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    pub device: u64,
    pub inode: u64,
    pub size: u64,
    pub changed: (i64, i64),
}

impl Version {
    pub fn of(metadata: &std::fs::Metadata) -> Version {
        Version {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    pub fn of_path(path: &Path) -> Option<Version> {
        std::fs::metadata(path).ok().map(|metadata| Version::of(&metadata))
    }
}

/// As part of a file name.
impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, nanoseconds) = self.changed;
        write!(f, "{:x}-{:x}-{:x}-{seconds:x}-{nanoseconds:x}", self.device, self.inode, self.size)
    }
}

impl Key {
    pub fn new(spec: &FunctionSpec, version: Version) -> Key {
        // Only WASM looks at its exports and opens folders ahead of time.
        let is_wasm = spec.runtime == Runtime::Wasm;
        Key {
            runtime: spec.runtime,
            module: spec.module.clone(),
            version,
            handler: if is_wasm { spec.handler.clone() } else { String::new() },
            memory_mib: spec.memory_mib,
            net: spec.net,
            dirs: if is_wasm { spec.dirs.clone() } else { Vec::new() },
        }
    }
}

pub struct ForkServers {
    /// Guards the map and the keeper's orders; held for a look or a change, never while anything is started, asked or waited for.
    places: Mutex<Places>,
    /// Wakes the keeper.
    wake: EventFd,
    servers_max: usize,
    /// Children that may wait for one fork server's invocations: as many as there are slots.
    children_max: usize,
    /// How many children of all fork servers may still wait.
    allowance: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Places {
    by_key: HashMap<Arc<Key>, Place>,
    /// What the keeper shall start.
    orders: Vec<Arc<Key>>,
}

struct Place {
    state: State,
    used: Instant,
}

enum State {
    /// Ordered, or starting.
    Coming,
    Ready(Arc<ForkServer>),
    /// Not to be tried before.
    Failed(Instant),
}

impl ForkServers {
    /// At most `servers_max`; `slots` is how many invocations the worker runs at once.
    pub fn new(servers_max: u32, slots: u32) -> Result<ForkServers> {
        let affordable = sys::open_files_limit() / DESCRIPTORS_PER_FORK_SERVER;
        let servers_max = u64::from(servers_max).min(affordable) as usize;
        let children_max = CHILDREN_AHEAD_MIN * servers_max;
        Ok(ForkServers {
            places: Mutex::default(),
            wake: EventFd::new().map_err(Error::io("make", "an eventfd"))?,
            servers_max,
            children_max: slots as usize,
            allowance: Arc::new(AtomicUsize::new(children_max)),
        })
    }

    /// A child for an invocation, and its fork server; `None` means the cold way.
    pub fn take(&self, key: &Key) -> Option<(Child, Arc<ForkServer>)> {
        let mut places = self.places.lock().expect("nothing panics under this lock");
        let place = places.by_key.get_mut(key)?;
        place.used = Instant::now();
        let State::Ready(server) = &place.state else { return None };
        let server = server.clone();
        drop(places);
        let child = server.take();
        if child.is_none() {
            // The keeper ends it.
            self.wake.signal();
        }
        child.map(|child| (child, server))
    }

    /// Has a fork server started for what had to go the cold way, where there is none and a place for it.
    pub fn order(&self, key: Key) {
        let now = Instant::now();
        let mut places = self.places.lock().expect("nothing panics under this lock");
        let is_coming = |place: &&Place| matches!(place.state, State::Coming);
        if places.by_key.values().filter(is_coming).count() >= FORK_SERVERS_STARTING_MAX {
            return;
        }
        let has_room = match places.by_key.get(&key).map(|place| &place.state) {
            Some(State::Failed(until)) => now >= *until,
            Some(State::Coming | State::Ready(_)) => false,
            None => places.by_key.len() < self.servers_max || places.make_room(now),
        };
        if !has_room {
            return;
        }
        let key = Arc::new(key);
        places.by_key.insert(key.clone(), Place { state: State::Coming, used: now });
        places.orders.push(key);
        drop(places);
        self.wake.signal();
    }

    fn set(&self, key: &Arc<Key>, state: State) {
        let mut places = self.places.lock().expect("nothing panics under this lock");
        if let Some(place) = places.by_key.get_mut(key) {
            place.state = state;
        }
    }

    fn remove(&self, key: &Arc<Key>) {
        self.places.lock().expect("nothing panics under this lock").by_key.remove(key);
    }
}

impl Places {
    /// Takes out the one that was used longest ago, where that is long enough ago. The keeper ends what has no place.
    fn make_room(&mut self, now: Instant) -> bool {
        let oldest = self.by_key.iter().filter(|(_, place)| !matches!(place.state, State::Coming));
        let oldest = oldest.min_by_key(|(_, place)| place.used).map(|(key, place)| (key.clone(), place.used));
        match oldest {
            Some((key, used)) if now.duration_since(used) >= FORK_SERVER_YIELDS => {
                self.by_key.remove(&key);
                true
            }
            _ => false,
        }
    }
}

/// The keeper's life: starts what is ordered, hears what fork servers say, ends those that are over.
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
            if ready[0] {
                one.hear(&worker.fork_servers);
            }
            if ready[1] {
                one.log_what_it_said();
            }
        }
        let orders =
            std::mem::take(&mut worker.fork_servers.places.lock().expect("nothing panics under this lock").orders);
        for key in orders {
            match Kept::start(worker, &key) {
                Ok(one) => kept.push(one),
                Err(why) => {
                    log!("worker {}: no fork server for {}: {why}", worker.id, key.module.display());
                    worker.fork_servers.set(&key, State::Failed(Instant::now() + FORK_SERVER_RETRY));
                }
            }
        }
        let is_due = Instant::now() >= next_look;
        kept.retain_mut(|one| one.is_wanted(worker, is_due));
        if is_due {
            kept.iter().for_each(|one| one.server.calm());
            next_look = Instant::now() + FORK_SERVERS_PERIOD;
        }
    }
}

/// A fork server that runs. Dropped, it is ended.
struct Kept {
    key: Arc<Key>,
    server: Arc<ForkServer>,
    process: Spawned,
    /// What it says: stdout and stderr. `None` at its end.
    said: Option<PipeReader>,
    line: Vec<u8>,
    /// The program and the version of it that runs.
    program: (PathBuf, Option<Version>),
    started: Instant,
    has_ended: bool,
}

impl Kept {
    fn start(worker: &Worker, key: &Arc<Key>) -> std::result::Result<Kept, String> {
        let command = runtime::server_command(&worker.runtimes, &worker.sandbox, key)?;
        let as_text = |step: &'static str| move |error: std::io::Error| format!("could not {step}: {error}");
        let (server, control) =
            ForkServer::new(worker.fork_servers.children_max, worker.fork_servers.allowance.clone())
                .map_err(as_text("make a socket pair"))?;
        let (said, says) = std::io::pipe().map_err(as_text("make a pipe"))?;
        sys::set_nonblocking(said.as_fd()).map_err(as_text("set up a pipe"))?;
        let folder = key.module.parent().map_or(b"/".as_slice(), |folder| folder.as_os_str().as_bytes());
        let folder = CString::new(folder).map_err(|_| "its path holds a NUL".to_string())?;
        let process = sys::spawn(&Spawn {
            program: &command.program,
            arguments: &command.arguments,
            environment: &worker.inherited_environment,
            folder: Some(&folder),
            stdin: worker.null.as_fd(),
            stdout: says.as_fd(),
            stderr: says.as_fd(),
            control: Some(control.as_fd()),
            // No Landlock: it runs nothing of the function, and its children restrict themselves before they do.
            confinement: Some(worker.sandbox.confinement(
                command.program_file.as_ref(),
                command.data_mib_max,
                key.net,
                [None, None],
            )),
        })
        .map_err(|error| format!("could not {}: {}", error.step, error.cause))?;
        let program = PathBuf::from(std::ffi::OsStr::from_bytes(command.program.as_bytes()));
        Ok(Kept {
            key: key.clone(),
            server: Arc::new(server),
            process,
            said: Some(said),
            line: Vec::new(),
            program: (program.clone(), Version::of_path(&program)),
            started: Instant::now(),
            has_ended: false,
        })
    }

    fn hear(&mut self, all: &ForkServers) {
        let was_ready = self.server.is_ready();
        self.has_ended = !self.server.listen();
        if !was_ready && self.server.is_ready() {
            all.set(&self.key, State::Ready(self.server.clone()));
        }
    }

    /// Logs the lines that it has said.
    fn log_what_it_said(&mut self) {
        let Some(said) = &mut self.said else { return };
        let mut buffer = [0; FORK_SERVER_LINE_BYTES_MAX];
        let count = match said.read(&mut buffer) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            result => result.unwrap_or(0),
        };
        if count == 0 {
            self.said = None;
        }
        self.line.extend_from_slice(&buffer[..count]);
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n').or_else(|| {
            let is_last = count == 0 || self.line.len() >= FORK_SERVER_LINE_BYTES_MAX;
            (is_last && !self.line.is_empty()).then(|| self.line.len() - 1)
        }) {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            let text = String::from_utf8_lossy(&line);
            log!("fork server of {}: {}", self.key.module.display(), text.trim_end());
        }
    }

    /// Whether it shall stay; takes it out of its place where not. `is_due` asks for what costs more than a look.
    fn is_wanted(&mut self, worker: &Worker, is_due: bool) -> bool {
        let all = &worker.fork_servers;
        let now = Instant::now();
        let is_late = !self.server.is_ready() && now.duration_since(self.started) >= FORK_SERVER_START_MAX;
        if self.has_ended || is_late || self.server.has_failed() {
            self.log_what_it_said();
            let why = match () {
                () if self.has_ended => "has ended",
                () if is_late => "was not ready in time",
                () => "did not fork in time",
            };
            log!("worker {}: the fork server of {} {why}; functions start cold", worker.id, self.key.module.display());
            match self.server.is_ready() {
                // It has served, so the next will.
                true => all.remove(&self.key),
                false => all.set(&self.key, State::Failed(now + FORK_SERVER_RETRY)),
            }
            return false;
        }
        let places = all.places.lock().expect("nothing panics under this lock");
        let Some(idle) = places.by_key.get(&self.key).map(|place| now.duration_since(place.used)) else { return false };
        // A newer version of the same module is coming or there.
        let is_replaced =
            places.by_key.keys().any(|other| other.module == self.key.module && other.version != self.key.version);
        drop(places);
        let is_outdated = || Version::of_path(&self.program.0) != self.program.1;
        let is_old = || Version::of_path(&self.key.module) != Some(self.key.version);
        if idle >= FORK_SERVER_IDLE_MAX || (is_replaced && is_old()) || (is_due && is_outdated()) {
            all.remove(&self.key);
            return false;
        }
        true
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // First itself: then no child comes any more.
        sys::kill_process(self.process.pidfd.as_fd());
        let _ = sys::poll(&mut [Watched::read(self.process.pidfd.as_fd())], Some(KILL_WAIT_MAX));
        let _ = sys::reap(self.process.pid);
        self.server.dismiss_all();
    }
}
