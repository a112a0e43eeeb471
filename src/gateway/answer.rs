//! Answers: from a function's output, or an error, to the bytes that a client gets.
//!
//! A function's output is looked at until it is clear whether it opens with a CGI head; the rest is its body. The body is
//! collected whole, so that a failure can still become a clean error, unless the descriptor says `"stream": true` or the
//! head says text/event-stream: then it goes out piece by piece as it comes, and a failure cuts it short.

use std::io::Write;
use std::time::SystemTime;

use super::cgi::{self, CgiHead, Opening};
use super::client::Client;
use super::config_loader;
use super::head::Version;
use super::problem;
use super::spool::Spool;
use crate::clock;
use crate::error::{Error, Result};
use crate::protocol::worker_protocol::End;

/// A whole answer, or the head of one that is streamed.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Empty: the standard phrase.
    reason: String,
    fields: Vec<(String, Vec<u8>)>,
    pub body: Body,
}

#[derive(Debug)]
pub enum Body {
    Bytes(Vec<u8>),
    Spool(Spool),
}

/// How the end of an answer's body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// By the end of the connection, for a client of version 1.0.
    Close,
}

/// What an answer's head depends on besides the answer.
#[derive(Debug, Clone, Copy)]
pub struct Form<'a> {
    pub version: Version,
    pub request_id: &'a str,
    pub framing: Framing,
    pub keep_alive: bool,
}

impl Answer {
    pub fn new(status: u16) -> Answer {
        Answer { status, reason: String::new(), fields: Vec::new(), body: Body::Bytes(Vec::new()) }
    }

    pub fn add(&mut self, name: &str, value: &str) {
        self.fields.push((name.to_string(), value.as_bytes().to_vec()));
    }

    /// What an OPTIONS request is answered that no function takes.
    pub fn options(allow: &str) -> Answer {
        let mut answer = Answer::new(204);
        answer.add("Allow", allow);
        answer
    }

    /// RFC 9457 problem+json.
    pub fn of_error(error: &Error, request_id: &str) -> Answer {
        let mut answer = Answer::new(error.status());
        answer.add("Content-Type", problem::CONTENT_TYPE);
        if let Some(seconds) = error.retry_after_s() {
            answer.add("Retry-After", &seconds.to_string());
        }
        if let Error::MethodNotAllowed { allow } = error {
            answer.add("Allow", allow);
        }
        answer.body = Body::Bytes(problem::body(error, request_id));
        answer
    }

    fn of_head(head: CgiHead, body: Body) -> Answer {
        Answer { status: head.status, reason: head.reason, fields: head.fields, body }
    }

    pub fn length(&self) -> u64 {
        match &self.body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Spool(spool) => spool.len(),
        }
    }

    /// Whether a body may follow the head (RFC 9110, 6.4.1).
    pub fn has_body(&self) -> bool {
        self.status != 204 && self.status != 304
    }

    /// Whether the client is told to come back later.
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
            _ if !self.has_body() => Ok(()),
            Framing::Length(length) => write!(out, "Content-Length: {length}\r\n"),
            Framing::Chunked => write!(out, "Transfer-Encoding: chunked\r\n"),
            Framing::Close => Ok(()),
        };
        out.extend_from_slice(match (form.keep_alive, form.version) {
            (false, _) => b"Connection: close\r\n\r\n",
            (true, Version::Http10) => b"Connection: keep-alive\r\n\r\n",
            (true, Version::Http11) => b"\r\n",
        });
    }
}

/// What of an answer is the platform's to say.
#[derive(Default)]
pub struct Facts {
    pub worker: Option<u32>,
    pub queue_ms: f64,
    pub explanation: Option<String>,
}

