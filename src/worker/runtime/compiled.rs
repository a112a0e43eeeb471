//! Modules compiled ahead of their calls, in the background: once per version of module and engine, whichever worker of the
//! run dir does it.
//!
//! ```text
//! VERSIONS.compiled   what runs; it appears whole
//! VERSIONS.failed     why this version does not compile: no call tries it again
//! VERSIONS.lock       locked by the worker that compiles it
//! ```
//!
//! A call asks for a result and waits a little. Then it hears that the module is being compiled, and its slot is free for
//! others. A large module takes a minute of a core, and a call that had to wait for that would hold a slot as long.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::log;
use crate::protocol::worker_protocol::Verdict;
use crate::sys;

/// How long a call waits for a result. Most modules compile in well under a second.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Modules that wait for their compilation; a further one is asked for again by its next call.
const QUEUE_MAX: usize = 64;
/// Time after which a module that another worker compiles is looked at again.
const ELSEWHERE_PAUSE: Duration = Duration::from_millis(200);
/// Results that are kept; the oldest goes first.
const RESULTS_MAX: usize = 256;
/// Bytes of a failure that are shown.
const FAILURE_CHARS_MAX: usize = 500;

/// What compiles a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compiler {
    /// faas-wasm.
    Own,
    Wasmer,
}

/// A module to compile.
#[derive(Debug, Clone)]
pub struct Job {
    pub module: PathBuf,
    pub compiler: Compiler,
    /// Where the result goes.
    target: PathBuf,
}

pub struct Compiled {
    folder: PathBuf,
    calls_waiting_max: usize,
    /// Never held while a module is compiled.
    state: Mutex<State>,
    /// Told when a job comes or is over.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Targets in the queue, or being made.
    pending: HashSet<PathBuf>,
    /// Why the last try failed where the module is not to blame: its next call tries again.
    passing: HashMap<PathBuf, String>,
    calls_waiting: usize,
}

/// How a try at a job went.
enum Try {
    Over(io::Result<()>),
    /// Another worker compiles the module.
    Elsewhere,
}

impl Compiled {
    /// Half of the slots stay free for calls that do not wait for a compilation.
    pub fn new(folder: PathBuf, slots: u32) -> Compiled {
        let calls_waiting_max = (slots as usize / 2).max(1);
        Compiled { folder, calls_waiting_max, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Where the compiled version of a module is. `versions` names module and engine.
    ///
    /// # Errors
    /// The verdict to send instead: the module does not compile, or its compilation takes longer.
    pub fn get(&self, module: &Path, versions: &str, compiler: Compiler) -> Result<PathBuf, Verdict> {
        let target = self.folder.join(format!("{versions}.compiled"));
        if target.exists() {
            return Ok(target);
        }
        let failure = || fs::read_to_string(target.with_extension("failed")).ok();
        let refused = |cause| Verdict::ModuleNotExecutable { path: module.display().to_string(), cause };
        if let Some(cause) = failure() {
            return Err(refused(cause));
        }
        let job = Job { module: module.to_path_buf(), compiler, target: target.clone() };
        let passing = self.wait_for(job)?;
        match (target.exists(), failure(), passing) {
            (true, ..) => Ok(target),
            (_, Some(cause), _) => Err(refused(cause)),
            (_, None, Some(cause)) => Err(Verdict::Exhausted { step: "compile a module".into(), cause }),
            // Its result had to make room for others at once.
            (_, None, None) => Err(Verdict::Compiling),
        }
    }

    /// Has a job done, unless it is already, and waits until it is over. Returns why it failed in passing, if it did.
    fn wait_for(&self, job: Job) -> Result<Option<String>, Verdict> {
        let target = job.target.clone();
        let mut state = self.lock();
        if !state.pending.contains(&target) {
            if state.queue.len() >= QUEUE_MAX {
                return Err(Verdict::Compiling);
            }
            state.passing.remove(&target);
            state.pending.insert(target.clone());
            state.queue.push_back(job);
            self.changed.notify_all();
        }
        if state.calls_waiting >= self.calls_waiting_max {
            return Err(Verdict::Compiling);
        }
        state.calls_waiting += 1;
        let waited = self.changed.wait_timeout_while(state, WAIT_MAX, |state| state.pending.contains(&target));
        let mut state = waited.expect("nothing panics under this lock").0;
        state.calls_waiting -= 1;
        match state.pending.contains(&target) {
            true => Err(Verdict::Compiling),
            false => Ok(state.passing.get(&target).cloned()),
        }
    }

    /// The life of a thread that compiles. `compile` compiles the module of a job into the file that it is given.
    pub fn work(&self, compile: impl Fn(&Job, &Path) -> io::Result<()>) -> ! {
        loop {
            let waited = self.changed.wait_while(self.lock(), |state| state.queue.is_empty());
            let Some(job) = waited.expect("nothing panics under this lock").queue.pop_front() else { continue };
            let outcome = self.attempt(&job, &compile).unwrap_or_else(|cause| Try::Over(Err(cause)));
            let mut state = self.lock();
            match outcome {
                Try::Elsewhere => {
                    state.queue.push_back(job);
                    drop(self.changed.wait_timeout(state, ELSEWHERE_PAUSE));
                    continue;
                }
                Try::Over(Ok(())) => {}
                Try::Over(Err(cause)) => {
                    state.passing.insert(job.target.clone(), cause.to_string());
                }
            }
            state.pending.remove(&job.target);
            self.changed.notify_all();
        }
    }

    /// `Err` is a failure that the module is not to blame for.
    fn attempt(&self, job: &Job, compile: impl Fn(&Job, &Path) -> io::Result<()>) -> io::Result<Try> {
        let lock_path = job.target.with_extension("lock");
        let lock = File::options().write(true).create(true).truncate(false).open(&lock_path)?;
        if !sys::try_lock(&lock, 0)? {
            return Ok(Try::Elsewhere);
        }
        let failure = job.target.with_extension("failed");
        if job.target.exists() || failure.exists() {
            return Ok(Try::Over(Ok(())));
        }
        self.make_room();
        let unfinished = job.target.with_extension(format!("{}.new", std::process::id()));
        let made = compile(job, &unfinished).and_then(|()| {
            fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o644))?;
            fs::rename(&unfinished, &job.target)
        });
        let outcome = match made {
            Err(cause) if is_of_module(&cause) => {
                let text: String = cause.to_string().chars().take(FAILURE_CHARS_MAX).collect();
                log!("module {}: {text}", job.module.display());
                fs::write(&failure, text)
            }
            made => made,
        };
        let _ = fs::remove_file(&unfinished);
        let _ = fs::remove_file(&lock_path);
        Ok(Try::Over(outcome))
    }

    /// Removes the oldest results where there are too many. One that is in use stays readable until it is closed.
    fn make_room(&self) {
        let is_result = |path: &Path| path.extension().is_some_and(|word| word == "compiled" || word == "failed");
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let entries = entries.filter(|entry| is_result(&entry.path()));
        let mut files: Vec<_> = entries.filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path()))).collect();
        files.sort();
        let surplus = (files.len() + 1).saturating_sub(RESULTS_MAX);
        for (_, path) in files.into_iter().take(surplus) {
            let _ = fs::remove_file(path);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }
}

/// Whether the compiler refused the module, or took too long for it; an error of the system passes.
fn is_of_module(cause: &io::Error) -> bool {
    cause.raw_os_error().is_none() && matches!(cause.kind(), ErrorKind::Other | ErrorKind::TimedOut)
}

#[cfg(test)]
#[path = "compiled_tests.rs"]
mod tests;
