//! An upgrade: a successor takes over the public port, and no client notices.

use std::fs;
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::ending::leftovers;
use crate::http::Answer;
use crate::instance::{GATEWAY, Instance, need, run, signal, wait_until};

/// New connections a second while the gateway is upgraded.
const RATE: u32 = 200;

/// Calls at once, below FAAS_QUEUE_MAX.
const UNANSWERED_MAX: usize = 100;

fn current(instance: &Instance) -> Option<u32> {
    fs::read_to_string(instance.run_dir().join("gateway.pid")).ok()?.trim().parse().ok()
}

/// Starts a successor, and waits until it is the current gateway.
fn upgrade(instance: &mut Instance) {
    let old = current(instance).unwrap();
    instance.launch_successor();
    wait_until("the successor is the current gateway", || current(instance).is_some_and(|pid| pid != old));
    assert_eq!(current(instance), Some(instance.gateway_pid()));
}

#[test]
fn an_upgrade_refuses_no_connection_and_answers_every_call() {
    let mut instance = Instance::with(&[("FAAS_DRAIN_MS", "60000"), ("FAAS_CONSOLE", "127.0.0.1:0")]);
    instance.script("GET:/quick", "echo quick");
    instance.script("GET:/slow", "touch \"$IT_FOLDER/started\"\nsleep 5\necho slow");
    let (address, is_over, count) = (instance.address(), AtomicBool::new(false), AtomicUsize::new(0));
    let call = |path: &str| -> std::io::Result<Answer> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n").as_bytes())?;
        Answer::read(&mut BufReader::new(stream), false)
    };
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| call("/slow").unwrap());
        wait_until("the slow one runs", || instance.shared("started").exists());
        let (call, is_over, count) = (&call, &is_over, &count);
        let callers = scope.spawn(move || {
            let (begun, mut calls) = (Instant::now(), Vec::new());
            while !is_over.load(Ordering::SeqCst) {
                // On a machine that falls behind, further calls would find the queue full.
                if calls.len() - count.load(Ordering::SeqCst) >= UNANSWERED_MAX {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                calls.push(scope.spawn(move || {
                    assert_eq!(call("/quick").unwrap().text(), "quick\n");
                    count.fetch_add(1, Ordering::SeqCst);
                }));
                let due = begun + Duration::from_secs(calls.len() as u64) / RATE;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            calls.into_iter().for_each(|call| call.join().unwrap());
        });
        let calls = || count.load(Ordering::SeqCst);
        for _ in 0..2 {
            let before = calls();
            wait_until("there is load", || calls() > before + 50);
            upgrade(&mut instance);
            let before = calls();
            wait_until("there is load still", || calls() > before + 50);
        }
        assert_eq!(slow.join().unwrap().text(), "slow\n");
        is_over.store(true, Ordering::SeqCst);
        callers.join().unwrap();
    });
    let lines = instance.wait_for_log("path=/quick ", count.load(Ordering::SeqCst));
    assert!(lines.iter().all(|line| line.contains(" status=200 ")), "{lines:?}");
    instance.wait_for_log("gateway: the older ones have ended", 1);
    let folders = ["1", "2", "3"].iter().filter(|name| instance.run_dir().join(name).exists()).count();
    assert_eq!(folders, 1);
    wait_until("the console is the new one's", || instance.run_dir().join("console.address").exists());
    assert_eq!(instance.stop().code(), Some(0));
    wait_until("no process is left", || instance.processes().is_empty());
    assert_eq!(
        leftovers(&instance),
        [] as [&str; 0],
        "{:?}",
        run(std::process::Command::new("find").arg(instance.path("spool")))
    );
}

#[test]
fn a_successor_that_is_not_ready_ends_and_the_old_gateway_goes_on() {
    let instance = Instance::with(&[]);
    instance.script("GET:/x", "echo x");
    let pid = current(&instance).unwrap();
    // The successor's workers cannot start.
    let folder = instance.path("lame");
    fs::create_dir(&folder).unwrap();
    fs::copy(GATEWAY, folder.join("gateway")).unwrap();
    fs::copy("/bin/false", folder.join("worker")).unwrap();
    fs::copy("/bin/false", folder.join("console")).unwrap();
    let begun = Instant::now();
    let output = run(instance.command(folder.join("gateway").to_str().unwrap()).arg("--succeed"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(begun.elapsed() >= Duration::from_secs(30));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("not ready after 30 s; the old gateway goes on"), "{said}");
    instance.wait_for_log("does not succeed this one", 1);
    assert_eq!(current(&instance), Some(pid));
    assert_eq!(instance.get("/x").text(), "x\n");
}

#[test]
fn a_successor_that_dies_leaves_the_old_gateway_in_service_and_another_can_succeed() {
    let mut instance = Instance::with(&[("FAAS_DRAIN_MS", "60000")]);
    instance.script("GET:/x", "echo x");
    let old = instance.gateway_pid();
    // The test kills the successor at once, in whatever state it is.
    let killed = instance.start_successor();
    instance.wait_for_log("is to succeed this one", 1);
    signal("KILL", killed);
    instance.wait_for_log("does not succeed this one", 1);
    wait_until("the old one is the current one", || current(&instance) == Some(old));
    assert_eq!(instance.get("/x").text(), "x\n");
    upgrade(&mut instance);
    assert_eq!(instance.get("/x").text(), "x\n");
    instance.wait_for_log("gateway: the older ones have ended", 1);
    // The last successor holds the run dir alone now.
    let second = instance.gateway(&[]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("already runs in"), "{second:?}");
}

#[test]
fn a_socket_of_a_service_manager_is_the_public_port() {
    need(&["python3"]);
    let mut instance = Instance::prepare(&[]);
    instance.init();
    // systemd's own program for trying socket activation is not everywhere; Python's os module does what it does.
    let python = "import os, socket, sys\n\
                  listener = socket.create_server(('127.0.0.1', 0))\n\
                  open('listened', 'w').write(str(listener.getsockname()[1]))\n\
                  os.dup2(listener.fileno(), 3); os.set_inheritable(3, True)\n\
                  os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n\
                  os.execv(sys.argv[1], [sys.argv[1]])\n";
    instance.launch_by("python3", &["-c", python, GATEWAY]);
    instance.wait_until_ready();
    let port: u16 = fs::read_to_string(instance.path("listened")).unwrap().parse().unwrap();
    assert_eq!(instance.address().port(), port);
    assert_eq!(instance.get("/api/env").status, 200);
    let environment = fs::read(format!("/proc/{}/environ", instance.worker_pid(0))).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("LISTEN_"), "it is the gateway's alone");
    assert_eq!(instance.stop().code(), Some(0));
}
