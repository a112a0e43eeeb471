//! The rules of mod.rs, one by one. The rules that decide where a request ends are in ../smuggling_table.rs.

use super::*;
use crate::cases::check;
use crate::limits::{HEAD_BYTES_MAX, TARGET_BYTES_MAX};

fn parse(bytes: impl AsRef<[u8]>) -> Result<Head> {
    let bytes = bytes.as_ref();
    parse_head(bytes).map(|parsed| {
        let (head, used) = parsed.expect("the head is complete");
        assert_eq!(used, bytes.len());
        head
    })
}

fn status_of(bytes: impl AsRef<[u8]>) -> u16 {
    parse(bytes).map_or_else(|error| error.status(), |_| 200)
}

fn with_field(line: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: h\r\n{line}\r\n\r\n")
}

#[test]
fn a_plain_request_is_read() {
    let head = parse("POST /a/b?c=d&e HTTP/1.1\r\nHost: h:80\r\nX-A: \t b c \r\nContent-Length: 3\r\n\r\n").unwrap();
    assert_eq!((head.method.as_str(), head.path(), head.query()), ("POST", "/a/b", "c=d&e"));
    assert_eq!((head.host.as_str(), head.version, head.framing), ("h:80", Version::Http11, BodyFraming::Length(3)));
    assert!(head.keep_alive && !head.expect_continue);
    assert_eq!(head.field("x-a"), Some(&b"b c"[..]));
    assert_eq!(head.field("x-b"), None);
}

#[test]
fn a_head_ends_at_its_empty_line() {
    let bytes = b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\nGET";
    let end = bytes.len() - 3;
    for length in 0..end {
        assert_eq!(parse_head(&bytes[..length]).unwrap(), None, "after {length} bytes");
    }
    assert_eq!(parse_head(bytes).unwrap().unwrap().1, end);
}

#[test]
fn targets_have_one_of_three_forms() {
    let sent = |method: &str, target: &str| {
        parse(format!("{method} {target} HTTP/1.1\r\nHost: sent\r\n\r\n")).map_or_else(
            |error| error.status().to_string(),
            |head| format!("{} {} {}", head.host, head.path(), head.query()),
        )
    };
    let good = [
        ("/", "sent / "),
        ("//a/..b/%00?x?y", "sent //a/..b/%00 x?y"),
        ("/a://b", "sent /a://b "),
        ("/p?u=http://x/y", "sent /p u=http://x/y"),
        ("/[]{}|^`\"<>", "sent /[]{}|^`\"<> "),
        ("http://Abs:81/p?q", "Abs:81 /p q"),
        ("HTTPS://abs", "abs / "),
        ("http://abs?q", "abs / q"),
        ("http://[::1]:8/", "[::1]:8 / "),
    ];
    check(good.map(|(target, expected)| (target, expected.to_string())), |target| sent("GET", target));
    assert_eq!(sent("OPTIONS", "*"), "sent * ");
    let bad =
        ["*", "a", "", "?x", "/a#b", "/\u{e9}", "ftp://h/", "http:/h", "http://", "http:///p", "http://u@h/", "h:80"];
    check(bad.map(|target| (target, "400".to_string())), |target| sent("GET", target));
    let longest = format!("/{}", "x".repeat(TARGET_BYTES_MAX - 1));
    assert!(sent("GET", &longest).starts_with("sent /x"));
    assert_eq!(sent("GET", &format!("{longest}x")), "414");
}

