//! The log: one line per event on stdout, written by a thread of its own.
//!
//! Why a thread: stdout may be a terminal that somebody has stopped with Ctrl-S, or a pipe that nobody reads. A request
//! must not wait for either. Lines go through a bounded channel; when it is full they are dropped and counted, and the
//! count is logged as soon as there is room again. A line is written with one write(2), so that lines of gateway and
//! workers, which share one stdout, do not mix.

use std::fmt;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::clock;
use crate::limits::LOG_LINES_MAX;

enum Message {
    Line(String),
    /// Answered on the inner channel when everything before it is written.
    Flush(Sender<()>),
}

static LOG: OnceLock<Sender<Message>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Starts the thread that writes.
/// Lines before the start are written at once by the caller.
pub fn start() {
    let (sender, receiver) = bounded(LOG_LINES_MAX);
    if LOG.set(sender).is_ok() {
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write_lines(receiver))
            .expect("thread for the log");
    }
}

/// Logs one line: the time is put before it, control characters in it are escaped, the newline is added.
pub fn line(text: fmt::Arguments<'_>) {
    let line = format_line(SystemTime::now(), text);
    match LOG.get() {
        Some(sender) => {
            if sender.try_send(Message::Line(line)).is_err() {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
        None => write_out(line.as_bytes()),
    }
}

/// Waits until all lines so far are written, at most one second: at the end of a program.
pub fn flush() {
    let (done, written) = bounded(1);
    if let Some(sender) = LOG.get() {
        let wait = Duration::from_secs(1);
        if sender.send_timeout(Message::Flush(done), wait).is_ok() {
            let _ = written.recv_timeout(wait);
        }
    }
}

/// `log!("worker {id}: ready")`
#[macro_export]
macro_rules! log {
    ($($arg:tt)*) => { $crate::log::line(format_args!($($arg)*)) };
}

fn write_lines(receiver: Receiver<Message>) {
    for message in receiver {
        match message {
            Message::Line(line) => write_out(line.as_bytes()),
            Message::Flush(done) => {
                let _ = done.send(());
            }
        }
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let text = format_args!("log: {dropped} lines were dropped because stdout was too slow");
            write_out(format_line(SystemTime::now(), text).as_bytes());
        }
    }
}

/// A log that cannot be written is no reason to stop serving, so errors end here.
fn write_out(line: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(line);
    let _ = stdout.flush();
}

fn format_line(now: SystemTime, text: fmt::Arguments<'_>) -> String {
    let mut line = clock::rfc_3339(now);
    line.push(' ');
    let text = text.to_string();
    if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
        for character in text.chars() {
            match character {
                '\t' => line.push('\t'),
                control if control.is_control() => line.extend(control.escape_default()),
                other => line.push(other),
            }
        }
    } else {
        line.push_str(&text);
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn a_line_stays_one_line() {
        let line = format_line(UNIX_EPOCH, format_args!("a\nb\u{1b}[31mc\té"));
        assert_eq!(line, "1970-01-01T00:00:00.000Z a\\nb\\u{1b}[31mc\té\n");
    }
}
