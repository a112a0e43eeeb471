//! The client of one request while the handler works: the handler waits through it, and streams to it.
//!
//! Each wait also watches for the client's hang-up, so that an invocation is cancelled once no client awaits its
//! response. A client closes its sending side when it leaves, or when it has sent everything. The two look the same, so
//! from then on the response must come within [`half_close_grace`](crate::http_handler::Bounds::half_close_grace).
//! Where the handler keeps going without its client, the wait ignores the hang-up.

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::sender::{Asker, Stream};
use super::{Connection, cannot_poll};
use crate::error::request::{RequestError, Result};
use crate::http_handler::CallPlace;
use crate::http_handler::handler::Client;
use crate::http_handler::request::Request;
use crate::http_handler::response::Response;
use crate::sys::{Watched, poll};

pub struct WaitingClient<'c, 'service> {
    connection: &'c mut Connection<'service>,
    request: &'c Request,
    place: Option<CallPlace<'service>>,
    /// End of the grace, once the client has closed its sending side.
    gone_at: Option<Instant>,
    stream: Option<Stream>,
    keeps_going: bool,
    /// The client took no more of the stream.
    is_lost: bool,
    /// The client has its response, while the work goes on.
    pub is_ended: bool,
}

impl<'c, 'service> WaitingClient<'c, 'service> {
    pub fn new(connection: &'c mut Connection<'service>, request: &'c Request) -> WaitingClient<'c, 'service> {
        WaitingClient {
            connection,
            request,
            place: None,
            gone_at: None,
            stream: None,
            keeps_going: false,
            is_lost: false,
            is_ended: false,
        }
    }

    /// The stream, if the handler began one and the client still reads it. The place for the call is free from here on: a
    /// client that reads slowly occupies its response, and nothing else.
    pub fn into_stream(self) -> Option<Stream> {
        self.stream.filter(|_| !self.is_lost)
    }

    /// The outcome of sending, where the handler may keep going without its client.
    fn sent(&mut self, outcome: Result<()>) -> Result<()> {
        self.is_lost |= outcome.is_err();
        if self.keeps_going { Ok(()) } else { outcome }
    }

    fn grace_end(&self) -> Instant {
        Instant::now() + self.connection.service.bounds.half_close_grace
    }
}

impl Client for WaitingClient<'_, '_> {
    fn take_place(&mut self) -> Result<()> {
        self.place = Some(self.connection.service.take_call_place()?);
        Ok(())
    }

    fn keep_going(&mut self, keeps_going: bool) {
        self.keeps_going = keeps_going;
        self.gone_at = None;
    }

    fn is_cut_off(&self) -> bool {
        self.connection.service.is_cut_off.load(Ordering::SeqCst)
    }

    fn wait(&mut self, other: Watched<'_>, timeout: Duration) -> Result<bool> {
        let deadline = Instant::now() + timeout;
        let service = self.connection.service;
        let mut watched = [other, Watched::nothing(), Watched::read(service.cut_off.as_fd())];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (client, left) = match self.gone_at {
                None if self.keeps_going => (Watched::nothing(), left),
                None => (Watched::hang_up(self.connection.client.as_fd()), left),
                Some(at) => (Watched::nothing(), left.min(at.saturating_duration_since(Instant::now()))),
            };
            watched[1] = client;
            let ready = poll(&mut watched, Some(left)).map_err(cannot_poll)?;
            if watched[0].is_ready() {
                return Ok(true);
            }
            if watched[2].is_ready() {
                return Err(RequestError::Stopping { has_begun: false });
            }
            let now = Instant::now();
            // The poll asks for no readable data of the client, so "readable" can only mean a reset.
            if watched[1].is_readable() || self.gone_at.is_some_and(|at| now >= at) {
                return Err(RequestError::ClientGone);
            }
            if ready == 0 && now >= deadline {
                return Ok(false);
            }
            if watched[1].is_ready() {
                self.gone_at = Some(self.grace_end());
            }
        }
    }

    fn begin(&mut self, response: &Response) -> Result<()> {
        let keep_alive = self.connection.decide_keep_alive(&self.request.head);
        let begun = self.connection.sender.begin_stream(response, self.request, keep_alive);
        let outcome = begun.map(|stream| self.stream = Some(stream));
        self.sent(outcome)
    }

    fn send(&mut self, piece: &[u8]) -> Result<()> {
        if self.is_lost {
            return self.sent(Err(RequestError::ClientGone));
        }
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let sent = stream.send(self.connection.client, piece);
        let has_sent = *sent.as_ref().unwrap_or(&false);
        self.sent(sent.map(drop))?;
        if has_sent && self.gone_at.is_some() {
            // The client's system took bytes. If the client has left, a reset arrives before the new grace ends.
            self.gone_at = Some(self.grace_end());
        }
        Ok(())
    }

    fn end(&mut self, whole: Option<&Response>) -> Result<()> {
        self.keep_going(true);
        let (connection, request) = (&mut *self.connection, self.request);
        let outcome = match (whole, self.stream.take()) {
            (Some(response), _) => connection.sender.send(response, Asker::of(&request.head), &request.id, false),
            (None, Some(stream)) if !self.is_lost => stream.end(connection.client),
            (None, _) => Ok(()),
        };
        // The next request would wait for the end of the work. An error means that the client has left.
        let _ = connection.client.shutdown(Shutdown::Write);
        self.is_ended = true;
        self.sent(outcome)
    }
}
