//! The worker's end of a connection from the gateway: frames in, frames out, never blocking in the middle of a run.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::limits::{LINK_STALL_MAX, SPOOL_MEMORY_MAX};
use crate::protocol::worker_protocol::{self as wire, Invocation, Kind};
use crate::sys::{self, Watched};

/// Output beyond this leaves at once; below, it may wait for company.
const OUTBOX_BYTES: usize = SPOOL_MEMORY_MAX;
/// Bytes asked for in one read: most INVOKE frames are shorter.
const READ_BYTES: usize = 8192;

pub struct Connection {
    /// Non-blocking.
    stream: UnixStream,
    inbox: Vec<u8>,
    /// The note, or a body, that came as a descriptor.
    descriptor: Option<OwnedFd>,
    /// Where we write which invocation we have started last; `None` until the gateway has given it.
    note: Option<File>,
    /// How many invocations have come.
    invocations: u64,
    /// Frames that have not been sent, from `sent` on.
    outbox: Vec<u8>,
    sent: usize,
}

impl Connection {
    pub fn new(stream: UnixStream) -> Result<Connection> {
        sys::set_nonblocking(stream.as_fd()).map_err(Error::io("set up", "a connection from the gateway"))?;
        Ok(Connection {
            stream,
            inbox: Vec::new(),
            descriptor: None,
            note: None,
            invocations: 0,
            outbox: Vec::new(),
            sent: 0,
        })
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Waits for the next invocation and, where its body came as a descriptor, that; `None` when the gateway closed the
    /// connection.
    ///
    /// # Errors
    /// [`Error::Protocol`] for anything that is no INVOKE frame, or NOTE at first.
    pub fn receive(&mut self) -> Result<Option<(Invocation, Option<OwnedFd>)>> {
        loop {
            if let Some((kind, payload, used)) = wire::decode(&self.inbox)? {
                let invocation = match (kind, &self.note) {
                    (Kind::Invoke, Some(_)) => Invocation::decode(payload.to_vec())?,
                    (Kind::Note, None) if self.descriptor.is_some() => {
                        self.note = self.descriptor.take().map(File::from);
                        self.inbox.drain(..used);
                        continue;
                    }
                    _ => return Err(Error::Protocol("a worker takes NOTE with a descriptor, then INVOKE only".into())),
                };
                self.invocations += 1;
                self.inbox.drain(..used);
                self.inbox.shrink_to(READ_BYTES);
                return Ok(Some((invocation, self.descriptor.take())));
            }
            // Between two invocations there is no bound: the gateway keeps idle connections, and closes them by dying.
            let patience = (!self.inbox.is_empty()).then_some(LINK_STALL_MAX);
            let ready = sys::poll(&mut [Watched::read(self.as_fd())], patience);
            if ready.map_err(Error::io("wait for", "the gateway"))? == 0 {
                return Err(Error::Protocol("a frame was not finished in time".into()));
            }
            if !self.read_some()? {
                return Ok(None);
            }
        }
    }

    /// Reads what is there; false at the end of the stream.
    fn read_some(&mut self) -> Result<bool> {
        let filled = self.inbox.len();
        self.inbox.resize(filled + READ_BYTES, 0);
        let result = sys::receive_with_fd(self.stream.as_fd(), &mut self.inbox[filled..]);
        let count = result.as_ref().map_or(0, |(count, _)| *count);
        self.inbox.truncate(filled + count);
        match result {
            Ok((0, _)) => Ok(false),
            Ok((_, descriptor)) => {
                self.descriptor = descriptor.or(self.descriptor.take());
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(true),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(false),
            Err(cause) => Err(Error::Io { step: "read from", subject: "the gateway".into(), cause }),
        }
    }

    /// Writes into the gateway's note that the last invocation is started: it is not given to another worker from then on.
    ///
    /// # Errors
    /// [`Error::ClientGone`] where the gateway has closed the connection before: then it may have been.
    pub fn note_start(&mut self) -> Result<()> {
        let note = self.note.as_ref().expect("an INVOKE frame is taken only behind a note");
        note.write_all_at(&self.invocations.to_le_bytes(), 0).map_err(Error::io("write", "the gateway's note"))?;
        let mut watched = [Watched::hang_up(self.as_fd())];
        sys::poll(&mut watched, Some(Duration::ZERO)).map_err(Error::io("look at", "the gateway's connection"))?;
        if watched[0].is_ready() { Err(Error::ClientGone) } else { Ok(()) }
    }

    /// Puts a frame into the outbox.
    pub fn push(&mut self, kind: Kind, payload: &[u8]) {
        wire::encode(&mut self.outbox, kind, payload);
    }

    /// Whether the outbox holds so much that nothing should be added before some of it has left.
    pub fn is_full(&self) -> bool {
        self.outbox.len() - self.sent >= OUTBOX_BYTES
    }

    pub fn is_empty(&self) -> bool {
        self.outbox.len() == self.sent
    }

    /// Sends as much of the outbox as the socket takes right now.
    ///
    /// # Errors
    /// [`Error::ClientGone`] where the gateway has closed the connection, which is its way to cancel.
    pub fn send(&mut self) -> Result<()> {
        while !self.is_empty() {
            match sys::send_with_fds(self.stream.as_fd(), &self.outbox[self.sent..], &[]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Error::ClientGone),
            }
        }
        self.outbox.clear();
        self.sent = 0;
        Ok(())
    }

    /// Sends the whole outbox, waiting for the gateway to take it, at most [`LINK_STALL_MAX`] without progress or until
    /// `give_up` is readable.
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
                return Err(Error::Protocol("the gateway takes nothing".into()));
            }
            let mut watched = [Watched::write(self.as_fd()), Watched::read(give_up)];
            sys::poll(&mut watched, Some(left)).map_err(Error::io("wait for", "the gateway"))?;
            if watched[1].is_ready() {
                return Err(Error::ClientGone);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: Kind) -> Vec<u8> {
        let mut bytes = Vec::new();
        wire::encode(&mut bytes, kind, &[]);
        bytes
    }

