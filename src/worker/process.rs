//! A function's main process, however it came to be: executed, and so our own child, or forked from a fork server.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::child::{Child, ChildEnd, Said};
use crate::limits::KILL_WAIT_MAX;
use crate::procfs;
use crate::sandbox::orphans;
use crate::sys::{self, Pid, Spawned, Watched};

pub enum Process {
    Executed(Spawned),
    Forked(Child),
}

impl Process {
    pub fn is_forked(&self) -> bool {
        matches!(self, Process::Forked(_))
    }

    pub fn pid(&self) -> Pid {
        match self {
            Process::Executed(process) => process.pid,
            Process::Forked(child) => child.pid(),
        }
    }

    /// Readable when it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        match self {
            Process::Executed(process) => process.pidfd.as_fd(),
            Process::Forked(child) => child.pidfd(),
        }
    }

    /// Readable when a forked process says something.
    pub fn channel(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Process::Executed(_) => None,
            Process::Forked(child) => child.channel(),
        }
    }

    pub fn listen(&mut self) -> Said {
        match self {
            Process::Executed(_) => Said::Nothing,
            Process::Forked(child) => child.listen(),
        }
    }

    /// Kills it and those in its process group.
    pub fn kill(&self) {
        match self {
            Process::Executed(process) => {
                // It has not been waited for, so neither id nor group can have been given away.
                sys::kill_group(process.pid);
                sys::kill_process(process.pidfd.as_fd());
            }
            Process::Forked(child) => child.kill(),
        }
    }

    pub fn kill_descendants(&self) {
        match self {
            Process::Executed(process) => orphans::kill_descendants(process.pid, || true),
            Process::Forked(child) => {
                orphans::kill_descendants(child.pid(), || procfs::pid_of(child.pidfd()) == Some(child.pid()));
            }
        }
    }

    /// How it ended, once its pidfd is readable. To be asked once.
    pub fn end(&mut self) -> io::Result<ChildEnd> {
        match self {
            Process::Executed(process) => {
                // Before it is reaped, since then the group's id could be given away.
                sys::kill_group(process.pid);
                let ended = orphans::reap(process.pid)?;
                Ok(ChildEnd::Ended(ended.expect("the pidfd was readable, so the process has ended")))
            }
            Process::Forked(child) => Ok(child.end()),
        }
    }

    /// Kills it and waits until it is gone; for one whose [`Process::end`] was not asked.
    pub fn end_now(&mut self) {
        self.kill();
        let has_ended = sys::poll(&mut [Watched::read(self.pidfd())], Some(KILL_WAIT_MAX)).is_ok_and(|ready| ready > 0);
        match self {
            Process::Executed(process) => drop(orphans::reap(process.pid)),
            Process::Forked(child) if has_ended => child.note_end(),
            Process::Forked(_) => {}
        }
    }
}
