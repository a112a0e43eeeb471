//! A function's stdin, stdout and stderr: the ends of its process, and the worker's, which never block.

use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::fchown;

use super::connection::Connection;
use super::order::Order;
use super::stderr_log::StderrLog;
use crate::limits::{PIPE_BYTES_MAX, SPOOL_MEMORY_MAX};
use crate::protocol::worker_protocol::Kind;
use crate::sandbox::User;
use crate::sys::{self, Watched};

/// Bytes to read from a function at once, until one read has filled them. Most functions write less in all, and
/// clearing a larger buffer takes longer than reading.
const READ_BYTES_FIRST: usize = 4096;

/// The worker's ends.
pub struct Streams<'a> {
    /// `None` once all of the body is written.
    stdin: Option<Unfed<'a>>,
    stdout: Option<PipeReader>,
    stderr: Option<PipeReader>,
    stderr_log: StderrLog<'a>,
    buffer: Vec<u8>,
}

/// The rest of the body, and the pipe that takes it.
struct Unfed<'a> {
    pipe: PipeWriter,
    rest: &'a [u8],
}

/// The function's ends: stdin, stdout, stderr.
pub struct Ends([OwnedFd; 3]);

impl Ends {
    pub fn as_fds(&self) -> [BorrowedFd<'_>; 3] {
        self.0.each_ref().map(OwnedFd::as_fd)
    }
}

impl<'a> Streams<'a> {
    /// Makes both sides of all three. The function's ends belong to `user`, so that it can open them by name:
    /// /dev/stdin.
    pub fn new(order: &'a Order, user: Option<&User>, null: &File) -> io::Result<(Streams<'a>, Ends)> {
        let (stdin_for_child, stdin) = feed(order, null)?;
        let (stdout, stdout_for_child) = output_pipe()?;
        let (stderr, stderr_for_child) = output_pipe()?;
        let ends = Ends([stdin_for_child, stdout_for_child, stderr_for_child]);
        if let Some(user) = user {
            // All but the worker's own /dev/null, which every user may open.
            let has_body = order.body.is_some() || !order.invocation.body().is_empty();
            for end in &ends.0[usize::from(!has_body)..] {
                fchown(end, Some(user.uid), Some(user.gid))?;
            }
        }
        let streams = Streams {
            stdin,
            stdout: Some(stdout),
            stderr: Some(stderr),
            stderr_log: StderrLog::new(order.invocation.request_id(), order.spec(), &order.function.log_budget),
            buffer: vec![0; READ_BYTES_FIRST],
        };
        Ok((streams, ends))
    }

    /// For poll, in this order: stdin if the body has a rest, stdout if `wants_stdout`, stderr if `wants_stderr`.
    pub fn watched(&self, wants_stdout: bool, wants_stderr: bool) -> [Watched<'_>; 3] {
        let nothing = Watched::nothing;
        [
            self.stdin.as_ref().map_or_else(nothing, |unfed| Watched::write(unfed.pipe.as_fd())),
            self.stdout.as_ref().filter(|_| wants_stdout).map_or_else(nothing, |pipe| Watched::read(pipe.as_fd())),
            self.stderr.as_ref().filter(|_| wants_stderr).map_or_else(nothing, |pipe| Watched::read(pipe.as_fd())),
        ]
    }

    /// Writes more of the body.
    pub fn feed_more(&mut self) {
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

    /// Logs a piece of the function's stderr; returns its length.
    pub fn read_stderr(&mut self) -> usize {
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

    /// Moves a piece of output into the connection's outbox; returns its length.
    pub fn read_stdout(&mut self, connection: &mut Connection) -> usize {
        let Some(pipe) = &mut self.stdout else { return 0 };
        match pipe.read(&mut self.buffer) {
            Ok(count) if count > 0 => {
                connection.push(Kind::Output, &self.buffer[..count]);
                if count == self.buffer.len() {
                    self.buffer.resize(SPOOL_MEMORY_MAX, 0);
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

    /// Takes no more output.
    pub fn close_stdout(&mut self) {
        self.stdout = None;
    }

    /// Logs the rest of stderr, and keeps its end. The bound is for a process that goes on writing.
    pub fn finish_stderr(&mut self) {
        let mut taken = 0;
        while taken < PIPE_BYTES_MAX {
            match self.read_stderr() {
                0 => break,
                count => taken += count,
            }
        }
        self.stderr_log.finish();
    }

    /// The end of the function's stderr.
    pub fn stderr_end(&self) -> String {
        self.stderr_log.end()
    }

    /// True if the function has complained about memory.
    pub fn says_out_of_memory(&self) -> bool {
        self.stderr_log.says_out_of_memory()
    }
}

/// The function's stdin, and the rest of the body to write: none if the body is a file or fits into the pipe.
fn feed<'a>(order: &'a Order, null: &File) -> io::Result<(OwnedFd, Option<Unfed<'a>>)> {
    if let Some(file) = &order.body {
        let mut file = file.try_clone()?;
        file.rewind()?;
        return Ok((file.into(), None));
    }
    let body = order.invocation.body();
    if body.is_empty() {
        return Ok((null.as_fd().try_clone_to_owned()?, None));
    }
    let (reader, mut writer) = io::pipe()?;
    sys::set_nonblocking(writer.as_fd())?;
    let rest = match writer.write(body) {
        Ok(count) => &body[count..],
        Err(error) if error.kind() == ErrorKind::WouldBlock => body,
        Err(error) => return Err(error),
    };
    Ok((reader.into(), (!rest.is_empty()).then_some(Unfed { pipe: writer, rest })))
}

fn output_pipe() -> io::Result<(PipeReader, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    sys::set_nonblocking(reader.as_fd())?;
    Ok((reader, writer.into()))
}
