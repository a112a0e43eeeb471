//! The frames on worker_N.sock: a request to run a function, and what comes back.
//!
//! A connection carries one invocation at a time, and any number after one another:
//!
//! ```text
//! gateway → worker   INVOKE                    with a descriptor for a body of more than 64 KiB
//! worker → gateway   STARTED                   written before the function's process is spawned
//!                    OUTPUT  OUTPUT  …         the function's stdout, in order
//!                    END                       how it went
//! ```
//!
//! The gateway cancels by closing the connection. A worker that fails before STARTED has not run the function, so the
//! gateway may try another one; after it, it must not.
//!
//! A frame is
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 1 | kind: 1 INVOKE, 2 STARTED, 3 OUTPUT, 4 END |
//! | 1 | 4 | n: length of the payload, little-endian, at most FRAME_BYTES_MAX |
//! | 5 | n | payload |
//!
//! The payload of INVOKE is
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 4 | a: length of the JSON, little-endian |
//! | 4 | a | JSON object: request_id, function, runtime, module, handler (strings), memory_mib, scratch_mib, timeout_ms (numbers), stream, net (bools), write (array of strings) |
//! | 4+a | 4 | b: length of the environment, little-endian |
//! | 8+a | b | the environment: `NAME=value` and a NUL, again and again, as in /proc/PID/environ |
//! | 8+a+b | rest | the request body, where it did not come as a descriptor |
//!
//! That of STARTED is empty, that of OUTPUT any bytes, that of END a JSON object with `verdict` and its particulars,
//! `spawn_us` and `exec_us`.
//!
//! A frame is refused when its kind is unknown or its length over the bound, and an INVOKE when a length points past its
//! end, the JSON lacks a field or the environment does not end with a NUL. Whoever gets such a frame closes the connection.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::limits::FRAME_BYTES_MAX;

pub const FRAME_HEAD_BYTES: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Invoke = 1,
    Started = 2,
    Output = 3,
    End = 4,
}

/// The first frame in `bytes`: its kind, its payload, and how many bytes it takes; `None` while it is not complete.
///
/// # Errors
/// [`Error::Protocol`] for an unknown kind or a payload over the bound.
pub fn decode(bytes: &[u8]) -> Result<Option<(Kind, &[u8], usize)>> {
    let Some(head) = bytes.first_chunk::<FRAME_HEAD_BYTES>() else { return Ok(None) };
    let kind = match head[0] {
        1 => Kind::Invoke,
        2 => Kind::Started,
        3 => Kind::Output,
        4 => Kind::End,
        other => return Err(Error::Protocol(format!("there is no frame of kind {other}"))),
    };
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(Error::Protocol(format!("a frame of {length} bytes is over the bound")));
    }
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

/// What runs a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// A script for the `php` program.
    Php,
    /// A WASI preview 1 module.
    Wasm,
    /// A program, or a script that names its interpreter in its first line.
    Native,
}

impl Runtime {
    pub const ALL: [Runtime; 3] = [Runtime::Php, Runtime::Wasm, Runtime::Native];

    pub fn as_str(self) -> &'static str {
        match self {
            Runtime::Php => "php",
            Runtime::Wasm => "wasm",
            Runtime::Native => "native",
        }
    }

    pub fn from_name(name: &str) -> Option<Runtime> {
        Runtime::ALL.into_iter().find(|runtime| runtime.as_str() == name)
    }
}

/// One call of a function, all but a body that travels as a descriptor.
#[derive(Debug, Clone, PartialEq)]
pub struct Invocation {
    pub request_id: String,
    /// The function's name, for the log.
    pub function: String,
    pub runtime: Runtime,
    /// Absolute path.
    pub module: PathBuf,
    pub handler: String,
    pub memory_mib: u64,
    /// Of its scratch folder.
    pub scratch_mib: u64,
    /// Absolute paths that it may write to, or beneath, besides its scratch folder.
    pub write: Vec<PathBuf>,
    /// Whether it may use the network.
    pub net: bool,
    /// From the spawn on.
    pub timeout: Duration,
    /// Whether output is to be passed on as soon as it comes.
    pub stream: bool,
    /// `NAME=value`, no name twice.
    pub environment: Vec<CString>,
    /// Empty where the body comes as a descriptor.
    pub body: Vec<u8>,
}

