//! Heads, bodies, and malformed output.

use super::*;
use crate::cases::check;

fn head(output: &[u8]) -> (CgiHead, usize) {
    match opening(output, true, false) {
        Opening::Head(head, start) => (head, start),
        other => panic!("{other:?}"),
    }
}

fn is_malformed(output: &[u8]) -> bool {
    matches!(opening(output, true, false), Opening::Malformed(_))
}

#[test]
fn a_known_field_and_an_empty_line_make_a_head() {
    let (found, start) = head(b"Status: 404 Not Here\r\nContent-Type: text/html\r\nX-A: b\r\n\r\nbody");
    assert_eq!((found.status, found.reason.as_str(), start), (404, "Not Here", 57));
    assert_eq!(found.fields, [("Content-Type".into(), b"text/html".to_vec()), ("X-A".into(), b"b".to_vec())]);
    assert!(found.has_own_status && !head(b"Content-Type: a/b\n\n").0.has_own_status);
    assert_eq!(head(b"Content-Type: a/b\n\n").0.status, 200);
    assert_eq!(head(b"Location: /there\n\n").0.status, 302);
    assert_eq!(head(b"Status: 201\nLocation: /there\n\n").0.status, 201);
    let (nph, _) = head(b"HTTP/1.1 404 Not Here\r\nX-A: b\r\n\r\nbody");
    assert_eq!((nph.status, nph.reason.as_str(), nph.fields.len()), (404, "Not Here", 1));
}

#[test]
fn a_status_is_three_digits_and_a_phrase() {
    let good = [
        ("200 OK", 200, "OK"),
        ("404", 404, ""),
        ("404\tTab", 404, "Tab"),
        ("404: Not Found", 404, "Not Found"),
        ("418 I'm a teapot", 418, "I'm a teapot"),
        ("999 No", 999, "No"),
    ];
    let good = good.map(|(status, code, reason)| (status, Some((code, reason.to_string()))));
    let bad = ["abc", "99", "100", "20", "+200", "-200", "2e2", "2000", "200x", ""].map(|status| (status, None));
    check(good.into_iter().chain(bad), |status| {
        match opening(format!("Status: {status}\n\n").as_bytes(), true, false) {
            Opening::Head(head, _) => Some((head.status, head.reason)),
            _ => None,
        }
    });
}

#[test]
fn output_without_a_head_is_body() {
    let bodies: [&[u8]; 9] = [
        b"",
        b"Hello",
        b"{\"a\": 1}\n\n",
        b"Note: this is text\n\nreally",
        b"Note: this is text\nand this",
        b"\n\nContent-Type: x\n\n",
        b"Content-Type : x\n\n",
        b"<p style=\"a:b\">\n\n",
        b"\xff\xfe\x00: \n\n",
    ];
    check(bodies.map(|body| (body, (Opening::NoHead, true))), |body| {
        (opening(body, true, false), matches!(opening(body, true, true), Opening::Malformed(_)))
    });
}

#[test]
fn a_head_that_has_begun_never_becomes_a_body() {
    let broken: [&[u8]; 6] = [
        b"Content-Type: text/plain\n",
        b"Set-Cookie: secret=1\nno field\n\nbody",
        b"Status: 200 OK\n\tfolded\n\n",
        b"X-A: b\nSet-Cookie: secret=1\n\nbody",
        b"Content-Type: a\nX Evil: b\n\n",
        b"Content-Type: a\n: b\n\n",
    ];
    check(broken.map(|output| (output, true)), |output| is_malformed(output));
    let Opening::Malformed(fault) = opening(broken[1], true, false) else { panic!("see above") };
    assert_eq!(fault, "line 2 is not `name: value`");
}

#[test]
fn an_undecided_opening_is_decided_within_the_bound() {
    let output = b"Content-Type: text/plain\r\nX: y\r\n\r\nz";
    for length in 0..output.len() - 1 {
        assert_eq!(opening(&output[..length], false, false), Opening::Undecided, "{length}");
    }
    let long = [b"X-Long: ".as_slice(), &[b'a'; CGI_HEAD_BYTES_MAX]].concat();
    assert!(matches!(opening(&long, false, false), Opening::Malformed(_)));
    let many = b"A: b\n".repeat(CGI_HEAD_BYTES_MAX / 5 + 1);
    assert!(matches!(opening(&many, false, false), Opening::Malformed(_)));
    assert_eq!(opening(&[b'x'; CGI_HEAD_BYTES_MAX + 1], false, false), Opening::NoHead);
    let much = [b"X-Long: ".as_slice(), &[b'a'; CGI_HEAD_BYTES_MAX - 64], b"\nLocation: /x\n\n"].concat();
    assert_eq!(head(&much).0.status, 302);
}

#[test]
fn nothing_can_be_injected_through_a_head() {
    let splitting: [&[u8]; 3] =
        [b"Content-Type: a\rSet-Cookie: b\n\n", b"Content-Type: a\0b\n\n", b"Status: 200\nX: a\x0bb\n\n"];
    check(splitting.map(|output| (output, true)), |output| is_malformed(output));
    let (found, _) = head(
        b"Content-Type: a\nContent-Length: 5\nTransfer-Encoding: chunked\nConnection: x\nX-Accel-Redirect: /etc\n\
        X-Sendfile: /etc/passwd\nX-Faas-Worker: 9\nX-Request-Id: forged\n\n",
    );
    assert_eq!((found.fields.len(), found.content_length), (1, Some(5)));
}

#[test]
fn output_without_a_type_is_json_or_text() {
    let guess = |body: &[u8]| CgiHead::ok().with_content_type(body).fields.remove(0).1;
    assert_eq!(guess(b" {\"a\":1}"), b"application/json");
    assert_eq!(guess(b"hi"), b"text/plain; charset=utf-8");
    let given = head(b"Content-Type: a/b\n\n").0;
    assert_eq!(given.clone().with_content_type(b"{"), given);
    assert!(head(b"Content-Type: text/event-stream; charset=utf-8\n\n").0.is_event_stream());
    assert!(!head(b"Content-Type: text/plain\n\n").0.is_event_stream());
}
