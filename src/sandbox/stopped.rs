//! Stops an invocation that grows, so that it can be counted where this user may not run ahead of it (sys::Urgency).
//!
//! A fork bomb whose processes lead sessions of their own has a share of the processor for each of them (autogroup,
//! sched(7)), and a worker has one. Then to count 256 processes takes seconds, and to kill them does not help: in place
//! of each killed process RLIMIT_NPROC has room for a new one. A stopped process takes no share and leaves no room.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use crate::limits::TREE_PROCESSES_MAX;
use crate::procfs;
use crate::sys::{self, Pid};

/// Processes that go on when this is dropped, also those that had been stopped before.
pub struct Stopped(Vec<OwnedFd>);

impl Stopped {
    /// Stops a process and its descendants. It looks for the children of a process once that is stopped, when it can
    /// have no more. A descendant that loses its parent meanwhile may be missed.
    pub fn with_descendants(root: Pid) -> Stopped {
        let (mut found, mut seen) = (vec![(root, None)], HashSet::from([root]));
        let mut stopped = Vec::new();
        for next in 0..TREE_PROCESSES_MAX {
            let Some((pid, parent)) = found.get(next).copied() else { break };
            if let Ok(pidfd) = sys::open_process(pid) {
                sys::stop_process(pidfd.as_fd());
                stopped.push((pid, parent, pidfd));
            }
            let children = procfs::children(pid, TREE_PROCESSES_MAX).into_iter().filter(|child| seen.insert(*child));
            found.extend(children.map(|child| (child, Some(pid))));
        }
        // The kernel may have reused an id since it was listed; the new process has another parent. Only now, since
        // each look takes twice as long as a stop.
        let (ours, others): (Vec<_>, Vec<_>) = stopped
            .into_iter()
            .partition(|(pid, parent, _)| parent.is_none_or(|parent| procfs::parent_of(*pid) == Some(parent)));
        drop(Stopped::of(others));
        Stopped::of(ours)
    }

    fn of(processes: Vec<(Pid, Option<Pid>, OwnedFd)>) -> Stopped {
        Stopped(processes.into_iter().map(|(_, _, pidfd)| pidfd).collect())
    }

    /// Kills all of them.
    pub fn kill(&self) {
        self.0.iter().for_each(|pidfd| sys::kill_process(pidfd.as_fd()));
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.iter().for_each(|pidfd| sys::continue_process(pidfd.as_fd()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    /// The states of these processes (field 3 of /proc/PID/stat), once there are `count` and all have one of `wanted`.
    fn wait_for_states(root: Pid, count: usize, wanted: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let below = procfs::descendants(root, 100).into_iter().map(|(pid, _)| pid);
            let state = |pid: Pid| {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                stat.rsplit_once(") ").and_then(|(_, fields)| fields.chars().next())
            };
            let states: Vec<_> = std::iter::once(root).chain(below).filter_map(state).collect();
            if states.len() == count && states.iter().all(|state| wanted.contains(*state)) {
                return;
            }
            assert!(Instant::now() < deadline, "{states:?} are not {count} of {wanted}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_tree_is_stopped_and_goes_on_or_dies() {
        let mut shell = Command::new("sh")
            .args(["-c", "(sleep 1000 & echo; wait) & (sleep 1000 & echo; wait) & wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdout.as_mut().unwrap().read_exact(&mut [0; 2]).unwrap();
        let root = shell.id() as Pid;
        wait_for_states(root, 5, "S");
        let stopped = Stopped::with_descendants(root);
        wait_for_states(root, 5, "T");
        drop(stopped);
        wait_for_states(root, 5, "S");
        Stopped::with_descendants(root).kill();
        shell.wait().unwrap();
        // All wrote to this pipe.
        shell.stdout.unwrap().read_to_end(&mut Vec::new()).unwrap();
    }
}
