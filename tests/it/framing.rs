//! Where a request ends: lengths, chunks, expectations, versions, several requests on one connection.

use std::io::Write;
use std::net::Shutdown;

use crate::http::Answer;
use crate::instance::{Instance, wait_until};

/// An instance whose `/count` leaves word of each run and answers how long the body was.
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
fn a_body_shorter_than_its_length_does_not_run_the_function() {
    let instance = counting();
    for request in [
        "POST /count HTTP/1.1\r\nHost: it\r\nContent-Length: 100\r\n\r\nfew",
        "POST /count HTTP/1.1\r\nHost: it\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "POST /count HTTP/1.1\r\nHost: it\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    ] {
        let mut stream = instance.connect();
        stream.get_mut().write_all(request.as_bytes()).unwrap();
        stream.get_mut().shutdown(Shutdown::Write).unwrap();
        Answer::read(&mut stream, false).unwrap().problem(400, "request-malformed");
        assert!(Answer::read(&mut stream, false).is_err(), "the connection is closed");
    }
    assert_eq!(runs(&instance), 0);
}

#[test]
fn lengths_that_lie_or_can_be_read_in_two_ways_are_refused_and_run_nothing() {
    let instance = counting();
    for fields in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 0x5",
        "Content-Length: 5, 5",
        "Content-Length: 99999999999999999999",
        "Content-Length : 5",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "X-Folded: a\r\n b",
        "X-Nul: a\0b",
    ] {
        let text = format!("POST /count HTTP/1.1\r\nHost: it\r\n{fields}\r\n\r\nhello");
        let answers = instance.exchange(&text);
        assert!(matches!(answers[0].status, 400 | 413), "{fields:?}: {answers:?}");
        assert_eq!((answers.len(), answers[0].field("Connection")), (1, Some("close")), "{fields:?}");
    }
    let gzip = "POST /count HTTP/1.1\r\nHost: it\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
    instance.exchange(gzip)[0].problem(501, "transfer-coding-unknown");
    assert_eq!(runs(&instance), 0);
}

#[test]
fn a_chunked_body_arrives_whole_and_a_malformed_one_runs_nothing() {
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
    for bad in ["+5\r\nhello\r\n0\r\n\r\n", "5\r\nhelloo\r\n0\r\n\r\n", "x\r\n", "5 \nhello", "-1\r\n\r\n", "\r\n"] {
        chunked(bad).problem(400, "request-malformed");
    }
    assert_eq!(runs(&instance), 3);
}

#[test]
fn a_client_that_expects_100_continue_gets_it_and_one_whose_body_is_too_large_does_not() {
    let instance = counting();
    let head = |length: u64| {
        format!("POST /count HTTP/1.1\r\nHost: it\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n")
    };
    let mut stream = instance.connect();
    stream.get_mut().write_all(head(5).as_bytes()).unwrap();
    assert_eq!(Answer::read(&mut stream, false).unwrap().status, 100);
    stream.get_mut().write_all(b"hello").unwrap();
    assert_eq!(Answer::read(&mut stream, false).unwrap().text(), "5\n");

    let mut stream = instance.connect();
    stream.get_mut().write_all(head(1 << 40).as_bytes()).unwrap();
    let detail = Answer::read(&mut stream, false).unwrap().problem(413, "body-too-large");
    assert!(detail.contains("FAAS_BODY_MAX"), "{detail}");
    assert_eq!(runs(&instance), 1);
}

#[test]
fn a_body_over_the_limit_is_413_whether_its_length_is_said_or_not() {
    let instance = Instance::with(&[("FAAS_BODY_MAX", "100000")]);
    instance.script("POST:/count", "wc -c | tr -d ' '");
    assert_eq!(instance.post("/count", vec![b'x'; 100_000]).text(), "100000\n");
    instance.post("/count", vec![b'x'; 100_001]).problem(413, "body-too-large");
    instance.post("/count", vec![b'x'; 5_000_000]).problem(413, "body-too-large");
    let chunk = format!("{:x}\r\n{}\r\n", 60_000, "x".repeat(60_000));
    let head = "POST /count HTTP/1.1\r\nHost: it\r\nTransfer-Encoding: chunked\r\n\r\n";
    instance.exchange(format!("{head}{chunk}{chunk}0\r\n\r\n"))[0].problem(413, "body-too-large");
}

