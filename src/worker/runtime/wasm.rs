//! WASM: the module is a WASI preview 1 program, for faas-wasm (runtimes/wasm) or `wasmer run`.
//!
//! Both run a compiled module (compiled.rs), which lies in a folder that only the worker writes to.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::compiled::{Compiled, Compiler};
use super::confined::Confined;
use super::{Command, c_string, data_mib_max, find_program, open_program, places_of, version_of_program};
use crate::limits::{MEMORY_FLOOR_WASM_MIB, MEMORY_GRACE_MIB};
use crate::protocol::function_spec::{Engine, FunctionSpec};
use crate::protocol::worker_protocol::Verdict;
use crate::sandbox::Sandbox;
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

fn refused(module: &Path) -> impl FnOnce(io::Error) -> Verdict {
    move |error| Verdict::ModuleNotExecutable { path: module.display().to_string(), cause: error.to_string() }
}

/// The module compiled for faas-wasm; `None` if that is missing.
pub fn artifact(worker: &Worker, module: &Path, version: &Version) -> std::result::Result<Option<PathBuf>, Verdict> {
    let cache = &worker.runtimes.wasm;
    let Some(engine) = cache.runners.iter().find_map(|path| version_of_program(path)) else { return Ok(None) };
    cache.compiled.get(module, &format!("{version}-{engine}"), Compiler::Own).map(Some)
}

/// `artifact` is the module compiled for faas-wasm, if that runs it.
pub fn command(
    worker: &Worker,
    spec: &FunctionSpec,
    version: &Version,
    scratch: &Path,
    artifact: Option<&Path>,
) -> std::result::Result<Command, Verdict> {
    if let Some(artifact) = artifact
        && let Some(program) = worker.runtimes.wasm.open()
    {
        return Ok(own_command(program, spec, artifact));
    }
    let module = &spec.module;
    let wasmer = match find_program("wasmer", INSTALL_WASMER) {
        Err(_) if spec.engine == Engine::Auto => {
            return Err(Verdict::RuntimeMissing { program: "faas-wasm".into(), install: BUILD_RUNNER.into() });
        }
        found => found?,
    };
    let (program, file) = wasmer;
    let engine = file.metadata().map(|metadata| Version::of(&metadata)).map_err(refused(module))?;
    let compiled = worker.runtimes.wasm.compiled.get(module, &format!("{version}-{engine}"), Compiler::Wasmer)?;
    // The environment of the wasmer process is the one made for the function, so all of it is forwarded.
    let mut arguments = ["wasmer", "run", "--quiet", "--forward-host-env"].map(c_string).to_vec();
    arguments.extend(spec.dirs.iter().map(|(name, path)| c_string(format!("--volume={}:{name}", path.display()))));
    arguments.push(c_string(compiled));
    if !spec.args.is_empty() {
        arguments.push(c_string("--"));
        arguments.extend(spec.args.iter().map(c_string));
    }
    Ok(Command {
        program,
        program_file: Some(file),
        arguments,
        data_mib_max: spec.memory_mib.max(MEMORY_FLOOR_WASM_MIB) + MEMORY_GRACE_MIB,
        memfd: true,
        environment: vec![wasmer_dir(scratch)],
    })
}

/// faas-wasm: `run`, with the settings that a forked process would get.
fn own_command((program, file): (CString, File), spec: &FunctionSpec, artifact: &Path) -> Command {
    let mut arguments = ["faas-wasm", "run"].map(c_string).to_vec();
    arguments.extend([c_string("--memory-mib"), c_string(spec.memory_mib.to_string())]);
    arguments.extend([c_string("--net"), c_string(if spec.net { "1" } else { "0" })]);
    arguments.extend([c_string("--artifact"), c_string(artifact)]);
    if !spec.handler.is_empty() {
        arguments.extend([c_string("--handler"), c_string(&spec.handler)]);
    }
    for (name, path) in &spec.dirs {
        arguments.extend([c_string("--dir"), c_string(format!("{name}={}", path.display()))]);
    }
    arguments.push(c_string(&spec.module));
    arguments.extend(spec.args.iter().map(c_string));
    let data_mib_max = data_mib_max(spec);
    Command { program, program_file: Some(file), arguments, data_mib_max, memfd: true, environment: Vec::new() }
}

/// Compiled modules, and the program that compiles and runs them.
pub struct Cache {
    compiled: Compiled,
    /// Paths at which faas-wasm can be. Looked up for each call, since it may be built while the worker runs.
    runners: Vec<PathBuf>,
}

impl Cache {
    pub fn new(folder: PathBuf, programs: &Path, slots: u32) -> Cache {
        Cache { compiled: Compiled::new(folder, slots), runners: places_of("faas-wasm", programs) }
    }

    /// The path of faas-wasm for the command, and the open file.
    pub fn open(&self) -> Option<(CString, File)> {
        self.runners.iter().find_map(|path| open_program(path))
    }
}

/// The life of a thread that compiles modules.
pub fn compile_modules(worker: &Worker) {
    let cache = &worker.runtimes.wasm;
    cache.compiled.work(|job, target| match job.compiler {
        Compiler::Own => {
            let runner = cache.open().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
            compile(&worker.sandbox, runner, &job.module, target)
        }
        Compiler::Wasmer => {
            let wasmer = find_program("wasmer", "").map_err(|_| io::Error::from_raw_os_error(libc::ENOENT))?;
            let scratch = worker.scratch_area.take(worker.sandbox.user.as_ref())?;
            compile_for_wasmer(&worker.sandbox, wasmer, &job.module, scratch.path(), target)
        }
    })
}

/// Has faas-wasm compile a module: it reads its stdin, writes its stdout, and may do nothing else. A compiler is a
/// large program that reads a stranger's file, so it is confined like a function.
fn compile(sandbox: &Sandbox, runner: (CString, File), module: &Path, target: &Path) -> io::Result<()> {
    let source = File::open(module)?;
    let result = File::create(target)?;
    let compiler = Confined {
        program: runner,
        arguments: &["faas-wasm", "compile"].map(c_string),
        environment: &[],
        scratch: None,
        stdin: source.as_fd(),
        stdout: result.as_fd(),
        memory_mib: COMPILE_MEMORY_MIB,
        time_max: COMPILE_MAX,
    };
    compiler.run(sandbox)
}

/// Has wasmer compile a module. It writes to paths only, so it writes into a scratch folder.
fn compile_for_wasmer(
    sandbox: &Sandbox,
    wasmer: (CString, File),
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
