//! Notices a fork bomb by the machine's number of threads, and keeps this worker running while it goes off.
//!
//! A bomb has thousands of processes that are ready to run, and each gets as much of a processor as a thread of the
//! worker. It would take seconds until an invocation's thread wakes to count them, and minutes until it has killed
//! them. So one thread, which does next to nothing, watches the number of threads on this machine, and runs before all
//! of ordinary priority, if this user may do that (root with CAP_SYS_NICE may). While that number is far above the usual
//! one, no look at an invocation is put off for its cost (sampler.rs), and all threads of this worker get the same
//! priority.

use std::fs;
use std::time::{Duration, Instant};

use super::Worker;
use crate::limits::FUNCTION_PROCESSES_MAX;
use crate::log;
use crate::sys::{self, Pid, Urgency};

/// A bomb makes some 500 processes in this time.
const LOOK_PERIOD: Duration = Duration::from_millis(20);
/// The guard rests after this many looks without a running invocation, until the next one begins.
const LOOKS_TO_REST: usize = 50;
/// The usual number rises by at most this much per look: 300 in a second.
const STEP: u16 = 6;

/// The thread's life.
pub(super) fn watch(worker: &Worker) {
    let urgency = Urgency::try_begin();
    let (mut usual, mut idle_looks) = (sys::threads_on_machine(), 0);
    // During an alarm: its begin, and by how many threads the machine has had more than usual.
    let mut alarmed: Option<(Instant, u16)> = None;
    loop {
        idle_looks = if worker.load().0 > 0 || sys::is_alarmed() { 0 } else { idle_looks + 1 };
        if idle_looks > LOOKS_TO_REST {
            worker.wait_for_an_invocation();
            (usual, idle_looks) = (sys::threads_on_machine(), 0);
        }
        std::thread::sleep(LOOK_PERIOD);
        let now = sys::threads_on_machine();
        usual = if now < usual { now } else { usual.saturating_add(STEP).min(now) };
        let has_jumped = usize::from(now - usual) > FUNCTION_PROCESSES_MAX;
        set_alarm(worker, has_jumped);
        if urgency.is_none() {
            continue;
        }
        // Repeated once after the alarm ends, for a thread that was just about to join.
        if has_jumped || alarmed.is_some() {
            set_all_urgent(has_jumped);
        }
        if has_jumped {
            let (began, most) = alarmed.unwrap_or((Instant::now(), 0));
            alarmed = Some((began, most.max(now - usual)));
        } else if let Some((began, most)) = alarmed.take() {
            // Only now: during the alarm this thread could wait for seconds until another process, which holds the lock
            // of the log's file, gets its turn.
            let ms = began.elapsed().as_millis();
            log!(
                "worker {}: ran before all else for {ms} ms: the machine had {most} threads more than usual",
                worker.id
            );
        }
    }
}

fn set_alarm(worker: &Worker, is_on: bool) {
    if is_on {
        sys::alarm(true);
        worker.alarm.signal();
    } else if sys::is_alarmed() {
        // In this order: otherwise a sampler could find the alarm off and the descriptor still readable, and look without
        // a pause.
        worker.alarm.clear();
        sys::alarm(false);
    }
}

/// All threads but the calling one.
fn set_all_urgent(is_urgent: bool) {
    let own = sys::own_thread();
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let threads = threads.filter_map(|entry| entry.file_name().to_str()?.parse::<Pid>().ok());
    threads.filter(|thread| *thread != own).for_each(|thread| sys::set_urgent(thread, is_urgent));
}
