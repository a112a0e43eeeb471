//! Ends the processes that a dead process has left behind.
//!
//! Gateway and workers are child subreapers, and so is the main process of every invocation. While a main process
//! lives, its descendants' orphans land on it, even if they daemonise, call setsid or fork twice. After its death they
//! land on the first thread of gateway or worker, which therefore never starts a process. So a child of that thread is
//! a leftover of an invocation that is over, and is killed on sight.
//!
//! A worker also looks under all its threads, every 500 ms and rarely at rest (metrics_reader.rs). There a leftover is
//! a child that the worker has not started itself. Hence it starts and waits for processes by [`spawn`] and [`reap`],
//! which keep the list.
//!
//! The orphan's own children land on the same thread in turn; therefore this repeats until no process is left.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, OnceLock, RwLock, TryLockError};
use std::time::{Duration, Instant};

use crate::limits::{KILL_PAUSE, KILL_WAIT_MAX, TREE_PROCESSES_MAX};
use crate::sys::{self, Ended, Pid, Spawn, SpawnError, Spawned, Urgency, Watched};
use crate::{log, procfs};

/// Processes that are killed in one go: more than RLIMIT_NPROC lets a bomb have on a usual machine. The next look finds
/// any further ones.
const KILL_PROCESSES_MAX: usize = 16_384;

/// Held while orphans are listed, killed and waited for. Orphans are reaped only under this lock, so the kernel cannot
/// have reused an id on the list meanwhile. [`KILL_WAIT_MAX`] bounds the time under it.
static REAPING: Mutex<()> = Mutex::new(());

/// Read-locked from before a process is started, or waited for, until [`STARTED`] records that. Write-locked for a look
/// at our children: all but orphans are on the list then.
static STARTING: RwLock<()> = RwLock::new(());
/// The processes that we have started and not waited for.
static STARTED: Mutex<BTreeSet<Pid>> = Mutex::new(BTreeSet::new());

fn started() -> MutexGuard<'static, BTreeSet<Pid>> {
    STARTED.lock().expect("nothing panics under this lock")
}

/// Like [`sys::spawn`], for a process that is no orphan.
pub fn spawn(plan: &Spawn<'_>) -> Result<Spawned, SpawnError> {
    let _starting = STARTING.read().expect("nothing panics under this lock");
    let spawned = sys::spawn(plan)?;
    started().insert(spawned.pid);
    Ok(spawned)
}

/// Like [`sys::reap`], for a process that [`spawn`] has started.
pub fn reap(pid: Pid) -> io::Result<Option<Ended>> {
    let _starting = STARTING.read().expect("nothing panics under this lock");
    let ended = sys::reap(pid)?;
    if ended.is_some() {
        started().remove(&pid);
    }
    Ok(ended)
}

/// True if these children, listed a moment ago, include some that we have not started. It may mistake one that is being
/// started for an orphan; [`end_in_passing`] does not.
pub fn may_be_among(children: &[Pid]) -> bool {
    let started = started();
    children.iter().any(|child| !started.contains(child))
}

/// The children of all our threads that we have not started.
fn strangers() -> Vec<Pid> {
    let _nothing_starts = STARTING.write().expect("nothing panics under this lock");
    let started = started();
    procfs::children(std::process::id() as Pid, KILL_PROCESSES_MAX)
        .into_iter()
        .filter(|pid| !started.contains(pid))
        .collect()
}

/// Kills all orphans that have landed on this process and waits until they are gone. Returns their number.
///
/// It reaps none before all have ended: a dead process that was not reaped still counts for its user (RLIMIT_NPROC), so
/// a fork bomb cannot replace the killed processes. Nor does it wait for any before all are killed: to die, a process
/// needs its turn at a processor, and a fork bomb takes nearly all of them.
pub fn end_all() -> usize {
    let reaping = REAPING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    end_within(KILL_WAIT_MAX, children, &reaping).unwrap_or_else(|left| {
        log!("orphans: {left} processes do not end though they were killed");
        0
    })
}

/// Like [`end_all`], under all our threads, but never blocks: returns at once if another thread holds the lock, and
/// gives up after `timeout`.
pub fn end_in_passing(timeout: Duration) {
    let reaping = match REAPING.try_lock() {
        Ok(reaping) => reaping,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return,
    };
    // Without the list an orphan looks like a running function, so none is looked for (sandbox.rs reports that).
    let listed = if procfs::lists_children() { strangers } else { children };
    let _ = end_within(timeout, listed, &reaping);
}

