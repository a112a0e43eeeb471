//! The promises of the sandbox, and the mechanism that keeps each of them on this machine: one table, for the log, for
//! the operator, and for FAAS_REQUIRE_SANDBOX. docs/SECURITY.md explains them.
//!
//! The table assumes nothing: a confined process has tried to break each promise that can be tried (probe.rs).

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::{Value, json};

use super::Sandbox;
use super::groups::{Controls, Groups};
use super::probe::Attempts;
use crate::error::start::{Result, StartError};
use crate::limits::{FUNCTION_FILES_MAX, FUNCTION_PROCESSES_MAX};
use crate::settings::Settings;
use crate::sys::{self, Spawn, SpawnError, Spawned, Watched};
use crate::{log, procfs};

/// The level at which a promise is kept, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// The kernel refuses a call that would break it.
    Kernel,
    /// A worker watches, and kills an invocation that breaks it.
    Watched,
    NotKept,
}

impl Level {
    const WORDS: [(Level, &str); 3] =
        [(Level::Kernel, "kernel"), (Level::Watched, "watched"), (Level::NotKept, "not kept")];

    fn word(self) -> &'static str {
        Level::WORDS.iter().find(|(level, _)| *level == self).map_or("", |(_, word)| word)
    }
}

/// One promise.
struct Row {
    promise: &'static str,
    level: Level,
    kept_by: String,
}

/// The table, as JSON: a list of objects with `promise`, `level` and `kept_by`. Only a worker may call it.
pub fn table(sandbox: &Sandbox, settings: &Settings, hides_processes: bool) -> Value {
    let groups = Groups::new(settings, "trial", sandbox.may_leave_groups());
    let controls = groups.as_ref().map_or(Controls::default(), |groups| groups.controls);
    let rows = match Attempts::make(sandbox, settings) {
        Ok(attempts) => rows(sandbox, &attempts, hides_processes, (controls, settings.has_fork_servers)),
        Err(error) => {
            let kept_by = format!("could not be tried: {error}");
            vec![Row { promise: "Functions are confined.", level: Level::NotKept, kept_by }]
        }
    };
    if let Some(groups) = groups {
        groups.remove();
    }
    let row = |row: Row| json!({"promise": row.promise, "level": row.level.word(), "kept_by": row.kept_by});
    rows.into_iter().map(row).collect()
}

fn rows(sandbox: &Sandbox, attempts: &Attempts, hides_processes: bool, groups: (Controls, bool)) -> Vec<Row> {
    let mut rows = kept_by_the_kernel(sandbox, attempts, hides_processes);
    rows.extend(watched(sandbox, attempts, groups));
    rows
}

/// Promises that an attempt has tested.
fn kept_by_the_kernel(sandbox: &Sandbox, attempts: &Attempts, hides_processes: bool) -> Vec<Row> {
    let row = |promise, is_broken: bool, kept_by: &str, otherwise: &str| {
        let (level, kept_by) = if is_broken { (Level::NotKept, otherwise) } else { (Level::Kernel, kept_by) };
        Row { promise, level, kept_by: kept_by.to_string() }
    };
    let tried = |promise, attempt, kept_by, otherwise| row(promise, attempts.succeeded(attempt), kept_by, otherwise);
    let may_truncate = sandbox.landlock_version < super::LANDLOCK_TRUNCATES;
    let landlock = format!("Landlock {}", sandbox.landlock_version);
    let reading = match &sandbox.user {
        Some(user) => format!("permissions: functions run as {}", user.name),
        None => landlock.clone(),
    };
    let seeing = match hides_processes {
        true => "a function could see others",
        false => "only root can give workers a /proc of their own; without root see docs/SECURITY.md, Users",
    };
    let privileges = match attempts.succeeded("bounding set") {
        true => "no capabilities, no_new_privs",
        false => "no capabilities, an empty bounding set, no_new_privs",
    };
    let hiding = match procfs::has_own_namespace() {
        true => "a PID namespace for each worker, and a /proc with hidepid=ptraceable",
        false => "a /proc with hidepid=ptraceable",
    };
    let files = format!("RLIMIT_NOFILE {FUNCTION_FILES_MAX}");
    vec![
        tried(
            "Functions have no privileges.",
            "privileges",
            privileges,
            "functions have capabilities, or can gain them",
        ),
        tried("Functions read neither registry nor run dir.", "read", &reading, "a function could read them"),
        row(
            "Functions write only to their scratch folder and what their row lists.",
            attempts.succeeded("write") || may_truncate,
            &landlock,
            "a function could write elsewhere, or empty files; Landlock 3 (Linux 6.2) prevents that",
        ),
        tried(
            "Functions signal and trace no processes but their own.",
            "signal",
            &landlock,
            "a function could signal others; Landlock 6 (Linux 6.12) prevents that",
        ),
        tried("Functions do not see other processes and their command lines.", "see", hiding, seeing),
        tried("Functions reach no rarely used parts of the kernel.", "namespace", "seccomp", "no seccomp here"),
        tried("With net false, functions have no network.", "socket", "seccomp", "no seccomp here; Landlock cuts TCP"),
        tried("Functions have few open files.", "files", &files, "they have more"),
        tried(
            "Functions are the first to go when the machine runs out of memory.",
            "oom",
            "oom_score_adj 1000",
            "/proc does not let them",
        ),
    ]
}

