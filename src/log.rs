//! The log: one line per event on stdout, written by a thread of its own.
//!
//! Why a thread: stdout may be a terminal stopped with Ctrl-S, or a pipe without a reader. A request must not wait for
//! either. Lines go through a bounded channel. When it is full, lines are dropped and counted, and the count is logged
//! as soon as the channel has room again. Lines go out whole, as many in one write(2) as a pipe takes in one piece, so
//! that lines of gateway and workers, which share one stdout, do not mix.
//!
//! A line is fields and words: `TIME request=ID route=KEY … words`, or with FAAS_LOG=json one JSON object, in which the
//! words are `message`. Each line of a call has its request id, its route and its function under the same names.

use std::fmt;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::clock;
use crate::limits::{LOG_GATHER, LOG_LINES_MAX};

enum Message {
    Line(String),
    /// Answered on the inner channel once everything before it is written.
    Flush(Sender<()>),
}

static LOG: OnceLock<Sender<Message>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// The format of lines: FAAS_LOG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

/// Starts the thread that writes. Earlier lines are written at once by the caller, as text.
pub fn start(format: Format) {
    IS_JSON.store(format == Format::Json, Ordering::Relaxed);
    let (sender, receiver) = bounded(LOG_LINES_MAX);
    if LOG.set(sender).is_ok() {
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write_lines(receiver))
            .expect("thread for the log");
    }
}

/// Logs one line of words: adds the time before it and the newline after it, and escapes control characters.
pub fn line(text: fmt::Arguments<'_>) {
    Line::now().message(text).log();
}

/// A line under construction.
pub struct Line {
    /// The text, without its end.
    text: String,
    format: Format,
}

impl Line {
    pub fn now() -> Line {
        let format = if IS_JSON.load(Ordering::Relaxed) { Format::Json } else { Format::Text };
        Line::at(SystemTime::now(), format)
    }

    fn at(time: SystemTime, format: Format) -> Line {
        let time = clock::rfc_3339(time);
        let text = match format {
            Format::Text => time,
            Format::Json => format!("{{\"time\":\"{time}\""),
        };
        Line { text, format }
    }

    /// Adds `name=value`. A text that does not exist is a dash, or null.
    pub fn text<'a>(mut self, name: &str, value: impl Into<Option<&'a str>>) -> Line {
        let value = value.into();
        match self.format {
            Format::Text => {
                self.text.extend([" ", name, "="]);
                push_escaped(&mut self.text, value.unwrap_or("-"));
            }
            Format::Json => match value {
                Some(value) => push_json(&mut self.text, name, value),
                None => self.text.push_str(&format!(",\"{name}\":null")),
            },
        }
        self
    }

    /// Adds a number, whose Display must write it as JSON does.
    pub fn number(mut self, name: &str, value: Option<impl fmt::Display>) -> Line {
        let (value, none) = (value.map(|value| value.to_string()), ["-", "null"]);
        match self.format {
            Format::Text => self.text.extend([" ", name, "=", value.as_deref().unwrap_or(none[0])]),
            Format::Json => self.text.extend([",\"", name, "\":", value.as_deref().unwrap_or(none[1])]),
        }
        self
    }

    /// Adds words, which are `name` in JSON, and after `name: ` in text.
    pub fn words(mut self, name: &str, words: &str) -> Line {
        match self.format {
            Format::Text => {
                self.text.extend([" ", name, ": "]);
                push_escaped(&mut self.text, words);
            }
            Format::Json => push_json(&mut self.text, name, words),
        }
        self
    }

    /// Adds words without a name.
    pub fn message(mut self, words: fmt::Arguments<'_>) -> Line {
        match self.format {
            Format::Text => {
                self.text.push(' ');
                push_escaped(&mut self.text, &words.to_string());
            }
            Format::Json => push_json(&mut self.text, "message", &words.to_string()),
        }
        self
    }

    fn ended(mut self) -> String {
        self.text.push_str(if self.format == Format::Json { "}\n" } else { "\n" });
        self.text
    }

    /// Hands the line to the thread that writes. Returns its number of bytes.
    pub fn log(self) -> usize {
        let mut line = self.ended();
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
        // A sleeping thread need not be woken for each line: under load that would cost more than the writing.
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
            add(&mut batch, &Line::now().message(text).ended());
        }
        write_out(&mut batch);
    }
}

/// Adds a line to the next write, while a pipe can take that write as a whole.
fn add(batch: &mut String, line: &str) {
    if batch.len() + line.len() > libc::PIPE_BUF {
        write_out(batch);
    }
    batch.push_str(line);
}

/// An unwritable log is no reason to stop serving, so errors end here.
fn write_out(lines: &mut String) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush());
    lines.clear();
}

fn push_escaped(line: &mut String, text: &str) {
    match text.bytes().all(|byte| matches!(byte, 0x20..0x7f)) {
        true => line.push_str(text),
        false => text.chars().for_each(|character| match deceives(character) {
            true => line.extend(character.escape_default()),
            false => line.push(character),
        }),
    }
}

/// A string in the form of RFC 8259, 7. All deceiving characters get four hexadecimal digits.
fn push_json(line: &mut String, name: &str, text: &str) {
    line.extend([",\"", name, "\":\""]);
    for character in text.chars() {
        match character {
            '"' | '\\' => line.extend(['\\', character]),
            _ if character.is_control() || deceives(character) => {
                line.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => line.push(character),
        }
    }
    line.push('"');
}

/// Characters that make a terminal or a pager show something else than the log holds: controls, including C1, which
/// some terminals obey; other line ends; marks that turn the direction of text (Unicode UAX #9, 2); the byte order
/// mark. The tab is none of them.
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

    fn line(format: Format, text: &str) -> String {
        Line::at(UNIX_EPOCH, format).message(format_args!("{text}")).ended()
    }

    #[test]
    fn a_line_stays_one_line() {
        assert_eq!(line(Format::Text, "a\nb\u{1b}[31mc\té"), "1970-01-01T00:00:00.000Z a\\nb\\u{1b}[31mc\té\n");
    }

    #[test]
    fn nothing_in_a_line_deceives_its_reader() {
        let text = line(Format::Text, "\u{9b}31m \u{202e}txt.exe\u{2069} \u{2028}é€😀");
        assert_eq!(text, "1970-01-01T00:00:00.000Z \\u{9b}31m \\u{202e}txt.exe\\u{2069} \\u{2028}é€😀\n");
    }

    #[test]
    fn json_reads_back_whatever_is_in_it() {
        let nasty = "\"\\ \n\t\0\u{1b}\u{9b}\u{202e}\u{2028}é€😀";
        let text = Line::at(UNIX_EPOCH, Format::Json).text("a", nasty).text("b", None).number("c", Some(1.5));
        let text = text.number("d", None::<u64>).words("e", "w").message(format_args!("{nasty}")).ended();
        assert!(text.ends_with("}\n") && !text.trim_end().contains(|c: char| deceives(c)), "{text}");
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({"time": "1970-01-01T00:00:00.000Z", "a": nasty, "b": null, "c": 1.5, "d": null,
            "e": "w", "message": nasty});
        assert_eq!(read, expected);
    }
}
