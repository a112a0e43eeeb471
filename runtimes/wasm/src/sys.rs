//! The only file with `unsafe`: calls that neither the standard library nor rustix offers behind a safe function.
//!
//! Each function takes and returns owned or borrowed descriptors, and names the fact that makes its unsafe call sound.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Pid;
use wasmtime::{Engine, Module};

/// Number of the fork server's control socket.
const CONTROL: RawFd = 3;

/// Takes the control socket. `None` if no such descriptor is open, and at every call but the first.
pub fn take_control() -> Option<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    // SAFETY: F_GETFD reads a flag of a number that need not be a descriptor.
    let is_open = unsafe { libc::fcntl(CONTROL, libc::F_GETFD) } >= 0;
    if !is_open || TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    // SAFETY: it is open; the parent opened it, so no value here owns it; and the swap lets only one call pass.
    Some(unsafe { OwnedFd::from_raw_fd(CONTROL) })
}

/// The side of a fork that the caller is on.
pub enum Forked {
    /// With the child's id and pidfd.
    Server(Pid, OwnedFd),
    Child,
}

/// Forks.
///
/// Must be called with one thread only: another one could hold a lock, malloc's for instance, that no thread would ever
/// release in the child. Not fork(3), which would write to a dozen more pages, each of which then has to be copied. Not
/// clone3(2), which the worker's filter forbids.
pub fn fork() -> io::Result<Forked> {
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: without CLONE_VM the child has a copy of everything, its stack too, and goes on where we do; the kernel
    // writes one integer, the pidfd, in the parent.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
    check(pid)?;
    Ok(match Pid::from_raw(pid as i32) {
        // SAFETY: the kernel has just given us this descriptor, close-on-exec.
        Some(child) => Forked::Server(child, unsafe { OwnedFd::from_raw_fd(pidfd) }),
        None => Forked::Child,
    })
}

/// The set that has SIGCHLD alone.
fn ended_signal() -> libc::sigset_t {
    // SAFETY: sigemptyset makes a valid set of the zeroed one, and sigaddset adds to it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        set
    }
}

/// A descriptor that is readable once a child has ended. The signal itself is no longer delivered.
pub fn ended_children() -> io::Result<OwnedFd> {
    let set = ended_signal();
    // SAFETY: sigprocmask reads the set.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) }.into())?;
    // SAFETY: signalfd reads the set and makes a descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    check(fd.into())?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Unblocks the signals that [`ended_children`] has blocked.
pub fn unblock_signals() -> io::Result<()> {
    let set = ended_signal();
    // SAFETY: sigprocmask reads the set.
    check(unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) }.into())
}

/// A child that has ended.
pub struct Ended {
    pub pid: Pid,
    /// The wait status of wait(2).
    pub status: i32,
    pub user_us: u64,
    pub system_us: u64,
    pub resident_kib_max: u64,
}

/// Reaps a child that has ended, if any.
pub fn reap() -> Option<Ended> {
    let mut status = 0;
    // SAFETY: all-zero is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one integer and one rusage.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) };
    let pid = Pid::from_raw(pid.max(0))?;
    Some(Ended {
        pid,
        status,
        user_us: microseconds(usage.ru_utime),
        system_us: microseconds(usage.ru_stime),
        resident_kib_max: usage.ru_maxrss as u64,
    })
}

/// The usage of this process: user and system time in microseconds, peak of resident memory in KiB. A module has no
/// children.
pub fn own_usage() -> [u64; 3] {
    // SAFETY: all-zero is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one rusage.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    [microseconds(usage.ru_utime), microseconds(usage.ru_stime), usage.ru_maxrss as u64]
}

fn microseconds(time: libc::timeval) -> u64 {
    time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64
}

/// Closes all descriptors except 0, 1, 2 and `kept`, which are sorted. For a child that neither uses nor drops their
/// owners.
pub fn close_all_but(kept: &[RawFd]) {
    let mut first = 3;
    for next in kept.iter().copied().chain([RawFd::MAX]) {
        if first < next {
            // SAFETY: their owners are values of the fork server, which this process, its child, never uses again.
            unsafe { libc::syscall(libc::SYS_close_range, first, next - 1, 0) };
        }
        first = next.saturating_add(1);
    }
}

