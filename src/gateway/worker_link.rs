//! The gateway's connection to one worker: sends an invocation, passes its output on as it comes, and reports its end.
//!
//! Connections are kept and used again; each carries one invocation at a time. After anything unexpected, the
//! connection is closed, never kept. Closing also cancels an invocation: the worker then kills the function.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::function_output::Sink;
use crate::error::request::RequestError;
use crate::http_handler::spool::Spool;
use crate::limits::{KILL_WAIT_MAX, LINK_STALL_MAX};
use crate::protocol::ProtocolError;
use crate::protocol::worker_protocol::{self as wire, End, Invocation, Kind};
use crate::sys::{self, Watched};

/// One worker process. A restarted worker is another process, with a link of its own.
pub struct WorkerLink {
    pub id: u32,
    socket: PathBuf,
    /// Connections without an invocation. Guards the list; held for a push or a pop.
    idle: Mutex<Vec<Link>>,
}

/// The data of an invocation for the worker, besides the body.
pub struct Call<'a> {
    /// The function's settings, encoded (function_spec.rs).
    pub settings: &'a [u8],
    /// The block that cgi.rs composed.
    pub environment: &'a [u8],
    pub request_id: &'a str,
    /// The limit of the invocation, from its spawn on.
    pub timeout: Duration,
    /// True where the row lets the invocation go on when its client hangs up.
    pub outlives_client: bool,
}

/// The reason for a missing verdict.
#[derive(Debug)]
pub enum Failure {
    /// The worker died, or broke the protocol, before it had started the invocation: another worker may try.
    NotStarted(LinkError),
    /// The worker died, or broke the protocol, after it had started the invocation.
    Lost(LinkError),
    /// The gateway gave up: the client went away, or the output could not be stored or sent.
    Cancelled(RequestError),
}

/// A failure on the way to a worker and back; for the log.
#[derive(Debug)]
pub enum LinkError {
    Io {
        step: &'static str,
        cause: io::Error,
    },
    /// The worker closed the connection in the middle of an invocation.
    Closed,
    /// The worker was silent past the deadline.
    Silent,
    Protocol(ProtocolError),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkError::Io { step, cause } => write!(f, "could not {step} it: {cause}"),
            LinkError::Closed => write!(f, "it closed the connection"),
            LinkError::Silent => write!(f, "it did not answer in time"),
            LinkError::Protocol(error) => write!(f, "it broke the protocol: {error}"),
        }
    }
}

/// A connection to the worker.
struct Link {
    /// Non-blocking.
    stream: UnixStream,
    inbox: Vec<u8>,
}

impl WorkerLink {
    pub fn new(id: u32, socket: PathBuf) -> WorkerLink {
        WorkerLink { id, socket, idle: Mutex::new(Vec::new()) }
    }

