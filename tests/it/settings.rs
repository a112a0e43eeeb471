//! Start-up: settings, the run dir, the port, the command line.

use std::net::TcpListener;
use std::process::{Command, Output};

use crate::instance::{CONSOLE, GATEWAY, Instance, WORKER, run};

/// Asserts that a program refused to start with this exit code and one line, and returns the line.
fn refusal(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.lines().count()), (Some(code), 1), "{output:?}");
    said
}

#[test]
fn a_setting_that_cannot_be_used_ends_the_start_with_code_2_and_one_line_that_names_it() {
    for (name, value) in [
        ("FAAS_PORT", "http"),
        ("FAAS_PORT", "65536"),
        ("FAAS_HOST", "nowhere"),
        ("FAAS_WORKERS", "0"),
        ("FAAS_WORKER_SLOTS", "many"),
        ("FAAS_BODY_MAX", "-1"),
        ("FAAS_ANSWER_MAX", "0"),
        ("FAAS_DRAIN_MS", "1.5"),
        ("FAAS_QUEUE_MAX", "100000"),
        ("FAAS_EMA", "1"),
        ("FAAS_ALPHA", "-1"),
        ("FAAS_CONSOLE", "localhost"),
    ] {
        let instance = Instance::prepare(&[(name, value)]);
        for program in [GATEWAY, WORKER] {
            let line = refusal(&run(&mut instance.command(program)), 2);
            assert!(line.contains(&format!("{name}={value:?} cannot be used: it must be")), "{line}");
        }
    }
}

#[test]
fn an_unknown_argument_ends_the_start_with_code_2_and_says_where_to_look() {
    let instance = Instance::prepare(&[]);
    assert!(refusal(&instance.gateway(&["--fast"]), 2).contains("--help"));
    assert!(refusal(&run(instance.command(WORKER).arg("first")), 2).contains("\"first\""));
}

#[test]
fn help_lists_every_setting_and_starts_nothing() {
    for program in [GATEWAY, WORKER, CONSOLE] {
        let output = run(Command::new(program).arg("--help"));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        for name in [
            "FAAS_PORT",
            "FAAS_HOST",
            "FAAS_WORKERS",
            "FAAS_WORKER_SLOTS",
            "FAAS_DB",
            "FAAS_RUN_DIR",
            "FAAS_MODULE_ROOT",
            "FAAS_BODY_MAX",
            "FAAS_ANSWER_MAX",
            "FAAS_SPOOL_DIR",
            "FAAS_SPOOL_MAX",
            "FAAS_DRAIN_MS",
            "FAAS_LAME_DUCK_MS",
            "FAAS_FOLLOWER",
            "FAAS_QUEUE_MAX",
            "FAAS_QUEUE_TIMEOUT_MS",
            "FAAS_CONSOLE",
            "FAAS_ALPHA",
            "FAAS_BETA",
            "FAAS_GAMMA",
            "FAAS_EMA",
        ] {
            assert!(text.contains(name), "{name} is missing in {text}");
        }
    }
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
fn a_port_that_is_taken_is_one_line_that_names_its_holder() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let instance = Instance::prepare(&[("FAAS_PORT", &port)]);
    instance.init();
    let line = refusal(&instance.gateway(&[]), 1);
    assert!(line.contains(&format!("127.0.0.1:{port} is taken")) && line.contains("FAAS_PORT"), "{line}");
    assert!(line.contains(&format!("(pid {})", std::process::id())), "{line}");
    assert!(instance.processes().is_empty());
}

#[test]
fn port_is_taken_where_faas_port_is_not_set() {
    // As in `PORT=8081 FAAS_PORT= gateway`, with a port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let instance = Instance::with(&[("FAAS_PORT", ""), ("PORT", &port.to_string())]);
    assert_eq!(instance.address().port(), port);
}

#[test]
fn init_creates_the_registry_once_and_leaves_one_that_is_there_alone() {
    let instance = Instance::prepare(&[]);
    instance.init();
    let count = || instance.registry().query_row("SELECT count(*) FROM functions", [], |row| row.get::<_, u32>(0));
    assert_eq!(count().unwrap(), 5);
    instance.registry().execute("DELETE FROM functions", []).unwrap();
    instance.init();
    assert_eq!(count().unwrap(), 0);
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
