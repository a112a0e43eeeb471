//! Native: the module itself is executed; a script names its interpreter in its first line.

use super::{Command, c_string};
use crate::protocol::function_spec::FunctionSpec;

pub fn command(spec: &FunctionSpec) -> Command {
    let module = c_string(&spec.module);
    let arguments = std::iter::once(module.clone()).chain(spec.args.iter().map(c_string)).collect();
    Command::new(spec, module, None, arguments)
}
