//! Clients that hang up: a call that only reads ends with its client, any other finishes. The row or the script may
//! decide otherwise.

use std::io::{BufReader, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::json;

use crate::cases::each;
use crate::http::Answer;
use crate::instance::{Instance, need, wait_for, wait_until};

/// A script that reports its start, waits at the gate, and leaves a trace once past it.
const SLOW: &str = "touch \"$IT_FOLDER/started-$FAAS_FUNCTION\"\nread _ < \"$IT_FOLDER/gate\"\n\
                    touch \"$IT_FOLDER/finished-$FAAS_FUNCTION\"\necho done";

/// The same for PHP; `before` stands in front of the wait.
fn slow_php(before: &str) -> String {
    format!(
        "<?php\n{before}\n$folder = getenv('IT_FOLDER'); $name = getenv('FAAS_FUNCTION');\n\
         touch(\"$folder/started-$name\"); $gate = fopen(\"$folder/gate\", 'r'); fgets($gate);\n\
         touch(\"$folder/finished-$name\"); echo 'done';"
    )
}

/// Calls `/{name}` and leaves once the function runs.
fn call_and_leave(instance: &Instance, method: &str, name: &str) {
    let stream = call(instance, method, name);
    drop(stream);
}

fn call(instance: &Instance, method: &str, name: &str) -> BufReader<TcpStream> {
    let mut stream = instance.connect();
    let head = format!("{method} /{name} HTTP/1.1\r\nHost: it\r\nX-Request-Id: {name}\r\nContent-Length: 0\r\n\r\n");
    stream.get_mut().write_all(head.as_bytes()).unwrap();
    wait_until("it runs", || instance.shared(&format!("started-{name}")).exists());
    stream
}

/// The status in the log of the call of this function.
fn status(instance: &Instance, name: &str) -> String {
    let line = instance.wait_for_log(&format!("request={name} client="), 1).remove(0);
    line.split(' ').find_map(|word| word.strip_prefix("status=")).unwrap().to_string()
}

fn ends(instance: &Instance, name: &str) {
    wait_until(&format!("{name} ends with its client"), || instance.functions().is_empty());
    assert!(!instance.shared(&format!("finished-{name}")).exists(), "{name}");
    assert_eq!(status(instance, name), "499", "{name}");
}

fn finishes(instance: &Instance, name: &str, gate: &mut std::fs::File) {
    // The grace period of a half-closed client is over when this call has ended.
    call_and_leave(instance, "GET", "control");
    wait_until("another call has ended with its client", || !instance.log_lines("request=control client=").is_empty());
    std::fs::remove_file(instance.shared("started-control")).unwrap();
    gate.write_all(b"\n").unwrap();
    wait_until(&format!("{name} finishes"), || instance.shared(&format!("finished-{name}")).exists());
    assert_eq!(status(instance, name), "200", "{name}");
    wait_until("its processes are gone", || instance.functions().is_empty());
}

#[test]
fn a_call_that_only_reads_ends_with_its_client_and_any_other_finishes() {
    let instance = Instance::start();
    let mut gate = instance.gate("gate");
    instance.script_with("*:/control", &SLOW.replace("read _ <", "sleep 1000; : <"), json!({"name": "control"}));
    for (method, name, more) in [
        ("GET", "get", json!({})),
        ("HEAD", "head", json!({})),
        ("OPTIONS", "options", json!({})),
        ("POST", "killed", json!({"on_hangup": "kill"})),
        ("POST", "post", json!({})),
        ("DELETE", "delete", json!({})),
        ("POST", "streams", json!({"stream": true})),
        ("GET", "finished", json!({"on_hangup": "finish"})),
    ] {
        let mut descriptor = more.clone();
        descriptor["name"] = name.into();
        instance.script_with(&format!("*:/{name}"), SLOW, descriptor);
        call_and_leave(&instance, method, name);
        match name {
            "get" | "head" | "options" | "killed" => ends(&instance, name),
            _ => finishes(&instance, name, &mut gate),
        }
    }
}

#[test]
fn a_client_that_has_sent_all_still_gets_the_answer_of_a_slow_post() {
    let instance = Instance::start();
    let mut gate = instance.gate("gate");
    instance.script_with("*:/control", &SLOW.replace("read _ <", "sleep 1000; : <"), json!({"name": "control"}));
    instance.script_with("POST:/post", SLOW, json!({"name": "post"}));
    let mut stream = call(&instance, "POST", "post");
    stream.get_mut().shutdown(Shutdown::Write).unwrap();
    finishes(&instance, "post", &mut gate);
    assert_eq!(Answer::read(&mut stream, false).unwrap().text(), "done\n");
}

#[test]
fn ignore_user_abort_keeps_a_php_function_going_and_takes_that_back() {
    need(&["faas-php"]);
    let instance = Instance::start();
    let mut gate = instance.gate("gate");
    instance.script_with("*:/control", &SLOW.replace("read _ <", "sleep 1000; : <"), json!({"name": "control"}));
    instance.warm("/api/info");
    for (method, name, before, more) in [
        ("GET", "plain", "", json!({})),
        ("GET", "ignores", "ignore_user_abort(true);", json!({})),
        ("GET", "sets", "ini_set('ignore_user_abort', '1');", json!({})),
        ("GET", "row", "", json!({"ini": {"ignore_user_abort": "1"}})),
        ("POST", "over-kill", "ignore_user_abort(true);", json!({"on_hangup": "kill"})),
        ("GET", "took-back", "ignore_user_abort(true); ignore_user_abort(false);", json!({})),
        ("POST", "post-took-back", "ignore_user_abort(true); ignore_user_abort(false);", json!({})),
    ] {
        let mut descriptor = more.clone();
        descriptor["name"] = name.into();
        instance.function(&format!("*:/{name}"), "php", &slow_php(before), descriptor);
        call_and_leave(&instance, method, name);
        match name {
            "plain" | "took-back" => ends(&instance, name),
            _ => finishes(&instance, name, &mut gate),
        }
    }
}

#[test]
fn fastcgi_finish_request_sends_the_response_while_the_script_goes_on_in_its_slot() {
    need(&["faas-php"]);
    let instance = Instance::start();
    let mut gate = instance.gate("gate");
    let long = "x".repeat(200_000);
    let script = |begins: &str, ends: &str| {
        // An executed process, which has no channel to the worker, keeps its response until it ends.
        let executed =
            "if (!preg_grep('/^socket:/', array_map('readlink', glob('/proc/self/fd/*')))) exit('executed');";
        let wait = "$gate = fopen(getenv('IT_FOLDER') . '/gate', 'r'); fgets($gate);";
        format!("<?php {executed} {begins} fastcgi_finish_request(); echo 'lost'; {wait} {ends}")
    };
    let cases = [
        ("ends", "header('X-A: 1'); echo 'sent';", "", json!({}), "sent", None),
        ("exits", "header('X-A: 1'); echo 'sent';", "exit(7);", json!({}), "sent", Some("exited with code 7")),
        ("is-long", "header('X-A: 1'); echo str_repeat('x', 200000);", "", json!({}), &long, None),
        ("streams", "header('X-A: 1'); echo 'se'; flush(); echo 'nt';", "", json!({"stream": true}), "sent", None),
    ];
    each(cases, |(name, begins, ends, more, body, failure)| {
        let mut descriptor = more.clone();
        descriptor["name"] = name.into();
        descriptor["max_inflight"] = 1.into();
        instance.function(&format!("*:/{name}"), "php", &script(begins, ends), descriptor);
        let mut calls = 0;
        let answer = wait_for("a forked process answers", || {
            calls += 1;
            let answer = instance.request("GET", &format!("/{name}"), &[("X-Request-Id", name)], b"");
            Some(answer).filter(|answer| answer.text() != "executed")
        });
        assert_eq!((answer.status, answer.field("X-A"), answer.text()), (200, Some("1"), body.into()));
        // An executed process before it may not have ended yet.
        wait_until(&format!("{name} alone goes on"), || instance.functions().len() == 1);
        assert_eq!(instance.get(&format!("/{name}")).status, 429, "it has its slot");
        gate.write_all(b"\n").unwrap();
        wait_until("its processes are gone", || instance.functions().is_empty());
        let line = instance.wait_for_log(&format!("request={name} client="), calls).pop().unwrap();
        assert!(line.contains(" status=200 "), "{line}");
        let lines = instance.log_lines(&format!("request={name} "));
        let says = |text: &str| lines.iter().any(|line| line.contains(text));
        assert_eq!(says("after its response: "), failure.is_some(), "{lines:#?}");
        assert!(failure.is_none_or(says), "{lines:#?}");
    });
}
