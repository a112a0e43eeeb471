//! From an invocation to the command that runs it. One file per runtime; each answers one question: which program, with
//! which arguments, under which memory limit?
//!
//! A command is only made where it can work: a missing module or program is found here, before the gateway is told that
//! the invocation has started.

mod native;
mod php;
mod wasm;

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Worker;
use crate::protocol::worker_protocol::{Invocation, Runtime, Verdict};

pub use wasm::Cache as WasmCache;

/// A program to execute.
#[derive(Debug)]
pub struct Command {
    pub program: CString,
    /// The program of a runtime is opened by us: the functions' user need not be able to enter its folder, which may be
    /// somebody's home.
    pub program_file: Option<File>,
    pub arguments: Vec<CString>,
    /// What the kernel is told (RLIMIT_DATA), per process. The limit that answers clearly is the sampled sum.
    pub data_mib_max: u64,
    /// Variables that the runtime itself needs.
    pub environment: Vec<CString>,
}

/// The command for an invocation whose module is there.
///
/// # Errors
/// The verdict to send instead, where the runtime's program is missing or does not take the module.
pub fn command(worker: &Worker, invocation: &Invocation, scratch: &Path) -> Result<Command, Verdict> {
    match invocation.runtime {
        Runtime::Php => php::command(invocation),
        Runtime::Wasm => wasm::command(worker, invocation, scratch),
        Runtime::Native => native::command(invocation),
    }
}

/// Whether the module is there, and the functions' user may read it.
///
/// # Errors
/// The verdict to send instead.
pub fn check_module(worker: &Worker, module: &Path) -> Result<(), Verdict> {
    let missing = |cause: String| Verdict::ModuleMissing { path: module.display().to_string(), cause };
    match std::fs::metadata(module) {
        Ok(metadata) if metadata.is_file() => worker.sandbox.may_read(module).map_err(missing),
        Ok(_) => Err(missing("it is not a regular file".into())),
        Err(error) => Err(missing(error.to_string())),
    }
}

/// Where in PATH a program is, and the open file; looked up for each call, so that one that is installed later is found
/// without a restart.
fn find_program(name: &str, install: &str) -> Result<(CString, File), Verdict> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .filter(|path| std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
        .find_map(|path| File::open(&path).ok().map(|file| (c_string(path), file)))
        .ok_or_else(|| Verdict::RuntimeMissing { program: name.into(), install: install.into() })
}

fn c_string(text: impl AsRef<OsStr>) -> CString {
    CString::new(text.as_ref().as_bytes()).expect("descriptors are refused when they hold a NUL")
}
