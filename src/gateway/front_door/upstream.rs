//! The private connections to tiny_http: a pool that opens them one at a time, each proven before the next.
//!
//! Why one at a time: tiny_http 0.12 gives each connection a thread of a pool that counts its idle threads before a
//! woken one has taken its connection. Two connections that are opened together can both be meant for the same idle thread;
//! the second then waits until some other connection closes, and persistent ones never close. A connection that has
//! answered a first, cheap request has its thread for good.
//!
//! A request holds one place and one connection from before it is sent until its answer is read. An answer that was not
//! read to its end leaves the connection unusable: then it is closed instead of given back. Each connection costs a thread
//! of tiny_http's and three descriptors, so what a burst has opened and nobody has used for a while is closed too.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::limits::{UPSTREAM_IDLE_MAX, UPSTREAM_OPEN_MAX};
use crate::sys::{Watched, poll};

/// A request that names no conversation; the handler answers it 204, at once.
const PROBE: &[u8] = b"GET / HTTP/1.1\r\nHost: faas\r\nContent-Length: 0\r\n\r\n";

pub struct Upstreams {
    socket: PathBuf,
    requests_max: usize,
    /// Guards the pool; held for a move only.
    pool: Mutex<Pool>,
    /// Held while a connection is opened and proven, which is what makes it one at a time; whoever got here late gives up
    /// rather than waiting for as long again.
    opening: Mutex<()>,
}

#[derive(Default)]
struct Pool {
    /// With the time since when. The last one goes first, so the first one has been idle for longest.
    idle: Vec<(UnixStream, Instant)>,
    under_way: usize,
}

impl Pool {
    fn pop_idle(&mut self) -> Option<UnixStream> {
        self.idle.pop().map(|(stream, _)| stream)
    }

    /// Takes out, for its caller to close, what has been idle for too long.
    fn take_stale(&mut self, now: Instant) -> Vec<(UnixStream, Instant)> {
        let is_stale = |(_, since): &(UnixStream, Instant)| now.duration_since(*since) > UPSTREAM_IDLE_MAX;
        let count = self.idle.iter().take_while(|idle| is_stale(idle)).count();
        self.idle.drain(..count).collect()
    }
}

impl Upstreams {
    pub fn new(socket: PathBuf, requests_max: usize) -> Upstreams {
        Upstreams { socket, requests_max, pool: Mutex::default(), opening: Mutex::new(()) }
    }

    /// A place and a connection for one request.
    ///
    /// # Errors
    /// [`Error::TooManyRequests`] where all places are taken; [`Error::Exhausted`] where no connection can be had.
    pub fn take(&self) -> Result<Upstream<'_>> {
        let mut pool = self.pool();
        if pool.under_way == self.requests_max {
            return Err(Error::TooManyRequests);
        }
        pool.under_way += 1;
        let idle = pool.pop_idle();
        drop(pool);
        // From here on the place is given back when `upstream` is dropped.
        let mut upstream = Upstream { all: self, stream: idle };
        if upstream.stream.is_none() {
            upstream.stream = Some(self.open()?);
        }
        Ok(upstream)
    }

    fn open(&self) -> Result<UnixStream> {
        let exhausted = |cause| Error::Exhausted { step: "open a connection to the request handler", cause };
        let since = Instant::now();
        let _one_at_a_time = self.opening.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(stream) = self.pool().pop_idle() {
            return Ok(stream);
        }
        if since.elapsed() >= UPSTREAM_OPEN_MAX {
            return Err(exhausted(ErrorKind::TimedOut.into()));
        }
        let mut stream = UnixStream::connect(&self.socket).map_err(exhausted)?;
        stream.set_read_timeout(Some(UPSTREAM_OPEN_MAX)).map_err(exhausted)?;
        stream.set_write_timeout(Some(UPSTREAM_OPEN_MAX)).map_err(exhausted)?;
        prove(&mut stream).map_err(exhausted)?;
        Ok(stream)
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().expect("nothing panics under this lock")
    }
}

fn prove(stream: &mut UnixStream) -> std::io::Result<()> {
    stream.write_all(PROBE)?;
    let mut answer = Vec::new();
    let mut piece = [0; 512];
    while !answer.ends_with(b"\r\n\r\n") {
        match stream.read(&mut piece)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => answer.extend_from_slice(&piece[..count]),
        }
        if answer.len() > 4 * piece.len() {
            break;
        }
    }
    match answer.starts_with(b"HTTP/1.1 204 ") {
        true => Ok(()),
        false => Err(ErrorKind::InvalidData.into()),
    }
}

/// One request's place and connection.
pub struct Upstream<'pool> {
    all: &'pool Upstreams,
    /// `None` only before it is opened and after it is given back.
    stream: Option<UnixStream>,
}

impl Upstream<'_> {
    /// The connection is ready for the next request: the answer was read to its end.
    pub fn give_back(mut self) {
        let Some(stream) = self.stream.take() else { return };
        let now = Instant::now();
        let mut pool = self.all.pool();
        let stale = pool.take_stale(now);
        pool.idle.push((stream, now));
        drop(pool);
        // Closed when nobody waits for the pool.
        drop(stale);
    }

    /// Keeps the place, for a moment, until the handler has noticed that nobody wants its answer: it is busy so long.
    pub fn wait_for_end(self, time: Duration) {
        let _ = poll(&mut [Watched::read(self.as_fd())], Some(time));
    }

    fn stream(&self) -> &UnixStream {
        self.stream.as_ref().expect("an Upstream in use has its connection")
    }
}

impl Read for &Upstream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.stream().read(buffer)
    }
}

impl Write for &Upstream<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl AsFd for Upstream<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream().as_fd()
    }
}

impl Drop for Upstream<'_> {
    fn drop(&mut self) {
        self.all.pool().under_way -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_has_been_idle_for_too_long_is_taken_out_and_the_latest_goes_first() {
        let mut pool = Pool::default();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        for number in 0..4 {
            pool.idle.push((UnixStream::pair().unwrap().0, start + number * second));
        }
        assert!(pool.take_stale(start + UPSTREAM_IDLE_MAX).is_empty());
        assert_eq!(pool.take_stale(start + UPSTREAM_IDLE_MAX + second * 3 / 2).len(), 2);
        let latest = pool.idle[1].0.as_raw_fd();
        assert_eq!(pool.pop_idle().unwrap().as_raw_fd(), latest);
        assert_eq!(pool.idle.len(), 1);
    }
}
