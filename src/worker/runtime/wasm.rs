//! WASM: the module is a WASI preview 1 program, for faas-wasm (runtimes/wasm) or `wasmer run`.
//!
//! Either is given the module compiled. That happens once per version of module and engine, into a folder that only we
//! write to, and functions run the result.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::{Command, c_string, find_program, folders_of_path, open_program};
use crate::error::{Error, Result};
use crate::limits::{
    COMPILE_MAX, COMPILE_MEMORY_MIB, COMPILE_SAYS_BYTES_MAX, KILL_WAIT_MAX, MEMORY_FLOOR_WASM_MIB, MEMORY_GRACE_MIB,
    WASM_CACHE_MAX,
};
use crate::protocol::function_spec::{Engine, FunctionSpec};
use crate::protocol::worker_protocol::Verdict;
use crate::sandbox::Sandbox;
use crate::sys::{self, EndedHow, Spawn, Watched};
use crate::worker::Worker;
use crate::worker::fork_servers::{Key, Version};

/// Debian does not package wasmer; these features are enough to run modules, and build in about 12 minutes.
const INSTALL_WASMER: &str =
    "cargo install wasmer-cli --version 7.4.2 --locked --no-default-features --features sys,wat,cranelift";
/// What start.sh does in the background.
const BUILD_RUNNER: &str = "./start.sh, which builds it (a few minutes; run/wasm-build.log tells)";

pub(super) fn command(worker: &Worker, spec: &FunctionSpec, scratch: &Path) -> std::result::Result<Command, Verdict> {
    let module = &spec.module;
    let refused =
        |error: Error| Verdict::ModuleNotExecutable { path: module.display().to_string(), cause: error.to_string() };
    if spec.engine == Engine::Auto
        && let Some((program, file)) = worker.runtimes.wasm.open_runner()
    {
        let version = Version::of_path(module);
        let compiled = worker
            .runtimes
            .wasm
            .get(&program_path(&program), module, version, |runner, target| {
                compile(&worker.sandbox, runner, module, target)
            })
            .map_err(refused)?;
        let (handler, dirs) = (&spec.handler, &spec.dirs);
        return Ok(runner_command("run", (program, file), spec.memory_mib, handler, dirs, &compiled, module));
    }
    let (program, file) = match find_program("wasmer", INSTALL_WASMER) {
        Err(_) if spec.engine == Engine::Auto => {
            return Err(Verdict::RuntimeMissing { program: "faas-wasm".into(), install: BUILD_RUNNER.into() });
        }
        found => found?,
    };
    let version = Version::of_path(module);
    let compiled = worker.runtimes.wasm.get(&program_path(&program), module, version, |wasmer, target| {
        compile_for_wasmer(&worker.sandbox, wasmer, module, scratch, target)
    });
    // The environment of the wasmer process is the one that we make for the function, hence it is forwarded whole.
    let arguments = ["wasmer", "run", "--quiet", "--forward-host-env"].map(c_string).into_iter();
    let dirs = spec.dirs.iter().map(|(name, path)| c_string(format!("--volume={}:{name}", path.display())));
    Ok(Command {
        program,
        program_file: Some(file),
        arguments: arguments.chain(dirs).chain([c_string(compiled.map_err(refused)?)]).collect(),
        data_mib_max: spec.memory_mib.max(MEMORY_FLOOR_WASM_MIB) + MEMORY_GRACE_MIB,
        environment: vec![wasmer_dir(scratch)],
    })
}

/// Only faas-wasm forks.
pub(super) fn can_fork(spec: &FunctionSpec) -> bool {
    spec.engine == Engine::Auto
}

pub(super) fn is_built(cache: &Cache) -> bool {
    cache.runners.iter().any(|path| path.exists())
}

