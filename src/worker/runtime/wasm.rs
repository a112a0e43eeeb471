//! WASM: the module is a WASI preview 1 program for `wasmer run`.
//!
//! wasmer would compile the module in each invocation anew, or keep its own cache where functions could write to it. So
//! the worker has it compiled once per version of the module, into a folder that only we write to, and functions run the
//! result. A version is the file's device, inode, size and time of change.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{Command, c_string, find_program};
use crate::error::{Error, Result};
use crate::limits::{COMPILE_MAX, MEMORY_FLOOR_WASM_MIB, MEMORY_GRACE_MIB, WASM_CACHE_MAX};
use crate::protocol::worker_protocol::{Invocation, Verdict};
use crate::worker::Worker;

/// Debian does not package wasmer; these features are enough to run modules, and build in about 12 minutes.
const INSTALL: &str =
    "cargo install wasmer-cli --version 7.4.2 --locked --no-default-features --features sys,wat,cranelift";

pub(super) fn command(
    worker: &Worker,
    invocation: &Invocation,
    scratch: &Path,
) -> std::result::Result<Command, Verdict> {
    let (program, file) = find_program("wasmer", INSTALL)?;
    let module = &invocation.module;
    let compiled = worker.wasm_cache.get(Path::new(&*program.to_string_lossy()), module).map_err(|error| {
        Verdict::ModuleNotExecutable { path: module.display().to_string(), cause: error.to_string() }
    })?;
    // The environment of the wasmer process is the one that we make for the function, hence it is forwarded whole.
    let arguments = ["wasmer", "run", "--quiet", "--forward-host-env"].map(c_string).into_iter();
    Ok(Command {
        program,
        program_file: Some(file),
        arguments: arguments.chain([c_string(compiled)]).collect(),
        data_mib_max: invocation.memory_mib.max(MEMORY_FLOOR_WASM_MIB) + MEMORY_GRACE_MIB,
        // Where wasmer keeps its settings; it does not start without a folder that it can write to.
        environment: vec![c_string(format!("WASMER_DIR={}", scratch.display()))],
    })
}

/// Compiled modules, shared by all workers of a run dir.
pub struct Cache {
    folder: PathBuf,
    /// Held while this worker compiles a module, so that a burst of first calls compiles it once. The calls that wait
    /// meanwhile would have to wait for the result anyway.
    compiling: Mutex<()>,
}

impl Cache {
    /// `folder` is made where it is missing; its parent must be ours.
    pub fn new(folder: PathBuf) -> Result<Cache> {
        let failed = || Error::io("make the folder for compiled modules", folder.display().to_string());
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => made.map_err(failed())?,
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).map_err(failed())?;
        Ok(Cache { folder, compiling: Mutex::new(()) })
    }

    /// Where the compiled version of a module is; compiles it first where there is none.
    fn get(&self, wasmer: &Path, module: &Path) -> Result<PathBuf> {
        let failed = |step| Error::io(step, module.display().to_string());
        let version = |path: &Path| {
            let found = fs::metadata(path)?;
            Ok(format!(
                "{:x}-{:x}-{:x}-{:x}-{:x}",
                found.dev(),
                found.ino(),
                found.size(),
                found.mtime(),
                found.mtime_nsec()
            ))
        };
        let versions = version(module).and_then(|module| version(wasmer).map(|wasmer| format!("{module}-{wasmer}")));
        let compiled = self.folder.join(format!("{}.wasmu", versions.map_err(failed("look at"))?));
        if compiled.exists() {
            return Ok(compiled);
        }
        let _compiling = self.compiling.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !compiled.exists() {
            self.make_room();
            let unfinished = self.folder.join(format!("unfinished-{}", std::process::id()));
            compile(wasmer, module, &unfinished)?;
            let readable = fs::Permissions::from_mode(0o644);
            fs::set_permissions(&unfinished, readable).map_err(failed("make readable the compiled"))?;
            fs::rename(&unfinished, &compiled).map_err(failed("put into its place the compiled"))?;
        }
        Ok(compiled)
    }

    /// Removes the oldest results where there are too many. One that is in use stays readable until it is closed.
    fn make_room(&self) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut files: Vec<_> = entries.filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path()))).collect();
        files.sort();
        let surplus = (files.len() + 1).saturating_sub(WASM_CACHE_MAX);
        for (_, path) in files.into_iter().take(surplus) {
            let _ = fs::remove_file(path);
        }
    }
}

fn compile(wasmer: &Path, module: &Path, target: &Path) -> Result<()> {
    let failed = || Error::io("compile the module", module.display().to_string());
    let child = Program::new(wasmer)
        .args(["compile", "--quiet", "-o"])
        .args([target, module])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(failed())?;
    let deadline = Instant::now() + COMPILE_MAX;
    // What it says fits into the pipe, or is cut off by its end: it is read after that.
    loop {
        if let Some(status) = child.try_wait().map_err(failed())? {
            if status.success() {
                return Ok(());
            }
            let mut said = String::new();
            let _ = std::io::Read::read_to_string(&mut child.stderr.take().expect("it is piped"), &mut said);
            let said = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
            return Err(failed()(std::io::Error::other(said)));
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed()(std::io::ErrorKind::TimedOut.into()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