#[test]
fn an_absolute_target_replaces_host() {
    let head = parse("GET http://abs/ HTTP/1.1\r\nhOST: sent\r\n\r\n").unwrap();
    assert_eq!((head.host.as_str(), head.field("Host")), ("abs", Some(&b"abs"[..])));
    let head = parse("GET http://abs/ HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!((head.host.as_str(), head.field("Host")), ("abs", Some(&b"abs"[..])));
    assert_eq!(status_of("GET http://abs/ HTTP/1.1\r\nHost: a b\r\n\r\n"), 400);
    assert_eq!(status_of("GET http://abs/ HTTP/1.1\r\n\r\n"), 400);
}

#[test]
fn methods_are_tokens_of_bounded_length() {
    let with_method = |method: &str| status_of(format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n"));
    let (longest, longer, far_too_long) = ("M".repeat(32), "M".repeat(33), "M".repeat(9000));
    let good = ["GET", "get", "M-SEARCH", "X!#$%&'*+-.^_`|~9", &longest].map(|method| (method, 200));
    let bad = ["", "G(T", "G\tT", "G\"T", "G:T", "G\u{e9}T", &longer, &far_too_long].map(|method| (method, 400));
    check(good.into_iter().chain(bad), |method| with_method(method));
}

#[test]
fn other_versions_are_refused() {
    let with_version = |version: &str| status_of(format!("GET / {version}\r\nHost: h\r\n\r\n"));
    let unknown = ["HTTP/3.0", "HTTP/0.9", "HTTP/1.2", "HTTP/9.9"].map(|version| (version, 505));
    let bad = ["http/1.1", "HTTP/1", "HTTP/11", "HTTP/1.1.1", "HTTP/01.1", "HTTP/1,1", "HTTPS/1.1", "FTP/1.1"];
    check(unknown.into_iter().chain(bad.map(|version| (version, 400))), |version| with_version(version));
    assert_eq!(parse_head(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap_err().status(), 505);
    // The start of a TLS handshake: rejected at its first byte.
    assert_eq!(parse_head(b"\x16\x03\x01").unwrap_err().status(), 400);
}

#[test]
fn hosts_keep_their_grammar() {
    let with_host = |host: &str| status_of(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let good = ["h", "h:80", "h:", "H.example.", "1.2.3.4:65535", "[::1]", "[::1]:80", "a%2Fb", "a_b", "a,b;c=d"];
    let bad = [
        "", ":80", "h:x", "h:-1", "h:65536", "h:80:80", "a b", "a/b", "a?b", "a#b", "u@h", "[::1", "::1", "[::1]x",
        "[x]", "a%2", "a%zz", "h\u{e9}", "\"h\"", "<h>", "h\\h",
    ];
    check(good.map(|host| (host, 200)).into_iter().chain(bad.map(|host| (host, 400))), |host| with_host(host));
    assert_eq!(status_of("GET / HTTP/1.0\r\n\r\n"), 200);
    assert_eq!(status_of("GET / HTTP/1.0\r\nHost: a b\r\n\r\n"), 400);
    assert_eq!(status_of("GET / HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n"), 400);
}

#[test]
fn connection_fields_do_not_reach_the_handler() {
    let head = parse(
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: close, X-Named, Host\r\nX-Named: 1\r\nKeep-Alive: 5\r\n\
         Proxy-Connection: x\r\nTE: trailers\r\nTrailer: x\r\nUpgrade: h2c\r\nExpect: 100-Continue\r\n\
         x-faas-worker: 7\r\nX-FAAS-Spooled: 1\r\nX-Faas-Explain: kept\r\nCookie: kept\r\n\r\n",
    )
    .unwrap();
    let names: Vec<&str> = head.fields.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(names, ["Host", "X-Faas-Explain", "Cookie"]);
    assert!(!head.keep_alive && head.expect_continue);
}

#[test]
fn keep_alive_is_the_default_of_1_1_only() {
    let keeps = |version: &str, connection: &str| {
        let head = format!("GET / HTTP/{version}\r\nHost: h\r\nConnection: {connection}\r\n\r\n");
        parse(head).unwrap().keep_alive
    };
    assert!(keeps("1.1", "") && keeps("1.1", "foo") && keeps("1.0", "foo, Keep-Alive"));
    assert!(!keeps("1.0", "") && !keeps("1.1", "CLOSE") && !keeps("1.0", "keep-alive, close"));
}

#[test]
fn other_expectations_are_refused() {
    assert_eq!(status_of(with_field("Expect: 200-ok")), 417);
    assert_eq!(status_of(with_field("Expect: 100-continue\r\nExpect: x")), 417);
    let old = parse("GET / HTTP/1.0\r\nExpect: 200-ok\r\n\r\n").unwrap();
    assert!(!old.expect_continue);
}

#[test]
fn heads_are_bounded_in_lines_and_bytes() {
    let lines = |count: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(count));
    assert_eq!((status_of(lines(99)), status_of(lines(100))), (200, 431));
    let sized = |bytes: usize| {
        let start = "GET / HTTP/1.1\r\nHost: h\r\nX: ";
        format!("{start}{}\r\n\r\n", "y".repeat(bytes - start.len() - 4))
    };
    assert_eq!((status_of(sized(HEAD_BYTES_MAX)), status_of(sized(HEAD_BYTES_MAX + 1))), (200, 431));
    // As a connection sees it: a full buffer, without an end.
    assert_eq!(parse_head(&sized(1 << 20).as_bytes()[..HEAD_BYTES_MAX]).unwrap_err().status(), 431);
    // An endless target is rejected before it has filled the buffer.
    let endless = format!("GET /{}", "x".repeat(TARGET_BYTES_MAX + 100));
    assert_eq!(parse_head(endless.as_bytes()).unwrap_err().status(), 414);
}

#[test]
fn values_hold_any_byte_but_controls() {
    let mut bytes = b"GET / HTTP/1.1\r\nHost: h\r\nX: a\xff\x80\t~".to_vec();
    bytes.extend_from_slice(b"\r\n\r\n");
    assert_eq!(parse(&bytes).unwrap().field("X"), Some(&b"a\xff\x80\t~"[..]));
    let controls = (0..0x20).filter(|byte| *byte != b'\t').chain([0x7f]);
    check(controls.map(|control| (control, 400)), |control| {
        status_of([b"GET / HTTP/1.1\r\nHost: h\r\nX: a", &[*control, b'b'][..], b"\r\n\r\n"].concat())
    });
}

#[test]
fn a_path_has_one_reading() {
    let bad = ["/a/../b", "/a/./b", "/..", "/a/.", "/%2e%2e/b", "/a/%2E./b", "/a\\b", "/a/..?q"];
    let good = ["/a..b", "/.well-known/x", "/a/...", "/%2e%2eb", "/a?x=../y", "/a%2F..%2Fb"];
    check(bad.map(|path| (path, 400)).into_iter().chain(good.map(|path| (path, 200))), |path| {
        status_of(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"))
    });
}

#[test]
fn fields_with_two_readings_are_rejected() {
    assert_eq!(status_of(with_field("Content-Type: a/b\r\nContent-Type: c/d")), 400);
    assert_eq!(status_of(with_field("Content-Type: a/b\r\nContent-Type: a/b")), 200);
}
