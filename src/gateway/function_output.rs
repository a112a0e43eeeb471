//! A function's output on its way to the client: from the bytes that the worker passes on to a [`Response`].
//!
//! The sink reads the output until it is clear if it opens with a CGI head; the rest is the body. The sink collects the
//! whole body, so that a failure can still become a clean error. It streams the body piece by piece where the
//! descriptor says `"stream": true` or the head says text/event-stream; a failure then cuts it short.

use super::cgi_output::{self, CgiHead, Opening};
use crate::error::request::{RequestError, Result};
use crate::http_handler::handler::Client;
use crate::http_handler::response::{Body, Response};
use crate::http_handler::spool::Spool;
use crate::protocol::function_spec::Output;
use crate::protocol::worker_protocol::End;

/// The fields of a response that the platform adds.
#[derive(Default)]
pub struct Facts {
    /// The registry's generation when the request met it.
    pub generation: Option<u64>,
    pub worker: Option<u32>,
    pub queue_ms: f64,
    pub explanation: Option<String>,
}

impl Facts {
    pub fn add_to(&self, response: &mut Response, end: Option<&End>) {
        if let Some(generation) = self.generation {
            response.add("X-Faas-Generation", &generation.to_string());
        }
        let Some(worker) = self.worker else { return };
        response.add("X-Faas-Worker", &worker.to_string());
        if let Some(explanation) = &self.explanation {
            response.add("X-Faas-Explain", explanation);
        }
        let milliseconds = |us: u64| us as f64 / 1000.0;
        let mut timing = format!("queue;dur={:.2}", self.queue_ms);
        if let Some(end) = end {
            let (spawn, exec) = (milliseconds(end.spawn_us), milliseconds(end.exec_us));
            let start = if end.is_warm { "warm" } else { "cold" };
            timing.push_str(&format!(", spawn;dur={spawn:.2};desc=\"{start}\", exec;dur={exec:.2}"));
        }
        response.add("Server-Timing", &timing);
    }
}

/// The way to read a function's output.
#[derive(Clone, Copy)]
pub struct OutputMode {
    pub output: Output,
    pub streams: bool,
}

/// Takes a function's output piece by piece.
pub struct Sink<'a> {
    mode: OutputMode,
    pub client: &'a mut dyn Client,
    facts: &'a Facts,
    /// Output that is still undecided: head or body.
    opening: Vec<u8>,
    head: Option<CgiHead>,
    body: Spool,
    bytes: u64,
    bytes_max: u64,
    /// The status of a response that is already being sent.
    pub streamed: Option<u16>,
    /// Bytes of that response's body so far.
    pub streamed_bytes: u64,
    /// True once the response is complete, while the function goes on.
    pub is_whole: bool,
}

impl<'a> Sink<'a> {
    pub fn new(
        mode: OutputMode,
        client: &'a mut dyn Client,
        facts: &'a Facts,
        body: Spool,
        bytes_max: u64,
    ) -> Sink<'a> {
        Sink {
            mode,
            client,
            facts,
            opening: Vec::new(),
            head: None,
            body,
            bytes: 0,
            bytes_max,
            streamed: None,
            streamed_bytes: 0,
            is_whole: false,
        }
    }

    /// # Errors
    /// [`RequestError::CgiMalformed`], [`RequestError::ResponseTooLarge`], [`RequestError::SpoolFull`],
    /// [`RequestError::ClientGone`]: the caller must cancel the invocation.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.bytes_max {
            return Err(RequestError::ResponseTooLarge { max: self.bytes_max });
        }
        if self.head.is_some() {
            return self.write_body(bytes);
        }
        self.opening.extend_from_slice(bytes);
        self.decide(false)
    }

    /// Sends the response to its end, while the function goes on without its client. Whatever becomes of the function
    /// then, the client has its response.
    ///
    /// # Errors
    /// As [`Sink::write`].
    pub fn send_whole(&mut self) -> Result<()> {
        if self.head.is_none() {
            self.decide(true)?;
        }
        self.is_whole = true;
        let Some(head) = self.head.clone().filter(|_| self.streamed.is_none()) else {
            return self.client.end(None);
        };
        let body = self.body.take();
        self.streamed = Some(head.status);
        let mut response = response_of(head, Body::Spool(body));
        self.streamed_bytes = response.length();
        self.facts.add_to(&mut response, None);
        self.client.end(Some(&response))
    }

    /// True where the function gave a status itself. Call it once all output is there.
    pub fn has_own_status(&mut self) -> bool {
        let is_decided = self.head.is_some() || self.decide(true).is_ok();
        is_decided && self.head.as_ref().is_some_and(|head| head.has_own_status)
    }

    /// The response, once all output is there. Of a streamed response, the head, which has already been sent.
    pub fn finish(mut self) -> Result<Response> {
        if self.head.is_none() {
            self.decide(true)?;
        }
        let head = self.head.take().expect("decide with all output settles the head");
        Ok(response_of(head, Body::Spool(self.body)))
    }

    /// Decides if the output opens with a head, as soon as that is possible.
    fn decide(&mut self, is_all: bool) -> Result<()> {
        let is_demanded = self.mode.output == Output::Cgi;
        let opening = match self.mode.output {
            Output::Raw => Opening::NoHead,
            _ => cgi_output::opening(&self.opening, is_all, is_demanded),
        };
        let (head, body_start) = match opening {
            Opening::Undecided => return Ok(()),
            Opening::Head(head, body_start) => (head, body_start),
            Opening::NoHead => (CgiHead::ok(), 0),
            Opening::Malformed(how) => return Err(RequestError::CgiMalformed(how)),
        };
        let opening = std::mem::take(&mut self.opening);
        // A head without a type and no body yet: write_body decides on the type.
        let head = match body_start < opening.len() || head.fields.is_empty() {
            true => head.with_content_type(&opening[body_start..]),
            false => head,
        };
        if self.mode.streams || head.is_event_stream() {
            let mut response = response_of(head.clone(), Body::Bytes(Vec::new()));
            self.facts.add_to(&mut response, None);
            self.streamed = Some(head.status);
            self.client.begin(&response)?;
        }
        self.head = Some(head);
        self.write_body(&opening[body_start..])
    }

    fn write_body(&mut self, bytes: &[u8]) -> Result<()> {
        if self.streamed.is_some() {
            self.streamed_bytes += bytes.len() as u64;
            return self.client.send(bytes);
        }
        if self.body.len() == 0 && !bytes.is_empty() {
            self.head = self.head.take().map(|head| head.with_content_type(bytes));
        }
        self.body.write(bytes)
    }
}

fn response_of(head: CgiHead, body: Body) -> Response {
    let CgiHead { status, reason, fields, content_length, .. } = head;
    Response { status, reason, fields, body, content_length }
}
