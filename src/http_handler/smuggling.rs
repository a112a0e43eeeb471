//! Request smuggling: each row of the table is a first request that two readers could read differently; a marker
//! request follows it. Either both come out whole and unchanged, or the first is rejected.

use super::chunked::{ChunkDecoder, Step};
use super::parser::{BodyFraming, parse_head};
use super::smuggling_table::{TABLE, first_request};
use crate::cases::{check, each};
use crate::error::request::{RequestError, Result};
use crate::fuzzing;

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
    check(TABLE.iter().copied(), |row| {
        let first = first_request(row);
        let bytes = [first.as_bytes(), MARKER].concat();
        let read = read_request(&bytes).and_then(|(_, _, used)| Ok((used, read_request(&bytes[used..])?)));
        match read {
            Ok((used, (marker, body, marker_used))) => {
                let is_marker = marker == "GET /marker" && body.is_empty() && marker_used == MARKER.len();
                // 0 is no status: the row is read in another way.
                if is_marker && used == first.len() { 200 } else { 0 }
            }
            Err(error) => error.status(),
        }
    });
}

#[test]
fn every_head_reads_the_same_byte_by_byte() {
    each(TABLE, |(row, _)| fuzzing::head(first_request(row).as_bytes()));
}
