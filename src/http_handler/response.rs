//! Responses, from the status to the bytes on the connection.
//!
//! A response is composed once and never parsed again. Its maker gives status, fields and body. This file adds framing,
//! date, request id and the connection's persistence when it writes the head.

use std::io::Write;
use std::time::SystemTime;

use super::parser::Version;
use super::problem;
use super::spool::Spool;
use crate::clock;
use crate::error::request::RequestError;

/// A whole response, or the head of one that is streamed.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Empty to use the standard phrase.
    pub reason: String,
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Body,
    /// For the response to HEAD: the length of the body that GET would get, if the maker has stated it.
    pub content_length: Option<u64>,
}

#[derive(Debug)]
pub enum Body {
    Bytes(Vec<u8>),
    Spool(Spool),
}

/// The way for the client to find the end of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// None: the response has no body, and does not state the length that one would have.
    None,
    /// The end of the connection, for an HTTP/1.0 client.
    Close,
}

/// Facts besides the response that shape its head.
#[derive(Debug, Clone, Copy)]
pub struct Form<'a> {
    pub version: Version,
    pub request_id: &'a str,
    pub framing: Framing,
    pub keep_alive: bool,
}

impl Response {
    pub fn new(status: u16) -> Response {
        Response {
            status,
            reason: String::new(),
            fields: Vec::new(),
            body: Body::Bytes(Vec::new()),
            content_length: None,
        }
    }

    pub fn add(&mut self, name: &str, value: &str) {
        self.fields.push((name.to_string(), value.as_bytes().to_vec()));
    }

    /// The response to an OPTIONS request that no function handles.
    pub fn options(allow: &str) -> Response {
        let mut response = Response::new(204);
        response.add("Allow", allow);
        response
    }

    /// The response to a failed request: problem details (RFC 9457), limited to the part for clients.
    pub fn of_error(error: &RequestError, request_id: &str) -> Response {
        Response::of_problem(error, &error.public(), request_id)
    }

    /// Like `of_error`, with another text for `detail`.
    pub fn of_problem(error: &RequestError, detail: &str, request_id: &str) -> Response {
        let mut response = Response::new(error.status());
        response.add("Content-Type", problem::CONTENT_TYPE);
        if let Some(seconds) = error.retry_after_s() {
            response.add("Retry-After", &seconds.to_string());
        }
        if let RequestError::MethodNotAllowed { allow } = error {
            response.add("Allow", allow);
        }
        response.body = Body::Bytes(problem::body(error, detail, request_id));
        response
    }

    pub fn length(&self) -> u64 {
        match &self.body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Spool(spool) => spool.len(),
        }
    }

    /// True where a body may follow the head (RFC 9110, 6.4.1, 15.3.6).
    pub fn has_body(&self) -> bool {
        !matches!(self.status, 204 | 205 | 304)
    }

    /// The framing of a whole response. The response to HEAD states the length that the maker gave, else the length of
    /// the body that it made anyway, else none (RFC 9110, 8.6).
    pub fn framing(&self, is_head: bool) -> Framing {
        match (self.status, is_head) {
            // Reset Content has no content, and must state it.
            (205, _) => Framing::Length(0),
            (204 | 304, _) => Framing::None,
            (_, false) => Framing::Length(self.length()),
            (_, true) => {
                let length = self.content_length.or_else(|| Some(self.length()).filter(|length| *length > 0));
                length.map_or(Framing::None, Framing::Length)
            }
        }
    }

    /// True if the response tells the client to retry later.
    pub fn asks_to_retry_later(&self) -> bool {
        matches!(self.status, 429 | 503) && self.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("retry-after"))
    }

    /// Writes the head, with its empty line. Writing to a Vec cannot fail.
    pub fn write_head(&self, out: &mut Vec<u8>, form: Form<'_>) {
        let version = if form.version == Version::Http10 { "1.0" } else { "1.1" };
        let reason = if self.reason.is_empty() { problem::reason(self.status) } else { &self.reason };
        let _ = write!(out, "HTTP/{version} {} {reason}\r\n", self.status);
        for (name, value) in &self.fields {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        let date = clock::http_date(SystemTime::now());
        let _ = write!(out, "X-Request-Id: {}\r\nDate: {date}\r\n", form.request_id);
        let _ = match form.framing {
            Framing::Length(length) => write!(out, "Content-Length: {length}\r\n"),
            Framing::Chunked => write!(out, "Transfer-Encoding: chunked\r\n"),
            Framing::None | Framing::Close => Ok(()),
        };
        out.extend_from_slice(match (form.keep_alive, form.version) {
            (false, _) => b"Connection: close\r\n\r\n",
            (true, Version::Http10) => b"Connection: keep-alive\r\n\r\n",
            (true, Version::Http11) => b"\r\n",
        });
    }
}
