//! The promises of the sandbox, and the mechanism that keeps each of them on this machine: one table, for the log, for
//! the operator, and for FAAS_REQUIRE_SANDBOX. docs/SECURITY.md explains them.
//!
//! The table assumes nothing: a confined process has tried to break each promise that can be tried (probe.rs).

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::Sandbox;
use super::probe::Attempts;
use crate::error::start::{Result, StartError};
use crate::limits::{FUNCTION_FILES_MAX, FUNCTION_PROCESSES_MAX};
use crate::settings::Settings;
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
    let rows = match Attempts::make(sandbox, settings) {
        Ok(attempts) => rows(sandbox, &attempts, hides_processes),
        Err(error) => {
            let kept_by = format!("could not be tried: {error}");
            vec![Row { promise: "Functions are confined.", level: Level::NotKept, kept_by }]
        }
    };
    let row = |row: Row| json!({"promise": row.promise, "level": row.level.word(), "kept_by": row.kept_by});
    rows.into_iter().map(row).collect()
}

fn rows(sandbox: &Sandbox, attempts: &Attempts, hides_processes: bool) -> Vec<Row> {
    let mut rows = kept_by_the_kernel(sandbox, attempts, hides_processes);
    rows.extend(watched(sandbox, attempts));
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
        false => "only root can give workers a /proc of their own",
    };
    let files = format!("RLIMIT_NOFILE {FUNCTION_FILES_MAX}");
    vec![
        tried(
            "Functions have no privileges.",
            "privileges",
            "no capabilities, no_new_privs",
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
        tried(
            "Functions do not see other processes and their command lines.",
            "see",
            "a /proc with hidepid=ptraceable",
            seeing,
        ),
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

/// Promises that workers keep by samples.
fn watched(sandbox: &Sandbox, attempts: &Attempts) -> [Row; 4] {
    let row = |promise, is_kept: bool, kept_by: String| Row {
        promise,
        level: if is_kept { Level::Watched } else { Level::NotKept },
        kept_by,
    };
    let has_memory_files = attempts.succeeded("memfd");
    let memory = match has_memory_files {
        false => "RLIMIT_DATA for each process, the sum sampled; memfd_create answers ENOSYS",
        true => "functions can make files in memory, which count only where they are mapped",
    };
    let processes = sandbox.processes_max.map_or("root has no limit".to_string(), |max| format!("RLIMIT_NPROC {max}"));
    let processes = format!("{FUNCTION_PROCESSES_MAX} for each invocation, sampled; {processes}");
    let scratch = "blocks sampled, those of deleted files among them";
    let ending = match procfs::lists_children() {
        true => "subreapers find and kill what an invocation leaves",
        false => "the kernel lacks CONFIG_PROC_CHILDREN",
    };
    [
        row("Functions keep to their memory.", !has_memory_files, memory.into()),
        row("Functions have few threads, and leave others theirs.", true, processes),
        row("Functions keep to their scratch space.", true, scratch.into()),
        row("No process outlives its invocation.", procfs::lists_children(), ending.into()),
    ]
}

/// Has a worker make the table, writes it to the log, and compares it with FAAS_REQUIRE_SANDBOX.
///
/// # Errors
/// [`StartError::SandboxWeak`] if that demands more than this machine keeps.
pub fn ask(worker: &Path, settings: &Settings) -> Result<Value> {
    let output = Command::new(worker).arg("--sandbox").stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(StartError::io("ask for the sandbox", worker.display()))?;
    let table: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
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
        not_kept.push("a worker could not try the sandbox".into());
    }
    match settings.requires_strict_sandbox && !not_kept.is_empty() {
        true => Err(StartError::SandboxWeak { not_kept }),
        false => Ok(table),
    }
}
