//! The frames on worker_N.sock: a request to run a function, and what comes back.
//!
//! A connection carries one invocation at a time, and any number after one another:
//!
//! ```text
//! gateway → worker   NOTE                      once, first, with a descriptor: the note
//!                    INVOKE                    with a descriptor for a body of more than 64 KiB
//! worker → gateway   OUTPUT  OUTPUT  …         the function's stdout, in order
//!                    END                       how it went
//! ```
//!
//! The gateway cancels by closing the connection.
//!
//! The note is a file in memory (memfd_create(2)) of eight bytes: which invocation of this connection the worker has started
//! last, counted from 1, little-endian. It writes that before it lets the function have a process, and goes on only where the
//! connection is still open then. The gateway looks only when the connection fails, after it has closed it: an invocation that
//! is not noted by then never runs, so another worker may be asked. (A frame would say the same, and wake the gateway for it
//! each time.)
//!
//! A frame is
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 1 | kind: 1 INVOKE, 2 NOTE, 3 OUTPUT, 4 END |
//! | 1 | 4 | n: length of the payload, little-endian, at most FRAME_BYTES_MAX |
//! | 5 | n | payload |
//!
//! The payload of INVOKE is
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 4 | a: length of the facts, little-endian |
//! | 4 | a | the facts: `name=value` and a NUL, again and again |
//! | 4+a | 4 | b: length of the environment, little-endian |
//! | 8+a | b | the environment: `NAME=value` and a NUL, again and again, as in /proc/PID/environ |
//! | 8+a+b | rest | the request body, where it did not come as a descriptor |
//!
//! The facts are the fields of [`Invocation`] by their names: texts and paths as they are, numbers in decimal, yes and no as 1
//! and 0; `write` comes once for each path, `dir_name` and `dir_path` once for each of `dirs`.
//!
//! That of NOTE is empty, that of OUTPUT any bytes, that of END a JSON object with `verdict` and its particulars,
//! `warm`, `spawn_us` and `exec_us`.
//!
//! A frame is refused when its kind is unknown or its length over the bound, and an INVOKE when a length points past its
//! end, a fact is missing or facts or environment do not end with a NUL. Whoever gets such a frame closes the connection.

use std::ffi::{CString, OsStr};
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
    Note = 2,
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
        2 => Kind::Note,
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
        let facts = self.facts();
        let environment_bytes: usize = self.environment.iter().map(|pair| pair.as_bytes_with_nul().len()).sum();
        let length = 8 + facts.len() + environment_bytes + body.len();
        if length > FRAME_BYTES_MAX {
            return Err(Error::HeadTooLarge("as environment variables it does not fit into a frame"));
        }
        let mut frame = Vec::with_capacity(FRAME_HEAD_BYTES + length);
        frame.push(Kind::Invoke as u8);
        frame.extend_from_slice(&(length as u32).to_le_bytes());
        frame.extend_from_slice(&(facts.len() as u32).to_le_bytes());
        frame.extend_from_slice(&facts);
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
        let (facts, rest) = counted(payload).ok_or_else(|| malformed("the facts are cut off"))?;
        let (environment, body) = counted(rest).ok_or_else(|| malformed("the environment is cut off"))?;
        let facts = Facts::split(facts).ok_or_else(|| malformed("a fact has no name, or no end"))?;
        let environment = pairs_of(environment).ok_or_else(|| malformed("the environment lacks its NUL"))?;
        let environment: Vec<CString> =
            environment.map(|pair| CString::new(pair).expect("split at every NUL")).collect();
        let env_count = facts.number("env_count")? as usize;
        if env_count > environment.len() {
            return Err(malformed("env_count is more than there are"));
        }
        let dirs = facts.all("dir_name").zip(facts.all("dir_path"));
        let dirs = dirs.map(|(name, path)| Some((String::from_utf8(name.to_vec()).ok()?, path_of(path))));
        Ok(Invocation {
            request_id: facts.text("request_id")?,
            function: facts.text("function")?,
            runtime: facts.word("runtime", Runtime::from_name)?,
            module: path_of(facts.one("module")?),
            handler: facts.text("handler")?,
            start: facts.word("start", Start::from_name)?,
            engine: facts.word("engine", Engine::from_name)?,
            sapi: facts.word("sapi", Sapi::from_name)?,
            memory_mib: facts.number("memory_mib")?,
            scratch_mib: facts.number("scratch_mib")?,
            write: facts.all("write").map(path_of).collect(),
            dirs: dirs.collect::<Option<Vec<_>>>().ok_or_else(|| malformed("dir_name is no UTF-8"))?,
            net: facts.number("net")? != 0,
            timeout: Duration::from_millis(facts.number("timeout_ms")?),
            stream: facts.number("stream")? != 0,
            environment,
            env_count,
            body: body.to_vec(),
        })
    }

    /// All but environment and body, as `name=value` and a NUL each.
    fn facts(&self) -> Vec<u8> {
        let mut facts = Vec::with_capacity(512);
        let mut add = |name: &str, value: &[u8]| {
            facts.extend_from_slice(name.as_bytes());
            facts.push(b'=');
            facts.extend_from_slice(value);
            facts.push(0);
        };
        let timeout_ms = self.timeout.as_millis() as u64;
        let texts = [("request_id", &self.request_id), ("function", &self.function), ("handler", &self.handler)];
        let words = [
            ("runtime", self.runtime.as_str()),
            ("start", self.start.as_str()),
            ("engine", self.engine.as_str()),
            ("sapi", self.sapi.as_str()),
        ];
        let numbers = [
            ("memory_mib", self.memory_mib),
            ("scratch_mib", self.scratch_mib),
            ("timeout_ms", timeout_ms),
            ("env_count", self.env_count as u64),
            ("net", self.net.into()),
            ("stream", self.stream.into()),
        ];
        texts.iter().for_each(|(name, text)| add(name, text.as_bytes()));
        words.iter().for_each(|(name, word)| add(name, word.as_bytes()));
        numbers.iter().for_each(|(name, number)| add(name, number.to_string().as_bytes()));
        add("module", self.module.as_os_str().as_bytes());
        self.write.iter().for_each(|path| add("write", path.as_os_str().as_bytes()));
        for (name, path) in &self.dirs {
            add("dir_name", name.as_bytes());
            add("dir_path", path.as_os_str().as_bytes());
        }
        facts
    }
}

