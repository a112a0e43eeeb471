//! Modules compiled ahead of their calls, in the background: once per version of module and engine, by one worker of
//! the run dir.
//!
//! ```text
//! VERSIONS.compiled   the program that runs; it appears whole
//! VERSIONS.failed     why this version does not compile: no call tries it again
//! VERSIONS.lock       locked by the worker that compiles it
//! ```
//!
//! The gateway has a module compiled when its row arrives (gateway/arrivals.rs): it tells one worker, module by module.
//! A call that comes before that has its module compiled at once.
//!
//! A call asks for a result and waits a little. If the module is still being compiled then, the call ends with that
//! answer, and its slot is free for others. A large module takes a minute of a core, and a call that waited for that
//! would hold a slot as long.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::protocol::worker_protocol::Verdict;
use crate::sys;
use crate::worker::version::Version;
use crate::{log, procfs};

/// Time that a call waits for a result. Most modules compile in well under a second.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Modules that wait for their compilation. The next call of a further one asks for it again.
const QUEUE_MAX: usize = 64;
/// Time after which a worker looks again at a module that another worker compiles.
const ELSEWHERE_PAUSE: Duration = Duration::from_millis(200);
/// Results that are kept; the oldest goes first.
const RESULTS_MAX: usize = 256;
/// Characters of a compiler's error that are kept.
const FAILURE_CHARS_MAX: usize = 500;

/// The compiler of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compiler {
    /// The program of the platform that also runs it.
    Own(Runner),
    Wasmer,
}

/// The programs of the platform that run WASM functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runner {
    /// faas-wasm: modules of WASI preview 1.
    Module,
    /// faas-wasm-component: components of WASI 0.2.
    Component,
}

/// The versions of a module and of the program that runs it. The result is named after both.
#[derive(Debug, Clone, Copy)]
pub struct Versions {
    pub module: Version,
    pub engine: Version,
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.module, self.engine)
    }
}

/// A module to compile.
#[derive(Debug, Clone)]
pub struct Job {
    pub module: PathBuf,
    /// The version that the result is named after.
    pub version: Version,
    pub compiler: Compiler,
    /// Path of the result.
    target: PathBuf,
}

pub struct Compiled {
    folder: PathBuf,
    calls_waiting_max: usize,
    /// Never held while a module is compiled.
    state: Mutex<State>,
    /// Notified when a job comes or is over.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Targets in the queue, or being compiled.
    pending: HashSet<PathBuf>,
    /// Why the last try failed, if the module is not to blame: its next call tries again.
    passing: HashMap<PathBuf, String>,
    calls_waiting: usize,
}

/// The result of one try at a job.
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

    /// The path of the module if it has been compiled; else `None`.
    pub fn find(&self, versions: Versions) -> Option<PathBuf> {
        Some(self.target(versions)).filter(|target| target.exists())
    }

    fn target(&self, versions: Versions) -> PathBuf {
        self.folder.join(format!("{versions}.compiled"))
    }

    fn job(&self, module: &Path, versions: Versions, compiler: Compiler) -> Job {
        Job { module: module.to_path_buf(), version: versions.module, compiler, target: self.target(versions) }
    }

    /// The path of the compiled module.
    ///
    /// # Errors
    /// The verdict to send instead: the module does not compile, or its compilation takes longer.
    pub fn get(&self, module: &Path, versions: Versions, compiler: Compiler) -> Result<PathBuf, Verdict> {
        if let Some(target) = self.find(versions) {
            return Ok(target);
        }
        let job = self.job(module, versions, compiler);
        let target = job.target.clone();
        let failure = || fs::read_to_string(target.with_extension("failed")).ok();
        let refused = |cause| Verdict::ModuleNotExecutable { path: module.display().to_string(), cause };
        if let Some(cause) = failure() {
            return Err(refused(cause));
        }
        let passing = self.wait_for(job)?;
        match (target.exists(), failure(), passing) {
            (true, ..) => Ok(target),
            (_, Some(cause), _) => Err(refused(cause)),
            (_, None, Some(cause)) => Err(Verdict::Exhausted { step: "compile a module".into(), cause }),
            // Its result was removed at once to make room for others.
            (_, None, None) => Err(Verdict::Compiling),
        }
    }

    /// Queues a job, unless it is pending already, and waits until it is over. Returns the cause of a failure that the
    /// module is not to blame for.
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
        let result = match state.pending.contains(&target) {
            true => Err(Verdict::Compiling),
            false => Ok(state.passing.get(&target).cloned()),
        };
        // A module that changes with each call would leave one for each of its versions.
        if state.calls_waiting == 0 {
            state.passing.clear();
        }
        result
    }

    /// Compiles a module that no call has asked for, on this thread. Does nothing if its result exists, or a call has
    /// asked for it meanwhile.
    pub fn compile_ahead(
        &self,
        module: &Path,
        versions: Versions,
        compiler: Compiler,
        compile: impl Fn(&Job, &Path) -> io::Result<()>,
    ) {
        let job = self.job(module, versions, compiler);
        let is_over = job.target.exists() || job.target.with_extension("failed").exists();
        if is_over || !self.lock().pending.insert(job.target.clone()) {
            return;
        }
        match self.attempt(&job, compile) {
            // Calls may wait for it by now. The queue grows no longer by this than the other workers have compilers.
            Ok(Try::Elsewhere) => {
                self.lock().queue.push_back(job);
                self.changed.notify_all();
            }
            Ok(Try::Over(result)) => self.conclude(&job, result),
            Err(cause) => self.conclude(&job, Err(cause)),
        }
    }

    /// Notes the result of a job, and tells the calls that wait for it.
    fn conclude(&self, job: &Job, result: io::Result<()>) {
        let mut state = self.lock();
        state.pending.remove(&job.target);
        // No later call looks at it: the next one tries again.
        if let Err(cause) = result
            && state.calls_waiting > 0
        {
            state.passing.insert(job.target.clone(), cause.to_string());
        }
        self.changed.notify_all();
    }

    /// The life of a thread that compiles. `compile` compiles the module of a job into the given file.
    pub fn work(&self, compile: impl Fn(&Job, &Path) -> io::Result<()>) -> ! {
        loop {
            let waited = self.changed.wait_while(self.lock(), |state| state.queue.is_empty());
            let Some(job) = waited.expect("nothing panics under this lock").queue.pop_front() else { continue };
            match self.attempt(&job, &compile).unwrap_or_else(|cause| Try::Over(Err(cause))) {
                Try::Elsewhere => {
                    let mut state = self.lock();
                    state.queue.push_back(job);
                    drop(self.changed.wait_timeout(state, ELSEWHERE_PAUSE));
                }
                Try::Over(result) => self.conclude(&job, result),
            }
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
            let _ = fs::remove_file(&lock_path);
            return Ok(Try::Over(Ok(())));
        }
        self.make_room();
        let unfinished = job.target.with_extension(format!("{}.new", procfs::outer_pid()));
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

    /// Removes the oldest results if too many exist. A result in use stays readable until it is closed.
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

/// True if the compiler rejected the module, or took too long for it. Any other error is the system's, and may pass.
fn is_of_module(cause: &io::Error) -> bool {
    cause.raw_os_error().is_none() && matches!(cause.kind(), ErrorKind::Other | ErrorKind::TimedOut)
}

#[cfg(test)]
#[path = "compiled_tests.rs"]
mod tests;
