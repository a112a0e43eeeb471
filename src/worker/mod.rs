//! The worker process: accepts invocations from the gateway and runs each in a process of its own.
//!
//! ```text
//! main thread        accepts connections; starts no process itself (orphans.rs says why)
//! one per connection serves one invocation at a time: connection.rs → invocation.rs → start.rs, by exec (runtime/) or
//!                    with a child of a fork server (fork_server.rs, child.rs). Or has one module compiled ahead of
//!                    its calls
//! fork servers       starts and replaces fork servers: fork_servers.rs
//! compiler (two)     compiles WASM modules that calls wait for: runtime/compiled.rs
//! lookers            take looks at invocations that may have to wait: aside.rs
//! guard              notices a fork bomb, keeps the worker running: guard.rs
//! sessions           removes old sessions of PHP functions: sessions.rs
//! metrics            metrics_reader → metrics_smoother → score, every 500 ms; hears DRAIN
//! signals            SIGTERM from a sender other than the gateway means DRAIN as well; SIGHUP reopens the log
//! ```
//!
//! A worker ends in one of two ways. DRAIN: it accepts nothing more, finishes what runs, exits. Gateway gone (the
//! metrics stream ends without DRAIN): it kills what runs and exits at once, since its answers would reach no client.
//!
//! Unlike the C original, which runs one invocation at a time, a worker has slots; the gateway keeps count of them.

mod aside;
pub(crate) mod child;
mod connection;
mod error;
pub mod fork_server;
mod fork_servers;
mod guard;
mod held_files;
mod invocation;
mod metrics_reader;
mod metrics_sender;
mod metrics_smoother;
mod order;
mod process;
mod rhythm;
mod runtime;
mod sampler;
mod scratch;
mod sessions;
mod start;
mod stderr_log;
mod streams;
mod version;

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use connection::{Connection, Message};
use error::InvocationError;
use fork_servers::ForkServers;
use order::{Functions, Order};
use scratch::ScratchArea;
use sessions::Sessions;

use crate::error::start::{Result, StartError};
use crate::limits::{CONNECTION_STACK_BYTES, GATEWAY_GONE_GRACE, WORKERS};
use crate::procfs;
use crate::protocol::function_spec::FunctionSpec;
use crate::sandbox::groups::Groups;
use crate::sandbox::namespaces::Namespaces;
use crate::sandbox::{self, Sandbox, orphans};
use crate::settings::Settings;
use crate::sys::{self, EventFd, Pid, Signal, Watched};
use crate::{log, log_file};

/// Modules that a worker compiles at once, so that a small one need not wait for a large one.
const COMPILERS: usize = 2;

/// Other programs of runtimes that a worker runs at once.
const TOOLS: usize = 2;

/// Time between two sweeps of the sessions.
const SESSIONS_PERIOD: Duration = Duration::from_secs(60);

/// Why a worker ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Drain,
    GatewayGone,
    OtherVersion,
}

struct Worker {
    settings: Settings,
    id: u32,
    sandbox: Sandbox,
    scratch_area: ScratchArea,
    runtimes: runtime::Runtimes,
    fork_servers: ForkServers,
    /// The control groups of its invocations; `None` where the kernel lends none.
    groups: Option<Arc<Groups>>,
    null: File,
    /// The gateway's process id; the worker takes work from no other process. In a PID namespace of the worker's own it
    /// is 0, as that of all processes outside; then no function has the gateway's user (promises.rs).
    gateway: Pid,
    /// The part of the worker's environment that functions see, PATH, LANG and TZ: `NAME=value` and a NUL, repeated.
    inherited_environment: Vec<u8>,
    /// Folders in which code out of the registry can lie.
    code_dirs: Vec<PathBuf>,
    functions: Functions,
    sessions: Sessions,
    /// Readable while the machine's number of threads is far above the usual one (guard.rs).
    alarm: EventFd,
    /// Set once, when the worker is to end.
    ending: OnceLock<Ending>,
    /// Readable when the worker is to end, for either reason: wakes the accept loop.
    stop: EventFd,
    /// Readable when running invocations are to be killed.
    dying: EventFd,
    connections: AtomicUsize,
    /// The number of invocations that run, and of those that have ever begun.
    running: Mutex<(usize, u64)>,
    /// Notified when the first invocation begins to run.
    first_running: Condvar,
    /// Notified when `running` falls.
    fewer_running: Condvar,
}

