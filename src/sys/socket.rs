//! Additions to std's sockets: descriptors and credentials as ancillary data (unix(7), cmsg(3)), the peer of a Unix
//! socket, the backlog of a listener, and sendfile(2).
//!
//! The gateway hands a client's descriptors to a worker, and a worker hands a function's pipes to a fork server. Both
//! ask the kernel, not the peer, which process is at the other end.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::{Pid, check, check_count, set_nonblocking};

/// Number of descriptors that can travel with one message. Eight take 48 bytes of `Ancillary`.
const DESCRIPTORS_SENT_MAX: usize = 8;

const ANCILLARY_BYTES: usize = 64;

/// Space for ancillary data: [`DESCRIPTORS_SENT_MAX`] descriptors, or credentials. Aligned for a cmsghdr.
#[repr(C, align(8))]
struct Ancillary([u8; ANCILLARY_BYTES]);

/// Sends `bytes` on a stream socket, and `fds` with the first of them. Returns the number of bytes sent, or
/// `WouldBlock` if it would have to wait, whatever the socket's own mode.
pub fn send_with_fds(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    assert!(fds.len() <= DESCRIPTORS_SENT_MAX, "no message of ours has more");
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut ancillary = Ancillary([0; ANCILLARY_BYTES]);
    let mut message = message_header(&mut vector);
    if !fds.is_empty() {
        attach_fds(&mut message, &mut ancillary, fds);
    }
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: message points to `bytes` and to locals, which outlive the call; the kernel only reads them.
    check_count(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) })
}

/// A message of one vector without ancillary data. It holds a raw pointer to `vector`, which must outlive it.
fn message_header(vector: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: a msghdr is integers and pointers, for which all-zero is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vector;
    message.msg_iovlen = 1;
    message
}

/// Writes one control message that carries `fds` into `ancillary` and points `message` to it.
fn attach_fds(message: &mut libc::msghdr, ancillary: &mut Ancillary, fds: &[BorrowedFd<'_>]) {
    let length = size_of_val(fds);
    message.msg_control = ancillary.0.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE only computes.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(length as u32) } as usize;
    debug_assert!(message.msg_controllen <= ANCILLARY_BYTES);
    // SAFETY: message is a valid msghdr.
    let header = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: CMSG_LEN only computes.
    let header_and_data = unsafe { libc::CMSG_LEN(length as u32) } as usize;
    // SAFETY: header is the start of `ancillary`, which is aligned and large enough for a cmsghdr.
    unsafe {
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = header_and_data;
    }
    // SAFETY: header points into `ancillary`, which the data follows.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: a BorrowedFd is a transparent RawFd, so `fds` is `length` plain bytes; msg_controllen, which counts the
    // header and these bytes, is within `ancillary`.
    unsafe { std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), data, length) };
}

/// Receives bytes from a socket, and the descriptor that came with them, if one did.
pub fn receive_with_fd(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut fd = None;
    let count = receive_with(socket, buffer, |kind, data| {
        if kind == libc::SCM_RIGHTS {
            // Each gets an owner, so that none leaks; the last one is kept.
            for bytes in data.as_chunks::<4>().0 {
                // SAFETY: the kernel has just opened this descriptor for us, so it has no other owner.
                fd = Some(unsafe { OwnedFd::from_raw_fd(RawFd::from_ne_bytes(*bytes)) });
            }
        }
    })?;
    Ok((count, fd))
}

/// Two connected sockets of type SOCK_SEQPACKET: a packet that one sends arrives whole at the other. The first does not
/// block.
pub fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair: [c_int; 2] = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: socketpair writes two integers.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) })?;
    // SAFETY: socketpair has just opened both, so they have no other owner.
    let [ours, theirs] = pair.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    set_nonblocking(ours.as_fd())?;
    Ok((ours, theirs))
}

