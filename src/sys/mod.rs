//! The system calls that std does not offer, behind safe functions. This is the only file with `unsafe` in it.
//!
//! Functions take and return `OwnedFd`, `BorrowedFd`, durations and `io::Result`. Every descriptor made here is
//! close-on-exec from birth, so that a process started by another thread at the same moment cannot inherit it.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// A process id.
pub type Pid = libc::pid_t;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

// ---- Waiting for descriptors --------------------------------------------------------------------------------------

/// One descriptor to wait for, and after [`poll`] what it is ready for.
#[repr(transparent)]
pub struct Watched<'fd> {
    inner: libc::pollfd,
    borrowed: PhantomData<BorrowedFd<'fd>>,
}

impl<'fd> Watched<'fd> {
    fn new(fd: RawFd, events: i16) -> Watched<'fd> {
        Watched { inner: libc::pollfd { fd, events, revents: 0 }, borrowed: PhantomData }
    }

    pub fn read(fd: BorrowedFd<'fd>) -> Watched<'fd> {
        Watched::new(fd.as_raw_fd(), libc::POLLIN)
    }

    pub fn write(fd: BorrowedFd<'fd>) -> Watched<'fd> {
        Watched::new(fd.as_raw_fd(), libc::POLLOUT)
    }

    pub fn read_write(fd: BorrowedFd<'fd>) -> Watched<'fd> {
        Watched::new(fd.as_raw_fd(), libc::POLLIN | libc::POLLOUT)
    }

    /// Ready when the peer of a socket has closed its sending side or the whole connection; never for mere data.
    pub fn hang_up(fd: BorrowedFd<'fd>) -> Watched<'fd> {
        Watched::new(fd.as_raw_fd(), libc::POLLRDHUP)
    }

    /// A place in the list that is never ready.
    pub fn nothing() -> Watched<'fd> {
        Watched::new(-1, 0)
    }

    pub fn is_ready(&self) -> bool {
        self.inner.revents != 0
    }

    pub fn is_readable(&self) -> bool {
        self.inner.revents & (libc::POLLIN | libc::POLLHUP | libc::POLLERR) != 0
    }

    pub fn is_writable(&self) -> bool {
        self.inner.revents & (libc::POLLOUT | libc::POLLHUP | libc::POLLERR) != 0
    }
}

/// Waits until one of `watched` is ready or `timeout` has passed (`None`: without end), and says how many are ready.
/// A signal does not end the wait.
pub fn poll(watched: &mut [Watched<'_>], timeout: Option<Duration>) -> io::Result<usize> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let milliseconds = match deadline {
            None => -1,
            // Rounded up, so that a wait of half a millisecond does not become a busy loop.
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                left.as_micros().div_ceil(1000).min(c_int::MAX as u128) as c_int
            }
        };
        // SAFETY: Watched is a transparent pollfd, so the slice is an array of that many pollfds.
        let ready = unsafe { libc::poll(watched.as_mut_ptr().cast(), watched.len() as libc::nfds_t, milliseconds) };
        match check(ready) {
            Ok(count) => return Ok(count as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A counter in the kernel that one thread raises and others poll for.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// # Errors
    /// [`Error::Exhausted`] where no descriptor is left.
    pub fn new() -> Result<EventFd> {
        // SAFETY: eventfd takes two integers.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
            .map_err(|cause| Error::Exhausted { step: "make an eventfd", cause })?;
        // SAFETY: the kernel has just given us this descriptor.
        Ok(EventFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes the descriptor readable, until [`EventFd::clear`].
    pub fn signal(&self) {
        let one = 1u64;
        // SAFETY: eight bytes are read from a local. The one error, a full counter, means readable all the same.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    pub fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: eight bytes are written to a local. The one error, nothing to read, means that it is clear.
        let _ = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reads and writes on a pipe or socket answer `WouldBlock` instead of waiting. Neither has any other flag that this could
/// take away.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_SETFL takes an integer.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }).map(drop)
}

// ---- Sockets ------------------------------------------------------------------------------------------------------

/// Descriptors that can travel with one message.
pub const DESCRIPTORS_SENT_MAX: usize = 8;

/// Space for ancillary data: that many descriptors, or credentials; aligned as the kernel wants it.
#[repr(C, align(8))]
struct Ancillary([u8; 64]);

/// Sends `bytes` on a Unix socket, and `fds` with the first of them. Returns how many bytes went out; `WouldBlock` where it
/// would have to wait, whatever the socket's own mode.
pub fn send_with_fds(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    assert!(fds.len() <= DESCRIPTORS_SENT_MAX, "no message of ours has more");
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut ancillary = Ancillary([0; 64]);
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let length = size_of_val(fds) as u32;
        message.msg_control = ancillary.0.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE only computes. For eight descriptors it is 48, which Ancillary holds.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as usize;
        // SAFETY: header and descriptors fit into Ancillary, which is aligned for them. A BorrowedFd is a RawFd.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(length) as usize;
            std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(header), length as usize);
        }
    }
    // SAFETY: message points to locals and to `bytes`, which all outlive the call; bytes are only read.
    let sent =
        unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Receives bytes from a socket, and the descriptor that was sent with them, if there was one.
pub fn receive_with_fd(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut fd = None;
    let count = receive_with(socket, buffer, |kind, data| {
        if kind == libc::SCM_RIGHTS {
            // All of them become ours, so that none stays open without an owner; the last is kept.
            for bytes in data.as_chunks::<4>().0 {
                // SAFETY: the kernel has just given us this descriptor, close-on-exec.
                fd = Some(unsafe { OwnedFd::from_raw_fd(RawFd::from_ne_bytes(*bytes)) });
            }
        }
    })?;
    Ok((count, fd))
}

/// Two connected sockets of type SOCK_SEQPACKET: what one sends at once, the other receives at once. The first never waits.
pub fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair: [c_int; 2] = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: socketpair writes two integers.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) })?;
    // SAFETY: the kernel has just given us both descriptors.
    let [ours, theirs] = pair.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    set_nonblocking(ours.as_fd())?;
    Ok((ours, theirs))
}

