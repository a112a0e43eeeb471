//! The program of an invocation, and its loader: the interface between the fork server and the engine, and the code
//! that modules and components share.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use wasmtime::Trap;

use crate::error::{Error, Result};
use crate::limits::{PREPARE_CPU_MS_MAX, PREPARE_MEMORY_MIB_MAX};
use crate::memory::MemoryLimit;
use crate::settings::Settings;
use crate::sys;

/// The exit status after a trap, as a shell counts an end by abort(3): 128 + SIGABRT.
const STATUS_TRAP: u8 = 134;

/// The parts of an invocation that the program needs.
pub struct Invocation {
    pub settings: Settings,
    /// `NAME=value` and a NUL, repeated.
    pub environment: Vec<u8>,
    /// The channel that gets the exit status, besides the parent.
    pub channel: Option<OwnedFd>,
}

/// Makes programs of modules or of components: holds all that does not depend on one of them, made once.
pub trait Loader: Sized {
    /// The name of the command, which is also the title of its processes.
    const NAME: &'static str;

    type Program: Program;

    /// `owner` is the user whose artifacts are trusted.
    fn new(owner: u32) -> Result<Self>;

    /// Reads a module from `input`, binary or text, and writes its artifact to `output`.
    fn compile(input: &mut dyn Read, output: &mut dyn Write) -> Result<()>;

    /// Loads a module, with at most `memory_mib` of initial memory. Runs none of its code.
    fn load(&self, settings: &Settings, memory_mib: usize) -> Result<Self::Program>;

    /// Loads a module for children that are forked later. A module that exceeds its time ends the process.
    fn prepare(&self, settings: &Settings) -> Result<Self::Program> {
        if settings.artifact.is_none() {
            return Err(Error::Protocol("no artifact is named, and to compile takes too long here".into()));
        }
        sys::limit_cpu_time(PREPARE_CPU_MS_MAX);
        let program = self.load(settings, PREPARE_MEMORY_MIB_MAX);
        sys::limit_cpu_time(0);
        program
    }
}

/// A loaded module or component, none of whose code has run. It serves one invocation.
pub trait Program {
    /// Bytes of its memory, which the kernel counts as a forked child's.
    fn memory_bytes(&self) -> usize;

    /// The open artifact, if the program still maps memory from it when it runs.
    fn artifact(&self) -> Option<RawFd>;

    /// Runs the function, and ends the process with its status.
    ///
    /// # Errors
    /// If it cannot be run.
    fn run(&mut self, invocation: Invocation) -> Result<Infallible>;
}

/// The user of the parent process, whose artifacts are trusted.
pub fn owner_of_parent() -> u32 {
    let parent = rustix::process::getppid().map_or(0, |parent| parent.as_raw_nonzero().get());
    std::fs::metadata(format!("/proc/{parent}")).map_or(0, |parent| parent.uid())
}

/// An invocation by exec, with the environment of this process.
pub fn of_process(settings: Settings) -> Invocation {
    let mut environment = Vec::new();
    for (name, value) in std::env::vars_os() {
        environment.extend([name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat());
    }
    Invocation { settings, environment, channel: None }
}

/// Ends the process after the invocation. Nothing is buffered, so this can run within a call of the module, which saves
/// the way back through its frames.
pub fn end(status: u8, memory: &MemoryLimit, channel: Option<&OwnedFd>) -> ! {
    if status != 0 && memory.refused {
        eprintln!("out of memory: the function asked for more than its {} MiB", memory.limit_mib);
    }
    if let Some(channel) = channel {
        // If no process listens any more, none needs this message.
        let mut word = [0; 26];
        word[..2].copy_from_slice(&[b'X', status]);
        word[2..].copy_from_slice(sys::own_usage().map(u64::to_le_bytes).as_flattened());
        let _ = rustix::io::write(channel, &word);
    }
    sys::end(status)
}

/// Reports on stderr why and where the function ended; returns the exit status.
pub fn trapped(error: &wasmtime::Error) -> u8 {
    match error.downcast_ref::<Trap>() {
        Some(trap) => eprintln!("{trap}"),
        None => eprintln!("{}", error.root_cause()),
    }
    // The error itself is the backtrace; its causes are printed above.
    eprintln!("{error}");
    STATUS_TRAP
}

/// The folders that are opened to a module, as (name, path). The scratch folder has its own path as its name, each
/// `dir` the given name. The scratch folder is also `.`, where relative paths begin, unless a `dir` is `.` or `/`.
///
/// wasi-libc takes a path as relative to `.` if no other folder's name begins it. So it looks for `/etc/passwd` as
/// `etc/passwd` in the scratch folder, and does not find it. A `/` among the names must therefore not be followed by
/// `.`.
pub fn folders(settings: &Settings, environment: &[u8]) -> Vec<(Vec<u8>, PathBuf)> {
    let scratch = environment.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(b"TMPDIR="));
    let scratch = |name: &[u8]| scratch.map(|path| (name.to_vec(), PathBuf::from(OsStr::from_bytes(path))));
    let is_named = |name: &str| settings.folders.iter().any(|(other, _)| other == name);
    let mut folders = Vec::new();
    folders.extend(scratch(b"").map(|(_, path)| (path.clone().into_os_string().into_vec(), path)));
    folders.extend(settings.folders.iter().map(|(name, path)| (name.as_bytes().to_vec(), path.clone())));
    if !is_named(".") && !is_named("/") {
        folders.extend(scratch(b"."));
    }
    folders
}
