//! A child of a fork server, from its birth to the report of its end (runtimes/README.md, "A child").

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fork_server::{ForkServer, Life};
use crate::sys::{self, Ended, EndedHow, Pid, Spawned, Watched};

/// What the bytes on the channel and on the report socket mean.
const THROUGH: u8 = b'X';
const BY_EXEC: u8 = b'E';
const STAYS: u8 = b'S';
const END: u8 = b'D';
/// Bytes of what a child has used: user and system time in microseconds, the peak of resident memory in KiB.
const USAGE_BYTES: usize = 24;
/// Bytes of the report of an end: the letter, the wait status, the usage.
const END_BYTES: usize = 5 + USAGE_BYTES;

/// How long a child may take to take its invocation, which fits into its socket's buffer unless it is the largest.
const TAKES_MAX: Duration = Duration::from_secs(1);
/// How long the fork server may take to report the end of a child that has ended; it has nothing else to do but to fork, and
/// to load a module.
const REPORT_MAX: Duration = Duration::from_secs(5);

/// A child that waits for its invocation, and then is the function's process. Dropped, it is killed.
pub struct Child {
    process: Spawned,
    /// `None` when all is heard that it had to say.
    channel: Option<UnixStream>,
    report: OwnedFd,
    /// Whether the process ended before it had read its invocation.
    is_unread: bool,
    /// Whether its end was seen.
    has_ended: bool,
    server: Arc<ForkServer>,
    _life: Life,
}

/// What a child says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Its function is through, and all output is written. What it has used is its own word.
    Through(Ended),
    /// It cannot serve the invocation, and has run none of it.
    ByExec,
    /// Whether it goes on when its client hangs up. It may say more.
    Stays(bool),
    /// Nothing, or nonsense: its end will tell.
    Nothing,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildEnd {
    Ended(Ended),
    /// It has said that its function is through.
    Through(Ended),
    /// Before it had read its invocation.
    NotBegun,
    /// Its fork server has died, and it with it.
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

    /// Readable when it says something; `None` when it has no more to say.
    pub fn channel(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(UnixStream::as_fd)
    }

    pub fn server(&self) -> &Arc<ForkServer> {
        &self.server
    }

    /// Hands the invocation over: from here on this is the function's process. `message` is settings and environment, as the
    /// protocol has them.
    ///
    /// # Errors
    /// Where it has died, or does not take it: it has run nothing of the function then.
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

    /// Takes what it says, once the channel is readable. After anything but [`Said::Stays`] it says nothing more.
    pub fn listen(&mut self) -> Said {
        let Some(channel) = self.channel.take() else { return Said::Nothing };
        // Each word is written at once, so it arrives whole; one can follow another.
        let mut bytes = [0; 2];
        match sys::receive_with_fd(channel.as_fd(), &mut bytes) {
            Ok((2, _)) if bytes[0] == THROUGH => {
                // Without its usage it comes from a runtime that was built before there was one.
                let mut usage = [0; USAGE_BYTES];
                let _ = sys::receive_with_fd(channel.as_fd(), &mut usage);
                Said::Through(ended(EndedHow::Exited(i32::from(bytes[1])), &usage))
            }
            Ok((2, _)) if bytes[0] == STAYS => {
                self.channel = Some(channel);
                Said::Stays(bytes[1] != 0)
            }
            Ok((1, _)) if bytes[0] == BY_EXEC => Said::ByExec,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                self.is_unread = true;
                Said::Nothing
            }
            _ => Said::Nothing,
        }
    }

    /// Kills it, unless its end was seen.
    pub fn kill(&self) {
        if self.has_ended {
            return;
        }
        // Descendants in its session first: when it has ended, the group cannot be named any more.
        sys::kill_group_of(self.pidfd());
        sys::kill_process(self.pidfd());
    }

    /// To be called when its pidfd is readable: then it is not signalled any more.
    pub fn note_end(&mut self) {
        self.has_ended = true;
    }

    /// How it ended, once it has. What it said last may still be unread: it says that it is through, and dies at once.
    pub fn end(&mut self) -> ChildEnd {
        loop {
            match self.listen() {
                Said::Through(ended) => return ChildEnd::Through(ended),
                Said::ByExec => return ChildEnd::NotBegun,
                Said::Nothing if self.is_unread => return ChildEnd::NotBegun,
                Said::Nothing => break,
                Said::Stays(_) => {}
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

/// `usage` is three numbers of eight bytes.
fn ended(how: EndedHow, usage: &[u8]) -> Ended {
    let number = |at: usize| u64::from_le_bytes(*usage[8 * at..].first_chunk().expect("it has three numbers"));
    Ended { how, cpu_us: number(0).saturating_add(number(1)), resident_kib_max: number(2) }
}
