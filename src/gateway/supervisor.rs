//! Starts the gateway's own programs, its workers and the console, and restarts those that die or hang.
//!
//! One mechanism serves both. A program announces itself: a worker by its first sample, the console by connecting to
//! status.sock. The supervisor restarts a program that dies after that at once. One that dies earlier is faulty or
//! lacks something, perhaps an address. The supervisor restarts it after a pause that doubles each time. One that lives
//! but has been silent for [`SAMPLE_DEAD`] hangs, and the supervisor kills it first.
//!
//! Calls need workers, however often one dies, but none needs the console. Once the console has ended five times within
//! a minute, its pauses grow as well, until it has lived for a minute.
//!
//! A worker is the first process of a PID namespace, where the gateway may make one: when it dies, the kernel kills all
//! processes of its functions. Otherwise the main processes of its invocations die with it, and the gateway adopts and
//! ends those that they leave behind (orphans.rs).

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::run_dir::Tenure;
use super::scheduler::Scheduler;
use super::status::Status;
use crate::error::start::{Result, StartError};
use crate::limits::{KILL_WAIT_MAX, RESTART_PAUSE, RESTART_PAUSE_MAX, SAMPLE_DEAD, SUPERVISOR_PERIOD};
use crate::sandbox::orphans;
use crate::sandbox::promises::StartWorker;
use crate::settings::{INSTANCE_VARIABLE, Settings};
use crate::sys::{self, EndedHow, EventFd, Pid, Spawn, SpawnError, Spawned, Watched};
use crate::{log, log_file};

/// After this many ends within [`CONSOLE_STEADY`], the supervisor no longer restarts the console at once.
const CONSOLE_ENDS_MAX: usize = 5;
/// A console that has lived this long counts as working again.
const CONSOLE_STEADY: Duration = Duration::from_secs(60);
/// The first and the longest pause between two starts of a console that fails. Its address may be taken for days.
const CONSOLE_PAUSE: Duration = Duration::from_secs(1);
const CONSOLE_PAUSE_MAX: Duration = Duration::from_secs(60);

pub struct Supervisor {
    /// The folder of this program, where the others lie.
    folder: PathBuf,
    start_worker: StartWorker,
    scheduler: Arc<Scheduler>,
    status: Arc<Status>,
    roles: Vec<Role>,
    console_address_file: PathBuf,
    /// Readable once the supervisor must start no more programs.
    stop: EventFd,
    /// Only the current gateway has a console.
    tenure: Arc<Tenure>,
    instance: String,
    /// True while the console runs. Guards the flag; changed with each start and end.
    console_runs: Mutex<bool>,
    console_ended: Condvar,
    /// Number of times that the log has been reopened.
    log_reopened: AtomicU64,
    /// Set when `stop` is called: the time to kill the workers that have not ended by themselves.
    kill_at: OnceLock<Instant>,
}

/// The purpose of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Worker { id: u32 },
    Console,
}

/// One of the programs that the gateway starts itself.
struct Child {
    role: Role,
    process: Option<Spawned>,
    started_at: Instant,
    has_announced: bool,
    /// The supervisor's `log_reopened` when this program last opened its log, or was told to reopen it.
    log_reopened: u64,
    /// The program's ends within the last [`CONSOLE_STEADY`], the latest last; at most [`CONSOLE_ENDS_MAX`].
    ends: Vec<Instant>,
    pause: Duration,
    /// The time to start the program, where it has no process.
    start_at: Instant,
}

impl Supervisor {
    /// Workers with the ids from 0 on, and the console where the settings ask for one. Their programs lie beside this
    /// one.
    ///
    /// # Errors
    /// Where the worker's program is missing. The console's may be missing: nothing depends on it.
    pub fn new(
        settings: &Settings,
        scheduler: Arc<Scheduler>,
        status: Arc<Status>,
        tenure: Arc<Tenure>,
        start_worker: StartWorker,
    ) -> Result<Arc<Supervisor>> {
        let folder = worker_program()?.parent().unwrap_or(Path::new("/")).to_path_buf();
        let workers = (0..settings.workers).map(|id| Role::Worker { id });
        let roles = workers.chain(settings.console.map(|_| Role::Console)).collect();
        let console_address_file = settings.console_address_file();
        let (stop, kill_at) = (EventFd::new().map_err(StartError::io("make", "an eventfd"))?, OnceLock::new());
        Ok(Arc::new(Supervisor {
            folder,
            start_worker,
            scheduler,
            status,
            roles,
            console_address_file,
            stop,
            tenure,
            instance: settings.instance.expect("a gateway has claimed a folder").to_string(),
            console_runs: Mutex::new(false),
            console_ended: Condvar::new(),
            log_reopened: AtomicU64::new(0),
            kill_at,
        }))
    }

