//! From a function to the command that runs it. One file per runtime; each answers: which program, with which
//! arguments, under which memory limit? And for those that fork: which command is the fork server?
//!
//! A command is made only if it can work: a missing module or program is found here, before the gateway hears that the
//! invocation has begun.

mod compiled;
mod confined;
mod faas_php;
mod native;
mod php;
mod wasm;

pub use wasm::{Artifact, compile_modules};

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Worker;
use super::version::Version;
use crate::error::start::{self, StartError};
use crate::limits::{MEMORY_FLOOR_WASM_MIB, MEMORY_GRACE_MIB};
use crate::protocol::function_spec::{Engine, FunctionSpec, Runtime, Start};
use crate::protocol::worker_protocol::Verdict;
use crate::sandbox::may_read;
use crate::sys;
use compiled::Runner;

/// The error is the verdict to send instead of running a command.
type Result<T, E = Verdict> = std::result::Result<T, E>;

/// A program to execute.
#[derive(Debug)]
pub struct Command {
    pub program: CString,
    /// The worker opens the program of a runtime itself: its folder may be somebody's home, which the functions' user
    /// need not be able to enter.
    pub program_file: Option<File>,
    pub arguments: Vec<CString>,
    /// The kernel's limit per process (RLIMIT_DATA). The limit with a clear error is the sampled sum.
    pub data_mib_max: u64,
    /// True if it may make files in memory.
    pub memfd: bool,
    /// Variables that the runtime itself needs.
    pub environment: Vec<CString>,
}

impl Command {
    /// With the limits of the function's row, and no variables of the runtime's own.
    fn new(spec: &FunctionSpec, program: CString, program_file: Option<File>, arguments: Vec<CString>) -> Command {
        let (data_mib_max, memfd) = (data_mib_max(spec), spec.memfd);
        Command { program, program_file, arguments, data_mib_max, memfd, environment: Vec::new() }
    }
}

/// Makes PHP send echoed output at once, even if php.ini has it wait for more.
pub const UNBUFFERED: &str = "output_buffering=0";

/// The fork servers that a worker can have: one for each program of the platform that runs functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    Php,
    Wasm(Runner),
}

impl Server {
    pub const ALL: [Server; 3] = [Server::Php, Server::Wasm(Runner::Module), Server::Wasm(Runner::Component)];

    /// The functions that it forks, for the log.
    pub fn name(self) -> &'static str {
        match self {
            Server::Php => "php",
            Server::Wasm(Runner::Module) => "wasm",
            Server::Wasm(Runner::Component) => "components",
        }
    }

    /// True if its functions can start processes.
    pub fn starts_processes(self) -> bool {
        self == Server::Php
    }
}

/// The runtimes' programs, and their files in a folder that functions can read and only the worker writes.
pub struct Runtimes {
    php: php::Php,
    wasm: wasm::Cache,
}

impl Runtimes {
    /// Makes `folder` if it is missing; its parent must be the worker's own. All workers of a run dir share it.
    /// `programs` is the folder of the platform's programs, and so of faas-php and the others once they are built.
    pub fn new(folder: PathBuf, programs: &Path, slots: u32) -> start::Result<Runtimes> {
        let failed = || StartError::io("make the folder for the runtimes", folder.display().to_string());
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => made.map_err(failed())?,
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).map_err(failed())?;
        Ok(Runtimes { php: php::Php::new(&folder, programs)?, wasm: wasm::Cache::new(folder, programs, slots) })
    }
}

/// The command for an invocation whose module exists. `artifact` is the result of [`artifact`].
///
/// # Errors
/// The verdict to send instead, if the runtime's program is missing or does not take the module.
pub fn command(
    worker: &Worker,
    spec: &FunctionSpec,
    version: &Version,
    scratch: &Path,
    artifact: Option<&Artifact>,
) -> Result<Command> {
    match spec.runtime {
        Runtime::Php => php::command(worker, spec),
        Runtime::Wasm => wasm::command(worker, spec, version, scratch, artifact),
        Runtime::Native => Ok(native::command(spec)),
    }
}

/// The compiled form of a WASM module; `None` if wasmer runs the function, or the module is no WASM.
///
/// # Errors
/// The verdict to send instead, if the file is no module.
pub fn artifact(worker: &Worker, spec: &FunctionSpec, version: &Version) -> Result<Option<Artifact>> {
    match (spec.runtime, spec.engine) {
        (Runtime::Wasm, Engine::Auto) => wasm::artifact(worker, &spec.module, version),
        _ => Ok(None),
    }
}

