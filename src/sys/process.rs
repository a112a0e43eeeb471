//! Processes by pidfd and by id: open, kill, wait.
//!
//! The kernel can reuse a process id once the process has been reaped; a pidfd never names another process. Functions
//! that take an id therefore state a condition, and the callers keep it: a child's id is free for reuse only after
//! [`reap`].

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::check;

/// A process id.
pub type Pid = libc::pid_t;

/// The end of a process, and its usage (getrusage(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub how: EndedHow,
    /// User and system time, its own and that of children that it has waited for.
    pub cpu_us: u64,
    /// The most memory that it, or one of those children, ever had resident.
    pub resident_kib_max: u64,
}

/// An exit code, or the number of the signal that killed the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedHow {
    Exited(i32),
    Signaled(i32),
}

/// This process's effective user id.
pub fn own_uid() -> u32 {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// This process's effective group id.
pub fn own_gid() -> u32 {
    // SAFETY: getegid takes nothing and cannot fail.
    unsafe { libc::getegid() }
}

/// Makes orphans among this process's descendants its children, instead of init's (prctl(2)).
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: this prctl takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
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

/// Opens a process for waiting and signalling.
pub fn open_process(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as c_int)?;
    // SAFETY: pidfd_open has just returned this descriptor, so it is open and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends SIGKILL to the process behind a pidfd. A process that has ended already is no error.
pub fn kill_process(pidfd: BorrowedFd<'_>) {
    send_signal(pidfd, libc::SIGKILL, 0);
}

/// Sends SIGSTOP to the process behind a pidfd.
pub fn stop_process(pidfd: BorrowedFd<'_>) {
    send_signal(pidfd, libc::SIGSTOP, 0);
}

/// Sends SIGCONT to the process behind a pidfd.
pub fn continue_process(pidfd: BorrowedFd<'_>) {
    send_signal(pidfd, libc::SIGCONT, 0);
}

/// Sends SIGHUP to the process behind a pidfd.
pub fn hang_up_process(pidfd: BorrowedFd<'_>) {
    send_signal(pidfd, libc::SIGHUP, 0);
}

fn send_signal(pidfd: BorrowedFd<'_>, signal: c_int, flags: c_int) {
    let (call, no_info) = (libc::SYS_pidfd_send_signal, std::ptr::null::<c_void>());
    // SAFETY: pidfd_send_signal takes integers and a siginfo that may be null.
    unsafe { libc::syscall(call, pidfd.as_raw_fd(), signal, no_info, flags) };
}

/// Sends SIGKILL to the process group that the process behind a pidfd leads. Before Linux 6.9 it does nothing
/// (pidfd_send_signal(2)).
pub fn kill_group_of(pidfd: BorrowedFd<'_>) {
    const PROCESS_GROUP: c_int = 1 << 2;
    send_signal(pidfd, libc::SIGKILL, PROCESS_GROUP);
}

/// Sends SIGKILL to a child that has not been reaped, so that its id still names it.
pub fn kill_child(pid: Pid) {
    debug_assert!(pid > 0);
    // SAFETY: kill takes two integers.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Sends SIGKILL to a process group whose leader or member is a child that has not been reaped.
pub fn kill_group(group: Pid) {
    debug_assert!(group > 1);
    // SAFETY: kill takes two integers; a number below -1 names one group.
    unsafe { libc::kill(-group, libc::SIGKILL) };
}

/// The process group of `pid`.
pub fn group_of(pid: Pid) -> io::Result<Pid> {
    // SAFETY: getpgid takes an integer.
    check(unsafe { libc::getpgid(pid) })
}

/// Reaps a child that has ended; `None` while it still runs.
pub fn reap(pid: Pid) -> io::Result<Option<Ended>> {
    let mut status = 0;
    // SAFETY: a rusage is integers, for which all-zero is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: wait4 writes one integer and one rusage.
    if check(unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage) })? == 0 {
        return Ok(None);
    }
    let how = EndedHow::from_wait_status(status);
    let microseconds = |time: libc::timeval| (time.tv_sec * 1_000_000 + time.tv_usec).max(0) as u64;
    let cpu_us = microseconds(usage.ru_utime) + microseconds(usage.ru_stime);
    Ok(Some(Ended { how, cpu_us, resident_kib_max: usage.ru_maxrss.max(0) as u64 }))
}

/// CPU time of a process and all its threads, without its children; zero after it has been waited for. Unlike a read of
/// /proc it costs one system call, and unlike clock ticks it is exact.
pub fn cpu_time(pid: Pid) -> Duration {
    const CPUCLOCK_SCHED: libc::clockid_t = 2;
    // The number of a process's CPU clock, as clock_getcpuclockid(3) composes it.
    let clock = (!pid << 3) | CPUCLOCK_SCHED;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec.
    match check(unsafe { libc::clock_gettime(clock, &raw mut time) }) {
        Ok(_) => Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec.max(0) as u32),
        Err(_) => Duration::ZERO,
    }
}

/// False once a process or thread has been waited for, or if there never was one.
pub fn is_there(pid: Pid) -> bool {
    // SAFETY: kill takes two integers; 0 is no signal.
    let asked = check(unsafe { libc::kill(pid, 0) });
    !asked.is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
}

/// True once a child has ended. The child stays to be reaped.
pub fn has_ended(pid: Pid) -> io::Result<bool> {
    // SAFETY: a siginfo_t is integers and pointers, for which all-zero is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: waitid writes one siginfo_t.
    check(unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, &raw mut info, options) })?;
    // waitid leaves the pid zero while the child runs.
    // SAFETY: waitid fills the SIGCHLD part of the union, or leaves it zero.
    Ok(unsafe { info.si_pid() } == pid)
}
