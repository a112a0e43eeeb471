//! Waiting for descriptors: poll(2), and the eventfd(2) with which one thread wakes another that polls.
//!
//! Every wait of the gateway and the workers that has a deadline ends up here.

use std::ffi::c_int;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use super::check;

/// One descriptor to wait for, and after [`poll`] its readiness.
#[repr(transparent)]
pub struct Watched<'fd> {
    inner: libc::pollfd,
    borrowed: PhantomData<BorrowedFd<'fd>>,
}

impl<'fd> Watched<'fd> {
    fn new(fd: RawFd, events: i16) -> Watched<'fd> {
        Watched { inner: libc::pollfd { fd, events, revents: 0 }, borrowed: PhantomData }
    }

    pub fn read(fd: BorrowedFd<'fd>) -> Watched<'fd> {
        Watched::new(fd.as_raw_fd(), libc::POLLIN)
    }

    pub fn write(fd: BorrowedFd<'fd>) -> Watched<'fd> {
        Watched::new(fd.as_raw_fd(), libc::POLLOUT)
    }

    /// Ready when the peer of a socket has closed its sending side or the whole connection; never for mere data.
    pub fn hang_up(fd: BorrowedFd<'fd>) -> Watched<'fd> {
        Watched::new(fd.as_raw_fd(), libc::POLLRDHUP)
    }

    /// A place in the list that is never ready.
    pub fn nothing() -> Watched<'fd> {
        Watched::new(-1, 0)
    }

    pub fn is_ready(&self) -> bool {
        self.inner.revents != 0
    }

    pub fn is_readable(&self) -> bool {
        self.inner.revents & (libc::POLLIN | libc::POLLHUP | libc::POLLERR) != 0
    }
}

/// Waits until one of `watched` is ready or `timeout` has passed, and returns how many are ready. `None` waits without
/// end. A signal does not end the wait.
pub fn poll(watched: &mut [Watched<'_>], timeout: Option<Duration>) -> io::Result<usize> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let milliseconds = match deadline {
            None => -1,
            // Rounded up, so that a wait of half a millisecond does not become a busy loop.
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                left.as_micros().div_ceil(1000).min(c_int::MAX as u128) as c_int
            }
        };
        // SAFETY: Watched is a transparent pollfd, so the slice is an array of that many pollfds.
        let ready = unsafe { libc::poll(watched.as_mut_ptr().cast(), watched.len() as libc::nfds_t, milliseconds) };
        match check(ready) {
            Ok(count) => return Ok(count as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A counter in the kernel that one thread raises and others poll for.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// # Errors
    /// If no descriptor is left.
    pub fn new() -> io::Result<EventFd> {
        // SAFETY: eventfd takes two integers.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: eventfd has just returned this descriptor, so it is open and has no other owner.
        Ok(EventFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes the descriptor readable, until [`EventFd::clear`].
    pub fn signal(&self) {
        let one = 1u64;
        // The only possible error, a full counter, means that the descriptor is readable already.
        // SAFETY: the kernel reads eight bytes, the size of the local.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    pub fn clear(&self) {
        let mut count = 0u64;
        // The only possible error, nothing to read, means that the counter is clear already.
        // SAFETY: the kernel writes at most eight bytes, the size of the local.
        let _ = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// From now on reads and writes on a pipe or socket return `WouldBlock` instead of waiting. The call replaces all
/// status flags; a pipe or socket has no other.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_SETFL takes an integer.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }).map(drop)
}
