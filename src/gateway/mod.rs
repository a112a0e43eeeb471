//! The gateway process: from the public port to a worker and back.
//!
//! ```text
//! main thread      starts everything, waits for SIGTERM or SIGINT, drains; starts no process itself (orphans.rs)
//! http             accepts; one thread per connection
//! kv sync          copies the registry into RAM when it has changed
//! metrics          takes in workers; one thread per worker
//! status           says how the gateway is, on run/status.sock
//! supervisor       starts and restarts workers and the console
//! ledger           records calls in FAAS_LEDGER
//! ```

pub mod cgi;
mod cgi_output;
mod counters;
mod function_output;
mod health;
// The twin of gateway.c keeps its name.
#[allow(clippy::module_inception)]
mod gateway;
mod metrics_collector;
mod operator_token;
mod scheduler;
mod signals;
mod status;
mod supervisor;
pub mod worker_link;

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use counters::Counters;
use crossbeam_channel::Receiver;
use gateway::Gateway;
use health::Health;
use metrics_collector::MetricsCollector;
use scheduler::Scheduler;
use signals::Signals;
use status::Status;
use supervisor::Supervisor;

use crate::error::start::{Result, StartError};
use crate::http_handler::HttpServer;
use crate::http_handler::spool::SpoolArea;
use crate::ledger::Ledger;
use crate::registry::create::create_registry;
use crate::registry::files::remove_database;
use crate::registry::kv::Kv;
use crate::registry::kv_sqlite_sync::Sync;
use crate::registry::migrate::migrate;
use crate::sandbox::{Sandbox, promises};
use crate::settings::Settings;
use crate::sys::Signal;
use crate::{limits, log, sys};

/// How long clients whose calls were cut off may take to receive their responses, before the process ends.
const LAST_RESPONSES_MAX: Duration = Duration::from_secs(1);

/// Why the service ends.
enum Ending {
    Signal(Signal),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Signal(Signal::Hangup) => write!(f, "its terminal has closed"),
            Ending::Signal(signal) => signal.fmt(f),
        }
    }
}

/// Runs the gateway until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// Whatever keeps it from starting. Nothing that happens later ends it.
pub fn run(settings: Settings) -> Result<()> {
    let had_terminal = sys::has_terminal();
    // The order: first what another instance would object to, then what needs no worker, then workers, then the server.
    let run_dir = RunDir::take(&settings)?;
    let open_files = sys::raise_open_files_limit().map_err(StartError::io("raise", "the limit of open files"))?;
    sys::become_subreaper().map_err(StartError::io("become", "a subreaper"))?;
    let sandbox = Sandbox::new(&settings)?;
    let spool_area = SpoolArea::new(&settings.spool_dir, settings.spool_bytes_max)?;
    let server = Arc::new(HttpServer::open(&settings, spool_area.clone())?);
    let address = server.address();
    log!("gateway: process {}, {open_files} open files at most", std::process::id());
    let user = sandbox.user.as_ref().map_or("the gateway's own user", |user| &user.name);
    log!("gateway: functions run as {user}");
    sandbox.remarks.iter().for_each(|remark| log!("gateway: {remark}"));

    if settings.dev {
        log!("gateway: FAAS_DEV=1: responses show clients paths, causes and what failed functions said");
    }
    let promises = promises::ask(&supervisor::worker_program()?, &settings)?;

    let kv = Arc::new(Kv::new());
    let mut sync = Sync::new(&settings, kv.clone(), sandbox.user.clone());
    sync.look();
    let (stop_sync, sync_stopped) = crossbeam_channel::bounded::<()>(0);
    let sync = start_thread("kv sync", move || sync.run(&sync_stopped))?;

    let scheduler = Scheduler::new(settings.queue_max, settings.queue_timeout);
    let collector = MetricsCollector::new(scheduler.clone());
    collector.start(&settings)?;
    let health = Health::new(kv.clone(), scheduler.clone());
    let counters = Arc::new(Counters::default());
    let status =
        Status::new(health.clone(), kv.clone(), scheduler.clone(), counters.clone(), sandbox.describe(promises));
    status.start(&settings)?;
    if settings.console.is_some() {
        operator_token::provide(&settings.operator_token_file())?;
    }
    let supervisor = Supervisor::new(&settings, scheduler.clone(), status)?;
    let workers = {
        let supervisor = supervisor.clone();
        start_thread("supervisor", move || supervisor.run())?
    };
    let (ledger, ledger_thread) = Ledger::start(&settings)?;
    let response_bytes_max = settings.response_bytes_max;
    let handler = Arc::new(Gateway {
        dev: settings.dev,
        kv,
        scheduler,
        counters,
        health: health.clone(),
        spool_area,
        ledger,
        response_bytes_max,
    });
    let accepting = server.clone();
    start_thread("http", move || accepting.run(handler))?;
    let (ending, ended) = crossbeam_channel::bounded(1);
    let signals = Signals {
        server: server.clone(),
        supervisor: supervisor.clone(),
        ending,
        had_terminal,
        has_lame_duck: !settings.lame_duck.is_zero(),
    };
    start_thread("signals", move || signals.take())?;
    run_dir.write_address(address)?;
    log!("gateway: listening on http://{address}");

    let ending = ended.recv().expect("the thread for signals keeps its sender");
    health.set_ending();
    serve_lame(&ending, settings.lame_duck, &ended);
    let began = Instant::now();
    log!("gateway: {ending}; finishing what has arrived");
    if server.drain(began + settings.drain) {
        supervisor.stop(limits::SAMPLE_DEAD);
        collector.drain();
    } else {
        log!("gateway: {} requests are cut off after {} ms", server.under_way(), began.elapsed().as_millis());
        server.cut_off();
        server.wait_until_closed(Instant::now() + LAST_RESPONSES_MAX);
        supervisor.stop(limits::KILL_WAIT_MAX);
        collector.cut_off();
    }
    // Workers that do not end by themselves are killed by the supervisor.
    let _ = workers.join();
    drop(stop_sync);
    // Else a copy of the registry that it is reading would stay in the run dir.
    let _ = sync.join();
    if let Some(thread) = ledger_thread {
        thread.stop();
    }
    log!("gateway: stopped after {} ms", began.elapsed().as_millis());
    drop(run_dir);
    Ok(())
}

