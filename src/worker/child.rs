//! A child of a fork server, from its birth to the report of its end (runtimes/README.md, "A child").

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fork_server::{ForkServer, Life};
use crate::sys::{self, Ended, EndedHow, Pid, Spawned, Watched};

/// First byte of a message on the channel or on the report socket.
const THROUGH: u8 = b'X';
const BY_EXEC: u8 = b'E';
const STAYS: u8 = b'S';
const WHOLE: u8 = b'F';
const END: u8 = b'D';
/// Bytes of a child's usage: user and system time in microseconds, peak of resident memory in KiB.
const USAGE_BYTES: usize = 24;
/// 36 years in microseconds, an exbibyte in KiB. A function that has taken its process over can report any number, and
/// sums of those must not overflow.
const FIGURE_MAX: u64 = 1 << 50;
/// Bytes of the report of an end: the letter, the wait status, the usage.
const END_BYTES: usize = 5 + USAGE_BYTES;

/// Time for a child to take its invocation, which fits into the socket's buffer unless it is of the largest size.
const TAKES_MAX: Duration = Duration::from_secs(1);
/// Time for the fork server to report that a child has ended. The fork server only forks and loads modules, so it is
/// never busy for longer.
const REPORT_MAX: Duration = Duration::from_secs(5);

/// A child that waits for its invocation and then becomes the function's process. Dropping it kills the process.
pub struct Child {
    process: Spawned,
    /// `None` after the child's last message.
    channel: Option<UnixStream>,
    report: OwnedFd,
    /// True if the process ended before it had read its invocation.
    is_unread: bool,
    /// True once the worker has seen the process end.
    has_ended: bool,
    server: Arc<ForkServer>,
    _life: Life,
}

/// A message from a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// The function is through, and all output is written. The child itself reports this usage.
    Through(Ended),
    /// The child cannot serve the invocation, and has run none of it.
    ByExec,
    /// True if the function goes on when its client hangs up. More messages may follow.
    Stays(bool),
    /// All output is written, and the function goes on. More messages may follow.
    Whole,
    /// No message, or a malformed one: the end of the process decides.
    Nothing,
}

/// The end of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildEnd {
    Ended(Ended),
    /// The child has reported that its function is through.
    Through(Ended),
    /// The child ended before it had read its invocation.
    NotBegun,
    /// The fork server died, and the child with it.
    Lost,
}

impl Child {
    pub fn new(process: Spawned, channel: UnixStream, report: OwnedFd, server: Arc<ForkServer>, life: Life) -> Child {
        Child { process, channel: Some(channel), report, is_unread: false, has_ended: false, server, _life: life }
    }

    pub fn pid(&self) -> Pid {
        self.process.pid
    }

    /// Readable when the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.pidfd.as_fd()
    }

    /// Readable when the child has sent a message; `None` after its last one.
    pub fn channel(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(UnixStream::as_fd)
    }

    pub fn server(&self) -> &Arc<ForkServer> {
        &self.server
    }

    /// Hands the invocation over; from here on the child is the function's process. `message` holds settings and
    /// environment in the format of the protocol.
    ///
    /// # Errors
    /// If the child has died or does not take the invocation. It has run nothing of the function then.
    pub fn start(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let deadline = Instant::now() + TAKES_MAX;
        let channel = self.channel.as_ref().ok_or(ErrorKind::NotConnected)?;
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
        Ok(())
    }

    /// Reads one message once the channel is readable. After [`Said::Stays`] and [`Said::Whole`] the child may
    /// send more.
    pub fn listen(&mut self) -> Said {
        let Some(channel) = self.channel.take() else { return Said::Nothing };
        // The child writes each message at once, so it arrives whole; a second one can follow it.
        let mut bytes = [0; 2];
        match sys::receive_with_fd(channel.as_fd(), &mut bytes) {
            Ok((2, _)) if bytes[0] == THROUGH => {
                // A runtime built before usage was reported sends none.
                let mut usage = [0; USAGE_BYTES];
                let _ = sys::receive_with_fd(channel.as_fd(), &mut usage);
                Said::Through(ended(EndedHow::Exited(i32::from(bytes[1])), &usage))
            }
            Ok((2, _)) if bytes[0] == STAYS => {
                self.channel = Some(channel);
                Said::Stays(bytes[1] != 0)
            }
            Ok((2, _)) if bytes[0] == WHOLE => {
                self.channel = Some(channel);
                Said::Whole
            }
            Ok((1, _)) if bytes[0] == BY_EXEC => Said::ByExec,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                self.is_unread = true;
                Said::Nothing
            }
            _ => Said::Nothing,
        }
    }

    /// Kills the process, unless the worker has seen it end.
    pub fn kill(&self) {
        if self.has_ended {
            return;
        }
        // Kill the descendants in its session first: once the process has ended, nothing names its group any more.
        sys::kill_group_of(self.pidfd());
        sys::kill_process(self.pidfd());
    }

    /// Call this when the pidfd is readable; from then on the worker does not signal the process.
    pub fn note_end(&mut self) {
        self.has_ended = true;
    }

    /// The end of the process, once it has ended. Its last message may still be unread: it reports that it is through,
    /// and dies at once.
    pub fn end(&mut self) -> ChildEnd {
        loop {
            match self.listen() {
                Said::Through(ended) => return ChildEnd::Through(ended),
                Said::ByExec => return ChildEnd::NotBegun,
                Said::Nothing if self.is_unread => return ChildEnd::NotBegun,
                Said::Nothing => break,
                Said::Stays(_) | Said::Whole => {}
            }
        }
        let deadline = Instant::now() + REPORT_MAX;
        let mut packet = [0; END_BYTES];
        loop {
            match sys::receive_with_fd(self.report.as_fd(), &mut packet) {
                Ok((END_BYTES, _)) if packet[0] == END => {
                    let status = i32::from_le_bytes(*packet[1..].first_chunk().expect("it is longer"));
                    return ChildEnd::Ended(ended(EndedHow::from_wait_status(status), &packet[5..]));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let ready = sys::poll(&mut [Watched::read(self.report.as_fd())], Some(left));
                    if !ready.is_ok_and(|ready| ready > 0) {
                        return ChildEnd::Lost;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return ChildEnd::Lost,
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `usage` is three numbers of eight bytes, each at most [`FIGURE_MAX`].
fn ended(how: EndedHow, usage: &[u8]) -> Ended {
    let number = |at: usize| u64::from_le_bytes(*usage[8 * at..].first_chunk().expect("it has three numbers"));
    let number = |at: usize| number(at).min(FIGURE_MAX);
    Ended { how, cpu_us: number(0) + number(1), resident_kib_max: number(2) }
}
