//! The registry: changes made by the sqlite3 program come into service, whatever happens to the file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;

use crate::cases::each;
use crate::instance::{Instance, run, wait_until};

/// A table as the C original makes it, without constraints.
const PLAIN_TABLE: &str = "CREATE TABLE functions (k TEXT PRIMARY KEY, v TEXT NOT NULL, updated INTEGER);";

#[test]
fn the_last_good_routes_serve_while_the_registry_is_missing_or_damaged_and_it_is_said_once() {
    let instance = Instance::start();
    instance.script("GET:/good", "echo good");
    let is_good = || instance.get("/good").text() == "good\n" && instance.get("/healthz").status == 200;
    let complaints = || instance.log_lines(" registry ").len();
    let backup = instance.path("backup.db");
    // A copy in one file, without -wal.
    instance.registry().execute("VACUUM INTO ?1", [backup.to_str().unwrap()]).unwrap();

    let before = complaints();
    fs::write(instance.db(), "this is no database".repeat(1000)).unwrap();
    wait_until("it is said", || complaints() > before);
    assert!(is_good());
    let stale = "the registry cannot be used; its last good routes are in service";
    assert_eq!(instance.get("/healthz").json()["status"], stale);
    assert!(instance.status()["registry"]["fault"].is_string(), "{}", instance.status());

    // The operator mends it: takes a good file and adds a row.
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(instance.path(&format!("registry.db{suffix}")));
    }
    fs::rename(&backup, instance.db()).unwrap();
    instance.script("GET:/new", "echo new");
    // The good file is a change of its own, which may have ended the wait above.
    wait_until("the row is in service", || instance.get("/new").text() == "new\n");
    assert!(is_good());
    assert_eq!(instance.get("/healthz").json()["status"], "ready");
    assert_eq!(
        complaints(),
        before + 2,
        "one line for the fault and one for its end: {:?}",
        instance.log_lines(" registry ")
    );
}

#[test]
fn a_bad_row_keeps_its_last_good_version_and_a_new_bad_row_answers_500_naming_its_fault() {
    let mut instance = Instance::prepare(&[]);
    instance.registry().execute_batch(PLAIN_TABLE).unwrap();
    instance.launch();
    instance.wait_until_ready();
    instance.script("GET:/row", "echo good");
    instance.install(&[("GET:/row", json!({"runtime": "native", "module": "x", "timeout": 0}))]);
    assert_eq!(instance.get("/row").text(), "good\n");
    wait_until("it is said", || !instance.log_lines("row GET:/row: timeout is 0").is_empty());
    assert!(instance.log_lines("row GET:/row:")[0].ends_with("its last good version stays in service"));

    instance.install(&[("GET:/bad", json!({"runtime": "lua", "module": "x"}))]);
    let detail = instance.get("/bad").problem(500, "row-unusable");
    assert!(detail.ends_with("runtime must be one of php, wasm, native"), "{detail}");
    let told = &instance.status()["registry"];
    assert_eq!((&told["faulty_rows"], &told["first"][1]["route"]), (&json!(2), &json!("GET:/row")), "{told}");
    assert_eq!(instance.get("/healthz").json()["faulty_rows"], 2);
    let said = run(instance.command(env!("CARGO_BIN_EXE_faas")).arg("status"));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("\nrow GET:/row: timeout is 0; it must be"), "{said}");
}

