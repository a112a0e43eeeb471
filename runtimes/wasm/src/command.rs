//! The command line of both programs, `faas-wasm` and `faas-wasm-component`.

use std::convert::Infallible;
use std::io;
use std::process::ExitCode;

use crate::VERSION;
use crate::error::{Error, Result};
use crate::program::{self, Loader, Program};
use crate::server;
use crate::settings::Settings;

/// The program's whole life.
pub fn main<L: Loader>() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next().unwrap_or_default();
    let result = match command.to_str() {
        Some("compile") => L::compile(&mut io::stdin().lock(), &mut io::stdout().lock()),
        Some("serve") => server::serve::<L>(),
        Some("run") => Settings::of_command_line(arguments).and_then(run::<L>).map(|never| match never {}),
        Some("--version") => {
            println!("{} {VERSION}", L::NAME);
            Ok(())
        }
        _ => Err(Error::Usage(format!(
            "usage: {} compile | serve | run [--NAME VALUE]... MODULE [ARGUMENT]... | --version",
            L::NAME
        ))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", L::NAME);
            ExitCode::from(error.exit_status())
        }
    }
}

/// One invocation, in this process: uses limits, user, folder and sandbox as they are.
fn run<L: Loader>(settings: Settings) -> Result<Infallible> {
    let mut program = L::new(program::owner_of_parent())?.load(&settings, settings.memory_mib)?;
    program.run(program::of_process(settings))
}