/// Receives bytes; `ancillary` gets the kind and the data of what came with them. Never waits.
fn receive_with(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    mut ancillary: impl FnMut(c_int, &[u8]),
) -> io::Result<usize> {
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut space = Ancillary([0; 64]);
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = space.0.as_mut_ptr().cast();
    message.msg_controllen = space.0.len();
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: message points to locals and to `buffer`, which all outlive the call.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has filled msg_control and set msg_controllen; FIRSTHDR and NXTHDR are null where there is nothing
    // more, and the length in a header never points past what the kernel has written.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            let length = (*header).cmsg_len - libc::CMSG_LEN(0) as usize;
            let data = std::slice::from_raw_parts(libc::CMSG_DATA(header), length);
            if (*header).cmsg_level == libc::SOL_SOCKET {
                ancillary((*header).cmsg_type, data);
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(received as usize)
}

/// Sets how many connections may wait at a listening socket until they are accepted; std's own figure is 128. listen(2)
/// may be called again for this.
pub fn set_backlog(listener: BorrowedFd<'_>, connections: c_int) -> io::Result<()> {
    // SAFETY: listen takes two integers.
    check(unsafe { libc::listen(listener.as_raw_fd(), connections) }).map(drop)
}

/// This process's user id.
pub fn own_uid() -> u32 {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// The process at the other end of a Unix socket, as it was when it connected: its id and its user's.
pub fn peer(socket: BorrowedFd<'_>) -> io::Result<(Pid, u32)> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into a ucred.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    })?;
    Ok((credentials.pid, credentials.uid))
}

/// Sends up to `count` bytes of `file` from `offset` on into a socket; returns how many went out.
pub fn send_file(socket: BorrowedFd<'_>, file: BorrowedFd<'_>, offset: u64, count: usize) -> io::Result<usize> {
    let mut offset = offset as libc::off_t;
    // SAFETY: offset is a local that the kernel reads and writes.
    let sent = unsafe { libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), &raw mut offset, count) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

// ---- Locks --------------------------------------------------------------------------------------------------------

fn byte_range(kind: c_int, byte: u64) -> libc::flock {
    // SAFETY: all-zero is a valid flock.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as i16;
    range.l_whence = libc::SEEK_SET as i16;
    range.l_start = byte as libc::off_t;
    range.l_len = 1;
    range
}

/// Locks one byte of `file` for this process as long as it lives and keeps the file open; says whether it could.
/// The lock is fcntl(2)'s: it is not inherited by children, and [`lock_holder`] names the process that has it.
pub fn try_lock(file: &File, byte: u64) -> io::Result<bool> {
    let range = byte_range(libc::F_WRLCK, byte);
    // SAFETY: F_SETLK reads a flock.
    match check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const range) }) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The other process that holds the lock on one byte of `file`. Beware: closing any descriptor of a file gives up all locks
/// that this process has on it.
pub fn lock_holder(file: &File, byte: u64) -> io::Result<Option<Pid>> {
    let mut range = byte_range(libc::F_WRLCK, byte);
    // SAFETY: F_GETLK reads and writes a flock.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut range) })?;
    // A read lock is not ours: whoever may read the file can have one.
    Ok((c_int::from(range.l_type) == libc::F_WRLCK).then_some(range.l_pid))
}

// ---- Signals ------------------------------------------------------------------------------------------------------

/// SIGTERM and SIGINT, which end a program in order.
fn ending_signals() -> libc::sigset_t {
    // SAFETY: sigemptyset makes a valid set of the zeroed one, and sigaddset adds to it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        set
    }
}

/// Keeps SIGTERM and SIGINT from this thread and all that it starts, so that [`wait_for_ending_signal`] gets them.
/// To be called first in main.
pub fn block_ending_signals() {
    let set = ending_signals();
    // SAFETY: pthread_sigmask reads the set.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Waits for SIGTERM or SIGINT and says which it was.
pub fn wait_for_ending_signal() -> &'static str {
    let set = ending_signals();
    let mut signal = 0;
    loop {
        // SAFETY: sigwait reads the set and writes one integer.
        if unsafe { libc::sigwait(&raw const set, &raw mut signal) } == 0 {
            return if signal == libc::SIGINT { "SIGINT" } else { "SIGTERM" };
        }
    }
}

