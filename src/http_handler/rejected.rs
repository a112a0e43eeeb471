//! Connections that got a 503 instead of a thread.
//!
//! The accept loop cannot wait for any of them, and closing at once could destroy the answer by a reset, so they are kept
//! for a moment, and what they send is read and thrown away. They are few, and the oldest makes room for the newest.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::parser::Version;
use super::request_id::request_id;
use super::response::{Body, Form, Framing, Response};
use crate::error::Error;
use crate::limits::{LINGER_BYTES_MAX, RELAY_BYTES};
use crate::log;
use crate::sys::{Watched, poll};

pub struct Rejected {
    count_max: usize,
    linger: Duration,
    /// In the order in which their time ends.
    lingering: VecDeque<Lingering>,
}

struct Lingering {
    client: Arc<TcpStream>,
    until: Instant,
    bytes_left: usize,
}

impl Rejected {
    /// Keeps up to `count_max` of them, each for `linger`.
    pub fn new(count_max: usize, linger: Duration) -> Rejected {
        Rejected { count_max, linger, lingering: VecDeque::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.lingering.is_empty()
    }

    /// Answers with the error, without waiting; `client` must not block. The answer fits into any socket's buffer.
    pub fn answer(&mut self, client: Arc<TcpStream>, peer: SocketAddr, error: &Error) {
        let request_id = &request_id(None);
        log!("request {request_id} status={} peer={} {error}", error.status(), peer.ip());
        let answer = Response::of_error(error, request_id);
        let framing = Framing::Length(answer.length());
        let mut bytes = Vec::new();
        answer.write_head(&mut bytes, Form { version: Version::Http11, request_id, framing, keep_alive: false });
        if let Body::Bytes(body) = &answer.body {
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

    /// Waits until one of `others` can be read, or something is to be done here, and does that.
    pub fn wait(&mut self, others: &[BorrowedFd<'_>]) {
        let left = self.lingering.front().map(|first| first.until.saturating_duration_since(Instant::now()));
        let clients = self.lingering.iter().map(|lingering| lingering.client.as_fd());
        let mut watched: Vec<Watched<'_>> = others.iter().copied().chain(clients).map(Watched::read).collect();
        // A poll that fails for want of memory must not become a busy loop; nothing is lost by the wait.
        if poll(&mut watched, left).is_err() {
            std::thread::sleep(crate::limits::ACCEPT_PAUSE);
        }
        let ready: Vec<bool> = watched[others.len()..].iter().map(Watched::is_ready).collect();
        let mut ready = ready.into_iter();
        let now = Instant::now();
        self.lingering.retain_mut(|lingering| {
            let has_come = ready.next().unwrap_or(false);
            now < lingering.until && (!has_come || lingering.throw_away())
        });
    }
}

impl Lingering {
    /// Reads once; `false` when it is over.
    fn throw_away(&mut self) -> bool {
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
