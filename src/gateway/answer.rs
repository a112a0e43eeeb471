//! Answers on their way out: from a function's output, or an error, to the bytes that tiny_http's writer gets.
//!
//! A function's output is looked at until it is clear whether it opens with a CGI head; the rest is its body. The body is
//! collected whole, so that a failure can still become a clean error, unless the descriptor says `"stream": true` or the
//! head says text/event-stream: then it goes out chunk by chunk as it comes, and a failure cuts it short.

use std::io::Write;
use std::sync::Arc;

use super::cgi::{self, CgiHead, Opening};
use super::config_loader;
use super::conversation::{Conversation, SPOOLED_FIELD};
use super::problem;
use super::spool::Spool;
use crate::error::{Error, Result};
use crate::protocol::worker_protocol::End;

/// A whole answer.
pub struct Answer {
    status: u16,
    reason: String,
    fields: Vec<(String, Vec<u8>)>,
    pub body: Body,
}

pub enum Body {
    Bytes(Vec<u8>),
    Spool(Spool),
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
        answer.add("Content-Type", "application/problem+json");
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
}

/// The way out of one request.
pub struct Output {
    request: Option<tiny_http::Request>,
    conversation: Arc<Conversation>,
    /// The open end of an answer that is streamed.
    stream: Option<Box<dyn Write + Send>>,
    streamed_status: Option<u16>,
    /// Fields about the platform's part: worker, timing, explanation.
    facts: Vec<(String, Vec<u8>)>,
    queue_ms: f64,
}

impl Output {
    pub fn new(request: tiny_http::Request, conversation: Arc<Conversation>) -> Output {
        let request = Some(request);
        Output { request, conversation, stream: None, streamed_status: None, facts: Vec::new(), queue_ms: 0.0 }
    }

    /// What is known once a worker was chosen.
    pub fn set_facts(&mut self, worker: u32, queue_ms: f64, explanation: Option<String>) {
        self.queue_ms = queue_ms;
        self.facts.clear();
        self.facts.push(("X-Faas-Worker".into(), worker.to_string().into_bytes()));
        if let Some(explanation) = explanation {
            self.facts.push(("X-Faas-Explain".into(), explanation.into_bytes()));
        }
    }

    /// Sends a whole answer, where there is one, or ends the stream; returns the status for the log. Errors of writing
    /// end here: they mean that the client has gone, which the front door knows.
    pub fn finish(mut self, answer: Option<Answer>, worker: Option<u32>) -> u16 {
        if worker.is_none() {
            self.facts.clear();
        }
        let Some(answer) = answer else {
            return self.streamed_status.unwrap_or(500);
        };
        let status = answer.status;
        // Nobody is there to read it.
        if status == 499 {
            return status;
        }
        let _ = self.send(answer);
        status
    }

    /// Sends head and body in one piece; a body in a file stays there, and the front door is told.
    fn send(&mut self, answer: Answer) -> std::io::Result<()> {
        let Some(request) = self.request.take() else { return Ok(()) };
        let mut bytes = self.head(answer.status, &answer.reason, &answer.fields);
        let is_bodyless = answer.status == 204 || answer.status == 304;
        let is_head = self.conversation.head.method == "HEAD";
        match answer.body {
            _ if is_bodyless => bytes.extend_from_slice(b"\r\n"),
            Body::Bytes(body) => {
                write!(bytes, "Content-Length: {}\r\n\r\n", body.len())?;
                if !is_head {
                    bytes.extend_from_slice(&body);
                }
            }
            Body::Spool(spool) if is_head => write!(bytes, "Content-Length: {}\r\n\r\n", spool.len())?,
            Body::Spool(spool) => match spool.memory() {
                Some(body) => {
                    write!(bytes, "Content-Length: {}\r\n\r\n", body.len())?;
                    bytes.extend_from_slice(body);
                }
                None => {
                    write!(bytes, "{SPOOLED_FIELD}: {}\r\n\r\n", spool.len())?;
                    self.conversation.put_answer(spool);
                }
            },
        }
        let mut writer = request.into_writer();
        writer.write_all(&bytes)?;
        writer.flush()
    }

