//! One fork server, seen from the worker. runtimes/README.md describes the sockets and the protocol.
//!
//! The worker asks for children ahead of time, over the control socket. Each then waits on a channel of its own, and
//! the fork server reports its birth and its end on a report socket of its own.
//!
//! The worker does not trust a fork server, which reads data that strangers have written. So every wait has a bound.
//! The worker signals a process only by its descriptor, and only if the kernel lists it as a child of the fork server.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::child::Child;
use crate::procfs;
use crate::sys::{self, Pid, Spawned, Watched};

/// First byte of a packet.
const READY: u8 = b'R';
const FORK: &[u8] = b"F";
const PREPARE: u8 = b'P';
const PREPARED: u8 = b'p';
const UNPREPARABLE: u8 = b'u';
const RETIRE: &[u8] = b"Q";

/// Bytes of a packet from the fork server: a version and a reason. The rest of a longer packet is cut off.
const PACKET_BYTES_MAX: usize = 4096;
/// Bytes of a packet to the fork server. The kernel's buffer has room for several of this size.
const PREPARE_BYTES_MAX: usize = 16 * 1024;
/// Minimum number of children that wait for an invocation; the maximum is the worker's number of slots.
const CHILDREN_AHEAD_MIN: usize = 2;
/// Children that live at once. Each takes a descriptor of the fork server, whose limit is that of a function. Further
/// invocations go by exec.
const CHILDREN_MAX: usize = 200;
/// Time for a requested child to appear. A fork takes under a millisecond; an invocation that would wait longer goes by
/// exec.
const BIRTH_MAX: Duration = Duration::from_millis(500);

pub struct ForkServer {
    /// Carries packets; never blocks.
    control: OwnedFd,
    process: Spawned,
    /// True once the fork server has reported that it is ready.
    ready: AtomicBool,
    /// Set when the fork server is to fork no more, or did not fork in time.
    is_over: AtomicBool,
    /// Children that wait or are being born, the oldest first. Guards the list; held for a push or a pop.
    ahead: Mutex<VecDeque<Waiting>>,
    /// Target number of waiting children: +1 when an invocation found none; the excess over the minimum halves after a
    /// quiet period.
    ahead_wanted: AtomicUsize,
    ahead_max: usize,
    /// True if an invocation has found no child since the last check.
    has_run_dry: AtomicBool,
    /// Children that were asked for and have not ended.
    living: Arc<AtomicUsize>,
}

/// A requested child: the worker's ends of its sockets.
struct Waiting {
    channel: UnixStream,
    report: OwnedFd,
    life: Life,
}

/// Counts a child as living.
pub struct Life(Arc<AtomicUsize>);

impl Drop for Life {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A packet from a fork server.
#[derive(Debug, PartialEq, Eq)]
pub enum Word {
    Ready,
    Prepared {
        version: String,
    },
    Unpreparable {
        version: String,
        reason: String,
    },
    /// No packet has come.
    Nothing,
    /// The fork server has ended, or sent a malformed packet.
    End,
}

impl Word {
    /// Decodes a packet; [`Word::End`] if it is malformed.
    pub fn parse(packet: &[u8]) -> Word {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match packet {
            [READY] => Word::Ready,
            [PREPARED, version @ ..] => Word::Prepared { version: text(version) },
            [UNPREPARABLE, rest @ ..] => {
                let mut parts = rest.splitn(2, |byte| *byte == 0).map(text);
                let (version, reason) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                Word::Unpreparable { version, reason }
            }
            _ => Word::End,
        }
    }
}

impl ForkServer {
    /// `control` is the worker's end of the control socket. `ahead_max` bounds the children that wait.
    pub fn new(control: OwnedFd, process: Spawned, ahead_max: usize) -> ForkServer {
        let ahead_max = ahead_max.clamp(1, CHILDREN_MAX);
        ForkServer {
            control,
            process,
            ready: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            ahead: Mutex::default(),
            ahead_wanted: AtomicUsize::new(CHILDREN_AHEAD_MIN.min(ahead_max)),
            ahead_max,
            has_run_dry: AtomicBool::new(false),
            living: Arc::default(),
        }
    }

