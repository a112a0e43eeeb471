//! Ends what a dead process has left behind.
//!
//! Gateway and workers are child subreapers, and so is the main process of every invocation. While a main process lives,
//! whatever its descendants do (daemonise, call setsid, fork twice), their orphans land on it. When it has died, they
//! land on us: on our first thread, which therefore never starts a process. So a child of our first thread is a leftover of
//! an invocation that is over, and is killed on sight.
//!
//! A worker also looks under all its threads, every 500 ms and rarely at rest (metrics_reader.rs): there a leftover is a
//! child that it has not started itself.
//! Hence it starts and waits for processes by [`spawn`] and [`reap`], which keep the list.
//!
//! The orphan's own children land on us in turn; therefore this goes round until no process is left.

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

/// Processes that are killed in one go: more than RLIMIT_NPROC lets a bomb have on a usual machine. What is beyond is found by
/// the next look.
const KILL_PROCESSES_MAX: usize = 16_384;

/// Held while orphans are listed, killed and waited for: only under it are they reaped, so that an id on the list cannot
/// have been given to another process meanwhile. What happens under it is bounded by [`KILL_WAIT_MAX`].
static REAPING: Mutex<()> = Mutex::new(());

/// Read-locked from before a process is started, or waited for, until that stands in [`STARTED`]; write-locked for a look at
/// our children, which then are all on the list but orphans.
static STARTING: RwLock<()> = RwLock::new(());
/// The processes that we have started and not waited for.
static STARTED: Mutex<BTreeSet<Pid>> = Mutex::new(BTreeSet::new());

fn started() -> MutexGuard<'static, BTreeSet<Pid>> {
    STARTED.lock().expect("nothing panics under this lock")
}

/// As [`sys::spawn`], of a process that is no orphan.
pub fn spawn(plan: &Spawn<'_>) -> Result<Spawned, SpawnError> {
    let _starting = STARTING.read().expect("nothing panics under this lock");
    let spawned = sys::spawn(plan)?;
    started().insert(spawned.pid);
    Ok(spawned)
}

/// As [`sys::reap`], of a process that [`spawn`] has started.
pub fn reap(pid: Pid) -> io::Result<Option<Ended>> {
    let _starting = STARTING.read().expect("nothing panics under this lock");
    let ended = sys::reap(pid)?;
    if ended.is_some() {
        started().remove(&pid);
    }
    Ok(ended)
}

/// Whether these children of ours, listed a moment ago, hold some that we have not started. It may mistake one that is being
/// started for an orphan; [`end_in_passing`] does not.
pub fn may_be_among(children: &[Pid]) -> bool {
    let started = started();
    children.iter().any(|child| !started.contains(child))
}

/// The children of all our threads that we have not started.
fn strangers() -> Vec<Pid> {
    let _nothing_starts = STARTING.write().expect("nothing panics under this lock");
    let started = started();
    procfs::children(std::process::id() as Pid).into_iter().filter(|pid| !started.contains(pid)).collect()
}

/// Kills all orphans that have landed on this process and waits until they are gone. Returns how many there were.
///
/// None is reaped before all have ended: a dead process that was not reaped still counts for its user (RLIMIT_NPROC), so
/// what forks without end cannot start more in the place of those that were killed. Nor is any waited for before all are
/// killed: to die, a process needs its turn at a processor, and a fork bomb takes nearly all of them.
pub fn end_all() -> usize {
    let reaping = REAPING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    end_within(KILL_WAIT_MAX, children, &reaping).unwrap_or_else(|left| {
        log!("orphans: {left} processes do not end though they were killed");
        0
    })
}

/// Like [`end_all`], under all our threads, but never blocks: returns at once if another thread holds the lock, and gives up
/// after `timeout`.
pub fn end_in_passing(timeout: Duration) {
    let reaping = match REAPING.try_lock() {
        Ok(reaping) => reaping,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return,
    };
    // Without the list an orphan cannot be told from a function that runs; then none is looked for (sandbox.rs says so).
    let listed = if procfs::lists_children() { strangers } else { children };
    let _ = end_within(timeout, listed, &reaping);
}

