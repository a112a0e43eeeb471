//! One invocation: get the function its process, feed it, listen to it, end it in time, take note of its end.
//!
//! One thread does all of that with one poll loop, because each wait can be the one that matters: a function that
//! writes while it is fed would block against a feeder that only writes, one that fills stderr against a reader of
//! stdout, and a deadline must be kept whatever the function does with its pipes.
//!
//! The answer is complete when the main process has exited: what is in the pipe then is taken, the other processes of the
//! invocation are killed, the end of the pipe is not waited for (a grandchild could hold it open for ever).

use std::ffi::CString;
use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Worker;
use super::connection::Connection;
use super::fork_server::{Channel, Child, ForkServer};
use super::fork_servers::Key;
use super::order::Order;
use super::runtime::{self, Command};
use super::scratch::Scratch;
use super::stderr_log::StderrLog;
use crate::error::{Error, Result};
use crate::limits::{
    FUNCTION_PROCESSES_MAX, KILL_PAUSE, KILL_WAIT_MAX, OUTPUT_HOLD, PIPE_BYTES_MAX, SAMPLE_FIRST, SAMPLE_PERIOD,
    SPOOL_MEMORY_MAX,
};
use crate::protocol::function_spec::FunctionSpec;
use crate::protocol::worker_protocol::{End, Kind, Verdict};
use crate::sandbox::{orphans, readable};
use crate::sys::{self, Ended, EndedHow, Spawn, SpawnError, Spawned, Urgency, Watched};
use crate::{log, procfs};

/// Runs an invocation and sends what comes of it.
///
/// # Errors
/// Where the gateway has closed the connection, or breaks the protocol: the invocation is over then, its processes are
/// gone, and the connection is of no more use.
pub fn run(worker: &Worker, order: &Order, body: Option<OwnedFd>, connection: &mut Connection) -> Result<()> {
    let begun = Instant::now();
    let (way, scratch) = match prepare(worker, &order.spec) {
        Ok(prepared) => prepared,
        Err(verdict) => {
            connection.begin()?;
            return report(worker, connection, End { verdict, is_warm: false, spawn_us: 0, exec_us: 0 });
        }
    };
    connection.begin()?;
    match Execution::begin(worker, order, way, scratch, body) {
        Err(verdict) => {
            report(worker, connection, End { verdict, is_warm: false, spawn_us: micros(begun.elapsed()), exec_us: 0 })
        }
        Ok(mut execution) => {
            let spawned = Instant::now();
            let verdict = execution.attend(connection)?;
            let (spawn_us, exec_us) = (micros(spawned - begun), micros(spawned.elapsed()));
            report(worker, connection, End { verdict, is_warm: execution.fork_server.is_some(), spawn_us, exec_us })
            // The execution ends only here: the process of a function that is through is taken apart by the kernel while the
            // gateway has its answer already.
        }
    }
}

fn report(worker: &Worker, connection: &mut Connection, end: End) -> Result<()> {
    connection.push(Kind::End, &end.encode());
    connection.send_all(worker.dying())
}

/// How a function gets its process.
enum Way {
    /// A child of a fork server.
    Warm(Child, Arc<ForkServer>),
    /// A program is executed.
    Cold(Command),
}

