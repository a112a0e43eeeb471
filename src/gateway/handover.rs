//! An upgrade: the current gateway hands its listening socket to a successor, by run/handover.sock (mode 0600).
//!
//! | from | message | means |
//! |---|---|---|
//! | old | `OFFER` with the listening socket (SCM_RIGHTS) | start, with workers of your own; do not accept yet |
//! | successor | `READY` | the registry is loaded, and all workers have announced themselves |
//! | old | `GO` | the console has ended; become the current gateway |
//! | successor | `DONE` | run/current and run/gateway.pid are switched, and connections are accepted |
//!
//! Each message is a line. After `DONE` the old gateway stops accepting, drains and ends. It only closes its descriptor
//! of the socket, so the kernel keeps the backlog of connections. If the stream ends before `DONE`, the successor has
//! failed: the old gateway goes on as before. A successor that is not ready within [`SUCCESSION_MAX`] ends itself.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::Ending;
use super::run_dir::{RunDir, Tenure};
use super::status::is_function;
use super::supervisor::Supervisor;
use crate::error::start::{Result, StartError};
use crate::http_handler::HttpServer;
use crate::limits::{KILL_WAIT_MAX, SUCCESSION_MAX};
use crate::settings::Settings;
use crate::sys::{self, Watched};
use crate::{http_handler, log};

const OFFER: &[u8] = b"OFFER\n";
const READY: &[u8] = b"READY\n";
const GO: &[u8] = b"GO\n";
const DONE: &[u8] = b"DONE\n";
/// Time limit for each step of the other side, except the start of the successor.
const STEP_MAX: Duration = Duration::from_secs(20);
/// Pause before accepting again, after descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The side of the gateway that holds the socket.
pub struct Handover {
    /// The result of [`listen`].
    pub listener: UnixListener,
    pub settings: Settings,
    pub server: Arc<HttpServer>,
    pub supervisor: Arc<Supervisor>,
    pub tenure: Arc<Tenure>,
    pub run_dir: Weak<RunDir>,
    /// Receives a message when a successor has taken over.
    pub ending: Sender<Ending>,
}

