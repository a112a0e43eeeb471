//! Components: commands of WASI 0.2 (wasi:cli/command), by the crate wasmtime-wasi.
//!
//! WASI 0.2 has some 300 functions, and resources with lives of their own, too much to write by hand. The crate is
//! asynchronous. A runtime of one thread drives it, and the crate may block that thread. A second thread starts only to
//! look up the name of a host.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, RawFd};

use faas_wasm::artifact;
use faas_wasm::error::{Error, Result};
use faas_wasm::limits::WASM_STACK_BYTES_MAX;
use faas_wasm::memory::MemoryLimit;
use faas_wasm::program::{Invocation, Loader, Program, end, folders, trapped};
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

/// The loader of components.
pub struct Components {
    engine: Engine,
    linker: Linker<Host>,
    /// The user whose artifacts are trusted.
    owner: u32,
}

impl Loader for Components {
    const NAME: &'static str = "faas-wasm-component";

    type Program = Linked;

    fn new(owner: u32) -> Result<Components> {
        let mut config = artifact::config();
        let engine = artifact::engine(config.async_stack_size(FIBER_STACK_BYTES))?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(Error::engine("link the interfaces of WASI"))?;
        // Make the signal stack, which a trap's handler needs; otherwise each child would make it.
        Engine::tls_eager_initialize();
        Ok(Components { engine, linker, owner })
    }

    fn compile(input: &mut dyn Read, output: &mut dyn Write) -> Result<()> {
        let components = Components::new(0)?;
        let component = components.compiled(input)?;
        components.link(&component)?;
        let artifact = component.serialize().map_err(artifact::not_compiled)?;
        output.write_all(&artifact).and_then(|()| output.flush()).map_err(Error::io("write the artifact"))
    }

    /// The memory is limited when the component is instantiated, which may run its code.
    fn load(&self, settings: &Settings, _memory_mib: usize) -> Result<Linked> {
        let Some(path) = &settings.artifact else {
            let component = settings.module.as_ref();
            let mut file = File::open(component).map_err(Error::file("open", component))?;
            return Ok(Linked { command: self.link(&self.compiled(&mut file)?)?, artifact: None });
        };
        let (component, artifact) = sys::map_component(&self.engine, path, artifact::open(path, self.owner)?)
            .map_err(artifact::foreign(path))?;
        Ok(Linked { command: self.link(&component)?, artifact: Some(artifact) })
    }
}

impl Components {
    fn compiled(&self, input: &mut dyn Read) -> Result<Component> {
        let binary = artifact::read(input)?;
        imports::check(&binary)?;
        Component::new(&self.engine, binary).map_err(artifact::not_compiled)
    }

    /// Finds all that the component imports.
    fn link(&self, component: &Component) -> Result<CommandPre<Host>> {
        let linked = self.linker.instantiate_pre(component).and_then(CommandPre::new);
        linked.map_err(|cause| Error::NotRunnable(artifact::one_line(&format!("{cause:#}"))))
    }
}

/// A component whose imports are all there.
pub struct Linked {
    command: CommandPre<Host>,
    /// The open artifact. The initial memory is mapped from it at each instantiation.
    artifact: Option<RawFd>,
}

impl Program for Linked {
    /// It has none before it is instantiated.
    fn memory_bytes(&self) -> usize {
        0
    }

    fn artifact(&self) -> Option<RawFd> {
        self.artifact
    }

    fn run(&mut self, invocation: Invocation) -> Result<Infallible> {
        let Invocation { settings, environment, channel } = invocation;
        let memory_limit = MemoryLimit::new(settings.memory_mib);
        let host = Host { wasi: context(&settings, &environment)?, table: ResourceTable::new(), memory_limit };
        let mut store = Store::new(self.command.engine(), host);
        store.limiter(|host| &mut host.memory_limit);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        if settings.net {
            runtime.enable_io();
        }
        let runtime = runtime.enable_time().build().map_err(Error::io("start the asynchronous runtime"))?;
        let instance = runtime.block_on(self.command.instantiate_async(&mut store));
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
