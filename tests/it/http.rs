//! One HTTP/1.1 response, read byte by byte as RFC 9112 says. A ready-made client would hide the subject of these
//! tests: the end of a response, a response that breaks off, and the bytes that follow it on the connection.

use std::io::{self, BufRead, Read};

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// False where the connection ended before the body did.
    pub is_whole: bool,
}

impl Answer {
    /// Reads one response to its end; interim ones (100 Continue) count as responses. `is_to_head`: to a HEAD request.
    pub fn read(reader: &mut impl BufRead, is_to_head: bool) -> io::Result<Answer> {
        let mut answer = Answer::read_head(reader)?;
        let is_bodyless = is_to_head || answer.status < 200 || [204, 304].contains(&answer.status);
        if is_bodyless {
        } else if answer.field("Transfer-Encoding") == Some("chunked") {
            answer.is_whole = false;
            while let Some(chunk) = read_chunk(reader)? {
                answer.is_whole = chunk.is_empty();
                if answer.is_whole {
                    break;
                }
                answer.body.extend(chunk);
            }
        } else if let Some(length) = answer.field("Content-Length") {
            let length = length.parse().map_err(|_| malformed(length))?;
            reader.take(length).read_to_end(&mut answer.body)?;
            answer.is_whole = answer.body.len() as u64 == length;
        } else {
            reader.read_to_end(&mut answer.body)?;
        }
        Ok(answer)
    }

    /// Reads the status line and the fields, and leaves the body unread.
    pub fn read_head(reader: &mut impl BufRead) -> io::Result<Answer> {
        let line = read_line(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut words = line.split(' ');
        let _version = words.next();
        let status = words.next().and_then(|word| word.parse().ok()).ok_or_else(|| malformed(&line))?;
        let mut fields = Vec::new();
        loop {
            let line = read_line(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").ok_or_else(|| malformed(&line))?;
            fields.push((name.to_string(), value.to_string()));
        }
        Ok(Answer { status, fields, body: Vec::new(), is_whole: true })
    }

    /// The value of the only field of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} stands twice in {self:?}");
        value
    }

    /// True if the function's process was forked from a fork server.
    pub fn is_warm(&self) -> bool {
        self.field("Server-Timing").is_some_and(|timing| timing.contains("desc=\"warm\""))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|fault| panic!("{fault} in {}", self.text()))
    }

    /// Asserts that this is a problem of that status and kind (RFC 9457), and returns its detail.
    pub fn problem(&self, status: u16, kind: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.field("Content-Type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:faas:{kind}"), "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["request_id"].as_str(), self.field("X-Request-Id"), "{problem}");
        assert!(problem["title"].is_string(), "{problem}");
        problem["detail"].as_str().unwrap().to_string()
    }
}

/// The next chunk, empty at the end of the body. `None` if the connection ended, or anything but a chunk came.
pub fn read_chunk(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let Some(line) = read_line(reader)? else { return Ok(None) };
    let Ok(length) = u64::from_str_radix(&line, 16) else { return Ok(None) };
    let mut chunk = Vec::new();
    reader.take(length).read_to_end(&mut chunk)?;
    let is_whole = chunk.len() as u64 == length && read_line(reader)?.is_some_and(|line| line.is_empty());
    Ok(is_whole.then_some(chunk))
}

/// A line without its CRLF; `None` if the connection ended before it.
fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    match line.strip_suffix(b"\r\n") {
        Some(line) => Ok(Some(String::from_utf8_lossy(line).into_owned())),
        None if line.is_empty() => Ok(None),
        None => Err(malformed(&String::from_utf8_lossy(&line))),
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed answer: {what:?}"))
}
