//! The number of processes and threads that functions may have in all: RLIMIT_NPROC, which the kernel counts by user.
//!
//! Functions with a user of their own have a constant limit. Functions that share the gateway's user share the count with
//! all that this user runs: a desktop, an editor, the gateway's thread for each connection. Their limit is what runs
//! beside functions at present, and room for functions on top. A limit from the worker's start would be used up by 320
//! clients that connect, and no function could start a process any more.

use std::fmt;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use super::User;
use crate::limits::{BOMB_PROCESSES_MAX, FORK_SERVERS_PER_WORKER, FUNCTION_PROCESSES_MAX, OWN_USER_PROCESSES_MAX};
use crate::procfs;
use crate::settings::Settings;
use crate::sys::{self, Pid};

#[derive(Debug)]
pub enum ProcessesMax {
    /// Root is exempt from such a limit.
    None,
    Fixed(u64),
    /// Functions run as our own user.
    Shared {
        room: u64,
        /// Threads of this user at the last look, without those of functions and of the gateway.
        beside: AtomicU64,
        /// Whose threads are counted at each start of a function; 0 before the first look.
        gateway: AtomicI32,
    },
}

impl ProcessesMax {
    /// There is room for one function at its limit per slot, for a bomb among them, and for the fork servers and their
    /// waiting children; where the user is shared, for one function only.
    pub fn new(settings: &Settings, user: Option<&User>) -> ProcessesMax {
        let slots = u64::from(settings.workers) * u64::from(settings.worker_slots);
        let servers = u64::from(settings.workers) * FORK_SERVERS_PER_WORKER;
        let waiting = if settings.has_fork_servers { servers + FORK_SERVERS_PER_WORKER * slots } else { 0 };
        match (user, sys::own_uid()) {
            (Some(_), _) => ProcessesMax::Fixed(slots * FUNCTION_PROCESSES_MAX as u64 + BOMB_PROCESSES_MAX + waiting),
            (None, 0) => ProcessesMax::None,
            (None, own) => ProcessesMax::Shared {
                room: OWN_USER_PROCESSES_MAX + waiting,
                beside: AtomicU64::new(procfs::threads_beside_functions(own, 0)),
                gateway: AtomicI32::new(0),
            },
        }
    }

    /// Counts again what runs beside the functions of this gateway. Reads a file for each process of the machine.
    pub fn look(&self, of_gateway: Pid) {
        if let ProcessesMax::Shared { beside, gateway, .. } = self {
            beside.store(procfs::threads_beside_functions(sys::own_uid(), of_gateway), Ordering::Relaxed);
            gateway.store(of_gateway, Ordering::Relaxed);
        }
    }

    /// The limit for a function that starts now; `None` where it has none.
    pub fn now(&self) -> Option<u64> {
        match self {
            ProcessesMax::None => None,
            ProcessesMax::Fixed(max) => Some(*max),
            ProcessesMax::Shared { .. } => self.of_forked(),
        }
    }

    /// The limit for a fork server, which its children inherit and cannot raise.
    pub fn of_fork_server(&self) -> Option<u64> {
        match self {
            ProcessesMax::Fixed(max) => Some(*max),
            ProcessesMax::None | ProcessesMax::Shared { .. } => None,
        }
    }

    /// The limit that a forked process sets itself when its invocation comes; `None` where its fork server's serves.
    pub fn of_forked(&self) -> Option<u64> {
        let ProcessesMax::Shared { room, beside, gateway } = self else { return None };
        // Connections come and go faster than looks.
        let of_gateway = procfs::threads(gateway.load(Ordering::Relaxed)).unwrap_or(0);
        Some(room + beside.load(Ordering::Relaxed) + of_gateway)
    }
}

impl fmt::Display for ProcessesMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProcessesMax::None => write!(f, "root has no limit"),
            ProcessesMax::Fixed(max) => write!(f, "RLIMIT_NPROC {max}"),
            ProcessesMax::Shared { room, .. } => {
                write!(f, "RLIMIT_NPROC {room} above what their user runs beside them")
            }
        }
    }
}