/// Promises that workers keep by samples, where no control group and no quota keeps them. Forked functions are in no group.
fn watched(sandbox: &Sandbox, attempts: &Attempts, (controls, are_forked): (Controls, bool)) -> [Row; 4] {
    let row = |promise, is_kept: bool, kept_by: String| Row {
        promise,
        level: if is_kept { Level::Watched } else { Level::NotKept },
        kept_by,
    };
    let in_group = |row: Row, works: bool, kept_by: &str| match (works, are_forked) {
        (false, _) => row,
        (true, false) => Row { level: Level::Kernel, kept_by: kept_by.into(), ..row },
        (true, true) => Row { kept_by: format!("started by exec: {kept_by}; forked: {}", row.kept_by), ..row },
    };
    let has_memory_files = attempts.succeeded("memfd");
    let memory = match has_memory_files {
        false => "RLIMIT_DATA for each process, the sum sampled; memfd_create answers ENOSYS",
        true => "functions can make files in memory, which count only where they are mapped",
    };
    let (ends_bombs, bombs) = match (sandbox.runs_ahead, sandbox.processes_max.holds_a_bomb()) {
        (true, _) => (true, "the worker runs ahead of a fork bomb"),
        (false, true) => (true, "functions give way to the worker"),
        (false, false) => (false, "without CAP_SYS_NICE a fork bomb may cost its worker"),
    };
    let processes = &sandbox.processes_max;
    let processes = format!("{FUNCTION_PROCESSES_MAX} for each invocation, sampled; {processes}; {bombs}");
    let scratch = match attempts.succeeded("quota") {
        true => (Level::Watched, "blocks sampled, those of deleted files among them"),
        false => (Level::Kernel, "project quotas; of rows with write, and the depth of folders: sampled"),
    };
    let ending = match procfs::lists_children() {
        true => "subreapers find and kill what an invocation leaves",
        false => "the kernel lacks CONFIG_PROC_CHILDREN",
    };
    [
        in_group(
            row("Functions keep to their memory.", !has_memory_files, memory.into()),
            controls.memory,
            "memory.max of a cgroup",
        ),
        in_group(
            row("Functions have few threads, and leave others theirs.", ends_bombs, processes),
            controls.processes,
            "pids.max of a cgroup",
        ),
        Row { promise: "Functions keep to their scratch space.", level: scratch.0, kept_by: scratch.1.into() },
        in_group(
            row("No process outlives its invocation.", procfs::lists_children(), ending.into()),
            controls.kill,
            "cgroup.kill",
        ),
    ]
}

/// The outcome of [`ask`].
pub struct Findings {
    pub table: Value,
    /// Starts a worker: as the first process of a PID namespace, where that works.
    pub start_worker: StartWorker,
}

pub type StartWorker = fn(&Spawn<'_>) -> std::result::Result<Spawned, SpawnError>;

/// Has a worker make the table, writes it to the log, and compares it with FAAS_REQUIRE_SANDBOX.
///
/// # Errors
/// [`StartError::SandboxWeak`] if that demands more than this machine keeps.
pub fn ask(worker: &Path, settings: &Settings, sandbox: &Sandbox) -> Result<Findings> {
    let ask_by = |start_worker: StartWorker| {
        let text = run(worker, start_worker).map_err(StartError::io("ask for the sandbox", worker.display()))?;
        Ok(Findings { table: serde_json::from_str(&text).unwrap_or_default(), start_worker })
    };
    // A worker in a namespace knows the gateway by its user only (worker/mod.rs), so functions must have another.
    let in_namespace = sandbox.user.as_ref().and_then(|_| ask_by(sys::spawn_in_namespace).ok());
    let findings = match in_namespace {
        Some(findings) if findings.table.is_array() => findings,
        _ => ask_by(sys::spawn)?,
    };
    report(&findings.table, settings)?;
    Ok(findings)
}

/// The output of `worker --sandbox`.
fn run(worker: &Path, start_worker: StartWorker) -> io::Result<String> {
    let (mut said, says) = io::pipe()?;
    let program = CString::new(worker.as_os_str().as_bytes()).expect("paths hold no NUL");
    let process = start_worker(&Spawn {
        program: &program,
        arguments: &[c"worker".to_owned(), c"--sandbox".to_owned()],
        environment: &sys::environment_of(std::env::vars_os()),
        folder: None,
        stdin: File::open("/dev/null")?.as_fd(),
        stdout: says.as_fd(),
        stderr: io::stderr().as_fd(),
        control: None,
        confinement: None,
        group: None,
    })
    .map_err(|error| io::Error::new(error.cause.kind(), format!("could not {}: {}", error.step, error.cause)))?;
    drop(says);
    let mut text = String::new();
    let read = said.read_to_string(&mut text);
    sys::poll(&mut [Watched::read(process.pidfd.as_fd())], None)?;
    sys::reap(process.pid)?;
    read.map(|_| text)
}

fn report(table: &Value, settings: &Settings) -> Result<()> {
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_string();
    let mut not_kept = Vec::new();
    for row in table.as_array().into_iter().flatten() {
        let (promise, level, kept_by) = (text(row, "promise"), text(row, "level"), text(row, "kept_by"));
        log!("sandbox: {promise} {level}: {kept_by}");
        if level == Level::NotKept.word() {
            not_kept.push(format!("{promise} ({kept_by})"));
        }
    }
    if table.as_array().is_none_or(Vec::is_empty) {
        let failure = "a worker could not try the sandbox";
        log!("sandbox: {failure}");
        not_kept.push(failure.into());
    }
    match settings.requires_strict_sandbox && !not_kept.is_empty() {
        true => Err(StartError::SandboxWeak { not_kept }),
        false => Ok(()),
    }
}
