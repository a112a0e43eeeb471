//! WASM: the module is a WASI preview 1 program, for faas-wasm (runtimes/wasm) or `wasmer run`.
//!
//! Either is given the module compiled. That happens once per version of module and engine, into a folder that only we
//! write to, and functions run the result.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use super::confined::Confined;
use super::{Command, c_string, data_mib_max, find_program, open_program, path_of, places_of};
use crate::limits::{MEMORY_FLOOR_WASM_MIB, MEMORY_GRACE_MIB};
use crate::protocol::function_spec::{Engine, FunctionSpec};
use crate::protocol::worker_protocol::Verdict;
use crate::sandbox::Sandbox;
use crate::worker::Worker;
use crate::worker::version::Version;

/// Debian does not package wasmer; these features are enough to run modules, and build in about 12 minutes.
const INSTALL_WASMER: &str =
    "cargo install wasmer-cli --version 7.4.2 --locked --no-default-features --features sys,wat,cranelift";
/// What start.sh does in the background.
const BUILD_RUNNER: &str = "./start.sh, which builds it (a few minutes; run/wasm-build.log tells)";

/// How long the compilation of a module may take; one of 10 MB takes about 10 s.
const COMPILE_MAX: Duration = Duration::from_secs(60);
/// MiB that the compilation of a module may take; one of 10 MB takes about half of it.
const COMPILE_MEMORY_MIB: u64 = 1024;
/// Compiled modules that are kept; the oldest goes first.
const COMPILED_MAX: usize = 256;

fn refused(module: &Path) -> impl FnOnce(io::Error) -> Verdict {
    move |error| Verdict::ModuleNotExecutable { path: module.display().to_string(), cause: error.to_string() }
}

/// The module compiled for faas-wasm; `None` where that is not there.
pub fn artifact(worker: &Worker, module: &Path) -> std::result::Result<Option<PathBuf>, Verdict> {
    let cache = &worker.runtimes.wasm;
    let Some(runner) = cache.open() else { return Ok(None) };
    let engine = path_of(&runner.0);
    let compile = |target: &Path| compile(&worker.sandbox, runner, module, target);
    cache.get(&engine, module, compile).map(Some).map_err(refused(module))
}

/// `artifact` is the module compiled for faas-wasm, where that runs it.
pub fn command(
    worker: &Worker,
    spec: &FunctionSpec,
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
    let engine = path_of(&wasmer.0);
    let (program, file) = find_program("wasmer", INSTALL_WASMER)?;
    let compile = |target: &Path| compile_for_wasmer(&worker.sandbox, wasmer, module, scratch, target);
    let compiled = worker.runtimes.wasm.get(&engine, module, compile).map_err(refused(module))?;
    // The environment of the wasmer process is the one that we make for the function, hence it is forwarded whole.
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

/// faas-wasm: `run`, with what a forked process would get as settings.
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
    folder: PathBuf,
    /// Where faas-wasm can be. It is looked for in each call, since it may be built while we run.
    runners: Vec<PathBuf>,
    /// Held while this worker compiles a module, so that a burst of first calls compiles it once. The calls that wait
    /// meanwhile would have to wait for the result anyway.
    compiling: Mutex<()>,
}

impl Cache {
    pub fn new(folder: PathBuf, programs: &Path) -> Cache {
        Cache { folder, runners: places_of("faas-wasm", programs), compiling: Mutex::new(()) }
    }

    /// faas-wasm, as commands name it, and open.
    pub fn open(&self) -> Option<(CString, File)> {
        self.runners.iter().find_map(|path| open_program(path))
    }

    /// Where the compiled version of a module is. Where there is none, `compile` makes it, into the file that it is given.
    fn get(&self, engine: &Path, module: &Path, compile: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<PathBuf> {
        let versions = Version::of_path(module).zip(Version::of_path(engine));
        let (module_version, engine_version) = versions.ok_or(io::ErrorKind::NotFound)?;
        let compiled = self.folder.join(format!("{module_version}-{engine_version}.compiled"));
        if compiled.exists() {
            return Ok(compiled);
        }
        let _compiling = self.compiling.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !compiled.exists() {
            self.make_room();
            let unfinished = self.folder.join(format!("unfinished-{}", std::process::id()));
            compile(&unfinished)?;
            let readable = fs::Permissions::from_mode(0o644);
            fs::set_permissions(&unfinished, readable)?;
            fs::rename(&unfinished, &compiled)?;
        }
        Ok(compiled)
    }

    /// Removes the oldest results where there are too many. One that is in use stays readable until it is closed.
    fn make_room(&self) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let entries = entries.filter(|entry| entry.path().extension().is_some_and(|word| word == "compiled"));
        let mut files: Vec<_> = entries.filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path()))).collect();
        files.sort();
        let surplus = (files.len() + 1).saturating_sub(COMPILED_MAX);
        for (_, path) in files.into_iter().take(surplus) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Has faas-wasm compile a module: it reads its stdin, writes its stdout, and may do nothing else. A compiler is a large program
/// that reads what somebody has made, so it is confined as a function is.
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

/// Has wasmer compile a module. It writes to paths only, so it does that in the scratch folder of the invocation that waits.
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
    // What a compiler that was taken over has left there could be a link, or a pipe.
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

/// Where wasmer keeps its settings; it does not start without a folder that it can write to.
fn wasmer_dir(scratch: &Path) -> CString {
    c_string(format!("WASMER_DIR={}", scratch.display()))
}
