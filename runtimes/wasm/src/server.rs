//! The fork server: prepares the function once, then forks a child for each `F` on the control socket.
//!
//! All that invocations have in common is done before the first fork: engine, module, linking, and the instance itself,
//! which a child inherits as a private copy of pages that nobody has written to. A child has only its streams, folders
//! and environment to set up.
//!
//! Invariants: one thread, none of the function's code, nothing seeded.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::io::FdFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::child;
use crate::error::{Error, Result};
use crate::program::{Function, Program};
use crate::sys::{self, Forked};

/// Serves until the worker closes the control socket.
pub fn serve(function: Function) -> Result<()> {
    let control = sys::take_control().ok_or_else(|| {
        Error::Usage("serve needs the control socket as descriptor 3; the worker starts it so".into())
    })?;
    rustix::io::fcntl_setfd(&control, FdFlags::CLOEXEC).map_err(failed("take the control socket"))?;
    let mut program = Program::prepare(function)?;
    warm_up();
    let threads = std::fs::read_dir("/proc/self/task").map_err(Error::io("count our threads"))?.count();
    if threads != 1 {
        return Err(Error::Protocol(format!("there are {threads} threads before the first fork; there must be one")));
    }
    rustix::io::write(&control, b"R").map_err(failed("say that we are ready"))?;
    while let Some(channel) = next_order(&control)? {
        match sys::fork_for_parent() {
            Ok(Forked::Child) => {
                drop(control);
                child::serve(channel, &mut program);
            }
            Ok(Forked::Server) => {}
            // Closing the channel tells the worker; the next attempt may do better.
            Err(cause) => eprintln!("faas-wasm: could not fork: {cause}"),
        }
    }
    Ok(())
}

/// What is set up at its first use is used here, so that no child has to.
fn warm_up() {
    // The signal stack, which a trap's handler needs.
    wasmtime::Engine::tls_eager_initialize();
    // The clock's page of the kernel.
    let _ = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
}

/// The channel of the child to fork; `None` at the end.
fn next_order(control: &OwnedFd) -> Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match recvmsg(control, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            result => break result.map_err(failed("read the control socket"))?,
        }
    };
    let channel = ancillary.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match (message.bytes, byte[0], channel) {
        (0, _, _) => Ok(None),
        (_, b'F', Some(channel)) => Ok(Some(channel)),
        (_, b'F', None) => Err(Error::Protocol("an F came without a descriptor".into())),
        (_, other, _) => Err(Error::Protocol(format!("byte {other:#04x} came on the control socket; only F is known"))),
    }
}

fn failed(step: &'static str) -> impl FnOnce(rustix::io::Errno) -> Error {
    move |cause| Error::io(step)(cause.into())
}
