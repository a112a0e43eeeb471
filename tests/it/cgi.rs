//! The contract with a function, CGI/1.1 (RFC 3875): environment, stdin, stdout, descriptors.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};

use serde_json::json;

use crate::http::{Answer, read_chunk};
use crate::instance::{Instance, has, wait_until};

#[test]
fn the_environment_is_that_of_cgi_and_nothing_of_the_gateways_own() {
    let instance = Instance::with(&[("SECRET", "1"), ("LANG", "C.UTF-8"), ("TZ", "UTC"), ("TMPDIR", "/nowhere")]);
    let more = json!({"name": "shown", "handler": "main", "env": {"OWN": "a=b c", "TZ": "CET"}});
    instance.script_with("POST:/show/*", "exec env -0", more);
    let fields = [
        ("Content-Type", "text/x-it"),
        ("X-Request-Id", "it-1"),
        ("Proxy", "http://evil"),
        ("X-Under_score", "evil"),
        ("Cookie", "a=1"),
        ("Cookie", "b=2"),
        ("X-Twice", "1"),
        ("X-Twice", "2"),
        ("Accept", "*/*"),
    ];
    let answer = instance.request("POST", "/show/a%20b/c?x=%41&y", &fields, b"12345");
    let text = answer.text();
    let mut variables = BTreeMap::new();
    for pair in text.split_terminator('\0') {
        let (name, value) = pair.split_once('=').unwrap();
        assert!(variables.insert(name, value).is_none(), "{name} stands twice");
    }
    // These variables differ from run to run.
    let mut take = |name: &str| variables.remove(name).unwrap_or_else(|| panic!("{name} is missing")).to_string();
    let deadline_ms: u128 = take("FAAS_DEADLINE_MS").parse().unwrap();
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert!((now_ms..now_ms + 30_000).contains(&deadline_ms), "{deadline_ms} is not within the timeout");
    assert!(take("REMOTE_PORT").parse::<u16>().is_ok());
    assert!(take("SERVER_SOFTWARE").starts_with("faas/"));
    take("PATH");
    let scratch = take("TMPDIR");
    assert!(scratch.starts_with(instance.path("spool").to_str().unwrap()), "the scratch folder");
    assert_eq!(take("HOME"), scratch);
    let user = instance.status()["sandbox"]["user"].as_str().unwrap().to_string();
    for name in ["USER", "LOGNAME"] {
        let value = take(name);
        assert!(value == user || user == "the gateway's own", "{value}");
    }
    let module = take("SCRIPT_FILENAME");
    assert!(module.starts_with(instance.path("").to_str().unwrap()) && module.ends_with(".native"), "{module}");
    assert_eq!(take("DOCUMENT_ROOT"), module.rsplit_once('/').unwrap().0);
    // The shell itself sets these.
    variables.remove("PWD");
    variables.remove("OLDPWD");
    variables.remove("_");
    variables.remove("SHLVL");
    let port = instance.address().port().to_string();
    let expected = BTreeMap::from([
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("SERVER_NAME", "it"),
        ("SERVER_ADDR", "127.0.0.1"),
        ("SERVER_PORT", &port),
        ("REQUEST_SCHEME", "http"),
        ("REQUEST_METHOD", "POST"),
        ("REQUEST_URI", "/show/a%20b/c?x=%41&y"),
        ("SCRIPT_NAME", "/show"),
        ("PATH_INFO", "/a b/c"),
        ("QUERY_STRING", "x=%41&y"),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("CONTENT_LENGTH", "5"),
        ("CONTENT_TYPE", "text/x-it"),
        ("FAAS_REQUEST_ID", "it-1"),
        ("FAAS_ROUTE", "POST:/show/*"),
        ("FAAS_FUNCTION", "shown"),
        ("FAAS_HANDLER", "main"),
        ("FAAS_OUTPUT", "auto"),
        ("HTTP_HOST", "it"),
        ("HTTP_COOKIE", "a=1; b=2"),
        ("HTTP_X_TWICE", "1, 2"),
        ("HTTP_ACCEPT", "*/*"),
        ("HTTP_X_REQUEST_ID", "it-1"),
        ("LANG", "C.UTF-8"),
        ("OWN", "a=b c"),
        ("TZ", "CET"),
    ]);
    assert_eq!(variables, expected);
}

#[test]
fn content_length_is_there_also_without_a_body_and_stdin_ends() {
    let instance = Instance::start();
    instance.script("GET:/x", "cat\necho \"length $CONTENT_LENGTH${CONTENT_TYPE-}\"");
    assert_eq!(instance.get("/x").text(), "length 0\n");
}

