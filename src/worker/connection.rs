//! The worker's end of a connection from the gateway: frames in, frames out, never blocking in the middle of a run.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::error::{InvocationError, Result};
use crate::limits::{LINK_STALL_MAX, SPOOL_MEMORY_MAX};
use crate::protocol::ProtocolError;
use crate::protocol::worker_protocol::{self as wire, FRAME_HEAD_BYTES, Invocation, Kind};
use crate::sys::{self, Watched};

/// The outbox is sent at once when it holds more than this; less may wait for more output.
const OUTBOX_BYTES: usize = SPOOL_MEMORY_MAX;

/// A message of the gateway.
pub enum Message {
    /// An invocation, and its body if that came as a descriptor.
    Invoke(Invocation, Option<OwnedFd>),
    /// The settings of a function whose module is to be compiled.
    Compile(Vec<u8>),
}

pub struct Connection {
    /// Non-blocking.
    stream: UnixStream,
    /// The part of the next INVOKE frame that has been read.
    inbox: Vec<u8>,
    /// The body, if it came as a descriptor.
    body: Option<OwnedFd>,
    /// Frames; those from `sent` on have not been sent.
    outbox: Vec<u8>,
    sent: usize,
}

impl Connection {
    pub fn new(stream: UnixStream) -> Result<Connection> {
        sys::set_nonblocking(stream.as_fd()).map_err(InvocationError::io("set up", "a connection from the gateway"))?;
        Ok(Connection { stream, inbox: Vec::new(), body: None, outbox: Vec::new(), sent: 0 })
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Waits for the next message; `None` when the gateway closed the connection. The last byte of an INVOKE frame
    /// stays unread: see [`Connection::begin`].
    ///
    /// # Errors
    /// [`InvocationError::Protocol`] for anything but an INVOKE or COMPILE frame.
    pub fn receive(&mut self) -> Result<Option<Message>> {
        loop {
            let head = wire::decode_head(&self.inbox)?;
            let length = match head {
                None => FRAME_HEAD_BYTES,
                Some((Kind::Invoke, length)) if length > 0 => FRAME_HEAD_BYTES + length - 1,
                Some((Kind::Compile, length)) => FRAME_HEAD_BYTES + length,
                Some(_) => {
                    let fault = ProtocolError::Unexpected("a worker takes INVOKE and COMPILE only");
                    return Err(InvocationError::Protocol(fault));
                }
            };
            let missing = length - self.inbox.len();
            if let (0, Some((kind, _))) = (missing, head) {
                let payload = self.inbox.split_off(FRAME_HEAD_BYTES);
                self.inbox.clear();
                return Ok(Some(match kind {
                    Kind::Compile => Message::Compile(payload),
                    _ => Message::Invoke(Invocation::decode(payload)?, self.body.take()),
                }));
            }
            // No limit between two invocations: the gateway keeps idle connections, and its death closes them.
            let timeout = (!self.inbox.is_empty()).then_some(LINK_STALL_MAX);
            if !self.read(missing, timeout)? {
                return Ok(None);
            }
        }
    }

    /// Reads the last byte of the invocation's frame. From here on the gateway does not give the invocation to another
    /// worker.
    ///
    /// # Errors
    /// [`InvocationError::GatewayGone`] if the gateway closed the connection before it sent that byte.
    pub fn begin(&mut self) -> Result<()> {
        let has_come = self.read(1, Some(LINK_STALL_MAX))?;
        self.inbox.clear();
        if has_come { Ok(()) } else { Err(InvocationError::GatewayGone) }
    }

    /// Reads at most `count` bytes into the inbox; false at the end of the stream.
    fn read(&mut self, count: usize, timeout: Option<Duration>) -> Result<bool> {
        let filled = self.inbox.len();
        self.inbox.resize(filled + count, 0);
        let result = loop {
            match sys::receive_with_fd(self.stream.as_fd(), &mut self.inbox[filled..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let ready = sys::poll(&mut [Watched::read(self.stream.as_fd())], timeout);
                    if ready.map_err(InvocationError::io("wait for", "the gateway"))? == 0 {
                        return Err(InvocationError::Stalled("a frame was not finished in time"));
                    }
                }
                result => break result,
            }
        };
        self.inbox.truncate(filled + result.as_ref().map_or(0, |(count, _)| *count));
        match result {
            Ok((0, _)) => Ok(false),
            Ok((_, descriptor)) => {
                self.body = descriptor.or(self.body.take());
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(false),
            Err(cause) => Err(InvocationError::Io { step: "read from", subject: "the gateway".into(), cause }),
        }
    }

    /// Puts a frame into the outbox.
    pub fn push(&mut self, kind: Kind, payload: &[u8]) {
        wire::encode(&mut self.outbox, kind, payload);
    }

    /// True if the outbox is so full that nothing should be added before some of it has left.
    pub fn is_full(&self) -> bool {
        self.outbox.len() - self.sent >= OUTBOX_BYTES
    }

    pub fn is_empty(&self) -> bool {
        self.outbox.len() == self.sent
    }

    /// Sends as much of the outbox as the socket takes right now.
    ///
    /// # Errors
    /// [`InvocationError::GatewayGone`] if the gateway has closed the connection, which is its way to cancel.
    pub fn send(&mut self) -> Result<()> {
        while !self.is_empty() {
            match sys::send_with_fds(self.stream.as_fd(), &self.outbox[self.sent..], &[]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(InvocationError::GatewayGone),
            }
        }
        self.outbox.clear();
        self.sent = 0;
        Ok(())
    }

    /// Sends the whole outbox. Waits for the gateway at most [`LINK_STALL_MAX`] without progress, or until `give_up` is
    /// readable.
    pub fn send_all(&mut self, give_up: BorrowedFd<'_>) -> Result<()> {
        let mut last_progress = Instant::now();
        loop {
            let before = self.sent;
            self.send()?;
            if self.is_empty() {
                return Ok(());
            }
            if self.sent != before {
                last_progress = Instant::now();
            }
            let left = LINK_STALL_MAX.saturating_sub(last_progress.elapsed());
            if left == Duration::ZERO {
                return Err(InvocationError::Stalled("the gateway takes nothing"));
            }
            let mut watched = [Watched::write(self.as_fd()), Watched::read(give_up)];
            sys::poll(&mut watched, Some(left)).map_err(InvocationError::io("wait for", "the gateway"))?;
            if watched[1].is_ready() {
                return Err(InvocationError::GatewayGone);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::each;
    use std::io::Read;

    fn receive(stream: UnixStream) -> Result<Option<Message>> {
        Connection::new(stream)?.receive()
    }

    fn frame() -> Vec<u8> {
        Invocation::encode(b"net=1\0", b"A=1\0", "r", b"the body").unwrap()
    }

    #[test]
    fn an_invocation_that_has_not_begun_is_known_by_the_reset_and_one_that_has_by_the_end() {
        let frame = frame();
        for length in 1..=frame.len() {
            for begins in [false, true] {
                let (mut gateway, ours) = UnixStream::pair().unwrap();
                std::io::Write::write_all(&mut gateway, &frame[..length]).unwrap();
                let mut connection = Connection::new(ours).unwrap();
                if length >= frame.len() - 1 {
                    let Ok(Some(Message::Invoke(invocation, None))) = connection.receive() else { panic!() };
                    assert_eq!(invocation.body(), b"the body");
                }
                if begins && length == frame.len() {
                    connection.begin().unwrap();
                }
                drop(connection);
                let seen = gateway.read(&mut [0]).map_err(|error| error.kind());
                let has_begun = begins && length == frame.len();
                // All but the last byte was read, and that byte was never sent: the gateway sees the end of the stream,
                // and its write fails.
                let is_unsent = length == frame.len() - 1;
                let expected = if has_begun || is_unsent { Ok(0) } else { Err(ErrorKind::ConnectionReset) };
                assert_eq!(seen, expected, "{length} {begins}");
                if length < frame.len() {
                    assert!(std::io::Write::write_all(&mut gateway, &frame[length..]).is_err());
                }
            }
        }
    }

    #[test]
    fn a_worker_takes_invocations_and_modules_only() {
        each([Kind::Output, Kind::End], |kind| {
            let (gateway, ours) = UnixStream::pair().unwrap();
            let mut bytes = Vec::new();
            wire::encode(&mut bytes, kind, b"x");
            sys::send_with_fds(gateway.as_fd(), &bytes, &[]).unwrap();
            assert!(matches!(receive(ours), Err(InvocationError::Protocol(_))));
        });
        let (gateway, ours) = UnixStream::pair().unwrap();
        let mut bytes = Vec::new();
        wire::encode(&mut bytes, Kind::Compile, b"net=1\0");
        sys::send_with_fds(gateway.as_fd(), &bytes, &[]).unwrap();
        assert!(matches!(receive(ours), Ok(Some(Message::Compile(settings))) if settings == b"net=1\0"));
        let (gateway, ours) = UnixStream::pair().unwrap();
        drop(gateway);
        assert!(matches!(receive(ours), Ok(None)));
    }
}
