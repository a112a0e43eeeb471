//! `faas-wasm`: WASM functions, WASI preview 1, one process per invocation.
//!
//! ```text
//! faas-wasm compile <MODULE >ARTIFACT
//! faas-wasm serve --memory-mib N [--handler NAME] [--dir GUEST=HOST]... ARTIFACT MODULE
//! faas-wasm run   --memory-mib N [--handler NAME] [--dir GUEST=HOST]... ARTIFACT MODULE
//! faas-wasm --version
//! ```
//!
//! `compile` takes a module, binary or text, and makes an artifact, which fits this program on this machine only; where
//! it does not fit, `serve` and `run` end with status 3. `serve` is a fork server and speaks runtimes/README.md on
//! descriptor 3; `run` is one invocation, with the environment and streams of this very process. They differ in nothing
//! else:
//!
//! | a function's | is |
//! |---|---|
//! | entry | `_start`; without one, the export that `--handler` names, after `_initialize` |
//! | arguments | one, MODULE as it is given here |
//! | environment | all of the invocation's |
//! | stdin, stdout, stderr | the process's, unbuffered |
//! | folders | TMPDIR under its own path and as `.`, and each `--dir` under its GUEST name |
//! | exit status | its low byte, as any process's; of a handler, the i32 it returns, or 0 |
//! | trap | what and where, on stderr, and status 134 |
//! | memory | linear memories and tables of N MiB together; a refusal, if the function fails then, is said on stderr |
//!
//! Statuses of our own: 1 the function cannot be run, 2 the command line is wrong, 3 the artifact is to be made anew,
//! 127 an invocation could not begin.
//!
//! | file | is |
//! |---|---|
//! | main.rs | the command line |
//! | artifact.rs | the engine; compiling, and mapping what was compiled |
//! | program.rs | a function that is ready to run |
//! | server.rs, child.rs | the fork server and its children |
//! | wasi/ | what the module calls |
//! | memory.rs | the memory limit |
//! | error.rs, limits.rs | one line per fault; every bound |
//! | sys.rs | the only `unsafe` |
//!
//! Address space is reserved freely (4 GiB and a guard for each linear memory, so that no access needs a check), which
//! RLIMIT_AS would forbid; RLIMIT_DATA counts only what is writable. Beside the function's own memory, `serve` and `run`
//! need less than 1 MiB of that, and `compile` less than 16 MiB for a module of 150 kB.
//!
//! The module's code never sees the process's own environment, working folder or descriptor numbers: what it may reach
//! is what stands in the table above. Preview 1 alone is served, as `wasi_snapshot_preview1`; a module that imports
//! anything else is refused by name.

mod artifact;
mod child;
mod error;
mod limits;
mod memory;
mod program;
mod server;
mod sys;
mod wasi;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::error::{Error, Result};
use crate::program::{Function, Program};

const USAGE: &str = "usage: faas-wasm compile | serve ARGUMENTS | run ARGUMENTS | --version; \
                     ARGUMENTS: --memory-mib N [--handler NAME] [--dir GUEST=HOST]... ARTIFACT MODULE";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next().unwrap_or_default();
    let result = match command.to_str() {
        Some("compile") => artifact::compile(&mut io::stdin().lock(), &mut io::stdout().lock()),
        Some("serve") => function(arguments).and_then(server::serve),
        Some("run") => function(arguments).and_then(run),
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

/// One invocation, in this process.
fn run(function: Function) -> Result<()> {
    let mut program = Program::prepare(function)?;
    let host = program.host();
    for (name, value) in std::env::vars_os() {
        for part in [name.as_bytes(), b"=", value.as_bytes(), b"\0"] {
            host.environment.extend(part);
        }
    }
    if let Err(error) = program.open_folders() {
        child::fail(&error);
    }
    program.run()
}

fn function(mut arguments: impl Iterator<Item = OsString>) -> Result<Function> {
    let mut memory_mib = None;
    let mut handler = None;
    let mut folders = Vec::new();
    let mut places = Vec::new();
    while let Some(argument) = arguments.next() {
        let mut value = || {
            let missing = || Error::Usage(format!("{} needs a value; {USAGE}", argument.display()));
            arguments.next().ok_or_else(missing)
        };
        match argument.to_str() {
            Some("--memory-mib") => memory_mib = Some(mebibytes(&value()?)?),
            Some("--handler") => handler = Some(value()?.to_string_lossy().into_owned()),
            Some("--dir") => folders.push(folder(&value()?)?),
            _ => places.push(argument),
        }
    }
    match (memory_mib, <[OsString; 2]>::try_from(places)) {
        (Some(memory_mib), Ok([artifact, module])) => {
            Ok(Function { memory_mib, handler, folders, artifact: artifact.into(), module })
        }
        (None, _) => Err(Error::Usage(format!("--memory-mib is missing; {USAGE}"))),
        (_, Err(places)) => {
            Err(Error::Usage(format!("ARTIFACT and MODULE are wanted, {} words are given; {USAGE}", places.len())))
        }
    }
}

fn mebibytes(value: &OsStr) -> Result<usize> {
    let number = value.to_str().and_then(|text| text.parse().ok()).filter(|number| *number > 0);
    number.ok_or_else(|| Error::Usage(format!("--memory-mib {} is not a number of MiB from 1 on", value.display())))
}

/// GUEST=HOST; an equals sign in HOST is part of it.
fn folder(value: &OsStr) -> Result<(OsString, PathBuf)> {
    let parts: Vec<&[u8]> = value.as_bytes().splitn(2, |byte| *byte == b'=').collect();
    match parts[..] {
        [guest, host] if !guest.is_empty() && !host.is_empty() => {
            Ok((OsString::from_vec(guest.to_vec()), OsString::from_vec(host.to_vec()).into()))
        }
        _ => Err(Error::Usage(format!("--dir {} is not GUEST=HOST", value.display()))),
    }
}