/// Receives bytes without waiting. `ancillary` gets the kind and the data of each control message.
fn receive_with(socket: BorrowedFd<'_>, buffer: &mut [u8], ancillary: impl FnMut(c_int, &[u8])) -> io::Result<usize> {
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut space = Ancillary([0; ANCILLARY_BYTES]);
    let mut message = message_header(&mut vector);
    message.msg_control = space.0.as_mut_ptr().cast();
    message.msg_controllen = space.0.len();
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: message points to `buffer` and to locals, which outlive the call, with their true lengths.
    let received = check_count(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) })?;
    // SAFETY: the kernel has filled `space`, to which message still points.
    unsafe { for_each_control_message(&message, ancillary) };
    Ok(received)
}

/// # Safety
/// recvmsg must have filled `message`, and the space of its control messages must still exist.
unsafe fn for_each_control_message(message: &libc::msghdr, mut ancillary: impl FnMut(c_int, &[u8])) {
    // SAFETY: CMSG_LEN only computes.
    let header_bytes = unsafe { libc::CMSG_LEN(0) } as usize;
    // SAFETY: message is a valid msghdr; null where the kernel has written nothing.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: the header is not null, so it lies whole and aligned within what the kernel has written.
        let header = unsafe { next.read() };
        // SAFETY: `next` is a header, which its data follows.
        let data = unsafe { libc::CMSG_DATA(next) };
        // SAFETY: the kernel's length of a control message never passes the end of what it has written.
        let data = unsafe { std::slice::from_raw_parts(data, header.cmsg_len - header_bytes) };
        if header.cmsg_level == libc::SOL_SOCKET {
            ancillary(header.cmsg_type, data);
        }
        // SAFETY: `next` is a header of this message; null behind the last one.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
}

/// Sets the number of connections that may wait at a listening socket until they are accepted; std sets 128. listen(2)
/// allows a second call for this.
pub fn set_backlog(listener: BorrowedFd<'_>, connections: c_int) -> io::Result<()> {
    // SAFETY: listen takes two integers.
    check(unsafe { libc::listen(listener.as_raw_fd(), connections) }).map(drop)
}

/// The process at the other end of a Unix socket at the time it connected: its id and its user's.
pub fn peer(socket: BorrowedFd<'_>) -> io::Result<(Pid, u32)> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let (level, option, value) = (libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut credentials).cast());
    // SAFETY: the kernel writes at most `length` bytes, the size of the ucred.
    check(unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, value, &raw mut length) })?;
    Ok((credentials.pid, credentials.uid))
}

/// Sends up to `count` bytes of `file` from `offset` on into a socket; returns the number of bytes sent.
pub fn send_file(socket: BorrowedFd<'_>, file: BorrowedFd<'_>, offset: u64, count: usize) -> io::Result<usize> {
    let mut offset = offset as libc::off_t;
    // SAFETY: the kernel reads and writes one off_t, the local.
    check_count(unsafe { libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), &raw mut offset, count) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{self, Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_travels_with_its_bytes() {
        let (left, right) = UnixStream::pair().unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        assert_eq!(send_with_fds(left.as_fd(), b"with", &[reader.as_fd()]).unwrap(), 4);
        let mut buffer = [0; 16];
        let (count, fd) = receive_with_fd(right.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"with");
        writer.write_all(b"through").unwrap();
        drop((reader, writer));
        let mut text = String::new();
        File::from(fd.unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        send_with_fds(left.as_fd(), b"bare", &[]).unwrap();
        assert!(receive_with_fd(right.as_fd(), &mut buffer).unwrap().1.is_none());
    }

    #[test]
    fn packets_arrive_whole() {
        let (ours, theirs) = packet_pair().unwrap();
        send_with_fds(ours.as_fd(), b"one", &[]).unwrap();
        send_with_fds(ours.as_fd(), b"two", &[ours.as_fd()]).unwrap();
        let mut buffer = [0; 16];
        assert!(matches!(receive_with_fd(theirs.as_fd(), &mut buffer), Ok((3, None))));
        assert!(matches!(receive_with_fd(theirs.as_fd(), &mut buffer), Ok((3, Some(_)))));
        assert_eq!(buffer[..3], *b"two");
    }
}
