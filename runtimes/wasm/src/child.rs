//! A child of the fork server: one invocation, in the order of steps of runtimes/README.md.
//!
//! Only the module uses the environment, so it is kept for the module and does not become the process's: this program
//! reads no variable, and starts no other program.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getpid, getppid, getrlimit, set_child_subreaper, set_parent_process_death_signal,
    setrlimit,
};

use crate::error::{Error, Result, STATUS_NOT_BEGUN};
use crate::limits::{DESCRIPTORS_MAX, ENVIRONMENT_BYTES_MAX, SETTINGS_BYTES_MAX};
use crate::program::{Invocation, Loader, Program};
use crate::server::Server;
use crate::settings::Settings;
use crate::sys;

/// Most invocations fit into this, so that they take one call.
const FIRST_READ_BYTES: usize = 4096;

/// Length of the header before the settings: two numbers of four bytes.
const HEADER_BYTES: usize = 8;

/// Serves the invocation that comes on the channel, and ends the process.
pub fn serve<L: Loader>(server: &mut Server<L>, channel: OwnedFd) -> ! {
    let (settings, environment) = match begin(server, &channel) {
        Ok(Some(invocation)) => invocation,
        Ok(None) => sys::end(0),
        Err(error) => end::<L>(&error, STATUS_NOT_BEGUN),
    };
    let mut loaded;
    let program = match server.prepared.iter_mut().find(|(version, _)| *version == settings.version) {
        Some((_, program)) => program,
        None => match server.loader.load(&settings, settings.memory_mib) {
            Ok(program) => {
                loaded = program;
                &mut loaded
            }
            // The worker makes the artifact anew on its way by exec, if that is necessary.
            Err(Error::ForeignArtifact { .. } | Error::Io { .. }) => {
                let _ = rustix::io::write(&channel, b"E");
                sys::end(0)
            }
            Err(error) => end::<L>(&error, error.exit_status()),
        },
    };
    close_all_but(&channel, program.artifact());
    let Err(error) = program.run(Invocation { settings, environment, channel: Some(channel) });
    end::<L>(&error, error.exit_status())
}

fn end<L: Loader>(error: &Error, status: u8) -> ! {
    eprintln!("{}: {error}", L::NAME);
    sys::end(status)
}

/// Closes all descriptors except 0, 1, 2, the channel, and the artifacts that programs still need.
fn close_all_but(channel: &OwnedFd, artifacts: impl IntoIterator<Item = RawFd>) {
    let mut kept: Vec<RawFd> = artifacts.into_iter().chain([channel.as_raw_fd()]).collect();
    kept.sort();
    sys::close_all_but(&kept);
}

/// Ties this process's life to its parent's.
pub fn die_with(parent: Pid) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(Error::os("tie its life to its parent's"))?;
    match getppid() == Some(parent) {
        true => Ok(()),
        // It may have ended before: then no signal ever comes.
        false => Err(Error::Protocol(format!("the parent, process {}, has ended", parent.as_raw_nonzero()))),
    }
}

/// Steps 1 to 3 of the protocol, and the change to the working folder. `None` if no invocation comes.
fn begin<L: Loader>(server: &Server<L>, channel: &OwnedFd) -> Result<Option<(Settings, Vec<u8>)>> {
    close_all_but(channel, server.prepared.iter().filter_map(|(_, program)| program.artifact()));
    die_with(server.own_pid)?;
    sys::unblock_signals().map_err(Error::io("let signals through"))?;
    let Some((settings, environment, descriptors)) = receive(channel)? else { return Ok(None) };
    let inherited = server.prepared.iter().map(|(_, program)| program.memory_bytes()).sum();
    become_invocation(&settings, descriptors, inherited)?;
    if let Some(title) = &server.title {
        title.set(&[L::NAME.as_bytes(), b": ", &settings.route].concat());
    }
    if !settings.folder.as_os_str().is_empty() {
        let failed = Error::file("change to the folder", &settings.folder);
        rustix::process::chdir(&settings.folder).map_err(|cause| failed(cause.into()))?;
    }
    Ok(Some((settings, environment)))
}

/// Settings, environment, and the descriptors that came with them.
type Received = (Settings, Vec<u8>, Vec<OwnedFd>);

/// Waits for the invocation: its settings, environment and descriptors.
fn receive(channel: &OwnedFd) -> Result<Option<Received>> {
    let mut message = vec![0; FIRST_READ_BYTES];
    let mut descriptors = Vec::new();
    let mut received = 0;
    let (mut settings_end, mut wanted) = (0, HEADER_BYTES);
    while received < wanted {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(&mut message[received..])];
        let count = match recvmsg(channel, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result.map_err(Error::os("read the invocation"))?.bytes,
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
        if received >= HEADER_BYTES && wanted == HEADER_BYTES {
            let number = |at: usize| u32::from_le_bytes(message[at..at + 4].try_into().expect("it is four bytes"));
            let (settings, environment) = (number(0) as usize, number(4) as usize);
            if settings > SETTINGS_BYTES_MAX || environment > ENVIRONMENT_BYTES_MAX {
                return Err(Error::Protocol(format!(
                    "{settings} bytes of settings and {environment} of environment are announced; at most \
                     {SETTINGS_BYTES_MAX} and {ENVIRONMENT_BYTES_MAX} are taken"
                )));
            }
            settings_end = HEADER_BYTES + settings;
            wanted = settings_end + environment;
            message.resize(wanted.max(FIRST_READ_BYTES), 0);
        }
    }
    let settings = Settings::parse(&message[HEADER_BYTES..settings_end])?;
    message.truncate(wanted);
    message.drain(..settings_end);
    Ok(Some((settings, message, descriptors)))
}

/// Steps 2 and 3: makes this process the invocation's. `inherited` bytes of memory belong to prepared modules; it
/// cannot use them, but the kernel counts them as its own.
fn become_invocation(settings: &Settings, descriptors: Vec<OwnedFd>, inherited: usize) -> Result<()> {
    let (streams, rulesets) = descriptors.split_first_chunk::<3>().ok_or_else(|| {
        let count = descriptors.len();
        Error::Protocol(format!("the invocation came with {count} descriptors; it takes at least 3"))
    })?;
    rustix::process::setsid().map_err(Error::os("begin a session"))?;
    set_child_subreaper(Some(getpid())).map_err(Error::os("become a subreaper"))?;
    let [stdin, stdout, stderr] = streams;
    rustix::stdio::dup2_stdin(stdin).map_err(Error::os("put stdin into place"))?;
    rustix::stdio::dup2_stdout(stdout).map_err(Error::os("put stdout into place"))?;
    rustix::stdio::dup2_stderr(stderr).map_err(Error::os("put stderr into place"))?;
    if let Some(mib) = settings.data_mib_max {
        lower_data_limit((mib << 20) + inherited as u64).map_err(Error::os("lower the limit of its memory"))?;
    }
    if !settings.net {
        sys::cut_network().map_err(Error::io("cut the network"))?;
    }
    for ruleset in rulesets {
        sys::restrict_by(ruleset.as_fd()).map_err(Error::io("restrict the function by Landlock"))?;
    }
    Ok(())
}

/// A limit that is lower already stays.
fn lower_data_limit(bytes: u64) -> rustix::io::Result<()> {
    let now = getrlimit(Resource::Data).maximum;
    let limit = Some(now.map_or(bytes, |now| now.min(bytes)));
    setrlimit(Resource::Data, Rlimit { current: limit, maximum: limit })
}