/// All that can be found wrong before the function's process exists.
fn prepare<'a>(worker: &'a Worker, spec: &FunctionSpec) -> std::result::Result<(Way, Scratch<'a>), Verdict> {
    let version = runtime::version_of(&spec.module)?;
    let scratch = worker.scratch_area.take(worker.sandbox.user.as_ref()).map_err(exhausted("make a scratch folder"))?;
    let key = runtime::can_fork(spec).then(|| Key::new(spec, version));
    if let Some((child, server)) = key.as_ref().and_then(|key| worker.fork_servers.take(key)) {
        return Ok((Way::Warm(child, server), scratch));
    }
    runtime::check_readable(worker, &spec.module)?;
    let command = runtime::command(worker, spec, scratch.path())?;
    if let Some(key) = key
        && runtime::is_built(worker, spec.runtime)
    {
        worker.fork_servers.order(key);
    }
    Ok((Way::Cold(command), scratch))
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

/// Bytes that are read from a function at once, until one read has filled them: most say less in all, and to clear room for more
/// takes longer than to read it.
const READ_BYTES_FIRST: usize = 4096;

/// A function that runs.
struct Execution<'a> {
    worker: &'a Worker,
    order: &'a Order,
    child: Spawned,
    /// Whose child it is, if it was forked and not executed.
    fork_server: Option<Arc<ForkServer>>,
    /// Where such a child says that its function is through.
    channel: Option<Channel>,
    /// The exit status that it then says.
    through: Option<i32>,
    scratch: Scratch<'a>,
    /// `None` when all of the body is written.
    stdin: Option<Unfed<'a>>,
    stdout: Option<PipeReader>,
    stderr: Option<PipeReader>,
    stderr_log: StderrLog<'a>,
    buffer: Vec<u8>,
    deadline: Instant,
    next_sample: Instant,
    sample_pause: Duration,
    /// Until when only its end is of interest: what it says fits into the pipes, and most have ended by then. To be woken for
    /// each of its words takes longer than many functions do.
    quiet_until: Instant,
    /// Until when output that is already in the outbox may wait there for company.
    hold_until: Option<Instant>,
    /// Why we have killed it, if we have.
    killed: Option<Verdict>,
    /// Whether its end has been taken note of.
    reaped: bool,
}

