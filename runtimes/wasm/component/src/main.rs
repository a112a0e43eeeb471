//! `faas-wasm-component`: functions that are components of WASI 0.2, in the world wasi:cli/command.
//!
//! ```text
//! faas-wasm-component compile <COMPONENT >ARTIFACT
//! faas-wasm-component run [--NAME VALUE]... COMPONENT [ARGUMENT]...
//! faas-wasm-component --version
//! ```
//!
//! It behaves as `faas-wasm` does, whose lib.rs has the tables of what a function finds and of exit statuses, except:
//!
//! | a component's | is |
//! |---|---|
//! | entry | `wasi:cli/run`; `handler` is not used |
//! | exit status | 0 or 1, by the result of its entry or by `exit`; any, by `exit-with-code` |
//! | network | sockets of `wasi:sockets`, if `net` is 1 |
//!
//! It is a program of its own because WASI 0.2 needs the crate wasmtime-wasi, which modules of preview 1 would pay for
//! with time and memory. It has no fork server: every invocation is a process of its own, by exec.
//!
//! | file | is |
//! |---|---|
//! | main.rs | the command line |
//! | component.rs | a component: compiled, linked, run |
//! | imports.rs | a component's imports, checked before it is compiled |
//! | sys.rs | the only `unsafe` |

mod component;
mod imports;
mod sys;

use std::io;
use std::process::ExitCode;

use faas_wasm::VERSION;
use faas_wasm::error::Error;
use faas_wasm::program;
use faas_wasm::settings::Settings;

const USAGE: &str = "usage: faas-wasm-component compile | run [--NAME VALUE]... COMPONENT [ARGUMENT]... | --version";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next().unwrap_or_default();
    let run = |settings| component::run(program::of_process(settings), program::owner_of_parent());
    let result = match command.to_str() {
        Some("compile") => component::compile(&mut io::stdin().lock(), &mut io::stdout().lock()),
        Some("run") => Settings::of_command_line(arguments).and_then(run).map(|never| match never {}),
        Some("--version") => {
            println!("faas-wasm-component {VERSION}");
            Ok(())
        }
        _ => Err(Error::Usage(USAGE.into())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("faas-wasm-component: {error}");
            ExitCode::from(error.exit_status())
        }
    }
}