    /// Runs an invocation. `sink` receives the function's output piece by piece; an error from it cancels the
    /// invocation.
    ///
    /// Takes at most the invocation's timeout, plus the time that the worker needs to end it.
    pub fn invoke(&self, call: &Call<'_>, body: &Spool, sink: &mut Sink<'_>) -> Result<End, Failure> {
        let file = body.open_read_only().map_err(Failure::Cancelled)?;
        let memory = body.memory().unwrap_or(&[]);
        let frame = Invocation::encode(call.settings, call.environment, call.request_id, memory);
        let too_large = RequestError::HeadTooLarge("as environment variables it does not fit into a frame");
        let frame = frame.map_err(|_| Failure::Cancelled(too_large))?;
        if sink.client.is_cut_off() {
            return Err(Failure::Cancelled(RequestError::Stopping { has_begun: false }));
        }
        let mut link = self.connect().map_err(Failure::NotStarted)?;
        let mut first: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
        let mut rest = frame.as_slice();
        let deadline = Instant::now() + call.timeout + 2 * KILL_WAIT_MAX + LINK_STALL_MAX;
        while !rest.is_empty() {
            match sys::send_with_fds(link.stream.as_fd(), rest, &first) {
                Ok(count) => {
                    rest = &rest[count..];
                    first.clear();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait(Watched::write(link.stream.as_fd()), sink, deadline, Failure::NotStarted)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The worker starts nothing before it has the whole frame.
                Err(cause) => return Err(Failure::NotStarted(LinkError::Io { step: "write to", cause })),
            }
        }
        let end = self.listen(&mut link, call, deadline, sink)?;
        self.idle.lock().expect("nothing panics under this lock").push(link);
        Ok(end)
    }

    /// Has the worker compile the module of a WASM function, whose settings these are, and waits until that is over or
    /// the worker has ended.
    pub fn compile(&self, settings: &[u8]) -> io::Result<()> {
        let mut frame = Vec::new();
        wire::encode(&mut frame, Kind::Compile, settings);
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_write_timeout(Some(LINK_STALL_MAX))?;
        stream.set_read_timeout(Some(COMPILE_WAIT_MAX))?;
        stream.write_all(&frame)?;
        // The worker sends nothing; it closes the connection.
        stream.read(&mut [0]).map(drop)
    }

    /// Reads frames until END.
    fn listen(&self, link: &mut Link, call: &Call<'_>, deadline: Instant, sink: &mut Sink<'_>) -> Result<End, Failure> {
        loop {
            let mut used_in_all = 0;
            loop {
                let frame = wire::decode(&link.inbox[used_in_all..]).map_err(broken)?;
                let Some((kind, payload, used)) = frame else { break };
                match kind {
                    Kind::Output => sink.write(payload).map_err(Failure::Cancelled)?,
                    Kind::End => {
                        let end = End::decode(payload).map_err(broken)?;
                        link.inbox.clear();
                        link.inbox.shrink_to(INBOX_KEPT_BYTES);
                        return Ok(end);
                    }
                    Kind::Whole => sink.send_whole().map_err(Failure::Cancelled)?,
                    Kind::Stays => sink.client.keep_going(call.outlives_client || payload == [1]),
                    Kind::Invoke | Kind::Compile => {
                        return Err(broken(ProtocolError::Unexpected("a worker never sends INVOKE or COMPILE")));
                    }
                }
                used_in_all += used;
            }
            link.inbox.drain(..used_in_all);
            wait(Watched::read(link.stream.as_fd()), sink, deadline, Failure::Lost)?;
            link.read_some()?;
        }
    }

    /// A kept connection, or a new one. Drops a kept one that the worker has closed meanwhile.
    fn connect(&self) -> Result<Link, LinkError> {
        loop {
            let Some(link) = self.idle.lock().expect("nothing panics under this lock").pop() else { break };
            // No frame is due on an idle connection, so readable means closed.
            let is_quiet = sys::poll(&mut [Watched::read(link.stream.as_fd())], Some(Duration::ZERO));
            if is_quiet.is_ok_and(|ready| ready == 0) {
                return Ok(link);
            }
        }
        let stream = UnixStream::connect(&self.socket).map_err(|cause| LinkError::Io { step: "connect to", cause })?;
        sys::set_nonblocking(stream.as_fd()).map_err(|cause| LinkError::Io { step: "connect to", cause })?;
        Ok(Link { stream, inbox: Vec::new() })
    }
}

impl Link {
    /// Reads what has arrived, into the inbox.
    fn read_some(&mut self) -> Result<(), Failure> {
        let filled = self.inbox.len();
        // Grows as it fills: most answers are short, and zeroing room for a long one would cost more than reading them.
        self.inbox.resize(filled + filled.clamp(READ_BYTES_MIN, READ_BYTES_MAX), 0);
        let result = self.stream.read(&mut self.inbox[filled..]);
        self.inbox.truncate(filled + *result.as_ref().unwrap_or(&0));
        match result {
            Ok(0) => Err(Failure::Lost(LinkError::Closed)),
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            // The worker left bytes unread, so it has not begun (worker_protocol.rs).
            Err(cause) if cause.kind() == ErrorKind::ConnectionReset => {
                Err(Failure::NotStarted(LinkError::Io { step: "read from", cause }))
            }
            Err(cause) => Err(Failure::Lost(LinkError::Io { step: "read from", cause })),
        }
    }
}

/// Time for a compilation: a worker gives up before (worker/runtime/).
const COMPILE_WAIT_MAX: Duration = Duration::from_secs(30 * 60);

/// Bytes requested by one read: at first a short answer with its verdict, then up to a full OUTPUT frame.
const READ_BYTES_MIN: usize = 4096;
const READ_BYTES_MAX: usize = 64 * 1024 + 16;
/// Capacity that an idle connection's buffer may keep.
const INBOX_KEPT_BYTES: usize = READ_BYTES_MIN;

/// `failure` turns the silence of the worker into the caller's error.
fn wait(
    watched: Watched<'_>,
    sink: &mut Sink<'_>,
    deadline: Instant,
    failure: fn(LinkError) -> Failure,
) -> Result<(), Failure> {
    match sink.client.wait(watched, deadline.saturating_duration_since(Instant::now())) {
        Ok(true) => Ok(()),
        Ok(false) => Err(failure(LinkError::Silent)),
        // The worker may have begun.
        Err(RequestError::Stopping { .. }) => Err(Failure::Cancelled(RequestError::Stopping { has_begun: true })),
        Err(error) => Err(Failure::Cancelled(error)),
    }
}

fn broken(error: ProtocolError) -> Failure {
    Failure::Lost(LinkError::Protocol(error))
}
