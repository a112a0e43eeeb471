//! One invocation: start the function's process, feed it, read its output, end it in time, record its end.
//!
//! One thread does all of that with one poll loop, because each wait can be the one that matters: a function that
//! writes while it is fed would block against a feeder that only writes, one that fills stderr against a reader of
//! stdout, and a deadline must be kept whatever the function does with its pipes.
//!
//! ```text
//! Running ─ deadline, or too much of something ─→ Killed
//!    │  └── "X": the function is through ─────────→ Through      response complete: what is in the pipes is taken,
//!    └───── the process has ended ────────────────→ Ended        what is left of the invocation is killed
//! ```
//!
//! The end of the pipes is not waited for: a grandchild could hold them open for ever.

use std::time::{Duration, Instant};

use super::Worker;
use super::child::{ChildEnd, Said};
use super::connection::Connection;
use super::error::{InvocationError, Result};
use super::order::Order;
use super::process::Process;
use super::sampler::Sampler;
use super::scratch::Scratch;
use super::start::{Start, exhausted};
use super::streams::Streams;
use crate::limits::{KILL_PAUSE, KILL_WAIT_MAX, OUTPUT_HOLD, PIPE_BYTES_MAX};
use crate::log::Line;
use crate::protocol::function_spec::FunctionSpec;
use crate::protocol::worker_protocol::{End, Kind, Measured, Usage, Verdict};
use crate::sandbox::groups::Group;
use crate::sandbox::orphans;
use crate::sys::{self, Ended, EndedHow, Urgency, Watched};

/// Time in which all threads of a killed worker die, even if they have to wait for a processor.
const DYING_MAX: Duration = Duration::from_millis(50);

/// Runs an invocation and sends its result.
///
/// # Errors
/// If the gateway has closed the connection, or breaks the protocol. Then the invocation is over, its processes are
/// gone, and the connection cannot be used any more.
pub fn run(worker: &Worker, order: &Order, connection: &mut Connection) -> Result<()> {
    let begun = Instant::now();
    let start = Start::prepare(worker, order);
    connection.begin()?;
    let mut start = match start {
        Ok(start) => start,
        Err(verdict) => return report(worker, connection, failed(verdict, begun)),
    };
    loop {
        let mut execution = match Execution::begin(worker, order, &mut start) {
            Ok(execution) => execution,
            Err(verdict) => return report(worker, connection, failed(verdict, begun)),
        };
        let spawned = Instant::now();
        // `None`: a forked process has run nothing of the function. Then the function is started by exec.
        let Some(verdict) = execution.attend(connection)? else { continue };
        let end = End {
            verdict,
            is_warm: execution.process.is_forked(),
            spawn_us: micros(spawned - begun),
            exec_us: micros(spawned.elapsed()),
            usage: execution.usage,
            stderr: execution.streams.stderr_end(),
        };
        return report(worker, connection, end);
        // The execution ends only here: while the kernel takes the process of a finished function apart, the gateway
        // already has its response.
    }
}

fn report(worker: &Worker, connection: &mut Connection, end: End) -> Result<()> {
    connection.push(Kind::End, &end.encode());
    connection.send_all(worker.dying())
}

/// The END of an invocation that had no process.
fn failed(verdict: Verdict, begun: Instant) -> End {
    let spawn_us = micros(begun.elapsed());
    End { verdict, is_warm: false, spawn_us, exec_us: 0, usage: None, stderr: String::new() }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

/// A function that has its process. Dropping it ends the function's processes.
struct Execution<'a> {
    worker: &'a Worker,
    spec: &'a FunctionSpec,
    order: &'a Order,
    scratch: &'a Scratch<'a>,
    sampler: Sampler<'a>,
    process: Process,
    streams: Streams<'a>,
    state: State,
    /// Until then the loop waits only for the function's end. Its output fits into the pipes, and most functions have
    /// ended by then; waking for each piece of output takes longer than many functions do.
    quiet_until: Instant,
    /// Until then, output in the outbox may wait for more.
    hold_until: Option<Instant>,
    /// Resources that it has used, once it has ended.
    usage: Option<Usage>,
}

