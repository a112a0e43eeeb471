//! The end of service: SIGTERM finishes what has arrived, SIGKILL leaves nothing behind.

use std::fs;
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::http::Answer;
use crate::instance::{Instance, need, signal, wait_until};

/// Files in the run dir and in the spool folder after a clean end of the gateway: nothing but the token.
pub fn leftovers(instance: &Instance) -> Vec<String> {
    let entries = [instance.run_dir(), instance.path("spool")].map(|folder| fs::read_dir(folder).unwrap().flatten());
    let names = entries.into_iter().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "operator.token").collect()
}

#[test]
fn on_sigterm_every_request_that_has_begun_is_answered_and_nothing_is_left() {
    let mut instance = Instance::with(&[("FAAS_DRAIN_MS", "60000")]);
    let mut gate = instance.gate("gate");
    instance.script("POST:/wait", "touch \"$IT_FOLDER/started-$$\"\nread _ < \"$IT_FOLDER/gate\"\ncat");
    let request = b"POST /wait HTTP/1.1\r\nHost: it\r\nContent-Length: 4\r\n\r\nbody";
    // Three clients at each stage: the function runs, half the body has arrived, half the head, one byte.
    let cuts = [request.len(), request.len() - 2, 20, 1];
    let mut streams: Vec<(BufReader<TcpStream>, usize)> = Vec::new();
    for cut in cuts.into_iter().flat_map(|cut| [cut; 3]) {
        let mut stream = instance.connect();
        stream.get_mut().write_all(&request[..cut]).unwrap();
        streams.push((stream, cut));
    }
    let idle = instance.connect();
    let started = || {
        let names = fs::read_dir(instance.shared("")).unwrap().flatten();
        names.filter(|entry| entry.file_name().to_string_lossy().starts_with("started-")).count()
    };
    wait_until("three run", || started() == 3);
    signal("TERM", instance.gateway_pid());
    wait_until("it takes no more", || TcpStream::connect(instance.address()).is_err());
    for (stream, cut) in &mut streams {
        stream.get_mut().write_all(&request[*cut..]).unwrap();
    }
    gate.write_all(&[b'\n'; 12]).unwrap();
    for (stream, cut) in &mut streams {
        let answer = Answer::read(stream, false).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "body"), "cut at {cut}");
        assert_eq!(answer.field("Connection"), Some("close"));
    }
    drop(idle);
    assert_eq!(instance.wait().code(), Some(0));
    wait_until("no process is left", || instance.processes().is_empty());
    assert_eq!(leftovers(&instance), [] as [&str; 0]);
}

#[test]
fn on_sigterm_a_request_that_has_arrived_behind_another_is_answered_too() {
    let mut instance = Instance::with(&[("FAAS_DRAIN_MS", "60000")]);
    let mut gate = instance.gate("gate");
    instance.script("GET:/wait", "touch \"$IT_FOLDER/started\"\nread _ < \"$IT_FOLDER/gate\"\necho waited");
    instance.script("GET:/next", "echo next");
    let mut stream = instance.connect();
    stream.get_mut().write_all(b"GET /wait HTTP/1.1\r\nHost: it\r\n\r\n").unwrap();
    wait_until("the first runs", || instance.shared("started").exists());
    stream.get_mut().write_all(b"GET /next HTTP/1.1\r\nHost: it\r\n\r\n").unwrap();
    signal("TERM", instance.gateway_pid());
    wait_until("it takes no more", || TcpStream::connect(instance.address()).is_err());
    gate.write_all(b"\n").unwrap();
    let first = Answer::read(&mut stream, false).unwrap();
    assert_eq!((first.text().as_str(), first.field("Connection")), ("waited\n", None));
    let second = Answer::read(&mut stream, false).unwrap();
    assert_eq!((second.text().as_str(), second.field("Connection")), ("next\n", Some("close")));
    assert_eq!(instance.wait().code(), Some(0));
}

#[test]
fn on_sigterm_under_load_no_request_is_lost() {
    let mut instance = Instance::with(&[("FAAS_DRAIN_MS", "60000")]);
    instance.script("GET:/x", "echo x");
    let (ending, pid, address) = (AtomicBool::new(false), instance.gateway_pid(), instance.address());
    std::thread::scope(|scope| {
        let clients = [(); 8].map(|()| {
            scope.spawn(|| {
                let mut count = 0;
                loop {
                    let sent = TcpStream::connect(address).and_then(|mut stream| {
                        stream.write_all(b"GET /x HTTP/1.1\r\nHost: it\r\n\r\n").map(|()| BufReader::new(stream))
                    });
                    // A request sent before the signal has arrived, so the gateway must answer it.
                    let has_arrived = !ending.load(Ordering::SeqCst);
                    match sent.and_then(|mut stream| Answer::read(&mut stream, false)) {
                        Ok(answer) => assert_eq!(answer.text(), "x\n"),
                        Err(error) => assert!(!has_arrived, "a request was lost: {error}"),
                    }
                    count += 1;
                    if !has_arrived {
                        return count;
                    }
                }
            })
        });
        wait_until("there is load", || instance.log_lines("path=/x").len() > 50);
        ending.store(true, Ordering::SeqCst);
        signal("TERM", pid);
        assert!(clients.map(|client| client.join().unwrap()).iter().sum::<usize>() > 50);
    });
    assert_eq!(instance.wait().code(), Some(0));
    wait_until("no process is left", || instance.processes().is_empty());
    assert_eq!(leftovers(&instance), [] as [&str; 0]);
}

