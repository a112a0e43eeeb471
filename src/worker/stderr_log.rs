//! A function's stderr on its way into the log: line by line, with the request id, bounded.

use crate::limits::{STDERR_BYTES_MAX, STDERR_LINE_BYTES_MAX};
use crate::log;

/// What programs say when they get no more memory: PHP, Python, the C library, C++, Rust, and most others.
const OUT_OF_MEMORY: [&str; 6] = [
    "Allowed memory size of",
    "MemoryError",
    "Cannot allocate memory",
    "std::bad_alloc",
    "memory allocation of",
    "out of memory",
];

pub struct StderrLog<'a> {
    request_id: &'a str,
    function: &'a str,
    /// A line whose end has not come.
    line: Vec<u8>,
    logged_bytes: usize,
    dropped_bytes: usize,
    says_out_of_memory: bool,
}

impl<'a> StderrLog<'a> {
    pub fn new(request_id: &'a str, function: &'a str) -> StderrLog<'a> {
        let line = Vec::new();
        StderrLog { request_id, function, line, logged_bytes: 0, dropped_bytes: 0, says_out_of_memory: false }
    }

    /// Takes bytes as they come.
    pub fn write(&mut self, bytes: &[u8]) {
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
            let (id, function, dropped) = (self.request_id, self.function, self.dropped_bytes);
            log!("request={id} function={function} stderr: {dropped} more bytes were dropped");
        }
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
        log!("request={} function={} stderr: {text}", self.request_id, self.function);
        self.logged_bytes += self.line.len();
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_and_the_rest_is_counted() {
        let mut log = StderrLog::new("r", "f");
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
    fn a_long_line_is_logged_in_parts() {
        let mut log = StderrLog::new("r", "f");
        log.write(&vec![b'x'; 3 * STDERR_LINE_BYTES_MAX + 1]);
        assert_eq!((log.logged_bytes, log.line.len()), (3 * STDERR_LINE_BYTES_MAX, 1));
    }
}
