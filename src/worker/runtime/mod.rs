//! From an invocation to the command that runs it. One file per runtime; each answers: which program, with which arguments,
//! under which memory limit? And for those that fork: which command is the fork server?
//!
//! A command is only made where it can work: a missing module or program is found here, before the gateway is told that
//! the invocation has started.

mod native;
mod php;
mod wasm;

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Worker;
use super::fork_servers::{Key, Version};
use crate::error::{self, Error};
use crate::protocol::function_spec::{FunctionSpec, Runtime, Start};
use crate::protocol::worker_protocol::Verdict;
use crate::sandbox::Sandbox;

/// What comes instead of a command is the verdict to send.
type Result<T, E = Verdict> = std::result::Result<T, E>;

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

/// What the runtimes keep in the folder that functions can read and only we write.
pub struct Runtimes {
    php: php::Files,
    wasm: wasm::Cache,
}

impl Runtimes {
    /// `folder` is made where it is missing; its parent must be ours. It is shared by all workers of a run dir. `programs` is
    /// where our own programs are, and so faas-wasm, once it is built.
    pub fn new(folder: PathBuf, programs: &Path) -> error::Result<Runtimes> {
        let failed = || Error::io("make the folder for the runtimes", folder.display().to_string());
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => made.map_err(failed())?,
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).map_err(failed())?;
        Ok(Runtimes { php: php::Files::write(&folder)?, wasm: wasm::Cache::new(folder, programs) })
    }
}

/// The command for an invocation whose module is there.
///
/// # Errors
/// The verdict to send instead, where the runtime's program is missing or does not take the module.
pub(super) fn command(worker: &Worker, spec: &FunctionSpec, scratch: &Path) -> Result<Command> {
    match spec.runtime {
        Runtime::Php => php::command(worker, spec, scratch),
        Runtime::Wasm => wasm::command(worker, spec, scratch),
        Runtime::Native => native::command(spec),
    }
}

/// Whether an invocation could have a process forked from a fork server, if there is one.
pub(super) fn can_fork(spec: &FunctionSpec) -> bool {
    let has_server = match spec.runtime {
        Runtime::Php => true,
        Runtime::Wasm => wasm::can_fork(spec),
        Runtime::Native => false,
    };
    has_server && spec.start == Start::Auto
}

/// Whether the fork server's program is there: faas-wasm is built while others are served.
pub(super) fn is_built(worker: &Worker, runtime: Runtime) -> bool {
    runtime != Runtime::Wasm || wasm::is_built(&worker.runtimes.wasm)
}

/// The command of the fork server for `key`.
///
/// # Errors
/// Why there is none, for the log.
pub fn server_command(runtimes: &Runtimes, sandbox: &Sandbox, key: &Key) -> Result<Command, String> {
    match key.runtime {
        Runtime::Php => php::server_command(&runtimes.php, key),
        Runtime::Wasm => wasm::server_command(&runtimes.wasm, sandbox, key),
        Runtime::Native => Err("native programs are executed".into()),
    }
}

/// Whether the module is there, and which version of it.
pub(super) fn version_of(module: &Path) -> Result<Version> {
    match fs::metadata(module) {
        Ok(metadata) if metadata.is_file() => Ok(Version::of(&metadata)),
        Ok(_) => Err(missing(module, "it is not a regular file".into())),
        Err(error) => Err(missing(module, error.to_string())),
    }
}

/// Whether the functions' user may read the module. A fork server that is ready has read it.
pub(super) fn check_readable(worker: &Worker, module: &Path) -> Result<()> {
    worker.sandbox.may_read(module).map_err(|cause| missing(module, cause))
}

fn missing(module: &Path, cause: String) -> Verdict {
    Verdict::ModuleMissing { path: module.display().to_string(), cause }
}

/// Where in PATH a program is, and the open file; looked up for each call, so that one that is installed later is found
/// without a restart.
fn find_program(name: &str, install: &str) -> Result<(CString, File)> {
    let found = folders_of_path().iter().find_map(|folder| open_program(&folder.join(name)));
    found.ok_or_else(|| Verdict::RuntimeMissing { program: name.into(), install: install.into() })
}

/// The folders in PATH.
fn folders_of_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect()
}

/// A file that can be executed, as a command names it and open.
fn open_program(path: &Path) -> Option<(CString, File)> {
    let is_program = fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    is_program.then(|| File::open(path).ok().map(|file| (c_string(path), file)))?
}

fn c_string(text: impl AsRef<OsStr>) -> CString {
    CString::new(text.as_ref().as_bytes()).expect("descriptors are refused when they hold a NUL")
}
