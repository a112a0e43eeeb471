//! The worker: runs functions for the gateway of the same run dir, which starts as many as FAAS_WORKERS says.

use std::process::ExitCode;

use faas::error::start::{Result, StartError, end};
use faas::sandbox::namespaces::Namespaces;
use faas::sandbox::{self, Sandbox, probe, promises};
use faas::settings::{self, Settings};
use faas::sys::Signal;
use faas::{log, log_file, procfs, sys, worker};

const USAGE: &str = "\
worker [ID]       run functions for the gateway that runs in FAAS_RUN_DIR

worker --sandbox  try what functions could do here, and print which promises of the sandbox are kept, and how

The gateway starts its workers itself. One more joins when it is started by hand, without ID, with the same settings.
";

fn main() -> ExitCode {
    sys::fit_address_space();
    end("worker", run().map(|()| ExitCode::SUCCESS))
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let id = match arguments.as_slice() {
        [] => None,
        [help] if help == "--help" || help == "-h" => {
            print!("{USAGE}\n{}", settings::help());
            return Ok(());
        }
        [version] if version == "--version" || version == "-V" => {
            println!("worker {}", env!("CARGO_PKG_VERSION"));
            return Ok(());
        }
        [sandbox] if sandbox == "--sandbox" => {
            let settings = Settings::from_env()?;
            let user = sandbox::functions_user(&settings)?;
            let namespaces = Namespaces::new(worker::namespaces_max(&settings), user.as_ref()).unwrap_or_default();
            let hides_processes = sandbox::confine_worker(namespaces.is_some())?;
            let sandbox = Sandbox::new(&settings, procfs::outer_pid(), namespaces)?;
            println!("{:#}", promises::table(&sandbox, &settings, hides_processes));
            return Ok(());
        }
        // Started by the one above, confined as a function is.
        [attempt, arguments @ ..] if attempt == "--attempt" => {
            probe::attempt(arguments);
            return Ok(());
        }
        [id] => Some(id.parse().map_err(|_| StartError::Usage(format!("worker: {id:?} is no worker id")))?),
        _ => return Err(StartError::Usage("worker takes one id at most".into())),
    };
    sys::block_signals(&Signal::ALL);
    log_file::note();
    let settings = Settings::from_env()?;
    log::start(settings.log);
    worker::run(settings, id)
}
