//! Errors before the function's own code runs: one variant per kind, one line each, and an exit status.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The exit status if an invocation could not begin.
pub const STATUS_NOT_BEGUN: u8 = 127;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug)]
pub enum Error {
    /// The command line is not understood.
    Usage(String),
    Io {
        step: &'static str,
        path: Option<PathBuf>,
        cause: io::Error,
    },
    /// A folder that the function is to find.
    Folder {
        path: PathBuf,
        cause: io::Error,
    },
    Engine {
        step: &'static str,
        cause: String,
    },
    /// It does not compile.
    Module(String),
    /// The artifact is of another version, or for another processor, or not an artifact.
    ForeignArtifact {
        path: PathBuf,
        cause: String,
    },
    /// The module cannot be run as a function.
    NotRunnable(String),
    /// The memory limit is below the module's initial memory.
    OutOfMemory {
        limit_mib: usize,
    },
    /// The peer on the control socket or the channel breaks the protocol.
    Protocol(String),
}

impl Error {
    pub fn io(step: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |cause| Error::Io { step, path: None, cause }
    }

    pub fn os(step: &'static str) -> impl FnOnce(rustix::io::Errno) -> Error {
        move |cause| Error::io(step)(cause.into())
    }

    pub fn file(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |cause| Error::Io { step, path: Some(path.to_path_buf()), cause }
    }

    pub fn engine(step: &'static str) -> impl FnOnce(wasmtime::Error) -> Error {
        move |cause| Error::Engine { step, cause: format!("{cause:#}").replace('\n', " ") }
    }

    /// 2 for a wrong command line, 3 if compiling anew helps, 127 if a folder is missing, otherwise 1.
    pub fn exit_status(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::ForeignArtifact { .. } => 3,
            Error::Folder { .. } => STATUS_NOT_BEGUN,
            Error::Io { .. }
            | Error::Engine { .. }
            | Error::Module(_)
            | Error::NotRunnable(_)
            | Error::OutOfMemory { .. }
            | Error::Protocol(_) => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(what) => write!(f, "{what}"),
            Error::Io { step, path: Some(path), cause } => write!(f, "could not {step} {}: {cause}", path.display()),
            Error::Io { step, path: None, cause } => write!(f, "could not {step}: {cause}"),
            Error::Folder { path, cause } => write!(f, "could not open the folder {}: {cause}", path.display()),
            Error::Engine { step, cause } => write!(f, "could not {step}: {cause}"),
            Error::Module(cause) => write!(f, "could not compile the module: {cause}"),
            Error::ForeignArtifact { path, cause } => {
                write!(f, "the artifact {} is not for this engine: {cause}; compile the module anew", path.display())
            }
            Error::NotRunnable(cause) => write!(f, "could not run the module: {cause}"),
            Error::OutOfMemory { limit_mib } => {
                write!(f, "out of memory: the module needs more than its {limit_mib} MiB from the beginning")
            }
            Error::Protocol(what) => write!(f, "{what}"),
        }
    }
}
