//! The log: one line per event on stdout, written by a thread of its own.
//!
//! Why a thread: stdout may be a terminal that somebody has stopped with Ctrl-S, or a pipe that nobody reads. A request
//! must not wait for either. Lines go through a bounded channel; when it is full they are dropped and counted, and the
//! count is logged as soon as there is room again. Lines go out whole, as many in one write(2) as a pipe takes in one piece,
//! so that lines of gateway and workers, which share one stdout, do not mix.

use std::fmt;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::clock;
use crate::limits::{LOG_GATHER, LOG_LINES_MAX};

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

/// Logs one line: the time is put before it, control characters in it are escaped, the newline is added. Returns how many
/// bytes that makes.
pub fn line(text: fmt::Arguments<'_>) -> usize {
    let mut line = format_line(SystemTime::now(), text);
    let bytes = line.len();
    match LOG.get() {
        Some(sender) => {
            if sender.try_send(Message::Line(line)).is_err() {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
        None => write_out(&mut line),
    }
    bytes
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
    ($($arg:tt)*) => {{ let _bytes = $crate::log::line(format_args!($($arg)*)); }};
}

fn write_lines(receiver: Receiver<Message>) {
    let mut batch = String::new();
    while let Ok(first) = receiver.recv() {
        // A thread that sleeps here need not be woken for each line: under load that would cost more than the writing.
        std::thread::sleep(LOG_GATHER);
        for message in std::iter::once(first).chain(receiver.try_iter().take(LOG_LINES_MAX)) {
            match message {
                Message::Line(line) => add(&mut batch, &line),
                Message::Flush(done) => {
                    write_out(&mut batch);
                    let _ = done.send(());
                }
            }
        }
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let text = format_args!("log: {dropped} lines were dropped because stdout was too slow");
            add(&mut batch, &format_line(SystemTime::now(), text));
        }
        write_out(&mut batch);
    }
}

/// Puts a line to those that go out in one write, as long as a pipe takes that write as a whole.
fn add(batch: &mut String, line: &str) {
    if batch.len() + line.len() > libc::PIPE_BUF {
        write_out(batch);
    }
    batch.push_str(line);
}

/// A log that cannot be written is no reason to stop serving, so errors end here.
fn write_out(lines: &mut String) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush());
    lines.clear();
}

fn format_line(now: SystemTime, text: fmt::Arguments<'_>) -> String {
    let mut line = clock::rfc_3339(now);
    line.push(' ');
    let text = text.to_string();
    match text.bytes().all(|byte| matches!(byte, 0x20..0x7f)) {
        true => line.push_str(&text),
        false => text.chars().for_each(|character| match deceives(character) {
            true => line.extend(character.escape_default()),
            false => line.push(character),
        }),
    }
    line.push('\n');
    line
}

/// Characters that make a terminal or a pager show something else than the log holds: controls, C1 included, which some
/// terminals obey; other ends of lines; marks that turn the direction of text (Unicode UAX #9, 2); the byte order mark.
/// The tab is none of them.
fn deceives(character: char) -> bool {
    const TURNS_TEXT: [char; 12] = [
        '\u{61c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}', '\u{2066}',
        '\u{2067}', '\u{2068}', '\u{2069}',
    ];
    let ends_line = matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}');
    (character.is_control() && character != '\t') || ends_line || TURNS_TEXT.contains(&character)
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

    #[test]
    fn nothing_in_a_line_deceives_its_reader() {
        let line = format_line(UNIX_EPOCH, format_args!("\u{9b}31m \u{202e}txt.exe\u{2069} \u{2028}é€😀"));
        assert_eq!(line, "1970-01-01T00:00:00.000Z \\u{9b}31m \\u{202e}txt.exe\\u{2069} \\u{2028}é€😀\n");
    }
}
