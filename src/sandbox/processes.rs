//! The number of processes and threads that functions may have in all: RLIMIT_NPROC, which the kernel counts by user.
//!
//! Functions with a user of their own have a constant limit, with room for all of them. If the worker cannot run ahead of
//! a fork bomb, that is too much room, and they have a count each, in user namespaces (namespaces.rs). So have functions
//! that share the gateway's user. Where this machine allows no namespaces, those share the count with all that this user
//! runs: a desktop, an editor, the gateway's thread for each connection. Their limit then is what runs beside functions
//! when they start, and room for one of them on top. A limit from the worker's start would be used up by 320 clients that
//! connect, and no function could start a process any more.
//!
//! To count costs milliseconds, so a count serves until the number of threads on the machine, which the kernel keeps, has
//! changed by a part of that room.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::User;
use super::namespaces::Namespaces;
use crate::limits::{BOMB_PROCESSES_MAX, FORK_SERVERS_PER_WORKER, FUNCTION_PROCESSES_MAX, INVOCATION_PROCESSES_MAX};
use crate::procfs;
use crate::settings::Settings;
use crate::sys::{self, Pid};

/// A count is used again while the threads on the machine differ by no more than this from those at its time.
const CHANGE_MAX: u16 = 100;
/// It is not used for longer: one user's threads may come while another's go.
const COUNT_AGE_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub enum ProcessesMax {
    /// Root is exempt from such a limit.
    None,
    Fixed(u64),
    /// Each invocation runs in a user namespace of its own.
    Each(Namespaces),
    /// Functions run as our own user, and share one count.
    Shared {
        room: u64,
        /// Whose functions do not count.
        gateway: Pid,
        /// Guards the last count; held to read or write it.
        last: Mutex<Option<Count>>,
    },
}

/// The threads of our user beside functions.
#[derive(Debug, Clone, Copy)]
pub struct Count {
    threads: u64,
    /// Threads on the machine at that time.
    on_machine: u16,
    at: Instant,
}

impl ProcessesMax {
    /// There is room for one function at its limit per slot, for a bomb among them, and for the fork servers and their
    /// waiting children; where the user is shared, for one function only.
    pub fn new(settings: &Settings, user: Option<&User>, gateway: Pid, namespaces: Option<Namespaces>) -> ProcessesMax {
        let slots = u64::from(settings.workers) * u64::from(settings.worker_slots);
        let servers = u64::from(settings.workers) * FORK_SERVERS_PER_WORKER;
        let waiting = if settings.has_fork_servers { servers + FORK_SERVERS_PER_WORKER * slots } else { 0 };
        if let Some(namespaces) = namespaces {
            return ProcessesMax::Each(namespaces);
        }
        match (user, sys::own_uid()) {
            (Some(_), _) => ProcessesMax::Fixed(slots * FUNCTION_PROCESSES_MAX as u64 + BOMB_PROCESSES_MAX + waiting),
            (None, 0) => ProcessesMax::None,
            (None, _) => {
                ProcessesMax::Shared { room: INVOCATION_PROCESSES_MAX + waiting, gateway, last: Mutex::default() }
            }
        }
    }

    /// The limit for a function that starts now; `None` where it has none.
    pub fn now(&self) -> Option<u64> {
        match self {
            ProcessesMax::None => None,
            ProcessesMax::Fixed(max) => Some(*max),
            ProcessesMax::Each(_) => Some(INVOCATION_PROCESSES_MAX),
            ProcessesMax::Shared { room, gateway, last } => Some(room + threads_beside_functions(*gateway, last)),
        }
    }

    /// True if it keeps a fork bomb so small that a worker ends it also without running ahead of it.
    pub fn holds_a_bomb(&self) -> bool {
        matches!(self, ProcessesMax::Each(_) | ProcessesMax::Shared { .. })
    }

    /// The limit for a fork server, which its children inherit and cannot raise.
    pub fn of_fork_server(&self) -> Option<u64> {
        match self {
            ProcessesMax::Fixed(max) => Some(*max),
            ProcessesMax::None | ProcessesMax::Each(_) | ProcessesMax::Shared { .. } => None,
        }
    }
}

/// The threads of our user beside functions; counts them where `last` may no longer be true.
fn threads_beside_functions(gateway: Pid, last: &Mutex<Option<Count>>) -> u64 {
    let on_machine = sys::threads_on_machine();
    let is_recent = |count: &Count| {
        // The number begins at zero again.
        let change = on_machine.wrapping_sub(count.on_machine).cast_signed().unsigned_abs();
        change <= CHANGE_MAX && count.at.elapsed() < COUNT_AGE_MAX
    };
    let known = last.lock().expect("nothing panics under this lock").filter(is_recent);
    if let Some(known) = known {
        return known.threads;
    }
    let at = Instant::now();
    let threads = procfs::threads_beside_functions(sys::own_uid(), gateway);
    *last.lock().expect("nothing panics under this lock") = Some(Count { threads, on_machine, at });
    threads
}

impl fmt::Display for ProcessesMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProcessesMax::None => write!(f, "root has no limit"),
            ProcessesMax::Fixed(max) => write!(f, "RLIMIT_NPROC {max}"),
            ProcessesMax::Each(_) => write!(f, "RLIMIT_NPROC {INVOCATION_PROCESSES_MAX}, in a user namespace for each"),
            ProcessesMax::Shared { room, .. } => {
                write!(f, "RLIMIT_NPROC {room} above what their user runs beside them")
            }
        }
    }
}
