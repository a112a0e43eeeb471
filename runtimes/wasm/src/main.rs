//! `faas-wasm`: WASM functions, one process per invocation: modules of WASI preview 1.
//!
//! ```text
//! faas-wasm compile <MODULE >ARTIFACT
//! faas-wasm serve
//! faas-wasm run [--NAME VALUE]... MODULE [ARGUMENT]...
//! faas-wasm --version
//! ```
//!
//! `compile` takes a module, binary or text, and makes an artifact, which fits this program on this machine only. If it
//! does not fit, `run --artifact` ends with status 3, and a child of the fork server reports that. `serve` is the fork
//! server and speaks runtimes/README.md on descriptor 3. `run` is one invocation, with the environment and streams of
//! this very process. They differ in nothing else:
//!
//! | a function's | is |
//! |---|---|
//! | entry | `_start`; without one, the export that `handler` names, after `_initialize` |
//! | arguments | MODULE as it is given here, and each `arg` |
//! | environment | all of the invocation's |
//! | stdin, stdout, stderr | the process's, unbuffered |
//! | folders | TMPDIR under its own path and as `.`, and each `dir` under its name |
//! | exit status | its low byte, as any process's; of a handler, the i32 it returns, or 0 |
//! | trap | cause and place, on stderr, and status 134 |
//! | memory | linear memories and tables: at most `memory_mib` together; stderr shows a refusal if the function fails |
//!
//! Statuses of this program: 1 the function cannot be run, 2 the command line is wrong, 3 the artifact must be made
//! anew, 127 an invocation could not begin.
//!
//! | file | is |
//! |---|---|
//! | main.rs | the command line |
//! | binary.rs | a module's properties before it is compiled |
//! | artifact.rs | the engine; compiling, and mapping the artifact |
//! | settings.rs | a function's settings, from an invocation or the command line |
//! | program.rs | the program of an invocation |
//! | module.rs | a core module, instantiated |
//! | server.rs, child.rs | the fork server and its children |
//! | wasi/ | the functions that a core module calls |
//! | memory.rs | the memory limit |
//! | error.rs, limits.rs | one line per fault; every bound |
//! | sys.rs | the only `unsafe` |
//!
//! Address space is reserved freely (4 GiB and a guard for each linear memory, so that no access needs a check), which
//! RLIMIT_AS would forbid; RLIMIT_DATA counts only what is writable. Beside the function's own memory, `serve` and
//! `run` need less than 1 MiB of that, and `compile` less than 16 MiB for a module of 150 kB.
//!
//! The module's code never sees the process's own environment, working folder or descriptor numbers: it can reach only
//! the items of the table above. A module that imports anything but `wasi_snapshot_preview1` is rejected by name.

mod artifact;
mod binary;
mod child;
mod error;
mod limits;
mod memory;
mod module;
mod program;
mod server;
mod settings;
mod sys;
mod wasi;

use std::convert::Infallible;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use crate::error::{Error, Result};
use crate::program::{Invocation, Loader};
use crate::settings::Settings;

const USAGE: &str = "usage: faas-wasm compile | serve | run [--NAME VALUE]... MODULE [ARGUMENT]... | --version";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next().unwrap_or_default();
    let result = match command.to_str() {
        Some("compile") => artifact::compile(&mut io::stdin().lock(), &mut io::stdout().lock()),
        Some("serve") => server::serve(),
        Some("run") => Settings::of_command_line(arguments).and_then(run).map(|never| match never {}),
        Some("--version") => {
            println!("faas-wasm {} wasmtime {}", env!("CARGO_PKG_VERSION"), env!("WASMTIME_VERSION"));
            Ok(())
        }
        _ => Err(Error::Usage(USAGE.into())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("faas-wasm: {error}");
            ExitCode::from(error.exit_status())
        }
    }
}

/// One invocation, in this process: uses limits, user, folder and sandbox as they are.
fn run(settings: Settings) -> Result<Infallible> {
    let parent = rustix::process::getppid().map_or(0, |parent| parent.as_raw_nonzero().get());
    let owner = std::fs::metadata(format!("/proc/{parent}")).map_or(0, |parent| parent.uid());
    let mut program = Loader::new(owner)?.load(&settings)?;
    let mut environment = Vec::new();
    for (name, value) in std::env::vars_os() {
        environment.extend([name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat());
    }
    program.run(Invocation { settings, environment, channel: None })
}
