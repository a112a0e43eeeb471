//! A function that is ready to run: its module instantiated, its entry found, none of its code run.
//!
//! The entry is `_start`, of a command; where a module has none, the function named as the handler, of a reactor, whose
//! `_initialize` is called before. A start function precedes both (see artifact.rs).

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use wasmtime::{Engine, Instance, Linker, Module, Store, Trap, TypedFunc};

use crate::artifact::{self, START_EXPORT};
use crate::error::{Error, Result};
use crate::wasi::{self, Host};

/// What the process ends with when the module trapped: as one that abort(3) ended, 128 + SIGABRT, in a shell's count.
const STATUS_TRAP: u8 = 134;

/// What the command line says of a function.
#[derive(Debug)]
pub struct Function {
    pub memory_mib: usize,
    pub handler: Option<String>,
    /// Folders opened to the module: by which name, and which.
    pub folders: Vec<(OsString, PathBuf)>,
    pub artifact: PathBuf,
    /// The module's path: argv[0].
    pub module: OsString,
}

pub struct Program {
    store: Store<Host>,
    /// What is called before the entry.
    preparations: Vec<TypedFunc<(), ()>>,
    entry: Entry,
    folders: Vec<(OsString, PathBuf)>,
}

enum Entry {
    /// Without a result: success, if it returns.
    Plain(TypedFunc<(), ()>),
    /// With the exit status as its result.
    Status(TypedFunc<(), i32>),
}

impl Program {
    pub fn prepare(function: Function) -> Result<Program> {
        let engine = artifact::engine()?;
        let module = artifact::load(&engine, &function.artifact)?;
        let host = Host::new(function.memory_mib, function.module.as_bytes().to_vec());
        let (mut store, instance) = instantiate(&engine, &module, host)?;
        store.data_mut().memory = instance.get_memory(&mut store, "memory");
        let mut preparations = Vec::new();
        let mut prepare = |store: &mut Store<Host>, name| {
            if let Some(function) = instance.get_func(&mut *store, name) {
                preparations.push(function.typed(&*store).map_err(Error::engine("call _initialize"))?);
            }
            Ok(())
        };
        prepare(&mut store, START_EXPORT)?;
        let entry = match instance.get_func(&mut store, "_start") {
            Some(start) => Entry::Plain(start.typed(&store).map_err(Error::engine("call _start"))?),
            None => {
                let entry = handler(&mut store, instance, &module, function.handler.as_deref())?;
                prepare(&mut store, "_initialize")?;
                entry
            }
        };
        Ok(Program { store, preparations, entry, folders: function.folders })
    }

    pub fn host(&mut self) -> &mut Host {
        self.store.data_mut()
    }

    /// Opens to the module its folders, with the permissions and restrictions that the process now has: the scratch
    /// folder under its own path, those of the command line under the names given there, and as `.`, where relative
    /// paths begin, the scratch folder, unless the command line gives another.
    ///
    /// wasi-libc takes a path that no other folder's name begins for relative to `.`: so `/etc/passwd` is looked for
    /// as `etc/passwd` in the scratch folder, and not found.
    pub fn open_folders(&mut self) -> Result<()> {
        let host = self.store.data_mut();
        let scratch = host.environment.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(b"TMPDIR="));
        let scratch = scratch.map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(path)));
        let is_named = |name: &str| self.folders.iter().any(|(other, _)| other == name);
        let mut folders = Vec::new();
        if let Some(scratch) = &scratch {
            folders.push((scratch.as_os_str(), scratch));
        }
        folders.extend(self.folders.iter().map(|(name, path)| (name.as_os_str(), path)));
        if let (Some(scratch), false) = (&scratch, is_named(".")) {
            folders.push((".".as_ref(), scratch));
        }
        for (name, path) in folders {
            let os = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = rustix::fs::open(path, os, Mode::empty());
            let folder = folder.map_err(|cause| Error::file("open the folder", path)(cause.into()))?;
            host.files.add_folder(folder, name.as_bytes().to_vec());
        }
        Ok(())
    }

    /// Runs the function, and ends the process as it says.
    pub fn run(&mut self) -> ! {
        let prepared = self.preparations.iter().try_for_each(|function| function.call(&mut self.store, ()));
        let outcome = prepared.and_then(|()| match &self.entry {
            Entry::Plain(function) => function.call(&mut self.store, ()).map(|()| 0),
            Entry::Status(function) => function.call(&mut self.store, ()),
        });
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
}

fn instantiate(engine: &Engine, module: &Module, host: Host) -> Result<(Store<Host>, Instance)> {
    let mut linker = Linker::new(engine);
    wasi::link(&mut linker).map_err(Error::engine("link the system's functions"))?;
    let mut store = Store::new(engine, host);
    store.limiter(|host| &mut host.memory_limit);
    match linker.instantiate(&mut store, module) {
        Ok(instance) => Ok((store, instance)),
        Err(_) if store.data().memory_limit.refused => {
            Err(Error::OutOfMemory { limit_mib: store.data().memory_limit.limit_mib })
        }
        Err(cause) => Err(Error::NotRunnable(format!("{cause:#}").replace('\n', " "))),
    }
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