/// Runs a worker until it is told to end. Without an id it takes the first free one above those that the gateway gives
/// out itself, so that an operator can start a further worker by hand.
pub fn run(settings: Settings, id: Option<u32>) -> Result<()> {
    // Before this process has mounts of its own: in a chroot the kernel then names the program as seen from outside.
    let own_program = std::env::current_exe().map_err(StartError::io("find", "our own program"))?;
    sys::become_subreaper().map_err(StartError::io("become", "a subreaper"))?;
    let user = sandbox::functions_user(&settings)?;
    let namespaces = Namespaces::new(namespaces_max(&settings), user.as_ref()).unwrap_or_else(|error| {
        log!("worker: cannot make user namespaces ({error}); functions share one count of processes");
        None
    });
    sandbox::confine_worker(namespaces.is_some())?;
    let (lock, id) = take_id(&settings, id)?;
    spread_process_ids(&settings, id);
    let gateway = sys::lock_holder(&lock, 0).map_err(StartError::io("look for", "a running gateway"))?;
    let gateway = gateway.ok_or_else(|| StartError::NoGateway { run_dir: settings.run_dir.clone() })?;
    let sandbox = Sandbox::new(&settings, gateway, namespaces)?;
    let programs = own_program.parent().unwrap_or(Path::new("/"));
    let worker = Arc::new(Worker::new(settings, id, gateway, sandbox, programs)?);
    let listener = listen(&worker)?;
    start_threads(&worker)?;

    worker.accept(&listener);
    // Connections that were about to be accepted are closed at once, and another worker serves them.
    drop(listener);
    worker.wait_for_the_running();
    // Only now may another worker take this id: until then the socket's path is ours.
    worker.scratch_area.remove();
    if let Some(groups) = &worker.groups {
        groups.remove();
    }
    let _ = std::fs::remove_file(worker.settings.worker_socket(id));
    drop(lock);
    Ok(())
}

/// Announces the worker to the gateway, and starts the threads that serve no connection.
fn start_threads(worker: &Arc<Worker>) -> Result<()> {
    let metrics_stream = metrics_sender::connect(worker)?;
    start_thread("metrics", worker, move |worker| worker.end(metrics_sender::run(worker, metrics_stream)))?;
    start_thread("fork servers", worker, fork_servers::keep)?;
    for _ in 0..COMPILERS {
        start_thread("compiler", worker, runtime::compile_modules)?;
    }
    start_thread("guard", worker, guard::watch)?;
    start_thread("scratch", worker, |worker| worker.scratch_area.remove_the_waiting())?;
    start_thread("sessions", worker, |worker| {
        loop {
            std::thread::sleep(SESSIONS_PERIOD);
            worker.sessions.sweep();
        }
    })?;
    start_thread("signals", worker, |worker| {
        // A worker without a log to reopen was started by hand, and its terminal has closed.
        while sys::wait_for_signal(&Signal::ALL) == Signal::Hangup && log_file::reopen() {}
        worker.end(Ending::Drain);
    })
}

impl Worker {
    /// A worker that runs nothing yet. `programs` is the folder of this program, where the runtimes lie.
    fn new(settings: Settings, id: u32, gateway: Pid, sandbox: Sandbox, programs: &Path) -> Result<Worker> {
        let above = [settings.scratch_dir(), settings.instance_scratch_dir()];
        Ok(Worker {
            id,
            groups: Groups::new(&settings, &id.to_string(), sandbox.may_leave_groups()),
            scratch_area: ScratchArea::new(&above, id, |folder| sandbox.projects(folder))?,
            sandbox,
            runtimes: runtime::Runtimes::new(settings.compiled_dir(), programs, settings.worker_slots)?,
            fork_servers: ForkServers::new(&settings)?,
            null: File::open("/dev/null").map_err(StartError::io("open", "/dev/null"))?,
            gateway,
            inherited_environment: inherited_environment(),
            code_dirs: settings.code_dirs(),
            functions: Functions::default(),
            sessions: Sessions::new(&settings)?,
            alarm: EventFd::new().map_err(StartError::io("make", "an eventfd"))?,
            ending: OnceLock::new(),
            stop: EventFd::new().map_err(StartError::io("make", "an eventfd"))?,
            dying: EventFd::new().map_err(StartError::io("make", "an eventfd"))?,
            connections: AtomicUsize::new(0),
            running: Mutex::default(),
            first_running: Condvar::new(),
            fewer_running: Condvar::new(),
            settings,
        })
    }

