//! The console answers nobody but the operator, and no call depends on it.

use std::fs;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::cases::each;
use crate::http::Answer;
use crate::instance::{CONSOLE, Instance, signal, wait_for, wait_until};

pub const SETTINGS: &[(&str, &str)] = &[("FAAS_CONSOLE", "127.0.0.1:0")];

pub fn address(instance: &Instance) -> SocketAddr {
    let path = instance.run_dir().join("console.address");
    wait_for("the console listens", || fs::read_to_string(&path).ok()?.strip_suffix('\n')?.parse().ok())
}

pub fn token(instance: &Instance) -> String {
    fs::read_to_string(instance.run_dir().join("operator.token")).unwrap().trim_end().to_string()
}

/// The console's process; `None` while none runs.
fn process(instance: &Instance) -> Option<u32> {
    let is_console = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == Path::new(CONSOLE));
    instance.processes().into_iter().find(is_console)
}

fn connect(instance: &Instance) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address(instance))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

/// One request on a connection of its own, with these fields and no others.
fn try_ask(instance: &Instance, method: &str, target: &str, fields: &[(&str, &str)]) -> std::io::Result<Answer> {
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let mut stream = connect(instance)?;
    stream.write_all(format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n{fields}\r\n").as_bytes())?;
    Answer::read(&mut BufReader::new(stream), method == "HEAD")
}

fn ask(instance: &Instance, method: &str, target: &str, fields: &[(&str, &str)]) -> Answer {
    try_ask(instance, method, target, fields).unwrap_or_else(|error| panic!("{method} {target}: {error}"))
}

/// Like [`ask`], with the operator's token.
fn ask_with_token(instance: &Instance, method: &str, target: &str) -> Answer {
    let bearer = format!("Bearer {}", token(instance));
    ask(instance, method, target, &[("Host", "localhost"), ("Authorization", &bearer)])
}

/// Waits until a console other than `before` answers the operator.
fn wait_for_another(instance: &Instance, before: u32) -> u32 {
    wait_for("another console answers", || {
        let now = process(instance).filter(|pid| *pid != before)?;
        let bearer = format!("Bearer {}", token(instance));
        let fields = [("Host", "localhost"), ("Authorization", bearer.as_str())];
        let answer = try_ask(instance, "GET", "/api/v1/status", &fields).ok()?;
        (answer.status == 200).then_some(now)
    })
}

#[test]
fn operator_sees_workers_and_sandbox_and_the_public_does_not() {
    let instance = Instance::with(SETTINGS);
    let status = wait_for("both workers are shown", || {
        let answer = ask_with_token(&instance, "GET", "/api/v1/status");
        assert_eq!((answer.status, answer.field("Content-Type")), (200, Some("application/json")));
        Some(answer.json()).filter(|status| status["workers"].as_array().is_some_and(|workers| workers.len() == 2))
    });
    for (name, worker) in ["0", "1"].iter().zip(status["workers"].as_array().unwrap()) {
        assert_eq!(worker["id"].to_string(), *name);
        assert_eq!(worker["pid"], instance.worker_pid(name.parse().unwrap()));
        assert_eq!((&worker["slots"], &worker["in_flight"], &worker["fresh"]), (&8.into(), &0.into(), &true.into()));
        each(["cpu", "mem", "io", "score"], |figure| assert!(worker[figure].is_number(), "{worker}"));
    }
    assert_eq!((&status["status"], &status["waiting"]), (&"ready".into(), &0.into()));
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["routes"], 5);
    each(["generation", "uptime_s", "age_ms"], |figure| assert!(status[figure].is_u64(), "{status}"));
    each(["user", "landlock", "remarks"], |part| assert!(!status["sandbox"][part].is_null(), "{status}"));
    let health = instance.get("/healthz").json();
    let names: Vec<&String> = health.as_object().unwrap().keys().collect();
    assert_eq!(names, ["faulty_rows", "generation", "generation_age_s", "lag_s", "routes", "status"]);
}

