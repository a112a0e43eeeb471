//! The gateway under a service manager: notes to the manager (sd_notify(3)), and its units.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use crate::instance::{GATEWAY, Instance, need, run, wait_until};

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy");

/// The next note that the service manager gets.
fn note(manager: &UnixDatagram) -> String {
    let mut bytes = [0; 256];
    let count = manager.recv(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

#[test]
fn a_service_manager_is_told_of_the_start_and_of_the_stop() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut instance = Instance::prepare(&[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    instance.init();
    instance.launch();
    assert_eq!(note(&manager), "READY=1");
    instance.wait_until_ready();
    let environment = fs::read(format!("/proc/{}/environ", instance.worker_pid(0))).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("NOTIFY_SOCKET"), "it is the gateway's alone");
    assert_eq!(instance.stop().code(), Some(0));
    assert_eq!(note(&manager), "STOPPING=1");
}

#[test]
fn a_manager_that_takes_no_notes_is_no_reason_not_to_serve() {
    let mut instance = Instance::prepare(&[("NOTIFY_SOCKET", "/nonexistent/notify")]);
    instance.init();
    instance.launch();
    instance.wait_until_ready();
    assert_eq!(instance.get("/api/env").status, 200);
    wait_until("it is logged", || !instance.log_lines("could not send READY=1 to NOTIFY_SOCKET").is_empty());
}

#[test]
#[ignore = "needs systemd-analyze"]
fn systemd_finds_no_fault_with_the_units() {
    need(&["systemd-analyze"]);
    let folder = tempfile::tempdir().unwrap();
    for name in ["faas.service", "faas.socket"] {
        let unit = fs::read_to_string(format!("{DEPLOY}/{name}")).unwrap();
        // systemd-analyze checks that the program exists.
        fs::write(folder.path().join(name), unit.replace("/usr/lib/faas/gateway", GATEWAY)).unwrap();
    }
    let mut command = Command::new("systemd-analyze");
    let units = ["faas.service", "faas.socket"].map(|name| folder.path().join(name));
    let output = run(command.args(["verify", "--man=no", "--recursive-errors=no"]).args(units));
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
