//! Request smuggling, as a table: each row is a first request that two readers could disagree about, and each is followed
//! by a marker request. Either both come out whole and unchanged, or the first is refused and nothing behind it is read.

use super::super::head::{BodyFraming, parse_head};
use super::chunked::{ChunkDecoder, Step};
use crate::error::{Error, Result};

const MARKER: &[u8] = b"GET /marker HTTP/1.1\r\nHost: m\r\n\r\n";

/// `+` in front of fields stands for a POST of version 1.1 with a Host.
#[rustfmt::skip]
const TABLE: &[(&str, u16)] = &[
    // Content-Length
    ("+Content-Length: 5\r\n\r\nhello", 200),
    ("+Content-Length: 0\r\n\r\n", 200),
    ("+content-LENGTH:5\r\n\r\nhello", 200),
    ("+Content-Length: \t5\t \r\n\r\nhello", 200),
    ("+Content-Length: 005\r\n\r\nhello", 200),
    ("+Content-Length: +5\r\n\r\nhello", 400),
    ("+Content-Length: -0\r\n\r\n", 400),
    ("+Content-Length: \r\n\r\nhello", 400),
    ("+Content-Length:\r\n\r\n", 400),
    ("+Content-Length: 5, 5\r\n\r\nhello", 400),
    ("+Content-Length: 5,\r\n\r\nhello", 400),
    ("+Content-Length: ,5\r\n\r\nhello", 400),
    ("+Content-Length: 5 5\r\n\r\nhello", 400),
    ("+Content-Length: 0x5\r\n\r\nhello", 400),
    ("+Content-Length: 5h\r\n\r\nhello", 400),
    ("+Content-Length: 5.0\r\n\r\nhello", 400),
    ("+Content-Length: 5e0\r\n\r\nhello", 400),
    ("+Content-Length: 5;x\r\n\r\nhello", 400),
    ("+Content-Length: '5'\r\n\r\nhello", 400),
    ("+Content-Length: \"5\"\r\n\r\nhello", 400),
    ("+Content-Length: five\r\n\r\nhello", 400),
    ("+Content-Length: \u{665}\r\n\r\nhello", 400),
    ("+Content-Length: 1_0\r\n\r\nhellohello", 400),
    ("+Content-Length: 18446744073709551616\r\n\r\nhello", 400),
    ("+Content-Length: 18446744073709551621\r\n\r\nhello", 400),
    ("+Content-Length: 99999999999999999999999\r\n\r\nhello", 400),
    ("+Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    ("+Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello", 400),
    ("+Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello", 400),
    ("+Content-Length: 5\r\ncontent-length: 6\r\n\r\nhello", 400),
    ("+Content-Length: 5\r\n\tX: y\r\n\r\nhello", 400),
    ("+Content-Length: 5\r\n 6\r\n\r\nhello", 400),
    ("+Content-Length: 5\u{b}\r\n\r\nhello", 400),
    ("+Content-Length: 5\0\r\n\r\nhello", 400),
    ("+Content-Length : 5\r\n\r\nhello", 400),
    ("+Content-Length\t: 5\r\n\r\nhello", 400),
    ("+ Content-Length: 5\r\n\r\nhello", 400),
    ("+Content-Length\u{0}: 5\r\n\r\nhello", 400),
    ("+Content-Length 5\r\n\r\nhello", 400),
    ("+\"Content-Length\": 5\r\n\r\nhello", 400),
    ("+Content-Length: 5\nX: y\r\n\r\nhello", 400),
    ("+Content-Length: 5\rX: y\r\n\r\nhello", 400),
    ("+Content-Length: 5\r\r\n\r\nhello", 400),
    ("+X: y\nContent-Length: 5\r\n\r\nhello", 400),
    ("+X: y\rContent-Length: 5\r\n\r\nhello", 400),
    // Under other names these say nothing about the body.
    ("+Content_Length: 5\r\n\r\n", 200),
    ("+X-Content-Length: 5\r\n\r\n", 200),
    ("+Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello", 200),
    // Transfer-Encoding
    ("+Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200),
    ("+transfer-encoding:CHUNKED\r\n\r\n0\r\n\r\n", 200),
    ("+Transfer-Encoding: \tchunked \r\n\r\n0\r\n\r\n", 200),
    ("+Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200),
    ("+Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    ("+Transfer-Encoding: identity\r\n\r\n", 400),
    ("+Transfer-Encoding: gzip\r\n\r\n", 400),
    ("+Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: 'chunked'\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: \r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: chunked\u{b}\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: \u{a0}chunked\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding: x\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    ("+ Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("+\tTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("+X: y\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("+X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("+X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding\r\n: chunked\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer-Encoding\u{ff}: chunked\r\n\r\n0\r\n\r\n", 400),
    ("+Transfer\u{2010}Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    // Chunks
    ("*5\r\nhello\r\n0\r\n\r\n", 200),
    ("*005\r\nhello\r\n000\r\n\r\n", 200),
    ("*a\r\n0123456789\r\n1;x=y;z\r\nA\r\n0;last\r\n\r\n", 200),
    ("*5;name=\"quoted; \\\" string\" ; x\r\nhello\r\n0\r\n\r\n", 200),
    ("*5 ; x = y\r\nhello\r\n0\r\n\r\n", 200),
    ("*0\r\nTrailer: x\r\nContent-Length: 100\r\n\r\n", 200),
    ("*+5\r\nhello\r\n0\r\n\r\n", 400),
    ("*-5\r\nhello\r\n0\r\n\r\n", 400),
    ("*0x5\r\nhello\r\n0\r\n\r\n", 400),
    ("*5h\r\nhello\r\n0\r\n\r\n", 400),
    ("*5 \r\nhello\r\n0\r\n\r\n", 400),
    ("* 5\r\nhello\r\n0\r\n\r\n", 400),
    ("*5,5\r\nhello\r\n0\r\n\r\n", 400),
    ("*5_0\r\nhello\r\n0\r\n\r\n", 400),
    ("*\r\nhello\r\n0\r\n\r\n", 400),
    ("*;x\r\nhello\r\n0\r\n\r\n", 400),
    ("*5;\r\nhello\r\n0\r\n\r\n", 400),
    ("*5;x=\r\nhello\r\n0\r\n\r\n", 400),
    ("*5;x=\"y\r\nhello\r\n0\r\n\r\n", 400),
    ("*5;x\nhello\r\n0\r\n\r\n", 400),
    ("*5;x\ry\r\nhello\r\n0\r\n\r\n", 400),
    ("*5;\0\r\nhello\r\n0\r\n\r\n", 400),
    ("*5\nhello\r\n0\r\n\r\n", 400),
    ("*5\r\nhello\n0\r\n\r\n", 400),
    ("*5\r\nhello\r0\r\n\r\n", 400),
    ("*5\r\nhello0\r\n\r\n", 400),
    ("*5\r\nhello!\r\n0\r\n\r\n", 400),
    ("*4\r\nhello\r\n0\r\n\r\n", 400),
    ("*6\r\nhello\r\n0\r\n\r\n", 400),
    ("*0\r\n\n", 400),
    ("*0\n\r\n", 400),
    ("*0\r\nno colon\r\n\r\n", 400),
    ("*0\r\nTrailer : x\r\n\r\n", 400),
    ("*0\r\n folded\r\n\r\n", 400),
    ("*0\r\nTrailer: \0\r\n\r\n", 400),
    ("*10000000000000005\r\nhello\r\n0\r\n\r\n", 400),
    ("*00000000000000005\r\nhello\r\n0\r\n\r\n", 400),
    // The ends of head and request line
    ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", 200),
    ("\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 200),
    ("\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    (" GET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET / HTTP/1.1\nHost: h\n\n", 400),
    ("GET / HTTP/1.1\r\nHost: h\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: h\r\n\n", 400),
    ("GET / HTTP/1.1\r\nHost: h\n\n", 400),
    ("GET / HTTP/1.1\rHost: h\r\r", 400),
    ("GET / HTTP/1.1\r\nHost: h\r\n\r\r\n", 400),
    ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET /  HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET / HTTP/1.1 \r\nHost: h\r\n\r\n", 400),
    ("GET\t/\tHTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET / HTTP/1.1 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET /\r\n\r\n", 400),
    ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
    // Host
    ("GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: h, i\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: h\r\n Host: i\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\n\r\n", 400),
    ("GET http://h@i/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: h\r\n: empty name\r\n\r\n", 400),
    ("CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 501),
    ("GET / HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\n\r\n", 200),
];

fn first_request(row: &str) -> String {
    match row.as_bytes()[0] {
        b'+' => format!("POST / HTTP/1.1\r\nHost: h\r\n{}", &row[1..]),
        b'*' => format!("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{}", &row[1..]),
        _ => row.to_string(),
    }
}

/// Reads one request, as a connection does, and says what it is and how many bytes it took.
fn read_request(bytes: &[u8]) -> Result<(String, Vec<u8>, usize)> {
    let (head, mut used) = parse_head(bytes)?.ok_or(Error::RequestMalformed("the head does not end"))?;
    let mut body = Vec::new();
    match head.framing {
        BodyFraming::None => {}
        BodyFraming::Length(length) => {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let rest = bytes[used..].get(..length).ok_or(Error::RequestMalformed("the body does not end"))?;
            body.extend_from_slice(rest);
            used += length;
        }
        BodyFraming::Chunked => {
            let mut decoder = ChunkDecoder::new();
            loop {
                let (count, step) = decoder.step(&bytes[used..])?;
                used += count;
                match step {
                    Step::Data(data) => body.extend_from_slice(data),
                    Step::End => break,
                    Step::More => return Err(Error::RequestMalformed("the chunks do not end")),
                }
            }
        }
    }
    Ok((format!("{} {}", head.method, head.target), body, used))
}

#[test]
fn a_doubtful_request_is_refused_and_a_good_one_leaves_the_next_untouched() {
    assert!(TABLE.len() >= 80);
    for (row, expected) in TABLE {
        let first = first_request(row);
        let bytes = [first.as_bytes(), MARKER].concat();
        let verdict = read_request(&bytes).and_then(|(_, _, used)| {
            let (marker, body, marker_used) = read_request(&bytes[used..])?;
            assert_eq!((marker.as_str(), body.as_slice()), ("GET /marker", &b""[..]), "behind {first:?}");
            assert_eq!(used + marker_used, bytes.len(), "behind {first:?}");
            assert_eq!(used, first.len(), "in {first:?}");
            Ok(200)
        });
        assert_eq!(verdict.unwrap_or_else(|error| error.status()), *expected, "for {first:?}");
    }
}
