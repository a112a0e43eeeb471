//! Ends what a dead process has left behind.
//!
//! Gateway and workers are child subreapers, and so is the main process of every invocation. While a main process lives,
//! whatever its descendants do (daemonise, call setsid, fork twice), their orphans land on it. When it has died, they
//! land on us. So the rule is simple: a child of our first thread that this thread did not start is a leftover of an
//! invocation that is over, and is killed on sight. Hence the first thread of both programs never starts a process.
//!
//! The orphan's own children land on us in turn; therefore this goes round until nobody is left.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::limits::KILL_WAIT_MAX;
use crate::sys::{self, Pid, Watched};
use crate::{log, procfs};

/// Held while orphans are listed, killed and waited for: only under it are they reaped, so that an id on the list cannot
/// have been given to another process meanwhile. What happens under it is bounded by [`KILL_WAIT_MAX`].
static REAPING: Mutex<()> = Mutex::new(());

/// Kills all orphans that have landed on this process and waits until they are gone. Returns how many there were.
pub fn end_all() -> usize {
    let own = std::process::id() as Pid;
    let _reaping = REAPING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let deadline = Instant::now() + KILL_WAIT_MAX;
    let mut ended = 0;
    loop {
        let orphans = children();
        if orphans.is_empty() {
            return ended;
        }
        if Instant::now() >= deadline {
            log!("orphans: {} processes do not end though they were killed", orphans.len());
            return ended;
        }
        // All are killed before any is waited for, so that they cannot start one another anew.
        for orphan in &orphans {
            if let Ok(group) = sys::group_of(*orphan)
                && sys::group_of(own).is_ok_and(|ours| ours != group)
            {
                sys::kill_group(group);
            }
            sys::kill_child(*orphan);
        }
        ended += orphans.into_iter().filter(|orphan| wait_for(*orphan, deadline)).count();
    }
}

/// The children of our first thread. The list is kept open, because this is asked after every invocation and opening it
/// takes longer than reading it.
fn children() -> Vec<Pid> {
    static LIST: OnceLock<Option<File>> = OnceLock::new();
    let own = std::process::id() as Pid;
    let list = LIST.get_or_init(|| File::open(format!("/proc/{own}/task/{own}/children")).ok());
    let mut bytes = [0; 16];
    match list.as_ref().map(|list| list.read_at(&mut bytes, 0)) {
        Some(Ok(0)) => Vec::new(),
        // Somebody is on it, or the kernel lacks the list: now it is worth more than one system call.
        _ => procfs::children_of_thread(own, own),
    }
}

/// Waits until a killed child is gone; false where it is not by the deadline.
fn wait_for(orphan: Pid, deadline: Instant) -> bool {
    let pidfd = sys::open_process(orphan);
    loop {
        match sys::reap(orphan) {
            Ok(None) => {}
            // No such child: another wait has taken it.
            Ok(Some(_)) | Err(_) => return true,
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        match &pidfd {
            Ok(pidfd) => {
                use std::os::fd::AsFd;
                let _ = sys::poll(&mut [Watched::read(pidfd.as_fd())], Some(left));
            }
            // Without a descriptor to wait on, which means that we are out of them, look again in a moment.
            Err(_) => {
                let _ = sys::poll(&mut [], Some(left.min(Duration::from_millis(1))));
            }
        }
    }
}
