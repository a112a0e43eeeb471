//! An HTTP/1.1 client that sends one request on a connection of its own, to our own servers.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Time to connect.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);

/// Bytes of an answer's head and of its chunk framing, in addition to the body.
const FRAMING_BYTES_MAX: u64 = 1 << 20;

pub(crate) struct Request<'a> {
    pub method: &'a str,
    pub target: &'a str,
    /// Includes Host; `send` adds Content-Length and Connection.
    pub fields: &'a [(String, String)],
    pub body: &'a [u8],
    /// Time for one read or write.
    pub wait: Duration,
    /// Bytes of the answer's body.
    pub answer_bytes_max: u64,
}

pub(crate) struct Response {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request<'_> {
    /// # Errors
    /// Where no server answers, or the answer is cut short or too large.
    pub fn send(&self, address: SocketAddr) -> Result<Response> {
        let mut head = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", self.method, self.target);
        if !self.body.is_empty() || self.method != "GET" {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        self.fields.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        let mut stream = TcpStream::connect_timeout(&address, CONNECT_WAIT_MAX)?;
        stream.set_read_timeout(Some(self.wait))?;
        stream.set_write_timeout(Some(self.wait))?;
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        // A server that rejects a body may not read all of it: its answer counts.
        let _ = stream.write_all(self.body);
        let mut answer = Vec::new();
        let bytes_max = self.answer_bytes_max.saturating_add(FRAMING_BYTES_MAX);
        stream.take(bytes_max + 1).read_to_end(&mut answer)?;
        if answer.len() as u64 > bytes_max {
            return Err(Error::other(format!("its answer has more than {} bytes", self.answer_bytes_max)));
        }
        let cut_short = || Error::new(ErrorKind::UnexpectedEof, "its answer is cut short");
        Response::parse(&answer, self.method == "HEAD").ok_or_else(cut_short)
    }
}

impl Response {
    fn parse(answer: &[u8], is_head: bool) -> Option<Response> {
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let field = |line: &str| line.split_once(':').map(|(name, value)| (name.to_string(), value.trim().to_string()));
        let fields: Vec<(String, String)> = lines.filter_map(field).collect();
        let rest = &answer[end + 4..];
        let mut response = Response { status, fields, body: Vec::new() };
        response.body = match (response.field("Transfer-Encoding"), response.field("Content-Length")) {
            _ if is_head => Vec::new(),
            (Some(_), _) => dechunked(rest)?,
            (None, Some(length)) => rest.get(..length.parse().ok()?)?.to_vec(),
            (None, None) => rest.to_vec(),
        };
        Some(response)
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// The body of a chunked answer (RFC 9112 7.1); `None` where it is cut short.
fn dechunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let line = std::str::from_utf8(&rest[..end]).ok()?;
        let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}
