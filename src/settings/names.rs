//! The names of all settings, for `--help` and for the start, which refuses a misspelt one.

use super::INSTANCE_VARIABLE;
use crate::error::start::{Result, StartError};
use crate::log_file;

/// Name, default and meaning of every setting, for `--help`.
const TABLE: &[(&str, &str, &str)] = &[
    ("FAAS_PORT", "8080", "public port (PORT is taken where this is not set); 0 lets the kernel choose"),
    ("FAAS_HOST", "0.0.0.0", "address that the public port is opened on"),
    ("FAAS_WORKERS", "4", "worker processes, 1 to 256"),
    ("FAAS_WORKER_SLOTS", "8", "invocations at once per worker, 1 to 1024"),
    ("FAAS_FORK_SERVERS", "1", "0 starts every process anew"),
    ("FAAS_DEV", "0", "1 shows clients all that the log says of a failed call, and the end of its stderr"),
    ("FAAS_DB", "faas_meta.db", "the registry: a SQLite file"),
    ("FAAS_RUN_DIR", "run", "sockets, pid file and log; one instance per run dir"),
    ("FAAS_MODULE_ROOT", "folder of FAAS_DB", "where relative module paths start"),
    (
        "FAAS_CODE_DIR",
        "/var/lib/faas/… or the spool dir",
        "where code out of the registry is written; one run dir each",
    ),
    ("FAAS_USER", "nobody", "the user that functions run as, where the gateway runs as root; root only if named"),
    (
        "FAAS_REQUIRE_SANDBOX",
        "none",
        "strict refuses to start where a promise of the sandbox is not kept, and prepares no code",
    ),
    ("FAAS_CGROUP", "1", "0 puts no function into a control group, even where one was delegated"),
    ("FAAS_BODY_MAX", "67108864", "bytes of a request body; more is answered 413"),
    ("FAAS_ANSWER_MAX", "1073741824", "bytes of an answer; more is answered 502"),
    ("FAAS_SPOOL_DIR", "the system's temporary folder", "where bodies and answers over 64 KiB wait, in unlinked files"),
    ("FAAS_SPOOL_MAX", "4294967296", "bytes of all of them together; full is answered 503"),
    ("FAAS_DRAIN_MS", "10000", "how long SIGTERM waits for what runs"),
    ("FAAS_LAME_DUCK_MS", "0", "how long SIGTERM goes on serving before that, while /healthz is 503 already"),
    ("FAAS_FOLLOWER", "0", "1: the registry is a copy that arrives from another machine; nothing here changes it"),
    ("FAAS_QUEUE_MAX", "256", "requests that may wait for a slot; more are answered 503"),
    ("FAAS_QUEUE_TIMEOUT_MS", "5000", "how long one may wait; then 503"),
    ("FAAS_TRUSTED_PROXIES", "none", "IP networks whose X-Forwarded-For and -Proto are believed: 127.0.0.1/32,…"),
    ("FAAS_CONSOLE", "127.0.0.1:8081", "address and port of the console, for the operator; empty is off"),
    ("FAAS_LEDGER", "faas_calls.db beside FAAS_DB", "where calls are recorded: a SQLite file; empty is off"),
    ("FAAS_LEDGER_DAYS", "90", "how long recorded calls stay"),
    ("FAAS_LEDGER_MAX", "1073741824", "bytes of that file, at least 1048576; the oldest calls go first"),
    ("FAAS_LOG", "text", "text or json: how each line of the log is written"),
    ("FAAS_ALPHA", "0.5", "weight of CPU in the score"),
    ("FAAS_BETA", "0.3", "weight of memory in the score"),
    ("FAAS_GAMMA", "0.2", "weight of I/O in the score"),
    ("FAAS_EMA", "0.7", "share of the old value when a sample is smoothed, 0 to below 1"),
];

/// Other names that begin with FAAS_: scripts, tests and measurements read them, or the gateway sets them for its
/// programs.
const OTHERS: [&str; 5] =
    ["FAAS_INSTALL", "FAAS_BENCH_OVERLOAD_S", "FAAS_REMOTE_TOKEN", log_file::VARIABLE, INSTANCE_VARIABLE];
const OF_TESTS: &str = "FAAS_TEST_";

pub(super) fn refuse_unknown(names: impl Iterator<Item = String>) -> Result<()> {
    let known = || TABLE.iter().map(|(name, ..)| *name).chain(OTHERS);
    let is_unknown = |name: &String| {
        name.starts_with("FAAS_") && !name.starts_with(OF_TESTS) && known().all(|other| other != name.as_str())
    };
    let Some(name) = names.into_iter().find(is_unknown) else { return Ok(()) };
    let nearest = known().min_by_key(|other| distance(&name, other)).unwrap_or_default();
    Err(StartError::Usage(format!("{name} is no setting; is {nearest} meant?")))
}

/// Number of letters to add, remove or change to turn one text into the other (Levenshtein's distance).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, letter_there) in other.bytes().enumerate() {
            let change = diagonal + usize::from(letter != letter_there);
            diagonal = row[column + 1];
            row[column + 1] = change.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

/// The settings part of `--help`.
pub fn help() -> String {
    let mut text = String::from("Settings (environment variables):\n");
    for (name, default, meaning) in TABLE {
        text.push_str(&format!("  {name:<22} {meaning} [{default}]\n"));
    }
    text
}
