//! Artifacts: modules compiled ahead of time, and the engine that makes and takes them.
//!
//! An artifact is wasmtime's serialised form of a module: an ELF file with its version, its settings and the
//! processor's features in the header. So an artifact that does not fit is rejected, never run. It is mapped, not read:
//! all processes that run it share the pages, and the module's initial memory is mapped from it copy-on-write.
//!
//! Invariant: instantiating a module runs none of its code. A fork server does that before it forks, in a process that
//! must not run the function's code. The specification runs a module's start function at the end of instantiation. So
//! `compile` turns it into an export, and the child calls that first.

use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use wasmtime::{Config, Engine, Module, OptLevel, Store};

use crate::binary;
use crate::error::{Error, Result};
use crate::limits::WASM_STACK_BYTES_MAX;
use crate::settings::Settings;
use crate::sys;
use crate::wasi::{self, Host};

/// Permission to write for a file's group or for all.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The engine's settings, the same for compiling and for running: an artifact fits only those that it was compiled with.
pub fn config() -> Config {
    let mut config = Config::new();
    config
        .cranelift_opt_level(OptLevel::Speed)
        // The memory costs nothing but the first write to each page.
        .memory_init_cow(true)
        .max_wasm_stack(WASM_STACK_BYTES_MAX)
        // Backtraces are made from the frame pointers; nothing else unwinds through the module.
        .native_unwind_info(false);
    config
}

pub fn engine(config: &Config) -> Result<Engine> {
    Engine::new(config).map_err(Error::engine("start the engine"))
}

/// Compiles the module from `input`, binary or text, and writes the artifact to `output`.
pub fn compile(input: &mut dyn Read, output: &mut dyn Write) -> Result<()> {
    let engine = engine(&config())?;
    let artifact = engine.precompile_module(&runnable(&engine, read(input)?)?).map_err(not_compiled)?;
    output.write_all(&artifact).and_then(|()| output.flush()).map_err(Error::io("write the artifact"))
}

/// The binary form of the module or component from `input`, binary or text.
pub fn read(input: &mut dyn Read) -> Result<Vec<u8>> {
    let mut source = Vec::new();
    input.read_to_end(&mut source).map_err(Error::io("read the module"))?;
    // The text format's errors have several lines, with a picture of the place.
    match wat::parse_bytes(&source).map_err(|cause| Error::Module(one_line(&cause.to_string())))? {
        Cow::Owned(binary) => Ok(binary),
        Cow::Borrowed(_) => Ok(source),
    }
}

/// Maps the module's artifact; compiles the module if no artifact is named.
///
/// # Errors
/// `Error::ForeignArtifact` if this program on this machine has not made it, or if a function could have changed it.
pub fn load(engine: &Engine, settings: &Settings, owner: u32) -> Result<Module> {
    let Some(path) = &settings.artifact else {
        let module = settings.module.as_ref();
        let mut file = File::open(module).map_err(Error::file("open", module))?;
        return Module::new(engine, runnable(engine, read(&mut file)?)?).map_err(not_compiled);
    };
    sys::map_module(engine, open(path, owner)?).map_err(foreign(path))
}

/// Opens an artifact that can be trusted: it is machine code, so only the worker's user may be able to write to it. If
/// functions run as that user, Landlock keeps them from it.
///
/// # Errors
/// `Error::ForeignArtifact` if a function could have changed it.
pub fn open(path: &Path, owner: u32) -> Result<File> {
    // Follow no link: a user who makes links may exchange them.
    let mut options = File::options();
    let options = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).map_err(Error::file("open the artifact", path))?;
    let metadata = file.metadata().map_err(Error::file("look at the artifact", path))?;
    if metadata.is_file() && [0, owner].contains(&metadata.uid()) && metadata.mode() & WRITABLE_BY_OTHERS == 0 {
        return Ok(file);
    }
    let cause = "others than the worker's user may write to it".into();
    Err(Error::ForeignArtifact { path: path.to_path_buf(), cause })
}

/// The module to compile: its start function is an export.
fn runnable(engine: &Engine, binary: Vec<u8>) -> Result<Vec<u8>> {
    if binary::is_component(&binary) {
        return Err(Error::NotRunnable("it is a component; faas-wasm-component runs components".into()));
    }
    let linker = wasi::linker(engine)?;
    let mut store = Store::new(engine, Host::new(0));
    binary::check_module(&binary, |module, name| linker.get(&mut store, module, name).is_ok())?;
    Ok(binary::start_as_export(&binary)?.unwrap_or(binary))
}

/// The error for an artifact that this program on this machine has not made.
pub fn foreign(path: &Path) -> impl FnOnce(wasmtime::Error) -> Error {
    move |cause| Error::ForeignArtifact { path: path.to_path_buf(), cause: one_line(&format!("{cause:#}")) }
}

pub fn not_compiled(cause: wasmtime::Error) -> Error {
    Error::Module(one_line(&format!("{cause:#}")))
}

pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