/// How many there were of those that `list` names; `Err`: how many are left when the time is up.
fn end_within(timeout: Duration, list: fn() -> Vec<Pid>, _: &MutexGuard<'_, ()>) -> Result<usize, usize> {
    let deadline = Instant::now() + timeout;
    let mut before = Vec::new();
    let mut urgency = None;
    loop {
        let orphans = list();
        if !orphans.is_empty() {
            urgency.get_or_insert_with(Urgency::begin);
        }
        let living: Vec<Pid> = orphans.iter().copied().filter(|orphan| !has_ended(*orphan)).collect();
        // The children of one that ended since the list was made are ours now, but not on it; hence a second look.
        if living.is_empty() && orphans == before {
            return Ok(orphans.into_iter().filter(|orphan| matches!(reap(*orphan), Ok(Some(_)))).count());
        }
        if Instant::now() >= deadline {
            // The next call goes on with all of them, unless they are too many to keep.
            if orphans.len() > TREE_PROCESSES_MAX {
                orphans.iter().for_each(|orphan| drop(reap(*orphan)));
            }
            return Err(living.len());
        }
        living.iter().for_each(|orphan| kill(*orphan));
        if let Some(first) = living.first() {
            wait_for_end(*first, KILL_PAUSE);
        }
        before = orphans;
    }
}

/// The children of our first thread. The list is kept open, because this is asked after every invocation and opening it
/// takes longer than reading it.
fn children() -> Vec<Pid> {
    static LIST: OnceLock<Option<File>> = OnceLock::new();
    let list = LIST.get_or_init(|| {
        let own = std::process::id();
        File::open(format!("/proc/{own}/task/{own}/children")).ok()
    });
    let mut bytes = [0; 16];
    match list.as_ref().map(|list| list.read_at(&mut bytes, 0)) {
        Some(Ok(0)) => Vec::new(),
        // Without the list an orphan cannot be told from a function that runs; then none is looked for (sandbox.rs says so).
        None if !procfs::lists_children() => Vec::new(),
        // Somebody is on it, or it could not be opened: now it is worth more than one system call.
        _ => {
            let own = std::process::id() as Pid;
            procfs::children_of_thread(own, own)
        }
    }
}

/// Whether a child has ended. One that is none of ours any more has.
fn has_ended(orphan: Pid) -> bool {
    sys::has_ended(orphan).unwrap_or(true)
}

fn kill(orphan: Pid) {
    // A group at once cannot fork while it is killed, as one process after the other can.
    if let Ok(group) = sys::group_of(orphan)
        && sys::group_of(std::process::id() as Pid).is_ok_and(|ours| ours != group)
    {
        sys::kill_group(group);
    }
    sys::hasten_end(orphan);
    sys::kill_child(orphan);
    // Only we wait for it, so its id stays its own.
    kill_descendants(orphan, || true);
}

/// Kills all that descend from a process at once. Left to itself, a tree would die level by level, each of which must get
/// its turn at a processor first, while those below go on forking.
///
/// `root_is_there` says whether `root` is still the process that is meant: where somebody else can wait for it at any time, its
/// id can be given to another one.
pub fn kill_descendants(root: Pid, root_is_there: impl Fn() -> bool) {
    for (pid, parent) in procfs::descendants(root, KILL_PROCESSES_MAX) {
        // Its id may have been given to another process since it was listed; that one would have another parent. Where its
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

/// Waits a moment for a killed child to end.
fn wait_for_end(orphan: Pid, time: Duration) {
    let _ = match sys::open_process(orphan) {
        Ok(pidfd) => sys::poll(&mut [Watched::read(pidfd.as_fd())], Some(time)),
        // Without a descriptor to wait on, which means that we are out of them.
        Err(_) => sys::poll(&mut [], Some(time)),
    };
}
