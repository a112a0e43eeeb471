//! WASM: the module is a WASI preview 1 program, for faas-wasm (runtimes/wasm) or `wasmer run`, or a component of WASI
//! 0.2, for faas-wasm-component (runtimes/wasm/component).
//!
//! Each runs a compiled module (compiled.rs), which lies in a folder that only the worker writes to.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::compiled::{Compiled, Compiler, Job, Runner, Versions};
use super::confined::Confined;
use super::{Command, Server, c_string, find_program, open_program, places_of, version_of_program};
use crate::limits::{MEMORY_FLOOR_WASM_MIB, MEMORY_GRACE_MIB};
use crate::protocol::function_spec::{Engine, FunctionSpec};
use crate::protocol::worker_protocol::Verdict;
use crate::sandbox::Sandbox;
use crate::sys;
use crate::worker::Worker;
use crate::worker::version::Version;

/// Debian does not package wasmer. These features suffice to run modules, and build in about 12 minutes.
const INSTALL_WASMER: &str =
    "cargo install wasmer-cli --version 7.4.2 --locked --no-default-features --features sys,wat,cranelift";
/// The remedy when faas-wasm is missing: start.sh builds it in the background.
const BUILD_RUNNER: &str = "./start.sh, which builds it (a few minutes; run/wasm-build.log tells)";

/// CPU time that the compilation of a module may take; one of 16 MB takes about 40 s.
const COMPILE_MAX: Duration = Duration::from_secs(120);
/// MiB that the compilation of a module may take; one of 10 MB takes about half of it.
const COMPILE_MEMORY_MIB: u64 = 1024;

/// The first bytes of a component: the magic number, version 13, layer 1. A core module has version 1, layer 0.
const COMPONENT_HEADER: &[u8] = b"\0asm\x0d\0\x01\0";

fn refused(module: &Path) -> impl FnOnce(io::Error) -> Verdict {
    move |error| Verdict::ModuleNotExecutable { path: module.display().to_string(), cause: error.to_string() }
}

/// A module compiled for a program of the platform.
pub struct Artifact {
    pub path: PathBuf,
    runner: Runner,
}

impl Artifact {
    /// The fork server of the program that runs it.
    pub fn server(&self) -> Server {
        Server::Wasm(self.runner)
    }
}

/// The module compiled for the program that runs it; `None` if faas-wasm is missing.
pub fn artifact(worker: &Worker, module: &Path, version: &Version) -> std::result::Result<Option<Artifact>, Verdict> {
    let cache = &worker.runtimes.wasm;
    // Each is compiled for one of the programs, so most calls need not read the header.
    for runner in [Runner::Module, Runner::Component] {
        let path = cache.versions(version, runner).and_then(|versions| cache.compiled.find(versions));
        if let Some(path) = path {
            return Ok(Some(Artifact { path, runner }));
        }
    }
    let Some((runner, versions)) = own_runner(cache, module, version)? else { return Ok(None) };
    let path = cache.compiled.get(module, versions, Compiler::Own(runner))?;
    Ok(Some(Artifact { path, runner }))
}

/// The program of the platform that runs a module, and the versions of both; `None` if faas-wasm is missing.
fn own_runner(
    cache: &Cache,
    module: &Path,
    version: &Version,
) -> std::result::Result<Option<(Runner, Versions)>, Verdict> {
    let Some(versions) = cache.versions(version, Runner::Module) else { return Ok(None) };
    if !is_component(module).map_err(refused(module))? {
        return Ok(Some((Runner::Module, versions)));
    }
    let versions = cache.versions(version, Runner::Component).ok_or_else(|| missing(Runner::Component))?;
    Ok(Some((Runner::Component, versions)))
}

/// Compiles a module for the program that a call would run it with.
pub fn compile_ahead(worker: &Worker, spec: &FunctionSpec, version: &Version) -> std::result::Result<(), Verdict> {
    let (cache, module) = (&worker.runtimes.wasm, &spec.module);
    let own = match spec.engine {
        Engine::Auto => own_runner(cache, module, version)?,
        Engine::Wasmer => None,
    };
    let (versions, compiler) = match own {
        Some((runner, versions)) => (versions, Compiler::Own(runner)),
        None => (wasmer(module, version)?.1, Compiler::Wasmer),
    };
    cache.compiled.compile_ahead(module, versions, compiler, |job, target| run_compiler(worker, job, target));
    Ok(())
}

