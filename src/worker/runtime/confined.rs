//! Runs a program of a runtime to its end, confined like a function: a program that reads a stranger's file, or one
//! that answers a question of the worker.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::limits::KILL_WAIT_MAX;
use crate::procfs;
use crate::sandbox::{Sandbox, orphans};
use crate::sys::{self, EndedHow, Spawn, Spawned, Watched};

/// Bytes of a program's stderr that go into an error.
const SAYS_BYTES_MAX: u64 = 4096;

/// Longest time for a program, in multiples of its CPU time.
const TIMES_CPU: u32 = 10;
/// Time between two looks at its CPU time.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// A program, and its rights.
pub struct Confined<'a> {
    /// Its path for the command, and the open file.
    pub program: (CString, File),
    pub arguments: &'a [CString],
    /// `NAME=value` and a NUL, repeated.
    pub environment: &'a [u8],
    /// The only folder that it may write to.
    pub scratch: Option<&'a Path>,
    pub stdin: BorrowedFd<'a>,
    pub stdout: BorrowedFd<'a>,
    pub memory_mib: u64,
    /// CPU time; [`TIMES_CPU`] times as much may pass on a busy machine.
    pub time_max: Duration,
}

impl Confined<'_> {
    /// # Errors
    /// If it does not end with status 0 in time: its stderr, or how it ended.
    pub fn run(self, sandbox: &Sandbox) -> io::Result<()> {
        let (mut says, said) = io::pipe()?;
        let ruleset = sandbox.ruleset(self.scratch, &[], None, true)?;
        let readable = sandbox.readable()?;
        let rulesets = [ruleset.as_ref().map(AsFd::as_fd), readable.as_ref().map(|it| it.landlock.as_fd())];
        let namespace = sandbox.namespace()?;
        let (program, file) = &self.program;
        let spawned = orphans::spawn(&Spawn {
            program,
            arguments: self.arguments,
            environment: self.environment,
            folder: Some(c"/"),
            stdin: self.stdin,
            stdout: self.stdout,
            stderr: said.as_fd(),
            control: None,
            confinement: Some(sandbox.confinement(
                Some(file),
                self.memory_mib,
                false,
                false,
                rulesets,
                namespace.as_ref(),
            )),
            group: None,
        })
        .map_err(|error| error.cause)?;
        drop(said);
        let is_in_time = self.ends_in_time(&spawned)?;
        if !is_in_time {
            sys::kill_process(spawned.pidfd.as_fd());
            let _ = sys::poll(&mut [Watched::read(spawned.pidfd.as_fd())], Some(KILL_WAIT_MAX));
        }
        match orphans::reap(spawned.pid)?.map(|ended| ended.how) {
            Some(EndedHow::Exited(0)) => Ok(()),
            _ if !is_in_time => {
                let text = format!("it took more than {} s of CPU time", self.time_max.as_secs());
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
            how => {
                // It has ended, so its stderr is complete, unless it left a process behind that holds the pipe.
                sys::set_nonblocking(says.as_fd())?;
                let mut bytes = Vec::new();
                let _ = says.by_ref().take(SAYS_BYTES_MAX).read_to_end(&mut bytes);
                Err(io::Error::other(match one_line(&String::from_utf8_lossy(&bytes)) {
                    text if text.is_empty() => format!("it ended with {how:?}"),
                    text => text,
                }))
            }
        }
    }
}

impl Confined<'_> {
    fn ends_in_time(&self, process: &Spawned) -> io::Result<bool> {
        let began = Instant::now();
        let cpu_time = || Duration::from_secs(procfs::cpu_ticks(process.pid).unwrap_or(0) / sys::clock_ticks_per_s());
        while began.elapsed() < self.time_max * TIMES_CPU && cpu_time() < self.time_max {
            if sys::poll(&mut [Watched::read(process.pidfd.as_fd())], Some(LOOK_PERIOD.min(self.time_max)))? > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
