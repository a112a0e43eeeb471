//! One client's connection, served by one thread from its first byte to its last.
//!
//! The thread takes one request at a time: reads its head and its whole body, asks the request handler over a private
//! connection, and passes the answer on. What the client sends meanwhile stays where it is until its turn comes.
//!
//! The socket does not block; every wait is a poll with a bound. While the handler works, the poll also watches for the
//! client going away, which is how an invocation that nobody waits for comes to be cancelled.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::Service;
use super::buffer::Buffer;
use super::chunked::{ChunkDecoder, Step};
use super::handler::Client;
use super::handler::{Handler, Reply};
use super::parser::{BodyFraming, Head, HeadScan, Version, has_begun, parse_complete};
use super::request::Request;
use super::request_id::request_id;
use super::response::{Body, Form, Framing, Response};
use super::spool::Spool;
use super::time_allowance::TimeAllowance;
use crate::error::{Error, Result};
use crate::limits::{BUFFERS_KEPT, DRAIN_FIRST_BYTE_MAX, HEAD_BYTES_MAX, LINGER_BYTES_MAX, RETRY_PAUSE};
use crate::log;
use crate::sys::{Watched, poll, send_file};

pub struct Connection<'service> {
    service: &'service Service,
    handler: &'service dyn Handler,
    client: &'service TcpStream,
    peer: SocketAddr,
    /// From the client, not used yet.
    inbound: Buffer,
    /// For the client, being put together.
    outbound: Vec<u8>,
    has_served: bool,
    /// The last answer told the client to come back later.
    is_to_come_later: bool,
}

/// What becomes of the connection behind an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    NextRequest,
    Close,
    /// There is nobody to be polite to.
    Gone,
}

