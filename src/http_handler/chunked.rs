//! Chunked bodies (RFC 9112, 7.1): a decoder that accepts pieces of any size. Knows bytes only.
//!
//! It keeps at most one line, so [`CHUNK_LINE_BYTES_MAX`] and [`TRAILER_BYTES_MAX`] bound its memory. It is as strict
//! as the parser of heads, for the same reason:
//!
//! - A size is hexadecimal digits only.
//! - Every line ends with CRLF, and so does a chunk's data.
//! - An extension must have its syntax, and is then ignored.
//! - A trailer must be a valid header line, and is then dropped.

use super::parser::{check_field, is_control, is_token_byte};
use crate::error::request::{RequestError, Result};
use crate::limits::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};

/// Kind of the next bytes of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    SizeLine,
    /// This many bytes of data; never 0.
    Data(u64),
    /// The CRLF behind the data.
    DataEnd,
    TrailerLine,
    Nothing,
}

/// Result of one step.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    Data(&'a [u8]),
    /// The input is used up and the body has not ended.
    More,
    End,
}

#[derive(Debug)]
pub struct ChunkDecoder {
    expected: Expected,
    /// The part of the current line that has arrived.
    line: Vec<u8>,
    /// The last byte was a CR that ends the line if LF follows.
    after_cr: bool,
    trailer_bytes: usize,
}

impl ChunkDecoder {
    pub fn new() -> ChunkDecoder {
        ChunkDecoder { expected: Expected::SizeLine, line: Vec::new(), after_cr: false, trailer_bytes: 0 }
    }

    /// Takes bytes from the front of `input`; returns their number and their kind. Takes none after the end of the
    /// body.
    pub fn step<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Step<'a>)> {
        let mut used = 0;
        loop {
            match self.expected {
                Expected::Nothing => return Ok((used, Step::End)),
                Expected::Data(left) if used < input.len() => {
                    let count = (input.len() - used).min(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - count as u64;
                    self.expected = if left == 0 { Expected::DataEnd } else { Expected::Data(left) };
                    return Ok((used + count, Step::Data(&input[used..used + count])));
                }
                Expected::Data(_) => return Ok((used, Step::More)),
                _ => {
                    let (count, complete) = self.take_line(&input[used..])?;
                    used += count;
                    if !complete {
                        return Ok((used, Step::More));
                    }
                    self.use_line()?;
                }
            }
        }
    }

    /// Moves bytes into `line` up to and without its CRLF. Returns the number of bytes taken, and true at the CRLF.
    fn take_line(&mut self, input: &[u8]) -> Result<(usize, bool)> {
        for (index, &byte) in input.iter().enumerate() {
            match (self.after_cr, byte) {
                (true, b'\n') => {
                    self.after_cr = false;
                    return Ok((index + 1, true));
                }
                (true, _) => return Err(RequestError::RequestMalformed("CR without LF in a chunked body")),
                (false, b'\r') => self.after_cr = true,
                (false, b'\n') => return Err(RequestError::RequestMalformed("LF without CR in a chunked body")),
                (false, byte) => self.take_line_byte(byte)?,
            }
        }
        Ok((input.len(), false))
    }

    fn take_line_byte(&mut self, byte: u8) -> Result<()> {
        match self.expected {
            Expected::DataEnd => return Err(RequestError::RequestMalformed("a chunk's data is longer than its size")),
            Expected::SizeLine if self.line.len() == CHUNK_LINE_BYTES_MAX => {
                return Err(RequestError::RequestMalformed("a chunk-size line of more than 256 bytes"));
            }
            Expected::TrailerLine => {
                self.trailer_bytes += 1;
                if self.trailer_bytes > TRAILER_BYTES_MAX {
                    return Err(RequestError::HeadTooLarge("the trailers of its body have more than 8 KiB"));
                }
            }
            _ => {}
        }
        if is_control(byte) {
            return Err(RequestError::RequestMalformed("a control character in a chunked body's framing"));
        }
        self.line.push(byte);
        Ok(())
    }