/// Opens run/handover.sock.
pub fn listen(settings: &Settings) -> io::Result<UnixListener> {
    let path = settings.handover_socket();
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

impl Handover {
    /// Serves successors on the calling thread, one after the other, until one has taken over. Then it keeps the
    /// connection while the process lives.
    pub fn serve(mut self) {
        loop {
            let successor = match self.listener.accept() {
                Ok((successor, _)) => successor,
                Err(error) => {
                    log!("handover: could not accept a successor: {error}; trying on");
                    let _ = sys::poll(&mut [], Some(ACCEPT_PAUSE));
                    continue;
                }
            };
            let Ok((pid, uid)) = sys::peer(successor.as_fd()) else { continue };
            if uid != sys::own_uid() || is_function(pid) {
                continue;
            }
            log!("gateway: process {pid} is to succeed this one");
            match self.hand_over(&successor) {
                Ok(()) => {
                    let _ = self.ending.try_send(Ending::Succeeded { pid });
                    return std::mem::forget(successor);
                }
                Err(error) => {
                    log!("gateway: process {pid} does not succeed this one: {error}; going on");
                    self.go_on();
                }
            }
        }
    }

    fn hand_over(&self, successor: &UnixStream) -> io::Result<()> {
        let listener = self.server.listener().ok_or(ErrorKind::NotConnected)?;
        // From now on this gateway must not remove files that only the successor needs.
        self.tenure.is_alone.store(false, Ordering::SeqCst);
        sys::send_with_fds(successor.as_fd(), OFFER, &[listener.as_fd()])?;
        drop(listener);
        hear(successor, READY, SUCCESSION_MAX + STEP_MAX)?;
        self.tenure.is_current.store(false, Ordering::SeqCst);
        self.supervisor.wait_for_end_of_console(KILL_WAIT_MAX);
        say(successor, GO)?;
        hear(successor, DONE, STEP_MAX)
    }

    /// Resumes after a successor has failed, which may already have made itself the current gateway.
    fn go_on(&mut self) {
        self.tenure.is_current.store(true, Ordering::SeqCst);
        self.tenure.is_alone.store(true, Ordering::SeqCst);
        let switched = self.run_dir.upgrade().map_or(Ok(()), |run_dir| run_dir.make_current());
        let opened = switched.and_then(|()| listen(&self.settings)).map(|listener| self.listener = listener);
        if let Err(error) = opened {
            log!("handover: could not become the current gateway again: {error}");
        }
    }
}

/// The side of the successor.
pub struct Succession {
    old: UnixStream,
    deadline: Instant,
}

impl Succession {
    /// Asks the current gateway for its listening socket.
    ///
    /// # Errors
    /// Where no gateway runs, or the running one does not hand over.
    pub fn ask(settings: &Settings) -> Result<(Succession, TcpListener)> {
        let deadline = Instant::now() + SUCCESSION_MAX;
        let path = settings.handover_socket();
        let old = UnixStream::connect(&path);
        let old = old.map_err(|_| StartError::NoGateway { run_dir: settings.run_dir.clone() })?;
        let failed = |error| StartError::io("get the listening socket by", path.display())(error);
        let socket = receive_offer(&old).map_err(failed)?;
        Ok((Succession { old, deadline }, http_handler::adopt(socket)?))
    }

    /// Waits until `is_ready` and until the old gateway has ended its console; then makes this gateway the current one.
    ///
    /// # Errors
    /// Where this gateway is not ready in time, or the old gateway has ended meanwhile.
    pub fn take_over(&self, is_ready: impl Fn() -> bool, run_dir: &RunDir, tenure: &Tenure) -> Result<()> {
        while !is_ready() {
            if Instant::now() >= self.deadline {
                return Err(StartError::NotReady { seconds: SUCCESSION_MAX.as_secs() });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let told = say(&self.old, READY).and_then(|()| hear(&self.old, GO, STEP_MAX));
        told.and_then(|()| run_dir.make_current()).map_err(StartError::io("take over from", "the old gateway"))?;
        tenure.is_current.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Tells the old gateway that this one has taken over.
    pub fn done(self) -> Result<()> {
        say(&self.old, DONE).map_err(StartError::io("take over from", "the old gateway"))
    }
}

fn receive_offer(old: &UnixStream) -> io::Result<OwnedFd> {
    let mut line = [0; OFFER.len()];
    if sys::poll(&mut [Watched::read(old.as_fd())], Some(STEP_MAX))? == 0 {
        return Err(ErrorKind::TimedOut.into());
    }
    match sys::receive_with_fd(old.as_fd(), &mut line)? {
        (count, Some(socket)) if line[..count] == *OFFER => Ok(socket),
        _ => Err(io::Error::other("the current gateway offers none")),
    }
}

fn say(mut stream: &UnixStream, message: &[u8]) -> io::Result<()> {
    stream.write_all(message)
}

/// Waits for this message, at most `timeout`.
fn hear(stream: &UnixStream, message: &[u8], timeout: Duration) -> io::Result<()> {
    let deadline = Instant::now() + timeout;
    let mut heard = Vec::new();
    while heard.len() < message.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        if sys::poll(&mut [Watched::read(stream.as_fd())], Some(left))? == 0 {
            return Err(io::Error::new(ErrorKind::TimedOut, "it is not ready in time"));
        }
        let mut bytes = vec![0; message.len() - heard.len()];
        match sys::receive_with_fd(stream.as_fd(), &mut bytes)? {
            (0, _) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "it has ended")),
            (count, _) => heard.extend_from_slice(&bytes[..count]),
        }
    }
    if heard == message { Ok(()) } else { Err(io::Error::other("it says something else")) }
}
