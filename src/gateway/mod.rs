//! The gateway process: from the public port to a worker and back.
//!
//! ```text
//! main thread      starts everything, waits for SIGTERM or SIGINT, drains; starts no process itself (orphans.rs)
//! http             accepts; one thread per connection
//! kv sync          copies the registry into RAM when it has changed
//! arrivals         has WASM modules compiled when their rows arrive
//! metrics          takes in workers; one thread per worker
//! status           reports the gateway's state on run/status.sock
//! handover         hands the public port to a successor
//! signals          SIGTERM, SIGINT, SIGHUP
//! supervisor       starts and restarts workers and the console
//! ledger           records calls in FAAS_LEDGER
//! ```

mod arrivals;
pub(crate) mod cgi;
pub(crate) mod cgi_output;
mod counters;
mod function_output;
mod handover;
mod health;
// The twin of gateway.c keeps its name.
#[allow(clippy::module_inception)]
mod gateway;
mod metrics_collector;
mod operator_token;
mod record;
mod run_dir;
mod scheduler;
mod signals;
mod status;
mod supervisor;
mod wasm_build;
pub(crate) mod worker_link;

use std::fmt;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use counters::Counters;
use crossbeam_channel::{Receiver, Sender};
use gateway::Gateway;
use handover::{Handover, Succession};
use health::Health;
use metrics_collector::MetricsCollector;
use run_dir::{RunDir, Tenure};
use scheduler::Scheduler;
use signals::Signals;
use status::Status;
use supervisor::Supervisor;

use crate::error::start::{Result, StartError};
use crate::http_handler::HttpServer;
use crate::http_handler::spool::SpoolArea;
use crate::ledger::{Ledger, LedgerThread};
use crate::registry::create::create_registry;
use crate::registry::kv::Kv;
use crate::registry::kv_sqlite_sync::Sync;
use crate::registry::migrate::migrate;
use crate::sandbox::{Sandbox, groups, promises};
use crate::settings::Settings;
use crate::sys::{EventFd, Pid, Signal};
use crate::{http_handler, limits, log, procfs, sys};

/// Time for clients whose calls were cut off to receive their responses, before the process ends.
const LAST_RESPONSES_MAX: Duration = Duration::from_secs(1);

/// Why the service ends.
enum Ending {
    Signal(Signal),
    /// A successor has taken over.
    Succeeded {
        pid: Pid,
    },
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Signal(Signal::Hangup) => write!(f, "its terminal has closed"),
            Ending::Signal(signal) => signal.fmt(f),
            Ending::Succeeded { pid } => write!(f, "process {pid} has taken over"),
        }
    }
}

/// The way a gateway gets its public port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It opens the port, or gets it from a service manager.
    Alone,
    /// It gets the port from the gateway that it succeeds.
    Succeed,
}

/// Runs the gateway until SIGTERM or SIGINT, or until a successor has taken over; then drains.
///
/// # Errors
/// Any failure of the start. Nothing that happens later ends it.
pub fn run(settings: Settings, start: Start) -> Result<()> {
    Service::start(settings, start)?.wait_and_end();
    Ok(())
}

/// A gateway in service, as its end needs it.
struct Service {
    settings: Settings,
    run_dir: Arc<RunDir>,
    server: Arc<HttpServer>,
    health: Arc<Health>,
    background: Background,
    /// The folder of the invocations' control groups, where one is delegated.
    delegated: Option<PathBuf>,
    ended: Receiver<Ending>,
}

