//! The frames on worker_N.sock: a request to run a function, and its results.
//!
//! A connection carries one invocation at a time, and any number after one another:
//!
//! ```text
//! gateway → worker   INVOKE                    with a descriptor for a body of more than 64 KiB
//! worker → gateway   OUTPUT  OUTPUT  …         the function's stdout, in order
//!                    STAYS                     whether the function goes on without its client; any time, any number
//!                    WHOLE                     the output is complete, and the function goes on; once at most
//!                    END                       how it went
//! ```
//!
//! The gateway cancels by closing the connection.
//!
//! A connection can carry a COMPILE instead: the worker compiles a WASM module ahead of its calls, then closes the
//! connection.
//!
//! A worker leaves the last byte of an INVOKE frame unread until it lets the function have a process. The kernel tells
//! the gateway the rest. If a worker dies, or closes the connection, with bytes unread, the gateway reads ECONNRESET:
//! the function has not begun, so the gateway asks another worker. If the worker has read all bytes, the gateway reads
//! end of file: the function may have run, so its client gets a 502.
//!
//! A frame is
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 1 | kind: 1 INVOKE, 2 OUTPUT, 3 END, 4 STAYS, 5 WHOLE, 6 COMPILE |
//! | 1 | 4 | n: length of the payload, little-endian, at most FRAME_BYTES_MAX |
//! | 5 | n | payload |
//!
//! The payload of INVOKE is
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 4 | s: length of the settings, little-endian |
//! | 4 | 4 | e: length of the environment, little-endian |
//! | 8 | 4 | r: length of the request id, little-endian |
//! | 12 | s | the settings: `name=value` and a NUL, repeated (function_spec.rs) |
//! | 12+s | e | the environment: `NAME=value` and a NUL, repeated, as in /proc/PID/environ; no name twice |
//! | 12+s+e | r | the request id, for the log |
//! | 12+s+e+r | rest | the request body, where it did not come as a descriptor |
//! | end-1 | 1 | a zero: the byte that is read last |
//!
//! The payload of OUTPUT is any bytes. That of END is a JSON object with `verdict` and its details, `warm`, `spawn_us`
//! and `exec_us`; if the function had a process, also `cpu_us`, `memory` and `measured`; if it wrote to stderr, also
//! `stderr`, the end of that. The payload of STAYS is one byte: 1 if the function has asked to go on when its client
//! hangs up, as PHP's ignore_user_abort() does, and 0 if it has taken that back. That of WHOLE, which PHP's
//! fastcgi_finish_request() causes, is empty. That of COMPILE is the function's settings.
//!
//! A frame is rejected if its kind is unknown or its length over the bound. An INVOKE is also rejected if a length
//! points past its end, or if settings or environment do not end with a NUL. The side that gets such a frame closes the
//! connection.

use std::ops::Range;

use serde_json::{Value, json};

use super::ProtocolError;
use super::function_spec::strings;
use crate::limits::FRAME_BYTES_MAX;

pub const FRAME_HEAD_BYTES: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Invoke = 1,
    Output = 2,
    End = 3,
    Stays = 4,
    Whole = 5,
    Compile = 6,
}

/// The kind of a frame and the length of its payload, from its head; `None` while the head is not complete.
///
/// # Errors
/// [`ProtocolError`] for an unknown kind or a payload over the bound.
pub fn decode_head(bytes: &[u8]) -> Result<Option<(Kind, usize)>, ProtocolError> {
    let Some(head) = bytes.first_chunk::<FRAME_HEAD_BYTES>() else { return Ok(None) };
    let kind = match head[0] {
        1 => Kind::Invoke,
        2 => Kind::Output,
        3 => Kind::End,
        4 => Kind::Stays,
        5 => Kind::Whole,
        6 => Kind::Compile,
        other => return Err(ProtocolError::UnknownKind(other)),
    };
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(ProtocolError::FrameTooLarge(length));
    }
    Ok(Some((kind, length)))
}

/// Kind, payload, and how many bytes the frame takes.
pub type Frame<'a> = (Kind, &'a [u8], usize);

/// The first frame in `bytes`; `None` while it is not complete.
///
/// # Errors
/// As [`decode_head`].
pub fn decode(bytes: &[u8]) -> Result<Option<Frame<'_>>, ProtocolError> {
    let Some((kind, length)) = decode_head(bytes)? else { return Ok(None) };
    let end = FRAME_HEAD_BYTES + length;
    Ok(bytes.get(FRAME_HEAD_BYTES..end).map(|payload| (kind, payload, end)))
}