impl<'a> Execution<'a> {
    fn begin(
        worker: &'a Worker,
        order: &'a Order,
        way: Way,
        mut scratch: Scratch<'a>,
        body: Option<OwnedFd>,
    ) -> std::result::Result<Execution<'a>, Verdict> {
        let (stdin_for_child, stdin) = feed(order.invocation.body(), body).map_err(exhausted("make a pipe"))?;
        let (stdout, stdout_for_child) = output_pipe().map_err(exhausted("make a pipe"))?;
        let (stderr, stderr_for_child) = output_pipe().map_err(exhausted("make a pipe"))?;
        let ruleset = scratch.ruleset(&worker.sandbox, &order.spec.write, order.spec.net);
        let birth = Birth {
            worker,
            order,
            scratch: scratch.path(),
            ruleset: ruleset.map_err(exhausted("make a ruleset"))?,
            readable: worker.sandbox.readable().map_err(exhausted("make a ruleset"))?,
            streams: [stdin_for_child.as_fd(worker), stdout_for_child.as_fd(), stderr_for_child.as_fd()],
        };
        let (child, channel, fork_server) = match way {
            Way::Warm(child, server) => match birth.start_child(child) {
                Some((child, channel)) => (child, Some(channel), Some(server)),
                None => (birth.execute(&runtime::command(worker, &order.spec, scratch.path())?)?, None, None),
            },
            Way::Cold(command) => (birth.execute(&command)?, None, None),
        };
        let now = Instant::now();
        Ok(Execution {
            worker,
            order,
            child,
            fork_server,
            channel,
            through: None,
            scratch,
            stdin,
            stdout: Some(stdout),
            stderr: Some(stderr),
            stderr_log: StderrLog::new(order.invocation.request_id(), &order.spec.name),
            buffer: vec![0; READ_BYTES_FIRST],
            deadline: now + order.spec.timeout,
            quiet_until: if order.spec.stream { now } else { now + OUTPUT_HOLD },
            next_sample: now + SAMPLE_FIRST,
            sample_pause: SAMPLE_FIRST,
            hold_until: None,
            killed: None,
            reaped: false,
        })
    }

    /// Stays with the function until it has ended and says how; its output is in the connection's outbox, or gone out.
    fn attend(&mut self, connection: &mut Connection) -> Result<Verdict> {
        let mut kill_deadline = None;
        loop {
            let wake = kill_deadline.map_or_else(|| self.next_wake(), |_| Instant::now() + KILL_PAUSE);
            let is_over = self.wait(connection, wake)?;
            let now = Instant::now();
            if is_over {
                break;
            }
            if self.killed.is_none() {
                self.look_at_the_clock(now, connection)?;
            }
            if self.killed.is_some() {
                let _urgency = Urgency::begin();
                // Again and again: until the main process has had its turn to die, the others can go on forking.
                orphans::kill_descendants(self.child.pid);
                let deadline = *kill_deadline.get_or_insert(now + KILL_WAIT_MAX);
                if now >= deadline {
                    // In an uninterruptible wait of the kernel. It is reaped as an orphan when this thread has ended.
                    log!("request={}: the process does not end though killed", self.order.invocation.request_id());
                    return Err(Error::Stalled("a process does not end"));
                }
            }
        }
        self.finish(connection)
    }

    fn next_wake(&self) -> Instant {
        let wake = self.deadline.min(self.next_sample);
        let wake = self.hold_until.map_or(wake, |hold| wake.min(hold));
        if self.is_quiet() { wake.min(self.quiet_until) } else { wake }
    }

    fn is_quiet(&self) -> bool {
        Instant::now() < self.quiet_until
    }

    /// One turn: waits until something is to be done, or `wake`, and does it. True when the main process has ended, or has
    /// said that it is about to.
    fn wait(&mut self, connection: &mut Connection, wake: Instant) -> Result<bool> {
        let nothing = Watched::nothing;
        // A full outbox is not added to: then the function waits for the gateway, as it should.
        let take_output = !connection.is_full() && !self.is_quiet();
        let has_to_send = !connection.is_empty() && self.hold_until.is_none();
        let gateway = if has_to_send { Watched::write } else { Watched::hang_up };
        let mut watched = [
            self.stdin.as_ref().map_or_else(nothing, |unfed| Watched::write(unfed.pipe.as_fd())),
            self.stdout.as_ref().filter(|_| take_output).map_or_else(nothing, |pipe| Watched::read(pipe.as_fd())),
            self.stderr.as_ref().filter(|_| !self.is_quiet()).map_or_else(nothing, |pipe| Watched::read(pipe.as_fd())),
            self.channel.as_ref().map_or_else(nothing, |channel| Watched::read(channel.as_fd())),
            Watched::read(self.child.pidfd.as_fd()),
            Watched::read(self.worker.dying()),
            gateway(connection.as_fd()),
        ];
        let left = wake.saturating_duration_since(Instant::now());
        sys::poll(&mut watched, Some(left)).map_err(Error::io("wait for", "a function"))?;
        let [stdin_ready, stdout_ready, stderr_ready, channel_ready, ended, dying, gateway_ready] =
            watched.each_ref().map(Watched::is_ready);
        if dying || (gateway_ready && !has_to_send) {
            return Err(Error::ClientGone);
        }
        if channel_ready && self.killed.is_none() {
            self.through = self.channel.as_mut().and_then(Channel::listen);
            self.channel = None;
        }
        let is_over = ended || self.through.is_some();
        if stdin_ready {
            self.feed_more();
        }
        if stderr_ready {
            self.read_stderr();
        }
        if stdout_ready && !is_over {
            self.read_stdout(connection);
        }
        if self.hold_until.is_none() || connection.is_full() {
            self.hold_until = None;
            connection.send()?;
        }
        Ok(is_over)
    }

    /// What is due at `now`: the hold on output, the deadline, a memory sample.
    fn look_at_the_clock(&mut self, now: Instant, connection: &mut Connection) -> Result<()> {
        if self.hold_until.is_some_and(|hold| now >= hold) {
            self.hold_until = None;
            connection.send()?;
        }
        if now >= self.deadline {
            self.kill(Verdict::TimedOut);
        } else if now >= self.next_sample {
            if let Some(verdict) = self.excess() {
                self.kill(verdict);
            }
            self.sample_pause = (2 * self.sample_pause).min(SAMPLE_PERIOD);
            self.next_sample = Instant::now() + self.sample_pause;
        }
        Ok(())
    }

    /// What the invocation uses more of than it may, if anything. Proportional memory is dear to read; resident memory,
    /// which is never less, is asked first.
    fn excess(&self) -> Option<Verdict> {
        let processes = procfs::tree(self.child.pid, FUNCTION_PROCESSES_MAX);
        if processes.len() > FUNCTION_PROCESSES_MAX {
            return Some(Verdict::TooManyProcesses);
        }
        let sum = |figure: fn(sys::Pid) -> Option<u64>| processes.iter().filter_map(|pid| figure(*pid)).sum::<u64>();
        let memory_max = self.order.spec.memory_mib << 20;
        if sum(procfs::resident_bytes) > memory_max {
            // A process can forbid the look at its proportional memory (PR_SET_DUMPABLE, prctl(2)); then all of it counts.
            let proportional = |pid| procfs::proportional_bytes(pid).or_else(|| procfs::resident_bytes(pid));
            if sum(proportional) > memory_max {
                return Some(Verdict::MemoryExceeded);
            }
        }
        // What was deleted but is still open lies on the disk as well.
        let deleted = procfs::deleted_bytes(&processes, self.scratch.path());
        let scratch_max = (self.order.spec.scratch_mib << 20).checked_sub(deleted);
        let is_over = scratch_max.is_none_or(|max| self.scratch.holds_more_than(max));
        is_over.then_some(Verdict::ScratchExceeded)
    }

    fn kill(&mut self, why: Verdict) {
        self.killed = Some(why);
        sys::kill_group(self.child.pid);
        sys::kill_process(self.child.pidfd.as_fd());
    }

    fn feed_more(&mut self) {
        let Some(Unfed { pipe, rest }) = &mut self.stdin else { return };
        match pipe.write(rest) {
            Ok(count) => *rest = &rest[count..],
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // The function has closed its stdin: it does not want the rest.
            Err(_) => *rest = &[],
        }
        if rest.is_empty() {
            self.stdin = None;
        }
    }

    /// Logs a piece of what it says; returns how much it was.
    fn read_stderr(&mut self) -> usize {
        let Some(pipe) = &mut self.stderr else { return 0 };
        match pipe.read(&mut self.buffer) {
            Ok(count) if count > 0 => {
                self.stderr_log.write(&self.buffer[..count]);
                count
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            _ => {
                self.stderr = None;
                0
            }
        }
    }

    /// Moves a piece of output into the outbox; returns how much it was.
    fn read_stdout(&mut self, connection: &mut Connection) -> usize {
        let Some(pipe) = &mut self.stdout else { return 0 };
        match pipe.read(&mut self.buffer) {
            Ok(count) if count > 0 => {
                let held = self.hold_until.is_some() || connection.is_empty();
                connection.push(Kind::Output, &self.buffer[..count]);
                if count == self.buffer.len() {
                    self.buffer.resize(SPOOL_MEMORY_MAX, 0);
                }
                if held && !self.order.spec.stream {
                    self.hold_until.get_or_insert(Instant::now() + OUTPUT_HOLD);
                }
                count
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            _ => {
                self.stdout = None;
                0
            }
        }
    }

    /// The main process has ended, or is about to: ends the others, takes what is left in the pipes, judges.
    fn finish(&mut self, connection: &mut Connection) -> Result<Verdict> {
        // Before the main process is reaped, since then its id, which is the group's, could be given away.
        sys::kill_group(self.child.pid);
        let ended = match self.through {
            Some(code) => Ended { how: EndedHow::Exited(code), resident_kib_max: 0 },
            None => {
                let ended = sys::reap(self.child.pid).map_err(Error::io("wait for", "a function"))?;
                self.reaped = true;
                orphans::end_all();
                ended.expect("the pidfd was readable, so the process has ended")
            }
        };
        // Nobody writes any more, so this ends; the bound is for what cannot be killed.
        let mut taken = 0;
        while taken < PIPE_BYTES_MAX {
            if connection.is_full() {
                connection.send_all(self.worker.dying())?;
            }
            match self.read_stdout(connection) {
                0 => break,
                count => taken += count,
            }
        }
        let mut taken = 0;
        while taken < PIPE_BYTES_MAX {
            match self.read_stderr() {
                0 => break,
                count => taken += count,
            }
        }
        self.stderr_log.finish();
        if let Some(verdict) = self.killed.take() {
            return Ok(verdict);
        }
        let over_limit = ended.resident_kib_max > self.order.spec.memory_mib * 1024;
        Ok(match ended.how {
            EndedHow::Exited(0) => Verdict::Exited { code: 0 },
            // A process that failed after it had more than its share, or says that it got no more, failed for that.
            _ if over_limit || self.stderr_log.says_out_of_memory() => Verdict::MemoryExceeded,
            EndedHow::Exited(code) => Verdict::Exited { code },
            EndedHow::Signaled(signal) => Verdict::Signaled { signal },
        })
    }
}

/// Whatever way an execution is left, its processes do not stay.
impl Drop for Execution<'_> {
    fn drop(&mut self) {
        if let Some(server) = &self.fork_server {
            server.replenish();
        }
        if self.reaped {
            return;
        }
        sys::kill_group(self.child.pid);
        sys::kill_process(self.child.pidfd.as_fd());
        let _ = sys::poll(&mut [Watched::read(self.child.pidfd.as_fd())], Some(KILL_WAIT_MAX));
        let _ = sys::reap(self.child.pid);
        orphans::end_all();
        self.stderr_log.finish();
    }
}