impl<'service> Connection<'service> {
    /// `client` must not block.
    pub fn new(
        service: &'service Service,
        handler: &'service dyn Handler,
        client: &'service TcpStream,
        peer: SocketAddr,
    ) -> Connection<'service> {
        let (inbound, outbound) = Default::default();
        Connection { service, handler, client, peer, inbound, outbound, has_served: false, is_to_come_later: false }
    }

    /// Serves requests until the client or the end of service ends it.
    pub fn serve(mut self) {
        while self.wait_for_request() {
            match self.serve_request() {
                After::NextRequest => {
                    self.has_served = true;
                    self.pause_if_told_to_come_later();
                }
                After::Close => return self.linger(),
                After::Gone => return,
            }
        }
    }

    // ---- Receiving ------------------------------------------------------------------------------------------------

    /// Waits for a request's first byte; `false` where none will be served.
    fn wait_for_request(&mut self) -> bool {
        let since = Instant::now();
        while !has_begun(self.inbound.bytes()) {
            let idle = since.elapsed();
            let left = self.idle_max().saturating_sub(idle);
            let drain = match self.service.is_draining() {
                true => Watched::nothing(),
                false => Watched::read(self.service.drain.as_fd()),
            };
            let mut watched = [Watched::read(self.client.as_fd()), drain];
            let wait = if idle < BUFFERS_KEPT { left.min(BUFFERS_KEPT) } else { left };
            if poll(&mut watched, Some(wait)).is_err() {
                return false;
            }
            if watched[0].is_ready() {
                match self.inbound.fill(self.client, HEAD_BYTES_MAX) {
                    Ok(0) => return false,
                    Err(error) if !is_transient(&error) => return false,
                    _ => {}
                }
            } else if left.is_zero() {
                return false;
            } else {
                self.release_buffers();
            }
        }
        true
    }

    /// A client that was told to come back later, and comes back at once, waits here for a moment. Otherwise a few that do
    /// so in a loop would take the processor from the work that keeps them waiting. It costs others nothing but this
    /// thread, which is there anyway: the request's place is free again.
    fn pause_if_told_to_come_later(&mut self) {
        if std::mem::take(&mut self.is_to_come_later) {
            // If it fails there is no pause.
            let _ = poll(&mut [Watched::read(self.service.drain.as_fd())], Some(RETRY_PAUSE));
        }
    }

    /// How long this connection may be idle. At the end of service one that has served is closed at once, and a new one
    /// gets a moment, because its request is most likely on its way.
    fn idle_max(&self) -> Duration {
        match (self.service.is_draining(), self.has_served) {
            (false, _) => self.service.bounds.idle_max,
            (true, false) => DRAIN_FIRST_BYTE_MAX,
            (true, true) => Duration::ZERO,
        }
    }

    fn release_buffers(&mut self) {
        self.inbound.release();
        self.outbound = Vec::new();
    }

    fn serve_request(&mut self) -> After {
        let mut head = match self.receive_head() {
            Ok(head) => head,
            Err(error) => return self.refuse(&error, None, true),
        };
        let body = match self.receive_body(&head) {
            Ok(body) => body,
            Err(error) => return self.refuse(&error, Some(&head), true),
        };
        head.append_forwarded_for(self.peer.ip());
        let request = Request { id: request_id(Some(&head)), head, peer: self.peer, body };
        let service = self.service;
        let place = match service.take_request() {
            Ok(place) => place,
            Err(error) => {
                let keep_alive = self.keep_alive(&request.head);
                return self.refuse(&error, Some(&request.head), !keep_alive);
            }
        };
        let handler = self.handler;
        let mut client = Waiting { connection: self, request: &request, gone_at: None, stream: None };
        let reply = handler.handle(&request, &mut client);
        let stream = client.stream.take();
        // A slow reader keeps its answer, and nothing else.
        drop(place);
        match reply {
            Reply::Gone => After::Gone,
            Reply::Streamed { complete } => self.end_stream(stream, complete),
            Reply::Response(answer) => {
                let Request { head, id, body, .. } = request;
                drop(body);
                let keep_alive = self.keep_alive(&head);
                self.deliver(&answer, Some(&head), &id, keep_alive)
            }
        }
    }

    fn receive_head(&mut self) -> Result<Head> {
        let mut scan = HeadScan::default();
        let mut allowance = TimeAllowance::deadline(self.service.bounds.head_deadline);
        loop {
            if let Some(end) = scan.end(self.inbound.bytes())? {
                let head = parse_complete(&self.inbound.bytes()[..end])?;
                self.inbound.consume(end);
                return Ok(head);
            }
            if self.receive(&mut allowance, HEAD_BYTES_MAX, "its head did not arrive in time")? == 0 {
                return Err(Error::RequestMalformed("the connection ended before the head did"));
            }
        }
    }

    fn receive_body(&mut self, head: &Head) -> Result<Spool> {
        let mut body = Spool::new(&self.service.area);
        let max = self.service.body_bytes_max;
        match head.framing {
            BodyFraming::None | BodyFraming::Length(0) => {}
            BodyFraming::Length(length) if length > max => return Err(Error::BodyTooLarge { max }),
            BodyFraming::Length(length) => {
                self.welcome_body(head)?;
                self.receive_length(length, &mut body)?;
            }
            BodyFraming::Chunked => {
                self.welcome_body(head)?;
                self.receive_chunks(max, &mut body)?;
            }
        }
        Ok(body)
    }

    /// Sends `100 Continue` to a client that waits for it. One that has begun to send does not.
    fn welcome_body(&mut self, head: &Head) -> Result<()> {
        if head.expect_continue && self.inbound.is_empty() {
            send_all(self.client, b"HTTP/1.1 100 Continue\r\n\r\n", &mut self.service.least_rate())?;
        }
        Ok(())
    }

    fn receive_length(&mut self, length: u64, body: &mut Spool) -> Result<()> {
        let mut allowance = self.service.least_rate();
        let mut left = length;
        loop {
            let count = self.inbound.bytes().len().min(usize::try_from(left).unwrap_or(usize::MAX));
            body.write(&self.inbound.bytes()[..count])?;
            self.inbound.consume(count);
            left -= count as u64;
            if left == 0 {
                return Ok(());
            }
            self.receive_body_bytes(&mut allowance)?;
        }
    }

    fn receive_chunks(&mut self, max: u64, body: &mut Spool) -> Result<()> {
        let mut allowance = self.service.least_rate();
        let mut decoder = ChunkDecoder::new();
        loop {
            let (used, step) = decoder.step(self.inbound.bytes())?;
            let (ended, starved) = (step == Step::End, step == Step::More);
            if let Step::Data(data) = step {
                if body.len() + data.len() as u64 > max {
                    return Err(Error::BodyTooLarge { max });
                }
                body.write(data)?;
            }
            self.inbound.consume(used);
            if ended {
                return Ok(());
            }
            if starved {
                self.receive_body_bytes(&mut allowance)?;
            }
        }
    }

    fn receive_body_bytes(&mut self, allowance: &mut TimeAllowance) -> Result<()> {
        match self.receive(allowance, HEAD_BYTES_MAX, "its body did not arrive at the least rate")? {
            0 => Err(Error::RequestMalformed("the connection ended before the body did")),
            _ => Ok(()),
        }
    }

    /// Reads what the client sends next; returns 0 when it will not send any more.
    fn receive(&mut self, allowance: &mut TimeAllowance, bytes_max: usize, too_slow: &'static str) -> Result<usize> {
        loop {
            match self.inbound.fill(self.client, bytes_max) {
                Ok(count) => {
                    allowance.earn(count);
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !allowance.wait(Watched::read(self.client.as_fd())).map_err(cannot_poll)? {
                        return Err(Error::RequestTooSlow(too_slow));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Error::ClientGone),
            }
        }
    }

    // ---- Answering ------------------------------------------------------------------------------------------------

    /// Whether the connection goes on behind the answer to this request. At the end of service it does while requests
    /// that have arrived are waiting on it.
    fn keep_alive(&mut self, head: &Head) -> bool {
        if !head.keep_alive || !self.service.is_draining() {
            return head.keep_alive;
        }
        if !has_begun(self.inbound.bytes()) {
            // What came while the handler worked. Nothing, an end and a fault are all the same here.
            let _ = self.inbound.fill(self.client, HEAD_BYTES_MAX);
        }
        has_begun(self.inbound.bytes())
    }

    /// Sends an answer that is there; its connection goes on behind it where the client wants that.
    fn deliver(&mut self, answer: &Response, head: Option<&Head>, request_id: &str, keep_alive: bool) -> After {
        let version = head.map_or(Version::Http11, |head| head.version);
        let framing = Framing::Length(answer.length());
        self.is_to_come_later = answer.asks_to_retry_later();
        let mut out = std::mem::take(&mut self.outbound);
        out.clear();
        answer.write_head(&mut out, Form { version, request_id, framing, keep_alive });
        let has_body = answer.has_body() && head.is_none_or(|head| head.method != "HEAD");
        let mut allowance = self.service.least_rate();
        let memory = match &answer.body {
            Body::Bytes(bytes) => Some(bytes.as_slice()),
            Body::Spool(spool) => spool.memory(),
        };
        out.extend_from_slice(memory.filter(|_| has_body).unwrap_or_default());
        let sent = send_all(self.client, &out, &mut allowance);
        self.outbound = out;
        let sent = sent.and_then(|()| match &answer.body {
            Body::Spool(spool) if has_body && memory.is_none() => self.send_spool(spool, &mut allowance),
            _ => Ok(()),
        });
        match (sent, keep_alive) {
            (Err(_), _) => After::Gone,
            (Ok(()), true) => After::NextRequest,
            (Ok(()), false) => After::Close,
        }
    }

    /// The last chunk, where the answer is whole: without it the client sees that it broke off.
    fn end_stream(&mut self, stream: Option<Stream>, complete: bool) -> After {
        let Some(mut stream) = stream else { return After::Gone };
        let last: &[u8] = if stream.has_body && stream.framing == Framing::Chunked { b"0\r\n\r\n" } else { b"" };
        match complete && send_all(self.client, last, &mut stream.allowance).is_ok() {
            true if stream.keep_alive => After::NextRequest,
            true => After::Close,
            false if complete => After::Gone,
            false => After::Close,
        }
    }

    fn send_spool(&self, spool: &Spool, allowance: &mut TimeAllowance) -> Result<()> {
        let Some(file) = spool.file() else {
            return send_all(self.client, spool.memory().unwrap_or_default(), allowance);
        };
        let mut offset = 0;
        while offset < spool.len() {
            let left = usize::try_from(spool.len() - offset).unwrap_or(usize::MAX);
            match send_file(self.client.as_fd(), file.as_fd(), offset, left) {
                Ok(0) => return Err(Error::ClientGone),
                Ok(count) => {
                    offset += count as u64;
                    allowance.earn(count);
                }
                Err(error) => wait_to_send(self.client, &error, allowance)?,
            }
        }
        Ok(())
    }

    /// Answers with the error, and logs it: what the front service turns away, nobody else knows of.
    fn refuse(&mut self, error: &Error, head: Option<&Head>, close: bool) -> After {
        if matches!(error, Error::ClientGone) {
            return After::Gone;
        }
        let request_id = &request_id(head);
        log!("request={request_id} status={} peer={} {error}", error.status(), self.peer.ip());
        self.deliver(&Response::of_error(error, request_id), head, request_id, !close)
    }

    /// Closes so that the last answer arrives: closing while bytes of the client are unread, or still come, sends a reset,
    /// and a reset destroys what the client has not read yet (RFC 9112, 9.6).
    fn linger(&mut self) {
        if self.client.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let mut allowance = TimeAllowance::deadline(self.service.bounds.linger_max);
        let mut thrown_away = 0;
        while thrown_away < LINGER_BYTES_MAX {
            self.inbound.clear();
            match self.receive(&mut allowance, HEAD_BYTES_MAX, "") {
                Ok(0) | Err(_) => return,
                Ok(count) => thrown_away += count,
            }
        }
    }
}

