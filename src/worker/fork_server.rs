//! One fork server, seen from the worker: the sockets of runtimes/README.md, which has the protocol.
//!
//! A child is asked for ahead of time, over the control socket, and then waits on a channel of its own. It is forked with
//! CLONE_PARENT, so it is a child of this process, of the very thread that has started the fork server: we wait for it,
//! it dies with us, and the end of the fork server is not its own.
//!
//! Nothing that comes from a child or a fork server is trusted to be in time or to make sense, since functions run in
//! the first, and the second shares memory with them: every wait has a bound, and the kernel vouches for process ids.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::limits::{CHILD_HELLO_MAX, CHILD_TAKES_MAX, CHILDREN_AHEAD_MIN, KILL_WAIT_MAX};
use crate::sys::{self, Spawned, Watched};

/// What the bytes on the two sockets mean.
const READY: u8 = b'R';
const FORK: &[u8] = b"F";
const HERE: u8 = b'H';
const THROUGH: u8 = b'X';

pub struct ForkServer {
    /// Non-blocking.
    control: UnixStream,
    /// Whether the fork server has said that it is.
    ready: AtomicBool,
    /// Channels of children that wait, or are about to be there, the oldest first. Guards the list; held for a push or
    /// a pop.
    ahead: Mutex<VecDeque<UnixStream>>,
    /// How many children shall wait: one more when there was none to take, half of what is above the least when that was long
    /// ago.
    ahead_wanted: AtomicUsize,
    ahead_max: usize,
    /// How many children of all fork servers may still wait.
    allowance: Arc<AtomicUsize>,
    /// Whether there was no child to take, or not in time, since this was last asked.
    has_run_dry: AtomicBool,
    /// Set when it did not fork in time: it is not asked any more, and ended.
    has_failed: AtomicBool,
}

impl ForkServer {
    /// The worker's side of a fork server that shall get the other side as its control socket. `ahead_max` bounds the
    /// children that wait, `allowance` those of all fork servers that share it.
    pub fn new(ahead_max: usize, allowance: Arc<AtomicUsize>) -> io::Result<(ForkServer, OwnedFd)> {
        let (control, theirs) = UnixStream::pair()?;
        sys::set_nonblocking(control.as_fd())?;
        let server = ForkServer {
            control,
            ready: AtomicBool::new(false),
            ahead: Mutex::default(),
            ahead_wanted: AtomicUsize::new(CHILDREN_AHEAD_MIN.min(ahead_max)),
            ahead_max,
            allowance,
            has_run_dry: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
        };
        Ok((server, theirs.into()))
    }

