//! Signal sets and masks. A program here has no signal handler: main blocks the signals that it takes before it starts
//! a thread, and one thread waits for them.

use std::ffi::c_int;
use std::fmt;

use super::check;

/// The signals that a program here takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Hangup = libc::SIGHUP as isize,
    Interrupt = libc::SIGINT as isize,
    Terminate = libc::SIGTERM as isize,
}

impl Signal {
    pub const ALL: [Signal; 3] = [Signal::Hangup, Signal::Interrupt, Signal::Terminate];
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Hangup => "SIGHUP",
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
        })
    }
}

/// Blocks signals in this thread and in all that it starts, so that [`wait_for_signal`] gets them. main calls it first.
pub fn block_signals(signals: &[Signal]) {
    let set = set_of(signals);
    // SAFETY: pthread_sigmask reads an initialised set; a null pointer asks for no old mask.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Waits for one of these signals, which must be blocked.
pub fn wait_for_signal(signals: &[Signal]) -> Signal {
    let set = set_of(signals);
    let mut number: c_int = 0;
    loop {
        // SAFETY: sigwait reads an initialised set and writes one integer.
        if unsafe { libc::sigwait(&raw const set, &raw mut number) } == 0
            && let Some(signal) = signals.iter().find(|signal| **signal as c_int == number)
        {
            return *signal;
        }
    }
}

/// The name of a signal that ends a process; "a signal without a name" for a real-time signal (signal(7)).
pub fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL, an illegal instruction",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT, it aborted",
        libc::SIGBUS => "SIGBUS, a bad memory access",
        libc::SIGFPE => "SIGFPE, an arithmetic error",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV, a bad memory access",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU, too much CPU time",
        libc::SIGXFSZ => "SIGXFSZ, too large a file",
        libc::SIGSYS => "SIGSYS, a forbidden system call",
        _ => "a signal without a name",
    }
}

fn set_of(signals: &[Signal]) -> libc::sigset_t {
    let mut set = no_signals();
    for signal in signals {
        // SAFETY: the set is initialised.
        let added = check(unsafe { libc::sigaddset(&raw mut set, *signal as c_int) });
        debug_assert!(added.is_ok(), "the number is a signal's");
    }
    set
}

pub(super) fn no_signals() -> libc::sigset_t {
    // SAFETY: a sigset_t is an array of integers, for which all-zero is valid.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: sigemptyset writes one set.
    unsafe { libc::sigemptyset(&raw mut set) };
    set
}

pub(super) fn all_signals() -> libc::sigset_t {
    let mut set = no_signals();
    // SAFETY: sigfillset writes one set.
    unsafe { libc::sigfillset(&raw mut set) };
    set
}

/// Replaces the calling thread's mask of blocked signals and returns the old one. Allocates nothing.
pub(super) fn set_mask(blocked: &libc::sigset_t) -> libc::sigset_t {
    let mut previous = no_signals();
    // SAFETY: pthread_sigmask reads one initialised set and writes another.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, blocked, &raw mut previous) };
    previous
}