/// wasmer's path for the command, and the open file.
type Program = (CString, File);

/// wasmer, and the versions of it and a module.
fn wasmer(module: &Path, version: &Version) -> std::result::Result<(Program, Versions), Verdict> {
    let (path, file) = find_program("wasmer", INSTALL_WASMER)?;
    let engine = file.metadata().map(|metadata| Version::of(&metadata)).map_err(refused(module))?;
    Ok(((path, file), Versions { module: *version, engine }))
}

/// True if a module's header is that of a component (component model, Binary.md).
fn is_component(module: &Path) -> io::Result<bool> {
    let mut header = Vec::with_capacity(COMPONENT_HEADER.len());
    sys::open_regular(module)?.take(COMPONENT_HEADER.len() as u64).read_to_end(&mut header)?;
    Ok(header == COMPONENT_HEADER)
}

fn missing(runner: Runner) -> Verdict {
    Verdict::RuntimeMissing { program: runner.program().into(), install: BUILD_RUNNER.into() }
}

/// `artifact` is the module compiled for a program of the platform, if one runs it.
pub fn command(
    worker: &Worker,
    spec: &FunctionSpec,
    version: &Version,
    scratch: &Path,
    artifact: Option<&Artifact>,
) -> std::result::Result<Command, Verdict> {
    if let Some(artifact) = artifact
        && let Some(program) = worker.runtimes.wasm.open(artifact.runner)
    {
        return Ok(own_command(program, spec, artifact));
    }
    let module = &spec.module;
    let ((program, file), versions) = match wasmer(module, version) {
        Err(Verdict::RuntimeMissing { .. }) if spec.engine == Engine::Auto => {
            return Err(missing(artifact.map_or(Runner::Module, |artifact| artifact.runner)));
        }
        found => found?,
    };
    let compiled = worker.runtimes.wasm.compiled.get(module, versions, Compiler::Wasmer)?;
    // The environment of the wasmer process is the one made for the function, so all of it is forwarded.
    let mut arguments = ["wasmer", "run", "--quiet", "--forward-host-env"].map(c_string).to_vec();
    arguments.extend(spec.dirs.iter().map(|(name, path)| c_string(format!("--volume={}:{name}", path.display()))));
    arguments.push(c_string(compiled));
    if !spec.args.is_empty() {
        arguments.push(c_string("--"));
        arguments.extend(spec.args.iter().map(c_string));
    }
    let data_mib_max = spec.memory_mib.max(MEMORY_FLOOR_WASM_MIB) + MEMORY_GRACE_MIB;
    let environment = vec![wasmer_dir(scratch)];
    Ok(Command { data_mib_max, memfd: true, environment, ..Command::new(spec, program, Some(file), arguments) })
}

/// A program of the platform: `run`, with the settings that a forked process would get.
fn own_command((program, file): Program, spec: &FunctionSpec, artifact: &Artifact) -> Command {
    let mut arguments = [artifact.runner.program(), "run"].map(c_string).to_vec();
    arguments.extend([c_string("--memory-mib"), c_string(spec.memory_mib.to_string())]);
    arguments.extend([c_string("--net"), c_string(if spec.net { "1" } else { "0" })]);
    arguments.extend([c_string("--artifact"), c_string(&artifact.path)]);
    if !spec.handler.is_empty() {
        arguments.extend([c_string("--handler"), c_string(&spec.handler)]);
    }
    for (name, path) in &spec.dirs {
        arguments.extend([c_string("--dir"), c_string(format!("{name}={}", path.display()))]);
    }
    arguments.push(c_string(&spec.module));
    arguments.extend(spec.args.iter().map(c_string));
    Command { memfd: true, ..Command::new(spec, program, Some(file), arguments) }
}

/// Compiled modules, and the programs that compile and run them.
pub struct Cache {
    compiled: Compiled,
    /// Paths at which faas-wasm and faas-wasm-component can be. Looked up for each call, since they may be built while
    /// the worker runs.
    modules: Vec<PathBuf>,
    components: Vec<PathBuf>,
}

impl Cache {
    pub fn new(folder: PathBuf, programs: &Path, slots: u32) -> Cache {
        let places = |runner: Runner| places_of(runner.program(), programs);
        let (modules, components) = (places(Runner::Module), places(Runner::Component));
        Cache { compiled: Compiled::new(folder, slots), modules, components }
    }

