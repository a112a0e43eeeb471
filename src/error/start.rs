//! Errors that keep a program from starting.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::log;

pub type Result<T, E = StartError> = std::result::Result<T, E>;

/// The reason why a program ends before it has begun to serve. It is the last line on stderr, and decides the exit
/// code.
#[derive(Debug)]
pub enum StartError {
    /// A setting has an unusable value.
    Setting {
        name: &'static str,
        value: String,
        want: String,
    },
    /// The command line is wrong.
    Usage(String),
    /// The run dir, or the id of a worker in it, belongs to another process.
    AlreadyRuns {
        run_dir: PathBuf,
        holder: String,
    },
    AddressTaken {
        address: String,
        holder: String,
    },
    /// A program that needs a running gateway finds none.
    NoGateway {
        run_dir: PathBuf,
    },
    /// A successor was not ready in time; the old gateway goes on.
    NotReady {
        seconds: u64,
    },
    /// The registry cannot be created.
    Registry {
        path: PathBuf,
        cause: String,
    },
    /// FAAS_REQUIRE_SANDBOX demands promises that this machine does not keep.
    SandboxWeak {
        not_kept: Vec<String>,
    },
    /// The system refuses another thread.
    Thread {
        cause: io::Error,
    },
    /// Any other step on any other subject: "could not {step} {subject}: {cause}".
    Io {
        step: &'static str,
        subject: String,
        cause: io::Error,
    },
}

impl StartError {
    /// For `map_err`: `map_err(StartError::io("open", path.display()))`.
    pub fn io(step: &'static str, subject: impl fmt::Display) -> impl FnOnce(io::Error) -> StartError {
        move |cause| StartError::Io { step, subject: subject.to_string(), cause }
    }

    /// The exit code of the program: 2 where the user's input is at fault, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Setting { .. } | StartError::Usage(_) => 2,
            StartError::AlreadyRuns { .. }
            | StartError::AddressTaken { .. }
            | StartError::NoGateway { .. }
            | StartError::NotReady { .. }
            | StartError::Registry { .. }
            | StartError::SandboxWeak { .. }
            | StartError::Thread { .. }
            | StartError::Io { .. } => 1,
        }
    }
}

/// Ends a program: writes the rest of its log, then its error, if any, and returns its exit code.
pub fn end(program: &str, outcome: Result<ExitCode>) -> ExitCode {
    log::flush();
    outcome.unwrap_or_else(|error| {
        eprintln!("{program}: {error}");
        ExitCode::from(error.exit_code())
    })
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Setting { name, value, want } => {
                write!(f, "{name}={value:?} cannot be used: it must be {want}")
            }
            StartError::Usage(text) => write!(f, "{text}; --help lists the arguments"),
            StartError::AlreadyRuns { run_dir, holder } => {
                write!(f, "{holder} already runs in {}; stop it, or set FAAS_RUN_DIR", run_dir.display())
            }
            StartError::AddressTaken { address, holder } => {
                write!(f, "{address} is taken{holder}; stop that program, or set FAAS_PORT")
            }
            StartError::NoGateway { run_dir } => {
                write!(f, "no gateway runs in {}; start one, or set FAAS_RUN_DIR", run_dir.display())
            }
            StartError::NotReady { seconds } => {
                write!(f, "not ready after {seconds} s; the old gateway goes on; the log may say why")
            }
            StartError::Registry { path, cause } => write!(f, "could not use the registry {}: {cause}", path.display()),
            StartError::SandboxWeak { not_kept } => {
                write!(f, "FAAS_REQUIRE_SANDBOX=strict, but this machine does not keep: {}", not_kept.join("; "))
            }
            StartError::Thread { cause } => write!(f, "could not start a thread: {cause}"),
            StartError::Io { step, subject, cause } => write!(f, "could not {step} {subject}: {cause}"),
        }
    }
}

impl std::error::Error for StartError {}
