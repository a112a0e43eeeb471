//! The log: its lines about each request, and attacks of functions on it.

use std::fs;
use std::io::Write;
use std::process::Command;

use crate::cases::each;
use crate::http::Answer;
use crate::instance::{Instance, needed, run, signal, wait_for, wait_until};

#[test]
fn each_request_is_one_line_with_time_id_method_route_status_worker_and_milliseconds() {
    let instance = Instance::start();
    instance.script("GET:/x/*", "echo x");
    instance.request("GET", "/x/y?q=1", &[("X-Request-Id", "it-found")], b"");
    instance.request("POST", "/nowhere", &[("X-Request-Id", "it-lost")], b"");
    let line = wait_for("it is logged", || instance.log_lines("request=it-found ").pop());
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
    let fields: Vec<(&str, &str)> = rest.split(' ').map(|field| field.split_once('=').unwrap()).collect();
    let value = |name: &str| fields.iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
    assert_eq!([value("method"), value("route"), value("path")], [Some("GET"), Some("GET:/x/*"), Some("/x/y")]);
    assert_eq!(value("status"), Some("200"));
    assert!(["0", "1"].contains(&value("worker").unwrap()));
    let figures = ["ms", "cpu_ms", "memory"].map(|name| value(name).unwrap().parse::<f64>().unwrap());
    assert!(figures.iter().all(|figure| *figure > 0.0), "{line}");
    let client = [value("client"), value("function"), value("bytes_in"), value("bytes")];
    assert_eq!(client, [Some("127.0.0.1"), Some("GET:/x/*"), Some("0"), Some("2")]);
    assert_eq!(instance.log_lines("request=it-found ").len(), 1);

    let line = wait_for("it is logged", || instance.log_lines("request=it-lost ").pop());
    assert!(line.contains("method=POST") && line.contains("status=404") && line.contains("worker=- "), "{line}");
}

#[test]
fn what_a_function_says_on_stderr_is_logged_line_by_line_with_the_request_id() {
    let instance = Instance::start();
    instance.script("GET:/x", "echo first >&2\nprintf 'second\\033[31m\\rthird' >&2");
    instance.request("GET", "/x", &[("X-Request-Id", "it-said")], b"");
    wait_until("it is logged", || instance.log_lines("request=it-said ").len() == 3);
    let lines = instance.log_lines("request=it-said route=GET:/x function=GET:/x stderr: ");
    assert!(lines[0].ends_with("stderr: first"), "{lines:?}");
    assert!(lines[1].contains("second") && lines[1].contains("third") && !lines[1].contains('\x1b'), "{lines:?}");
}

#[test]
fn polls_of_healthz_are_not_logged() {
    let instance = Instance::start();
    assert_eq!(instance.get("/healthz").status, 200);
    instance.request("PUT", "/healthz", &[("X-Request-Id", "it-after")], b"");
    instance.wait_for_log("request=it-after ", 1);
    assert_eq!(instance.log_lines("path=/healthz").len(), 1, "a request that is no poll");
}

#[test]
fn a_traceparent_is_logged_and_handed_on() {
    let instance = Instance::start();
    instance.script("GET:/x", "echo \"$HTTP_TRACEPARENT\"");
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let answer = instance.request("GET", "/x", &[("traceparent", parent), ("X-Request-Id", "it-traced")], b"");
    assert_eq!(answer.text().trim(), parent);
    assert!(instance.wait_for_log("request=it-traced ", 1)[0].contains(&format!(" traceparent={parent}")));
    instance.request("GET", "/x", &[("traceparent", "nonsense"), ("X-Request-Id", "it-odd")], b"");
    assert!(!instance.wait_for_log("request=it-odd ", 1)[0].contains("traceparent="));
}

#[test]
fn with_faas_log_json_each_line_is_an_object_with_the_same_names() {
    let instance = Instance::with(&[("FAAS_LOG", "json")]);
    instance.script("GET:/x", "printf 'a \"b\"\\033[31m' >&2; exit 3");
    instance.request("GET", "/x", &[("X-Request-Id", "it-json")], b"");
    let lines = instance.wait_for_log("\"request\":\"it-json\"", 2);
    let read = |line: &String| serde_json::from_str::<serde_json::Value>(line).unwrap();
    assert!(instance.log().lines().all(|line| read(&line.to_string())["time"].is_string()));
    let (complaints, calls): (Vec<_>, Vec<_>) = lines.iter().map(read).partition(|line| line["stderr"].is_string());
    each(complaints.iter().chain(&calls), |line| {
        assert_eq!([&line["request"], &line["route"], &line["function"]], ["it-json", "GET:/x", "GET:/x"]);
    });
    assert_eq!(complaints[0]["stderr"], "a \"b\"\u{1b}[31m");
    assert_eq!(calls[0]["status"], 500);
    assert!(calls[0]["cpu_ms"].is_f64() && calls[0]["memory"].is_u64(), "{calls:?}");
    assert!(calls[0]["error"].as_str().unwrap().starts_with("function-exited: "), "{calls:?}");
}

