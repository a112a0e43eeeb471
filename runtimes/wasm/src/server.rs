//! The fork server: knows no function when it starts; prepares modules and forks children on the worker's orders.
//!
//! runtimes/README.md is the protocol. The server does the work that all invocations share before the first fork: the
//! engine and its functions. A prepared module is compiled, mapped and instantiated; a prepared component, whose
//! instantiation may run its code, is compiled, mapped and linked. A child inherits it as a private copy of pages that
//! no process has written to.
//!
//! Invariants: one thread; runs none of the functions' code; seeds nothing.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, send, sendmsg, sockopt,
};
use rustix::process::Pid;

use crate::child;
use crate::error::{Error, Result};
use crate::limits::{PACKET_BYTES_MAX, PREPARED_MAX};
use crate::program::Loader;
use crate::settings::Settings;
use crate::sys::{self, Forked, Title};

/// Bytes that a signalfd gives for each signal: struct signalfd_siginfo.
const SIGNAL_BYTES: usize = 128;

/// The report of a child's end: a letter, the wait status, three numbers.
const END_BYTES: usize = 1 + 4 + 3 * 8;

/// An order of the worker.
enum Order {
    Fork {
        channel: OwnedFd,
        report: OwnedFd,
    },
    Prepare(Box<Settings>),
    /// Fork and prepare no more.
    Retire,
    /// Exit at once.
    End,
}

/// Serves until the worker closes the control socket, or until it has ordered to retire and the last child is reaped.
pub fn serve<L: Loader>() -> Result<()> {
    let control = sys::take_control().ok_or_else(|| {
        Error::Usage("serve needs the control socket as descriptor 3; the worker starts it so".into())
    })?;
    // The worker made the socket, so the kernel knows the worker by it.
    let worker = sockopt::socket_peercred(&control).map_err(Error::os("ask who made the control socket"))?;
    child::die_with(worker.pid)?;
    let ended = sys::ended_children().map_err(Error::io("watch for children that end"))?;
    let mut server = Server {
        own_pid: rustix::process::getpid(),
        title: Title::take(),
        loader: L::new(worker.uid.as_raw())?,
        control,
        packet: vec![0; PACKET_BYTES_MAX],
        prepared: Vec::new(),
        reports: Vec::new(),
    };
    send(&server.control, b"R", SendFlags::NOSIGNAL).map_err(Error::os("say that we are ready"))?;
    let mut is_retired = false;
    while !is_retired || !server.reports.is_empty() {
        let mut watched = [&server.control, &ended].map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN));
        match poll(&mut watched, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result.map_err(Error::os("wait for orders"))?,
        };
        let [has_order, has_ended] = watched.map(|fd| !fd.revents().is_empty());
        if has_ended {
            // One read takes the signal, however many children it stands for.
            let _ = rustix::io::read(&ended, &mut [0; SIGNAL_BYTES]);
            server.reap();
        }
        if has_order {
            match next_order(&server.control, &mut server.packet)? {
                // Closing both sockets tells the worker that the order is rejected.
                Order::Fork { .. } | Order::Prepare(_) if is_retired => {}
                Order::Fork { channel, report } => server.fork(channel, report),
                Order::Prepare(settings) => server.prepare(*settings)?,
                Order::Retire => is_retired = true,
                Order::End => return Ok(()),
            }
        }
    }
    Ok(())
}

pub struct Server<L: Loader> {
    pub own_pid: Pid,
    pub title: Option<Title>,
    pub loader: L,
    control: OwnedFd,
    /// Buffer for orders. Not on the stack: each page that is written to after a fork is copied, and most orders touch
    /// only the first one.
    packet: Vec<u8>,
    /// Modules that children start with, by version; the least recently prepared one first.
    pub prepared: Vec<(Vec<u8>, L::Program)>,
    /// The report sockets of living children: some tens at the most.
    reports: Vec<(Pid, OwnedFd)>,
}

