//! The console: shows the operator how the gateway is. The gateway starts it, and starts it again when it ends.
//!
//! It keeps the gateway's user, root perhaps, because the run dir and its token are that user's alone; but it loses all
//! capabilities, can gain none (no_new_privs), and dies with the gateway.

use std::process::ExitCode;

use faas::error::start::{Result, StartError, end};
use faas::settings::{self, Settings};
use faas::sys::Signal;
use faas::{console, log_file, sys};

const USAGE: &str = "\
console   serve FAAS_CONSOLE for the gateway that runs in FAAS_RUN_DIR, which starts it itself

  curl -H \"Authorization: Bearer $(cat run/operator.token)\" http://127.0.0.1:8081/api/v1/status
";

fn main() -> ExitCode {
    end("console", run().map(|()| ExitCode::SUCCESS))
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => {
            // First of all: threads inherit it.
            sys::block_signals(&[Signal::Hangup]);
            log_file::note();
            console::run(Settings::from_env()?)
        }
        [help] if help == "--help" || help == "-h" => {
            print!("{USAGE}\n{}", settings::help());
            Ok(())
        }
        [version] if version == "--version" || version == "-V" => {
            println!("console {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        other => Err(StartError::Usage(format!("console does not know {other:?}"))),
    }
}
