//! CGI/1.1 (RFC 3875, section 6): the head of a function's output becomes the head of a response. Pure functions over bytes.
//!
//! | the output begins with | it is |
//! |---|---|
//! | field lines and an empty line, one of them Status, Content-Type or Location | a head |
//! | `HTTP/1.1 404 Not Found`, field lines and an empty line | a head, as of an nph script (5); lighttpd takes it from any script |
//! | the same, but a line of it is malformed, or too long, or the empty line is missing | an error: its cookies must not be shown as a body |
//! | anything else | all body; an error where `"output": "cgi"` demands a head |
//!
//! Where servers differ, Apache's mod_cgi and lighttpd decide, if the two agree.

use crate::limits::CGI_HEAD_BYTES_MAX;

/// The head of a response, as the function wrote it and as this file checked it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgiHead {
    pub status: u16,
    /// The function gave the status itself; then its exit status does not matter.
    pub has_own_status: bool,
    /// Empty where the function gave none: the gateway then sends the standard phrase.
    pub reason: String,
    /// Without the fields that the platform sets itself, and without Content-Type.
    pub fields: Vec<(String, Vec<u8>)>,
    /// For the response to HEAD, which may state it without a body (RFC 9110, 8.6).
    pub content_length: Option<u64>,
}

/// The beginning of a function's output.
#[derive(Debug, PartialEq, Eq)]
pub enum Opening {
    /// More output must come first.
    Undecided,
    /// A head, and the offset at which the body begins.
    Head(CgiHead, usize),
    /// All of it is body.
    NoHead,
    /// A head was demanded or has begun, and is malformed: the text says how.
    Malformed(String),
}

/// Fields that make a block a head: RFC 3875 6.2 asks for one of the first two at least.
const MAKES_A_HEAD: [&str; 3] = ["content-type", "location", "status"];
/// A block with one of these fields has begun as a head: text does not begin like that.
const BEGINS_A_HEAD: [&str; 4] = ["content-type", "location", "status", "set-cookie"];

/// Fields of a function that the gateway drops: those of one connection (RFC 9110, 7.6.1), the framing, which the
/// gateway decides, those that the platform sets itself, and those that tell a proxy to send another file instead.
const DROPPED: [&str; 13] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "content-length",
    "date",
    "x-request-id",
    "server-timing",
    "x-sendfile",
];
/// Dropped as well: fields whose names begin like this.
const DROPPED_PREFIXES: [&str; 2] = ["x-faas-", "x-accel-"];

/// Looks for a head at the beginning of `output`. `is_all`: no more output comes. `is_demanded`: output without a head
/// is malformed (`"output": "cgi"`).
pub fn opening(output: &[u8], is_all: bool, is_demanded: bool) -> Opening {
    let mut lines: Vec<&[u8]> = Vec::new();
    let mut at = 0;
    loop {
        let rest = &output[at..];
        let end = rest.iter().position(|byte| *byte == b'\n');
        let fault = |why: &str| begun_or_body(&lines, is_demanded, why);
        if at + end.unwrap_or(rest.len()) > CGI_HEAD_BYTES_MAX {
            let why = format!("no empty line ends it within {} KiB", CGI_HEAD_BYTES_MAX >> 10);
            // This many field lines are not text; a single line without an end is.
            return if lines.is_empty() && !is_field(rest) { fault(&why) } else { Opening::Malformed(why) };
        }
        let Some(length) = end else {
            return match (can_become_line(rest, lines.is_empty()), is_all) {
                (false, _) => fault(&format!("line {} is not `name: value`", lines.len() + 1)),
                (true, true) => fault("no empty line ends it"),
                (true, false) => Opening::Undecided,
            };
        };
        let line = rest[..length].strip_suffix(b"\r").unwrap_or(&rest[..length]);
        at += length + 1;
        if line.is_empty() {
            break;
        }
        let is_status_line = lines.is_empty() && status_line(line).is_some();
        if !is_field(line) && !is_status_line {
            return fault(&format!("line {} is not `name: value`", lines.len() + 1));
        }
        lines.push(line);
    }
    let is_head = lines.iter().any(|line| is_one_of(line, &MAKES_A_HEAD) || status_line(line).is_some());
    if !is_head {
        return begun_or_body(&lines, is_demanded, "it has neither Content-Type nor Location nor Status");
    }
    match head_of(&lines) {
        Ok(head) => Opening::Head(head, at),
        Err(fault) => Opening::Malformed(fault),
    }
}

/// For output without a complete head: an error where a head was demanded, or where `lines` show that one had begun.
fn begun_or_body(lines: &[&[u8]], is_demanded: bool, why: &str) -> Opening {
    let has_begun = lines.iter().any(|line| is_one_of(line, &BEGINS_A_HEAD) || status_line(line).is_some());
    if is_demanded || has_begun { Opening::Malformed(why.into()) } else { Opening::NoHead }
}