// ---- Processes ----------------------------------------------------------------------------------------------------

/// Orphans among this process's descendants become its children, instead of init's (prctl(2)).
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: this prctl takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// While it lives, its thread goes before all that have a usual priority, where we may (root may). For work that is short
/// and must not wait for a share of the processor: ending a fork bomb, which grows faster than a share of it is ended.
pub struct Urgency(());

impl Urgency {
    pub fn begin() -> Urgency {
        set_scheduler(libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, 1);
        Urgency(())
    }
}

impl Drop for Urgency {
    fn drop(&mut self) {
        set_scheduler(libc::SCHED_OTHER, 0);
    }
}

/// For the calling thread. Where it fails all stays as it is.
fn set_scheduler(policy: c_int, priority: c_int) {
    // SAFETY: all-zero is a valid sched_param, which the kernel reads; 0 is the calling thread.
    unsafe {
        let mut parameter: libc::sched_param = std::mem::zeroed();
        parameter.sched_priority = priority;
        libc::sched_setscheduler(0, policy, &raw const parameter);
    }
}

/// Raises this process's limit of open files to the hard limit; returns it.
pub fn raise_open_files_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes, and setrlimit reads, one rlimit.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}

/// How many files this process may have open.
pub fn open_files_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } {
        0 => limit.rlim_cur,
        _ => 0,
    }
}

/// Clock ticks per second, the unit of the times in /proc/PID/stat.
pub fn clock_ticks_per_s() -> u64 {
    // SAFETY: sysconf takes an integer.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64
}

/// Bytes of a page, the unit of /proc/PID/statm.
pub fn page_bytes() -> u64 {
    // SAFETY: sysconf takes an integer.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1) as u64
}

/// Opens a process for waiting and signalling; unlike its id, the descriptor can never mean another process.
pub fn open_process(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as c_int;
    // SAFETY: checked, so the kernel has just given us this descriptor; pidfds are close-on-exec.
    check(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends SIGKILL to the process behind a pidfd. One that is gone already is no error.
pub fn kill_process(pidfd: BorrowedFd<'_>) {
    // SAFETY: pidfd_send_signal takes integers and an optional siginfo.
    unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, std::ptr::null::<c_void>(), 0)
    };
}

/// Sends SIGKILL to the process group that the process behind a pidfd leads. Before Linux 6.9 it does nothing
/// (pidfd_send_signal(2)).
pub fn kill_group_of(pidfd: BorrowedFd<'_>) {
    const PROCESS_GROUP: c_int = 1 << 2;
    let (call, fd) = (libc::SYS_pidfd_send_signal, pidfd.as_raw_fd());
    // SAFETY: see kill_process.
    unsafe { libc::syscall(call, fd, libc::SIGKILL, std::ptr::null::<c_void>(), PROCESS_GROUP) };
}

/// Sends SIGKILL to a child of ours that has not been waited for, so that its id cannot have been given away.
pub fn kill_child(pid: Pid) {
    // SAFETY: kill takes two integers; pid > 0 names one process.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Sends SIGKILL to a process group whose leader or member is a child of ours that has not been waited for.
pub fn kill_group(group: Pid) {
    debug_assert!(group > 1);
    // SAFETY: kill takes two integers; below -1 names one group.
    unsafe { libc::kill(-group, libc::SIGKILL) };
}

/// The process group of `pid`.
pub fn group_of(pid: Pid) -> io::Result<Pid> {
    // SAFETY: getpgid takes an integer.
    check(unsafe { libc::getpgid(pid) })
}

/// How a process ended, and the most memory it ever had resident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub how: EndedHow,
    pub resident_kib_max: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedHow {
    Exited(i32),
    Signaled(i32),
}

impl EndedHow {
    /// From a wait status (wait(2)).
    pub fn from_wait_status(status: c_int) -> EndedHow {
        if libc::WIFEXITED(status) {
            EndedHow::Exited(libc::WEXITSTATUS(status))
        } else {
            EndedHow::Signaled(libc::WTERMSIG(status))
        }
    }
}

/// Takes note of a child's end; `None` while it still runs.
pub fn reap(pid: Pid) -> io::Result<Option<Ended>> {
    let mut status = 0;
    // SAFETY: all-zero is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: wait4 writes one integer and one rusage.
    if check(unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage) })? == 0 {
        return Ok(None);
    }
    let how = EndedHow::from_wait_status(status);
    Ok(Some(Ended { how, resident_kib_max: usage.ru_maxrss.max(0) as u64 }))
}

/// Whether a child has ended; it stays to be reaped.
pub fn has_ended(pid: Pid) -> io::Result<bool> {
    // SAFETY: all-zero is a valid siginfo, and waitid fills it. It leaves the pid zero where there is nothing to say.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        check(libc::waitid(libc::P_PID, pid as libc::id_t, &raw mut info, options))?;
        Ok(info.si_pid() == pid)
    }
}

