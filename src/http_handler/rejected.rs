//! Rejected connections: they get a 503 instead of a thread.
//!
//! The accept loop cannot wait for any of them, and closing at once could destroy the response by a reset. So each
//! stays for a moment, and its bytes are read and discarded. Their number is bounded: the newest replaces the oldest.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::parser::Version;
use super::request_id::request_id;
use super::response::{Body, Form, Response};
use crate::error::request::RequestError;
use crate::limits::{LINGER_BYTES_MAX, RELAY_BYTES};
use crate::log::Line;
use crate::log_budget::log_unrouted;
use crate::sys::{Watched, poll};

pub struct Rejected {
    count_max: usize,
    linger: Duration,
    /// Ordered by the end of their linger time.
    lingering: VecDeque<Lingering>,
}

struct Lingering {
    client: Arc<TcpStream>,
    until: Instant,
    bytes_left: usize,
}

impl Rejected {
    /// Keeps up to `count_max` connections, each for `linger`.
    pub fn new(count_max: usize, linger: Duration) -> Rejected {
        Rejected { count_max, linger, lingering: VecDeque::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.lingering.is_empty()
    }

    /// Responds with the error, without waiting; `client` must not block. The response fits into any socket's buffer.
    pub fn reject(&mut self, client: Arc<TcpStream>, peer: SocketAddr, error: &RequestError) {
        let request_id = &request_id(None);
        log_rejected(request_id, peer, error);
        let response = Response::of_error(error, request_id);
        let framing = response.framing(false);
        let mut bytes = Vec::new();
        response.write_head(&mut bytes, Form { version: Version::Http11, request_id, framing, keep_alive: false });
        if let Body::Bytes(body) = &response.body {
            bytes.extend_from_slice(body);
        }
        let sent = (&*client).write_all(&bytes);
        if sent.and_then(|()| client.shutdown(Shutdown::Write)).is_err() {
            return;
        }
        if self.lingering.len() >= self.count_max {
            self.lingering.pop_front();
        }
        let until = Instant::now() + self.linger;
        self.lingering.push_back(Lingering { client, until, bytes_left: LINGER_BYTES_MAX });
    }

    /// Waits until one of `others` is readable, or a rejected connection has sent bytes or is due. Handles the latter.
    pub fn wait(&mut self, others: &[BorrowedFd<'_>]) {
        let left = self.lingering.front().map(|first| first.until.saturating_duration_since(Instant::now()));
        let clients = self.lingering.iter().map(|lingering| lingering.client.as_fd());
        let mut watched: Vec<Watched<'_>> = others.iter().copied().chain(clients).map(Watched::read).collect();
        // A poll that fails because memory ran out must not become a busy loop.
        if poll(&mut watched, left).is_err() {
            std::thread::sleep(crate::limits::ACCEPT_PAUSE);
        }
        let ready: Vec<bool> = watched[others.len()..].iter().map(Watched::is_ready).collect();
        let mut ready = ready.into_iter();
        let now = Instant::now();
        self.lingering.retain_mut(|lingering| {
            let has_bytes = ready.next().unwrap_or(false);
            now < lingering.until && (!has_bytes || lingering.discard())
        });
    }
}

impl Lingering {
    /// Reads once; false when the connection can be closed.
    fn discard(&mut self) -> bool {
        let mut buffer = [0; RELAY_BYTES];
        match (&*self.client).read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.bytes_left = self.bytes_left.saturating_sub(count);
                self.bytes_left > 0
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }
}

/// Logs a request that never reaches the gateway's own log.
pub fn log_rejected(request_id: &str, peer: SocketAddr, error: &RequestError) {
    let (client, fault) = (peer.ip().to_string(), format!("{}: {error}", error.kind()));
    let line = Line::now().text("request", request_id).text("client", client.as_str());
    log_unrouted(line.number("status", Some(error.status())).text("error", fault.as_str()));
}