/// The facts of an INVOKE, each asked for by its name.
struct Facts<'a>(Vec<(&'a [u8], &'a [u8])>);

impl<'a> Facts<'a> {
    fn split(block: &'a [u8]) -> Option<Facts<'a>> {
        let name_and_value = |pair: &'a [u8]| {
            let at = pair.iter().position(|byte| *byte == b'=')?;
            Some((&pair[..at], &pair[at + 1..]))
        };
        pairs_of(block)?.map(name_and_value).collect::<Option<Vec<_>>>().map(Facts)
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |(other, _)| *other == name.as_bytes()).map(|(_, value)| *value)
    }

    fn one(&self, name: &str) -> Result<&'a [u8]> {
        self.all(name).next().ok_or_else(|| Error::Protocol(format!("INVOKE: {name} is missing")))
    }

    /// A value in the form that `parse` takes.
    fn word<T>(&self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T> {
        let value = std::str::from_utf8(self.one(name)?).ok().and_then(parse);
        value.ok_or_else(|| Error::Protocol(format!("INVOKE: {name} has no value that we know")))
    }

    fn text(&self, name: &str) -> Result<String> {
        self.word(name, |text| Some(text.to_string()))
    }

    fn number(&self, name: &str) -> Result<u64> {
        self.word(name, |text| text.parse().ok())
    }
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

/// A length in four bytes, that many bytes, and what follows them.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

/// What stands before each NUL; `None` where something stands behind the last one.
fn pairs_of(block: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let is_whole = block.last().is_none_or(|last| *last == 0);
    is_whole.then(|| block.split(|byte| *byte == 0).take(block.iter().filter(|byte| **byte == 0).count()))
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
    /// Whether its process was forked from a fork server.
    pub is_warm: bool,
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
        object["warm"] = self.is_warm.into();
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
        let is_warm = object["warm"].as_bool().ok_or_else(malformed)?;
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
        Ok(End { verdict, is_warm, spawn_us: time("spawn_us")?, exec_us: time("exec_us")? })
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
            let end = End { verdict, is_warm: true, spawn_us: 7, exec_us: 8 };
            assert_eq!(End::decode(&end.encode()).unwrap(), end);
        }
        assert!(End::decode(b"{}").is_err());
    }
}