/// Compiles the module of a WASM function ahead of its calls. Leaves a fault to be found again by the next call, which
/// can report it.
pub fn compile_ahead(worker: &Worker, spec: &FunctionSpec) {
    // So that no call waits for the processor because of a module that none has asked for.
    sys::lower_priority();
    let module = &spec.module;
    let version = version_of(module).and_then(|version| check_readable(worker, module).map(|()| version));
    if let (Runtime::Wasm, Ok(version)) = (spec.runtime, version) {
        let _ = wasm::compile_ahead(worker, spec, &version);
    }
}

/// The fork server that could fork the function's process. `artifact` is the result of [`artifact`].
pub fn server(spec: &FunctionSpec, artifact: Option<&Artifact>) -> Option<Server> {
    let server = match spec.runtime {
        // A right that a fork server of PHP lacks, its children lack as well.
        Runtime::Php => (!spec.memfd).then_some(Server::Php),
        Runtime::Wasm => artifact.map(Artifact::server),
        Runtime::Native => None,
    };
    server.filter(|_| spec.start == Start::Auto)
}

/// RLIMIT_DATA of a function's process. The engine of a WASM function bounds its memory itself; this bounds the engine.
pub fn data_mib_max(spec: &FunctionSpec) -> u64 {
    spec.memory_mib + if spec.runtime == Runtime::Wasm { MEMORY_FLOOR_WASM_MIB } else { MEMORY_GRACE_MIB }
}

/// The command of a fork server; `None` if its program is missing or cannot start.
pub fn server_command(worker: &Worker, server: Server) -> Option<Command> {
    let (name, found) = match server {
        Server::Php => ("faas-php", worker.runtimes.php.own.open(worker).ok()),
        Server::Wasm(runner) => (runner.program(), worker.runtimes.wasm.open(runner)),
    };
    let (program, file) = found?;
    let arguments = vec![c_string(name), c_string("serve")];
    // The sandbox sets the limit of a fork server. A WASM engine keeps images of memory in such files.
    let memfd = server != Server::Php;
    Some(Command { program, program_file: Some(file), arguments, data_mib_max: 0, memfd, environment: Vec::new() })
}

/// The program of a fork server, and the files and folders that it reads when it starts.
pub fn files_read_at_start(worker: &Worker, server: Server) -> Vec<PathBuf> {
    match server {
        Server::Php => worker.runtimes.php.own.files_read_at_start(worker),
        Server::Wasm(runner) => {
            worker.runtimes.wasm.open(runner).into_iter().map(|(program, _)| path_of(&program)).collect()
        }
    }
}

/// The version of a module that exists.
pub fn version_of(module: &Path) -> Result<Version> {
    Version::of_file(module).map_err(|error| match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => {
            Verdict::Exhausted { step: "look at a module".into(), cause: error.to_string() }
        }
        _ => missing(module, error.to_string()),
    })
}

/// Fails if the functions' user may not read the module. Code out of the registry is always readable for it.
pub fn check_readable(worker: &Worker, module: &Path) -> Result<()> {
    if worker.code_dirs.iter().any(|folder| module.starts_with(folder)) {
        return Ok(());
    }
    may_read(worker.sandbox.user.as_ref(), module).map_err(|cause| missing(module, cause))
}

fn missing(module: &Path, cause: String) -> Verdict {
    Verdict::ModuleMissing { path: module.display().to_string(), cause }
}

/// The path of a program in PATH, and the open file. Looked up for each call, so that a program installed later is
/// found without a restart.
fn find_program(name: &str, install: &str) -> Result<(CString, File)> {
    let found = folders_of_path().iter().find_map(|folder| open_program(&folder.join(name)));
    found.ok_or_else(|| Verdict::RuntimeMissing { program: name.into(), install: install.into() })
}

/// Paths at which a program of the platform can be: beside the worker's own, or in PATH. Looked up for each call, since
/// it may be built while the worker runs.
fn places_of(name: &str, programs: &Path) -> Vec<PathBuf> {
    let folders = std::iter::once(programs.to_path_buf()).chain(folders_of_path());
    folders.map(|folder| folder.join(name)).collect()
}

/// The folders in PATH.
fn folders_of_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect()
}

/// The path of an executable file for the command, and the open file.
fn open_program(path: &Path) -> Option<(CString, File)> {
    version_of_program(path)?;
    File::open(path).ok().map(|file| (c_string(path), file))
}

/// The version of the program at `path`, if one lies there.
fn version_of_program(path: &Path) -> Option<Version> {
    let metadata = fs::metadata(path).ok()?;
    let is_program = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
    is_program.then(|| Version::of(&metadata))
}

fn path_of(program: &CString) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(program.as_bytes()))
}

fn c_string(text: impl AsRef<OsStr>) -> CString {
    CString::new(text.as_ref().as_bytes()).expect("descriptors are refused when they hold a NUL")
}