#[test]
fn what_calls_of_a_new_row_would_meet_is_told_when_it_arrives() {
    let mut instance = Instance::prepare(&[]);
    instance.registry().execute_batch(PLAIN_TABLE).unwrap();
    instance.launch();
    instance.wait_until_ready();
    let plain = instance.path("plain.sh");
    fs::write(&plain, "#!/bin/sh\n").unwrap();
    let good = instance.program("good.sh", "#!/bin/sh\necho good\n");
    let windows = instance.program("windows.sh", "#!/bin/sh\r\n");
    let secret = instance.path("secret.php");
    fs::write(&secret, "<?php\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let native = |module: &std::path::Path| json!({"runtime": "native", "module": module});
    let with = |name: &str, value: serde_json::Value| {
        let mut row = native(&good);
        row[name] = value;
        row
    };
    instance.install(&[
        ("GET:/a", native(&instance.path("nothing.sh"))),
        ("GET:/b", native(&plain)),
        ("GET:/c", native(&windows)),
        ("GET:/d", with("memroy", json!(64))),
        ("GET:/e", with("write", json!(["no such folder"]))),
        ("GET:/f", native(&good)),
        ("GET:/g", json!({"runtime": "php", "module": secret})),
    ]);
    let is_other_user = !instance.log_lines("functions run as nobody").is_empty();
    let unreadable = ("/g", format!("the user nobody cannot read {0}; try: chmod o+r {0}", secret.display()));
    let cases = [
        ("/a", "no module is at ".to_string()),
        ("/b", format!("is not executable; try: chmod +x {}", plain.display())),
        ("/c", "ends with CR LF".to_string()),
        ("/d", r#"the field memroy does not exist, and is ignored"#.to_string()),
        ("/e", "nothing is there; try: mkdir -p '".to_string()),
    ];
    each(cases.into_iter().chain(is_other_user.then_some(unreadable)), |(key, says)| {
        let lines = instance.wait_for_log(&format!("registry: row GET:{key}: "), 1);
        assert!(lines.len() == 1 && lines[0].contains(&says), "{lines:?}");
    });
    assert!(instance.log_lines("row GET:/f").is_empty() && instance.get("/f").text() == "good\n");
}

#[test]
fn a_pipe_in_the_place_of_a_program_holds_up_no_other_row() {
    let instance = Instance::start();
    let pipe = instance.path("pipe");
    assert!(run(Command::new("mkfifo").args(["-m", "777"]).arg(&pipe)).status.success());
    for runtime in ["native", "php", "wasm"] {
        instance.install(&[("GET:/pipe", json!({"runtime": runtime, "module": pipe}))]);
        instance.get("/pipe").problem(500, "module-missing");
    }
    instance.script("GET:/other", "echo other");
    assert_eq!(instance.get("/other").text(), "other\n");
}

#[test]
fn what_the_gateways_own_user_may_not_do_is_told_when_a_row_arrives() {
    let mut instance = Instance::prepare(&[]);
    if !instance.is_run_as_plain_user() {
        instance.run_as(47_116);
    }
    instance.init();
    instance.launch();
    instance.wait_until_ready();
    let closed = instance.path("closed.php");
    fs::write(&closed, "<?php").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    instance.install(&[("GET:/closed", json!({"runtime": "php", "module": closed, "write": ["/etc"]}))]);
    let lines = instance.wait_for_log("row GET:/closed: ", 2);
    let reading = format!("functions run as the gateway's own user, who cannot read {}", closed.display());
    let writing = "write names /etc, but functions run as the gateway's own user, who cannot write there; \
        root can change that: chown ";
    assert!(lines[0].ends_with(&reading) && lines[1].contains(writing), "{lines:?}");
}

#[test]
fn a_path_with_other_methods_answers_405_with_allow_options_204_and_head_the_get_route() {
    let instance = Instance::start();
    instance.script("GET:/page", "echo page");
    instance.script("PUT:/page", "echo put");
    let answer = instance.post("/page", "");
    answer.problem(405, "method-not-allowed");
    assert_eq!(answer.field("Allow"), Some("GET, HEAD, PUT, OPTIONS"));

    let answer = instance.request("OPTIONS", "/page", &[], b"");
    assert_eq!((answer.status, answer.field("Allow")), (204, Some("GET, HEAD, PUT, OPTIONS")));
    assert!(answer.body.is_empty());
    instance.request("OPTIONS", "/nowhere", &[], b"").problem(404, "no-route");

    let answer = instance.request("HEAD", "/page", &[], b"");
    assert_eq!((answer.status, answer.field("Content-Length")), (200, Some("5")));
}

#[test]
fn healthz_answers_503_until_the_registry_is_loaded_and_names_the_reason() {
    let mut instance = Instance::prepare(&[]);
    instance.launch();
    wait_until("the workers are there", || instance.status()["workers"].as_array().unwrap().len() == 2);
    let answer = instance.get("/healthz");
    assert_eq!((answer.status, answer.field("Retry-After")), (503, Some("1")));
    assert_eq!(answer.json()["status"], "the registry is not loaded");
    assert_eq!(instance.gateway(&["--healthz"]).status.code(), Some(1));
    instance.get("/ping").problem(503, "registry-not-loaded");
    instance.init();
    instance.wait_until_ready();
    assert_eq!(instance.get("/healthz").json()["status"], "ready");
    assert_eq!(instance.gateway(&["--healthz"]).status.code(), Some(0));
    assert_eq!(instance.request("HEAD", "/healthz", &[], b"").status, 200);
    instance.post("/healthz", "").problem(405, "method-not-allowed");
}
