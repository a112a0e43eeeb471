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
//! | 4 | a | JSON object: request_id, function, runtime, module, handler, start, engine, sapi (strings), memory_mib, scratch_mib, timeout_ms, env_count (numbers), stream, net (bools), write (array of strings), dirs (array of pairs of strings) |
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

/// A word in a descriptor, out of a few.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            /// Each with its word.
            pub const WORDS: &[(&str, $name)] = &[$(($word, $name::$variant)),+];

            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $word),+
                }
            }

            pub fn from_name(name: &str) -> Option<$name> {
                $name::WORDS.iter().find(|(word, _)| *word == name).map(|(_, value)| *value)
            }
        }
    };
}

words! {
    /// What runs a function.
    Runtime {
        /// A script for PHP.
        Php = "php",
        /// A WASI preview 1 module.
        Wasm = "wasm",
        /// A program, or a script that names its interpreter in its first line.
        Native = "native",
    }
}

words! {
    /// How a function's process comes to be.
    Start {
        /// Forked from a fork server where there is one (runtimes/README.md), else by exec.
        Auto = "auto",
        /// By exec, always.
        Cold = "cold",
    }
}

words! {
    /// What runs a WASM function.
    Engine {
        /// faas-wasm of runtimes/wasm, where it is built, else wasmer.
        Auto = "auto",
        /// `wasmer run`.
        Wasmer = "wasmer",
    }
}

words! {
    /// Which of its programs runs a PHP function.
    Sapi {
        /// `php`, with a prelude that makes it answer as CGI does.
        Cli = "cli",
        /// `php-cgi`, started anew each time.
        Cgi = "cgi",
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
    pub start: Start,
    pub engine: Engine,
    pub sapi: Sapi,
    pub memory_mib: u64,
    /// Of its scratch folder.
    pub scratch_mib: u64,
    /// Absolute paths that it may write to, or beneath, besides its scratch folder.
    pub write: Vec<PathBuf>,
    /// Folders that a WASM function finds: the name it knows, and the absolute path.
    pub dirs: Vec<(String, PathBuf)>,
    /// Whether it may use the network.
    pub net: bool,
    /// From the spawn on.
    pub timeout: Duration,
    /// Whether output is to be passed on as soon as it comes.
    pub stream: bool,
    /// `NAME=value`, no name twice.
    pub environment: Vec<CString>,
    /// How many of them, at the end, are the descriptor's own `env`: the same in every invocation.
    pub env_count: usize,
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
            "start": self.start.as_str(),
            "engine": self.engine.as_str(),
            "sapi": self.sapi.as_str(),
            "memory_mib": self.memory_mib,
            "scratch_mib": self.scratch_mib,
            "write": self.write.iter().map(as_text).collect::<Vec<_>>(),
            "dirs": self.dirs.iter().map(|(name, path)| [name.clone(), as_text(path)]).collect::<Vec<_>>(),
            "net": self.net,
            "env_count": self.env_count,
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
        let dirs = facts["dirs"].as_array().ok_or_else(|| malformed("dirs must be an array"))?.iter();
        let dirs = dirs.map(|pair| Some((pair[0].as_str()?.to_string(), PathBuf::from(pair[1].as_str()?))));
        let environment = split_environment(environment).ok_or_else(|| malformed("the environment lacks its NUL"))?;
        let env_count = number("env_count")? as usize;
        if env_count > environment.len() {
            return Err(malformed("env_count is more than there are"));
        }
        Ok(Invocation {
            request_id: text("request_id")?,
            function: text("function")?,
            runtime: Runtime::from_name(&text("runtime")?).ok_or_else(|| malformed("the runtime is unknown"))?,
            module: PathBuf::from(text("module")?),
            handler: text("handler")?,
            start: Start::from_name(&text("start")?).ok_or_else(|| malformed("start is unknown"))?,
            engine: Engine::from_name(&text("engine")?).ok_or_else(|| malformed("engine is unknown"))?,
            sapi: Sapi::from_name(&text("sapi")?).ok_or_else(|| malformed("sapi is unknown"))?,
            memory_mib: number("memory_mib")?,
            scratch_mib: number("scratch_mib")?,
            write: paths.ok_or_else(|| malformed("write must hold strings"))?,
            dirs: dirs.collect::<Option<Vec<_>>>().ok_or_else(|| malformed("dirs must hold pairs of strings"))?,
            net: flag("net")?,
            timeout: Duration::from_millis(number("timeout_ms")?),
            stream: flag("stream")?,
            environment,
            env_count,
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
            start: Start::Cold,
            engine: Engine::Wasmer,
            sapi: Sapi::Cgi,
            memory_mib: 128,
            scratch_mib: 64,
            write: vec!["/var/a".into()],
            dirs: vec![("/data".into(), "/srv/data".into())],
            net: false,
            timeout: Duration::from_millis(30_000),
            stream: false,
            environment: vec![c"A=1".into(), CString::new(b"B=\xff\n".as_slice()).unwrap()],
            env_count: 1,
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
