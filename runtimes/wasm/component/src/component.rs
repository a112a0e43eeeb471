//! Components: commands of WASI 0.2 (wasi:cli/command), by the crate wasmtime-wasi.
//!
//! WASI 0.2 has some 300 functions, and resources with lives of their own, too much to write by hand. The crate is
//! asynchronous. A runtime of one thread drives it, and the crate may block that thread. A second thread starts only to
//! look up the name of a host.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use faas_wasm::artifact;
use faas_wasm::error::{Error, Result};
use faas_wasm::limits::WASM_STACK_BYTES_MAX;
use faas_wasm::memory::MemoryLimit;
use faas_wasm::program::{Invocation, end, folders, trapped};
use faas_wasm::settings::Settings;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::cli::{InputFile, OutputFile};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use crate::{imports, sys};

/// The stack on which a component runs, in bytes: that of its frames, and as much as half of it for the functions that
/// it calls.
const FIBER_STACK_BYTES: usize = WASM_STACK_BYTES_MAX + (1 << 20);

/// The state of the functions that a component calls.
struct Host {
    wasi: WasiCtx,
    table: ResourceTable,
    memory_limit: MemoryLimit,
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// Compiles the component from `input`, binary or text, and writes the artifact to `output`.
pub fn compile(input: &mut dyn Read, output: &mut dyn Write) -> Result<()> {
    let engine = engine()?;
    let component = compiled(&engine, input)?;
    linked(&engine, &component)?;
    let artifact = component.serialize().map_err(artifact::not_compiled)?;
    output.write_all(&artifact).and_then(|()| output.flush()).map_err(Error::io("write the artifact"))
}

/// Runs the component of an invocation, and ends the process with its status. `owner` is the user whose artifacts are
/// trusted.
///
/// # Errors
/// If it cannot be run.
pub fn run(invocation: Invocation, owner: u32) -> Result<Infallible> {
    let Invocation { settings, environment, channel } = invocation;
    let engine = engine()?;
    let command = linked(&engine, &load(&engine, &settings, owner)?)?;
    let memory_limit = MemoryLimit::new(settings.memory_mib);
    let host = Host { wasi: context(&settings, &environment)?, table: ResourceTable::new(), memory_limit };
    let mut store = Store::new(&engine, host);
    store.limiter(|host| &mut host.memory_limit);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    if settings.net {
        runtime.enable_io();
    }
    let runtime = runtime.enable_time().build().map_err(Error::io("start the asynchronous runtime"))?;
    let instance = runtime.block_on(command.instantiate_async(&mut store));
    if instance.is_err() && store.data().memory_limit.refused {
        return Err(Error::OutOfMemory { limit_mib: settings.memory_mib });
    }
    let outcome = runtime.block_on(async { instance?.wasi_cli_run().call_run(&mut store).await });
    let status = match outcome {
        Ok(Ok(())) => 0,
        Ok(Err(())) => 1,
        Err(error) => match error.downcast_ref::<I32Exit>() {
            // The low byte, as wait(2) gives it for any process.
            Some(I32Exit(status)) => *status as u8,
            None => trapped(&error),
        },
    };
    end(status, &store.data().memory_limit, channel.as_ref())
}

fn engine() -> Result<Engine> {
    let mut config = artifact::config();
    artifact::engine(config.async_stack_size(FIBER_STACK_BYTES))
}

/// Maps the component's artifact; compiles the component if no artifact is named.
fn load(engine: &Engine, settings: &Settings, owner: u32) -> Result<Component> {
    let Some(path) = &settings.artifact else {
        let component = settings.module.as_ref();
        return compiled(engine, &mut File::open(component).map_err(Error::file("open", component))?);
    };
    artifact::open(path, owner)?;
    sys::map_component(engine, path).map_err(artifact::foreign(path))
}

fn compiled(engine: &Engine, input: &mut dyn Read) -> Result<Component> {
    let binary = artifact::read(input)?;
    imports::check(&binary)?;
    Component::new(engine, binary).map_err(artifact::not_compiled)
}

/// A component whose imports are all there.
fn linked(engine: &Engine, component: &Component) -> Result<CommandPre<Host>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(Error::engine("link the interfaces of WASI"))?;
    let linked = linker.instantiate_pre(component).and_then(CommandPre::new);
    linked.map_err(|cause| Error::NotRunnable(artifact::one_line(&format!("{cause:#}"))))
}

/// The parts of the process that the component may reach: the same as for a module, and sockets.
fn context(settings: &Settings, environment: &[u8]) -> Result<WasiCtx> {
    let file = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from).map_err(Error::io("copy a stream"));
    let mut wasi = WasiCtxBuilder::new();
    wasi.allow_blocking_current_thread(true);
    wasi.stdin(InputFile::new(file(io::stdin().as_fd())?));
    wasi.stdout(OutputFile::new(file(io::stdout().as_fd())?));
    wasi.stderr(OutputFile::new(file(io::stderr().as_fd())?));
    for word in settings.argv() {
        wasi.arg(word.to_string_lossy());
    }
    for pair in environment.split(|byte| *byte == 0).filter(|pair| !pair.is_empty()) {
        let pair = String::from_utf8_lossy(pair);
        let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
        wasi.env(name, value);
    }
    for (name, path) in folders(settings, environment) {
        let opened = wasi.preopened_dir(&path, String::from_utf8_lossy(&name), FsPerms::ReadWrite);
        if let Err(cause) = opened.map(drop) {
            let cause = cause.downcast().unwrap_or_else(|cause| io::Error::other(format!("{cause:#}")));
            return Err(Error::Folder { path, cause });
        }
    }
    if settings.net {
        wasi.inherit_network().allow_tcp(true).allow_udp(true).allow_ip_name_lookup(true);
    }
    Ok(wasi.build())
}