/// What a new process of an invocation gets, whichever way it comes to be.
struct Birth<'b> {
    worker: &'b Worker,
    order: &'b Order,
    scratch: &'b Path,
    /// What it may write, and what it may read.
    ruleset: Option<Arc<OwnedFd>>,
    readable: Option<Arc<readable::Ruleset>>,
    /// stdin, stdout, stderr.
    streams: [BorrowedFd<'b>; 3],
}

impl Birth<'_> {
    /// The cold way.
    fn execute(&self, command: &Command) -> std::result::Result<Spawned, Verdict> {
        let Birth { worker, order, streams, .. } = self;
        let spec = &order.spec;
        let folder = spec.module.parent().map(|folder| folder.as_os_str().as_bytes());
        let folder = CString::new(folder.unwrap_or(b"/")).expect("descriptors are refused when they hold a NUL");
        let program_file = command.program_file.as_ref();
        let spawned = sys::spawn(&Spawn {
            program: &command.program,
            arguments: &command.arguments,
            environment: &self.environment(&command.environment),
            folder: Some(&folder),
            stdin: streams[0],
            stdout: streams[1],
            stderr: streams[2],
            control: None,
            confinement: Some(worker.sandbox.confinement(
                program_file,
                command.data_mib_max,
                spec.net,
                self.rulesets(),
            )),
        });
        spawned.map_err(|error| refused(spec, error))
    }

    /// The warm way; `None` where the child has died meanwhile, and so has run nothing of the function.
    fn start_child(&self, child: Child) -> Option<(Spawned, Channel)> {
        let rulesets = self.rulesets().into_iter().flatten();
        let descriptors: Vec<BorrowedFd<'_>> = self.streams.iter().copied().chain(rulesets).collect();
        child.start(&self.environment(&[]), &descriptors).ok()
    }

    fn rulesets(&self) -> [Option<BorrowedFd<'_>>; 2] {
        [self.ruleset.as_ref().map(|ruleset| ruleset.as_fd()), self.readable.as_ref().map(|it| it.landlock.as_fd())]
    }

    /// What the gateway composed, and ours where that does not name it: the deadline, the scratch folder, the functions' user,
    /// PATH, LANG, TZ, and what the runtime needs.
    fn environment(&self, of_runtime: &[CString]) -> Vec<u8> {
        let Birth { worker, order, scratch, .. } = self;
        let deadline = SystemTime::now() + order.spec.timeout;
        let deadline_ms = deadline.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let given = order.invocation.environment();
        let mut block = Vec::with_capacity(given.len() + 1024);
        block.extend_from_slice(given);
        let mut add = |pair: &[u8]| {
            let name_end = pair.iter().position(|byte| *byte == b'=').map_or(0, |at| at + 1);
            let is_named = given.split(|byte| *byte == 0).any(|other| other.starts_with(&pair[..name_end]));
            if !is_named {
                block.extend_from_slice(pair);
            }
        };
        let scratch = scratch.as_os_str().as_bytes();
        let user = worker.sandbox.user_name().as_bytes();
        add(format!("FAAS_DEADLINE_MS={deadline_ms}\0").as_bytes());
        for (name, value) in [("TMPDIR", scratch), ("HOME", scratch), ("USER", user), ("LOGNAME", user)] {
            add(&[name.as_bytes(), b"=", value, b"\0"].concat());
        }
        worker.inherited_environment.split_inclusive(|byte| *byte == 0).for_each(&mut add);
        of_runtime.iter().for_each(|pair| add(pair.as_bytes_with_nul()));
        block
    }
}

