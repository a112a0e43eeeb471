//! The request head: from bytes to a [`Head`], as strictly as RFC 9112 allows. Knows bytes only, no sockets.
//!
//! A connection first finds the end of the head ([`HeadScan`]), then parses it whole ([`parse_complete`]).
//!
//! Why strict: request smuggling lives on two readers of the same bytes that disagree about where a request ends. What
//! passes here has one reading. The parser rejects anything else, and names the broken rule. The connection is then
//! closed, because the start of the next head behind a doubtful one is unknown.
//!
//! Rules, with their sections of RFC 9112 (where it permits two ways, the strict one):
//!
//! | what | rule |
//! |---|---|
//! | line ends (2.2) | CRLF; a bare CR or LF is refused; one empty line before the request line is skipped |
//! | request line (3) | method SP target SP version, one space each; HTTP/1.0 or HTTP/1.1, other versions are 505 |
//! | method (9110, 9.1) | a token of at most 32 bytes; CONNECT is 501, because this is no proxy |
//! | target (3.2) | visible ASCII without `#`: `/path?query`, `http(s)://host/path?query`, or `*` with OPTIONS |
//! | Host (3.2) | exactly one with 1.1, at most one with 1.0, of the form host\[:port\], not empty |
//! | fields (5) | token, colon, value; no space before the colon, no folding, no control character but tab |
//! | Content-Length (6.3) | one line, digits only |
//! | Transfer-Encoding (6.1) | one line, `chunked`, with 1.1 only, never beside Content-Length |
//!
//! The target stays as it was sent. Rewriting `//`, `/../` or `%00` would create another reading.
//!
//! The C original (http_handler.c) read up to 4,095 bytes at once, split the first line into words with sscanf and
//! looked for the body behind the first empty line.

mod control_fields;
mod fields;
mod head;
mod host;
mod request_line;
mod scan;
mod syntax;
#[cfg(test)]
mod tests;

pub use fields::check_field;
pub use head::{BodyFraming, Field, Head, Version};
pub use scan::{HeadScan, has_begun};
pub use syntax::{is_control, is_token_byte};

use control_fields::ControlFields;
use fields::{is_withheld, parse_field, replace_host};
use request_line::{check_target, parse_request_line};

use crate::error::request::Result;

/// Parses a head whose end [`HeadScan`] has found; `bytes` end there.
///
/// # Errors
/// The [`Error`](crate::error::Error) that names the broken rule.
pub fn parse_complete(bytes: &[u8]) -> Result<Head> {
    let mut lines = bytes
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .skip_while(|line| line.is_empty())
        .take_while(|line| !line.is_empty());
    let (method, target, version) = parse_request_line(lines.next().unwrap_or_default())?;
    let authority = check_target(method, target)?;

    let mut fields = Vec::with_capacity(16);
    let mut control = ControlFields::default();
    for line in lines {
        let (name, value) = parse_field(line)?;
        control.note(name, value)?;
        if !is_withheld(name) {
            fields.push(Field { name: name.to_string(), value: value.to_vec() });
        }
    }
    fields.retain(|field| !control.names_in_connection(&field.name));

    let host = control.host(version, authority)?;
    if authority.is_some() {
        replace_host(&mut fields, host);
    }
    let framing = control.framing(version)?;
    Ok(Head {
        method: method.to_string(),
        target: target.to_string(),
        version,
        fields,
        framing,
        keep_alive: control.keep_alive(version),
        expect_continue: control.expect_continue(version)?,
        host: host.to_string(),
    })
}

/// Both steps at once, for tests: the first head in `bytes` and its length, or `None` where more bytes are needed.
#[cfg(test)]
pub fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>> {
    match HeadScan::default().end(bytes)? {
        Some(end) => Ok(Some((parse_complete(&bytes[..end])?, end))),
        None => Ok(None),
    }
}