    /// What a worker makes of these messages, each with a note or without, and then the end.
    fn outcome(messages: &[(Kind, bool)]) -> Result<bool> {
        let (gateway, ours) = UnixStream::pair().unwrap();
        let note = sys::memory_file(c"note").unwrap();
        for (kind, has_note) in messages {
            let descriptors: &[BorrowedFd<'_>] = if *has_note { &[note.as_fd()] } else { &[] };
            sys::send_with_fds(gateway.as_fd(), &frame(*kind), descriptors).unwrap();
        }
        drop(gateway);
        Connection::new(ours)?.receive().map(|invocation| invocation.is_some())
    }

    #[test]
    fn a_connection_begins_with_one_note_and_its_descriptor() {
        assert!(matches!(outcome(&[(Kind::Note, true)]), Ok(false)), "then it ends, as an idle one does");
        for wrong in [
            &[(Kind::Note, false)][..],
            &[(Kind::Invoke, false)],
            &[(Kind::Invoke, true)],
            &[(Kind::Note, true), (Kind::Note, true)],
            &[(Kind::Note, true), (Kind::End, false)],
        ] {
            assert!(matches!(outcome(wrong), Err(Error::Protocol(_))), "{wrong:?}");
        }
    }

    #[test]
    fn a_start_is_noted_and_refused_where_the_gateway_has_gone() {
        let (gateway, ours) = UnixStream::pair().unwrap();
        let note = sys::memory_file(c"note").unwrap();
        let mut connection = Connection::new(ours).unwrap();
        connection.note = Some(note.try_clone().unwrap());
        connection.invocations = 3;
        connection.note_start().unwrap();
        let mut started = [0; 8];
        note.read_exact_at(&mut started, 0).unwrap();
        assert_eq!(u64::from_le_bytes(started), 3);
        drop(gateway);
        assert!(matches!(connection.note_start(), Err(Error::ClientGone)));
    }
}