pub(super) fn server_command(cache: &Cache, sandbox: &Sandbox, key: &Key) -> std::result::Result<Command, String> {
    let (program, file) = cache.open_runner().ok_or("faas-wasm is not there")?;
    let compiled = cache.get(&program_path(&program), &key.module, Some(key.version), |runner, target| {
        compile(sandbox, runner, &key.module, target)
    });
    let compiled = compiled.map_err(|error| error.to_string())?;
    Ok(runner_command("serve", (program, file), key.memory_mib, &key.handler, &key.dirs, &compiled, &key.module))
}

fn runner_command(
    what: &str,
    (program, file): (CString, File),
    memory_mib: u64,
    handler: &str,
    dirs: &[(String, PathBuf)],
    compiled: &Path,
    module: &Path,
) -> Command {
    let mut arguments = vec!["faas-wasm".to_string(), what.into(), "--memory-mib".into(), memory_mib.to_string()];
    if !handler.is_empty() {
        arguments.extend(["--handler".into(), handler.into()]);
    }
    for (name, path) in dirs {
        arguments.extend(["--dir".into(), format!("{name}={}", path.display())]);
    }
    let arguments = arguments.into_iter().map(c_string).chain([c_string(compiled), c_string(module)]).collect();
    // The engine bounds the function's memory itself; this bounds the engine.
    let data_mib_max = memory_mib + MEMORY_FLOOR_WASM_MIB;
    Command { program, program_file: Some(file), arguments, data_mib_max, environment: Vec::new() }
}

fn program_path(program: &CStr) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(program.to_bytes()))
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
        let folders = std::iter::once(programs.to_path_buf()).chain(folders_of_path());
        let runners = folders.map(|folder| folder.join("faas-wasm")).collect();
        Cache { folder, runners, compiling: Mutex::new(()) }
    }

    fn open_runner(&self) -> Option<(CString, File)> {
        self.runners.iter().find_map(|path| open_program(path))
    }

    /// Where the compiled version of a module is. Where there is none, `compile` makes it: by the engine's program (first) into a
    /// file (second).
    fn get(
        &self,
        engine: &Path,
        module: &Path,
        version: Option<Version>,
        compile: impl FnOnce(&Path, &Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let failed = |step| Error::io(step, module.display().to_string());
        let gone = || failed("look at")(std::io::ErrorKind::NotFound.into());
        let (module_version, engine_version) = version.zip(Version::of_path(engine)).ok_or_else(gone)?;
        let compiled = self.folder.join(format!("{module_version}-{engine_version}.compiled"));
        if compiled.exists() {
            return Ok(compiled);
        }
        let _compiling = self.compiling.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !compiled.exists() {
            self.make_room();
            let unfinished = self.folder.join(format!("unfinished-{}", std::process::id()));
            compile(engine, &unfinished)?;
            let readable = fs::Permissions::from_mode(0o644);
            fs::set_permissions(&unfinished, readable).map_err(failed("make readable the compiled"))?;
            fs::rename(&unfinished, &compiled).map_err(failed("put into its place the compiled"))?;
        }
        Ok(compiled)
    }

    /// Removes the oldest results where there are too many. One that is in use stays readable until it is closed.
    fn make_room(&self) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let entries = entries.filter(|entry| entry.path().extension().is_some_and(|word| word == "compiled"));
        let mut files: Vec<_> = entries.filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path()))).collect();
        files.sort();
        let surplus = (files.len() + 1).saturating_sub(WASM_CACHE_MAX);
        for (_, path) in files.into_iter().take(surplus) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Has faas-wasm compile a module: it reads its stdin, writes its stdout, and may do nothing else.
fn compile(sandbox: &Sandbox, runner: &Path, module: &Path, target: &Path) -> Result<()> {
    let failed = || Error::io("compile the module", module.display().to_string());
    let source = File::open(module).map_err(failed())?;
    let result = File::create(target).map_err(failed())?;
    let arguments = ["faas-wasm", "compile"].map(c_string);
    run_compiler(sandbox, runner, module, &arguments, None, [source.as_fd(), result.as_fd()])
}