    fn use_line(&mut self) -> Result<()> {
        self.expected = match self.expected {
            Expected::SizeLine => match parse_size_line(&self.line)? {
                0 => Expected::TrailerLine,
                size => Expected::Data(size),
            },
            Expected::DataEnd => Expected::SizeLine,
            Expected::TrailerLine if self.line.is_empty() => Expected::Nothing,
            Expected::TrailerLine => {
                check_field(&self.line)?;
                Expected::TrailerLine
            }
            Expected::Data(_) | Expected::Nothing => self.expected,
        };
        self.line.clear();
        Ok(())
    }
}

/// `1*HEXDIG *( BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ] )`, at most 16 digits.
fn parse_size_line(line: &[u8]) -> Result<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, mut rest) = line.split_at(digits);
    let size = std::str::from_utf8(size).ok().filter(|size| size.len() <= 16);
    let size = size.and_then(|size| u64::from_str_radix(size, 16).ok());
    let size = size.ok_or(RequestError::RequestMalformed("a chunk size is not 1 to 16 hexadecimal digits"))?;
    while !rest.is_empty() {
        rest = skip_extension(rest).ok_or(RequestError::RequestMalformed("a chunk extension is malformed"))?;
    }
    Ok(size)
}

fn skip_extension(text: &[u8]) -> Option<&[u8]> {
    let text = skip_token(skip_space(skip_space(text).strip_prefix(b";")?))?;
    match skip_space(text).strip_prefix(b"=").map(skip_space) {
        None => Some(text),
        Some(value) => match value.strip_prefix(b"\"") {
            None => skip_token(value),
            Some(quoted) => skip_quoted(quoted),
        },
    }
}

fn skip_space(text: &[u8]) -> &[u8] {
    let count = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    &text[count..]
}

fn skip_token(text: &[u8]) -> Option<&[u8]> {
    let count = text.iter().take_while(|byte| is_token_byte(**byte)).count();
    (count > 0).then(|| &text[count..])
}

/// Skips a quoted string, from behind its opening quote (RFC 9110, 5.6.4).
fn skip_quoted(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        text = match text {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', _, rest @ ..] => rest,
            [b'\\'] | [] => return None,
            [_, rest @ ..] => rest,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::each;
    use crate::fuzzing::{self, decoded};

    #[test]
    fn pieces_of_any_size_decode_to_the_same() {
        let bodies: [&str; 8] = [
            "0\r\n\r\nbehind",
            "5\r\nhello\r\n6;a=\"b\\\"c\"\r\n world\r\n0\r\nT: 1\r\nU: 2\r\n\r\nbehind",
            "5\r\nhel",
            "5\r\nhello\r\n0\r\n",
            "5\r\nhello\r\n0\r\n\rx",
            "5\r\nhelloo\r\n0\r\n\r\n",
            "5;\x01\r\nhello\r\n0\r\n\r\n",
            "ffffffffffffffff\r\nhello",
        ];
        each(bodies, |body| fuzzing::chunks(body.as_bytes()));
        assert_eq!(decoded(bodies[1].as_bytes(), 1), Ok((b"hello world".to_vec(), bodies[1].len() - 6, true)));
    }

    #[test]
    fn lines_and_trailers_are_bounded() {
        let status = |body: &[u8]| decoded(body, 64).map_or_else(|(status, _)| status, |_| 200);
        let with_extension = |bytes: usize| format!("0;{}\r\n\r\n", "x".repeat(bytes - 2)).into_bytes();
        assert_eq!(status(&with_extension(CHUNK_LINE_BYTES_MAX)), 200);
        assert_eq!(status(&with_extension(CHUNK_LINE_BYTES_MAX + 1)), 400);
        let trailers = |lines: usize| format!("0\r\n{}\r\n", format!("T: {}\r\n", "x".repeat(125)).repeat(lines));
        assert_eq!(status(trailers(TRAILER_BYTES_MAX / 128).as_bytes()), 200);
        assert_eq!(status(trailers(TRAILER_BYTES_MAX / 128 + 1).as_bytes()), 431);
    }
}