/// The bytes that `ps` and `top` read as a process's title: its initial arguments and environment.
pub struct Title {
    start: usize,
    /// Length of the arguments alone: if the last of these bytes is not NUL, the title continues to the next NUL.
    arguments_len: usize,
    len: usize,
}

impl Title {
    /// Takes the bytes. From now on the process has no environment; its arguments must have been read.
    pub fn take() -> Option<Title> {
        // Fields 48 to 51 of proc(5): the ends of arguments and environment, which lie side by side. The second, the
        // program's name in parentheses, can hold anything.
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let mut fields = stat.rsplit(')').next()?.split_ascii_whitespace().skip(45).map(|field| field.parse().ok());
        let (start, arguments_end, _, end) = (fields.next()??, fields.next()??, fields.next()?, fields.next()??);
        // SAFETY: with one thread, nothing else is reading the environment.
        unsafe { libc::clearenv() };
        let len = usize::checked_sub(end, start).filter(|len| *len > 1)?;
        Some(Title { start, arguments_len: usize::checked_sub(arguments_end, start)?.min(len), len })
    }

    /// Sets the title, cut off at the end of the room.
    pub fn set(&self, title: &[u8]) {
        let count = title.len().min(self.len - 1);
        // SAFETY: the kernel has put the strings there, on the stack, writable, and nothing refers to them any more.
        unsafe {
            let place = std::slice::from_raw_parts_mut(self.start as *mut u8, self.len);
            place[..count].copy_from_slice(&title[..count]);
            place[count..self.arguments_len.max(count + 1)].fill(0);
        }
    }
}

/// Makes SIGPROF end this process when it has used that much more processor time, in ms; 0 switches that off.
pub fn limit_cpu_time(ms: u32) {
    let seconds = libc::timeval { tv_sec: (ms / 1000).into(), tv_usec: (ms % 1000 * 1000).into() };
    let timer = libc::itimerval { it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 }, it_value: seconds };
    // SAFETY: setitimer reads one itimerval.
    unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, std::ptr::null_mut()) };
}

/// seccomp's number of this machine: linux/audit.h.
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// Leaves this process only Unix sockets, for good. The fork server's own filter also applies: it denies io_uring and
/// calls by other machines' numbers.
pub fn cut_network() -> io::Result<()> {
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |at: u32| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0);
    // A jump counts the instructions to skip.
    let unless = |k: u32, jump: u8| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k, 0, jump);
    let answer = |k: u32| step(libc::BPF_RET | libc::BPF_K, k, 0, 0);
    // Offsets are those of struct seccomp_data: 0 number, 4 machine, 16 first argument (its lower half).
    let filter = [
        load(4),
        unless(AUDIT_ARCH, 5),
        load(0),
        unless(libc::SYS_socket as u32, 2),
        load(16),
        unless(libc::AF_UNIX as u32, 1),
        answer(libc::SECCOMP_RET_ALLOW),
        answer(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel reads the program and its instructions, which outlive the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) })
}

/// Puts this process under a Landlock ruleset, for good.
pub fn restrict_by(ruleset: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: it takes a descriptor that is open as long as it is borrowed, and no pointer.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })
}

/// Ends the process at once: no destructors, no handlers.
pub fn end(status: u8) -> ! {
    // SAFETY: _exit(2) has no requirements.
    unsafe { libc::_exit(status.into()) }
}

/// Maps a compiled module.
///
/// # Errors
/// If it is no artifact, or was made by another version or for another processor.
pub fn map_module(engine: &Engine, artifact: File) -> wasmtime::Result<Module> {
    // SAFETY: an artifact is machine code, and is trusted as the program itself is: the caller has seen that only the
    // worker's user may write to it, and the worker replaces artifacts by rename, so that a mapped one never changes.
    unsafe { Module::deserialize_open_file(engine, artifact) }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_cut_network_leaves_unix_sockets() {
        // A filter applies to its thread alone.
        let cut = || {
            // SAFETY: it changes an attribute of this thread and takes no pointer.
            assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
            super::cut_network().unwrap();
            UnixDatagram::unbound().unwrap();
            UdpSocket::bind("127.0.0.1:0").map(drop).map_err(|error| error.raw_os_error())
        };
        assert_eq!(std::thread::spawn(cut).join().unwrap(), Err(Some(libc::EPERM)));
        UdpSocket::bind("127.0.0.1:0").unwrap();
    }
}
