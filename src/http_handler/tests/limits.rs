//! Requests, clients and connections that exceed a bound or break a rule.

use crate::cases::each;
use std::io::Read;
use std::net::Shutdown;
use std::time::Duration;

use super::server::{BODY_MAX, TestServer, wait_until};

#[test]
fn continue_is_sent_for_acceptable_bodies_only() {
    let server = TestServer::open();
    let mut client = server.connect();
    client.send("POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(client.read_through("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.send("ok").read_response().1, "ok");
    // A client that has begun to send its body waits for nothing.
    client.send("POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok");
    assert!(client.read_response().0.starts_with("HTTP/1.1 200 "));
    let length = BODY_MAX + 1;
    client.send(&format!("POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"));
    let problem = client.read_problem();
    assert_eq!(problem["status"], 413);
    assert!(problem["detail"].as_str().unwrap().contains("FAAS_BODY_MAX"), "{problem}");
}

#[test]
fn a_413_reaches_a_client_that_sends_first() {
    let server = TestServer::open();
    // A server that read on would find requests.
    let request = "GET /gate HTTP/1.1\r\nHost: h\r\n\r\n";
    let body = request.repeat(8 * BODY_MAX / request.len());
    let mut client = server.connect();
    client.send(&format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    assert_eq!(client.read_problem()["status"], 413);
    let mut client = server.connect();
    client.send("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(&format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
    assert_eq!(client.read_problem()["status"], 413);
    assert_eq!((server.spool_bytes_used(), server.has_event()), (0, false), "what follows is not served");
}

#[test]
fn a_full_spool_rejects_the_body() {
    let server = TestServer::open_with_spool(100_000, |_| {});
    let body = "x".repeat(BODY_MAX);
    let mut client = server.connect();
    client.send(&format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {BODY_MAX}\r\n\r\n{body}"));
    assert_eq!(client.read_problem()["status"], 503);
    assert_eq!(server.spool_bytes_used(), 0);
}

/// One row for each stage of receiving: the scan, the head, the body. The parsers' own tests know all rules.
#[test]
fn a_rejected_request_ends_its_connection() {
    let server = TestServer::open();
    let rows = [
        ("GET / HTTP/1.1\nHost: h\n\n", 400),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n", 400),
    ];
    each(rows, |(request, status)| {
        let mut client = server.connect();
        client.send(request).get("/never");
        assert_eq!(client.read_problem()["status"], status);
    });
    assert_eq!(server.calls(), 0);
}

#[test]
fn an_incomplete_request_is_rejected() {
    let server = TestServer::open();
    let chunked = "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    each(["GET / HT", "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhell", chunked], |request| {
        let mut client = server.connect();
        client.send(request);
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read_problem()["status"], 400);
    });
}

#[test]
fn slow_requests_and_idle_connections_end() {
    let short = Duration::from_millis(50);
    let server = TestServer::open_within(|bounds| {
        (bounds.head_deadline, bounds.rate_grace, bounds.idle_max) = (short, short, 3 * short);
    });
    assert_eq!(server.connect().send("GET / HTTP/1.1\r\n").read_problem()["status"], 408);
    let slow_body = "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhell";
    assert_eq!(server.connect().send(slow_body).read_problem()["status"], 408);
    assert_eq!(server.connect().read_to_end(), "");
    // The empty line that some clients send after a body is no request.
    assert_eq!(server.connect().send("\r\n").read_to_end(), "");
}

#[test]
fn a_client_that_never_reads_is_cut_off() {
    let server = TestServer::open_within(|bounds| {
        (bounds.rate_grace, bounds.idle_max) = (Duration::from_millis(50), Duration::from_millis(100));
    });
    let mut client = server.connect();
    client.get("/long");
    wait_until("the long response begins", || server.spool_bytes_used() > 0);
    wait_until("the connection ends", || server.connections() == 0);
    assert_eq!(server.spool_bytes_used(), 0);
    drop(client);
}

#[test]
fn excess_connections_get_503_at_once() {
    let server = TestServer::open_within(|bounds| bounds.connections_max = 1);
    let mut first = server.connect();
    first.get("/a").read_response();
    let mut second = server.connect();
    let text = second.get("/b").read_to_end();
    assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("\r\nRetry-After: 1\r\n"), "{text}");
    assert_eq!(first.get("/c").read_response().1, "/c");
    drop(first);
    wait_until("the first connection ends", || server.connections() == 0);
    assert_eq!(server.connect().get("/d").read_response().1, "/d");
}

#[test]
fn excess_calls_get_503_and_keep_their_connection() {
    let server = TestServer::open_within(|bounds| bounds.calls_max = 1);
    let mut first = server.connect();
    first.get("/gate");
    assert_eq!(server.next_event(), "waits at the gate");
    let mut second = server.connect();
    let (head, _) = second.get("/gate").read_response();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nRetry-After: 1\r\n"), "{head}");
    assert!(!head.contains("Connection: close"), "{head}");
    assert_eq!(second.get("/x").read_response().1, "/x", "takes no place");
    server.gate.send(()).unwrap();
    assert_eq!(first.read_response().1, "through");
    server.gate.send(()).unwrap();
    assert_eq!(second.get("/gate").read_response().1, "through");
}

#[test]
fn a_connection_that_waits_without_a_request_makes_room_for_a_new_one() {
    let server = TestServer::open_within(|bounds| bounds.connections_max = 4);
    let mut busy = server.connect();
    busy.send("POST /echo HTTP/1.1\r\nHost: h\r\n");
    let silent: Vec<_> = (0..3).map(|_| server.connect()).collect();
    // Each waits for a second before the server may end it.
    wait_until("a further client is served", || {
        let mut client = server.connect();
        client.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        client.read_to_end().starts_with("HTTP/1.1 200 ")
    });
    // Their threads can have begun in another order than they connected.
    wait_until("one of the silent is closed", || {
        silent.iter().any(|client| {
            client.stream.set_nonblocking(true).unwrap();
            matches!((&client.stream).read(&mut [0]), Ok(0))
        })
    });
    busy.send("Content-Length: 2\r\nConnection: close\r\n\r\nok");
    assert!(busy.read_to_end().ends_with("ok"), "one with a request is not");
}