impl Service {
    /// Starts all parts. The order: first the steps that another instance can block, then those that need no worker, then
    /// workers, then the server.
    fn start(mut settings: Settings, start: Start) -> Result<Service> {
        let had_terminal = sys::has_terminal();
        let (run_dir, succession, handed) = enter(&mut settings, start)?;
        let tenure = Arc::new(Tenure::new(succession.is_none()));
        let open_files = sys::raise_open_files_limit().map_err(StartError::io("raise", "the limit of open files"))?;
        sys::become_subreaper().map_err(StartError::io("become", "a subreaper"))?;
        let delegated = groups::enter(&settings);
        let sandbox = Sandbox::new(&settings, procfs::outer_pid(), None)?;
        let spool_area = SpoolArea::new(&settings.spool_dir, settings.spool_bytes_max)?;
        let listener = handed.map_or_else(|| http_handler::listen(settings.address), Ok)?;
        let server = Arc::new(HttpServer::new(&settings, spool_area.clone(), listener)?);
        log_start(&settings, &sandbox, open_files);
        let findings = promises::ask(&supervisor::worker_program()?, &settings, &sandbox)?;

        let kv = Arc::new(Kv::new());
        let (arrived, arrivals) = arrivals::queue();
        let sync = SyncThread::start(Sync::new(&settings, kv.clone(), sandbox.user.clone(), arrived), &tenure)?;

        let scheduler = Scheduler::new(settings.queue_max, settings.queue_timeout);
        arrivals::start(arrivals, scheduler.clone())?;
        let health = Health::new(kv.clone(), scheduler.clone());
        let counters = Arc::new(Counters::default());
        let sandbox = sandbox.describe(findings.table);
        let status = Status::new(health.clone(), kv.clone(), scheduler.clone(), counters.clone(), sandbox);
        status.start(&settings)?;
        let operator_token = operator_token::provide(&settings.operator_token_file())?;
        let supervisor = Supervisor::new(&settings, scheduler.clone(), status, tenure.clone(), findings.start_worker)?;
        let (background, ledger) = Background::start(&settings, &scheduler, &supervisor, &tenure, sync)?;
        let (ending, ended) = crossbeam_channel::bounded(1);
        let is_ready = || health.status() == "ready" && scheduler.overview().len() >= settings.workers as usize;
        if let Some(Err(error)) = succession.as_ref().map(|old| old.take_over(is_ready, &run_dir, &tenure)) {
            background.cut_off();
            return Err(error);
        }
        let handler = Arc::new(Gateway {
            dev: settings.dev,
            kv,
            scheduler,
            counters,
            health: health.clone(),
            spool_area,
            ledger,
            operator_token,
            response_bytes_max: settings.response_bytes_max,
            run_dir: settings.run_dir.clone(),
        });
        let accepting = server.clone();
        start_thread("http", move || accepting.run(handler))?;
        start_handover(&settings, &server, &supervisor, &tenure, &run_dir, ending.clone(), succession)?;
        let has_lame_duck = !settings.lame_duck.is_zero();
        let signals = Signals { server: server.clone(), supervisor, ending, had_terminal, has_lame_duck };
        start_thread("signals", move || signals.take())?;
        let address = server.address();
        run_dir.write_address(address)?;
        log!("gateway: listening on http://{address}");
        notify("READY=1");
        Ok(Service { settings, run_dir, server, health, background, delegated, ended })
    }

    /// Serves until the end is near; then finishes what has arrived, within FAAS_DRAIN_MS.
    fn wait_and_end(self) {
        let Service { settings, run_dir, server, health, background, delegated, ended } = self;
        let ending = ended.recv().expect("the thread for signals keeps its sender");
        notify("STOPPING=1");
        // A successor answers /healthz on the same port.
        if let Ending::Signal(_) = ending {
            health.set_ending();
            serve_lame(&ending, settings.lame_duck, &ended);
        }
        let began = Instant::now();
        log!("gateway: {ending}; finishing what has arrived");
        if server.drain(began + settings.drain) {
            background.drain();
        } else {
            log!("gateway: {} calls are cut off after {} ms", server.calls(), began.elapsed().as_millis());
            server.cut_off();
            server.wait_until_closed(Instant::now() + LAST_RESPONSES_MAX);
            background.cut_off();
        }
        log!("gateway: stopped after {} ms", began.elapsed().as_millis());
        if let (Some(delegated), Some(number)) = (delegated, settings.instance) {
            groups::remove_all(&delegated, &settings, number);
        }
        drop(run_dir);
    }
}