enum State {
    Running {
        deadline: Instant,
    },
    /// The worker has killed it for this reason.
    Killed {
        why: Verdict,
        give_up: Instant,
    },
    /// It has reported that its function is through. The process may still exist.
    Through(Ended),
    /// The worker has recorded its end.
    Ended,
}

impl<'a> Execution<'a> {
    fn begin(
        worker: &'a Worker,
        order: &'a Order,
        start: &'a mut Start<'_>,
    ) -> std::result::Result<Execution<'a>, Verdict> {
        let user = worker.sandbox.user.as_ref();
        let (streams, ends) = Streams::new(order, user, &worker.null).map_err(exhausted("make a pipe"))?;
        let process = start.run(&ends)?;
        let (now, spec) = (Instant::now(), order.spec());
        Ok(Execution {
            worker,
            spec,
            order,
            scratch: &start.scratch,
            sampler: Sampler::new(spec, &start.scratch),
            process,
            streams,
            state: State::Running { deadline: now + spec.timeout },
            quiet_until: if spec.stream { now } else { now + OUTPUT_HOLD },
            hold_until: None,
            usage: None,
        })
    }

    /// Stays with the function until it has ended, and returns its verdict. Its output has been sent, or is in the
    /// connection's outbox. `None` if the function has not begun and is to be started by exec.
    fn attend(&mut self, connection: &mut Connection) -> Result<Option<Verdict>> {
        loop {
            let has_ended = self.wait(connection)?;
            // The child has refused the invocation, so it does not matter whether its end was seen as well.
            if let State::Ended = self.state {
                return Ok(None);
            }
            if has_ended || matches!(self.state, State::Through(_)) {
                return self.finish(connection);
            }
            self.look_at_the_clock(connection)?;
        }
    }

    fn is_quiet(&self) -> bool {
        Instant::now() < self.quiet_until
    }

    fn next_wake(&self) -> Instant {
        let wake = match &self.state {
            State::Running { deadline } => *deadline.min(&self.sampler.next()),
            _ => Instant::now() + KILL_PAUSE,
        };
        let wake = self.hold_until.map_or(wake, |hold| wake.min(hold));
        if self.is_quiet() { wake.min(self.quiet_until) } else { wake }
    }

    /// The guard's alarm; watched only while cost delays the next look.
    fn alarm(&self) -> Watched<'_> {
        match self.state {
            State::Running { .. } if self.sampler.is_delayed() => Watched::read(self.worker.alarm.as_fd()),
            _ => Watched::nothing(),
        }
    }

    /// One turn: waits until something is due, and does it. Returns true when the main process has ended.
    fn wait(&mut self, connection: &mut Connection) -> Result<bool> {
        let wake = self.next_wake();
        // Nothing is added to a full outbox: then the function waits for the gateway, as it should.
        let is_quiet = self.is_quiet();
        let [stdin, stdout, stderr] = self.streams.watched(!connection.is_full() && !is_quiet, !is_quiet);
        let has_to_send = !connection.is_empty() && self.hold_until.is_none();
        let gateway = if has_to_send { Watched::write } else { Watched::hang_up };
        let mut watched = [
            stdin,
            stdout,
            stderr,
            self.process.channel().map_or_else(Watched::nothing, Watched::read),
            Watched::read(self.process.pidfd()),
            Watched::read(self.worker.dying()),
            gateway(connection.as_fd()),
            self.alarm(),
        ];
        let left = wake.saturating_duration_since(Instant::now());
        sys::poll(&mut watched, Some(left)).map_err(InvocationError::io("wait for", "a function"))?;
        let [stdin_ready, stdout_ready, stderr_ready, said, has_ended, dying, gateway_ready, alarmed] =
            watched.each_ref().map(Watched::is_ready);
        if dying || (gateway_ready && !has_to_send) {
            return Err(InvocationError::GatewayGone);
        }
        if alarmed {
            self.sampler.hasten();
        }
        if said {
            self.listen(connection)?;
        }
        if stdin_ready {
            self.streams.feed_more();
        }
        if stderr_ready {
            self.streams.read_stderr();
        }
        if stdout_ready && !has_ended {
            self.read_stdout(connection);
        }
        if self.hold_until.is_none() || connection.is_full() {
            self.hold_until = None;
            connection.send()?;
        }
        Ok(has_ended)
    }

    /// Reads a message from a forked process.
    fn listen(&mut self, connection: &mut Connection) -> Result<()> {
        let said = self.process.listen();
        match (&self.state, said) {
            (State::Running { .. }, Said::Through(ended)) => self.state = State::Through(ended),
            (State::Running { .. }, Said::ByExec) => {
                self.order.function.note_refusal();
                self.process.end_now();
                self.state = State::Ended;
            }
            (State::Running { .. }, Said::Stays(stays)) => {
                connection.push(Kind::Stays, &[u8::from(stays)]);
                connection.send()?;
            }
            (State::Running { .. }, Said::Whole) => {
                self.take_rest(connection)?;
                self.streams.close_stdout();
                connection.push(Kind::Whole, &[]);
                self.hold_until = None;
                connection.send()?;
            }
            // Ignore messages from a process that is being killed.
            _ => {}
        }
        Ok(())
    }

    fn read_stdout(&mut self, connection: &mut Connection) {
        let was_held = self.hold_until.is_some() || connection.is_empty();
        if self.streams.read_stdout(connection) > 0 && was_held && !self.spec.stream {
            self.hold_until.get_or_insert(Instant::now() + OUTPUT_HOLD);
        }
    }

    /// Does all that is due by now: end the hold on output, enforce the deadline, sample the usage, kill again.
    fn look_at_the_clock(&mut self, connection: &mut Connection) -> Result<()> {
        let now = Instant::now();
        if self.hold_until.is_some_and(|hold| now >= hold) {
            self.hold_until = None;
            connection.send()?;
        }
        match &self.state {
            State::Running { deadline } if now >= *deadline => self.kill(Verdict::TimedOut),
            State::Running { .. } if now >= self.sampler.next() => {
                let (running, _) = self.worker.load();
                if let Some(verdict) = self.sampler.look(&self.process, running) {
                    self.kill(verdict);
                }
            }
            _ => {}
        }
        if let State::Killed { give_up, .. } = &self.state {
            let _urgency = Urgency::begin();
            // Repeated on every turn: until the main process has had its turn to die, the others can go on forking.
            self.process.kill_descendants();
            if now >= *give_up {
                // The process is in an uninterruptible wait of the kernel. After this thread it is reaped as an orphan.
                let (id, route) = (self.order.invocation.request_id(), self.spec.route.as_str());
                let line =
                    Line::now().text("request", id).text("route", route).text("function", self.spec.name.as_str());
                line.message(format_args!("the process does not end though killed")).log();
                return Err(InvocationError::Stalled("a process does not end though killed"));
            }
        }
        Ok(())
    }

    fn kill(&mut self, why: Verdict) {
        self.sampler.seen.note_killed();
        self.process.kill();
        self.state = State::Killed { why, give_up: Instant::now() + KILL_WAIT_MAX };
    }

    /// The main process has ended, or its function is through: reads the rest in the pipes, ends the other processes,
    /// judges.
    fn finish(&mut self, connection: &mut Connection) -> Result<Option<Verdict>> {
        // Before the main process is waited for: from then on its descendants are ours, and any thread may end them.
        self.sampler.seen.note_killed();
        let end = match self.state {
            State::Through(ended) => ChildEnd::Through(ended),
            _ => {
                // A fork bomb of a child has landed on us by now. While it goes on, the fork server, which reports the
                // child's end, does not get its turn.
                if self.process.is_forked() {
                    orphans::end_all();
                }
                self.process.end().map_err(InvocationError::io("wait for", "a function"))?
            }
        };
        let state = match self.state {
            State::Through(ended) => State::Through(ended),
            _ => State::Ended,
        };
        let before = std::mem::replace(&mut self.state, state);
        self.usage = Some(self.usage_of(end));
        if let State::Ended = self.state {
            orphans::end_all();
        }
        if end == ChildEnd::NotBegun && !matches!(before, State::Killed { .. }) {
            return Ok(None);
        }
        self.take_rest(connection)?;
        self.streams.finish_stderr();
        Ok(Some(match (before, end) {
            (State::Killed { why, .. }, _) => why,
            (_, ChildEnd::Ended(ended)) => self.judge(ended),
            // The resident memory of a forked process starts as that of its fork server, so it does not count.
            (_, ChildEnd::Through(ended)) => self.judge(Ended { resident_kib_max: 0, ..ended }),
            (_, ChildEnd::NotBegun | ChildEnd::Lost) => Verdict::ForkServerLost,
        }))
    }

    /// Takes the output that is left in the pipe. The main process writes no more, so this loop ends. The bound is for
    /// another process that goes on writing.
    fn take_rest(&mut self, connection: &mut Connection) -> Result<()> {
        let mut taken = 0;
        while taken < PIPE_BYTES_MAX {
            if connection.is_full() {
                connection.send_all(self.worker.dying())?;
            }
            match self.streams.read_stdout(connection) {
                0 => break,
                count => taken += count,
            }
        }
        Ok(())
    }

    /// Resources that it has used. A process that is through reports its own figures, which the function can forge. So
    /// the kernel's figure counts if it is higher: no function can claim less than its main process used.
    fn usage_of(&self, end: ChildEnd) -> Usage {
        let (cpu_us, resident_kib) = match end {
            ChildEnd::Ended(ended) => (ended.cpu_us, ended.resident_kib_max),
            ChildEnd::Through(ended) => {
                (ended.cpu_us.max(micros(sys::cpu_time(self.process.pid()))), ended.resident_kib_max)
            }
            ChildEnd::NotBegun | ChildEnd::Lost => (0, 0),
        };
        let sampled = self.sampler.seen.memory_bytes_max;
        let (measured, memory_bytes) = match self.process.group().and_then(Group::peak_bytes) {
            Some(peak) => (Measured::Cgroup, peak),
            None if sampled > 0 => (Measured::Samples, sampled),
            None => (Measured::Rusage, resident_kib * 1024),
        };
        Usage { cpu_us: cpu_us + self.sampler.seen.killed_cpu_us, memory_bytes, measured }
    }

    fn judge(&self, ended: Ended) -> Verdict {
        let over_limit = ended.resident_kib_max > self.spec.memory_mib * 1024;
        match ended.how {
            EndedHow::Exited(0) => Verdict::Exited { code: 0 },
            // A process that exceeded its limit, or reported that it got no more memory, is taken to have failed for
            // that.
            _ if over_limit || self.streams.says_out_of_memory() => Verdict::MemoryExceeded,
            _ if self.process.group().is_some_and(Group::ran_out_of_processes) => Verdict::TooManyProcesses,
            _ if self.scratch.is_over_quota() => Verdict::ScratchExceeded,
            EndedHow::Exited(code) => Verdict::Exited { code },
            EndedHow::Signaled(libc::SIGKILL) if self.process.group().is_some_and(Group::ran_out_of_memory) => {
                Verdict::MemoryExceeded
            }
            EndedHow::Signaled(libc::SIGKILL) => {
                // The worker did not send this signal, so most likely the worker itself is being killed: its threads
                // die one by one, and the function died with one of them. Then this poll does not return, and the
                // gateway sees that its worker is lost.
                let _ = sys::poll(&mut [Watched::read(self.worker.dying())], Some(DYING_MAX));
                Verdict::Signaled { signal: libc::SIGKILL }
            }
            EndedHow::Signaled(signal) => Verdict::Signaled { signal },
        }
    }
}

/// However an execution ends, its processes end with it.
impl Drop for Execution<'_> {
    fn drop(&mut self) {
        if let Process::Forked(child) = &self.process {
            child.server().replenish();
        }
        if let State::Ended = self.state {
            return;
        }
        self.process.end_now();
        orphans::end_all();
        self.streams.finish_stderr();
    }
}