impl Invocation {
    /// The INVOKE frame. `body` stands in for the field of the same name, so that the caller need not copy it there.
    ///
    /// # Errors
    /// [`Error::HeadTooLarge`] where environment and body do not fit into a frame.
    pub fn encode(&self, body: &[u8]) -> Result<Vec<u8>> {
        let as_text = |path: &PathBuf| String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
        let facts = json!({
            "request_id": self.request_id,
            "function": self.function,
            "runtime": self.runtime.as_str(),
            "module": as_text(&self.module),
            "handler": self.handler,
            "memory_mib": self.memory_mib,
            "scratch_mib": self.scratch_mib,
            "write": self.write.iter().map(as_text).collect::<Vec<_>>(),
            "net": self.net,
            "timeout_ms": self.timeout.as_millis() as u64,
            "stream": self.stream,
        })
        .to_string();
        let environment_bytes: usize = self.environment.iter().map(|pair| pair.as_bytes_with_nul().len()).sum();
        let length = 8 + facts.len() + environment_bytes + body.len();
        if length > FRAME_BYTES_MAX {
            return Err(Error::HeadTooLarge("as environment variables it does not fit into a frame"));
        }
        let mut frame = Vec::with_capacity(FRAME_HEAD_BYTES + length);
        frame.push(Kind::Invoke as u8);
        frame.extend_from_slice(&(length as u32).to_le_bytes());
        frame.extend_from_slice(&(facts.len() as u32).to_le_bytes());
        frame.extend_from_slice(facts.as_bytes());
        frame.extend_from_slice(&(environment_bytes as u32).to_le_bytes());
        for pair in &self.environment {
            frame.extend_from_slice(pair.as_bytes_with_nul());
        }
        frame.extend_from_slice(body);
        Ok(frame)
    }

    /// Reads the payload of an INVOKE frame.
    pub fn decode(payload: &[u8]) -> Result<Invocation> {
        let malformed = |what: &str| Error::Protocol(format!("INVOKE: {what}"));
        let (facts, rest) = counted(payload).ok_or_else(|| malformed("the JSON is cut off"))?;
        let (environment, body) = counted(rest).ok_or_else(|| malformed("the environment is cut off"))?;
        let facts: Value = serde_json::from_slice(facts).map_err(|_| malformed("the JSON is none"))?;
        let text = |name: &str| {
            facts[name].as_str().map(str::to_string).ok_or_else(|| malformed(&format!("{name} must be a string")))
        };
        let number = |name: &str| facts[name].as_u64().ok_or_else(|| malformed(&format!("{name} must be a number")));
        let flag = |name: &str| facts[name].as_bool().ok_or_else(|| malformed(&format!("{name} must be a bool")));
        let paths = facts["write"].as_array().ok_or_else(|| malformed("write must be an array"))?.iter();
        let paths = paths.map(|path| path.as_str().map(PathBuf::from)).collect::<Option<Vec<_>>>();
        Ok(Invocation {
            request_id: text("request_id")?,
            function: text("function")?,
            runtime: Runtime::from_name(&text("runtime")?).ok_or_else(|| malformed("the runtime is unknown"))?,
            module: PathBuf::from(text("module")?),
            handler: text("handler")?,
            memory_mib: number("memory_mib")?,
            scratch_mib: number("scratch_mib")?,
            write: paths.ok_or_else(|| malformed("write must hold strings"))?,
            net: flag("net")?,
            timeout: Duration::from_millis(number("timeout_ms")?),
            stream: flag("stream")?,
            environment: split_environment(environment).ok_or_else(|| malformed("the environment lacks its NUL"))?,
            body: body.to_vec(),
        })
    }
}

/// A length in four bytes, that many bytes, and what follows them.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

fn split_environment(block: &[u8]) -> Option<Vec<CString>> {
    if block.is_empty() {
        return Some(Vec::new());
    }
    let pairs = block.strip_suffix(&[0])?.split(|byte| *byte == 0);
    Some(pairs.map(|pair| CString::new(pair).expect("split at every NUL")).collect())
}

/// How an invocation went.
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
    /// Its scratch folder held more than it may.
    ScratchExceeded,
    /// It had more processes than any function needs.
    TooManyProcesses,
    /// The function's process was never there.
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
    /// The machine refused a descriptor, a process or memory.
    Exhausted {
        step: String,
        cause: String,
    },
}