    /// Keeps the programs alive on the calling thread, until [`Supervisor::stop`]; then waits until they have ended.
    /// Must not be called on the first thread (orphans.rs).
    pub fn run(&self) {
        let mut children: Vec<Child> = self.roles.iter().map(|role| Child::new(*role)).collect();
        loop {
            let kill_at = self.kill_at.get().copied();
            for child in &mut children {
                self.look_after(child, kill_at);
            }
            if kill_at.is_some() && children.iter().all(|child| child.process.is_none()) {
                orphans::end_all();
                return;
            }
            let mut watched: Vec<Watched<'_>> = children
                .iter()
                .filter_map(|child| child.process.as_ref())
                .map(|process| Watched::read(process.pidfd.as_fd()))
                .collect();
            // Once signalled, the eventfd stays readable, so polling it again is of no use.
            watched.push(if kill_at.is_some() { Watched::nothing() } else { Watched::read(self.stop.as_fd()) });
            let now = Instant::now();
            let starts = children.iter().filter(|child| child.process.is_none()).map(|child| child.start_at);
            let due = if kill_at.is_some() { kill_at.filter(|at| *at > now) } else { starts.min() };
            let wake = due.unwrap_or(now + SUPERVISOR_PERIOD).min(now + SUPERVISOR_PERIOD);
            let _ = sys::poll(&mut watched, Some(wake.saturating_duration_since(now)));
        }
    }

    /// Starts no program from now on. Kills the console at once, and workers that still run after `timeout`.
    /// [`Supervisor::run`] returns when all have ended.
    pub fn stop(&self, timeout: Duration) {
        self.kill_at.get_or_init(|| Instant::now() + timeout);
        self.stop.signal();
    }

    fn has_console(&self) -> bool {
        self.tenure.is_current.load(Ordering::SeqCst)
    }

    fn set_console_runs(&self, runs: bool) {
        *self.console_runs.lock().expect("nothing panics under this lock") = runs;
        self.console_ended.notify_all();
    }

    /// Waits at most `timeout` until the console has ended, once this gateway is no longer the current one.
    pub fn wait_for_end_of_console(&self, timeout: Duration) {
        let runs = self.console_runs.lock().expect("nothing panics under this lock");
        let _ = self.console_ended.wait_timeout_while(runs, timeout, |runs| *runs);
    }

