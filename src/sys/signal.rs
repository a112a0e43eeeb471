//! Signal sets and masks. A program here has no signal handler: main blocks SIGTERM and SIGINT before it starts a thread,
//! and one thread waits for them.

use std::time::{Duration, Instant};

use super::check;

/// Blocks SIGTERM and SIGINT in this thread and in all that it starts, so that [`wait_for_ending_signal`] gets them.
/// main calls it first.
pub fn block_ending_signals() {
    let set = ending_signals();
    // SAFETY: pthread_sigmask reads an initialised set; a null pointer asks for no old mask.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Waits for SIGTERM or SIGINT and returns its name.
pub fn wait_for_ending_signal() -> &'static str {
    let set = ending_signals();
    let mut signal = 0;
    loop {
        // SAFETY: sigwait reads an initialised set and writes one integer.
        if unsafe { libc::sigwait(&raw const set, &raw mut signal) } == 0 {
            return if signal == libc::SIGINT { "SIGINT" } else { "SIGTERM" };
        }
    }
}

/// The same for at most `timeout`: `None` where neither came.
pub fn wait_for_ending_signal_within(timeout: Duration) -> Option<&'static str> {
    let set = ending_signals();
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = libc::timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() };
        // SAFETY: sigtimedwait reads an initialised set and a timespec; a null pointer asks for no more than the number.
        match check(unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const left) }) {
            Ok(libc::SIGINT) => return Some("SIGINT"),
            Ok(_) => return Some("SIGTERM"),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// SIGTERM and SIGINT, which end a program in order.
fn ending_signals() -> libc::sigset_t {
    let mut set = no_signals();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the set is initialised.
        let added = check(unsafe { libc::sigaddset(&raw mut set, signal) });
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
