//! The gateway: answers HTTP requests by running functions on its workers.

use std::process::ExitCode;

use faas::error::start::{Result, StartError, end};
use faas::gateway::{Init, Start};
use faas::settings::{self, Settings};
use faas::sys::Signal;
use faas::{gateway, log, log_file, sys};

const USAGE: &str = "\
gateway             run in the foreground, logging to stdout, until SIGTERM or Ctrl-C
gateway --succeed   the same, with the port of the gateway that runs in FAAS_RUN_DIR, which then drains and ends
gateway --init      create the registry (FAAS_DB) with the example functions, or migrate an old one
gateway --healthz   ask the gateway that runs in FAAS_RUN_DIR how it is; exit code 0 when it is ready
";

fn main() -> ExitCode {
    sys::fit_address_space();
    end("gateway", run())
}

fn run() -> Result<ExitCode> {
    // First of all: threads inherit it.
    sys::block_signals(&Signal::ALL);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] | ["--succeed"] => {
            let start = if arguments.is_empty() { Start::Alone } else { Start::Succeed };
            let settings = Settings::from_env()?;
            log_file::note();
            log::start(settings.log);
            gateway::run(settings, start)?;
        }
        ["--init"] => {
            let settings = Settings::from_env()?;
            let db = settings.db.display();
            match gateway::init(&settings)? {
                Init::Created => println!("created the registry {db}"),
                Init::Migrated(backup) => {
                    println!("migrated the registry {db}; as it was, it is {}", backup.display());
                }
                Init::Nothing => {}
            }
        }
        ["--healthz"] => {
            let (answer, is_ready) = gateway::health(&Settings::from_env()?)?;
            print!("{answer}");
            return Ok(ExitCode::from(u8::from(!is_ready)));
        }
        ["--help" | "-h"] => print!("{USAGE}\n{}", settings::help()),
        ["--version" | "-V"] => println!("gateway {}", env!("CARGO_PKG_VERSION")),
        other => return Err(StartError::Usage(format!("gateway does not know {other:?}"))),
    }
    Ok(ExitCode::SUCCESS)
}