/// What a new process is to be. Everything is prepared before the process exists, because between its birth and its
/// exec it shares our memory and must not allocate.
pub struct Spawn<'a> {
    pub program: &'a CStr,
    pub arguments: &'a [CString],
    /// `NAME=value` and a NUL, again and again. What stands behind the last NUL is left out.
    pub environment: &'a [u8],
    pub folder: Option<&'a CStr>,
    pub stdin: BorrowedFd<'a>,
    pub stdout: BorrowedFd<'a>,
    pub stderr: BorrowedFd<'a>,
    /// Descriptor 3, where there is one; else that does not exist.
    pub control: Option<BorrowedFd<'a>>,
    /// How a function is confined; `None` for a program of ours.
    pub confinement: Option<Confinement<'a>>,
}

/// What keeps a function in its place. It also dies with the thread that spawns it, gains no privileges by executing anything,
/// and dumps no core.
pub struct Confinement<'a> {
    /// The program to execute, already open, where its path may lie in a folder that the new user may not enter. It must
    /// be a binary, no script.
    pub program_file: Option<BorrowedFd<'a>>,
    /// RLIMIT_DATA in bytes: what is writable and private (setrlimit(2)).
    pub data_bytes_max: u64,
    pub open_files_max: u64,
    /// Processes and threads of its user, all together; root is exempt (setrlimit(2)).
    pub processes_max: Option<u64>,
    /// The user and group to become, without any other group. Without one it keeps our user, but none of its privileges.
    pub user: Option<(u32, u32)>,
    /// Landlock rulesets, see [`landlock_ruleset`] and [`landlock_readable`]; what one of them forbids is forbidden.
    pub landlock: [Option<BorrowedFd<'a>>; 2],
    pub system_calls: &'a SystemCalls,
    /// Whether orphans among its descendants become its children (orphans.rs); else they become ours.
    pub collects_orphans: bool,
}

/// A new child process.
#[derive(Debug)]
pub struct Spawned {
    pub pid: Pid,
    pub pidfd: OwnedFd,
}

/// Why a process could not be spawned: the step, and the system's word for it.
#[derive(Debug)]
pub struct SpawnError {
    pub step: &'static str,
    pub cause: io::Error,
}

/// Bytes of the new process's stack until its exec; glibc's posix_spawn takes 32 KiB.
const SPAWN_STACK_BYTES: usize = 64 * 1024;

/// Where a fork server finds its control socket (runtimes/README.md).
const CONTROL_FD: c_int = 3;
/// Where the program to execute lies until it is.
const PROGRAM_FD: c_int = 4;

/// Signals that a shell or nohup may have had us ignore, or that Rust ignores (SIGPIPE): the new process starts with
/// the system's default for them.
const SIGNALS_TO_DEFAULT: [c_int; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGPIPE,
    libc::SIGTERM,
    libc::SIGCHLD,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// Starts a process in a session and process group of its own, with stdin, stdout and stderr and no other descriptor.
///
/// Like posix_spawn this is a vfork: the child borrows our memory until its exec, so nothing is copied, and the calling
/// thread waits that long (about half a millisecond, nearly all of it the kernel's exec). posix_spawn itself has no way to
/// set resource limits, the death signal or no_new_privs; fork would copy our page tables each time.
pub fn spawn(plan: &Spawn<'_>) -> std::result::Result<Spawned, SpawnError> {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let arguments = pointers(plan.arguments);
    let variables = plan.environment.split_inclusive(|byte| *byte == 0).filter(|pair| pair.ends_with(&[0]));
    let environment: Vec<*const c_char> =
        variables.map(|pair| pair.as_ptr().cast()).chain([std::ptr::null()]).collect();
    let mut birth = Birth {
        plan,
        arguments: arguments.as_ptr(),
        environment: environment.as_ptr(),
        // SAFETY: getpid cannot fail.
        parent: unsafe { libc::getpid() },
        failed_step: None,
        errno: 0,
    };
    let mut stack: Vec<u8> = Vec::with_capacity(SPAWN_STACK_BYTES);
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: all-zero is a valid sigset, sigfillset fills it. No handler may run in the child while it shares our
    // memory, hence all signals wait until the clone is over.
    let previous = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut previous: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut previous);
        previous
    };
    // SAFETY: the stack top lies one past an allocation of our own and is aligned down to 16; `birth` and the stack
    // outlive the child's use of them, because CLONE_VFORK holds this thread until the child has exec'd or ended.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(SPAWN_STACK_BYTES);
        let top = top.sub(top as usize % 16);
        libc::clone(child_main, top.cast(), flags, (&raw mut birth).cast(), &raw mut pidfd)
    };
    let clone_error = io::Error::last_os_error();
    // SAFETY: `previous` was filled by pthread_sigmask above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const previous, std::ptr::null_mut()) };
    if pid < 0 {
        return Err(SpawnError { step: "make a process", cause: clone_error });
    }
    // SAFETY: the clone succeeded, so the kernel has given us this descriptor; it is close-on-exec.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    if let Some(step) = birth.failed_step {
        // The child has ended already: CLONE_VFORK returned because of its _exit.
        // SAFETY: waitpid with no status pointer.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        return Err(SpawnError { step, cause: io::Error::from_raw_os_error(birth.errno) });
    }
    Ok(Spawned { pid, pidfd })
}

