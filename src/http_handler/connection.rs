//! One client's connection, served by one thread from its first byte to its last.
//!
//! The thread takes one request at a time: it receives the request whole (receiver.rs), calls the handler, which may wait
//! and stream through the client (waiting_client.rs), and sends the response (sender.rs). Bytes of later requests stay in
//! the buffer until their turn.
//!
//! The socket does not block; every wait is a poll with a bound.

mod receiver;
mod sender;
mod waiting_client;

use std::io::ErrorKind;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::receiver::Receiver;
use self::sender::{Asker, Sender, Stream};
use self::waiting_client::WaitingClient;
use super::Service;
use super::handler::{Handler, Reply};
use super::origin;
use super::parser::{Head, Version};
use super::rejected::log_rejected;
use super::request::Request;
use super::request_id::request_id;
use super::response::Response;
use crate::error::request::RequestError;
use crate::limits::{BUFFERS_KEPT, DRAIN_FIRST_BYTE_MAX, RETRY_PAUSE};
use crate::sys::{Watched, poll};

pub struct Connection<'service> {
    service: &'service Service,
    handler: &'service dyn Handler,
    client: &'service Arc<TcpStream>,
    peer: SocketAddr,
    /// The address that the client connected to.
    local: SocketAddr,
    receiver: Receiver<'service>,
    sender: Sender<'service>,
    has_served: bool,
    /// The last response told the client to retry later.
    asked_to_retry: bool,
}

/// Next step of the connection after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    NextRequest,
    /// Close so that the last response arrives.
    Close,
    /// The client has left; nothing can reach it.
    Gone,
}

impl<'service> Connection<'service> {
    /// `client` must not block.
    pub fn new(
        service: &'service Service,
        handler: &'service dyn Handler,
        client: &'service Arc<TcpStream>,
        [peer, local]: [SocketAddr; 2],
    ) -> Connection<'service> {
        let (receiver, sender) = (Receiver::new(service, client), Sender::new(service, client));
        Connection { service, handler, client, peer, local, receiver, sender, has_served: false, asked_to_retry: false }
    }

    /// Serves requests until the client or the end of service ends it.
    pub fn serve(mut self) {
        while self.wait_for_request() {
            match self.serve_request() {
                After::NextRequest => {
                    self.has_served = true;
                    self.pause_if_asked_to_retry();
                }
                After::Close => return self.linger(),
                After::Gone => return,
            }
        }
    }

    /// Waits for a request's first byte; false if the connection must be closed instead.
    fn wait_for_request(&mut self) -> bool {
        let since = Instant::now();
        let mut waiting = None;
        while !self.receiver.has_request() {
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
                match self.receiver.read_once() {
                    Ok(0) => return false,
                    Err(error) if !is_transient(&error) => return false,
                    _ => {}
                }
            } else if left.is_zero() {
                return false;
            } else {
                self.receiver.release();
                self.sender.release();
                waiting.get_or_insert_with(|| self.service.idle.enter(since, self.client));
            }
        }
        true
    }

    /// Delays the next request of a client that was told to retry later. Otherwise a few clients that retry at once, in
    /// a loop, would take the processor from the work that keeps them waiting. The pause blocks only this thread: the
    /// request's place is free again.
    fn pause_if_asked_to_retry(&mut self) {
        if std::mem::take(&mut self.asked_to_retry) {
            // If the poll fails, the pause is skipped.
            let _ = poll(&mut [Watched::read(self.service.drain.as_fd())], Some(RETRY_PAUSE));
        }
    }

    /// Time that this connection may be idle. At the end of service a connection that has served is closed at once. A
    /// new one gets a moment, because its request is probably on its way.
    fn idle_max(&self) -> Duration {
        match (self.service.is_draining(), self.has_served) {
            (false, _) => self.service.bounds.idle_max,
            (true, false) => DRAIN_FIRST_BYTE_MAX,
            (true, true) => Duration::ZERO,
        }
    }

    fn serve_request(&mut self) -> After {
        let mut head = match self.receiver.receive_head() {
            Ok(head) => head,
            Err(error) => return self.reject(&error, None),
        };
        let origin = origin::find(&mut head, self.peer, &self.service.trusted_proxies);
        let body = match self.receiver.receive_body(&head) {
            Ok(body) => body,
            Err(error) => return self.reject(&error, Some(&head)),
        };
        let request = Request { id: request_id(Some(&head)), head, origin, local: self.local, body };
        let handler = self.handler;
        let mut client = WaitingClient::new(self, &request);
        let reply = handler.handle(&request, &mut client);
        let (is_ended, stream) = (client.is_ended, client.into_stream());
        match reply {
            _ if is_ended => After::Close,
            Reply::Gone => After::Gone,
            Reply::Streamed { complete } => self.end_stream(stream, complete),
            Reply::Response(response) => {
                let Request { head, id, body, .. } = request;
                drop(body);
                let keep_alive = self.decide_keep_alive(&head);
                self.respond(&response, Asker::of(&head), &id, keep_alive)
            }
        }
    }

    /// True if the connection persists after the response to this request. At the end of service it persists while
    /// requests that have arrived wait on it.
    fn decide_keep_alive(&mut self, head: &Head) -> bool {
        if !head.keep_alive || !self.service.is_draining() {
            return head.keep_alive;
        }
        if !self.receiver.has_request() {
            // Reads bytes that arrived while the handler worked. An end or an error counts as no bytes.
            let _ = self.receiver.read_once();
        }
        self.receiver.has_request()
    }

    fn respond(&mut self, response: &Response, asker: Asker, request_id: &str, keep_alive: bool) -> After {
        self.asked_to_retry = response.asks_to_retry_later();
        match self.sender.send(response, asker, request_id, keep_alive) {
            Err(_) => After::Gone,
            Ok(()) if keep_alive => After::NextRequest,
            Ok(()) => After::Close,
        }
    }

    /// Responds with the error, and logs it: a request rejected here never reaches the gateway's own log. The start of
    /// the next request is unknown, so the connection ends.
    fn reject(&mut self, error: &RequestError, head: Option<&Head>) -> After {
        if matches!(error, RequestError::ClientGone) {
            return After::Gone;
        }
        let request_id = &request_id(head);
        log_rejected(request_id, self.peer, error);
        // Even in a head that breaks the rules, the method can be read (RFC 9110, 9.3.2).
        let unread = Asker { version: Version::Http11, is_head: self.receiver.begins_with(b"HEAD ") };
        let asker = head.map_or(unread, Asker::of);
        self.respond(&Response::of_error(error, request_id), asker, request_id, false)
    }

    /// Ends a streamed body. If the response is incomplete, the last chunk is omitted, so that the client can tell.
    fn end_stream(&mut self, stream: Option<Stream>, complete: bool) -> After {
        let Some(stream) = stream else { return After::Gone };
        let keep_alive = stream.keep_alive();
        match complete.then(|| stream.end(self.client)) {
            None => After::Close,
            Some(Err(_)) => After::Gone,
            Some(Ok(())) if keep_alive => After::NextRequest,
            Some(Ok(())) => After::Close,
        }
    }

    /// Closes so that the last response arrives. Closing while bytes of the client are unread sends a reset, and a reset
    /// destroys what the client has not read yet (RFC 9112, 9.6).
    fn linger(&mut self) {
        if self.client.shutdown(Shutdown::Write).is_ok() {
            self.receiver.discard();
        }
    }
}

fn is_transient(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn cannot_poll(cause: std::io::Error) -> RequestError {
    RequestError::Exhausted { step: "poll", cause }
}
