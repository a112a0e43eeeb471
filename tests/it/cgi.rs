//! The contract with a function, CGI/1.1 (RFC 3875): environment, stdin, stdout, descriptors.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::json;

use crate::cases::each;
use crate::http::{Answer, read_chunk};
use crate::instance::{Instance, wait_until};

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
fn binary_data_passes_in_both_directions_byte_by_byte() {
    let instance = Instance::start();
    let every_byte: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    instance.script_with("POST:/raw", "exec cat", json!({"output": "raw"}));
    instance.script_with("POST:/auto", "exec cat", json!({}));
    instance.script_with("POST:/cgi", "printf 'Content-Type: x/y\\r\\n\\r\\n'\nexec cat", json!({"output": "cgi"}));
    each([("/raw", "text/plain"), ("/auto", "text/plain"), ("/cgi", "x/y")], |(path, content_type)| {
        each([1, 4095, 65_536, 65_537, 100_000], |length| {
            let answer = instance.post(path, &every_byte[..length]);
            assert_eq!(answer.status, 200);
            assert!(answer.field("Content-Type").unwrap().starts_with(content_type));
            assert!(answer.body == every_byte[..length], "{} bytes", answer.body.len());
        });
    });
}

#[test]
fn the_field_output_says_where_a_head_is_looked_for() {
    let instance = Instance::start();
    let ask = |output: &str, text: &str| {
        instance.script_with("GET:/x", &format!("printf '{text}'"), json!({"output": output}));
        instance.get("/x")
    };
    let text = "Status: 201 Made\\nContent-Type: a/b\\n\\nbody";
    let auto = ask("auto", text);
    assert_eq!((auto.status, auto.field("Content-Type"), auto.text()), (201, Some("a/b"), "body".into()));
    let raw = ask("raw", text);
    assert_eq!((raw.status, raw.text()), (200, "Status: 201 Made\nContent-Type: a/b\n\nbody".into()));
    ask("cgi", "no head at all").problem(502, "cgi-malformed");
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
fn a_function_that_fills_both_pipes_without_reading_does_not_hang() {
    let instance = Instance::start();
    let script = "head -c 1000000 /dev/zero | tr '\\0' e >&2\nhead -c 1000000 /dev/zero | tr '\\0' o\nwc -c";
    instance.script("POST:/both", script);
    each([60_000, 65_536, 300_000], |length| {
        let text = instance.post("/both", vec![b'i'; length]).text();
        let (output, count) = text.split_at(1_000_000);
        assert!(output.bytes().all(|byte| byte == b'o'));
        assert_eq!(count.trim(), length.to_string());
    });
}

#[test]
fn a_streamed_answer_that_breaks_off_is_cut_short_visibly() {
    let instance = Instance::start();
    let mut gate = instance.gate("gate");
    let more = json!({"stream": true});
    instance.script_with("GET:/fails", "echo first\nread _ < \"$IT_FOLDER/gate\"\nexit 1", more.clone());
    instance.script_with("GET:/ends", "echo first\nread _ < \"$IT_FOLDER/gate\"\necho last", more);
    each([("/fails", false), ("/ends", true)], |(path, is_whole)| {
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
    });
    wait_until("it is said", || !instance.log_lines("the response was cut short").is_empty());
}