/// What the child reads, and where it leaves word of a failure. It lies in the parent's frame.
struct Birth<'a> {
    plan: &'a Spawn<'a>,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    parent: Pid,
    failed_step: Option<&'static str>,
    errno: c_int,
}

/// One system call of the child; a failure is a return with the step's name. The calls take integers, or pointers to
/// memory that the parent keeps alive meanwhile, and all may be made between vfork and exec in a process with threads.
macro_rules! try_step {
    ($step:literal, $call:expr) => {
        // SAFETY: see the macro's comment.
        if unsafe { $call } < 0 {
            return $step;
        }
    };
}

/// The same in a function that returns a Result.
macro_rules! try_confine {
    ($step:literal, $call:expr) => {
        // SAFETY: see the comment of try_step.
        if unsafe { $call } < 0 {
            return Err($step);
        }
    };
}

/// The child's life until its exec. It shares our memory: no allocation, no lock, no panic, system calls only.
extern "C" fn child_main(argument: *mut c_void) -> c_int {
    // SAFETY: the argument is the Birth in spawn's frame, which nobody else touches while the parent's thread waits.
    let birth = unsafe { &mut *argument.cast::<Birth>() };
    let step = child_steps(birth);
    birth.failed_step = Some(step);
    // SAFETY: errno is this thread's; the parent's thread, whose memory it is, waits.
    birth.errno = unsafe { *libc::__errno_location() };
    // SAFETY: _exit runs nothing of ours.
    unsafe { libc::_exit(127) }
}

