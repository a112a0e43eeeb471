//! A child of the fork server: one invocation, as runtimes/README.md orders its steps.
//!
//! The environment is the module's alone, so it is kept for the module and does not become the process's: nothing here
//! reads a variable, and no other program is started.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::error::{Error, Result};
use crate::limits::{DESCRIPTORS_MAX, ENVIRONMENT_BYTES_MAX};
use crate::program::Program;
use crate::sys;

/// The status of a child that could not begin.
const STATUS_NOT_BEGUN: u8 = 127;

/// What most invocations fit into, so that they come with one call.
const FIRST_READ_BYTES: usize = 4096;

/// Serves the invocation that comes on the channel, and ends the process.
pub fn serve(channel: OwnedFd, program: &mut Program) -> ! {
    match receive(&channel) {
        Ok(None) => sys::end(0),
        Ok(Some((environment, descriptors))) => {
            let begun = become_invocation(descriptors).and_then(|()| {
                let host = program.host();
                host.environment = environment;
                host.channel = Some(channel);
                program.open_folders()
            });
            match begun {
                Ok(()) => program.run(),
                Err(error) => fail(&error),
            }
        }
        Err(error) => fail(&error),
    }
}

pub fn fail(error: &Error) -> ! {
    eprintln!("faas-wasm: {error}");
    sys::end(STATUS_NOT_BEGUN)
}

/// Says that we are here and waits for the invocation: its environment and descriptors, or `None` if none is to come.
fn receive(channel: &OwnedFd) -> Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let io = |step| move |cause: rustix::io::Errno| Error::io(step)(cause.into());
    // Where nobody listens, nothing will come either.
    let _ = rustix::io::write(channel, b"H");
    let mut message = vec![0; FIRST_READ_BYTES];
    let mut descriptors = Vec::new();
    let mut received = 0;
    let mut wanted = 4;
    while received < wanted {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(&mut message[received..])];
        let count = match recvmsg(channel, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result.map_err(io("read the invocation"))?.bytes,
        };
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = part {
                descriptors.extend(fds);
            }
        }
        match count {
            0 if received == 0 => return Ok(None),
            0 => return Err(Error::Protocol("the invocation ends before its environment does".into())),
            count => received += count,
        }
        if received >= 4 && wanted == 4 {
            let length = u32::from_le_bytes([message[0], message[1], message[2], message[3]]) as usize;
            if length > ENVIRONMENT_BYTES_MAX {
                return Err(Error::Protocol(format!(
                    "an environment of {length} bytes is announced; at most {ENVIRONMENT_BYTES_MAX} are taken"
                )));
            }
            wanted = 4 + length;
            message.resize(wanted.max(FIRST_READ_BYTES), 0);
        }
    }
    message.truncate(wanted);
    message.drain(..4);
    Ok(Some((message, descriptors)))
}

/// Steps 4 and 5 of the protocol: what makes this process the invocation's.
fn become_invocation(descriptors: Vec<OwnedFd>) -> Result<()> {
    let count = descriptors.len();
    let mut descriptors = descriptors.into_iter();
    let mut next = || descriptors.next();
    let (Some(stdin), Some(stdout), Some(stderr)) = (next(), next(), next()) else {
        return Err(Error::Protocol(format!("the invocation came with {count} descriptors; it takes at least 3")));
    };
    let io = |step| move |cause: rustix::io::Errno| Error::io(step)(cause.into());
    rustix::process::setsid().map_err(io("begin a session"))?;
    sys::become_subreaper().map_err(Error::io("become a subreaper"))?;
    sys::die_with_parent().map_err(Error::io("tie the function's life to the worker's"))?;
    // All that follow the three.
    for ruleset in descriptors {
        sys::restrict_by(ruleset.as_fd()).map_err(Error::io("restrict the function by Landlock"))?;
    }
    rustix::stdio::dup2_stdin(stdin).map_err(io("put stdin into place"))?;
    rustix::stdio::dup2_stdout(stdout).map_err(io("put stdout into place"))?;
    rustix::stdio::dup2_stderr(stderr).map_err(io("put stderr into place"))
}
