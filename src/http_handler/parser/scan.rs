//! Finds the end of a head, before its lines are parsed.
//!
//! The scan looks at each byte once, so that a client that sends them one by one costs no more than another. It rejects
//! a broken line end, or a request line that is too long, without waiting for the rest.

use super::request_line::METHOD_RULE;
use super::syntax::is_control;
use crate::error::request::{RequestError, Result};
use crate::limits::{HEAD_BYTES_MAX, HEAD_FIELDS_MAX, METHOD_BYTES_MAX, TARGET_BYTES_MAX};

const HEAD_RULE: &str = "it does not end within 64 KiB";

/// True once a request has begun: an empty line alone may be the tail of the previous one.
pub fn has_begun(bytes: &[u8]) -> bool {
    !matches!(bytes, b"" | b"\r" | b"\r\n")
}

/// The search for the end of a head whose bytes come in pieces.
#[derive(Debug, Default)]
pub struct HeadScan {
    /// Number of bytes already scanned.
    at: usize,
    line_start: usize,
    lines: usize,
    skipped_empty_line: bool,
}

impl HeadScan {
    /// Continues with all bytes of the head so far. Returns the offset behind the empty line that ends the head, or `None`
    /// where more bytes are needed.
    pub fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        while let Some(&byte) = bytes.get(self.at) {
            if self.at >= HEAD_BYTES_MAX {
                return Err(RequestError::HeadTooLarge(HEAD_RULE));
            }
            match byte {
                b'\r' => match bytes.get(self.at + 1) {
                    None => break,
                    Some(b'\n') => {
                        let empty = self.at == self.line_start;
                        self.at += 2;
                        self.line_start = self.at;
                        if self.end_line(empty)? {
                            return Ok(Some(self.at));
                        }
                    }
                    Some(_) => return Err(RequestError::RequestMalformed("CR without LF")),
                },
                b'\n' => return Err(RequestError::RequestMalformed("LF without CR")),
                byte if is_control(byte) => {
                    return Err(RequestError::RequestMalformed("a control character in the head"));
                }
                _ => {
                    self.at += 1;
                    self.check_request_line(bytes)?;
                }
            }
        }
        // A head of the maximum length would have ended by now.
        if bytes.len() >= HEAD_BYTES_MAX {
            return Err(RequestError::HeadTooLarge(HEAD_RULE));
        }
        Ok(None)
    }

    /// Counts a line that has ended; returns true where it ends the head.
    fn end_line(&mut self, empty: bool) -> Result<bool> {
        if !empty {
            self.lines += 1;
            if self.lines > 1 + HEAD_FIELDS_MAX {
                return Err(RequestError::HeadTooLarge("it has more than 100 header lines"));
            }
        } else if self.lines > 0 {
            return if self.at <= HEAD_BYTES_MAX { Ok(true) } else { Err(RequestError::HeadTooLarge(HEAD_RULE)) };
        } else if std::mem::replace(&mut self.skipped_empty_line, true) {
            return Err(RequestError::RequestMalformed("more than one empty line before the request line"));
        }
        Ok(false)
    }

    /// Rejects a request line as soon as it is too long for any method, target and version.
    fn check_request_line(&self, bytes: &[u8]) -> Result<()> {
        const LONGEST: usize = METHOD_BYTES_MAX + 1 + TARGET_BYTES_MAX + " HTTP/1.1".len();
        if self.lines > 0 || self.at - self.line_start <= LONGEST {
            return Ok(());
        }
        let line = &bytes[self.line_start..self.at];
        match line[..=METHOD_BYTES_MAX].contains(&b' ') {
            true => Err(RequestError::TargetTooLong),
            false => Err(RequestError::RequestMalformed(METHOD_RULE)),
        }
    }
}