/// Does not return where all goes well; else names the step that failed, with errno set.
fn child_steps(birth: &Birth<'_>) -> &'static str {
    let plan = birth.plan;
    try_step!("start a session", libc::setsid());
    if let Some(confinement) = &plan.confinement
        && let Err(step) = give_up_files_and_network(confinement)
    {
        return step;
    }
    try_step!("set stdin", libc::dup2(plan.stdin.as_raw_fd(), 0));
    try_step!("set stdout", libc::dup2(plan.stdout.as_raw_fd(), 1));
    try_step!("set stderr", libc::dup2(plan.stderr.as_raw_fd(), 2));
    let mut kept = [plan.control, plan.confinement.as_ref().and_then(|confinement| confinement.program_file)]
        .map(|file| file.map_or(-1, |file| file.as_raw_fd()));
    // Out of the way first: the one may have the number that the other is to get.
    for fd in kept.iter_mut().filter(|fd| **fd >= 0) {
        // SAFETY: see the comment of try_step.
        *fd = unsafe { libc::fcntl(*fd, libc::F_DUPFD, PROGRAM_FD + 1) };
        if *fd < 0 {
            return "set its descriptors";
        }
    }
    let [control, program] = kept;
    let mut first_to_close = CONTROL_FD;
    if control >= 0 {
        try_step!("set the control socket", libc::dup2(control, CONTROL_FD));
        first_to_close = PROGRAM_FD;
    }
    if program >= 0 {
        // What lies between is closed; this one closes itself when it is executed.
        let close = libc::SYS_close_range;
        try_step!("close other descriptors", libc::syscall(close, first_to_close, PROGRAM_FD, 0u32));
        try_step!("open the program", libc::dup3(program, PROGRAM_FD, libc::O_CLOEXEC));
        first_to_close = PROGRAM_FD + 1;
    }
    try_step!("close other descriptors", libc::syscall(libc::SYS_close_range, first_to_close, u32::MAX, 0u32));
    if let Some(confinement) = &plan.confinement
        && let Err(step) = give_up_privileges(confinement, birth.parent)
    {
        return step;
    }
    // As the user that the function runs as, since what that may not enter it shall not stand in.
    if let Some(folder) = plan.folder {
        try_step!("enter the working folder", libc::chdir(folder.as_ptr()));
    }
    // SAFETY: all-zero is a valid sigset and sigaction (SIG_DFL is 0); the rest are pointers to what the parent keeps.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        for signal in SIGNALS_TO_DEFAULT {
            libc::sigaction(signal, &raw const default, std::ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        if program >= 0 {
            let (arguments, environment) = (birth.arguments, birth.environment);
            libc::syscall(libc::SYS_execveat, PROGRAM_FD, c"".as_ptr(), arguments, environment, libc::AT_EMPTY_PATH);
        } else {
            libc::execve(plan.program.as_ptr(), birth.arguments, birth.environment);
        }
    }
    "execute"
}

/// Landlock and seccomp: before other descriptors are closed, since the ruleset is one. Both want no_new_privs.
fn give_up_files_and_network(confinement: &Confinement<'_>) -> std::result::Result<(), &'static str> {
    try_confine!("forbid new privileges", libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    for ruleset in confinement.landlock.iter().flatten() {
        let call = libc::SYS_landlock_restrict_self;
        try_confine!("restrict its files", libc::syscall(call, ruleset.as_raw_fd(), 0u32));
    }
    let filter = &confinement.system_calls.0;
    if !filter.is_empty() {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        let (call, mode) = (libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER);
        try_confine!("restrict its system calls", libc::syscall(call, mode, 0u32, &raw const program));
    }
    Ok(())
}

/// Limits, user, capabilities, and what dies with whom. The raw system calls are on purpose: glibc's setuid and its like
/// also change all threads of the process, which here are still the parent's.
fn give_up_privileges(confinement: &Confinement<'_>, parent: Pid) -> std::result::Result<(), &'static str> {
    lower_limit(libc::RLIMIT_DATA, confinement.data_bytes_max).or(Err("limit its memory"))?;
    lower_limit(libc::RLIMIT_NOFILE, confinement.open_files_max).or(Err("limit its open files"))?;
    lower_limit(libc::RLIMIT_CORE, 0).or(Err("forbid core files"))?;
    if let Some((user, group)) = confinement.user {
        try_confine!("leave our groups", libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()));
        try_confine!("change its group", libc::syscall(libc::SYS_setresgid, group, group, group));
        try_confine!("change its user", libc::syscall(libc::SYS_setresuid, user, user, user));
    }
    // After the change of user: before it, being over the limit already would make the exec fail.
    if let Some(processes_max) = confinement.processes_max {
        lower_limit(libc::RLIMIT_NPROC, processes_max).or(Err("limit its processes"))?;
    }
    // Version 3 of the interface, 64 capabilities in two parts, all of them off. With no_new_privs none comes back.
    let header = [0x2008_0522u32, 0];
    let no_capabilities = [0u32; 6];
    let (header, none) = (header.as_ptr(), no_capabilities.as_ptr());
    try_confine!("give up capabilities", libc::syscall(libc::SYS_capset, header, none));
    if confinement.collects_orphans {
        try_confine!("make it a subreaper", libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
    }
    // After the change of user, which clears it.
    try_confine!("tie its life to ours", libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0));
    // The parent may have died before the prctl: then no signal will ever come.
    // SAFETY: getppid takes nothing.
    if unsafe { libc::getppid() } != parent {
        return Err("find its parent alive");
    }
    Ok(())
}

/// Sets a limit of this process, for good. One that is lower already stays as it is: raising it takes a privilege, and
/// would go past what the machine's owner has set. Allocates nothing.
fn lower_limit(resource: libc::__rlimit_resource_t, max: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    limit.rlim_max = limit.rlim_max.min(max);
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: setrlimit reads one rlimit.
    check(unsafe { libc::setrlimit(resource, &raw const limit) }).map(drop)
}

// ---- What the kernel lets a process give up -----------------------------------------------------------------------

/// The version of Landlock that the kernel has; 0 where it has none or it is switched off (landlock(7)).
pub fn landlock_version() -> u32 {
    const VERSION_ONLY: u32 = 1;
    // SAFETY: with this flag the kernel reads nothing.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, VERSION_ONLY) };
    version.max(0) as u32
}

/// Rights of Landlock: numbers from linux/landlock.h.
mod landlock {
    pub const WRITE_FILE: u64 = 1 << 1;
    pub const READ_FILE: u64 = 1 << 2;
    pub const REMOVE_FILE: u64 = 1 << 5;
    pub const MAKE_FILE: u64 = 1 << 8;
    pub const TRUNCATE: u64 = 1 << 14;
    /// Link and rename from folder to folder. Since version 2; who does not mention it forbids it.
    pub const REFER: u64 = 1 << 13;
    /// Remove, make and rename, in a folder: bits 4 (REMOVE_DIR) to 13 (REFER).
    pub const IN_FOLDER: u64 = ((1 << 14) - 1) & !((1 << 4) - 1);
    pub const BIND_AND_CONNECT_TCP: u64 = 0b11;
    /// Abstract Unix sockets and signals stay within.
    pub const SCOPES: u64 = 0b11;
}

/// A Landlock ruleset: whoever is restricted by it reads what its user may, but writes, makes, removes and renames only
/// beneath `folders`, makes, writes and removes plain files in `flat_folder`, and writes to `files`; sends signals, and connects to abstract Unix sockets, only among its own; and
/// with `cut_network` neither binds nor connects TCP. `version` is [`landlock_version`]'s; what it lacks is left out:
/// truncation before 3, TCP before 4, signals before 6.
pub fn landlock_ruleset(
    version: u32,
    folders: &[BorrowedFd<'_>],
    flat_folder: Option<BorrowedFd<'_>>,
    files: &[BorrowedFd<'_>],
    cut_network: bool,
) -> io::Result<OwnedFd> {
    let refer = if version >= 2 { 0 } else { landlock::REFER };
    let truncate = if version >= 3 { landlock::TRUNCATE } else { 0 };
    let for_file = landlock::WRITE_FILE | truncate;
    let for_folder = (for_file | landlock::IN_FOLDER) & !refer;
    // struct landlock_ruleset_attr, of which older kernels know the beginning only.
    let attributes = [for_folder, if cut_network { landlock::BIND_AND_CONNECT_TCP } else { 0 }, landlock::SCOPES];
    let length = match version {
        0..=3 => 8,
        4..=5 => 16,
        _ => 24,
    };
    // SAFETY: the kernel reads `length` bytes, at most those of the array.
    let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, attributes.as_ptr(), length, 0u32) } as c_int;
    // SAFETY: checked, so the kernel has just given us this descriptor; it is close-on-exec.
    let ruleset = check(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })?;
    let for_flat_folder = for_file | landlock::REMOVE_FILE | landlock::MAKE_FILE;
    let folders = folders.iter().map(|folder| (*folder, for_folder));
    let flat_folder = flat_folder.map(|folder| (folder, for_flat_folder));
    for (object, rights) in folders.chain(flat_folder).chain(files.iter().map(|file| (*file, for_file))) {
        allow_beneath(&ruleset, object, rights)?;
    }
    Ok(ruleset)
}

/// A Landlock ruleset under which files can be opened for reading only beneath what [`allow_reading`] adds to it. Whether
/// they can be executed, or folders be listed, is not its business, nor whether files can be moved from folder to folder.
pub fn landlock_readable(version: u32) -> io::Result<OwnedFd> {
    let refer = if version >= 2 { landlock::REFER } else { 0 };
    let attributes = [landlock::READ_FILE | refer];
    // SAFETY: the kernel reads the eight bytes of the array.
    let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, attributes.as_ptr(), 8, 0u32) } as c_int;
    // SAFETY: checked, so the kernel has just given us this descriptor; it is close-on-exec.
    let ruleset = check(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })?;
    if refer != 0 {
        // landlock_ruleset() decides where a file may go. That it can be read there when it could not before, Landlock forbids.
        allow_beneath(&ruleset, refer_to(std::path::Path::new("/"), 0)?.as_fd(), refer)?;
    }
    Ok(ruleset)
}

