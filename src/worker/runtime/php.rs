//! PHP: the module is a script for the `php` program (php-cli).

use super::{Command, c_string, find_program};
use crate::limits::MEMORY_GRACE_MIB;
use crate::protocol::worker_protocol::{Invocation, Verdict};

pub(super) fn command(invocation: &Invocation) -> Result<Command, Verdict> {
    let (program, file) = find_program("php", "apt-get install php-cli")?;
    let mut arguments = vec![c_string("php")];
    let settings = [
        // PHP's own limit speaks first and clearly: it names file and line on stderr, and exits with 255.
        format!("memory_limit={}M", invocation.memory_mib),
        // Time is the platform's business.
        "max_execution_time=0".into(),
        // Faults go to stderr, and so into the log, never into the answer.
        "display_errors=0".into(),
        "log_errors=1".into(),
        "error_log=".into(),
        "html_errors=0".into(),
    ];
    for setting in settings {
        arguments.push(c_string("-d"));
        arguments.push(c_string(setting));
    }
    arguments.push(c_string("-f"));
    arguments.push(c_string(&invocation.module));
    Ok(Command {
        program,
        program_file: Some(file),
        arguments,
        data_mib_max: invocation.memory_mib + MEMORY_GRACE_MIB,
        environment: Vec::new(),
    })
}
