//! A function's stderr on its way into the log: line by line, with the request id, bounded.

use std::fmt;

use crate::limits::{STDERR_BYTES_MAX, STDERR_LINE_BYTES_MAX};
use crate::log;
use crate::protocol::function_spec::FunctionSpec;

/// What programs say when they get no more memory: PHP, Python, the C library, C++, Rust, and most others.
const OUT_OF_MEMORY: [&str; 6] = [
    "Allowed memory size of",
    "MemoryError",
    "Cannot allocate memory",
    "std::bad_alloc",
    "memory allocation of",
    "out of memory",
];

/// Bytes of the end of a function's stderr that the ledger keeps where the call failed.
const END_BYTES_MAX: usize = 4096;

pub struct StderrLog<'a> {
    request_id: &'a str,
    spec: &'a FunctionSpec,
    /// The last bytes that came, at least [`END_BYTES_MAX`] of them.
    end: Vec<u8>,
    /// A line whose end has not come.
    line: Vec<u8>,
    logged_bytes: usize,
    dropped_bytes: usize,
    says_out_of_memory: bool,
}

impl<'a> StderrLog<'a> {
    pub fn new(request_id: &'a str, spec: &'a FunctionSpec) -> StderrLog<'a> {
        StderrLog {
            request_id,
            spec,
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
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.logged_bytes + self.line.len() + piece.len() > STDERR_BYTES_MAX {
                self.dropped_bytes += piece.len();
                continue;
            }
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

    /// Logs what is left, and what was dropped.
    pub fn finish(&mut self) {
        self.flush_line();
        if self.dropped_bytes > 0 {
            self.log(format_args!("{} more bytes were dropped", self.dropped_bytes));
        }
    }

    /// The last [`END_BYTES_MAX`] bytes, as text.
    pub fn end(&self) -> String {
        String::from_utf8_lossy(&self.end[self.end.len().saturating_sub(END_BYTES_MAX)..]).into_owned()
    }

    fn log(&self, text: fmt::Arguments<'_>) {
        let (id, route, function) = (self.request_id, &self.spec.route, &self.spec.name);
        log!("request={id} route={route} function={function} stderr: {text}");
    }

    /// Whether the function has complained about memory. A guess, asked only of functions that failed.
    pub fn says_out_of_memory(&self) -> bool {
        self.says_out_of_memory
    }

    fn flush_line(&mut self) {
        if self.line.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&self.line);
        let text = text.trim_end_matches(['\n', '\r']);
        self.says_out_of_memory |= OUT_OF_MEMORY.iter().any(|phrase| text.contains(phrase));
        self.log(format_args!("{text}"));
        self.logged_bytes += self.line.len();
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::function_spec::tests::full;

    #[test]
    fn lines_are_put_together_and_the_rest_is_counted() {
        let spec = full();
        let mut log = StderrLog::new("r", &spec);
        log.write(b"first Memory");
        assert_eq!(log.logged_bytes, 0);
        log.write(b"Error\nsecond");
        assert!(log.says_out_of_memory());
        assert_eq!((log.logged_bytes, log.line.as_slice()), (18, b"second".as_slice()));
        log.write(&[b'x'; STDERR_BYTES_MAX]);
        assert_eq!(log.dropped_bytes, STDERR_BYTES_MAX);
        log.finish();
        assert_eq!(log.logged_bytes, 24);
    }

    #[test]
    fn the_end_is_kept_whatever_the_log_takes() {
        let spec = full();
        let mut log = StderrLog::new("r", &spec);
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
        let spec = full();
        let mut log = StderrLog::new("r", &spec);
        log.write(&vec![b'x'; 3 * STDERR_LINE_BYTES_MAX + 1]);
        assert_eq!((log.logged_bytes, log.line.len()), (3 * STDERR_LINE_BYTES_MAX, 1));
    }
}
