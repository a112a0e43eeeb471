//! Shared by the command `faas` and the console: they read and change the registry, and ask the running gateway.
//!
//! ```text
//! files on a disk (cli/code.rs) or an upload (console) → code → deploy ┐
//!                                                    history, routes  ├→ registry (rusqlite), one transaction
//!                                                                diff ┘
//! view                                     a private copy of the registry, for a reader that stays
//! gateway → http_client                                                  waits until a change is in service
//! ```
//!
//! A change of the registry is one transaction: all of it or nothing.

pub(crate) mod code;
pub(crate) mod deploy;
pub(crate) mod diff;
pub(crate) mod gateway;
pub(crate) mod history;
pub(crate) mod http_client;
pub(crate) mod log_lines;
pub(crate) mod registry;
pub(crate) mod routes;
pub(crate) mod view;

use std::fmt;

/// The reason why an operation failed. `faas` turns it into an exit code, the console into an HTTP status.
#[derive(Debug)]
pub enum OperationError {
    /// The arguments cannot be used.
    Usage(String),
    /// No such route, generation, file or registry.
    NotFound(String),
    /// The registry, or a rule of deploys, rejects the change.
    Refused(String),
    /// Done, but the running gateway has not brought it into service in time.
    NotLive(String),
    Failed(String),
}

pub(crate) type Result<T, E = OperationError> = std::result::Result<T, E>;

impl fmt::Display for OperationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OperationError::Usage(text)
            | OperationError::NotFound(text)
            | OperationError::Refused(text)
            | OperationError::NotLive(text)
            | OperationError::Failed(text) => f.write_str(text),
        }
    }
}

/// A closure for `map_err`: "could not {step}: {cause}".
pub(crate) fn failed<E: fmt::Display>(step: impl fmt::Display) -> impl FnOnce(E) -> OperationError {
    move |cause| OperationError::Failed(format!("could not {step}: {cause}"))
}

/// A size for people.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        _ => format!("{:.1} MB", count as f64 / 1e6),
    }
}
