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
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::conversation::{CONVERSATION_FIELD, OpenConversation};
use super::super::head::{BodyFraming, Head, HeadScan, Version, has_begun, parse_complete};
use super::super::problem::{self, Form};
use super::super::request_id::request_id;
use super::super::spool::Spool;
use super::Door;
use super::answer::{AnswerBody, Wanted, asks_to_retry_later, head_end, not_understood, translate};
use super::buffer::Buffer;
use super::chunked::{ChunkDecoder, Step};
use super::patience::Patience;
use super::upstream::Upstream;
use crate::error::{Error, Result};
use crate::limits::{
    ANSWER_WAIT_MAX, BUFFERS_KEPT, DRAIN_FIRST_BYTE_MAX, GONE_WAIT_MAX, HEAD_BYTES_MAX, LINGER_BYTES_MAX, RETRY_PAUSE,
    SPOOL_MEMORY_MAX,
};
use crate::log;
use crate::sys::{EventFd, Watched, poll, send_file};

pub struct Connection<'door> {
    door: &'door Door,
    client: &'door TcpStream,
    peer: SocketAddr,
    /// From the client, not used yet.
    inbound: Buffer,
    /// From the request handler, not used yet.
    answer: Buffer,
    /// For the client, being put together.
    outbound: Vec<u8>,
    /// Tells the handler that the client has gone. One serves all requests, since behind the first signal there is none.
    gone: Option<Arc<EventFd>>,
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

/// How the handler's answer is there.
enum Answer {
    /// All of it: head, and body if it is short, in `outbound`; a long body in the spool.
    Complete { spool: Option<Spool>, keep_alive: bool },
    /// It has been sent as it came. `false`: it broke off, which the client is to see.
    Streamed { complete: bool, keep_alive: bool },
}