/// The payload of END.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub verdict: Verdict,
    /// From the decision to spawn until the exec was done.
    pub spawn_us: u64,
    /// From there until the end.
    pub exec_us: u64,
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
            Verdict::ModuleMissing { path, cause } => {
                json!({"verdict": "module_missing", "path": path, "cause": cause})
            }
            Verdict::ModuleNotExecutable { path, cause } => {
                json!({"verdict": "module_not_executable", "path": path, "cause": cause})
            }
            Verdict::RuntimeMissing { program, install } => {
                json!({"verdict": "runtime_missing", "program": program, "install": install})
            }
            Verdict::Exhausted { step, cause } => json!({"verdict": "exhausted", "step": step, "cause": cause}),
        };
        object["spawn_us"] = self.spawn_us.into();
        object["exec_us"] = self.exec_us.into();
        object.to_string().into_bytes()
    }

    pub fn decode(payload: &[u8]) -> Result<End> {
        let malformed = || Error::Protocol("END: a field is missing".into());
        let object: Value = serde_json::from_slice(payload).map_err(|_| Error::Protocol("END: no JSON".into()))?;
        let text = |name: &str| object[name].as_str().map(str::to_string).ok_or_else(malformed);
        let number = |name: &str| object[name].as_i64().map(|number| number as i32).ok_or_else(malformed);
        let time = |name: &str| object[name].as_u64().ok_or_else(malformed);
        let verdict = match object["verdict"].as_str() {
            Some("exited") => Verdict::Exited { code: number("code")? },
            Some("signaled") => Verdict::Signaled { signal: number("signal")? },
            Some("timed_out") => Verdict::TimedOut,
            Some("memory_exceeded") => Verdict::MemoryExceeded,
            Some("scratch_exceeded") => Verdict::ScratchExceeded,
            Some("too_many_processes") => Verdict::TooManyProcesses,
            Some("module_missing") => Verdict::ModuleMissing { path: text("path")?, cause: text("cause")? },
            Some("module_not_executable") => {
                Verdict::ModuleNotExecutable { path: text("path")?, cause: text("cause")? }
            }
            Some("runtime_missing") => Verdict::RuntimeMissing { program: text("program")?, install: text("install")? },
            Some("exhausted") => Verdict::Exhausted { step: text("step")?, cause: text("cause")? },
            _ => return Err(Error::Protocol("END: the verdict is unknown".into())),
        };
        Ok(End { verdict, spawn_us: time("spawn_us")?, exec_us: time("exec_us")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invocation() -> Invocation {
        Invocation {
            request_id: "r-1".into(),
            function: "hello".into(),
            runtime: Runtime::Php,
            module: "/srv/hello.php".into(),
            handler: "main".into(),
            memory_mib: 128,
            scratch_mib: 64,
            write: vec!["/var/a".into()],
            net: false,
            timeout: Duration::from_millis(30_000),
            stream: false,
            environment: vec![c"A=1".into(), CString::new(b"B=\xff\n".as_slice()).unwrap()],
            body: b"{\"name\":\"Alice\"}\0\xff".to_vec(),
        }
    }

    #[test]
    fn an_invocation_comes_back_as_it_was_sent() {
        let sent = invocation();
        let frame = sent.encode(&sent.body).unwrap();
        let (kind, payload, used) = decode(&frame).unwrap().unwrap();
        assert_eq!((kind, used), (Kind::Invoke, frame.len()));
        assert_eq!(Invocation::decode(payload).unwrap(), sent);
    }

    #[test]
    fn every_shorter_piece_of_a_frame_is_incomplete_and_of_a_payload_an_error_or_shorter_body() {
        let sent = invocation();
        let frame = sent.encode(&sent.body).unwrap();
        for length in 0..frame.len() {
            assert!(decode(&frame[..length]).unwrap().is_none());
        }
        let payload = &frame[FRAME_HEAD_BYTES..];
        for length in 0..payload.len() - sent.body.len() {
            assert!(Invocation::decode(&payload[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn unknown_kinds_and_oversized_frames_are_refused() {
        assert!(decode(&[0, 0, 0, 0, 0]).is_err());
        assert!(decode(&[9, 0, 0, 0, 0]).is_err());
        assert!(decode(&[3, 0xff, 0xff, 0xff, 0xff]).is_err());
        let mut huge = invocation();
        huge.environment = vec![CString::new(vec![b'a'; FRAME_BYTES_MAX]).unwrap()];
        assert!(huge.encode(&[]).is_err());
    }

    #[test]
    fn every_verdict_comes_back_as_it_was_sent() {
        let text = || "x y".to_string();
        let verdicts = [
            Verdict::Exited { code: 3 },
            Verdict::Signaled { signal: 9 },
            Verdict::TimedOut,
            Verdict::MemoryExceeded,
            Verdict::ScratchExceeded,
            Verdict::TooManyProcesses,
            Verdict::ModuleMissing { path: text(), cause: text() },
            Verdict::ModuleNotExecutable { path: text(), cause: text() },
            Verdict::RuntimeMissing { program: text(), install: text() },
            Verdict::Exhausted { step: text(), cause: text() },
        ];
        for verdict in verdicts {
            let end = End { verdict, spawn_us: 7, exec_us: 8 };
            assert_eq!(End::decode(&end.encode()).unwrap(), end);
        }
        assert!(End::decode(b"{}").is_err());
    }
}