/// A client while the handler works for it.
///
/// Its end of the connection closes either because it has gone or because it has sent all it wants to send; then the
/// answer has a moment's grace.
struct Waiting<'c, 'service> {
    connection: &'c mut Connection<'service>,
    request: &'c Request,
    gone_at: Option<Instant>,
    stream: Option<Stream>,
}

/// An answer that is sent as it is made.
struct Stream {
    framing: Framing,
    has_body: bool,
    keep_alive: bool,
    allowance: TimeAllowance,
}

impl Client for Waiting<'_, '_> {
    fn wait(&mut self, other: Watched<'_>, timeout: Duration) -> Result<bool> {
        let deadline = Instant::now() + timeout;
        let mut watched = [other, Watched::nothing()];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (client, left) = match self.gone_at {
                None => (Watched::hang_up(self.connection.client.as_fd()), left),
                Some(at) => (Watched::nothing(), left.min(at.saturating_duration_since(Instant::now()))),
            };
            watched[1] = client;
            let ready = poll(&mut watched, Some(left)).map_err(cannot_poll)?;
            if watched[0].is_ready() {
                return Ok(true);
            }
            let now = Instant::now();
            // No event to read was asked of the client, so "readable" here means a reset, which leaves no doubt.
            if watched[1].is_readable() || self.gone_at.is_some_and(|at| now >= at) {
                return Err(Error::ClientGone);
            }
            if ready == 0 && now >= deadline {
                return Ok(false);
            }
            if watched[1].is_ready() {
                self.gone_at = Some(now + self.connection.service.bounds.half_close_grace);
            }
        }
    }

    fn begin(&mut self, answer: &Response) -> Result<()> {
        let head = &self.request.head;
        let has_body = answer.has_body() && head.method != "HEAD";
        // A 1.0 client knows no chunks: for it the end of the connection is the end of the body.
        let framing = if head.version == Version::Http10 { Framing::Close } else { Framing::Chunked };
        let keep_alive = self.connection.keep_alive(head) && (framing == Framing::Chunked || !has_body);
        let mut bytes = Vec::with_capacity(1024);
        let request_id = &self.request.id;
        answer.write_head(&mut bytes, Form { version: head.version, request_id, framing, keep_alive });
        let mut allowance = self.connection.service.least_rate();
        send_all(self.connection.client, &bytes, &mut allowance)?;
        self.stream = Some(Stream { framing, has_body, keep_alive, allowance });
        Ok(())
    }

    fn send(&mut self, piece: &[u8]) -> Result<()> {
        let Some(stream) = self.stream.as_mut().filter(|stream| stream.has_body && !piece.is_empty()) else {
            return Ok(());
        };
        if stream.framing == Framing::Chunked {
            let mut chunk = Vec::with_capacity(piece.len() + 16);
            // Writing to a Vec cannot fail.
            let _ = write!(chunk, "{:x}\r\n", piece.len());
            chunk.extend_from_slice(piece);
            chunk.extend_from_slice(b"\r\n");
            send_all(self.connection.client, &chunk, &mut stream.allowance)?;
        } else {
            send_all(self.connection.client, piece, &mut stream.allowance)?;
        }
        // The client's system took bytes: if nobody is there, it says so by a reset before the new grace is over.
        if let Some(at) = &mut self.gone_at {
            *at = Instant::now() + self.connection.service.bounds.half_close_grace;
        }
        Ok(())
    }
}

fn is_transient(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn cannot_poll(cause: std::io::Error) -> Error {
    Error::Exhausted { step: "poll", cause }
}

/// # Errors
/// [`Error::ClientGone`], also where the client takes less than the least rate.
fn send_all(mut client: &TcpStream, bytes: &[u8], allowance: &mut TimeAllowance) -> Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match client.write(rest) {
            Ok(count) => {
                rest = &rest[count..];
                allowance.earn(count);
            }
            Err(error) => wait_to_send(client, &error, allowance)?,
        }
    }
    Ok(())
}

/// After a write that failed with `error`: waits where waiting helps.
fn wait_to_send(client: &TcpStream, error: &std::io::Error, allowance: &mut TimeAllowance) -> Result<()> {
    if error.kind() == ErrorKind::Interrupted {
        return Ok(());
    }
    if error.kind() != ErrorKind::WouldBlock {
        return Err(Error::ClientGone);
    }
    match allowance.wait(Watched::write(client.as_fd())).map_err(cannot_poll)? {
        true => Ok(()),
        false => {
            log!("connection of {:?} cut off: it took its answer too slowly", client.peer_addr().ok());
            Err(Error::ClientGone)
        }
    }
}
