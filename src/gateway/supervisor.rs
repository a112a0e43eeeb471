//! Starts the workers, and starts again those that die or hang.
//!
//! A worker that had announced itself is started again at once. One that dies before that is faulty or lacks something,
//! so it is started again after a pause that doubles each time. One that lives but has sent no sample for
//! [`SAMPLE_DEAD`] hangs, and is killed first.
//!
//! What a dead worker's functions leave behind lands on the gateway, which ends it (orphans.rs); the main processes of its
//! invocations have died with it.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::scheduler::Scheduler;
use crate::error::{Error, Result};
use crate::limits::{KILL_WAIT_MAX, RESTART_PAUSE, RESTART_PAUSE_MAX, SAMPLE_DEAD, SUPERVISOR_PERIOD};
use crate::log;
use crate::sandbox::orphans;
use crate::sys::{self, EndedHow, EventFd, Spawn, Spawned, Watched};

pub struct Supervisor {
    program: CString,
    scheduler: Arc<Scheduler>,
    count: u32,
    /// Readable when no worker is to be started any more.
    stop: EventFd,
    /// Set then: when to kill the workers that have not ended by themselves.
    kill_at: OnceLock<Instant>,
}

/// One of the workers that the gateway starts itself.
struct Child {
    id: u32,
    process: Option<Spawned>,
    started_at: Instant,
    has_announced: bool,
    pause: Duration,
    /// When to start it, where there is no process.
    start_at: Instant,
}

impl Supervisor {
    /// `count` workers with the ids from 0 on. Their program lies beside ours.
    pub fn new(scheduler: Arc<Scheduler>, count: u32) -> Result<Arc<Supervisor>> {
        let own = std::env::current_exe().map_err(Error::io("find", "our own program"))?;
        let program = worker_beside(own);
        if !program.is_file() {
            let cause = std::io::ErrorKind::NotFound.into();
            return Err(Error::Io { step: "find the worker program", subject: program.display().to_string(), cause });
        }
        let program = CString::new(program.into_os_string().into_vec()).expect("paths hold no NUL");
        Ok(Arc::new(Supervisor { program, scheduler, count, stop: EventFd::new()?, kill_at: OnceLock::new() }))
    }

    /// Keeps the workers alive on the calling thread, until [`Supervisor::stop`]; then waits until they have ended.
    /// Not to be called on the first thread (orphans.rs).
    pub fn run(&self) {
        let now = Instant::now();
        let mut children: Vec<Child> = (0..self.count)
            .map(|id| Child {
                id,
                process: None,
                started_at: now,
                has_announced: false,
                pause: Duration::ZERO,
                start_at: now,
            })
            .collect();
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
            // Once told, the eventfd stays readable; it has nothing more to say.
            watched.push(if kill_at.is_some() { Watched::nothing() } else { Watched::read(self.stop.as_fd()) });
            let now = Instant::now();
            let starts = children.iter().filter(|child| child.process.is_none()).map(|child| child.start_at);
            let due = if kill_at.is_some() { kill_at.filter(|at| *at > now) } else { starts.min() };
            let wake = due.unwrap_or(now + SUPERVISOR_PERIOD).min(now + SUPERVISOR_PERIOD);
            let _ = sys::poll(&mut watched, Some(wake.saturating_duration_since(now)));
        }
    }

    /// No worker is started from now on. Those that run are killed when `patience` is over; [`Supervisor::run`] returns
    /// when all have ended.
    pub fn stop(&self, patience: Duration) {
        self.kill_at.get_or_init(|| Instant::now() + patience);
        self.stop.signal();
    }

    /// Takes note of a child's end, kills it when it hangs, starts it when that is due.
    fn look_after(&self, child: &mut Child, kill_at: Option<Instant>) {
        let is_stopping = kill_at.is_some();
        if let Some(process) = &child.process {
            let age = self.scheduler.sample_age(child.id, process.pid);
            child.has_announced |= age.is_some();
            let silent = age.unwrap_or_else(|| child.started_at.elapsed());
            if silent > SAMPLE_DEAD && !is_stopping {
                log!("worker {}: silent for {} s; killing it", child.id, silent.as_secs());
                sys::kill_process(process.pidfd.as_fd());
                // Else the next look, which can be at once, would find it silent still.
                let _ = sys::poll(&mut [Watched::read(process.pidfd.as_fd())], Some(KILL_WAIT_MAX));
            }
            if kill_at.is_some_and(|at| Instant::now() >= at) {
                sys::kill_process(process.pidfd.as_fd());
            }
            match sys::reap(process.pid) {
                Ok(None) => return,
                Ok(Some(ended)) if !is_stopping => log!("worker {}: {}", child.id, describe(ended.how)),
                Ok(Some(_)) => {}
                Err(error) => log!("worker {}: could not wait for it: {error}", child.id),
            }
            child.pause = match child.has_announced {
                true => Duration::ZERO,
                false => (child.pause * 2).clamp(RESTART_PAUSE, RESTART_PAUSE_MAX),
            };
            child.start_at = Instant::now() + child.pause;
            child.process = None;
            orphans::end_all();
        }
        if !is_stopping && child.process.is_none() && Instant::now() >= child.start_at {
            self.start(child);
        }
    }

    fn start(&self, child: &mut Child) {
        child.started_at = Instant::now();
        child.has_announced = false;
        match self.spawn(child.id) {
            Ok(process) => child.process = Some(process),
            Err(error) => {
                child.pause = (child.pause * 2).clamp(RESTART_PAUSE, RESTART_PAUSE_MAX);
                child.start_at = Instant::now() + child.pause;
                log!("worker {}: {error}; trying again in {} ms", child.id, child.pause.as_millis());
            }
        }
    }

    /// A worker has a session of its own, so that Ctrl-C at the terminal reaches the gateway alone.
    fn spawn(&self, id: u32) -> Result<Spawned> {
        let null = File::open("/dev/null").map_err(Error::io("open", "/dev/null"))?;
        let number = CString::new(id.to_string()).expect("digits hold no NUL");
        let environment: Vec<u8> = std::env::vars_os()
            .flat_map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat())
            .collect();
        sys::spawn(&Spawn {
            program: &self.program,
            arguments: &[self.program.clone(), number],
            environment: &environment,
            folder: None,
            stdin: null.as_fd(),
            stdout: std::io::stdout().as_fd(),
            stderr: std::io::stderr().as_fd(),
            control: None,
            confinement: None,
        })
        .map_err(|error| Error::Exhausted { step: error.step, cause: error.cause })
    }
}

fn worker_beside(gateway: PathBuf) -> PathBuf {
    // After a rebuild under a running gateway the kernel calls its file "gateway (deleted)"; only the folder is of use.
    gateway.with_file_name("worker")
}

fn describe(how: EndedHow) -> String {
    match how {
        EndedHow::Exited(code) => format!("exited with code {code}"),
        EndedHow::Signaled(signal) => format!("was ended by signal {signal}"),
    }
}