/// Serves on for `time` after SIGTERM, while /healthz tells balancers to send no more. A second signal ends the wait.
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

/// The run dir while this instance has it: mode 0700, with our process id in gateway.pid, whose first byte we have
/// locked. Workers lock the bytes after it.
struct RunDir<'a> {
    settings: &'a Settings,
    /// Open as long as the lock is to hold.
    _pid_file: File,
}

impl<'a> RunDir<'a> {
    /// # Errors
    /// [`StartError::AlreadyRuns`] where another gateway has it.
    fn take(settings: &'a Settings) -> Result<RunDir<'a>> {
        let folder = &settings.run_dir;
        let failed = |step| StartError::io(step, folder.display());
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("create the run dir"))?;
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(folder, private).map_err(failed("make private the run dir"))?;
        let path = settings.pid_file();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let pid_file = options.open(&path).map_err(StartError::io("open", path.display()))?;
        if !sys::try_lock(&pid_file, 0).map_err(StartError::io("lock", path.display()))? {
            let holder = sys::lock_holder(&pid_file, 0).ok().flatten();
            let holder = holder.map_or("a gateway".to_string(), |pid| format!("a gateway, process {pid},"));
            return Err(StartError::AlreadyRuns { run_dir: folder.clone(), holder });
        }
        let number = format!("{}\n", std::process::id());
        pid_file
            .set_len(0)
            .and_then(|()| (&pid_file).write_all(number.as_bytes()))
            .map_err(failed("write the pid to"))?;
        Ok(RunDir { settings, _pid_file: pid_file })
    }

    /// Leaves word of the public address, which the kernel may have chosen.
    fn write_address(&self, address: SocketAddr) -> Result<()> {
        let path = address_file(self.settings);
        std::fs::write(&path, format!("{address}\n")).map_err(StartError::io("write", path.display()))
    }
}

impl Drop for RunDir<'_> {
    fn drop(&mut self) {
        let settings = self.settings;
        let sockets = [settings.metrics_socket(), settings.status_socket()];
        let files =
            [settings.console_address_file(), address_file(settings), settings.session_key_file(), settings.pid_file()];
        for path in sockets.into_iter().chain(files) {
            let _ = std::fs::remove_file(path);
        }
        // The console is killed wherever it is.
        remove_database(&settings.console_copy());
        // The workers have removed their own parts; what one that was killed has left, the next start removes.
        let _ = std::fs::remove_dir_all(settings.compiled_dir());
        let _ = std::fs::remove_dir_all(settings.sessions_dir());
        let _ = std::fs::remove_dir(settings.scratch_dir());
        for id in 0..settings.workers {
            let _ = std::fs::remove_file(settings.worker_socket(id));
        }
    }
}

/// `HOST:PORT` and a newline, as long as the gateway listens.
fn address_file(settings: &Settings) -> std::path::PathBuf {
    settings.run_dir.join("gateway.address")
}

/// Asks the gateway that runs in this run dir how it is: what it answers to `GET /healthz`, and whether that is "ready".
///
/// # Errors
/// Where none runs, or it does not answer.
pub fn health(settings: &Settings) -> Result<(String, bool)> {
    use std::io::Read;
    use std::net::TcpStream;

    let path = address_file(settings);
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

/// What `gateway --init` did.
pub enum Init {
    Created,
    /// An old registry got code and history; its backup is here.
    Migrated(std::path::PathBuf),
    Nothing,
}

/// Creates the registry from init.sql where there is none, and migrates one from before modules and history.
/// A follower's comes from elsewhere, as it is.
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
