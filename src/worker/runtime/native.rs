//! Native: the module itself is executed; a script names its interpreter in its first line.

use super::{Command, c_string};
use crate::limits::MEMORY_GRACE_MIB;
use crate::protocol::function_spec::FunctionSpec;
use crate::protocol::worker_protocol::Verdict;

pub(super) fn command(spec: &FunctionSpec) -> Result<Command, Verdict> {
    let module = c_string(&spec.module);
    let data_mib_max = spec.memory_mib + MEMORY_GRACE_MIB;
    Ok(Command {
        program: module.clone(),
        program_file: None,
        arguments: std::iter::once(module).chain(spec.args.iter().map(c_string)).collect(),
        data_mib_max,
        environment: Vec::new(),
    })
}
