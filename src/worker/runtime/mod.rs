//! From an invocation to the command that runs it. One file per runtime; each answers one question: which program, with
//! which arguments, under which memory limit?
//!
//! A command is only made where it can work: a missing module or program is found here, before the gateway is told that
//! the invocation has started.

mod native;
mod php;
mod wasm;

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::protocol::worker_protocol::{Invocation, Runtime, Verdict};

pub use php::MEMORY_EXHAUSTED as PHP_MEMORY_EXHAUSTED;

/// A program to execute.
#[derive(Debug)]
pub struct Command {
    pub program: CString,
    pub arguments: Vec<CString>,
    /// What the kernel is told (RLIMIT_DATA), per process. The limit that answers clearly is the sampled sum.
    pub data_mib_max: u64,
}

/// The command for an invocation.
///
/// # Errors
/// The verdict to send instead, where the module or the runtime's program is missing.
pub fn command(invocation: &Invocation) -> Result<Command, Verdict> {
    check_module(&invocation.module)?;
    match invocation.runtime {
        Runtime::Php => php::command(invocation),
        Runtime::Wasm => wasm::command(invocation),
        Runtime::Native => native::command(invocation),
    }
}

fn check_module(module: &Path) -> Result<(), Verdict> {
    let missing = |cause: String| Verdict::ModuleMissing { path: module.display().to_string(), cause };
    match std::fs::metadata(module) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(missing("it is not a regular file".into())),
        Err(error) => Err(missing(error.to_string())),
    }
}

/// Where in PATH a program is; looked up for each call, so that one that is installed later is found without a restart.
fn find_program(name: &str, install: &str) -> Result<PathBuf, Verdict> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|file| std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
        .ok_or_else(|| Verdict::RuntimeMissing { program: name.into(), install: install.into() })
}

fn c_string(text: impl AsRef<OsStr>) -> CString {
    CString::new(text.as_ref().as_bytes()).expect("descriptors are refused when they hold a NUL")
}
