//! Requests and responses: framing, order, versions, bodies, streams.

use super::server::{BODY_MAX, TestServer, wait_until};

#[test]
fn a_connection_serves_requests_in_turn() {
    let server = TestServer::open();
    let mut client = server.connect();
    for path in ["/a", "/b", "/c"] {
        let (head, body) = client.get(path).read_response();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\nDate: "), "{head}");
        assert!(!head.contains("Connection"), "{head}");
        assert_eq!(body, path);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = TestServer::open();
    let mut client = server.connect();
    client.send(
        "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\none\
         POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nt\r\n2;x\r\nwo\r\n0\r\nT: x\r\n\r\n\
         \r\nGET /three HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\nGET /never HTTP/1.1\r\nHost: h\r\n\r\n",
    );
    assert_eq!(client.read_response().1, "one");
    assert_eq!(client.read_response().1, "two");
    let (head, body) = client.read_response();
    assert!(head.contains("\r\nConnection: close\r\n") && body == "/three", "{head}");
    assert_eq!(client.read_to_end(), "");
}

#[test]
fn a_head_in_single_bytes_is_read() {
    let server = TestServer::open();
    let mut client = server.connect();
    for byte in "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n".chars() {
        client.send(&byte.to_string());
    }
    assert_eq!(client.read_response().1, "/slow");
}

#[test]
fn a_1_0_client_gets_a_1_0_response() {
    let server = TestServer::open();
    let text = server.connect().send("GET /old HTTP/1.0\r\n\r\n").read_to_end();
    assert!(text.starts_with("HTTP/1.0 200 OK\r\n") && text.contains("\r\nConnection: close\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\n/old"), "{text}");

    let mut client = server.connect();
    for _ in 0..2 {
        let (head, _) = client.send("GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").read_response();
        assert!(head.contains("\r\nConnection: keep-alive\r\n"), "{head}");
    }
}

#[test]
fn the_response_to_head_has_no_body() {
    let server = TestServer::open();
    let mut client = server.connect();
    let head = client.send("HEAD /four HTTP/1.1\r\nHost: h\r\n\r\n").read_through("\r\n\r\n");
    assert!(head.contains("Content-Length: 5\r\n"), "{head}");
    let head = client.send("HEAD /long HTTP/1.1\r\nHost: h\r\n\r\n").read_through("\r\n\r\n");
    assert!(head.contains("Content-Length: 67108864\r\n"), "{head}");
    assert_eq!(client.get("/next").read_response().1, "/next");
}

#[test]
fn the_handler_gets_head_and_peer() {
    let server = TestServer::open();
    let mut client = server.connect();
    client.send("GET /head?q HTTP/1.1\r\nHost: h:1\r\nTE: x\r\nX-Forwarded-For: 1.2.3.4\r\nCookie: \u{fc}\r\n\r\n");
    let (_, body) = client.read_response();
    assert_eq!(body, "GET /head?q h:1 127.0.0.1\nHost: h:1\nCookie: \u{fc}\n");
}

#[test]
fn large_bodies_travel_whole() {
    let server = TestServer::open();
    let mut client = server.connect();
    let body: String = (0..BODY_MAX).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    for _ in 0..2 {
        client.send(&format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {BODY_MAX}\r\n\r\n{body}"));
        let (head, back) = client.read_response();
        assert!(back == body && !head.contains("X-Faas"), "{head}");
    }
    client.send("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in body.as_bytes().chunks(10_007) {
        let piece = std::str::from_utf8(piece).unwrap();
        client.send(&format!("{:x}\r\n{piece}\r\n", piece.len()));
    }
    assert!(client.send("0\r\n\r\n").read_response().1 == body);
    wait_until("the spool is empty", || server.spool_bytes_used() == 0);
}

#[test]
fn chunks_reach_the_client_one_by_one() {
    let server = TestServer::open();
    let mut client = server.connect();
    let start = client.get("/chunks").read_through("3\r\none\r\n");
    assert!(start.contains("\r\nTransfer-Encoding: chunked\r\n"), "{start}");
    server.gate.send(()).unwrap();
    assert_eq!(client.read_through("0\r\n\r\n"), "3\r\ntwo\r\n0\r\n\r\n");
    assert_eq!(client.get("/next").read_response().1, "/next");
}

#[test]
fn a_1_0_client_gets_a_stream_without_chunks() {
    let server = TestServer::open();
    let mut client = server.connect();
    client.send("GET /chunks HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let start = client.read_through("\r\n\r\none");
    assert!(start.contains("\r\nConnection: close\r\n") && !start.contains("Transfer-Encoding"), "{start}");
    server.gate.send(()).unwrap();
    assert_eq!(client.read_to_end(), "two");
}

#[test]
fn an_incomplete_stream_has_no_last_chunk() {
    let server = TestServer::open();
    let mut client = server.connect();
    client.get("/broken").read_through("3\r\none\r\n");
    server.gate.send(()).unwrap();
    assert_eq!(client.read_to_end(), "3\r\ntwo\r\n");
}

#[test]
fn concurrent_clients_are_all_served() {
    let server = TestServer::open();
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                let mut client = server.connect();
                for _ in 0..20 {
                    assert_eq!(client.get("/x").read_response().1, "/x");
                }
            });
        }
    });
}