/// Appends a frame to `out`.
pub fn encode(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    debug_assert!(payload.len() <= FRAME_BYTES_MAX);
    out.push(kind as u8);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Bytes before the settings of an INVOKE: three lengths.
const INVOKE_HEAD_BYTES: usize = 12;

/// One call of a function, except a body that travels as a descriptor: the payload of an INVOKE frame without its last
/// byte, taken apart in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    payload: Vec<u8>,
    settings: Range<usize>,
    environment: Range<usize>,
    request_id: Range<usize>,
}

impl Invocation {
    /// Encodes the INVOKE frame.
    ///
    /// # Errors
    /// [`ProtocolError::FrameTooLarge`].
    pub fn encode(
        settings: &[u8],
        environment: &[u8],
        request_id: &str,
        body: &[u8],
    ) -> Result<Vec<u8>, ProtocolError> {
        let parts = [settings, environment, request_id.as_bytes()];
        let length = INVOKE_HEAD_BYTES + parts.iter().map(|part| part.len()).sum::<usize>() + body.len() + 1;
        if length > FRAME_BYTES_MAX {
            return Err(ProtocolError::FrameTooLarge(length));
        }
        let mut frame = Vec::with_capacity(FRAME_HEAD_BYTES + length);
        frame.push(Kind::Invoke as u8);
        frame.extend_from_slice(&(length as u32).to_le_bytes());
        parts.iter().for_each(|part| frame.extend_from_slice(&(part.len() as u32).to_le_bytes()));
        parts.iter().for_each(|part| frame.extend_from_slice(part));
        frame.extend_from_slice(body);
        frame.push(0);
        Ok(frame)
    }

    /// Takes the payload of an INVOKE frame apart, without its last byte.
    ///
    /// # Errors
    /// [`ProtocolError`] if a length points past its end, or a block does not end with a NUL.
    pub fn decode(payload: Vec<u8>) -> Result<Invocation, ProtocolError> {
        let malformed = |what: &str| ProtocolError::malformed("INVOKE", what);
        let mut end = INVOKE_HEAD_BYTES;
        let mut part = |number: usize| {
            let length = payload.get(4 * number..)?.first_chunk::<4>()?;
            let start = end;
            end += u32::from_le_bytes(*length) as usize;
            (end <= payload.len()).then_some(start..end)
        };
        let parts = (part(0), part(1), part(2));
        let (Some(settings), Some(environment), Some(request_id)) = parts else {
            return Err(malformed("it is cut off"));
        };
        if strings(&payload[settings.clone()]).is_none() || strings(&payload[environment.clone()]).is_none() {
            return Err(malformed("a block lacks its last NUL"));
        }
        if std::str::from_utf8(&payload[request_id.clone()]).is_err() {
            return Err(malformed("the request id is no text"));
        }
        Ok(Invocation { payload, settings, environment, request_id })
    }

    /// Input of [`FunctionSpec::decode`](super::function_spec::FunctionSpec::decode).
    pub fn settings(&self) -> &[u8] {
        &self.payload[self.settings.clone()]
    }

    /// `NAME=value` and a NUL, repeated.
    pub fn environment(&self) -> &[u8] {
        &self.payload[self.environment.clone()]
    }

    pub fn request_id(&self) -> &str {
        std::str::from_utf8(&self.payload[self.request_id.clone()]).expect("decode has looked")
    }

    /// Empty if the body came as a descriptor.
    pub fn body(&self) -> &[u8] {
        &self.payload[self.request_id.end..]
    }
}

/// The outcome of an invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Exited {
        code: i32,
    },
    Signaled {
        signal: i32,
    },
    TimedOut,
    MemoryExceeded,
    /// Its scratch folder exceeded its bound.
    ScratchExceeded,
    /// It had more processes than any function needs.
    TooManyProcesses,
    /// The fork server of its process died, and the process with it.
    ForkServerLost,
    /// The function's process was never started.
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
    /// The function's module is being compiled.
    Compiling,
    /// The machine refused a descriptor, a process or memory.
    Exhausted {
        step: String,
        cause: String,
    },
}

/// Resources that an invocation has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// User and system CPU time of its main process and of the children that it waited for. Descendants that were
    /// killed count as far as a sample has seen them.
    pub cpu_us: u64,
    /// Peak of its memory.
    pub memory_bytes: u64,
    pub measured: Measured,
}

/// The way in which an invocation's memory was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measured {
    /// The main process's ru_maxrss (getrusage(2)): it ended before the first sample.
    Rusage,
    /// The highest sample, which includes its descendants and excludes pages of files.
    Samples,
    /// memory.peak of its control group, which includes pages of files that it was the first to read.
    Cgroup,
}

impl Measured {
    const WORDS: [(Measured, &str); 3] =
        [(Measured::Rusage, "rusage"), (Measured::Samples, "samples"), (Measured::Cgroup, "cgroup")];

