//! A module that is ready to run: mapped, instantiated, none of its code run. It serves one invocation.
//!
//! The entry is `_start`, of a command; where a module has none, the function named as the handler, of a reactor, whose
//! `_initialize` is called before. A start function precedes both (see artifact.rs).

use std::convert::Infallible;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use wasmtime::{Engine, Instance, Linker, Module, Store, Trap, TypedFunc};

use crate::artifact::{self, START_EXPORT};
use crate::child;
use crate::error::{Error, Result};
use crate::limits::{PREPARE_CPU_MS_MAX, PREPARE_MEMORY_MIB_MAX};
use crate::settings::Settings;
use crate::sys;
use crate::wasi::{self, Host};

/// What the process ends with when the module trapped: as one that abort(3) ended, 128 + SIGABRT, in a shell's count.
const STATUS_TRAP: u8 = 134;

/// What an invocation brings for the program.
pub struct Invocation {
    pub settings: Settings,
    /// `NAME=value` and a NUL, again and again.
    pub environment: Vec<u8>,
    /// To whom the exit status is told, besides the parent.
    pub channel: Option<OwnedFd>,
}

/// Makes programs of modules: all that does not depend on the module, made once.
pub struct Loader {
    engine: Engine,
    linker: Linker<Host>,
    /// The user whose artifacts are trusted.
    owner: u32,
}

impl Loader {
    pub fn new(owner: u32) -> Result<Loader> {
        let engine = artifact::engine()?;
        let linker = wasi::linker(&engine)?;
        // The signal stack, which a trap's handler needs; else each child would make it.
        Engine::tls_eager_initialize();
        Ok(Loader { engine, linker, owner })
    }

    /// Loads a module for children that are forked later. A module that takes longer than is allowed ends the process.
    pub fn prepare(&self, settings: &Settings) -> Result<Program> {
        sys::limit_cpu_time(PREPARE_CPU_MS_MAX);
        let artifact = settings.artifact.as_ref();
        // To compile one would take too long here.
        let program = artifact
            .ok_or_else(|| Error::Protocol("no artifact is named".into()))
            .and_then(|_| self.instantiate(settings, PREPARE_MEMORY_MIB_MAX));
        sys::limit_cpu_time(0);
        program
    }

    /// Loads a module for this process's own invocation.
    pub fn load(&self, settings: &Settings) -> Result<Program> {
        self.instantiate(settings, settings.memory_mib)
    }

    fn instantiate(&self, settings: &Settings, memory_mib: usize) -> Result<Program> {
        let module = artifact::load(&self.engine, settings, self.owner)?;
        let mut store = Store::new(&self.engine, Host::new(memory_mib));
        store.limiter(|host| &mut host.memory_limit);
        let instance = match self.linker.instantiate(&mut store, &module) {
            Ok(instance) => instance,
            Err(_) if store.data().memory_limit.refused => return Err(Error::OutOfMemory { limit_mib: memory_mib }),
            Err(cause) => return Err(Error::NotRunnable(format!("{cause:#}").replace('\n', " "))),
        };
        store.data_mut().memory = instance.get_memory(&mut store, "memory");
        let mut plain = |name: &str| match instance.get_func(&mut store, name) {
            Some(function) => function.typed(&store).map(Some).map_err(Error::engine("call _start or _initialize")),
            None => Ok(None),
        };
        let begin = plain(START_EXPORT)?;
        let command = plain("_start")?;
        let initialize = if command.is_none() { plain("_initialize")? } else { None };
        Ok(Program { store, module, instance, first: [begin, initialize], command })
    }
}

pub struct Program {
    store: Store<Host>,
    module: Module,
    instance: Instance,
    /// What is called before the entry.
    first: [Option<TypedFunc<(), ()>>; 2],
    /// `_start`.
    command: Option<TypedFunc<(), ()>>,
}

enum Entry {
    /// Without a result: success, if it returns.
    Plain(TypedFunc<(), ()>),
    /// With the exit status as its result.
    Status(TypedFunc<(), i32>),
}

impl Program {
    /// Bytes of memory that it begins with.
    pub fn memory_bytes(&self) -> usize {
        self.store.data().memory_limit.bytes
    }