    /// Readable when the fork server has sent a packet, or has ended.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    pub fn process(&self) -> &Spawned {
        &self.process
    }

    /// Takes one packet, if one has come.
    pub fn listen(&self) -> Word {
        let mut packet = [0; PACKET_BYTES_MAX];
        let count = match sys::receive_with_fd(self.control.as_fd(), &mut packet) {
            Ok((count, _)) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Word::Nothing;
            }
            Err(_) => return Word::End,
        };
        let word = Word::parse(&packet[..count]);
        if word == Word::Ready {
            self.ready.store(true, Ordering::Release);
            self.replenish();
        }
        word
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// The number of children that were asked for and have not ended.
    pub fn living(&self) -> usize {
        self.living.load(Ordering::Relaxed)
    }

    /// True if the fork server forks no more.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// A child for one invocation, or `None` if none comes in time: then exec is faster.
    pub fn take(self: &Arc<Self>) -> Option<Child> {
        let deadline = Instant::now() + BIRTH_MAX;
        // Skip a child that died while it waited; more than a few of them mean that something is wrong.
        for _ in 0..=self.ahead_max {
            let waiting = self.ahead.lock().expect("nothing panics under this lock").pop_front();
            let waiting = match waiting {
                Some(waiting) => waiting,
                None => {
                    self.has_run_dry.store(true, Ordering::Relaxed);
                    let wanted = self.ahead_wanted.load(Ordering::Relaxed);
                    self.ahead_wanted.store((wanted + 1).min(self.ahead_max), Ordering::Relaxed);
                    self.fork()?
                }
            };
            match waiting.birth(self, deadline) {
                Ok(Some(child)) => return Some(child),
                Ok(None) => {}
                Err(_) => break,
            }
        }
        self.is_over.store(true, Ordering::Relaxed);
        None
    }

    /// Asks for children until the target number waits.
    pub fn replenish(&self) {
        let wanted = self.ahead_wanted.load(Ordering::Relaxed);
        while self.is_ready()
            && !self.is_over()
            && self.ahead.lock().expect("nothing panics under this lock").len() < wanted
        {
            let Some(waiting) = self.fork() else { return };
            self.ahead.lock().expect("nothing panics under this lock").push_back(waiting);
        }
    }

    /// Call this periodically: it dismisses children that have waited in vain since the last call.
    pub fn calm(&self) {
        let wanted = self.ahead_wanted.load(Ordering::Relaxed);
        if self.has_run_dry.swap(false, Ordering::Relaxed) || wanted <= CHILDREN_AHEAD_MIN {
            return;
        }
        let wanted = CHILDREN_AHEAD_MIN + (wanted - CHILDREN_AHEAD_MIN) / 2;
        self.ahead_wanted.store(wanted, Ordering::Relaxed);
        let mut ahead = self.ahead.lock().expect("nothing panics under this lock");
        let kept = wanted.min(ahead.len());
        let surplus = ahead.split_off(kept);
        drop(ahead);
        // At the end of its channel a child exits.
        drop(surplus);
    }

    /// Asks the fork server to prepare a module. Returns false if its socket takes no more, or the request is too long.
    pub fn prepare(&self, settings: &[u8]) -> bool {
        let packet = [&[PREPARE], settings].concat();
        packet.len() <= PREPARE_BYTES_MAX && sys::send_with_fds(self.control.as_fd(), &packet, &[]).is_ok()
    }

    /// Dismisses waiting children, and has the fork server exit when its last child is reaped.
    pub fn retire(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = sys::send_with_fds(self.control.as_fd(), RETIRE, &[]);
        self.dismiss();
    }

    /// Dismisses waiting children.
    pub fn dismiss(&self) {
        drop(std::mem::take(&mut *self.ahead.lock().expect("nothing panics under this lock")));
    }