fn is_one_of(line: &[u8], names: &[&str]) -> bool {
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// True for `token: …`.
fn is_field(line: &[u8]) -> bool {
    let colon = line.iter().position(|byte| *byte == b':');
    colon.is_some_and(|colon| colon > 0 && line[..colon].iter().copied().all(is_token_byte))
}

/// True where an unfinished line can be part of a head.
fn can_become_line(start: &[u8], is_first: bool) -> bool {
    const STATUS_LINE: &[u8] = b"HTTP/1.";
    let common = start.len().min(STATUS_LINE.len());
    let is_status_line = is_first && start[..common] == STATUS_LINE[..common];
    is_status_line || is_field(start) || start.iter().copied().all(|byte| is_token_byte(byte) || byte == b'\r')
}

/// RFC 9110 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The status of `HTTP/1.1 404 Not Found`.
fn status_line(line: &[u8]) -> Option<(u16, String)> {
    match line.strip_prefix(b"HTTP/1.")? {
        [b'0'..=b'9', b' ', status @ ..] => status_of(status),
        _ => None,
    }
}

fn head_of(lines: &[&[u8]]) -> Result<CgiHead, String> {
    let mut head = CgiHead { status: 0, ..CgiHead::ok() };
    let mut has_location = false;
    for line in lines {
        if let Some((status, reason)) = status_line(line) {
            (head.status, head.reason, head.has_own_status) = (status, reason, true);
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':').expect("is_field found one");
        let name = std::str::from_utf8(&line[..colon]).expect("token bytes are ASCII");
        let value = line[colon + 1..].trim_ascii();
        // RFC 9110 5.5: a CR, LF or NUL in a value could end the head, or begin another response.
        if value.iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f) {
            return Err(format!("the value of {name} holds a control character"));
        }
        if name.eq_ignore_ascii_case("status") {
            let status = status_of(value).ok_or("Status is not a number from 200 to 999 and a phrase")?;
            (head.status, head.reason, head.has_own_status) = (status.0, status.1, true);
            continue;
        }
        has_location |= name.eq_ignore_ascii_case("location");
        if name.eq_ignore_ascii_case("content-length") {
            head.content_length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        }
        if !is_dropped(name) {
            head.fields.push((name.to_string(), value.to_vec()));
        }
    }
    if head.status == 0 {
        // RFC 3875 6.2.3: a Location without a Status redirects.
        head.status = if has_location { 302 } else { 200 };
    }
    Ok(head)
}

fn is_dropped(name: &str) -> bool {
    let begins_with = |start: &&str| name.get(..start.len()).is_some_and(|begins| begins.eq_ignore_ascii_case(start));
    DROPPED_PREFIXES.iter().any(begins_with) || DROPPED.iter().any(|dropped| name.eq_ignore_ascii_case(dropped))
}

/// Three digits and a phrase behind a space, a tab, or, as Apache accepts it, a colon. No class is defined from 600 up,
/// but Apache and lighttpd pass such a status on. Below 200, another response would have to follow.
fn status_of(value: &[u8]) -> Option<(u16, String)> {
    let (digits, rest) = value.split_first_chunk::<3>()?;
    let is_number = digits.iter().all(u8::is_ascii_digit) && rest.first().is_none_or(|next| b" \t:".contains(next));
    let code = std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok().filter(|code| *code >= 200)?;
    let reason = rest.trim_ascii_start().strip_prefix(b":").unwrap_or(rest).trim_ascii();
    // No control character may reach the status line: of an output that begins with one, nothing else has checked it.
    let is_plain = reason.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control());
    let reason = if is_plain { reason } else { b"" };
    Some((code, String::from_utf8_lossy(reason).into_owned()))
}

impl CgiHead {
    /// The head for output that has none, or in which the gateway looks for none.
    pub fn ok() -> CgiHead {
        CgiHead { status: 200, has_own_status: false, reason: String::new(), fields: Vec::new(), content_length: None }
    }

    /// Adds the Content-Type that the body's first bytes suggest, where the function gave none.
    pub fn with_content_type(mut self, body: &[u8]) -> CgiHead {
        if !self.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            let guess: &[u8] = match body.trim_ascii_start().first() {
                Some(b'{' | b'[') => b"application/json",
                _ => b"text/plain; charset=utf-8",
            };
            self.fields.push(("Content-Type".into(), guess.into()));
        }
        self
    }

    pub fn is_event_stream(&self) -> bool {
        self.fields.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case("content-type")
                && value.get(..17).is_some_and(|start| start.eq_ignore_ascii_case(b"text/event-stream"))
        })
    }
}

#[cfg(test)]
mod tests;