#[test]
fn http_1_0_is_served_without_chunks_and_its_connection_closed() {
    let instance = counting();
    instance.script_with("GET:/stream", "echo a\necho b", serde_json::json!({"stream": true}));
    let answers = instance.exchange("GET /count?x HTTP/1.0\r\n\r\n");
    assert_eq!((answers[0].status, answers[0].text().as_str()), (200, "x\n"));
    let answers = instance.exchange("GET /stream HTTP/1.0\r\n\r\n");
    assert_eq!((answers[0].field("Transfer-Encoding"), answers[0].text().as_str()), (None, "a\nb\n"));
    // One that asks for it may go on.
    let request = "GET /count?x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let answers = instance.exchange(format!("{request}GET /count?y HTTP/1.0\r\n\r\n"));
    assert_eq!(answers.iter().map(Answer::text).collect::<Vec<_>>(), ["x\n", "y\n"]);
}

#[test]
fn many_requests_on_one_connection_are_answered_in_order_also_when_they_come_at_once() {
    let instance = counting();
    let mut stream = instance.connect();
    for number in 0..20 {
        write!(stream.get_mut(), "GET /count?{number} HTTP/1.1\r\nHost: it\r\n\r\n").unwrap();
        assert_eq!(Answer::read(&mut stream, false).unwrap().text(), format!("{number}\n"));
    }
    // Pipelined, with bodies in between, in a single write.
    let mut requests = String::new();
    for number in 0..10 {
        let body = "x".repeat(number);
        requests += &format!("POST /count HTTP/1.1\r\nHost: it\r\nContent-Length: {number}\r\n\r\n{body}");
        requests +=
            &format!("HEAD /count HTTP/1.1\r\nHost: it\r\n\r\nGET /count?q{number} HTTP/1.1\r\nHost: it\r\n\r\n");
    }
    stream.get_mut().write_all(requests.as_bytes()).unwrap();
    for number in 0..10 {
        assert_eq!(Answer::read(&mut stream, false).unwrap().text(), format!("{number}\n"));
        assert_eq!(Answer::read(&mut stream, true).unwrap().field("Content-Length"), Some("1"));
        assert_eq!(Answer::read(&mut stream, false).unwrap().text(), format!("q{number}\n"));
    }
}

#[test]
fn a_malformed_head_is_refused_with_its_status_and_the_connection_closed() {
    let instance = counting();
    let long = "x".repeat(100_000);
    for (request, status) in [
        ("GET /count HTTP/1.1\r\n\r\n".to_string(), 400),
        ("GET  /count HTTP/1.1\r\nHost: it\r\n\r\n".to_string(), 400),
        ("GET /count HTTP/1.1\nHost: it\n\n".to_string(), 400),
        ("GET count HTTP/1.1\r\nHost: it\r\n\r\n".to_string(), 400),
        ("G@T /count HTTP/1.1\r\nHost: it\r\n\r\n".to_string(), 400),
        ("GET /count HTTP/2.0\r\nHost: it\r\n\r\n".to_string(), 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_string(), 505),
        ("CONNECT it:80 HTTP/1.1\r\nHost: it\r\n\r\n".to_string(), 501),
        (format!("GET /{long} HTTP/1.1\r\nHost: it\r\n\r\n"), 414),
        (format!("GET /count HTTP/1.1\r\nHost: it\r\nX-Long: {long}\r\n\r\n"), 431),
        (format!("GET /count HTTP/1.1\r\nHost: it\r\n{}\r\n", "X-Many: 1\r\n".repeat(200)), 431),
        ("GET /count HTTP/1.1\r\nHost: it\r\nExpect: miracles\r\n\r\n".to_string(), 417),
    ] {
        let answers = instance.exchange(&request);
        let start = &request[..request.len().min(40)];
        assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [status], "{start:?}");
        assert_eq!(answers[0].json()["status"], status);
    }
    assert_eq!(runs(&instance), 0);
    assert_eq!(instance.get("/count?fine").text(), "fine\n");
}

#[test]
fn a_client_that_stands_still_or_vanishes_does_not_keep_others_waiting() {
    let instance = counting();
    let parts = ["G", "GET /count HTTP/1.1\r\nHo", "POST /count HTTP/1.1\r\nHost: it\r\nContent-Length: 9\r\n\r\nhalf"];
    let still: Vec<_> = (0..60)
        .map(|number| {
            let mut stream = instance.connect();
            stream.get_mut().write_all(parts[number % parts.len()].as_bytes()).unwrap();
            stream
        })
        .collect();
    for number in 0..20 {
        assert_eq!(instance.get(&format!("/count?{number}")).text(), format!("{number}\n"));
    }
    drop(still);
    wait_until("the gateway has no descriptor of them any more", || {
        std::fs::read_dir(format!("/proc/{}/fd", instance.gateway_pid())).unwrap().count() < 60
    });
    assert_eq!(runs(&instance), 20);
}