/// See [`landlock_readable`]. A symbolic link is left out: what counts is where it leads.
pub fn allow_reading(ruleset: &OwnedFd, path: &std::path::Path) -> io::Result<()> {
    let object = refer_to(path, libc::O_NOFOLLOW)?;
    if object.metadata()?.is_symlink() {
        return Ok(());
    }
    allow_beneath(ruleset, object.as_fd(), landlock::READ_FILE)
}

/// A file or folder without any right to what is in it, which takes no rights and waits for nothing. `flags` are those of
/// open(2): with O_NOFOLLOW a symbolic link stands for itself, with O_DIRECTORY it must be a folder.
pub fn refer_to(path: &std::path::Path, flags: c_int) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | flags).open(path)
}

fn allow_beneath(ruleset: &OwnedFd, object: BorrowedFd<'_>, rights: u64) -> io::Result<()> {
    const PATH_BENEATH: c_int = 1;
    // struct landlock_path_beneath_attr is packed: the rights, then the descriptor.
    let mut rule = [0u8; 12];
    rule[..8].copy_from_slice(&rights.to_ne_bytes());
    rule[8..].copy_from_slice(&object.as_raw_fd().to_ne_bytes());
    let call = libc::SYS_landlock_add_rule;
    // SAFETY: the kernel reads the twelve bytes of the rule.
    let added = unsafe { libc::syscall(call, ruleset.as_raw_fd(), PATH_BENEATH, rule.as_ptr(), 0u32) };
    check(added as c_int).map(drop)
}

/// Whether [`SystemCalls`] can be restricted on this kind of machine.
pub const CAN_RESTRICT_SYSTEM_CALLS: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// What seccomp calls this machine: linux/audit.h.
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;
#[cfg(not(target_arch = "aarch64"))]
const AUDIT_ARCH: u32 = 0xc000_003e;

const fn instruction(code: u32, k: u32, jump_true: u8, jump_false: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: jump_true, jf: jump_false, k }
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
/// The second calling convention of x86_64 sets this bit in its numbers.
const X32_BIT: u32 = 0x4000_0000;

