//! Errors that end a request in place of a response of its function.

use std::fmt;
use std::io;

use crate::limits::RETRY_AFTER_S;

pub type Result<T, E = RequestError> = std::result::Result<T, E>;

/// The reason why a request has no response of its function. It becomes a problem+json response
/// (http_handler/problem.rs), and the last field of the request's line in the log.
#[derive(Debug)]
pub enum RequestError {
    // ---- the request itself (http_handler) ----
    /// The head or the framing breaks RFC 9112; the text names the rule.
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
    /// The client closed its connection; the response has no reader.
    ClientGone,

    // ---- the route (registry) ----
    NoRoute,
    MethodNotAllowed {
        allow: String,
    },
    /// The registry's row for this route cannot be used; the text names the fault.
    RowUnusable(String),

    // ---- the platform is full or not ready ----
    /// No routes yet: the registry has not been read, or has not arrived.
    RegistryNotLoaded,
    TooManyConnections,
    TooManyCalls,
    FunctionBusy {
        max_inflight: u64,
        /// The row's `queue`, if that many calls wait already; `None` if this call has waited too long.
        queue: Option<u64>,
        retry_after_s: u64,
    },
    QueueFull {
        retry_after_s: u64,
    },
    NoSlotInTime {
        retry_after_s: u64,
    },
    NoWorker,
    /// The platform stops, and the time for running requests is over.
    Stopping {
        /// A worker has received the invocation.
        has_begun: bool,
    },
    SpoolFull,
    /// Descriptors, processes or memory of the machine ran out; the text names the step.
    Exhausted {
        step: &'static str,
        cause: io::Error,
    },

    // ---- the function (the worker's verdict) ----
    /// Like Exhausted, on the worker's side.
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
    /// start.sh builds the program.
    RuntimeUnderWay {
        program: String,
        minutes: u64,
    },
    /// The module is being compiled, which takes longer than a call may wait.
    Compiling,
    TimedOut {
        timeout_s: u64,
    },
    Exited {
        code: i32,
        /// Empty where the code has no known meaning.
        means: &'static str,
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
    /// The worker died, or broke the protocol, after the invocation had begun on it.
    WorkerLost {
        worker: u32,
    },
    /// The fork server of the function's process died, and the process with it.
    ForkServerLost,
    /// A spool file could not be written, although the disk has room.
    SpoolBroken {
        cause: io::Error,
    },
    /// A defect of the gateway.
    Panicked,
}

/// Seconds after which a module that is being compiled may be ready.
const COMPILING_RETRY_S: u64 = 5;

impl RequestError {
    /// The status of the response that this error becomes.
    pub fn status(&self) -> u16 {
        match self {
            RequestError::RequestMalformed(_) => 400,
            RequestError::NoRoute => 404,
            RequestError::MethodNotAllowed { .. } => 405,
            RequestError::RequestTooSlow(_) => 408,
            RequestError::BodyTooLarge { .. } => 413,
            RequestError::TargetTooLong => 414,
            RequestError::ExpectationUnknown => 417,
            RequestError::FunctionBusy { .. } => 429,
            RequestError::HeadTooLarge(_) => 431,
            RequestError::ClientGone => 499, // nginx's number; in the log only
            RequestError::RowUnusable(_)
            | RequestError::ModuleMissing { .. }
            | RequestError::ModuleNotExecutable { .. }
            | RequestError::Exited { .. }
            | RequestError::Signaled { .. }
            | RequestError::MemoryExceeded { .. }
            | RequestError::ScratchExceeded { .. }
            | RequestError::TooManyProcesses { .. }
            | RequestError::SpoolBroken { .. }
            | RequestError::Panicked => 500,
            RequestError::TransferCodingUnknown | RequestError::NotAProxy => 501,
            RequestError::CgiMalformed(_)
            | RequestError::ResponseTooLarge { .. }
            | RequestError::ForkServerLost
            | RequestError::Stopping { has_begun: true }
            | RequestError::WorkerLost { .. } => 502,
            RequestError::RegistryNotLoaded
            | RequestError::TooManyConnections
            | RequestError::TooManyCalls
            | RequestError::QueueFull { .. }
            | RequestError::NoSlotInTime { .. }
            | RequestError::NoWorker
            | RequestError::Stopping { has_begun: false }
            | RequestError::SpoolFull
            | RequestError::Exhausted { .. }
            | RequestError::WorkerExhausted { .. }
            | RequestError::Compiling
            | RequestError::RuntimeMissing { .. }
            | RequestError::RuntimeUnderWay { .. } => 503,
            RequestError::TimedOut { .. } => 504,
            RequestError::VersionUnsupported => 505,
        }
    }