/// Tells the old gateway, if there is one, that this one has taken over; offers the port to the next.
fn start_handover(
    settings: &Settings,
    server: &Arc<HttpServer>,
    supervisor: &Arc<Supervisor>,
    tenure: &Arc<Tenure>,
    run_dir: &Arc<RunDir>,
    ending: Sender<Ending>,
    succession: Option<Succession>,
) -> Result<()> {
    let path = settings.handover_socket();
    let heir = Arc::downgrade(run_dir);
    let handover = Handover {
        listener: handover::listen(settings).map_err(StartError::io("open the socket", path.display()))?,
        settings: settings.clone(),
        server: server.clone(),
        supervisor: supervisor.clone(),
        tenure: tenure.clone(),
        run_dir: heir.clone(),
        ending,
    };
    start_thread("handover", move || handover.serve())?;
    if let Some(succession) = succession {
        succession.done()?;
        let tenure = tenure.clone();
        start_thread("lock", move || run_dir::take_over_lock(&heir, &tenure))?;
    }
    Ok(())
}

fn log_start(settings: &Settings, sandbox: &Sandbox, open_files: u64) {
    log!("gateway: process {}, {open_files} open files at most", std::process::id());
    let user = sandbox.user.as_ref().map_or("the gateway's own user", |user| &user.name);
    log!("gateway: functions run as {user}");
    sandbox.remarks.iter().for_each(|remark| log!("gateway: {remark}"));
    if settings.dev {
        log!("gateway: FAAS_DEV=1: responses show clients paths, causes and what failed functions said");
    }
}

/// Takes the run dir, or joins it as a successor. Returns the public port where another process hands it over.
fn enter(settings: &mut Settings, start: Start) -> Result<(Arc<RunDir>, Option<Succession>, Option<TcpListener>)> {
    Ok(match start {
        Start::Succeed => {
            let (succession, listener) = Succession::ask(settings)?;
            (Arc::new(RunDir::join(settings)?), Some(succession), Some(listener))
        }
        Start::Alone => {
            let run_dir = Arc::new(RunDir::take(settings)?);
            let inherited = sys::take_inherited_socket().map_err(StartError::io("take", "the socket of LISTEN_FDS"))?;
            (run_dir, None, inherited.map(http_handler::adopt).transpose()?)
        }
    })
}

/// Sends a note to the service manager, if one runs. If the note cannot be sent, the manager's own timeout reports it.
fn notify(note: &str) {
    if let Err(error) = sys::notify(note) {
        log!("gateway: could not send {note} to NOTIFY_SOCKET: {error}");
    }
}

/// The thread that keeps the routes in RAM equal to the registry.
struct SyncThread {
    stop: Arc<EventFd>,
    thread: JoinHandle<()>,
}

impl SyncThread {
    /// Loads the registry before it returns.
    fn start(mut sync: Sync, tenure: &Arc<Tenure>) -> Result<SyncThread> {
        let tenure = tenure.clone();
        let is_alone = move || tenure.is_alone.load(Ordering::SeqCst);
        sync.set_alone(is_alone());
        sync.look();
        let stop = Arc::new(EventFd::new().map_err(StartError::io("make", "an eventfd"))?);
        let stopped = stop.clone();
        let thread = start_thread("kv sync", move || sync.run(&stopped, is_alone))?;
        Ok(SyncThread { stop, thread })
    }

    /// Waits for its end: otherwise a copy of the registry that it is reading would stay in the run dir.
    fn stop(self) {
        self.stop.signal();
        let _ = self.thread.join();
    }
}

/// The threads that run besides the server, and the way to end them.
struct Background {
    supervisor: Arc<Supervisor>,
    collector: Arc<MetricsCollector>,
    workers: JoinHandle<()>,
    sync: SyncThread,
    ledger_thread: Option<LedgerThread>,
}

