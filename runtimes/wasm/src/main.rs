//! `faas-wasm`; lib.rs documents it.

use std::process::ExitCode;

fn main() -> ExitCode {
    faas_wasm::command::main::<faas_wasm::module::Modules>()
}
