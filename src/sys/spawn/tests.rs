//! A confined process as `spawn` makes it, and the report of a failed step.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use super::*;
use crate::sys::{Ended, EndedHow, SystemCalls, Watched, poll, reap};

fn run(program: &CStr, arguments: &[&str]) -> Result<(String, Ended), SpawnError> {
    let null = File::open("/dev/null").unwrap();
    let (mut reader, writer) = io::pipe().unwrap();
    let arguments: Vec<CString> = arguments.iter().map(|text| CString::new(*text).unwrap()).collect();
    let spawned = spawn(&Spawn {
        program,
        arguments: &arguments,
        environment: b"A=b\0",
        folder: Some(c"/"),
        stdin: null.as_fd(),
        stdout: writer.as_fd(),
        stderr: writer.as_fd(),
        control: None,
        group: None,
        confinement: Some(Confinement {
            program_file: None,
            data_bytes_max: 64 << 20,
            open_files_max: 32,
            namespace: None,
            processes_max: None,
            gives_way: true,
            user: None,
            landlock: [None, None],
            system_calls: &SystemCalls::common(false),
            collects_orphans: true,
        }),
    })?;
    drop(writer);
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    poll(&mut [Watched::read(spawned.pidfd.as_fd())], None).unwrap();
    Ok((output, reap(spawned.pid).unwrap().unwrap()))
}

/// Its session, environment, folder, limits, and no further descriptor.
#[test]
fn a_process_gets_exactly_what_its_plan_says() {
    let script = "echo $A $(pwd) $(ulimit -d) $(ulimit -n); ls /proc/self/fd | wc -l; \
                  [ $(cut -d' ' -f6 /proc/$$/stat) = $$ ] && echo session; exit 7";
    let (output, ended) = run(c"/bin/sh", &["sh", "-c", script]).unwrap();
    // ls itself holds 0, 1, 2 and the folder that it lists.
    assert_eq!(output, "b / 65536 32\n4\nsession\n");
    assert_eq!(ended.how, EndedHow::Exited(7));
}

#[test]
fn a_failed_exec_names_step_and_cause() {
    let error = run(c"/no/such/program", &["x"]).unwrap_err();
    assert_eq!((error.step, error.cause.kind()), ("execute", io::ErrorKind::NotFound));
}