#[test]
fn only_who_shows_the_token_under_an_own_address_is_answered() {
    let instance = Instance::with(SETTINGS);
    let token = token(&instance);
    assert!(token.len() == 64 && token.bytes().all(|byte| byte.is_ascii_hexdigit()), "{token}");
    let metadata = fs::metadata(instance.run_dir().join("operator.token")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let (good, own) = (format!("Bearer {token}"), address(&instance).to_string());
    let (short, basic) = (format!("Bearer {}", &token[1..]), format!("Basic {token}"));
    let cases = [
        (own.as_str(), good.as_str(), "GET", "/api/v1/status", 200),
        ("localhost", &good, "HEAD", "/api/v1/status?x=1", 200),
        ("localhost", "", "GET", "/api/v1/status", 401),
        ("localhost", "", "GET", "/nowhere", 401),
        ("localhost", "", "GET", "/login", 200),
        ("localhost", &basic, "GET", "/api/v1/status", 401),
        ("localhost", &short, "GET", "/api/v1/status", 401),
        ("evil.example", &good, "GET", "/api/v1/status", 403),
        ("", &good, "GET", "/api/v1/status", 403),
        ("localhost", &good, "GET", "/", 200),
        ("localhost", &good, "GET", "/api/v1/status/", 404),
        ("localhost", &good, "DELETE", "/api/v1/status", 405),
    ];
    each(cases, |(host, authorization, method, target, status)| {
        let fields = [("Host", host), ("Authorization", authorization)];
        let fields: Vec<_> = fields.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let answer = ask(&instance, method, target, &fields);
        let demands = answer.field("WWW-Authenticate").is_some();
        let allows = answer.field("Allow").is_some();
        assert_eq!((answer.status, demands, allows), (status, status == 401, status == 405), "{answer:?}");
    });
}

#[test]
fn wrong_tokens_are_soon_answered_429_and_the_right_one_is_not() {
    let instance = Instance::with(SETTINGS);
    let fields = [("Host", "localhost"), ("Authorization", "Bearer wrong")];
    let refusal = wait_for("one is too many", || {
        let answer = ask(&instance, "GET", "/api/v1/status", &fields);
        assert!([401, 429].contains(&answer.status), "{answer:?}");
        (answer.status == 429).then_some(answer)
    });
    assert_eq!(refusal.field("Retry-After"), Some("1"));
    assert_eq!(ask_with_token(&instance, "GET", "/api/v1/status").status, 200);
}

/// tiny_http never recovers from a version that it does not speak, nor from a length that no memory can hold.
#[test]
fn console_that_is_attacked_comes_back_and_calls_go_on() {
    let instance = Instance::with(SETTINGS);
    instance.script("GET:/x", "echo x");
    let (done, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let answer = instance.get("/x");
                if (answer.status, answer.text().as_str()) == (200, "x\n") {
                    calls.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                done.store(true, Ordering::Relaxed);
                panic!("{answer:?}");
            }
        });
        let first = wait_for("the console runs", || process(&instance));
        // Each attack leaves a thread and two descriptors behind.
        for _ in 0..100 {
            let Ok(mut stream) = connect(&instance) else { break };
            let _ = stream.write_all(b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n");
        }
        let second = wait_for_another(&instance, first);
        instance.wait_for_log("open files are too many; ending, to start anew", 1);
        let before = calls.load(Ordering::Relaxed);
        let mut last = second;
        let cases = [
            ("9000000000000000000", "console: was ended by signal 6"),
            ("18446744073709551615", "capacity overflow; ending, to start anew"),
        ];
        each(cases, |(length, log)| {
            let huge = format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
            connect(&instance).unwrap().write_all(huge.as_bytes()).unwrap();
            last = wait_for_another(&instance, last);
            instance.wait_for_log(log, 1);
        });
        wait_until("calls have gone on", || calls.load(Ordering::Relaxed) > before || done.load(Ordering::Relaxed));
        assert!(!done.swap(true, Ordering::Relaxed), "a call has failed");
    });
}

#[test]
fn body_that_never_comes_keeps_no_other_request_waiting() {
    let instance = Instance::with(SETTINGS);
    let mut stream = connect(&instance).unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n").unwrap();
    let answer = Answer::read(&mut BufReader::new(stream.try_clone().unwrap()), false).unwrap();
    assert_eq!(answer.status, 401);
    assert_eq!(ask_with_token(&instance, "GET", "/api/v1/status").status, 200);
}

#[test]
fn taken_address_is_a_warning_and_tried_again_with_growing_pauses() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let instance = Instance::with(&[("FAAS_CONSOLE", &holder.local_addr().unwrap().to_string())]);
    instance.script("GET:/x", "echo x");
    instance.wait_for_log("console: exited with code 1; trying again in 1000 ms", 1);
    instance.wait_for_log("console: exited with code 1; trying again in 2000 ms", 1);
    let reason =
        format!("the console's address {} (FAAS_CONSOLE): Address already in use", holder.local_addr().unwrap());
    instance.wait_for_log(&reason, 2);
    assert_eq!(instance.get("/x").text(), "x\n");
    drop(holder);
    assert_eq!(ask_with_token(&instance, "GET", "/api/v1/status").status, 200);
}

#[test]
fn console_has_no_privileges_but_its_user() {
    let instance = Instance::with(SETTINGS);
    assert_eq!(ask_with_token(&instance, "GET", "/api/v1/status").status, 200);
    let tasks = fs::read_dir(format!("/proc/{}/task", process(&instance).unwrap())).unwrap();
    // The thread of the last connection may end meanwhile.
    let statuses: Vec<_> =
        tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok()).collect();
    assert!(statuses.len() > 1);
    for status in statuses {
        each(["NoNewPrivs:\t1", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000"], |line| {
            assert!(status.contains(line), "is missing in {status}");
        });
    }
}

#[test]
fn console_ends_with_its_gateway_and_the_token_stays() {
    let mut instance = Instance::with(SETTINGS);
    let token = token(&instance);
    assert_eq!(ask_with_token(&instance, "GET", "/api/v1/status").status, 200);
    signal("KILL", instance.gateway_pid());
    instance.wait();
    wait_until("no process is left", || instance.processes().is_empty());
    instance.launch();
    instance.wait_until_ready();
    assert_eq!(ask_with_token(&instance, "GET", "/api/v1/status").status, 200);
    assert_eq!(self::token(&instance), token);
    assert_eq!(instance.stop().code(), Some(0));
    wait_until("no process is left", || instance.processes().is_empty());
    let names = fs::read_dir(instance.run_dir()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["operator.token"]);
}

#[test]
fn empty_setting_means_no_console() {
    let instance = Instance::with(&[("FAAS_CONSOLE", "")]);
    assert_eq!(process(&instance), None);
}