#[test]
fn wasm_functions_get_the_same_environment_and_body() {
    if !has(&["wasmer"]) {
        return;
    }
    let instance = Instance::start();
    // Copies the bytes of one read of stdin to stdout.
    let source = r#"(module
        (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start")
            (i32.store (i32.const 0) (i32.const 64))
            (i32.store (i32.const 4) (i32.const 1024))
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
            (i32.store (i32.const 4) (i32.load (i32.const 8)))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
    instance.function("POST:/echo", "wasm", source, json!({"output": "raw"}));
    assert_eq!(instance.post("/echo", "a body\0of 16 bytes").text(), "a body\0of 16 bytes");
}

#[test]
fn a_request_id_is_taken_over_where_it_is_sane_and_minted_where_not() {
    let instance = Instance::start();
    instance.script("GET:/x", "echo \"$FAAS_REQUEST_ID\"");
    let ask = |id: &str| {
        let answer = instance.request("GET", "/x", &[("X-Request-Id", id)], b"");
        let said = answer.field("X-Request-Id").unwrap().to_string();
        assert_eq!(answer.text(), format!("{said}\n"));
        said
    };
    assert_eq!(ask("Root=1-abc/7:+_."), "Root=1-abc/7:+_.");
    let (first, second) = (ask("with \"quotes\""), ask(&"x".repeat(200)));
    assert!(first != second && first.len() == 16 && second.len() == 16, "{first} {second}");
    let other = instance.get("/nowhere");
    assert_eq!(other.field("X-Request-Id").map(str::len), Some(16));
}

#[test]
fn binary_data_passes_in_both_directions_byte_by_byte() {
    let instance = Instance::start();
    let every_byte: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    instance.script_with("POST:/raw", "exec cat", json!({"output": "raw"}));
    instance.script_with("POST:/auto", "exec cat", json!({}));
    instance.script_with("POST:/cgi", "printf 'Content-Type: x/y\\r\\n\\r\\n'\nexec cat", json!({"output": "cgi"}));
    for (path, content_type) in [("/raw", "text/plain"), ("/auto", "text/plain"), ("/cgi", "x/y")] {
        for length in [1, 4095, 65_536, 65_537, 100_000] {
            let answer = instance.post(path, &every_byte[..length]);
            assert_eq!(answer.status, 200);
            assert!(answer.field("Content-Type").unwrap().starts_with(content_type));
            assert!(answer.body == every_byte[..length], "{path} {length}: {} bytes", answer.body.len());
        }
    }
}

#[test]
fn output_auto_finds_a_cgi_head_cgi_demands_one_and_raw_never_looks() {
    let instance = Instance::start();
    let ask = |output: &str, text: &str| {
        instance.script_with("GET:/x", &format!("printf '{text}'"), json!({"output": output}));
        let answer = instance.get("/x");
        let content_type = answer.field("Content-Type").unwrap_or("-").to_string();
        (answer.status, content_type, answer.text())
    };
    let is = |status: u16, content_type: &str, body: &str| (status, content_type.to_string(), body.to_string());
    assert_eq!(ask("auto", "Status: 201 Made\\nContent-Type: a/b\\n\\nbody"), is(201, "a/b", "body"));
    assert_eq!(ask("auto", "content-type: a/b\\r\\n\\r\\n"), is(200, "a/b", ""));
    assert_eq!(ask("auto", "Note: no head\\n\\nbody").2, "Note: no head\n\nbody");
    assert_eq!(ask("auto", "{\"a\": 1}").1, "application/json");
    assert_eq!(ask("auto", "[1]").1, "application/json");
    assert!(ask("auto", "hello").1.starts_with("text/plain"));
    assert_eq!(ask("cgi", "Location: /there\\n\\n").0, 302);
    let raw = ask("raw", "Status: 404\\n\\nbody");
    assert_eq!((raw.0, raw.2.as_str()), (200, "Status: 404\n\nbody"));
    assert_eq!(ask("auto", "").0, 200);
}

#[test]
fn a_function_cannot_split_the_head_nor_speak_for_the_platform() {
    let instance = Instance::start();
    let script = "printf 'Content-Type: text/plain\\r\\nX-Mine: yes\\r\\nContent-Length: 1\\r\\nTransfer-Encoding: chunked\\r\\n'\n\
        printf 'Connection: upgrade\\r\\nX-Request-Id: forged\\r\\nX-Faas-Worker: 99\\r\\n'\n\
        printf 'X-Faas-Spooled: 0\\r\\nx-faas-explain: forged\\r\\n\\r\\nbody'";
    instance.script("GET:/forge", script);
    let answer = instance.request("GET", "/forge", &[("X-Request-Id", "real")], b"");
    assert_eq!((answer.status, answer.text().as_str()), (200, "body"));
    assert_eq!([answer.field("X-Mine"), answer.field("Content-Length")], [Some("yes"), Some("4")]);
    assert_eq!([answer.field("X-Request-Id"), answer.field("Transfer-Encoding")], [Some("real"), None]);
    assert!(answer.field("X-Faas-Worker") != Some("99") && answer.field("Connection") != Some("upgrade"));
    assert_eq!([answer.field("X-Faas-Spooled"), answer.field("X-Faas-Explain")], [None, None]);

    // A bare CR, a NUL, or a second line could smuggle these in.
    for evil in ["X-Evil: a\\rSet-Cookie: b", "X-Evil: a\\0b", "X-Evil: a\\r\\n Set-Cookie: b", "X Evil: a", ": a"] {
        instance.script("GET:/evil", &format!("printf 'Content-Type: text/plain\\r\\n{evil}\\r\\n\\r\\nbody'"));
        let mut stream = instance.connect();
        stream.get_mut().write_all(b"GET /evil HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && stream.read_until(b'\n', &mut head).unwrap() > 0 {}
        let head = String::from_utf8(head).unwrap();
        let is_clean = head.split("\r\n").all(|line| !line.contains(['\r', '\n', '\0']));
        assert!(is_clean && !head.to_lowercase().contains("\r\nset-cookie"), "{evil}: {head:?}");
    }
}

#[test]
fn a_function_has_three_descriptors_a_session_of_its_own_and_no_new_privileges() {
    let instance = Instance::start();
    instance.script("POST:/fds", "ls /proc/$$/fd");
    let numbers = |body: &[u8]| {
        let text = instance.post("/fds", body).text();
        // Descriptors from 10 on are the shell's own: the script itself.
        text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|fd| *fd < 10).collect::<Vec<_>>()
    };
    assert_eq!(numbers(b""), [0, 1, 2]);
    assert_eq!(numbers(b"short"), [0, 1, 2]);
    assert_eq!(numbers(&[b'x'; 200_000]), [0, 1, 2]);
    instance.script(
        "GET:/status",
        "grep NoNewPrivs /proc/self/status\ncut -d ' ' -f 1,5,6 /proc/$$/stat\nulimit -n\nulimit -c",
    );
    let answer = instance.get("/status").text();
    let lines: Vec<&str> = answer.lines().collect();
    let ids: Vec<&str> = lines[1].split(' ').collect();
    assert_eq!(lines[0].split_whitespace().last(), Some("1"));
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "process, group and session: {ids:?}");
    assert_eq!(lines[2..], ["256", "0"]);
}

