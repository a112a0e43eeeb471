//! WASM: the module is a WASI preview 1 program for `wasmer run`.

use super::{Command, c_string, find_program};
use crate::limits::{MEMORY_FLOOR_WASM_MIB, MEMORY_GRACE_MIB};
use crate::protocol::worker_protocol::{Invocation, Verdict};

/// Debian does not package wasmer; these features are enough to run modules, and build in about 12 minutes.
const INSTALL: &str =
    "cargo install wasmer-cli --version 7.4.2 --locked --no-default-features --features sys,wat,cranelift";

pub(super) fn command(invocation: &Invocation) -> Result<Command, Verdict> {
    let program = find_program("wasmer", INSTALL)?;
    // The environment of the wasmer process is the one that we make for the function, hence it is forwarded whole.
    let arguments = ["wasmer", "run", "--quiet", "--forward-host-env"].map(c_string).into_iter();
    Ok(Command {
        program: c_string(program),
        arguments: arguments.chain([c_string(&invocation.module)]).collect(),
        data_mib_max: invocation.memory_mib.max(MEMORY_FLOOR_WASM_MIB) + MEMORY_GRACE_MIB,
    })
}
