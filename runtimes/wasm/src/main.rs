//! The command line of `faas-wasm`; lib.rs documents it.

use std::convert::Infallible;
use std::io;
use std::process::ExitCode;

use faas_wasm::error::{Error, Result};
use faas_wasm::program::{self, Loader};
use faas_wasm::settings::Settings;
use faas_wasm::{VERSION, artifact, server};

const USAGE: &str = "usage: faas-wasm compile | serve | run [--NAME VALUE]... MODULE [ARGUMENT]... | --version";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next().unwrap_or_default();
    let result = match command.to_str() {
        Some("compile") => artifact::compile(&mut io::stdin().lock(), &mut io::stdout().lock()),
        Some("serve") => server::serve(),
        Some("run") => Settings::of_command_line(arguments).and_then(run).map(|never| match never {}),
        Some("--version") => {
            println!("faas-wasm {VERSION}");
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
    let mut program = Loader::new(program::owner_of_parent())?.load(&settings)?;
    program.run(program::of_process(settings))
}
