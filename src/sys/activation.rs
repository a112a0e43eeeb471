//! Descriptors from a service manager: listening sockets (sd_listen_fds(3)), and the socket for notes to it
//! (sd_notify(3)).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};

use super::check;

/// The first descriptor that a service manager hands over.
const FIRST: RawFd = 3;

/// The variables of both protocols: they are this process's, not its children's.
pub const VARIABLES: [&str; 5] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC"];

/// The socket that LISTEN_FDS hands over, if LISTEN_PID names this process; `None` if there was none, or it was taken
/// already.
///
/// # Errors
/// If there are several: only one can be the public port.
pub fn take_inherited_socket() -> io::Result<Option<OwnedFd>> {
    static IS_TAKEN: AtomicBool = AtomicBool::new(false);
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) || IS_TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(None);
    }
    match number("LISTEN_FDS") {
        None | Some(0) => Ok(None),
        Some(1) => {
            // SAFETY: fcntl takes integers.
            check(unsafe { libc::fcntl(FIRST, libc::F_SETFD, libc::FD_CLOEXEC) })?;
            // SAFETY: the descriptor is open, and the protocol gives it to this process; IS_TAKEN keeps it to one
            // owner.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(FIRST) }))
        }
        Some(count) => Err(io::Error::other(format!("LISTEN_FDS hands over {count} sockets; one is needed"))),
    }
}

/// True if a socket listens for connections.
pub fn is_listening(socket: &OwnedFd) -> io::Result<bool> {
    let mut listens: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    let (level, option, value) = (libc::SOL_SOCKET, libc::SO_ACCEPTCONN, (&raw mut listens).cast());
    // SAFETY: the kernel writes at most `length` bytes, the size of the integer.
    check(unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, value, &raw mut length) })?;
    Ok(listens != 0)
}

/// Sends a note such as `READY=1` to the service manager. Does nothing if NOTIFY_SOCKET names none.
pub fn notify(note: &str) -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let path = path.as_encoded_bytes();
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::str::from_utf8(path).map_err(io::Error::other)?)?,
    };
    UnixDatagram::unbound()?.send_to_addr(note.as_bytes(), &address).map(drop)
}
