//! The head of the handler's answer, turned into the one that the client gets. Knows bytes only.
//!
//! The handler is our own and writes correct heads; what it does not know is the client's connection. So this puts in
//! the version, Date where it is missing, and Connection; it takes out what is between the two of us.

use std::time::SystemTime;

use super::super::conversation::SPOOLED_FIELD;
use super::super::head::{Version, trim};
use crate::clock;
use crate::error::{Error, Result};

/// Where the body of the answer is, and how its end is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerBody {
    Nothing,
    /// This many bytes follow the head.
    Length(u64),
    /// Chunks follow the head.
    Chunked,
    /// This many bytes wait in the conversation's spool.
    Spooled(u64),
}

/// What the client's side asks of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub version: Version,
    /// The request was HEAD.
    pub head_only: bool,
    /// The connection may go on behind this answer.
    pub keep_alive: bool,
}

/// Where the head at the front of `bytes` ends, behind its empty line.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|start| start + 4)
}

/// Writes the client's head into `out`; returns where the body is, and whether the connection goes on behind it.
pub fn translate(head: &[u8], wanted: Wanted, out: &mut Vec<u8>) -> Result<(AnswerBody, bool)> {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let status_line = lines.next().unwrap_or_default();
    let (Some(b"HTTP/1.1 "), Some(status)) = (status_line.get(..9), status_line.get(9..12)) else {
        return Err(not_understood());
    };
    out.extend_from_slice(if wanted.version == Version::Http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(&status_line[9..]);
    out.extend_from_slice(b"\r\n");

    let mut framing = None;
    let mut has_date = false;
    for line in lines.filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|byte| *byte == b':').ok_or_else(not_understood)?;
        let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
        let framed = if name.eq_ignore_ascii_case(SPOOLED_FIELD.as_bytes()) {
            Some(AnswerBody::Spooled(number(value)?))
        } else if name.eq_ignore_ascii_case(b"Transfer-Encoding") {
            Some(AnswerBody::Chunked)
        } else if name.eq_ignore_ascii_case(b"Content-Length") {
            Some(AnswerBody::Length(number(value)?))
        } else {
            None
        };
        if framed.is_some() && framing.is_some() {
            // Two of them let client and gateway see the end of the answer in different places.
            return Err(not_understood());
        }
        framing = framing.or(framed);
        if matches!(framed, Some(AnswerBody::Spooled(_))) {
            out.extend_from_slice(b"Content-Length: ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
            continue;
        }
        let is_chunked_for_1_0 = framed == Some(AnswerBody::Chunked) && wanted.version == Version::Http10;
        if name.eq_ignore_ascii_case(b"Connection") || is_chunked_for_1_0 {
            continue;
        }
        has_date |= name.eq_ignore_ascii_case(b"Date");
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }
    let body = match (status, framing) {
        (b"204" | b"304", _) => AnswerBody::Nothing,
        _ if wanted.head_only => AnswerBody::Nothing,
        (_, Some(framing)) => framing,
        (_, None) => return Err(not_understood()),
    };
    // A 1.0 client knows no chunks: for it the end of the connection is the end of the body.
    let keep_alive = wanted.keep_alive && !(body == AnswerBody::Chunked && wanted.version == Version::Http10);
    if !has_date {
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(clock::http_date(SystemTime::now()).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(match (keep_alive, wanted.version) {
        (false, _) => b"Connection: close\r\n\r\n",
        (true, Version::Http10) => b"Connection: keep-alive\r\n\r\n",
        (true, Version::Http11) => b"\r\n",
    });
    Ok((body, keep_alive))
}

/// Whether this answer tells its client to come back later.
pub fn asks_to_retry_later(head: &[u8]) -> bool {
    const NAME: &[u8] = b"Retry-After:";
    matches!(head.get(9..12), Some(b"429" | b"503"))
        && head
            .split(|byte| *byte == b'\n')
            .any(|line| line.get(..NAME.len()).is_some_and(|start| start.eq_ignore_ascii_case(NAME)))
}

fn number(value: &[u8]) -> Result<u64> {
    std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).ok_or_else(not_understood)
}

/// The handler's answer is not as agreed; that is a fault of this program.
pub fn not_understood() -> Error {
    let cause = std::io::ErrorKind::InvalidData.into();
    Error::Io { step: "understand the answer of", subject: "the request handler".into(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";

    fn translated(fields: &str, version: Version, head_only: bool, keep_alive: bool) -> (String, AnswerBody, bool) {
        let head = format!("HTTP/1.1 200 OK\r\n{DATE}{fields}\r\n");
        let mut out = Vec::new();
        let wanted = Wanted { version, head_only, keep_alive };
        let (body, keep_alive) = translate(head.as_bytes(), wanted, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), body, keep_alive)
    }

    #[test]
    fn an_answer_for_a_1_1_client_that_stays_passes_as_it_is() {
        let (head, body, keep_alive) = translated("X: y\r\nContent-Length: 5\r\n", Version::Http11, false, true);
        assert_eq!(head, format!("HTTP/1.1 200 OK\r\n{DATE}X: y\r\nContent-Length: 5\r\n\r\n"));
        assert_eq!((body, keep_alive), (AnswerBody::Length(5), true));
    }

    #[test]
    fn chunks_for_a_1_0_client_end_with_the_connection() {
        let (head, body, keep_alive) = translated("Transfer-Encoding: chunked\r\n", Version::Http10, false, true);
        assert_eq!(head, format!("HTTP/1.0 200 OK\r\n{DATE}Connection: close\r\n\r\n"));
        assert_eq!((body, keep_alive), (AnswerBody::Chunked, false));
    }

    #[test]
    fn a_spooled_body_gets_its_length_and_head_gets_none_of_it() {
        let (head, body, _) = translated("X-Faas-Spooled: 70000\r\n", Version::Http10, false, true);
        assert_eq!(head, format!("HTTP/1.0 200 OK\r\n{DATE}Content-Length: 70000\r\nConnection: keep-alive\r\n\r\n"));
        assert_eq!(body, AnswerBody::Spooled(70_000));
        let (_, body, keep_alive) = translated("X-Faas-Spooled: 70000\r\n", Version::Http11, true, false);
        assert_eq!((body, keep_alive), (AnswerBody::Nothing, false));
    }

    #[test]
    fn an_answer_that_asks_to_retry_later_is_known_by_status_and_field() {
        for (head, expected) in [
            ("HTTP/1.1 503 Service Unavailable\r\nX: y\r\nretry-after: 1\r\n\r\n", true),
            ("HTTP/1.0 429 Too Many Requests\r\nRetry-After:1\r\n\r\n", true),
            ("HTTP/1.1 503 Service Unavailable\r\nX: Retry-After: 1\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nRetry-After: 1\r\n\r\n", false),
            ("HTTP/1.1", false),
        ] {
            assert_eq!(asks_to_retry_later(head.as_bytes()), expected, "{head}");
        }
    }

    #[test]
    fn a_missing_date_is_added_and_a_missing_framing_is_not_guessed() {
        let wanted = Wanted { version: Version::Http11, head_only: false, keep_alive: true };
        let mut out = Vec::new();
        assert_eq!(
            translate(b"HTTP/1.1 204 No Content\r\n\r\n", wanted, &mut out).unwrap(),
            (AnswerBody::Nothing, true)
        );
        assert!(String::from_utf8(out).unwrap().contains("\r\nDate: "));
        assert!(translate(b"HTTP/1.1 200 OK\r\n\r\n", wanted, &mut Vec::new()).is_err());
    }

    #[test]
    fn an_answer_has_one_framing_only() {
        let wanted = Wanted { version: Version::Http11, head_only: false, keep_alive: true };
        let framings = ["Content-Length: 5", "Transfer-Encoding: chunked", "X-Faas-Spooled: 5"];
        for (first, second) in framings.iter().flat_map(|first| framings.map(|second| (first, second))) {
            let head = format!("HTTP/1.1 200 OK\r\n{first}\r\nX: y\r\n{second}\r\n\r\n");
            assert!(translate(head.as_bytes(), wanted, &mut Vec::new()).is_err(), "{head}");
        }
    }
}