impl<L: Loader> Server<L> {
    /// Forks a child. If that fails, the sockets close, which tells the worker; the next attempt may succeed.
    fn fork(&mut self, channel: OwnedFd, report: OwnedFd) {
        match sys::fork() {
            Ok(Forked::Child) => child::serve(self, channel),
            Ok(Forked::Server(child, pidfd)) => match announce(&report, child, pidfd) {
                Ok(()) => self.reports.push((child, report)),
                // The child meets the end of its channel, and is reaped without a report.
                Err(error) => eprintln!("{}: {error}", L::NAME),
            },
            Err(cause) => eprintln!("{}: could not fork: {cause}", L::NAME),
        }
    }

    fn reap(&mut self) {
        while let Some(ended) = sys::reap() {
            // Orphans of a child that has ended become children of this process, too.
            let Some(at) = self.reports.iter().position(|(child, _)| *child == ended.pid) else { continue };
            let (_, report) = self.reports.swap_remove(at);
            let mut packet = [b'D'; END_BYTES];
            packet[1..5].copy_from_slice(&ended.status.to_le_bytes());
            let numbers = [ended.user_us, ended.system_us, ended.resident_kib_max].map(u64::to_le_bytes);
            packet[5..].copy_from_slice(numbers.as_flattened());
            // A worker that no longer listens misses nothing.
            let _ = send(&report, &packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        }
    }

    /// Prepares a module, and reports the result. A module that is prepared already moves to the end of the queue.
    fn prepare(&mut self, settings: Settings) -> Result<()> {
        let version = settings.version.clone();
        let known = self.prepared.iter().position(|(other, _)| *other == version);
        let program = match known {
            Some(at) => Ok(self.prepared.remove(at).1),
            None => {
                if self.prepared.len() == PREPARED_MAX {
                    self.prepared.remove(0);
                }
                self.loader.prepare(&settings)
            }
        };
        let packet = match program {
            Ok(program) => {
                self.prepared.push((version.clone(), program));
                [b"p", &version[..]].concat()
            }
            Err(error) => [b"u", &version[..], b"\0", error.to_string().as_bytes()].concat(),
        };
        send(&self.control, &packet, SendFlags::NOSIGNAL).map(drop).map_err(Error::os("answer an order to prepare"))
    }
}

/// Hands the worker the child's pidfd and id, before the child can be reaped and the kernel can reuse its id.
fn announce(report: &OwnedFd, child: Pid, pidfd: OwnedFd) -> Result<()> {
    let fds = [pidfd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let id = child.as_raw_nonzero().get().to_le_bytes();
    let parts = [std::io::IoSlice::new(b"B"), std::io::IoSlice::new(&id)];
    sendmsg(report, &parts, &mut ancillary, SendFlags::NOSIGNAL).map(drop).map_err(Error::os("report the child"))
}

fn next_order(control: &OwnedFd, packet: &mut [u8]) -> Result<Order> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match recvmsg(control, &mut [IoSliceMut::new(packet)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            result => break result.map_err(Error::os("read the control socket"))?,
        }
    };
    if message.flags.contains(ReturnFlags::TRUNC) {
        return Err(Error::Protocol(format!("a packet has more than {PACKET_BYTES_MAX} bytes")));
    }
    let mut fds = ancillary.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let mut fds = fds.next().into_iter().flatten();
    match (&packet[..message.bytes], fds.next(), fds.next()) {
        ([], ..) => Ok(Order::End),
        ([b'F'], Some(channel), Some(report)) => Ok(Order::Fork { channel, report }),
        ([b'F'], ..) => Err(Error::Protocol("an F came without its two descriptors".into())),
        ([b'P', settings @ ..], ..) => Settings::parse(settings).map(|settings| Order::Prepare(Box::new(settings))),
        ([b'Q'], ..) => Ok(Order::Retire),
        ([other, ..], ..) => Err(Error::Protocol(format!("no packet on the control socket begins with {other:#04x}"))),
    }
}