#[test]
fn a_function_that_leaves_its_body_unread_or_closes_its_pipes_is_answered() {
    let instance = Instance::start();
    let body = vec![b'x'; 1_000_000];
    instance.script("POST:/ignore", "echo done");
    instance.script("POST:/close", "exec <&-\necho done");
    instance.script("POST:/mute", "echo done\nexec >&- 2>&-\nread _ < \"$IT_FOLDER/gate\"");
    let mut gate = instance.gate("gate");
    for length in [10, 60_000, 1_000_000] {
        assert_eq!(instance.post("/ignore", &body[..length]).text(), "done\n");
        assert_eq!(instance.post("/close", &body[..length]).text(), "done\n");
    }
    gate.write_all(b"\n").unwrap();
    assert_eq!(instance.post("/mute", "x").text(), "done\n");
}

#[test]
fn a_function_that_fills_both_pipes_without_reading_does_not_hang() {
    let instance = Instance::start();
    let script = "head -c 1000000 /dev/zero | tr '\\0' e >&2\nhead -c 1000000 /dev/zero | tr '\\0' o\nwc -c";
    instance.script("POST:/both", script);
    for length in [60_000, 65_536, 300_000] {
        let text = instance.post("/both", vec![b'i'; length]).text();
        let (output, count) = text.split_at(1_000_000);
        assert!(output.bytes().all(|byte| byte == b'o'));
        assert_eq!(count.trim(), length.to_string());
    }
}

#[test]
fn the_answer_is_complete_when_the_main_process_has_ended_and_a_grandchild_is_killed() {
    let instance = Instance::start();
    // Each of these functions holds the pipe open, in a way of its own.
    let script = "sleep 1000 &\nsetsid sleep 1000 &\n(setsid sh -c 'sleep 1000 & wait' &)\necho answered";
    instance.script("GET:/leave", script);
    for _ in 0..3 {
        assert_eq!(instance.get("/leave").text(), "answered\n");
    }
    wait_until("its processes are gone", || instance.functions().is_empty());
}

#[test]
fn a_streamed_answer_that_breaks_off_is_cut_short_visibly() {
    let instance = Instance::start();
    let mut gate = instance.gate("gate");
    let more = json!({"stream": true});
    instance.script_with("GET:/fails", "echo first\nread _ < \"$IT_FOLDER/gate\"\nexit 1", more.clone());
    instance.script_with("GET:/ends", "echo first\nread _ < \"$IT_FOLDER/gate\"\necho last", more);
    for (path, is_whole) in [("/fails", false), ("/ends", true)] {
        let mut stream = instance.connect();
        write!(stream.get_mut(), "GET {path} HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n").unwrap();
        let head = Answer::read_head(&mut stream).unwrap();
        assert_eq!((head.status, head.field("Transfer-Encoding")), (200, Some("chunked")));
        // The first part arrives while the function still runs.
        assert_eq!(read_chunk(&mut stream).unwrap().unwrap(), b"first\n");
        assert!(!instance.functions().is_empty());
        gate.write_all(b"\n").unwrap();
        let mut rest = Vec::new();
        let ended = loop {
            match read_chunk(&mut stream) {
                Ok(Some(chunk)) if chunk.is_empty() => break true,
                Ok(Some(chunk)) => rest.extend(chunk),
                _ => break false,
            }
        };
        assert_eq!(ended, is_whole, "{path}: {rest:?}");
    }
    wait_until("it is said", || !instance.log_lines("the response was cut short").is_empty());
}
