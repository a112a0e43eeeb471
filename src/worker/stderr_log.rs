//! Writes a function's stderr into the log: line by line, with the request id.
//!
//! Two bounds apply: one to the bytes that one call writes to the log, one to those of all calls of a function within
//! an hour (log_budget.rs). Both count bytes as they are written: a line in the log is longer than the function's own,
//! by its head and its escaped characters.

use crate::limits::{STDERR_BYTES_MAX, STDERR_LINE_BYTES_MAX};
use crate::log::Line;
use crate::log_budget::LogBudget;
use crate::protocol::function_spec::FunctionSpec;

/// Messages of programs that get no more memory: PHP, Python, the C library, C++, Rust, and most others.
const OUT_OF_MEMORY: [&str; 6] = [
    "Allowed memory size of",
    "MemoryError",
    "Cannot allocate memory",
    "std::bad_alloc",
    "memory allocation of",
    "out of memory",
];

/// Bytes of the end of a function's stderr that the ledger keeps if the call failed.
const END_BYTES_MAX: usize = 4096;

pub struct StderrLog<'a> {
    request_id: &'a str,
    spec: &'a FunctionSpec,
    budget: &'a LogBudget,
    /// The last bytes that came, at least [`END_BYTES_MAX`] of them.
    end: Vec<u8>,
    /// A line that is not complete yet.
    line: Vec<u8>,
    /// As written to the log.
    logged_bytes: usize,
    /// Counted as the function wrote them.
    dropped_bytes: usize,
    says_out_of_memory: bool,
}

impl<'a> StderrLog<'a> {
    pub fn new(request_id: &'a str, spec: &'a FunctionSpec, budget: &'a LogBudget) -> StderrLog<'a> {
        StderrLog {
            request_id,
            spec,
            budget,
            end: Vec::new(),
            line: Vec::new(),
            logged_bytes: 0,
            dropped_bytes: 0,
            says_out_of_memory: false,
        }
    }

    /// Takes bytes as they come.
    pub fn write(&mut self, bytes: &[u8]) {
        self.end.extend_from_slice(&bytes[bytes.len().saturating_sub(END_BYTES_MAX)..]);
        if self.end.len() > 2 * END_BYTES_MAX {
            self.end.drain(..self.end.len() - END_BYTES_MAX);
        }
        if !self.has_room() {
            // Nothing more is logged, so nothing needs lines.
            self.flush_line();
            self.look_for_complaint(&String::from_utf8_lossy(bytes));
            self.dropped_bytes += bytes.len();
            return;
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            // A line longer than the bound is logged as several.
            for part in piece.chunks(STDERR_LINE_BYTES_MAX) {
                if self.line.len() + part.len() > STDERR_LINE_BYTES_MAX {
                    self.flush_line();
                }
                self.line.extend_from_slice(part);
            }
            if piece.ends_with(b"\n") {
                self.flush_line();
            }
        }
    }

    /// Logs the rest, and the number of dropped bytes.
    pub fn finish(&mut self) {
        self.flush_line();
        let dropped = std::mem::take(&mut self.dropped_bytes);
        if dropped == 0 {
            return;
        }
        if self.budget.has_room() {
            self.log(&format!("{dropped} more bytes were dropped"));
        } else if let Some(dropped) = self.budget.note_dropped(dropped) {
            self.log(&format!(
                "{dropped} bytes were dropped: the function has filled its share of the log for this hour"
            ));
        }
    }

    /// The last [`END_BYTES_MAX`] bytes, as text.
    pub fn end(&self) -> String {
        String::from_utf8_lossy(&self.end[self.end.len().saturating_sub(END_BYTES_MAX)..]).into_owned()
    }

    fn log(&mut self, text: &str) {
        let (route, function) = (self.spec.route.as_str(), self.spec.name.as_str());
        let line = Line::now().text("request", self.request_id).text("route", route).text("function", function);
        let bytes = line.words("stderr", text).log();
        self.logged_bytes += bytes;
        self.budget.note_written(bytes);
    }

    /// True if the function has complained about memory. A guess, used only for functions that failed.
    pub fn says_out_of_memory(&self) -> bool {
        self.says_out_of_memory
    }

    fn has_room(&self) -> bool {
        self.logged_bytes < STDERR_BYTES_MAX && self.budget.has_room()
    }

    fn look_for_complaint(&mut self, text: &str) {
        self.says_out_of_memory |= OUT_OF_MEMORY.iter().any(|phrase| text.contains(phrase));
    }

    fn flush_line(&mut self) {
        if self.line.is_empty() {
            return;
        }
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\n', '\r']);
        self.look_for_complaint(text);
        if self.has_room() {
            self.log(text);
        } else {
            self.dropped_bytes += line.len();
        }
        self.line = line;
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::function_spec::tests::full;

    #[test]
    fn lines_are_put_together_and_the_rest_is_counted() {
        let (spec, budget) = (full(), LogBudget::new());
        let mut log = StderrLog::new("r", &spec, &budget);
        log.write(b"first Memory");
        assert_eq!(log.logged_bytes, 0);
        log.write(b"Error\nsecond");
        assert!(log.says_out_of_memory());
        assert_eq!(log.line.as_slice(), b"second");
        let before = log.logged_bytes;
        log.write(&[0; 2 * STDERR_BYTES_MAX]);
        log.finish();
        // The last line that fits may take four times its bytes and more.
        let most = STDERR_BYTES_MAX + 8 * STDERR_LINE_BYTES_MAX;
        assert!((STDERR_BYTES_MAX..most).contains(&log.logged_bytes) && before < 200, "{before} {}", log.logged_bytes);
    }

    #[test]
    fn the_end_is_kept_whatever_the_log_takes() {
        let (spec, budget) = (full(), LogBudget::new());
        let mut log = StderrLog::new("r", &spec, &budget);
        log.write(b"short");
        assert_eq!(log.end(), "short");
        for _ in 0..100 {
            log.write(&[b'x'; STDERR_LINE_BYTES_MAX]);
        }
        log.write(b"the end");
        let end = log.end();
        assert!(end.len() == END_BYTES_MAX && end.ends_with("xxthe end"), "{end}");
    }

    #[test]
    fn a_long_line_is_logged_in_parts() {
        let (spec, budget) = (full(), LogBudget::new());
        let mut log = StderrLog::new("r", &spec, &budget);
        log.write(&vec![b'x'; 3 * STDERR_LINE_BYTES_MAX + 1]);
        assert_eq!(log.line.len(), 1);
        assert!((3 * STDERR_LINE_BYTES_MAX..4 * STDERR_LINE_BYTES_MAX).contains(&log.logged_bytes));
    }
}