#[test]
fn what_does_not_end_within_the_drain_is_cut_off_and_the_exit_code_is_0() {
    let mut instance = Instance::with(&[("FAAS_DRAIN_MS", "100")]);
    instance.script("GET:/sleep", "setsid sleep 1000 &\ntouch \"$IT_FOLDER/started\"\nsleep 1000");
    let mut stream = instance.connect();
    stream.get_mut().write_all(b"GET /sleep HTTP/1.1\r\nHost: it\r\n\r\n").unwrap();
    wait_until("it runs", || instance.shared("started").exists());
    assert_eq!(instance.stop().code(), Some(0));
    wait_until("no process is left", || instance.processes().is_empty());
    assert_eq!(leftovers(&instance), [] as [&str; 0]);
    assert_eq!(instance.log_lines("calls are cut off after ").len(), 1);
    // The client gets an error response, or sees the end of the connection.
    assert!(Answer::read(&mut stream, false).map_or(true, |answer| answer.status >= 500));
}

#[test]
fn a_second_sigterm_ends_the_drain_and_every_client_gets_a_response() {
    let mut instance = Instance::with(&[("FAAS_DRAIN_MS", "60000"), ("FAAS_WORKERS", "1"), ("FAAS_WORKER_SLOTS", "1")]);
    instance.script("*:/sleep", "touch \"$IT_FOLDER/started\"\nsleep 1000");
    let send = |method: &str| {
        let mut stream = instance.connect();
        let request = format!("{method} /sleep HTTP/1.1\r\nHost: it\r\nContent-Length: 0\r\n\r\n");
        stream.get_mut().write_all(request.as_bytes()).unwrap();
        stream
    };
    let mut running = send("POST");
    wait_until("it runs", || instance.shared("started").exists());
    let mut in_line = send("GET");
    wait_until("one waits", || instance.status()["waiting"] == 1);
    signal("TERM", instance.gateway_pid());
    wait_until("it takes no more", || TcpStream::connect(instance.address()).is_err());
    signal("TERM", instance.gateway_pid());
    let answer = Answer::read(&mut running, false).unwrap();
    assert_eq!((answer.status, answer.json()["type"].as_str()), (502, Some("urn:faas:stopping")));
    let answer = Answer::read(&mut in_line, false).unwrap();
    assert_eq!((answer.status, answer.json()["type"].as_str()), (503, Some("urn:faas:stopping")));
    assert!(answer.field("Retry-After").is_some());
    assert_eq!(instance.wait().code(), Some(0));
    wait_until("no process is left", || instance.processes().is_empty());
    assert_eq!(leftovers(&instance), [] as [&str; 0]);
}

#[test]
fn a_terminal_that_closes_has_what_runs_answered() {
    need(&["script"]);
    let mut instance = Instance::prepare(&[("FAAS_DRAIN_MS", "60000")]);
    instance.init();
    instance.launch_at_terminal();
    instance.wait_until_ready();
    let mut gate = instance.gate("gate");
    instance.script("GET:/wait", "touch \"$IT_FOLDER/started\"\nread _ < \"$IT_FOLDER/gate\"\necho waited");
    let mut stream = instance.connect();
    stream.get_mut().write_all(b"GET /wait HTTP/1.1\r\nHost: it\r\n\r\n").unwrap();
    wait_until("it runs", || instance.shared("started").exists());
    signal("KILL", instance.gateway_pid());
    wait_until("it takes no more", || TcpStream::connect(instance.address()).is_err());
    gate.write_all(b"\n").unwrap();
    assert_eq!(Answer::read(&mut stream, false).unwrap().text(), "waited\n");
    wait_until("no process is left", || instance.processes().is_empty());
    assert_eq!(leftovers(&instance), [] as [&str; 0]);
}

#[test]
fn an_interrupt_from_the_terminal_ends_it_like_sigterm() {
    let mut instance = Instance::start();
    signal("INT", instance.gateway_pid());
    assert_eq!(instance.wait().code(), Some(0));
    wait_until("no process is left", || instance.processes().is_empty());
}
