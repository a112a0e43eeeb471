//! The command `faas`: an operator's work with a registry and a running gateway.
//!
//! ```text
//! bin/faas.rs → args (which verb, which options) → the verb's file → Report → text or JSON on stdout
//!                                                    │ registry (rusqlite)     │ gateway (HTTP, waits until live)
//! ```
//!
//! Each verb is one function from its arguments to a [`Report`]; only bin/faas.rs prints one. A verb changes the
//! registry in one transaction, or not at all. [`CliError::exit_code`] defines the exit codes.

mod args;
mod calls;
mod check;
mod code;
mod deploy;
mod diff;
mod history;
mod invoke;
mod logs;
mod remote;
mod routes;
mod status;
mod table;
mod transfer;

use std::fmt;
use std::process::ExitCode;

use serde_json::Value;

use self::args::{Given, Opt, Verb};
use crate::error::start::StartError;
use crate::operator::OperationError;

/// All verbs, in the order of the help.
const VERBS: &[Verb] = &[
    deploy::VERB,
    routes::LIST,
    routes::DESCRIBE,
    routes::REMOVE,
    history::HISTORY,
    diff::VERB,
    history::ROLLBACK,
    invoke::VERB,
    logs::VERB,
    calls::CALLS,
    calls::STATS,
    status::STATUS,
    status::TOP,
    check::VERB,
    transfer::EXPORT,
    transfer::IMPORT,
];

/// Options of every verb.
const COMMON: &[Opt] = &[
    Opt::flag("json", None, "print JSON"),
    Opt::value("remote", None, "URL", "do it by the console at URL"),
    Opt::flag("help", Some('h'), "print this help"),
];

/// The output of a verb.
pub struct Report {
    pub text: String,
    pub json: Value,
    /// The verb ran, but with a bad result: printed all the same, with exit code 1.
    pub is_failure: bool,
}

impl Report {
    fn new(text: impl Into<String>, json: Value) -> Report {
        Report { text: text.into(), json, is_failure: false }
    }
}

/// The reason why a verb failed.
#[derive(Debug)]
pub enum CliError {
    /// The command line cannot be used.
    Usage(String),
    /// No such route, generation, file or registry.
    NotFound(String),
    /// Done, but the running gateway has not brought it into service in time.
    NotLive(String),
    Failed(String),
}

impl CliError {
    fn exit_code(&self) -> u8 {
        match self {
            CliError::Failed(_) => 1,
            CliError::Usage(_) => 2,
            CliError::NotFound(_) => 3,
            CliError::NotLive(_) => 4,
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CliError::Usage(text) | CliError::NotFound(text) | CliError::NotLive(text) | CliError::Failed(text) => {
                f.write_str(text)
            }
        }
    }
}

impl From<OperationError> for CliError {
    fn from(error: OperationError) -> CliError {
        match error {
            OperationError::Usage(text) => CliError::Usage(text),
            OperationError::NotFound(text) => CliError::NotFound(text),
            OperationError::NotLive(text) => CliError::NotLive(text),
            OperationError::Refused(text) | OperationError::Failed(text) => CliError::Failed(text),
        }
    }
}

impl From<StartError> for CliError {
    fn from(error: StartError) -> CliError {
        match error.exit_code() {
            2 => CliError::Usage(error.to_string()),
            _ => CliError::Failed(error.to_string()),
        }
    }
}

type Result<T> = std::result::Result<T, CliError>;

/// A closure for `map_err`: "could not {step}: {cause}".
fn failed<E: fmt::Display>(step: impl fmt::Display) -> impl FnOnce(E) -> CliError {
    move |cause| CliError::Failed(format!("could not {step}: {cause}"))
}

/// Runs the command line and returns the exit code.
pub fn run(mut arguments: Vec<String>) -> ExitCode {
    // `faas --remote URL VERB` reads better than an option at the end.
    if arguments.len() > 2 && arguments[0] == "--remote" {
        arguments[..3].rotate_left(2);
    }
    let done = match arguments.first().map(String::as_str) {
        None | Some("--help" | "-h" | "help") => {
            print(&overview());
            return ExitCode::SUCCESS;
        }
        Some("--version" | "-V") => {
            print(concat!("faas ", env!("CARGO_PKG_VERSION"), "\n"));
            return ExitCode::SUCCESS;
        }
        Some(name) => match VERBS.iter().find(|verb| verb.name == name) {
            Some(verb) => run_verb(verb, &arguments[1..]),
            None => Err(CliError::Usage(format!("faas has no verb {name}; faas --help lists them"))),
        },
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("faas: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run_verb(verb: &Verb, arguments: &[String]) -> Result<ExitCode> {
    let given = Given::parse(verb, COMMON, arguments)?;
    if given.has("help") {
        print(&verb.help(COMMON));
        return Ok(ExitCode::SUCCESS);
    }
    let report = match given.value("remote") {
        Some(url) => remote::run(verb.name, url, &given)?,
        None => (verb.run)(&given)?,
    };
    match given.has("json") {
        true => print(&format!("{:#}\n", report.json)),
        false => print(&report.text),
    }
    Ok(ExitCode::from(u8::from(report.is_failure)))
}

fn overview() -> String {
    let mut text = String::from("faas VERB …   faas VERB --help says more about each\n\n");
    for verb in VERBS {
        text.push_str(&format!("  {:<9} {}\n", verb.name, verb.about));
    }
    text.push_str(
        "\nSettings are those of the gateway: FAAS_DB (faas_meta.db) and FAAS_RUN_DIR (run) say where it is.\n\
         --remote http://HOST:PORT has deploy, list, remove, history, rollback and logs done by a console; its token is\n\
         taken from FAAS_REMOTE_TOKEN or ~/.config/faas/token.\n\
         Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 written, but not in service in time.\n",
    );
    text
}

/// Prints to stdout. A reader that has gone, such as `head`, is no failure.
fn print(text: &str) {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
