//! A function's main process: either the worker's own child, started by exec, or forked from a fork server.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::child::{Child, ChildEnd, Said};
use crate::limits::KILL_WAIT_MAX;
use crate::procfs;
use crate::sandbox::groups::Group;
use crate::sandbox::orphans;
use crate::sys::{self, Pid, Spawned, Watched};

pub enum Process {
    Executed(Spawned, Option<Group>),
    Forked(Child),
}

impl Process {
    pub fn is_forked(&self) -> bool {
        matches!(self, Process::Forked(_))
    }

    pub fn pid(&self) -> Pid {
        match self {
            Process::Executed(process, _) => process.pid,
            Process::Forked(child) => child.pid(),
        }
    }

    /// Readable when the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        match self {
            Process::Executed(process, _) => process.pidfd.as_fd(),
            Process::Forked(child) => child.pidfd(),
        }
    }

    /// Readable when a forked process has sent a message.
    pub fn channel(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Process::Executed(..) => None,
            Process::Forked(child) => child.channel(),
        }
    }

    pub fn listen(&mut self) -> Said {
        match self {
            Process::Executed(..) => Said::Nothing,
            Process::Forked(child) => child.listen(),
        }
    }

    /// The control group in which it was born.
    pub fn group(&self) -> Option<&Group> {
        match self {
            Process::Executed(_, group) => group.as_ref(),
            Process::Forked(_) => None,
        }
    }

    /// Kills the process and its control group, or else its process group.
    pub fn kill(&self) {
        match self {
            Process::Executed(_, Some(group)) if group.kill() => {}
            Process::Executed(process, _) => {
                // It has not been waited for, so the kernel cannot have reused its id or its group.
                sys::kill_group(process.pid);
                sys::kill_process(process.pidfd.as_fd());
            }
            Process::Forked(child) => child.kill(),
        }
    }

    pub fn kill_descendants(&self) {
        match self {
            Process::Executed(_, Some(group)) if group.kill() => {}
            Process::Executed(process, _) => orphans::kill_descendants(process.pid, || true),
            Process::Forked(child) => {
                orphans::kill_descendants(child.pid(), || procfs::pid_of(child.pidfd()) == Some(child.pid()));
            }
        }
    }

    /// The end of the process, once its pidfd is readable. Call it once.
    pub fn end(&mut self) -> io::Result<ChildEnd> {
        match self {
            Process::Executed(process, group) => {
                if !group.as_ref().is_some_and(Group::kill_rest) {
                    // Before it is reaped, since after that the kernel can reuse the group's id.
                    sys::kill_group(process.pid);
                }
                let ended = orphans::reap(process.pid)?;
                Ok(ChildEnd::Ended(ended.expect("the pidfd was readable, so the process has ended")))
            }
            Process::Forked(child) => Ok(child.end()),
        }
    }

    /// Kills it and waits until it is gone. Only for a process whose [`Process::end`] was not called.
    pub fn end_now(&mut self) {
        self.kill();
        let has_ended = sys::poll(&mut [Watched::read(self.pidfd())], Some(KILL_WAIT_MAX)).is_ok_and(|ready| ready > 0);
        match self {
            Process::Executed(process, _) => drop(orphans::reap(process.pid)),
            Process::Forked(child) if has_ended => child.note_end(),
            Process::Forked(_) => {}
        }
    }
}
