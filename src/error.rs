//! The one error type: which step failed, on what, why, and what helps.
//!
//! An error is either answered to a client ([`Error::status`]) or ends a program ([`Error::exit_code`]); each of the two
//! comes from one exhaustive match, so a new variant cannot be forgotten in either.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::limits::RETRY_AFTER_S;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug)]
pub enum Error {
    // ---- the client's doing (front_door) ----
    /// The head or the framing breaks RFC 9112; the text says which rule.
    RequestMalformed(&'static str),
    /// The head or the body did not arrive in time.
    RequestTooSlow(&'static str),
    BodyTooLarge {
        max: u64,
    },
    TargetTooLong,
    ExpectationUnknown,
    HeadTooLarge(&'static str),
    TransferCodingUnknown,
    VersionUnsupported,
    /// CONNECT, which asks for a tunnel.
    NotAProxy,
    /// The client closed its connection; nobody reads the answer.
    ClientGone,

    // ---- routing (http_handler, kv) ----
    NoRoute,
    MethodNotAllowed {
        allow: String,
    },
    /// The registry's row for this route cannot be used; the text says what is wrong with it.
    RowUnusable(String),

    // ---- the platform is full or not ready ----
    TooManyConnections,
    TooManyRequests,
    FunctionBusy {
        max_inflight: u64,
        retry_after_s: u64,
    },
    QueueFull {
        retry_after_s: u64,
    },
    NoSlotInTime {
        retry_after_s: u64,
    },
    NoWorker,
    SpoolFull,
    /// Descriptors, processes or memory of the machine ran out; the text names the step.
    Exhausted {
        step: &'static str,
        cause: io::Error,
    },

    // ---- the function (worker's verdict) ----
    /// As Exhausted, on the worker's side.
    WorkerExhausted {
        step: String,
        cause: String,
    },
    ModuleMissing {
        path: String,
        cause: String,
    },
    ModuleNotExecutable {
        path: String,
        cause: String,
    },
    RuntimeMissing {
        program: String,
        install: String,
    },
    TimedOut {
        timeout_s: u64,
    },
    Exited {
        code: i32,
    },
    Signaled {
        signal: i32,
    },
    MemoryExceeded {
        memory_mib: u64,
    },
    ScratchExceeded {
        scratch_mib: u64,
    },
    TooManyProcesses {
        max: usize,
    },
    CgiMalformed(String),
    ResponseTooLarge {
        max: u64,
    },
    /// The worker died after the invocation had started on it.
    WorkerLost {
        worker: u32,
    },

    /// The fork server of the function's process died, and the process with it.
    ForkServerLost,

    // ---- start and plumbing ----
    /// A setting's value cannot be used.
    Setting {
        name: &'static str,
        value: String,
        want: String,
    },
    /// The command line cannot be used.
    Usage(String),
    AlreadyRuns {
        run_dir: PathBuf,
        holder: String,
    },
    AddressTaken {
        address: String,
        holder: String,
    },
    /// Any other step on any other subject: "could not {step} {subject}: {cause}".
    Io {
        step: &'static str,
        subject: String,
        cause: io::Error,
    },
    /// A peer on one of our own sockets broke the protocol.
    Protocol(String),
    Registry {
        path: PathBuf,
        cause: String,
    },
}

impl Error {
    pub fn io(step: &'static str, subject: impl fmt::Display) -> impl FnOnce(io::Error) -> Error {
        move |cause| Error::Io { step, subject: subject.to_string(), cause }
    }

    /// The HTTP status of the answer that this error becomes.
    pub fn status(&self) -> u16 {
        match self {
            Error::RequestMalformed(_) => 400,
            Error::NoRoute => 404,
            Error::MethodNotAllowed { .. } => 405,
            Error::RequestTooSlow(_) => 408,
            Error::BodyTooLarge { .. } => 413,
            Error::TargetTooLong => 414,
            Error::ExpectationUnknown => 417,
            Error::FunctionBusy { .. } => 429,
            Error::HeadTooLarge(_) => 431,
            Error::ClientGone => 499, // nginx's number; it appears in the log only
            Error::RowUnusable(_)
            | Error::ModuleMissing { .. }
            | Error::ModuleNotExecutable { .. }
            | Error::Exited { .. }
            | Error::Signaled { .. }
            | Error::MemoryExceeded { .. }
            | Error::ScratchExceeded { .. }
            | Error::TooManyProcesses { .. }
            | Error::Setting { .. }
            | Error::Usage(_)
            | Error::AlreadyRuns { .. }
            | Error::AddressTaken { .. }
            | Error::Io { .. }
            | Error::Registry { .. } => 500,
            Error::TransferCodingUnknown | Error::NotAProxy => 501,
            Error::CgiMalformed(_)
            | Error::ResponseTooLarge { .. }
            | Error::WorkerLost { .. }
            | Error::ForkServerLost
            | Error::Protocol(_) => 502,
            Error::TooManyConnections
            | Error::TooManyRequests
            | Error::QueueFull { .. }
            | Error::NoSlotInTime { .. }
            | Error::NoWorker
            | Error::SpoolFull
            | Error::Exhausted { .. }
            | Error::WorkerExhausted { .. }
            | Error::RuntimeMissing { .. } => 503,
            Error::TimedOut { .. } => 504,
            Error::VersionUnsupported => 505,
        }
    }

    /// The exit code of a program that this error ends: 2 where the user's input is at fault, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Setting { .. } | Error::Usage(_) => 2,
            _ => 1,
        }
    }

    /// What stands in `Retry-After`, in seconds, where trying again can help.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            Error::FunctionBusy { retry_after_s, .. }
            | Error::QueueFull { retry_after_s }
            | Error::NoSlotInTime { retry_after_s } => Some(*retry_after_s),
            // Somebody may be installing it right now; the build of faas-wasm takes minutes.
            Error::RuntimeMissing { .. } => Some(*RETRY_AFTER_S.end()),
            Error::TooManyConnections
            | Error::TooManyRequests
            | Error::NoWorker
            | Error::SpoolFull
            | Error::Exhausted { .. }
            | Error::WorkerExhausted { .. } => Some(1),
            _ => None,
        }
    }

    /// A short, stable name of the kind of error, for programs that read problem+json (`urn:faas:<kind>`).
    pub fn kind(&self) -> &'static str {
        match self {
            Error::RequestMalformed(_) => "request-malformed",
            Error::RequestTooSlow(_) => "request-too-slow",
            Error::BodyTooLarge { .. } => "body-too-large",
            Error::TargetTooLong => "target-too-long",
            Error::ExpectationUnknown => "expectation-unknown",
            Error::HeadTooLarge(_) => "head-too-large",
            Error::TransferCodingUnknown => "transfer-coding-unknown",
            Error::VersionUnsupported => "version-unsupported",
            Error::NotAProxy => "not-a-proxy",
            Error::ClientGone => "client-gone",
            Error::NoRoute => "no-route",
            Error::MethodNotAllowed { .. } => "method-not-allowed",
            Error::RowUnusable(_) => "row-unusable",
            Error::TooManyConnections => "too-many-connections",
            Error::TooManyRequests => "too-many-requests",
            Error::FunctionBusy { .. } => "function-busy",
            Error::QueueFull { .. } => "queue-full",
            Error::NoSlotInTime { .. } => "no-slot-in-time",
            Error::NoWorker => "no-worker",
            Error::SpoolFull => "spool-full",
            Error::Exhausted { .. } | Error::WorkerExhausted { .. } => "exhausted",
            Error::ModuleMissing { .. } => "module-missing",
            Error::ModuleNotExecutable { .. } => "module-not-executable",
            Error::RuntimeMissing { .. } => "runtime-missing",
            Error::TimedOut { .. } => "timed-out",
            Error::Exited { .. } => "function-exited",
            Error::Signaled { .. } => "function-signaled",
            Error::MemoryExceeded { .. } => "memory-limit",
            Error::ScratchExceeded { .. } => "scratch-limit",
            Error::TooManyProcesses { .. } => "process-limit",
            Error::CgiMalformed(_) => "cgi-malformed",
            Error::ResponseTooLarge { .. } => "answer-too-large",
            Error::WorkerLost { .. } => "worker-lost",
            Error::ForkServerLost => "fork-server-lost",
            Error::Setting { .. }
            | Error::Usage(_)
            | Error::AlreadyRuns { .. }
            | Error::AddressTaken { .. }
            | Error::Io { .. }
            | Error::Protocol(_)
            | Error::Registry { .. } => "internal",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::RequestMalformed(rule) => write!(f, "malformed request: {rule}"),
            Error::RequestTooSlow(what) => write!(f, "the request was too slow: {what}"),
            Error::BodyTooLarge { max } => write!(f, "the request body is larger than {max} bytes (FAAS_BODY_MAX)"),
            Error::TargetTooLong => {
                write!(f, "the request target is longer than {} bytes", crate::limits::TARGET_BYTES_MAX)
            }
            Error::ExpectationUnknown => write!(f, "the only expectation known here is 100-continue"),
            Error::HeadTooLarge(what) => write!(f, "the request head is too large: {what}"),
            Error::TransferCodingUnknown => write!(f, "the only transfer coding known here is chunked"),
            Error::VersionUnsupported => write!(f, "only HTTP/1.0 and HTTP/1.1 are spoken here"),
            Error::NotAProxy => write!(f, "CONNECT is not served: this is not a proxy"),
            Error::ClientGone => write!(f, "the client closed its connection"),
            Error::NoRoute => write!(f, "no function is registered for this path"),
            Error::MethodNotAllowed { allow } => write!(f, "this path is registered for {allow} only"),
            Error::RowUnusable(fault) => write!(f, "the registry's row for this route cannot be used: {fault}"),
            Error::TooManyConnections => write!(f, "too many connections are open; try again"),
            Error::TooManyRequests => write!(f, "too many requests are under way; try again"),
            Error::FunctionBusy { max_inflight, .. } => {
                write!(f, "{max_inflight} invocations of this function are running, its max_inflight")
            }
            Error::QueueFull { .. } => write!(f, "all slots are taken and the queue is full (FAAS_QUEUE_MAX)"),
            Error::NoSlotInTime { .. } => write!(f, "no slot became free in time (FAAS_QUEUE_TIMEOUT_MS)"),
            Error::NoWorker => write!(f, "no worker is ready"),
            Error::SpoolFull => write!(f, "the spool for large bodies is full (FAAS_SPOOL_MAX, FAAS_SPOOL_DIR)"),
            Error::Exhausted { step, cause } => {
                write!(f, "the machine is short of something: could not {step}: {cause}")
            }
            Error::WorkerExhausted { step, cause } => {
                write!(f, "the machine is short of something: a worker could not {step}: {cause}")
            }
            Error::ModuleMissing { path, cause } => write!(f, "could not read the module {path}: {cause}"),
            Error::ModuleNotExecutable { path, cause } => write!(f, "could not execute the module {path}: {cause}"),
            Error::RuntimeMissing { program, install } => {
                write!(f, "{program} is not installed on this machine; install it with: {install}")
            }
            Error::TimedOut { timeout_s } => write!(f, "the function ran past its timeout of {timeout_s} s"),
            Error::Exited { code } => write!(f, "the function exited with code {code}"),
            Error::Signaled { signal } => write!(f, "the function was ended by signal {signal}"),
            Error::MemoryExceeded { memory_mib } => {
                write!(f, "the function used more than its memory limit of {memory_mib} MiB")
            }
            Error::ScratchExceeded { scratch_mib } => {
                write!(
                    f,
                    "the function wrote more to its scratch folder than its limit of {scratch_mib} MiB, or too many files"
                )
            }
            Error::TooManyProcesses { max } => write!(f, "the function had more than {max} processes"),
            Error::CgiMalformed(what) => write!(f, "the function's CGI header is malformed: {what}"),
            Error::ResponseTooLarge { max } => write!(f, "the answer is larger than {max} bytes (FAAS_ANSWER_MAX)"),
            Error::WorkerLost { worker } => {
                write!(f, "worker {worker} died while it ran the function; it may have run in part")
            }
            Error::ForkServerLost => {
                write!(f, "the fork server of the function's process died while it ran; it may have run in part")
            }
            Error::Setting { name, value, want } => write!(f, "{name}={value:?} cannot be used: it must be {want}"),
            Error::Usage(text) => write!(f, "{text}; --help lists what there is"),
            Error::AlreadyRuns { run_dir, holder } => {
                write!(f, "{holder} already runs in {}; stop it, or set FAAS_RUN_DIR", run_dir.display())
            }
            Error::AddressTaken { address, holder } => {
                write!(f, "{address} is taken{holder}; stop that program, or set FAAS_PORT")
            }
            Error::Io { step, subject, cause } => write!(f, "could not {step} {subject}: {cause}"),
            Error::Protocol(what) => write!(f, "protocol error between gateway and worker: {what}"),
            Error::Registry { path, cause } => write!(f, "could not use the registry {}: {cause}", path.display()),
        }
    }
}

impl std::error::Error for Error {}