    /// The value of `Retry-After` in seconds, if another try can help.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            RequestError::FunctionBusy { retry_after_s, .. }
            | RequestError::QueueFull { retry_after_s }
            | RequestError::NoSlotInTime { retry_after_s } => Some(*retry_after_s),
            // An administrator may be installing it right now; the build of faas-wasm takes minutes.
            RequestError::RuntimeMissing { .. } | RequestError::RuntimeUnderWay { .. } => Some(*RETRY_AFTER_S.end()),
            RequestError::Compiling => Some(COMPILING_RETRY_S),
            RequestError::RegistryNotLoaded
            | RequestError::TooManyConnections
            | RequestError::TooManyCalls
            | RequestError::NoWorker
            | RequestError::Stopping { has_begun: false }
            | RequestError::SpoolFull
            | RequestError::Exhausted { .. }
            | RequestError::WorkerExhausted { .. } => Some(1),
            _ => None,
        }
    }

    /// The text for clients: the field and the rule. Paths of this machine, values of a row, and other programs'
    /// messages about them go only to the log, which has all of [`Display`](fmt::Display).
    pub fn public(&self) -> String {
        match self {
            RequestError::RowUnusable(fault) => {
                let start = "the registry's row for this route cannot be used";
                match field_and_rule(fault) {
                    Some((field, rule)) => format!("{start}: {field} must be {rule}"),
                    None => format!("{start}; the log has the cause"),
                }
            }
            RequestError::ModuleMissing { .. } => "the function's module cannot be read; the log has the cause".into(),
            RequestError::ModuleNotExecutable { .. } => {
                "the function's module cannot be executed; the log has the cause".into()
            }
            RequestError::WorkerExhausted { step, cause } if cause.contains('/') => {
                format!("the machine is short of something: a worker could not {step}")
            }
            RequestError::SpoolBroken { .. } => "could not write a spool file".into(),
            // The others hold only texts and numbers of the platform.
            _ => self.to_string(),
        }
    }

    /// A short, stable name of the kind of error, for programs that read problem+json (`urn:faas:<kind>`).
    pub fn kind(&self) -> &'static str {
        match self {
            RequestError::RequestMalformed(_) => "request-malformed",
            RequestError::RequestTooSlow(_) => "request-too-slow",
            RequestError::BodyTooLarge { .. } => "body-too-large",
            RequestError::TargetTooLong => "target-too-long",
            RequestError::ExpectationUnknown => "expectation-unknown",
            RequestError::HeadTooLarge(_) => "head-too-large",
            RequestError::TransferCodingUnknown => "transfer-coding-unknown",
            RequestError::VersionUnsupported => "version-unsupported",
            RequestError::NotAProxy => "not-a-proxy",
            RequestError::ClientGone => "client-gone",
            RequestError::NoRoute => "no-route",
            RequestError::MethodNotAllowed { .. } => "method-not-allowed",
            RequestError::RowUnusable(_) => "row-unusable",
            RequestError::RegistryNotLoaded => "registry-not-loaded",
            RequestError::TooManyConnections => "too-many-connections",
            RequestError::TooManyCalls => "too-many-calls",
            RequestError::FunctionBusy { .. } => "function-busy",
            RequestError::QueueFull { .. } => "queue-full",
            RequestError::NoSlotInTime { .. } => "no-slot-in-time",
            RequestError::NoWorker => "no-worker",
            RequestError::Stopping { .. } => "stopping",
            RequestError::SpoolFull => "spool-full",
            RequestError::Exhausted { .. } | RequestError::WorkerExhausted { .. } => "exhausted",
            RequestError::ModuleMissing { .. } => "module-missing",
            RequestError::ModuleNotExecutable { .. } => "module-not-executable",
            RequestError::RuntimeMissing { .. } | RequestError::RuntimeUnderWay { .. } => "runtime-missing",
            RequestError::Compiling => "module-compiling",
            RequestError::TimedOut { .. } => "timed-out",
            RequestError::Exited { .. } => "function-exited",
            RequestError::Signaled { .. } => "function-signaled",
            RequestError::MemoryExceeded { .. } => "memory-limit",
            RequestError::ScratchExceeded { .. } => "scratch-limit",
            RequestError::TooManyProcesses { .. } => "process-limit",
            RequestError::CgiMalformed(_) => "cgi-malformed",
            RequestError::ResponseTooLarge { .. } => "answer-too-large",
            RequestError::WorkerLost { .. } => "worker-lost",
            RequestError::ForkServerLost => "fork-server-lost",
            RequestError::SpoolBroken { .. } | RequestError::Panicked => "internal",
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use RequestError::*;

        match self {
            RequestMalformed(rule) => write!(f, "malformed request: {rule}"),
            RequestTooSlow(what) => write!(f, "the request was too slow: {what}"),
            BodyTooLarge { max } => write!(f, "the request body is larger than {max} bytes (FAAS_BODY_MAX)"),
            TargetTooLong => write!(f, "the request target is longer than {} bytes", crate::limits::TARGET_BYTES_MAX),
            ExpectationUnknown => write!(f, "the only expectation known here is 100-continue"),
            HeadTooLarge(what) => write!(f, "the request head is too large: {what}"),
            TransferCodingUnknown => write!(f, "the only transfer coding known here is chunked"),
            VersionUnsupported => write!(f, "only HTTP/1.0 and HTTP/1.1 are spoken here"),
            NotAProxy => write!(f, "CONNECT is not served: this is not a proxy"),
            ClientGone => write!(f, "the client closed its connection"),
            NoRoute => write!(f, "no function is registered for this path"),
            MethodNotAllowed { allow } => write!(f, "allowed methods: {allow}"),
            RowUnusable(fault) => write!(f, "the registry's row for this route cannot be used: {fault}"),
            RegistryNotLoaded => write!(f, "the registry is not loaded"),
            TooManyConnections => write!(f, "too many connections are open; try again"),
            TooManyCalls => write!(f, "too many calls are under way; try again"),
            FunctionBusy { max_inflight, queue, .. } => busy(f, *max_inflight, *queue),
            QueueFull { .. } => write!(f, "all slots are taken and the queue is full (FAAS_QUEUE_MAX)"),
            NoSlotInTime { .. } => write!(f, "no slot became free in time (FAAS_QUEUE_TIMEOUT_MS)"),
            NoWorker => write!(f, "no worker is ready"),
            Stopping { has_begun: false } => write!(f, "the platform is stopping; nothing has run"),
            Stopping { has_begun: true } => {
                write!(f, "the platform stopped before the function had ended; it may have run in part")
            }
            SpoolFull => write!(f, "the spool for large bodies is full (FAAS_SPOOL_MAX, FAAS_SPOOL_DIR)"),
            Exhausted { step, cause } => write!(f, "the machine is short of something: could not {step}: {cause}"),
            WorkerExhausted { step, cause } => {
                write!(f, "the machine is short of something: a worker could not {step}: {cause}")
            }
            ModuleMissing { path, cause } => write!(f, "could not read the module {path}: {cause}"),
            ModuleNotExecutable { path, cause } => write!(f, "could not execute the module {path}: {cause}"),
            RuntimeMissing { program, install } => {
                write!(f, "{program} is not installed on this machine; install it with: {install}")
            }
            RuntimeUnderWay { program, minutes } => {
                write!(f, "{program} is being built, for {minutes} min so far; see run/wasm-build.log")
            }
            Compiling => write!(f, "the module is being compiled; try again"),
            TimedOut { timeout_s } => write!(f, "the function ran past its timeout of {timeout_s} s"),
            Exited { code, means: "" } => write!(f, "the function exited with code {code}"),
            Exited { code, means } => write!(f, "the function exited with code {code}, {means}"),
            Signaled { signal } => {
                write!(f, "the function was ended by signal {signal} ({})", crate::sys::signal_name(*signal))
            }
            MemoryExceeded { memory_mib } => {
                write!(f, "the function used more than its memory limit of {memory_mib} MiB")
            }
            ScratchExceeded { scratch_mib } => {
                write!(
                    f,
                    "the function wrote more to its scratch folder than its limit of {scratch_mib} MiB, or too many files"
                )
            }
            TooManyProcesses { max } => write!(f, "the function had more than {max} processes and threads"),
            CgiMalformed(what) => write!(f, "the function's CGI header is malformed: {what}"),
            ResponseTooLarge { max } => write!(f, "the response is larger than {max} bytes (FAAS_ANSWER_MAX)"),
            WorkerLost { worker } => {
                write!(f, "worker {worker} died while it ran the function; it may have run in part")
            }
            ForkServerLost => {
                write!(f, "the fork server of the function's process died while it ran; it may have run in part")
            }
            SpoolBroken { cause } => write!(f, "could not write a spool file: {cause}"),
            Panicked => write!(f, "the gateway's code panicked; this is a defect of the gateway"),
        }
    }
}