/// Calls that make what outlives its maker and belongs to no file system: memory, queues and keys that a function could
/// leave behind, or find from another function of the same user.
const LEAVING_CALLS: [c_long; 7] = [
    libc::SYS_shmget,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// Calls that change who may use a file, which Landlock does not look at (landlock(7), "Filesystem actions"). The numbers
/// above 450 are the same on all machines, and libc does not have them yet: fchmodat2, setxattrat, removexattrat,
/// file_setattr.
const PERMISSION_CALLS: &[c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    452,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    463,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    466,
    469,
];

/// What clone(2) must not be asked for: a process whose parent is not its maker, which could outlive its invocation, and
/// namespaces.
const CLONE_FORBIDDEN: c_int = libc::CLONE_PARENT
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// The system calls that a function may make, as a filter for seccomp(2). What it may not answers EPERM.
pub struct SystemCalls(Vec<libc::sock_filter>);

impl SystemCalls {
    /// Never: what leaves memory or keys behind, and calls by another machine's numbers, which would get around the filter.
    /// `cut_network` leaves Unix sockets only, `keep_permissions` forbids chmod and its like; both forbid io_uring, which
    /// does the same behind the filter's back.
    pub fn new(cut_network: bool, keep_permissions: bool) -> SystemCalls {
        if !CAN_RESTRICT_SYSTEM_CALLS {
            return SystemCalls(Vec::new());
        }
        let mut forbidden = LEAVING_CALLS.to_vec();
        if keep_permissions {
            forbidden.extend(PERMISSION_CALLS);
        }
        if keep_permissions || cut_network {
            forbidden.push(libc::SYS_io_uring_setup);
        }
        // Offsets are those of struct seccomp_data: 0 number, 4 machine, 16 first argument (its lower half; both machines
        // are little-endian). Jumps count the instructions that are left out.
        let refuse = instruction(RETURN, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0);
        let mut filter = vec![
            instruction(LOAD, 4, 0, 0),
            instruction(IF_EQUAL, AUDIT_ARCH, 1, 0),
            refuse,
            instruction(LOAD, 0, 0, 0),
            instruction(IF_AT_LEAST, X32_BIT, 0, 1),
            refuse,
        ];
        for call in forbidden {
            filter.extend([instruction(IF_EQUAL, call as u32, 0, 1), refuse]);
        }
        // A filter cannot look at clone3's flags, which lie in memory; C libraries that do not find it take clone.
        let not_there = instruction(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32, 0, 0);
        filter.extend([
            instruction(IF_EQUAL, libc::SYS_clone3 as u32, 0, 1),
            not_there,
            instruction(IF_EQUAL, libc::SYS_clone as u32, 0, 4),
            instruction(LOAD, 16, 0, 0),
            instruction(IF_ANY_BIT, CLONE_FORBIDDEN as u32, 0, 1),
            refuse,
            instruction(LOAD, 0, 0, 0),
        ]);
        if cut_network {
            filter.extend([
                instruction(IF_EQUAL, libc::SYS_socket as u32, 0, 3),
                instruction(LOAD, 16, 0, 0),
                instruction(IF_EQUAL, libc::AF_UNIX as u32, 1, 0),
                refuse,
            ]);
        }
        filter.push(instruction(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
        SystemCalls(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn run(program: &CStr, arguments: &[&str]) -> std::result::Result<(String, Ended), SpawnError> {
        let null = File::open("/dev/null").unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let arguments: Vec<CString> = arguments.iter().map(|text| CString::new(*text).unwrap()).collect();
        let spawned = spawn(&Spawn {
            program,
            arguments: &arguments,
            environment: b"A=b\0",
            folder: Some(c"/"),
            stdin: null.as_fd(),
            stdout: writer.as_fd(),
            stderr: writer.as_fd(),
            control: None,
            confinement: Some(Confinement {
                program_file: None,
                data_bytes_max: 64 << 20,
                open_files_max: 32,
                processes_max: None,
                user: None,
                landlock: [None, None],
                system_calls: &SystemCalls::new(false, false),
                collects_orphans: true,
            }),
        })?;
        drop(writer);
        let mut output = String::new();
        reader.read_to_string(&mut output).unwrap();
        poll(&mut [Watched::read(spawned.pidfd.as_fd())], None).unwrap();
        Ok((output, reap(spawned.pid).unwrap().unwrap()))
    }

    #[test]
    fn a_spawned_process_has_its_session_environment_folder_limits_and_no_other_descriptor() {
        let script = "echo $A $(pwd) $(ulimit -d) $(ulimit -n); ls /proc/self/fd | wc -l; \
                      [ $(cut -d' ' -f6 /proc/$$/stat) = $$ ] && echo session; exit 7";
        let (output, ended) = run(c"/bin/sh", &["sh", "-c", script]).unwrap();
        // ls itself holds 0, 1, 2 and the folder it lists.
        assert_eq!(output, "b / 65536 32\n4\nsession\n");
        assert_eq!(ended.how, EndedHow::Exited(7));
    }

    #[test]
    fn a_failed_exec_names_the_step_and_the_cause() {
        let error = run(c"/no/such/program", &["x"]).unwrap_err();
        assert_eq!((error.step, error.cause.kind()), ("execute", io::ErrorKind::NotFound));
    }

    #[test]
    fn a_descriptor_travels_with_its_bytes() {
        let (left, right) = UnixStream::pair().unwrap();
        let (mut reader, mut writer) = io::pipe().unwrap();
        assert_eq!(send_with_fds(left.as_fd(), b"with", &[reader.as_fd()]).unwrap(), 4);
        let mut buffer = [0; 16];
        let (count, fd) = receive_with_fd(right.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"with");
        writer.write_all(b"through").unwrap();
        drop((writer, std::mem::replace(&mut reader, io::pipe().unwrap().0)));
        let mut text = String::new();
        File::from(fd.unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        send_with_fds(left.as_fd(), b"bare", &[]).unwrap();
        assert!(receive_with_fd(right.as_fd(), &mut buffer).unwrap().1.is_none());
    }

    #[test]
    fn a_byte_lock_names_its_holder_to_others_only() {
        let path = std::env::temp_dir().join(format!("faas-lock-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        assert!(try_lock(&file, 3).unwrap());
        assert_eq!(lock_holder(&file, 3).unwrap(), None);
        std::fs::remove_file(path).unwrap();
    }
}
