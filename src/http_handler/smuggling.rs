//! Request smuggling: each row of the table is a first request that two readers could read differently; a marker
//! request follows it. Either both come out whole and unchanged, or the first is rejected.

use super::chunked::{ChunkDecoder, Step};
use super::parser::{BodyFraming, parse_head};
use super::smuggling_table::{TABLE, first_request};
use crate::error::request::{RequestError, Result};

const MARKER: &[u8] = b"GET /marker HTTP/1.1\r\nHost: m\r\n\r\n";

/// Reads one request, as a connection does; returns its first line, its body and its length.
fn read_request(bytes: &[u8]) -> Result<(String, Vec<u8>, usize)> {
    let (head, mut used) = parse_head(bytes)?.ok_or(RequestError::RequestMalformed("the head does not end"))?;
    let mut body = Vec::new();
    match head.framing {
        BodyFraming::None => {}
        BodyFraming::Length(length) => {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let rest = bytes[used..].get(..length).ok_or(RequestError::RequestMalformed("the body does not end"))?;
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
                    Step::More => return Err(RequestError::RequestMalformed("the chunks do not end")),
                }
            }
        }
    }
    Ok((format!("{} {}", head.method, head.target), body, used))
}

#[test]
fn every_row_has_one_reading() {
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

#[test]
fn every_head_reads_the_same_byte_by_byte() {
    for (row, _) in TABLE {
        let bytes = first_request(row).into_bytes();
        let verdict =
            |read: Result<Option<_>>| read.map(|head| head.map(|(_, used)| used)).map_err(|error| error.status());
        let in_pieces = (1..=bytes.len()).map(|length| verdict(parse_head(&bytes[..length])));
        assert_eq!(in_pieces.into_iter().find(|read| *read != Ok(None)), Some(verdict(parse_head(&bytes))), "{row:?}");
    }
}