/// What becomes the function's stdin.
enum StdinForChild {
    /// The worker's descriptor of /dev/null: there is no body.
    Empty,
    File(OwnedFd),
    Pipe(PipeReader),
}

impl StdinForChild {
    fn as_fd<'b>(&'b self, worker: &'b Worker) -> BorrowedFd<'b> {
        match self {
            StdinForChild::Empty => worker.null.as_fd(),
            StdinForChild::File(file) => file.as_fd(),
            StdinForChild::Pipe(pipe) => pipe.as_fd(),
        }
    }
}

/// What of the body is not written yet, and the pipe that takes it.
struct Unfed<'a> {
    pipe: PipeWriter,
    rest: &'a [u8],
}

/// The function's stdin, and what is left to be written to it: nothing, where the body is a file or fits into the pipe.
fn feed(body: &[u8], file: Option<OwnedFd>) -> io::Result<(StdinForChild, Option<Unfed<'_>>)> {
    if let Some(file) = file {
        return Ok((StdinForChild::File(file), None));
    }
    if body.is_empty() {
        return Ok((StdinForChild::Empty, None));
    }
    let (reader, mut writer) = io::pipe()?;
    sys::set_nonblocking(writer.as_fd())?;
    let rest = match writer.write(body) {
        Ok(count) => &body[count..],
        Err(error) if error.kind() == ErrorKind::WouldBlock => body,
        Err(error) => return Err(error),
    };
    Ok((StdinForChild::Pipe(reader), (!rest.is_empty()).then_some(Unfed { pipe: writer, rest })))
}