    /// Asks for a child. `None` if enough exist, the worker is out of descriptors, or the fork server has ended.
    fn fork(&self) -> Option<Waiting> {
        self.living.fetch_add(1, Ordering::Relaxed);
        let life = Life(self.living.clone());
        if self.living.load(Ordering::Relaxed) > CHILDREN_MAX {
            return None;
        }
        let (channel, for_child) = UnixStream::pair().ok()?;
        let (report, for_server) = sys::packet_pair().ok()?;
        let theirs = [for_child.as_fd(), for_server.as_fd()];
        sys::send_with_fds(self.control.as_fd(), FORK, &theirs).ok()?;
        Some(Waiting { channel, report, life })
    }

    /// True if the kernel names the fork server as the parent of `pid`.
    fn is_parent_of(&self, pid: Pid) -> bool {
        procfs::parent_of(pid) == Some(self.process.pid)
    }
}

impl Waiting {
    /// The child, as soon as the fork server has reported it; `None` if it has died, or was never forked.
    ///
    /// # Errors
    /// If the fork server reports nothing until `deadline`.
    fn birth(self, server: &Arc<ForkServer>, deadline: Instant) -> io::Result<Option<Child>> {
        let mut packet = [0; 8];
        let received = loop {
            match sys::receive_with_fd(self.report.as_fd(), &mut packet) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if sys::poll(&mut [Watched::read(self.report.as_fd())], Some(left))? == 0 {
                        return Err(ErrorKind::TimedOut.into());
                    }
                }
                received => break received,
            }
        };
        let Ok((5, Some(pidfd))) = received else { return Ok(None) };
        let [b'B', number @ ..] = packet.first_chunk::<5>().expect("it has eight bytes") else { return Ok(None) };
        let pid = Pid::from_le_bytes(*number);
        // The descriptor arrived before the parent was checked, and still names the same process afterwards. So the
        // number was that process's throughout.
        let is_own = pid > 0 && server.is_parent_of(pid) && procfs::pid_of(pidfd.as_fd()) == Some(pid);
        let process = Spawned { pid, pidfd };
        Ok(is_own.then(|| Child::new(process, self.channel, self.report, server.clone(), self.life)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fork server that is the test process itself, and reports `child` for each child that it is asked for.
    fn reporting(child: Pid) -> (Arc<ForkServer>, std::thread::JoinHandle<()>) {
        let (control, theirs) = sys::packet_pair().unwrap();
        let own = std::process::id() as Pid;
        let process = Spawned { pid: own, pidfd: sys::open_process(own).unwrap() };
        let server = Arc::new(ForkServer::new(control, process, 1));
        let answering = std::thread::spawn(move || {
            let mut byte = [0];
            while sys::poll(&mut [Watched::read(theirs.as_fd())], None).is_ok() {
                // Of the two descriptors this keeps the last, the report socket.
                let Ok((1, Some(report))) = sys::receive_with_fd(theirs.as_fd(), &mut byte) else { return };
                assert_eq!(byte, FORK);
                let packet = [&b"B"[..], &child.to_le_bytes()].concat();
                sys::send_with_fds(report.as_fd(), &packet, &[sys::open_process(child).unwrap().as_fd()]).unwrap();
            }
        });
        (server, answering)
    }

    #[test]
    fn a_process_that_is_no_child_of_the_fork_server_is_neither_used_nor_signalled() {
        let mut own_child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sleep 1000 & echo $!; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(shell.stdout.take().unwrap()), &mut line).unwrap();
        let foreign: Pid = line.trim().parse().unwrap();

        let (server, answering) = reporting(foreign);
        assert!(server.take().is_none());
        assert!(server.is_over(), "it is asked no more");
        assert!(procfs::resident_bytes(foreign).is_some_and(|bytes| bytes > 0), "it lives on");
        drop(server);
        answering.join().unwrap();

        let (server, answering) = reporting(own_child.id() as Pid);
        let child = server.take().unwrap();
        assert_eq!(child.pid(), own_child.id() as Pid);
        drop(child);
        assert!(!own_child.wait().unwrap().success(), "what is dropped is killed");
        drop(server);
        answering.join().unwrap();

        sys::kill_process(sys::open_process(foreign).unwrap().as_fd());
        shell.wait().unwrap();
    }
}