impl std::error::Error for RequestError {}

/// [`RequestError::FunctionBusy`] in words.
fn busy(f: &mut fmt::Formatter<'_>, max_inflight: u64, queue: Option<u64>) -> fmt::Result {
    write!(f, "{max_inflight} invocations of this function are running, its max_inflight")?;
    match queue {
        Some(0) => Ok(()),
        Some(queue) => write!(f, ", and as many calls wait as its queue permits: {queue}"),
        None => write!(f, ", and none ended in time (FAAS_QUEUE_TIMEOUT_MS)"),
    }
}

/// The parts of a row's fault that show nothing of it but a field's name: `memory is 5; it must be a whole number`. The
/// value between them may hold any text, so the rule is the part after the last "it must be".
fn field_and_rule(fault: &str) -> Option<(&str, &str)> {
    let (field_and_value, rule) = fault.rsplit_once("; it must be ")?;
    let field = field_and_value.split_once(" is ")?.0;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    field.bytes().all(is_name).then_some((field, rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_learn_the_field_and_the_rule_and_neither_values_nor_paths() {
        let row = |fault: &str| RequestError::RowUnusable(fault.into());
        let module = |path: &str, cause: &str| RequestError::ModuleMissing { path: path.into(), cause: cause.into() };
        let table = [
            (row("memory is 5; it must be a whole number"), Some("memory must be a whole number")),
            (row("env.KEY is \"se is cret; it must be b\"; it must be text"), Some("env.KEY must be text")),
            (row("secret/path is 1; it must be text"), None),
            (row("module secret is not there"), None),
            (module("/srv/secret", "secret"), None),
            (RequestError::SpoolBroken { cause: io::Error::other("/secret") }, None),
            (RequestError::WorkerExhausted { step: "fork".into(), cause: "/secret".into() }, Some("could not fork")),
            (RequestError::Exited { code: 3, means: "" }, Some("code 3")),
            (RequestError::Signaled { signal: 10 }, Some("signal 10 (SIGUSR1)")),
        ];
        crate::cases::check(table.map(|case| (case, (true, true))), |(error, expected)| {
            let public = error.public();
            (!public.contains("cret"), public.contains(expected.unwrap_or("")))
        });
    }
}