    fn dying(&self) -> BorrowedFd<'_> {
        self.dying.as_fd()
    }

    /// The number of invocations that run, and of those that have ever begun.
    fn load(&self) -> (usize, u64) {
        *self.running.lock().expect("nothing panics under this lock")
    }

    /// Waits while nothing runs.
    fn wait_for_an_invocation(&self) {
        let running = self.running.lock().expect("nothing panics under this lock");
        drop(self.first_running.wait_while(running, |running| running.0 == 0));
    }

    fn end(&self, ending: Ending) {
        if self.ending.set(ending).is_ok() {
            match ending {
                Ending::Drain => {}
                Ending::GatewayGone => log!("worker {}: the gateway is gone; ending what runs", self.id),
                Ending::OtherVersion => {
                    let version = crate::protocol::VERSION;
                    log!("worker {}: it is of version {version}, the gateway of another; ending", self.id);
                }
            }
        }
        if ending != Ending::Drain {
            self.dying.signal();
        }
        self.stop.signal();
    }

    /// Accepts connections until the worker is to end.
    fn accept(self: &Arc<Self>, listener: &UnixListener) {
        let connections_max = connections_max(&self.settings);
        let (mut is_failing, mut has_strangers) = (false, false);
        loop {
            let mut watched = [Watched::read(listener.as_fd()), Watched::read(self.stop.as_fd())];
            let _ = sys::poll(&mut watched, None);
            if watched[1].is_ready() {
                return;
            }
            match listener.accept() {
                // A function that runs as the worker's own user can find the socket. Logged once: it could try without
                // end.
                Ok((stream, _)) if !self.is_from_gateway(&stream) => {
                    if !std::mem::replace(&mut has_strangers, true) {
                        log!("worker {}: refused a connection: it is not from the gateway", self.id);
                    }
                }
                // The gateway never needs that many; a closed connection makes it try another worker.
                Ok(_) if self.connections.load(Ordering::Relaxed) >= connections_max => {}
                Ok((stream, _)) => {
                    is_failing = false;
                    self.serve_in_thread(stream);
                }
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        log!("worker {}: could not accept a connection: {error}; trying on", self.id);
                    }
                    // Out of descriptors, most likely: they come back when invocations end.
                    let _ = sys::poll(&mut [Watched::read(self.stop.as_fd())], Some(Duration::from_millis(20)));
                }
            }
        }
    }

    fn is_from_gateway(&self, stream: &UnixStream) -> bool {
        sys::peer(stream.as_fd()).is_ok_and(|peer| peer == (self.gateway, sys::own_uid()))
    }

    fn serve_in_thread(self: &Arc<Self>, stream: UnixStream) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let worker = self.clone();
        let started =
            std::thread::Builder::new().name("connection".into()).stack_size(CONNECTION_STACK_BYTES).spawn(move || {
                if let Err(error) = worker.serve(stream)
                    && !matches!(error, InvocationError::GatewayGone)
                {
                    log!("worker {}: {error}", worker.id);
                }
                worker.connections.fetch_sub(1, Ordering::Relaxed);
            });
        if let Err(error) = started {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            log!("worker {}: could not start a thread: {error}", self.id);
        }
    }

    /// Serves one connection: invocation after invocation, or one compilation.
    fn serve(&self, stream: UnixStream) -> Result<(), InvocationError> {
        let mut connection = Connection::new(stream)?;
        while let Some(message) = connection.receive()? {
            let (invocation, body) = match message {
                Message::Invoke(invocation, body) => (invocation, body),
                Message::Compile(settings) => {
                    runtime::compile_ahead(self, &FunctionSpec::decode(&settings)?);
                    break;
                }
            };
            // The gateway gives an invocation that has not begun to another worker.
            let Some(_running) = Running::begin(self) else { break };
            let function = self.functions.get(invocation.settings())?;
            let body = body.map(File::from);
            invocation::run(self, &Order { invocation, function, body }, &mut connection)?;
        }
        Ok(())
    }

    /// After DRAIN: waits until nothing runs. The gateway bounds that time: it kills the worker, or dies, which turns
    /// the drain into an end at once. After the gateway's death: waits for a grace period of killing.
    fn wait_for_the_running(&self) {
        let mut deadline = None;
        let mut running = self.running.lock().expect("nothing panics under this lock");
        while running.0 > 0 {
            let is_dying = sys::poll(&mut [Watched::read(self.dying())], Some(Duration::ZERO)).unwrap_or(0) > 0;
            if is_dying && Instant::now() >= *deadline.get_or_insert(Instant::now() + GATEWAY_GONE_GRACE) {
                break;
            }
            let tick = Duration::from_millis(50);
            running = self.fewer_running.wait_timeout(running, tick).expect("nothing panics under this lock").0;
        }
        drop(running);
        orphans::end_all();
    }
}