#[test]
fn a_flood_of_requests_without_a_route_is_bounded_and_what_was_dropped_is_said() {
    let instance = Instance::start();
    instance.script("GET:/x", "echo served");
    // Their lines are 18 MiB and more, since the log shows 256 bytes of a path and 128 of an id.
    let (path, id, count) = ("x".repeat(300), "i".repeat(128), 35_000);
    let request = format!("GET /{path} HTTP/1.1\r\nHost: it\r\nX-Request-Id: {id}\r\n\r\n");
    let mut connection = instance.connect();
    let mut sender = connection.get_ref().try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let batch = request.repeat(100);
            (0..count / 100).for_each(|_| sender.write_all(batch.as_bytes()).unwrap());
        });
        for _ in 0..count {
            assert_eq!(Answer::read(&mut connection, false).unwrap().status, 404);
        }
    });
    instance.wait_for_log("that reached no function were not logged", 1);
    let logged = instance.log_lines("status=404").len();
    let bytes = instance.log().len();
    assert!((1000..count).contains(&logged) && bytes < 17 << 20, "{logged} lines, {bytes} bytes");
    instance.request("GET", "/x", &[("X-Request-Id", "it-served")], b"");
    instance.wait_for_log("request=it-served ", 1);
}

#[test]
fn a_request_cannot_forge_a_log_line() {
    let instance = Instance::start();
    let request = "GET /x%0Arequest=forged HTTP/1.1\r\nHost: it\r\nX-Request-Id: a\u{85}b\r\nConnection: close\r\n\r\n";
    assert_eq!(instance.exchange(request)[0].status, 404);
    wait_until("it is logged", || !instance.log_lines("path=/x%0Arequest=forged").is_empty());
    assert!(instance.log().lines().all(|line| !line.contains("Z request=forged")));
    instance.exchange("broken\r\n\r\n");
    assert!(instance.log().lines().all(|line| line.starts_with("20")), "each line begins with a time");
}

/// Waits until the gateway, two workers and the console write to the new file.
fn wait_until_reopened(instance: &Instance) {
    wait_until("all programs have reopened it", || instance.log_lines("log: reopened ").len() == 4);
}

#[test]
fn sighup_has_all_programs_go_on_in_a_new_file() {
    let instance = Instance::with(&[("FAAS_CONSOLE", "127.0.0.1:0")]);
    instance.script("GET:/x", "echo said >&2");
    wait_until("the console is there", || instance.run_dir().join("console.address").exists());
    let old = instance.path("old.log");
    for round in 0..2 {
        fs::rename(instance.path("gateway.log"), &old).unwrap();
        signal("HUP", instance.gateway_pid());
        wait_until_reopened(&instance);
        let length = fs::metadata(&old).unwrap().len();
        let id = format!("it-{round}");
        instance.request("GET", "/x", &[("X-Request-Id", &id)], b"");
        // One line of the gateway, and one of the worker.
        wait_until("both lines are logged", || instance.log_lines(&format!("request={id} ")).len() == 2);
        assert_eq!(fs::metadata(&old).unwrap().len(), length);
    }
    assert_eq!(instance.get("/healthz").status, 200);
}

#[test]
fn a_log_that_is_a_pipe_is_not_reopened() {
    let mut instance = Instance::prepare(&[]);
    instance.init();
    instance.launch_into_pipe();
    instance.wait_until_ready();
    signal("HUP", instance.gateway_pid());
    instance.script("GET:/x", "echo x");
    assert_eq!(instance.get("/x").text(), "x\n");
    assert!(instance.log_lines("reopened").is_empty());
    assert_eq!(instance.stop().code(), Some(0));
}

#[test]
fn logrotate_moves_the_log_aside_without_a_lost_line() {
    let logrotate = needed("logrotate");
    let instance = Instance::with(&[("FAAS_CONSOLE", "127.0.0.1:0")]);
    wait_until("the console is there", || instance.run_dir().join("console.address").exists());
    let log = instance.path("gateway.log");
    let example = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/logrotate.conf")).unwrap();
    let config = example
        .replace("/srv/faas/run/gateway.log", &log.display().to_string())
        .replace("/srv/faas/run", &instance.run_dir().display().to_string());
    let path = instance.path("logrotate.conf");
    fs::write(&path, config).unwrap();
    instance.request("GET", "/nowhere", &[("X-Request-Id", "it-before")], b"");
    instance.wait_for_log("request=it-before ", 1);
    let state = instance.path("logrotate.state");
    let output = run(Command::new(logrotate).arg("--force").arg("--state").args([&state, &path]));
    assert!(output.status.success(), "{output:?}");
    wait_until_reopened(&instance);
    instance.request("GET", "/nowhere", &[("X-Request-Id", "it-after")], b"");
    instance.wait_for_log("request=it-after ", 1);
    let old = fs::read_to_string(instance.path("gateway.log.1")).unwrap();
    assert!(old.contains("request=it-before ") && !old.contains("request=it-after "));
}