    /// The path of a program for the command, and the open file.
    pub fn open(&self, runner: Runner) -> Option<Program> {
        self.places(runner).iter().find_map(|path| open_program(path))
    }

    /// The versions of a module and of the program that runs it; `None` if the program is missing.
    fn versions(&self, module: &Version, runner: Runner) -> Option<Versions> {
        let engine = self.places(runner).iter().find_map(|path| version_of_program(path))?;
        Some(Versions { module: *module, engine })
    }

    fn places(&self, runner: Runner) -> &[PathBuf] {
        match runner {
            Runner::Module => &self.modules,
            Runner::Component => &self.components,
        }
    }
}

impl Runner {
    pub fn program(self) -> &'static str {
        match self {
            Runner::Module => "faas-wasm",
            Runner::Component => "faas-wasm-component",
        }
    }
}

/// The life of a thread that compiles modules.
pub fn compile_modules(worker: &Worker) {
    worker.runtimes.wasm.compiled.work(|job, target| run_compiler(worker, job, target))
}

fn run_compiler(worker: &Worker, job: &Job, target: &Path) -> io::Result<()> {
    match job.compiler {
        Compiler::Own(runner) => {
            let program = worker.runtimes.wasm.open(runner);
            let program = program.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
            compile(&worker.sandbox, runner, program, job, target)
        }
        Compiler::Wasmer => {
            let wasmer = find_program("wasmer", "").map_err(|_| io::Error::from_raw_os_error(libc::ENOENT))?;
            let scratch = worker.scratch_area.take(worker.sandbox.user.as_ref(), None)?;
            compile_for_wasmer(&worker.sandbox, wasmer, &job.module, scratch.path(), target)
        }
    }
}

/// Has a program of the platform compile a module: it reads its stdin, writes its stdout, and may do nothing else. A
/// compiler is a large program that reads a stranger's file, so it is confined like a function.
///
/// # Errors
/// Also if the module is no longer of the version that the result is named after, or changes meanwhile.
fn compile(sandbox: &Sandbox, runner: Runner, program: Program, job: &Job, target: &Path) -> io::Result<()> {
    let source = sys::open_regular(&job.module)?;
    is_of_version(job, &source)?;
    let result = File::create(target)?;
    let compiler = Confined {
        program,
        arguments: &[runner.program(), "compile"].map(c_string),
        environment: &[],
        scratch: None,
        stdin: source.as_fd(),
        stdout: result.as_fd(),
        memory_mib: COMPILE_MEMORY_MIB,
        time_max: COMPILE_MAX,
    };
    compiler.run(sandbox)?;
    is_of_version(job, &source)
}

fn is_of_version(job: &Job, source: &File) -> io::Result<()> {
    match Version::of_open_file(source)? == job.version {
        true => Ok(()),
        false => Err(io::Error::new(ErrorKind::ResourceBusy, "the module has changed meanwhile")),
    }
}

/// Has wasmer compile a module. It writes to paths only, so it writes into a scratch folder.
fn compile_for_wasmer(
    sandbox: &Sandbox,
    wasmer: Program,
    module: &Path,
    scratch: &Path,
    target: &Path,
) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let result = scratch.join("compiled");
    let environment = wasmer_dir(scratch);
    let arguments = [c_string("wasmer"), c_string("compile"), c_string("--quiet"), c_string("-o")];
    let arguments = [&arguments[..], &[c_string(&result), c_string(module)]].concat();
    let compiler = Confined {
        program: wasmer,
        arguments: &arguments,
        environment: environment.as_bytes_with_nul(),
        scratch: Some(scratch),
        stdin: null.as_fd(),
        stdout: null.as_fd(),
        memory_mib: COMPILE_MEMORY_MIB,
        time_max: COMPILE_MAX,
    };
    compiler.run(sandbox)?;
    // A compiler that was taken over could have left a link there, or a pipe.
    let mut options = File::options();
    let options = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let mut compiled = options.open(&result)?;
    if !compiled.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut target = File::create(target)?;
    io::copy(&mut compiled, &mut target)?;
    fs::remove_file(&result)
}

/// The folder of wasmer's settings. wasmer does not start without a folder that it can write to.
fn wasmer_dir(scratch: &Path) -> CString {
    c_string(format!("WASMER_DIR={}", scratch.display()))
}
