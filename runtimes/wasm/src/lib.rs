//! `faas-wasm`: WASM functions, one process per invocation: modules of WASI preview 1.
//!
//! ```text
//! faas-wasm compile <MODULE >ARTIFACT
//! faas-wasm serve
//! faas-wasm run [--NAME VALUE]... MODULE [ARGUMENT]...
//! faas-wasm --version
//! ```
//!
//! `compile` takes a module, binary or text, and makes an artifact, which fits this program on this machine only. If it
//! does not fit, `run --artifact` ends with status 3, and a child of the fork server reports that. `serve` is the fork
//! server and speaks runtimes/README.md on descriptor 3. `run` is one invocation, with the environment and streams of
//! this very process. They differ in nothing else:
//!
//! | a function's | is |
//! |---|---|
//! | entry | `_start`; without one, the export that `handler` names, after `_initialize` |
//! | arguments | MODULE as it is given here, and each `arg` |
//! | environment | all of the invocation's |
//! | stdin, stdout, stderr | the process's, unbuffered |
//! | folders | TMPDIR under its own path and as `.`, and each `dir` under its name |
//! | exit status | its low byte, as any process's; of a handler, the i32 it returns, or 0 |
//! | trap | cause and place, on stderr, and status 134 |
//! | memory | linear memories and tables: at most `memory_mib` together; stderr shows a refusal if the function fails |
//!
//! Statuses of this program: 1 the function cannot be run, 2 the command line is wrong, 3 the artifact must be made
//! anew, 127 an invocation could not begin.
//!
//! | file | is |
//! |---|---|
//! | lib.rs | the list of modules |
//! | main.rs, command.rs | the command line |
//! | binary.rs | a module's properties before it is compiled |
//! | artifact.rs | the engine; compiling, and mapping the artifact |
//! | settings.rs | a function's settings, from an invocation or the command line |
//! | program.rs | the program of an invocation, and its loader |
//! | module.rs | a core module, instantiated |
//! | server.rs, child.rs | the fork server and its children |
//! | wasi/ | the functions that a core module calls |
//! | memory.rs | the memory limit |
//! | error.rs, limits.rs | one line per fault; every bound |
//! | sys.rs | the only `unsafe` |
//!
//! Address space is reserved freely (4 GiB and a guard for each linear memory, so that no access needs a check), which
//! RLIMIT_AS would forbid; RLIMIT_DATA counts only what is writable. Beside the function's own memory, `serve` and
//! `run` need less than 1 MiB of that, and `compile` less than 16 MiB for a module of 150 kB.
//!
//! The module's code never sees the process's own environment, working folder or descriptor numbers: it can reach only
//! the items of the table above. A module that imports anything but `wasi_snapshot_preview1` is rejected by name.
//!
//! All but module.rs and wasi/ is shared with the package in component/, the program for components of WASI 0.2.

pub mod artifact;
mod binary;
mod child;
pub mod command;
pub mod error;
pub mod limits;
pub mod memory;
pub mod module;
pub mod program;
mod server;
pub mod settings;
mod sys;
mod wasi;

/// The version of this package, and of the engine: artifacts of different engines do not fit each other.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " wasmtime ", env!("WASMTIME_VERSION"));