impl Facts {
    pub fn add_to(&self, answer: &mut Answer, end: Option<&End>) {
        let Some(worker) = self.worker else { return };
        answer.add("X-Faas-Worker", &worker.to_string());
        if let Some(explanation) = &self.explanation {
            answer.add("X-Faas-Explain", explanation);
        }
        let milliseconds = |us: u64| us as f64 / 1000.0;
        let mut timing = format!("queue;dur={:.2}", self.queue_ms);
        if let Some(end) = end {
            let (spawn, exec) = (milliseconds(end.spawn_us), milliseconds(end.exec_us));
            let start = if end.is_warm { "warm" } else { "cold" };
            timing.push_str(&format!(", spawn;dur={spawn:.2};desc=\"{start}\", exec;dur={exec:.2}"));
        }
        answer.add("Server-Timing", &timing);
    }
}

/// How a function's output is to be read.
#[derive(Clone, Copy)]
pub struct OutputMode {
    pub output: config_loader::Output,
    pub streams: bool,
}

/// Takes a function's output piece by piece.
pub struct Sink<'a> {
    mode: OutputMode,
    pub client: &'a mut dyn Client,
    facts: &'a Facts,
    /// What came before it was clear what it is.
    opening: Vec<u8>,
    head: Option<CgiHead>,
    body: Spool,
    bytes: u64,
    bytes_max: u64,
    /// The status of an answer that is under way already.
    pub streamed: Option<u16>,
}

impl<'a> Sink<'a> {
    pub fn new(
        mode: OutputMode,
        client: &'a mut dyn Client,
        facts: &'a Facts,
        body: Spool,
        bytes_max: u64,
    ) -> Sink<'a> {
        Sink { mode, client, facts, opening: Vec::new(), head: None, body, bytes: 0, bytes_max, streamed: None }
    }

    /// # Errors
    /// [`Error::CgiMalformed`], [`Error::AnswerTooLarge`], [`Error::SpoolFull`], [`Error::ClientGone`]: the invocation is
    /// to be cancelled.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.bytes_max {
            return Err(Error::AnswerTooLarge { max: self.bytes_max });
        }
        if self.head.is_some() {
            return self.write_body(bytes);
        }
        self.opening.extend_from_slice(bytes);
        self.decide(false)
    }

    /// The answer, when all output is there; of one that is streamed, its head, which has gone out.
    pub fn finish(mut self) -> Result<Answer> {
        if self.head.is_none() {
            self.decide(true)?;
        }
        let head = self.head.take().expect("decide with all output settles the head");
        Ok(Answer::of_head(head, Body::Spool(self.body)))
    }

    /// Finds out what the output opens with, if that can be told.
    fn decide(&mut self, is_all: bool) -> Result<()> {
        let is_demanded = self.mode.output == config_loader::Output::Cgi;
        let opening = match self.mode.output {
            config_loader::Output::Raw => Opening::NoHead,
            _ => cgi::opening(&self.opening, is_all, is_demanded),
        };
        let (head, body_start) = match opening {
            Opening::Undecided => return Ok(()),
            Opening::Head(head, body_start) => (head, body_start),
            Opening::NoHead => (CgiHead::ok(), 0),
            Opening::Malformed(how) => return Err(Error::CgiMalformed(how)),
        };
        let opening = std::mem::take(&mut self.opening);
        // A head without a type, and no body yet: write_body decides.
        let head = match body_start < opening.len() || head.fields.is_empty() {
            true => head.with_content_type(&opening[body_start..]),
            false => head,
        };
        if self.mode.streams || head.is_event_stream() {
            let mut answer = Answer::of_head(head.clone(), Body::Bytes(Vec::new()));
            self.facts.add_to(&mut answer, None);
            self.streamed = Some(head.status);
            self.client.begin(&answer)?;
        }
        self.head = Some(head);
        self.write_body(&opening[body_start..])
    }

    fn write_body(&mut self, bytes: &[u8]) -> Result<()> {
        if self.streamed.is_some() {
            return self.client.send(bytes);
        }
        if self.body.len() == 0 && !bytes.is_empty() {
            self.head = self.head.take().map(|head| head.with_content_type(bytes));
        }
        self.body.write(bytes)
    }
}