    /// Begins a streamed answer.
    fn begin_stream(&mut self, head: &CgiHead) -> Result<()> {
        let Some(request) = self.request.take() else { return Ok(()) };
        let timing = format!("queue;dur={:.2}", self.queue_ms);
        self.facts.push(("Server-Timing".into(), timing.into_bytes()));
        let mut bytes = self.head(head.status, &head.reason, &head.fields);
        let is_bodyless = head.status == 204 || head.status == 304;
        let has_body = !is_bodyless && self.conversation.head.method != "HEAD";
        bytes.extend_from_slice(match is_bodyless {
            true => b"\r\n".as_slice(),
            false => b"Transfer-Encoding: chunked\r\n\r\n",
        });
        self.streamed_status = Some(head.status);
        let mut writer = request.into_writer();
        writer.write_all(&bytes).and_then(|()| writer.flush()).map_err(|_| Error::ClientGone)?;
        self.stream = has_body.then_some(writer);
        Ok(())
    }

    fn send_chunk(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        if bytes.is_empty() {
            return Ok(());
        }
        let mut chunk = Vec::with_capacity(bytes.len() + 16);
        let sent = write!(chunk, "{:x}\r\n", bytes.len()).and_then(|()| {
            chunk.extend_from_slice(bytes);
            chunk.extend_from_slice(b"\r\n");
            stream.write_all(&chunk)?;
            stream.flush()
        });
        sent.map_err(|_| Error::ClientGone)
    }

    /// The last chunk; or, after a failure, a line that is no chunk, upon which the front door cuts the answer short.
    fn end_stream(&mut self, is_whole: bool) {
        if let Some(mut stream) = self.stream.take() {
            let last: &[u8] = if is_whole { b"0\r\n\r\n" } else { b"cut\r\n" };
            let _ = stream.write_all(last).and_then(|()| stream.flush());
        }
    }

    /// Status line and fields, without the framing and the empty line.
    fn head(&self, status: u16, reason: &str, fields: &[(String, Vec<u8>)]) -> Vec<u8> {
        let reason = if reason.is_empty() { problem::reason(status) } else { reason };
        let mut bytes = Vec::with_capacity(1024);
        // Writing to a Vec cannot fail.
        let _ = write!(bytes, "HTTP/1.1 {status} {reason}\r\n");
        for (name, value) in fields.iter().chain(&self.facts) {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        let _ = write!(bytes, "X-Request-Id: {}\r\n", self.conversation.request_id);
        bytes
    }
}

/// A stream that is left in any way but its proper end is cut short, or its client would wait for the rest.
impl Drop for Output {
    fn drop(&mut self) {
        self.end_stream(false);
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
    output: &'a mut Output,
    /// What came before it was clear what it is.
    opening: Vec<u8>,
    head: Option<CgiHead>,
    body: Spool,
    bytes: u64,
    bytes_max: u64,
}

impl<'a> Sink<'a> {
    pub fn new(mode: OutputMode, output: &'a mut Output, body: Spool, bytes_max: u64) -> Sink<'a> {
        Sink { mode, output, opening: Vec::new(), head: None, body, bytes: 0, bytes_max }
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

    /// Ends the answer: `fault` says what went wrong, if something did, `end` what the worker
    /// said, if it did. Returns the answer that is still to be sent.
    pub fn finish(mut self, fault: Option<Error>, end: Option<&End>) -> Result<Option<Answer>> {
        let fault = match fault {
            None if self.head.is_none() => self.decide(true).err(),
            other => other,
        };
        if self.is_streaming() {
            self.output.end_stream(fault.is_none());
            if let Some(error) = fault {
                let id = &self.output.conversation.request_id;
                crate::log!("request={id} the answer was cut short: {error}");
            }
            return Ok(None);
        }
        let milliseconds = |us: u64| us as f64 / 1000.0;
        let mut timing = format!("queue;dur={:.2}", self.output.queue_ms);
        if let Some(end) = end {
            let (spawn, exec) = (milliseconds(end.spawn_us), milliseconds(end.exec_us));
            let start = if end.is_warm { "warm" } else { "cold" };
            timing.push_str(&format!(", spawn;dur={spawn:.2};desc=\"{start}\", exec;dur={exec:.2}"));
        }
        self.output.facts.push(("Server-Timing".into(), timing.into_bytes()));
        if let Some(error) = fault {
            return Err(error);
        }
        let head = self.head.take().expect("decide with all output settles the head");
        Ok(Some(Answer::of_head(head, Body::Spool(self.body))))
    }

    fn is_streaming(&self) -> bool {
        self.output.streamed_status.is_some()
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
            self.output.begin_stream(&head)?;
        }
        self.head = Some(head);
        self.write_body(&opening[body_start..])
    }

    fn write_body(&mut self, bytes: &[u8]) -> Result<()> {
        if self.is_streaming() {
            return self.output.send_chunk(bytes);
        }
        if self.body.len() == 0 && !bytes.is_empty() {
            self.head = self.head.take().map(|head| head.with_content_type(bytes));
        }
        self.body.write(bytes)
    }
}