/// Ends the orphans in `list` and returns their number; `Err`: the number of those still alive when the time is up.
fn end_within(timeout: Duration, list: fn() -> Vec<Pid>, _: &MutexGuard<'_, ()>) -> Result<usize, usize> {
    let deadline = Instant::now() + timeout;
    let (mut all_ended, mut reaped) = (Vec::new(), 0);
    let mut urgency = None;
    loop {
        let orphans = list();
        if !orphans.is_empty() {
            urgency.get_or_insert_with(Urgency::begin);
        }
        let living: Vec<Pid> = orphans.iter().copied().filter(|orphan| !has_ended(*orphan)).collect();
        // If an orphan has ended since the list was made, its children are ours now, but not on the list. Hence a
        // second look, after one that found all ended.
        if living.is_empty() && orphans == all_ended {
            reaped += orphans.iter().filter(|orphan| matches!(reap(**orphan), Ok(Some(_)))).count();
            if orphans.len() < KILL_PROCESSES_MAX {
                return Ok(reaped);
            }
            // There may be more than are listed at once.
            all_ended = Vec::new();
            continue;
        }
        if Instant::now() >= deadline {
            // The next call goes on with all of them, unless they are too many to keep.
            if orphans.len() > TREE_PROCESSES_MAX {
                orphans.iter().for_each(|orphan| drop(reap(*orphan)));
            }
            return Err(living.len());
        }
        kill_groups(&living);
        living.iter().for_each(|orphan| kill(*orphan));
        if let Some(first) = living.first() {
            wait_for_end(*first, KILL_PAUSE);
        }
        all_ended = if living.is_empty() { orphans } else { Vec::new() };
    }
}

/// The children of our first thread. The list stays open, because every invocation reads it, and opening it takes
/// longer than reading it.
fn children() -> Vec<Pid> {
    static LIST: OnceLock<Option<File>> = OnceLock::new();
    let list = LIST.get_or_init(|| {
        let own = std::process::id();
        File::open(format!("/proc/{own}/task/{own}/children")).ok()
    });
    let mut bytes = [0; 16];
    match list.as_ref().map(|list| list.read_at(&mut bytes, 0)) {
        Some(Ok(0)) => Vec::new(),
        // Without the list an orphan looks like a running function, so none is looked for (sandbox.rs reports that).
        None if !procfs::lists_children() => Vec::new(),
        // A child is listed, or the list could not be opened: now more than one system call is worth it.
        _ => {
            let own = std::process::id() as Pid;
            procfs::children_of_thread(own, own, KILL_PROCESSES_MAX)
        }
    }
}

/// True if a child has ended. A process that is no longer our child has ended.
fn has_ended(orphan: Pid) -> bool {
    sys::has_ended(orphan).unwrap_or(true)
}

/// Kills the process groups of these orphans. A group killed at once cannot fork meanwhile; processes killed one after
/// the other can. Each group once: that takes as long as it has members, and a fork bomb can have thousands.
fn kill_groups(orphans: &[Pid]) {
    let Ok(ours) = sys::group_of(std::process::id() as Pid) else { return };
    let mut killed = BTreeSet::from([ours]);
    for orphan in orphans {
        if let Ok(group) = sys::group_of(*orphan)
            && killed.insert(group)
        {
            sys::kill_group(group);
        }
    }
}

fn kill(orphan: Pid) {
    sys::hasten_end(orphan);
    sys::kill_child(orphan);
    // Only we wait for it, so the kernel cannot reuse its id.
    kill_descendants(orphan, || true);
}

/// Kills all descendants of a process at once. Left to itself, a tree would die level by level. Each level must get its
/// turn at a processor first, while those below go on forking.
///
/// `root_is_there` returns true while `root` is still the intended process. If other code can wait for it at any time,
/// the kernel can reuse its id.
pub fn kill_descendants(root: Pid, root_is_there: impl Fn() -> bool) {
    for (pid, parent) in procfs::descendants(root, KILL_PROCESSES_MAX) {
        // The kernel may have reused its id since it was listed; the new process would have another parent. If its
        // parent has died meanwhile, it is an orphan, and found as such.
        if let Ok(pidfd) = sys::open_process(pid)
            && procfs::parent_of(pid) == Some(parent)
            && root_is_there()
        {
            sys::hasten_end(pid);
            sys::kill_process(pidfd.as_fd());
        }
    }
}

/// Waits for a killed child to end, for at most `time`.
fn wait_for_end(orphan: Pid, time: Duration) {
    let _ = match sys::open_process(orphan) {
        Ok(pidfd) => sys::poll(&mut [Watched::read(pidfd.as_fd())], Some(time)),
        // Without a descriptor to wait on: the process is out of them.
        Err(_) => sys::poll(&mut [], Some(time)),
    };
}
