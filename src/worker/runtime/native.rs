//! Native: the module itself is executed; a script names its interpreter in its first line.

use super::{Command, c_string, data_mib_max};
use crate::protocol::function_spec::FunctionSpec;
use crate::protocol::worker_protocol::Verdict;

pub fn command(spec: &FunctionSpec) -> Result<Command, Verdict> {
    let module = c_string(&spec.module);
    Ok(Command {
        program: module.clone(),
        program_file: None,
        arguments: std::iter::once(module).chain(spec.args.iter().map(c_string)).collect(),
        data_mib_max: data_mib_max(spec),
        memfd: spec.memfd,
        environment: Vec::new(),
    })
}
