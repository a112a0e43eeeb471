//! A core module that is ready to run: mapped, instantiated, none of its code run. It serves one invocation.
//!
//! The entry of a command is `_start`. A module without `_start` is a reactor: its entry is the function named as the
//! handler, and its `_initialize` is called before. A start function precedes both (see artifact.rs).

use std::convert::Infallible;
use std::io::{Read, Write};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags};
use wasmtime::{Engine, Instance, Linker, Module, Store, TypedFunc};

use crate::artifact;
use crate::binary::START_EXPORT;
use crate::error::{Error, Result};
use crate::program::{Invocation, Loader, Program, end, folders, trapped};
use crate::settings::Settings;
use crate::wasi::{self, Host};

/// The loader of modules.
pub struct Modules {
    engine: Engine,
    linker: Linker<Host>,
    /// The user whose artifacts are trusted.
    owner: u32,
}

impl Loader for Modules {
    const NAME: &'static str = "faas-wasm";

    type Program = Instantiated;

    fn new(owner: u32) -> Result<Modules> {
        let engine = artifact::engine(&artifact::config())?;
        let linker = wasi::linker(&engine)?;
        // Make the signal stack, which a trap's handler needs; otherwise each child would make it.
        Engine::tls_eager_initialize();
        Ok(Modules { engine, linker, owner })
    }

    fn compile(input: &mut dyn Read, output: &mut dyn Write) -> Result<()> {
        artifact::compile(input, output)
    }

    fn load(&self, settings: &Settings, memory_mib: usize) -> Result<Instantiated> {
        let module = artifact::load(&self.engine, settings, self.owner)?;
        Instantiated::new(&self.engine, &self.linker, module, memory_mib)
    }
}

/// A module of one invocation.
pub struct Instantiated {
    store: Store<Host>,
    module: Module,
    instance: Instance,
    /// The functions called before the entry.
    first: [Option<TypedFunc<(), ()>>; 2],
    /// `_start`.
    command: Option<TypedFunc<(), ()>>,
}

enum Entry {
    /// No result: success, if it returns.
    Plain(TypedFunc<(), ()>),
    /// The result is the exit status.
    Status(TypedFunc<(), i32>),
}

impl Instantiated {
    fn new(engine: &Engine, linker: &Linker<Host>, module: Module, memory_mib: usize) -> Result<Instantiated> {
        let mut store = Store::new(engine, Host::new(memory_mib));
        store.limiter(|host| &mut host.memory_limit);
        let instance = match linker.instantiate(&mut store, &module) {
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
        Ok(Instantiated { store, module, instance, first: [begin, initialize], command })
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

impl Program for Instantiated {
    fn memory_bytes(&self) -> usize {
        self.store.data().memory_limit.bytes
    }

    /// It is mapped.
    fn artifact(&self) -> Option<RawFd> {
        None
    }

    fn run(&mut self, invocation: Invocation) -> Result<Infallible> {
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
                Err(cause) => return Err(Error::Folder { path, cause: cause.into() }),
            }
        }
        host.arguments = settings.argv().map(|word| word.as_bytes().to_vec()).collect();
        host.environment = environment;
        host.channel = channel;
        let outcome = self.call(&entry);
        let status = outcome.map_or_else(|error| trapped(&error), |status| status as u8);
        let host = self.store.data();
        end(status, &host.memory_limit, host.channel.as_ref())
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
