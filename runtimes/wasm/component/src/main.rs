//! `faas-wasm-component`: functions that are components of WASI 0.2, in the world wasi:cli/command.
//!
//! ```text
//! faas-wasm-component compile <COMPONENT >ARTIFACT
//! faas-wasm-component serve
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
//! with time and memory.
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

use std::process::ExitCode;

fn main() -> ExitCode {
    faas_wasm::command::main::<component::Components>()
}
