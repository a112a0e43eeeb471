//! The command of an operator: deploys code, lists and changes routes, calls functions, reads the log.

use std::process::ExitCode;

fn main() -> ExitCode {
    faas::cli::run(std::env::args().skip(1).collect())
}