fn output_pipe() -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    sys::set_nonblocking(reader.as_fd())?;
    Ok((reader, writer))
}

fn exhausted(step: &'static str) -> impl FnOnce(io::Error) -> Verdict {
    move |cause| Verdict::Exhausted { step: step.into(), cause: cause.to_string() }
}

/// Why a spawn failed, as a verdict with a remedy.
fn refused(spec: &FunctionSpec, error: SpawnError) -> Verdict {
    let path = spec.module.display().to_string();
    let not_executable = |cause: String| Verdict::ModuleNotExecutable { path: path.clone(), cause };
    match (error.step, error.cause.raw_os_error()) {
        ("execute", Some(libc::EACCES)) => {
            not_executable(format!("{}; try: chmod +x {}", error.cause, spec.module.display()))
        }
        ("execute", Some(libc::ENOEXEC)) => {
            not_executable("it is neither a program for this machine nor a script that begins with #!".into())
        }
        // The module is there and may be entered and read; both were looked at a moment ago.
        ("execute", Some(libc::ENOENT)) => {
            not_executable("the interpreter that its first line names is not there".into())
        }
        (step, _) => Verdict::Exhausted { step: step.into(), cause: error.cause.to_string() },
    }
}

/// Opens /dev/null, the stdin of functions without a body.
pub fn open_null() -> Result<File> {
    File::open("/dev/null").map_err(Error::io("open", "/dev/null"))
}
