//! Resource limits (setrlimit(2)), the units in which /proc counts, and real-time priority.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::check;
use super::process::Pid;

/// Set while all threads of this process are to be urgent ([`alarm`]).
static ALARM: AtomicBool = AtomicBool::new(false);

/// While it lives, its thread runs before all threads of ordinary priority, if the user may do that (root with
/// CAP_SYS_NICE may). For short work that must not wait for a share of the processor: a fork bomb grows faster than a
/// share of it can be killed.
pub struct Urgency(());

impl Urgency {
    pub fn begin() -> Urgency {
        set_urgent(0, true);
        Urgency(())
    }

    /// True if this user may raise a thread's priority.
    pub fn is_allowed() -> bool {
        Urgency::try_begin().is_some()
    }

    /// `None` if this user may not raise a thread's priority.
    pub fn try_begin() -> Option<Urgency> {
        set_urgent(0, true);
        // SAFETY: sched_getscheduler takes an integer; 0 is the calling thread.
        let policy = unsafe { libc::sched_getscheduler(0) };
        (policy & !libc::SCHED_RESET_ON_FORK == libc::SCHED_RR).then_some(Urgency(()))
    }
}

impl Drop for Urgency {
    fn drop(&mut self) {
        set_urgent(0, ALARM.load(Ordering::Relaxed));
    }
}

/// Sets the alarm. While it is on, urgent threads stay so, and [`join_alarm`] makes others urgent.
pub fn alarm(is_on: bool) {
    ALARM.store(is_on, Ordering::Relaxed);
}

/// True while the alarm is on.
pub fn is_alarmed() -> bool {
    ALARM.load(Ordering::Relaxed)
}

/// Makes the calling thread urgent while the alarm is on.
pub fn join_alarm() {
    if ALARM.load(Ordering::Relaxed) {
        set_urgent(0, true);
    }
}

/// Lets a process that is about to be killed run before all of ordinary priority, if the user may do that. To die, it
/// needs a turn at a processor, and a fork bomb takes thousands of turns between two of its own. Its children do not
/// inherit the priority.
pub fn hasten_end(pid: Pid) {
    set_urgent(pid, true);
}

/// The calling thread's id.
pub fn own_thread() -> Pid {
    // SAFETY: gettid takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

/// Threads of all processes on this machine; above 65,535 it begins at zero again (sysinfo(2)).
pub fn threads_on_machine() -> u16 {
    // SAFETY: a sysinfo is integers, for which all-zero is valid.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one sysinfo.
    unsafe { libc::sysinfo(&raw mut info) };
    info.procs
}

/// Has a thread run before all threads of ordinary priority, or no longer; 0 is the calling one. Its children have
/// ordinary priority. If this user may not do that, nothing changes.
pub fn set_urgent(thread: Pid, is_urgent: bool) {
    let (policy, priority) =
        if is_urgent { (libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, 1) } else { (libc::SCHED_OTHER, 0) };
    // SAFETY: a sched_param is integers, for which all-zero is valid.
    let mut parameter: libc::sched_param = unsafe { std::mem::zeroed() };
    parameter.sched_priority = priority;
    // SAFETY: the kernel reads one sched_param.
    unsafe { libc::sched_setscheduler(thread, policy, &raw const parameter) };
}

/// Has the calling thread, and processes that it starts, give way to others of ordinary priority (setpriority(2)). On
/// Linux a nice value belongs to a thread. Lasts until the thread's end.
pub fn lower_priority() {
    const NICE: i32 = 10;
    // SAFETY: setpriority takes integers; 0 is the calling thread. Anybody may raise a nice value.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

/// Raises this process's limit of open files to the hard limit; returns it.
pub fn raise_open_files_limit() -> io::Result<u64> {
    let mut limit = limit_of(libc::RLIMIT_NOFILE)?;
    limit.rlim_cur = limit.rlim_max;
    set_limit(libc::RLIMIT_NOFILE, &limit)?;
    Ok(limit.rlim_cur)
}

/// CPU time of the calling thread.
pub fn own_thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec. Every thread has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// If the address space is limited (RLIMIT_AS), makes all threads of the allocator share few arenas. Otherwise it
/// reserves 64 MiB of addresses for each of eight arenas a processor, and aborts when none are left. Call it first.
pub fn fit_address_space() {
    #[cfg(target_env = "gnu")]
    if limit_of(libc::RLIMIT_AS).is_ok_and(|limit| limit.rlim_cur != libc::RLIM_INFINITY) {
        // SAFETY: mallopt takes two integers.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
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

/// Lowers a limit of this process for good. A limit that is lower already stays: raising it takes a privilege, and
/// would exceed the limit that the machine's owner has set. Allocates nothing, so that it can run between vfork and
/// exec.
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