    /// Readable when the fork server says that it is ready, or has ended.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Reads what the fork server says; false when it has closed its side or talks nonsense.
    pub fn listen(&self) -> bool {
        let mut byte = [0];
        match (&self.control).read(&mut byte) {
            Ok(1) if byte[0] == READY && !self.is_ready() => {
                self.ready.store(true, Ordering::Release);
                self.replenish();
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
            _ => false,
        }
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    /// A child for one invocation, or `None` where there is none in time: then the cold way is faster.
    pub fn take(&self) -> Option<Child> {
        let deadline = Instant::now() + CHILD_HELLO_MAX;
        // A child that has died while it waited is left out; more than a few such mean that something is wrong.
        for _ in 0..=self.ahead_max {
            let waiting = self.ahead.lock().expect("nothing panics under this lock").pop_front();
            let channel = match waiting {
                Some(channel) => {
                    self.allowance.fetch_add(1, Ordering::Relaxed);
                    channel
                }
                None => {
                    self.has_run_dry.store(true, Ordering::Relaxed);
                    let wanted = self.ahead_wanted.load(Ordering::Relaxed);
                    self.ahead_wanted.store((wanted + 1).min(self.ahead_max), Ordering::Relaxed);
                    self.fork().ok()?
                }
            };
            match Child::behind(channel, deadline) {
                Ok(Some(child)) => return Some(child),
                Ok(None) => {}
                Err(_) => break,
            }
        }
        self.has_failed.store(true, Ordering::Relaxed);
        None
    }

    /// Asks for as many children as shall wait.
    pub fn replenish(&self) {
        let wanted = self.ahead_wanted.load(Ordering::Relaxed);
        while self.is_ready() && self.ahead.lock().expect("nothing panics under this lock").len() < wanted {
            let one_less = |left: usize| left.checked_sub(1);
            if self.allowance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err() {
                return;
            }
            // Out of descriptors, or the fork server has ended: who needs a child will see.
            let Ok(channel) = self.fork() else {
                self.allowance.fetch_add(1, Ordering::Relaxed);
                return;
            };
            self.ahead.lock().expect("nothing panics under this lock").push_back(channel);
        }
    }

    /// To be called now and then: lets children go that have waited in vain since the last time.
    pub fn calm(&self) {
        let wanted = self.ahead_wanted.load(Ordering::Relaxed);
        if !self.has_run_dry.swap(false, Ordering::Relaxed) && wanted > CHILDREN_AHEAD_MIN {
            let wanted = CHILDREN_AHEAD_MIN + (wanted - CHILDREN_AHEAD_MIN) / 2;
            self.ahead_wanted.store(wanted, Ordering::Relaxed);
            let mut ahead = self.ahead.lock().expect("nothing panics under this lock");
            let kept = wanted.min(ahead.len());
            let surplus = ahead.split_off(kept);
            drop(ahead);
            self.dismiss(surplus);
        }
    }

    /// Lets all children go that wait.
    pub fn dismiss_all(&self) {
        let ahead = std::mem::take(&mut *self.ahead.lock().expect("nothing panics under this lock"));
        self.dismiss(ahead);
    }

    /// Ends children that have no invocation, and waits for them: nobody else would.
    fn dismiss(&self, channels: impl IntoIterator<Item = UnixStream>) {
        for channel in channels {
            self.allowance.fetch_add(1, Ordering::Relaxed);
            // Where it does not come to be there is nothing to end.
            drop(Child::behind(channel, Instant::now() + CHILD_HELLO_MAX));
        }
    }

    /// Asks for a child; its channel.
    fn fork(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        sys::ask_for_senders(ours.as_fd())?;
        sys::send_with_fds(self.control.as_fd(), FORK, &[theirs.as_fd()])?;
        Ok(ours)
    }
}

/// A child that waits for its invocation. Dropped, it is killed and waited for.
#[derive(Debug)]
pub struct Child(Option<(Spawned, UnixStream)>);

impl Child {
    /// The child at the other end of a channel; `None` where it has died, or was never forked.
    ///
    /// # Errors
    /// Where it has not said anything until `deadline`.
    fn behind(channel: UnixStream, deadline: Instant) -> io::Result<Option<Child>> {
        let mut byte = [0];
        let mut received = sys::receive_with_sender(channel.as_fd(), &mut byte);
        // Not there yet.
        if received.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            let left = deadline.saturating_duration_since(Instant::now());
            if sys::poll(&mut [Watched::read(channel.as_fd())], Some(left))? == 0 {
                return Err(ErrorKind::TimedOut.into());
            }
            received = sys::receive_with_sender(channel.as_fd(), &mut byte);
        }
        let Ok((1, Some(pid))) = received else { return Ok(None) };
        // Nobody but us takes note of its end, so until then the number is its own.
        let is_ours = sys::has_ended(pid);
        match (byte[0], is_ours) {
            (HERE, Ok(false)) => Ok(Some(Child(Some((Spawned { pid, pidfd: sys::open_process(pid)? }, channel))))),
            (_, Ok(true)) => {
                let _ = sys::reap(pid);
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Hands the invocation over: from here on the child is the function's process.
    ///
    /// # Errors
    /// Where the child has died, or does not take it: it has run nothing of the function then.
    pub fn start(mut self, environment: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<(Spawned, Channel)> {
        let message = [&(environment.len() as u32).to_le_bytes(), environment].concat();
        let deadline = Instant::now() + CHILD_TAKES_MAX;
        let (_, channel) = self.0.as_ref().expect("only this function takes it out, and consumes the child");
        let mut sent = 0;
        while sent < message.len() {
            let descriptors = if sent == 0 { descriptors } else { &[] };
            match sys::send_with_fds(channel.as_fd(), &message[sent..], descriptors) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if sys::poll(&mut [Watched::write(channel.as_fd())], Some(left))? == 0 {
                        return Err(ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let (process, channel) = self.0.take().expect("see above");
        Ok((process, Channel(channel)))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some((process, _)) = &self.0 else { return };
        sys::kill_process(process.pidfd.as_fd());
        let _ = sys::poll(&mut [Watched::read(process.pidfd.as_fd())], Some(KILL_WAIT_MAX));
        let _ = sys::reap(process.pid);
    }
}

/// The channel of a child that runs.
#[derive(Debug)]
pub struct Channel(UnixStream);

impl Channel {
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The exit status, where the child has said that its function is through and all output written; `None` at the end
    /// of the channel, or where what it says makes no sense: then its end will tell.
    pub fn listen(&mut self) -> Option<i32> {
        let mut bytes = [0; 2];
        match self.0.read(&mut bytes) {
            Ok(2) if bytes[0] == THROUGH => Some(i32::from(bytes[1])),
            _ => None,
        }
    }
}

/// Waits until a fork server is ready; for whoever drives one without a worker.
pub fn wait_until_ready(server: &ForkServer, patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    while !server.is_ready() {
        let left = deadline.saturating_duration_since(Instant::now());
        if sys::poll(&mut [Watched::read(server.control())], Some(left))? == 0 {
            return Err(ErrorKind::TimedOut.into());
        }
        if !server.listen() {
            return Err(ErrorKind::BrokenPipe.into());
        }
    }
    Ok(())
}
