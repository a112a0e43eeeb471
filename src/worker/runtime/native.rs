//! Native: the module itself is executed; a script names its interpreter in its first line.

use super::{Command, c_string};
use crate::limits::MEMORY_GRACE_MIB;
use crate::protocol::worker_protocol::{Invocation, Verdict};

pub(super) fn command(invocation: &Invocation) -> Result<Command, Verdict> {
    let module = c_string(&invocation.module);
    let data_mib_max = invocation.memory_mib + MEMORY_GRACE_MIB;
    Ok(Command {
        program: module.clone(),
        program_file: None,
        arguments: vec![module],
        data_mib_max,
        environment: Vec::new(),
    })
}