impl<'door> Connection<'door> {
    /// `client` must not block.
    pub fn new(door: &'door Door, client: &'door TcpStream, peer: SocketAddr) -> Connection<'door> {
        let (inbound, answer, outbound) = Default::default();
        Connection {
            door,
            client,
            peer,
            inbound,
            answer,
            outbound,
            gone: None,
            has_served: false,
            is_to_come_later: false,
        }
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
            let drain = match self.door.is_draining() {
                true => Watched::nothing(),
                false => Watched::read(self.door.drain.as_fd()),
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
            let _ = poll(&mut [Watched::read(self.door.drain.as_fd())], Some(RETRY_PAUSE));
        }
    }

    /// How long this connection may be idle. At the end of service one that has served is closed at once, and a new one
    /// gets a moment, because its request is most likely on its way.
    fn idle_max(&self) -> Duration {
        match (self.door.is_draining(), self.has_served) {
            (false, _) => self.door.bounds.idle_max,
            (true, false) => DRAIN_FIRST_BYTE_MAX,
            (true, true) => Duration::ZERO,
        }
    }

    fn release_buffers(&mut self) {
        self.inbound.release();
        self.answer.clear();
        self.answer.release();
        self.outbound = Vec::new();
        self.gone = None;
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
        let gone = match self.gone.take().map_or_else(|| EventFd::new().map(Arc::new), Ok) {
            Ok(gone) => self.gone.insert(gone).clone(),
            Err(error) => {
                let keep_alive = self.keep_alive(&head);
                return self.refuse(&error, Some(&head), !keep_alive);
            }
        };
        let open = self.door.conversations.open(head, self.peer, body, gone);
        match self.obtain_answer(&open) {
            Ok(answer) => {
                // A slow reader keeps its answer, and nothing else.
                drop(open);
                self.deliver(answer)
            }
            Err(error) => {
                let head = &open.conversation.head;
                let keep_alive = self.keep_alive(head);
                self.refuse(&error, Some(head), !keep_alive)
            }
        }
    }

    fn receive_head(&mut self) -> Result<Head> {
        let mut scan = HeadScan::default();
        let mut patience = Patience::deadline(self.door.bounds.head_deadline);
        loop {
            if let Some(end) = scan.end(self.inbound.bytes())? {
                let head = parse_complete(&self.inbound.bytes()[..end])?;
                self.inbound.consume(end);
                return Ok(head);
            }
            if self.receive(&mut patience, HEAD_BYTES_MAX, "its head did not arrive in time")? == 0 {
                return Err(Error::RequestMalformed("the connection ended before the head did"));
            }
        }
    }

    fn receive_body(&mut self, head: &Head) -> Result<Spool> {
        let mut body = Spool::new(&self.door.area);
        let max = self.door.body_bytes_max;
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
            send_all(self.client, b"HTTP/1.1 100 Continue\r\n\r\n", &mut self.door.least_rate())?;
        }
        Ok(())
    }

    fn receive_length(&mut self, length: u64, body: &mut Spool) -> Result<()> {
        let mut patience = self.door.least_rate();
        let mut left = length;
        loop {
            let count = self.inbound.bytes().len().min(usize::try_from(left).unwrap_or(usize::MAX));
            body.write(&self.inbound.bytes()[..count])?;
            self.inbound.consume(count);
            left -= count as u64;
            if left == 0 {
                return Ok(());
            }
            self.receive_body_bytes(&mut patience)?;
        }
    }

    fn receive_chunks(&mut self, max: u64, body: &mut Spool) -> Result<()> {
        let mut patience = self.door.least_rate();
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
                self.receive_body_bytes(&mut patience)?;
            }
        }
    }

    fn receive_body_bytes(&mut self, patience: &mut Patience) -> Result<()> {
        match self.receive(patience, HEAD_BYTES_MAX, "its body did not arrive at the least rate")? {
            0 => Err(Error::RequestMalformed("the connection ended before the body did")),
            _ => Ok(()),
        }
    }

    /// Reads what the client sends next; returns 0 when it will not send any more.
    fn receive(&mut self, patience: &mut Patience, bytes_max: usize, too_slow: &'static str) -> Result<usize> {
        loop {
            match self.inbound.fill(self.client, bytes_max) {
                Ok(count) => {
                    patience.earn(count);
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !patience.wait(Watched::read(self.client.as_fd())).map_err(cannot_poll)? {
                        return Err(Error::RequestTooSlow(too_slow));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Error::ClientGone),
            }
        }
    }

    // ---- Asking the request handler -------------------------------------------------------------------------------

    fn obtain_answer(&mut self, open: &OpenConversation) -> Result<Answer> {
        let upstream = self.door.upstreams.take()?;
        let answer = self.ask(open, &upstream).and_then(|()| self.receive_answer(open, &upstream));
        match &answer {
            Ok(Answer::Complete { .. } | Answer::Streamed { complete: true, .. }) => upstream.give_back(),
            Err(Error::ClientGone) => {
                open.conversation.set_gone();
                upstream.wait_for_end(GONE_WAIT_MAX);
            }
            _ => {}
        }
        answer
    }

    fn ask(&mut self, open: &OpenConversation, mut upstream: &Upstream<'_>) -> Result<()> {
        let head = &open.conversation.head;
        self.answer.clear();
        self.outbound.clear();
        for part in [head.method.as_bytes(), b" ", head.target.as_bytes()] {
            self.outbound.extend_from_slice(part);
        }
        // Writing to a Vec cannot fail.
        let _ = write!(
            self.outbound,
            " HTTP/1.1\r\nHost: faas\r\nContent-Length: 0\r\n{CONVERSATION_FIELD}: {}\r\n\r\n",
            open.number
        );
        let sent = upstream.write_all(&self.outbound);
        self.outbound.clear();
        sent.map_err(Error::io("send to", "the request handler"))
    }

    /// Reads the answer to its end; one that is sent as the function writes goes out meanwhile.
    fn receive_answer(&mut self, open: &OpenConversation, upstream: &Upstream<'_>) -> Result<Answer> {
        let head = &open.conversation.head;
        let mut watch = ClientWatch::default();
        let end = loop {
            if let Some(end) = head_end(self.answer.bytes()) {
                break end;
            }
            if self.receive_from(upstream, &mut watch)? == 0 {
                return Err(not_understood());
            }
        };
        let keep_alive = self.keep_alive(head);
        let wanted = Wanted { version: head.version, head_only: head.method == "HEAD", keep_alive };
        let (body, keep_alive) = translate(&self.answer.bytes()[..end], wanted, &mut self.outbound)?;
        self.answer.consume(end);
        self.is_to_come_later = asks_to_retry_later(&self.outbound);
        let mut spool = None;
        match body {
            AnswerBody::Nothing => {}
            AnswerBody::Length(length) if length <= SPOOL_MEMORY_MAX as u64 => {
                let length = self.outbound.len() + length as usize;
                while self.outbound.len() < length {
                    self.take_answer_bytes(length - self.outbound.len());
                    if self.outbound.len() < length && self.receive_from(upstream, &mut watch)? == 0 {
                        return Err(not_understood());
                    }
                }
            }
            AnswerBody::Spooled(length) => {
                spool = open.conversation.take_answer().filter(|answer| answer.len() == length);
                if spool.is_none() {
                    return Err(not_understood());
                }
            }
            AnswerBody::Length(_) | AnswerBody::Chunked => {
                let complete = self.stream(Rest::new(body, head.version), upstream, &mut watch)?;
                return Ok(Answer::Streamed { complete, keep_alive });
            }
        }
        match self.answer.is_empty() {
            true => Ok(Answer::Complete { spool, keep_alive }),
            false => Err(not_understood()),
        }
    }

    /// Sends the answer on as it comes; `false` where it broke off.
    ///
    /// # Errors
    /// [`Error::ClientGone`] only: a fault of the handler's cannot become another answer any more.
    fn stream(&mut self, mut rest: Rest, upstream: &Upstream<'_>, watch: &mut ClientWatch) -> Result<bool> {
        let mut patience = self.door.least_rate();
        loop {
            let ended = rest.take(&mut self.answer, &mut self.outbound);
            send_all(self.client, &self.outbound, &mut patience)?;
            self.outbound.clear();
            match ended {
                Ok(true) => return Ok(self.answer.is_empty()),
                Ok(false) => {}
                Err(_) => return Ok(false),
            }
            watch.has_taken_bytes(self.door.bounds.half_close_grace);
            match self.receive_from(upstream, watch) {
                Ok(0) => return Ok(false),
                Err(Error::ClientGone) => return Err(Error::ClientGone),
                Err(_) => return Ok(false),
                Ok(_) => {}
            }
        }
    }

    fn take_answer_bytes(&mut self, bytes_max: usize) {
        let count = self.answer.bytes().len().min(bytes_max);
        self.outbound.extend_from_slice(&self.answer.bytes()[..count]);
        self.answer.consume(count);
    }

    /// Waits for bytes from the handler, and reads them; 0 at the end. Meanwhile the client may go away.
    fn receive_from(&mut self, upstream: &Upstream<'_>, watch: &mut ClientWatch) -> Result<usize> {
        if self.answer.bytes().len() >= HEAD_BYTES_MAX {
            return Err(not_understood());
        }
        loop {
            let (client, wait) = match watch.gone_at {
                None => (Watched::hang_up(self.client.as_fd()), ANSWER_WAIT_MAX),
                Some(at) => (Watched::nothing(), at.saturating_duration_since(Instant::now())),
            };
            let mut watched = [Watched::read(upstream.as_fd()), client];
            let ready = poll(&mut watched, Some(wait)).map_err(cannot_poll)?;
            if watched[0].is_ready() {
                return self.answer.fill(upstream, HEAD_BYTES_MAX).map_err(Error::io("receive from", "the handler"));
            }
            // No event to read was asked of the client, so "readable" here means a reset, which leaves no doubt.
            if watched[1].is_readable() || (ready == 0 && watch.gone_at.is_some()) {
                return Err(Error::ClientGone);
            }
            if ready == 0 {
                return Err(not_understood());
            }
            watch.gone_at = Some(Instant::now() + self.door.bounds.half_close_grace);
        }
    }

    // ---- Answering ------------------------------------------------------------------------------------------------

    /// Whether the connection goes on behind the answer to this request. At the end of service it does while requests
    /// that have arrived are waiting on it.
    fn keep_alive(&mut self, head: &Head) -> bool {
        if !head.keep_alive || !self.door.is_draining() {
            return head.keep_alive;
        }
        if !has_begun(self.inbound.bytes()) {
            // What came while the handler worked. Nothing, an end and a fault are all the same here.
            let _ = self.inbound.fill(self.client, HEAD_BYTES_MAX);
        }
        has_begun(self.inbound.bytes())
    }

    fn deliver(&mut self, answer: Answer) -> After {
        let (delivered, keep_alive) = match answer {
            Answer::Streamed { complete, keep_alive } => (Ok(()), complete && keep_alive),
            Answer::Complete { spool, keep_alive } => {
                let mut patience = self.door.least_rate();
                let sent = send_all(self.client, &self.outbound, &mut patience);
                let sent = sent.and_then(|()| spool.map_or(Ok(()), |spool| self.send_spool(&spool, &mut patience)));
                (sent, keep_alive)
            }
        };
        match (delivered, keep_alive) {
            (Err(_), _) => After::Gone,
            (Ok(()), true) => After::NextRequest,
            (Ok(()), false) => After::Close,
        }
    }

    fn send_spool(&self, spool: &Spool, patience: &mut Patience) -> Result<()> {
        let Some(file) = spool.file() else {
            return send_all(self.client, spool.memory().unwrap_or_default(), patience);
        };
        let mut offset = 0;
        while offset < spool.len() {
            let left = usize::try_from(spool.len() - offset).unwrap_or(usize::MAX);
            match send_file(self.client.as_fd(), file.as_fd(), offset, left) {
                Ok(0) => return Err(Error::ClientGone),
                Ok(count) => {
                    offset += count as u64;
                    patience.earn(count);
                }
                Err(error) => wait_to_send(self.client, &error, patience)?,
            }
        }
        Ok(())
    }

    /// Answers with the error, and logs it: what the front door turns away, nobody else knows of.
    fn refuse(&mut self, error: &Error, head: Option<&Head>, close: bool) -> After {
        if matches!(error, Error::ClientGone) {
            return After::Gone;
        }
        self.is_to_come_later = error.retry_after_s().is_some();
        let request_id = &request_id(head);
        log!("request={request_id} status={} peer={} {error}", error.status(), self.peer.ip());
        let version = head.map_or(Version::Http11, |head| head.version);
        let head_only = head.is_some_and(|head| head.method == "HEAD");
        let answer = problem::answer(error, Form { request_id, version, head_only, close });
        match send_all(self.client, &answer, &mut self.door.least_rate()) {
            Ok(()) if close => After::Close,
            Ok(()) => After::NextRequest,
            Err(_) => After::Gone,
        }
    }

    /// Closes so that the last answer arrives: closing while bytes of the client are unread, or still come, sends a reset,
    /// and a reset destroys what the client has not read yet (RFC 9112, 9.6).
    fn linger(&mut self) {
        if self.client.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let mut patience = Patience::deadline(self.door.bounds.linger_max);
        let mut thrown_away = 0;
        while thrown_away < LINGER_BYTES_MAX {
            self.inbound.clear();
            match self.receive(&mut patience, HEAD_BYTES_MAX, "") {
                Ok(0) | Err(_) => return,
                Ok(count) => thrown_away += count,
            }
        }
    }
}

