//! Request smuggling through the whole gateway: a body that looks like a request reaches the function as a body, one
//! case for each framing. src/http_handler/smuggling.rs has the requests that two readers could read differently.

use serde_json::json;

use crate::cases::each;
use crate::http::Answer;
use crate::instance::Instance;

const MARKER: &str = "GET /marker HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n";
/// A body that looks like a request, as a smuggler sends it.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: s\r\n\r\n";

/// An instance whose function records each run and sends its body back.
fn echoing() -> Instance {
    let instance = Instance::start();
    let script = r#"#!/bin/sh
printf '%s %s %s\n' "$REQUEST_METHOD" "$REQUEST_URI" "$CONTENT_LENGTH" >>"$IT_FOLDER/runs"
cat
"#;
    let descriptor = instance.descriptor("native", script, json!({"output": "raw"}));
    let keys = ["GET:/", "POST:/", "GET:/*", "POST:/*"];
    instance.install(&keys.map(|key| (key, descriptor.clone())));
    instance
}

/// The runs of the function since the last call of this.
fn take_runs(instance: &Instance) -> Vec<String> {
    let path = instance.shared("runs");
    let runs = std::fs::read_to_string(&path).unwrap_or_default();
    let _ = std::fs::remove_file(path);
    runs.lines().map(str::to_string).collect()
}

fn statuses(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status).collect()
}

#[test]
fn a_body_that_is_a_request_stays_a_body() {
    let instance = echoing();
    let length = SMUGGLED.len();
    let (left, right) = SMUGGLED.split_at(20);
    let bodies = [
        format!("Content-Length: {length}\r\n\r\n{SMUGGLED}"),
        format!(
            "Transfer-Encoding: chunked\r\n\r\n14\r\n{left}\r\n{:x}\r\n{right}\r\n0\r\nContent-Length: 9\r\n\r\n",
            right.len()
        ),
    ];
    each(&bodies, |body| {
        let answers = instance.exchange(format!("POST /first HTTP/1.1\r\nHost: h\r\n{body}{MARKER}"));
        assert_eq!(statuses(&answers), [200, 200]);
        assert_eq!(answers[0].text(), SMUGGLED);
        assert_eq!(take_runs(&instance), [format!("POST /first {length}"), "GET /marker 0".into()]);
    });
    // The gateway reads the body of a GET, and of a request that it answers itself, to its end.
    each([("GET /first", 200), ("PUT /first", 405), ("GET /healthz", 200), ("OPTIONS *", 204)], |(line, status)| {
        let first = format!("{line} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}");
        assert_eq!(statuses(&instance.exchange(format!("{first}{MARKER}"))), [status, 200]);
        let runs = take_runs(&instance);
        assert_eq!(runs.last().unwrap(), "GET /marker 0");
        assert!(!runs.iter().any(|run| run.contains("smuggled")), "{runs:?}");
    });
}