    /// Makes all programs reopen their logs. A program that has not announced itself may not handle SIGHUP yet; the
    /// supervisor tells it later.
    pub fn reopen_logs(&self) {
        self.log_reopened.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes a child's end, kills a child that hangs, and starts a child that is due.
    fn look_after(&self, child: &mut Child, kill_at: Option<Instant>) {
        let is_stopping = kill_at.is_some();
        if let Some(process) = &child.process {
            let age = self.last_heard(child.role, process.pid);
            child.has_announced |= age.is_some();
            let log_reopened = self.log_reopened.load(Ordering::Relaxed);
            if child.has_announced && child.log_reopened != log_reopened {
                sys::hang_up_process(process.pidfd.as_fd());
                child.log_reopened = log_reopened;
            }
            let silent = age.unwrap_or_else(|| child.started_at.elapsed());
            if silent > SAMPLE_DEAD && !is_stopping {
                log!("{}: silent for {} s; killing it", child.role, silent.as_secs());
                sys::kill_process(process.pidfd.as_fd());
                // Otherwise the next look, which can follow at once, would still find it silent.
                let _ = sys::poll(&mut [Watched::read(process.pidfd.as_fd())], Some(KILL_WAIT_MAX));
            }
            // The console has nothing to finish.
            let is_over = child.role == Role::Console && !self.has_console();
            if is_over || kill_at.is_some_and(|at| child.role == Role::Console || Instant::now() >= at) {
                sys::kill_process(process.pidfd.as_fd());
            }
            let how = match sys::reap(process.pid) {
                Ok(None) => return,
                Ok(Some(ended)) => describe(ended.how),
                Err(error) => format!("could not wait for it: {error}"),
            };
            child.process = None;
            if child.role == Role::Console {
                self.forget_console_address();
                self.set_console_runs(false);
            }
            child.pause_after_end();
            if !is_stopping {
                log!("{}: {how}{}", child.role, child.pause_described());
            }
            orphans::end_all();
        }
        let is_due = child.role != Role::Console || self.has_console();
        if !is_stopping && is_due && child.process.is_none() && Instant::now() >= child.start_at {
            self.start(child);
        }
    }

    /// Otherwise another program could listen at this address, and would be shown the token.
    fn forget_console_address(&self) {
        let _ = std::fs::remove_file(&self.console_address_file);
    }

    /// Time since a program's last sign of life; `None` where it has given none, or gives none any more.
    fn last_heard(&self, role: Role, pid: Pid) -> Option<Duration> {
        match role {
            Role::Worker { id } => self.scheduler.sample_age(id, pid),
            Role::Console => self.status.has_client(pid).then_some(Duration::ZERO),
        }
    }

    fn start(&self, child: &mut Child) {
        child.started_at = Instant::now();
        child.has_announced = false;
        child.log_reopened = self.log_reopened.load(Ordering::Relaxed);
        match self.spawn(child.role) {
            Ok(process) => {
                child.process = Some(process);
                if child.role == Role::Console {
                    self.set_console_runs(true);
                }
            }
            Err(error) => {
                child.pause_after_end();
                log!("{}: could not {}: {}{}", child.role, error.step, error.cause, child.pause_described());
            }
        }
    }

    /// The program has a session of its own, so that Ctrl-C at the terminal reaches the gateway alone.
    fn spawn(&self, role: Role) -> Result<Spawned, SpawnError> {
        let null = File::open("/dev/null").map_err(|cause| SpawnError { step: "open /dev/null", cause })?;
        let (program, argument, start) = match role {
            Role::Worker { id } => {
                ("worker", Some(CString::new(id.to_string()).expect("digits hold no NUL")), self.start_worker)
            }
            Role::Console => ("console", None, sys::spawn as StartWorker),
        };
        let program = CString::new(self.folder.join(program).into_os_string().into_vec()).expect("paths hold no NUL");
        let arguments: Vec<CString> = std::iter::once(program.clone()).chain(argument).collect();
        let log_path = log_file::path().map(|path| (log_file::VARIABLE.into(), path.as_os_str().to_owned()));
        let own = [&sys::activation::VARIABLES[..], &[log_file::VARIABLE, INSTANCE_VARIABLE]].concat();
        let variables = std::env::vars_os()
            .filter(|(name, _)| !own.iter().any(|own| name == own))
            .chain(log_path)
            .chain([(INSTANCE_VARIABLE.into(), self.instance.clone().into())]);
        let environment = sys::environment_of(variables);
        start(&Spawn {
            program: &program,
            arguments: &arguments,
            environment: &environment,
            folder: None,
            stdin: null.as_fd(),
            stdout: std::io::stdout().as_fd(),
            stderr: std::io::stderr().as_fd(),
            control: None,
            confinement: None,
            group: None,
        })
    }
}

/// The worker's program, which lies beside this one.
///
/// # Errors
/// Where it is missing.
pub fn worker_program() -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(StartError::io("find", "our own program"))?;
    // After a rebuild under a running gateway the kernel calls its file "gateway (deleted)"; only the folder is useful.
    let worker = own.parent().unwrap_or(Path::new("/")).join("worker");
    if worker.is_file() {
        return Ok(worker);
    }
    let subject = worker.display().to_string();
    Err(StartError::Io { step: "find the worker program", subject, cause: std::io::ErrorKind::NotFound.into() })
}

impl Child {
    fn new(role: Role) -> Child {
        let (now, ends, pause) = (Instant::now(), Vec::new(), Duration::ZERO);
        Child {
            role,
            process: None,
            started_at: now,
            has_announced: false,
            log_reopened: 0,
            ends,
            pause,
            start_at: now,
        }
    }

    /// Sets the time of the next start.
    fn pause_after_end(&mut self) {
        let now = Instant::now();
        let (is_failing, first, longest) = match self.role {
            Role::Worker { .. } => (!self.has_announced, RESTART_PAUSE, RESTART_PAUSE_MAX),
            Role::Console => {
                self.ends.retain(|end| now.duration_since(*end) < CONSOLE_STEADY);
                self.ends.push(now);
                if self.ends.len() > CONSOLE_ENDS_MAX {
                    self.ends.remove(0);
                }
                let is_steady = now.duration_since(self.started_at) >= CONSOLE_STEADY;
                let is_pausing = !self.pause.is_zero() && !is_steady;
                let is_failing = !self.has_announced || self.ends.len() >= CONSOLE_ENDS_MAX || is_pausing;
                (is_failing, CONSOLE_PAUSE, CONSOLE_PAUSE_MAX)
            }
        };
        self.pause = if is_failing { (self.pause * 2).clamp(first, longest) } else { Duration::ZERO };
        self.start_at = now + self.pause;
    }

    fn pause_described(&self) -> String {
        match self.pause.as_millis() {
            0 => String::new(),
            pause_ms => format!("; trying again in {pause_ms} ms"),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Worker { id } => write!(f, "worker {id}"),
            Role::Console => write!(f, "console"),
        }
    }
}

fn describe(how: EndedHow) -> String {
    match how {
        EndedHow::Exited(code) => format!("exited with code {code}"),
        EndedHow::Signaled(signal) => format!("was ended by signal {signal}"),
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