/// Whether the client is still there. Its end of the connection closes either because it has gone or because it has sent
/// all it wants to send; then the answer has a moment's grace.
#[derive(Default)]
struct ClientWatch {
    gone_at: Option<Instant>,
}

impl ClientWatch {
    /// The client's system took bytes: if nobody is there, it says so by a reset before the new grace is over.
    fn has_taken_bytes(&mut self, grace: Duration) {
        if let Some(at) = &mut self.gone_at {
            *at = Instant::now() + grace;
        }
    }
}

/// What is still to come of an answer that is sent as it comes.
enum Rest {
    Length(u64),
    /// The chunks go to the client as they are.
    Chunks(ChunkDecoder),
    /// Their data alone goes to the client.
    Data(ChunkDecoder),
}

impl Rest {
    fn new(body: AnswerBody, version: Version) -> Rest {
        match (body, version) {
            (AnswerBody::Length(length), _) => Rest::Length(length),
            (_, Version::Http11) => Rest::Chunks(ChunkDecoder::new()),
            (_, Version::Http10) => Rest::Data(ChunkDecoder::new()),
        }
    }

    /// Moves what has come from `answer` to `out`; says whether that was the end.
    fn take(&mut self, answer: &mut Buffer, out: &mut Vec<u8>) -> Result<bool> {
        match self {
            Rest::Length(left) => {
                let count = answer.bytes().len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                out.extend_from_slice(&answer.bytes()[..count]);
                answer.consume(count);
                *left -= count as u64;
                Ok(*left == 0)
            }
            Rest::Chunks(decoder) => take_chunks(decoder, answer, out, true),
            Rest::Data(decoder) => take_chunks(decoder, answer, out, false),
        }
    }
}

