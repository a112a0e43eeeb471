//! Framing as a function sees it. Other tests cover the rules themselves: the parsers' own tests heads and chunks,
//! src/http_handler/tests connections, and smuggling.rs ambiguous requests.

use std::io::Write;

use crate::instance::{Instance, wait_until};

/// An instance whose `/count` notes each run in a file and responds with the length of the body, or with the query.
fn counting() -> Instance {
    let instance = Instance::start();
    instance.script("POST:/count", "echo run >>\"$IT_FOLDER/runs\"\nwc -c | tr -d ' '");
    instance.script("GET:/count", "echo run >>\"$IT_FOLDER/runs\"\necho \"$QUERY_STRING\"");
    instance
}

fn runs(instance: &Instance) -> usize {
    std::fs::read_to_string(instance.shared("runs")).unwrap_or_default().lines().count()
}

#[test]
fn a_chunked_body_reaches_the_function_whole() {
    let instance = counting();
    let chunked = |body: &str| {
        let head = "POST /count HTTP/1.1\r\nHost: it\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
        instance.exchange(format!("{head}{body}")).remove(0)
    };
    assert_eq!(chunked("5\r\nhello\r\n1;ext=1\r\n!\r\nA\r\n0123456789\r\n0\r\nX-Trailer: 1\r\n\r\n").text(), "16\n");
    assert_eq!(chunked("0\r\n\r\n").text(), "0\n");
    let large = format!("{:x}\r\n{}\r\n", 100_000, "x".repeat(100_000)).repeat(3);
    assert_eq!(chunked(&format!("{large}0\r\n\r\n")).text(), "300000\n");
    assert_eq!(runs(&instance), 3);
}

#[test]
fn stalled_clients_delay_no_other() {
    let instance = counting();
    let parts = ["G", "GET /count HTTP/1.1\r\nHo", "POST /count HTTP/1.1\r\nHost: it\r\nContent-Length: 9\r\n\r\nhalf"];
    let stalled: Vec<_> = (0..60)
        .map(|number| {
            let mut stream = instance.connect();
            stream.get_mut().write_all(parts[number % parts.len()].as_bytes()).unwrap();
            stream
        })
        .collect();
    for number in 0..20 {
        assert_eq!(instance.get(&format!("/count?{number}")).text(), format!("{number}\n"));
    }
    drop(stalled);
    wait_until("the gateway has closed their descriptors", || {
        std::fs::read_dir(format!("/proc/{}/fd", instance.gateway_pid())).unwrap().count() < 60
    });
    assert_eq!(runs(&instance), 20);
}
