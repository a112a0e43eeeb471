//! Resource limits (setrlimit(2)), the units in which /proc counts, and real-time priority.

use std::ffi::c_int;
use std::io;

use super::check;

/// While it lives, its thread runs before all threads of ordinary priority, if the user may (root may). For short work
/// that must not wait for a share of the processor: a fork bomb grows faster than a share of it can be killed.
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

/// Sets the calling thread's scheduling policy. Where that fails, the old policy stays.
fn set_scheduler(policy: c_int, priority: c_int) {
    // SAFETY: a sched_param is integers, for which all-zero is valid.
    let mut parameter: libc::sched_param = unsafe { std::mem::zeroed() };
    parameter.sched_priority = priority;
    // SAFETY: the kernel reads one sched_param; 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) };
}

/// Raises this process's limit of open files to the hard limit; returns it.
pub fn raise_open_files_limit() -> io::Result<u64> {
    let mut limit = limit_of(libc::RLIMIT_NOFILE)?;
    limit.rlim_cur = limit.rlim_max;
    set_limit(libc::RLIMIT_NOFILE, &limit)?;
    Ok(limit.rlim_cur)
}

/// Number of files that this process may have open.
pub fn open_files_limit() -> u64 {
    limit_of(libc::RLIMIT_NOFILE).map_or(0, |limit| limit.rlim_cur)
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

/// Lowers a limit of this process for good. A limit that is lower already stays: raising it takes a privilege, and would
/// exceed what the machine's owner has set. Allocates nothing, so that it can run between vfork and exec.
pub(super) fn lower_limit(resource: libc::__rlimit_resource_t, max: u64) -> io::Result<()> {
    let mut limit = limit_of(resource)?;
    limit.rlim_max = limit.rlim_max.min(max);
    limit.rlim_cur = limit.rlim_max;
    set_limit(resource, &limit)
}

fn limit_of(resource: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    Ok(limit)
}

fn set_limit(resource: libc::__rlimit_resource_t, limit: &libc::rlimit) -> io::Result<()> {
    // SAFETY: setrlimit reads one rlimit.
    check(unsafe { libc::setrlimit(resource, limit) }).map(drop)
}