/// Has wasmer compile a module. It writes to paths only, so it does that in the scratch folder of the invocation that waits.
fn compile_for_wasmer(sandbox: &Sandbox, wasmer: &Path, module: &Path, scratch: &Path, target: &Path) -> Result<()> {
    let failed = || Error::io("compile the module", module.display().to_string());
    let null = File::options().read(true).write(true).open("/dev/null").map_err(failed())?;
    let result = scratch.join("compiled");
    let arguments = [c_string("wasmer"), c_string("compile"), c_string("--quiet"), c_string("-o")];
    let arguments = [&arguments[..], &[c_string(&result), c_string(module)]].concat();
    run_compiler(sandbox, wasmer, module, &arguments, Some(scratch), [null.as_fd(), null.as_fd()])?;
    // What a compiler that was taken over has left there could be a link, or a pipe.
    let mut options = File::options();
    let options = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let mut compiled = options.open(&result).map_err(failed())?;
    if !compiled.metadata().map_err(failed())?.is_file() {
        return Err(failed()(std::io::ErrorKind::InvalidData.into()));
    }
    let mut target = File::create(target).map_err(failed())?;
    std::io::copy(&mut compiled, &mut target).map_err(failed())?;
    fs::remove_file(&result).map_err(failed())
}

/// Where wasmer keeps its settings; it does not start without a folder that it can write to.
fn wasmer_dir(scratch: &Path) -> CString {
    c_string(format!("WASMER_DIR={}", scratch.display()))
}

/// A compiler is a large program that reads what somebody has made, so it is confined as a function is: it writes to `scratch`,
/// where it has one, and to its stdout.
fn run_compiler(
    sandbox: &Sandbox,
    program: &Path,
    module: &Path,
    arguments: &[CString],
    scratch: Option<&Path>,
    [stdin, stdout]: [BorrowedFd<'_>; 2],
) -> Result<()> {
    let failed = || Error::io("compile the module", module.display().to_string());
    let (mut says, said) = std::io::pipe().map_err(failed())?;
    let (program, file) = open_program(program).ok_or_else(|| failed()(std::io::ErrorKind::NotFound.into()))?;
    let ruleset = sandbox.ruleset(scratch, &[], true).map_err(failed())?;
    let readable = sandbox.readable().map_err(failed())?;
    let environment = scratch.map(wasmer_dir);
    let spawned = sys::spawn(&Spawn {
        program: &program,
        arguments,
        environment: environment.as_ref().map_or(&[], |pair| pair.as_bytes_with_nul()),
        folder: Some(c"/"),
        stdin,
        stdout,
        stderr: said.as_fd(),
        control: None,
        confinement: Some(sandbox.confinement(
            Some(&file),
            COMPILE_MEMORY_MIB,
            false,
            [ruleset.as_ref().map(AsFd::as_fd), readable.as_ref().map(|it| it.landlock.as_fd())],
        )),
    })
    .map_err(|error| failed()(error.cause))?;
    drop(said);
    let in_time = sys::poll(&mut [Watched::read(spawned.pidfd.as_fd())], Some(COMPILE_MAX)).map_err(failed())? > 0;
    if !in_time {
        sys::kill_process(spawned.pidfd.as_fd());
        let _ = sys::poll(&mut [Watched::read(spawned.pidfd.as_fd())], Some(KILL_WAIT_MAX));
    }
    let ended = sys::reap(spawned.pid).map_err(failed())?;
    match ended.map(|ended| ended.how) {
        Some(EndedHow::Exited(0)) => Ok(()),
        _ if !in_time => Err(failed()(std::io::ErrorKind::TimedOut.into())),
        how => {
            // It has ended, so what it said is all there.
            let mut text = String::new();
            let _ = says.by_ref().take(COMPILE_SAYS_BYTES_MAX).read_to_string(&mut text);
            Err(failed()(std::io::Error::other(match one_line(&text) {
                text if text.is_empty() => format!("the compiler ended with {how:?}"),
                text => text,
            })))
        }
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