    /// Runs the function, and ends the process as it says.
    ///
    /// # Errors
    /// Where it cannot be run. None of its code has run then.
    pub fn run(&mut self, invocation: Invocation) -> Result<Infallible> {
        let Invocation { settings, environment, channel } = invocation;
        let entry = match &self.command {
            Some(start) => Entry::Plain(start.clone()),
            None => handler(&mut self.store, self.instance, &self.module, settings.handler.as_deref())?,
        };
        let host = self.store.data_mut();
        if !host.memory_limit.set(settings.memory_mib) {
            return Err(Error::OutOfMemory { limit_mib: settings.memory_mib });
        }
        for (name, path) in folders(&settings, &environment) {
            let os = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            match rustix::fs::open(&path, os, Mode::empty()) {
                Ok(folder) => host.files.add_folder(folder, name),
                Err(cause) => child::fail(&Error::file("open the folder", &path)(cause.into())),
            }
        }
        host.arguments = settings.argv().map(|word| word.as_bytes().to_vec()).collect();
        host.environment = environment;
        host.channel = channel;
        let outcome = self.call(&entry);
        let status = outcome.map_or_else(
            |error| {
                match error.downcast_ref::<Trap>() {
                    Some(trap) => eprintln!("{trap}"),
                    None => eprintln!("{}", error.root_cause()),
                }
                // The error itself is the backtrace, its causes are said above.
                eprintln!("{error}");
                STATUS_TRAP
            },
            |status| status as u8,
        );
        self.store.data_mut().end(status)
    }

    fn call(&mut self, entry: &Entry) -> wasmtime::Result<i32> {
        for function in self.first.iter().flatten() {
            function.call(&mut self.store, ())?;
        }
        match entry {
            Entry::Plain(function) => function.call(&mut self.store, ()).map(|()| 0),
            Entry::Status(function) => function.call(&mut self.store, ()),
        }
    }
}

/// The folders that are opened to a module, as (name, path): the scratch folder under its own path, each `dir` under the
/// name given there, and as `.`, where relative paths begin, the scratch folder, unless a `dir` is `.` or `/`.
///
/// wasi-libc takes a path that no other folder's name begins for relative to `.`: so `/etc/passwd` is looked for as
/// `etc/passwd` in the scratch folder, and not found. A `/` among the names must therefore not be followed by `.`.
pub fn folders(settings: &Settings, environment: &[u8]) -> Vec<(Vec<u8>, PathBuf)> {
    let scratch = environment.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(b"TMPDIR="));
    let scratch = |name: &[u8]| scratch.map(|path| (name.to_vec(), PathBuf::from(OsStr::from_bytes(path))));
    let is_named = |name: &str| settings.folders.iter().any(|(other, _)| other == name);
    let mut folders = Vec::new();
    folders.extend(scratch(b"").map(|(_, path)| (path.clone().into_os_string().into_vec(), path)));
    folders.extend(settings.folders.iter().map(|(name, path)| (name.as_bytes().to_vec(), path.clone())));
    if !is_named(".") && !is_named("/") {
        folders.extend(scratch(b"."));
    }
    folders
}

/// The function that the handler names.
fn handler(store: &mut Store<Host>, instance: Instance, module: &Module, name: Option<&str>) -> Result<Entry> {
    let name = name.filter(|name| !name.is_empty());
    let Some(function) = name.and_then(|name| instance.get_func(&mut *store, name)) else {
        let is_function = |export: &wasmtime::ExportType| matches!(export.ty(), wasmtime::ExternType::Func(_));
        let exports: Vec<_> = module.exports().filter(is_function).map(|export| export.name().to_owned()).collect();
        let exports = exports.iter().filter(|name| *name != START_EXPORT).map(String::as_str).collect::<Vec<_>>();
        let exports = if exports.is_empty() { "none".to_owned() } else { exports.join(", ") };
        let what = name.map_or_else(|| "no handler is named".into(), |name| format!("no handler {name}"));
        return Err(Error::NotRunnable(format!("it has no _start, and {what}; functions that it exports: {exports}")));
    };
    if let Ok(plain) = function.typed(&*store) {
        return Ok(Entry::Plain(plain));
    }
    function.typed(&*store).map(Entry::Status).map_err(|_| {
        let name = name.expect("it was found by its name");
        Error::NotRunnable(format!("its handler {name} must take no parameters, and return nothing or an i32"))
    })
}