impl Background {
    /// Takes in workers, starts them and the console, and records calls.
    fn start(
        settings: &Settings,
        scheduler: &Arc<Scheduler>,
        supervisor: &Arc<Supervisor>,
        tenure: &Arc<Tenure>,
        sync: SyncThread,
    ) -> Result<(Background, Ledger)> {
        let collector = MetricsCollector::new(scheduler.clone());
        collector.start(settings)?;
        let (supervisor, supervising) = (supervisor.clone(), supervisor.clone());
        let workers = start_thread("supervisor", move || supervising.run())?;
        let tenure = tenure.clone();
        let (ledger, ledger_thread) = Ledger::start(settings, move || tenure.is_current.load(Ordering::SeqCst))?;
        Ok((Background { supervisor, collector, workers, sync, ledger_thread }, ledger))
    }

    /// Workers finish their invocations.
    fn drain(self) {
        self.supervisor.stop(limits::SAMPLE_DEAD);
        self.collector.drain();
        self.join();
    }

    /// Workers kill their invocations.
    fn cut_off(self) {
        self.supervisor.stop(limits::KILL_WAIT_MAX);
        self.collector.cut_off();
        self.join();
    }

    fn join(self) {
        // The supervisor kills workers that do not end by themselves.
        let _ = self.workers.join();
        self.sync.stop();
        if let Some(thread) = self.ledger_thread {
            thread.stop();
        }
    }
}

/// Continues to serve for `time` after SIGTERM, while /healthz tells balancers to send no more. A second signal ends
/// the wait.
fn serve_lame(ending: &Ending, time: Duration, ended: &Receiver<Ending>) {
    if !time.is_zero() {
        log!("gateway: {ending}; serving on for {} ms, while /healthz is 503", time.as_millis());
        let _ = ended.recv_timeout(time);
    }
}

fn start_thread(name: &'static str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(body);
    thread.map_err(|cause| StartError::Thread { cause })
}

/// Asks the gateway that runs in this run dir for its state: its answer to `GET /healthz`, and true if that is "ready".
///
/// # Errors
/// Where none runs, or it does not answer.
pub fn health(settings: &Settings) -> Result<(String, bool)> {
    use std::io::Read;
    use std::net::TcpStream;

    let path = settings.gateway_address_file();
    let address = std::fs::read_to_string(&path);
    let address = address.map_err(|_| StartError::NoGateway { run_dir: settings.run_dir.clone() })?;
    let mut address: SocketAddr =
        address.trim().parse().map_err(|_| StartError::NoGateway { run_dir: settings.run_dir.clone() })?;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    let timeout = crate::limits::HEALTH_WAIT_MAX;
    let failed = || StartError::io("ask", address);
    let mut stream = TcpStream::connect_timeout(&address, timeout).map_err(failed())?;
    stream.set_read_timeout(Some(timeout)).map_err(failed())?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed())?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok((body.to_string(), head.starts_with("HTTP/1.1 200 ")))
}

/// The outcome of `gateway --init`.
pub enum Init {
    Created,
    /// An old registry got code and history; the path is its backup.
    Migrated(PathBuf),
    Nothing,
}

/// Creates the registry from init.sql if none exists, and migrates one that predates modules and history. Leaves a
/// follower's registry alone, since it is a copy of another machine's.
pub fn init(settings: &Settings) -> Result<Init> {
    if settings.is_follower {
        return Ok(Init::Nothing);
    }
    if settings.db.exists() {
        return Ok(migrate(&settings.db)?.map_or(Init::Nothing, Init::Migrated));
    }
    create_folder(&settings.db)?;
    create_registry(&settings.db, &settings.module_root)?;
    Ok(Init::Created)
}

fn create_folder(file: &Path) -> Result<()> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder).map_err(StartError::io("create the folder", folder.display()))
}