fn take_chunks(decoder: &mut ChunkDecoder, answer: &mut Buffer, out: &mut Vec<u8>, framed: bool) -> Result<bool> {
    loop {
        let (used, step) = decoder.step(answer.bytes())?;
        let end = match step {
            Step::Data(_) => None,
            Step::More => Some(false),
            Step::End => Some(true),
        };
        match step {
            _ if framed => out.extend_from_slice(&answer.bytes()[..used]),
            Step::Data(data) => out.extend_from_slice(data),
            Step::More | Step::End => {}
        }
        answer.consume(used);
        if let Some(ended) = end {
            return Ok(ended);
        }
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
fn send_all(mut client: &TcpStream, bytes: &[u8], patience: &mut Patience) -> Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match client.write(rest) {
            Ok(count) => {
                rest = &rest[count..];
                patience.earn(count);
            }
            Err(error) => wait_to_send(client, &error, patience)?,
        }
    }
    Ok(())
}

/// After a write that failed with `error`: waits where waiting helps.
fn wait_to_send(client: &TcpStream, error: &std::io::Error, patience: &mut Patience) -> Result<()> {
    if error.kind() == ErrorKind::Interrupted {
        return Ok(());
    }
    if error.kind() != ErrorKind::WouldBlock {
        return Err(Error::ClientGone);
    }
    match patience.wait(Watched::write(client.as_fd())).map_err(cannot_poll)? {
        true => Ok(()),
        false => {
            log!("connection of {:?} cut off: it took its answer too slowly", client.peer_addr().ok());
            Err(Error::ClientGone)
        }
    }
}