/// The connections that a worker serves at once, each for one invocation at most: that of each slot, and those that
/// end or begin meanwhile.
fn connections_max(settings: &Settings) -> usize {
    2 * settings.worker_slots as usize + 8
}

/// User namespaces that a worker can need at once: one for each process that it starts confined, those of invocations, and
/// the tools of runtimes.
pub fn namespaces_max(settings: &Settings) -> usize {
    connections_max(settings) + COMPILERS + TOOLS
}

/// Counts an invocation as running.
struct Running<'a>(&'a Worker);

impl<'a> Running<'a> {
    /// `None` if the worker is to end. Counts under the lock, so that the end waits for every invocation that has
    /// begun.
    fn begin(worker: &'a Worker) -> Option<Running<'a>> {
        let mut running = worker.running.lock().expect("nothing panics under this lock");
        if worker.ending.get().is_some() {
            return None;
        }
        running.0 += 1;
        running.1 += 1;
        if running.0 == 1 {
            worker.first_running.notify_one();
        }
        Some(Running(worker))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.lock().expect("nothing panics under this lock").0 -= 1;
        // Only the end of the worker waits for this. A waiter that has just begun to wait looks again after a moment.
        if self.0.ending.get().is_some() {
            self.0.fewer_running.notify_all();
        }
    }
}

/// Locks the worker's id, which is byte 1 + id of the gateway's pid file, and thereby its socket's path.
fn take_id(settings: &Settings, id: Option<u32>) -> Result<(File, u32)> {
    let path = settings.pid_file();
    let lock = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(StartError::io("find a running gateway: could not open", path.display()))?;
    let candidates = match id {
        Some(id) => id..id + 1,
        None => settings.workers..*WORKERS.end() as u32,
    };
    for id in candidates {
        if sys::try_lock(&lock, 1 + u64::from(id)).map_err(StartError::io("lock", path.display()))? {
            return Ok((lock, id));
        }
    }
    let holder = id.map_or("a worker of every id".to_string(), |id| format!("worker {id}"));
    Err(StartError::AlreadyRuns { run_dir: settings.run_dir.clone(), holder })
}

/// In a PID namespace of its own: has process ids begin at the worker's share of all, so that functions of two workers
/// seldom have the same id. Some programs name files by it. A kernel without CONFIG_CHECKPOINT_RESTORE lacks the file.
fn spread_process_ids(settings: &Settings, id: u32) {
    let pid_max =
        std::fs::read_to_string("/proc/sys/kernel/pid_max").ok().and_then(|text| text.trim().parse::<u32>().ok());
    if let (true, Some(pid_max)) = (procfs::has_own_namespace(), pid_max) {
        let first = pid_max / settings.workers.max(id + 1) * id;
        let _ = std::fs::write("/proc/sys/kernel/ns_last_pid", first.to_string());
    }
}

fn listen(worker: &Worker) -> Result<UnixListener> {
    let path = worker.settings.worker_socket(worker.id);
    // Remove the socket of a killed worker. No other process can use it, since this one holds the lock on the id.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(StartError::io("open the socket", path.display()))?;
    listener.set_nonblocking(true).map_err(StartError::io("set up", path.display()))?;
    Ok(listener)
}

fn inherited_environment() -> Vec<u8> {
    let pair = |name: &str| Some([name.as_bytes(), b"=", std::env::var_os(name)?.as_bytes(), b"\0"].concat());
    ["PATH", "LANG", "TZ"].into_iter().filter_map(pair).flatten().collect()
}

fn start_thread(name: &'static str, worker: &Arc<Worker>, body: impl FnOnce(&Worker) + Send + 'static) -> Result<()> {
    let worker = worker.clone();
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || body(&worker));
    thread.map(drop).map_err(|cause| StartError::Thread { cause })
}