    pub fn word(self) -> &'static str {
        Measured::WORDS.iter().find(|(measured, _)| *measured == self).map_or("", |(_, word)| word)
    }

    fn from_word(word: &str) -> Option<Measured> {
        Measured::WORDS.iter().find(|(_, other)| *other == word).map(|(measured, _)| *measured)
    }
}

/// The payload of END.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub verdict: Verdict,
    /// True if its process was forked from a fork server.
    pub is_warm: bool,
    /// Time from the decision to spawn until the exec was done.
    pub spawn_us: u64,
    /// Time from there until the end.
    pub exec_us: u64,
    /// `None` if it had no process.
    pub usage: Option<Usage>,
    /// The end of its stderr.
    pub stderr: String,
}

impl End {
    pub fn encode(&self) -> Vec<u8> {
        let mut object = match &self.verdict {
            Verdict::Exited { code } => json!({"verdict": "exited", "code": code}),
            Verdict::Signaled { signal } => json!({"verdict": "signaled", "signal": signal}),
            Verdict::TimedOut => json!({"verdict": "timed_out"}),
            Verdict::MemoryExceeded => json!({"verdict": "memory_exceeded"}),
            Verdict::ScratchExceeded => json!({"verdict": "scratch_exceeded"}),
            Verdict::TooManyProcesses => json!({"verdict": "too_many_processes"}),
            Verdict::ForkServerLost => json!({"verdict": "fork_server_lost"}),
            Verdict::ModuleMissing { path, cause } => {
                json!({"verdict": "module_missing", "path": path, "cause": cause})
            }
            Verdict::ModuleNotExecutable { path, cause } => {
                json!({"verdict": "module_not_executable", "path": path, "cause": cause})
            }
            Verdict::RuntimeMissing { program, install } => {
                json!({"verdict": "runtime_missing", "program": program, "install": install})
            }
            Verdict::Compiling => json!({"verdict": "compiling"}),
            Verdict::Exhausted { step, cause } => json!({"verdict": "exhausted", "step": step, "cause": cause}),
        };
        object["warm"] = self.is_warm.into();
        object["spawn_us"] = self.spawn_us.into();
        object["exec_us"] = self.exec_us.into();
        if let Some(usage) = &self.usage {
            object["cpu_us"] = usage.cpu_us.into();
            object["memory"] = usage.memory_bytes.into();
            object["measured"] = usage.measured.word().into();
        }
        if !self.stderr.is_empty() {
            object["stderr"] = self.stderr.as_str().into();
        }
        object.to_string().into_bytes()
    }

    pub fn decode(payload: &[u8]) -> Result<End, ProtocolError> {
        let malformed = || ProtocolError::malformed("END", "a field is missing");
        let object: Value =
            serde_json::from_slice(payload).map_err(|_| ProtocolError::malformed("END", "it is no JSON"))?;
        let text = |name: &str| object[name].as_str().map(str::to_string).ok_or_else(malformed);
        let number = |name: &str| object[name].as_i64().map(|number| number as i32).ok_or_else(malformed);
        let time = |name: &str| object[name].as_u64().ok_or_else(malformed);
        let is_warm = object["warm"].as_bool().ok_or_else(malformed)?;
        let verdict = match object["verdict"].as_str() {
            Some("exited") => Verdict::Exited { code: number("code")? },
            Some("signaled") => Verdict::Signaled { signal: number("signal")? },
            Some("compiling") => Verdict::Compiling,
            Some("timed_out") => Verdict::TimedOut,
            Some("memory_exceeded") => Verdict::MemoryExceeded,
            Some("scratch_exceeded") => Verdict::ScratchExceeded,
            Some("too_many_processes") => Verdict::TooManyProcesses,
            Some("fork_server_lost") => Verdict::ForkServerLost,
            Some("module_missing") => Verdict::ModuleMissing { path: text("path")?, cause: text("cause")? },
            Some("module_not_executable") => {
                Verdict::ModuleNotExecutable { path: text("path")?, cause: text("cause")? }
            }
            Some("runtime_missing") => Verdict::RuntimeMissing { program: text("program")?, install: text("install")? },
            Some("exhausted") => Verdict::Exhausted { step: text("step")?, cause: text("cause")? },
            _ => return Err(ProtocolError::malformed("END", "the verdict is unknown")),
        };
        let usage = match object["cpu_us"].as_u64() {
            None => None,
            Some(cpu_us) => Some(Usage {
                cpu_us,
                memory_bytes: time("memory")?,
                measured: object["measured"].as_str().and_then(Measured::from_word).ok_or_else(malformed)?,
            }),
        };
        let stderr = object["stderr"].as_str().unwrap_or_default().to_string();
        Ok(End { verdict, is_warm, spawn_us: time("spawn_us")?, exec_us: time("exec_us")?, usage, stderr })
    }
}

#[cfg(test)]
#[path = "worker_protocol_tests.rs"]
mod tests;
