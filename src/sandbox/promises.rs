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
    let landlock = format!("Landlock {}", sandbox.landlock_version);
    let has_own_user = sandbox.user.is_some();
    let tried = |promise, attempt: &str, kept_by: String, otherwise: &str| match attempts.succeeded(attempt) {
        false => Row { promise, level: Level::Kernel, kept_by },
        true => Row { promise, level: Level::NotKept, kept_by: otherwise.to_string() },
    };
    let user = sandbox.user_name();
    let reading = if has_own_user { format!("permissions: functions run as {user}") } else { landlock.clone() };
    let seccomp = || "seccomp".to_string();
    let processes = sandbox.processes_max.map_or("root has no limit".to_string(), |max| format!("RLIMIT_NPROC {max}"));
    let mut rows = vec![
        tried(
            "Functions have no privileges.",
            "privileges",
            "no capabilities, no_new_privs".into(),
            "functions have capabilities, or can gain them",
        ),
        tried("Functions read neither registry nor run dir.", "read", reading, "a function could read them"),
        tried(
            "Functions write only to their scratch folder and what their row lists.",
            "write",
            landlock.clone(),
            "a function could write elsewhere; Landlock 1 (Linux 5.13) prevents that",
        ),
        tried(
            "Functions signal and trace no processes but their own.",
            "signal",
            landlock.clone(),
            "a function could signal others; Landlock 6 (Linux 6.12) prevents that",
        ),
        tried(
            "Functions do not see other processes and their command lines.",
            "see",
            "a /proc with hidepid=ptraceable".into(),
            if hides_processes {
                "a function could see others"
            } else {
                "only root can give workers a /proc of their own"
            },
        ),
        tried("Functions reach no rarely used parts of the kernel.", "namespace", seccomp(), "no seccomp here"),
        tried("With net false, functions have no network.", "socket", seccomp(), "no seccomp here; Landlock cuts TCP"),
        tried(
            "Functions have few open files.",
            "files",
            format!("RLIMIT_NOFILE {FUNCTION_FILES_MAX}"),
            "they have more",
        ),
        tried(
            "Functions are the first to go when the machine runs out of memory.",
            "oom",
            "oom_score_adj 1000".into(),
            "/proc does not let them",
        ),
    ];
    // Before version 3 it does not restrict truncation.
    if rows[2].level == Level::Kernel && sandbox.landlock_version < super::LANDLOCK_TRUNCATES {
        rows[2].level = Level::NotKept;
        rows[2].kept_by =
            format!("{landlock}: functions can empty files that their user may write; Linux 6.2 prevents that");
    }
    let watched = |promise, is_kept: bool, kept_by: &str| Row {
        promise,
        level: if is_kept { Level::Watched } else { Level::NotKept },
        kept_by: kept_by.to_string(),
    };
    let memory = match attempts.succeeded("memfd") {
        false => "RLIMIT_DATA for each process, the sum sampled; memfd_create answers ENOSYS",
        true => "functions can make files in memory, which count only where they are mapped",
    };
    let ending = match procfs::lists_children() {
        true => "subreapers find and kill what an invocation leaves",
        false => "the kernel lacks CONFIG_PROC_CHILDREN",
    };
    rows.extend([
        watched("Functions keep to their memory.", !attempts.succeeded("memfd"), memory),
        watched(
            "Functions have few threads, and leave others theirs.",
            true,
            &format!("{FUNCTION_PROCESSES_MAX} for each invocation, sampled; {processes}"),
        ),
        watched("Functions keep to their scratch space.", true, "blocks sampled, those of deleted files among them"),
        watched("No process outlives its invocation.", procfs::lists_children(), ending),
    ]);
    rows
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
