//! Start-up: settings, the run dir, the port, the command line.

use std::process::{Command, Output};

use crate::cases::each;
use crate::instance::{CONSOLE, GATEWAY, Instance, WORKER, run};

/// Asserts that a program refused to start with this exit code and one line, and returns the line.
fn refusal(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.lines().count()), (Some(code), 1), "{output:?}");
    said
}

#[test]
fn a_setting_that_cannot_be_used_ends_the_start_with_code_2_and_one_line_that_names_it() {
    let instance = Instance::prepare(&[("FAAS_PORT", "http")]);
    each([GATEWAY, WORKER], |program| {
        let line = refusal(&run(&mut instance.command(program)), 2);
        assert!(line.contains("FAAS_PORT=\"http\" cannot be used: it must be"), "{line}");
    });
}

#[test]
fn an_unknown_argument_ends_the_start_with_code_2_and_says_where_to_look() {
    let instance = Instance::prepare(&[]);
    assert!(refusal(&instance.gateway(&["--fast"]), 2).contains("--help"));
    assert!(refusal(&run(instance.command(WORKER).arg("first")), 2).contains("\"first\""));
}

#[test]
fn help_lists_the_settings_and_starts_nothing() {
    each([GATEWAY, WORKER, CONSOLE], |program| {
        let output = run(Command::new(program).arg("--help"));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        assert!(text.contains("FAAS_PORT"), "{text}");
    });
}

#[test]
fn a_second_gateway_in_the_same_run_dir_is_refused_and_harms_nothing() {
    let instance = Instance::start();
    instance.script("GET:/x", "echo x");
    let line = refusal(&instance.gateway(&[]), 1);
    assert!(line.contains(&format!("process {}", instance.gateway_pid())) && line.contains("FAAS_RUN_DIR"), "{line}");
    assert_eq!(instance.get("/x").text(), "x\n");
    assert_eq!(instance.gateway(&["--healthz"]).status.code(), Some(0));
    // Nor does a second worker start with an id in use.
    let line = refusal(&run(instance.command(WORKER).arg("0")), 1);
    assert!(line.contains("worker 0 already runs"), "{line}");
}

#[test]
fn the_run_dir_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let instance = Instance::start();
    let mode = std::fs::metadata(instance.run_dir()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn it_starts_and_serves_within_a_gigabyte_of_addresses() {
    let mut instance = Instance::prepare(&[]);
    instance.init();
    instance.launch_under("ulimit -v 1000000");
    instance.wait_until_ready();
    instance.script("GET:/served", "echo served");
    assert_eq!(instance.get("/served").text(), "served\n");
}
