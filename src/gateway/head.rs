//! The request head: from bytes to a [`Head`], as strictly as RFC 9112 allows. Knows bytes only, no sockets.
//!
//! Why strict: request smuggling lives on two readers of the same bytes that disagree about where a request ends. What
//! passes here has one reading. What does not is refused with the rule it breaks, and its connection is closed, because
//! after a doubtful head nobody knows where the next one starts.
//!
//! Rules, with their sections of RFC 9112 (where a choice is left, the strict one is taken):
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
//! The target is kept and compared as it was sent: `//`, `/../` and `%00` are not rewritten, since each rewriting is one
//! more reading.
//!
//! The C original (http_handler.c) read up to 4,095 bytes at once, took the words of the first line with sscanf and
//! looked for the body behind the first empty line.

use std::net::{IpAddr, Ipv6Addr};

use crate::error::{Error, Result};
use crate::limits::{HEAD_BYTES_MAX, HEAD_FIELDS_MAX, METHOD_BYTES_MAX, TARGET_BYTES_MAX};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// How the end of the body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is no body.
    None,
    /// This many bytes.
    Length(u64),
    /// Chunks (RFC 9112, 7.1).
    Chunked,
}

/// One header line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// As sent; names are compared without regard to case.
    pub name: String,
    /// Without the white space around it. Bytes from 0x80 up may occur, control characters but tab may not.
    pub value: Vec<u8>,
}

/// A request head that keeps all the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub method: String,
    /// As sent, ASCII.
    pub target: String,
    pub version: Version,
    /// Without what is for this connection only: see [`is_kept_back`], and the fields that Connection names.
    pub fields: Vec<Field>,
    pub framing: BodyFraming,
    /// The client wants to use the connection again.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// Host and port as sent, from an absolute target where there is one; "" where a 1.0 client sent none.
    pub host: String,
}

impl Head {
    /// The path of the target as sent; "*" for `OPTIONS *`.
    pub fn path(&self) -> &str {
        let path = self.path_and_query();
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        if path.is_empty() { "/" } else { path }
    }

    /// What follows the first `?` of the target; "" where there is none.
    pub fn query(&self) -> &str {
        self.path_and_query().split_once('?').map_or("", |(_, query)| query)
    }

    /// The value of the first field of this name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value.as_slice())
    }

    /// Puts the peer behind the addresses that X-Forwarded-For lists already, all in one line.
    pub fn append_forwarded_for(&mut self, peer: IpAddr) {
        const NAME: &str = "X-Forwarded-For";
        let mut list = Vec::new();
        self.fields.retain(|field| {
            let listed = field.name.eq_ignore_ascii_case(NAME);
            if listed && !field.value.is_empty() {
                list.extend_from_slice(&field.value);
                list.extend_from_slice(b", ");
            }
            !listed
        });
        list.extend_from_slice(peer.to_string().as_bytes());
        self.fields.push(Field { name: NAME.into(), value: list });
    }

    fn path_and_query(&self) -> &str {
        match self.target.split_once("://") {
            Some((_, rest)) if !self.target.starts_with('/') => {
                rest.find(['/', '?']).map_or("", |authority_end| &rest[authority_end..])
            }
            _ => &self.target,
        }
    }
}

/// Reads one head from the start of `bytes`, and says how many of them it took. `None`: more bytes are needed.
///
/// # Errors
/// [`Error::RequestMalformed`], [`Error::TargetTooLong`], [`Error::HeadTooLarge`], [`Error::VersionUnsupported`],
/// [`Error::TransferCodingUnknown`], [`Error::ExpectationUnknown`], [`Error::NotAProxy`].
pub fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>> {
    match HeadScan::default().end(bytes)? {
        Some(end) => Ok(Some((parse_complete(&bytes[..end])?, end))),
        None => Ok(None),
    }
}

/// Whether a request has begun: an empty line alone may be the tail of the previous one.
pub fn has_begun(bytes: &[u8]) -> bool {
    !matches!(bytes, b"" | b"\r" | b"\r\n")
}

/// The search for the end of a head whose bytes come in pieces. It looks at each byte once, so that a client that sends
/// them one by one costs no more than another, and it refuses a line that is broken without waiting for the rest.
#[derive(Debug, Default)]
pub struct HeadScan {
    /// Bytes before this one have been looked at.
    at: usize,
    line_start: usize,
    lines: usize,
    skipped_empty_line: bool,
}

impl HeadScan {
    /// Goes on with all bytes of the head so far, and says where the head ends: behind its empty line.
    pub fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        while let Some(&byte) = bytes.get(self.at) {
            if self.at >= HEAD_BYTES_MAX {
                return Err(Error::HeadTooLarge("it does not end within 64 KiB"));
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
                    Some(_) => return Err(Error::RequestMalformed("CR without LF")),
                },
                b'\n' => return Err(Error::RequestMalformed("LF without CR")),
                byte if is_control(byte) => return Err(Error::RequestMalformed("a control character in the head")),
                _ => {
                    self.at += 1;
                    self.check_request_line(bytes)?;
                }
            }
        }
        // The last byte there is room for was not the end.
        if bytes.len() >= HEAD_BYTES_MAX {
            return Err(Error::HeadTooLarge("it does not end within 64 KiB"));
        }
        Ok(None)
    }

    /// Counts a line that has ended, and says whether it ends the head.
    fn end_line(&mut self, empty: bool) -> Result<bool> {
        if !empty {
            self.lines += 1;
            if self.lines > 1 + HEAD_FIELDS_MAX {
                return Err(Error::HeadTooLarge("it has more than 100 header lines"));
            }
        } else if self.lines > 0 {
            return Ok(true);
        } else if std::mem::replace(&mut self.skipped_empty_line, true) {
            return Err(Error::RequestMalformed("more than one empty line before the request line"));
        }
        Ok(false)
    }

    /// Refuses a request line as soon as it is too long for any method, target and version.
    fn check_request_line(&self, bytes: &[u8]) -> Result<()> {
        const LONGEST: usize = METHOD_BYTES_MAX + 1 + TARGET_BYTES_MAX + " HTTP/1.1".len();
        if self.lines > 0 || self.at - self.line_start <= LONGEST {
            return Ok(());
        }
        let line = &bytes[self.line_start..self.at];
        match line[..=METHOD_BYTES_MAX].contains(&b' ') {
            true => Err(Error::TargetTooLong),
            false => Err(Error::RequestMalformed(METHOD_RULE)),
        }
    }
}

const METHOD_RULE: &str = "the method is not a token of at most 32 bytes";

/// Parses a head that [`HeadScan`] found the end of; `bytes` end there.
pub fn parse_complete(bytes: &[u8]) -> Result<Head> {
    let mut lines = bytes
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .skip_while(|line| line.is_empty())
        .take_while(|line| !line.is_empty());
    let (method, target, version) = parse_request_line(lines.next().unwrap_or_default())?;
    let authority = check_target(method, target)?;

    let mut fields = Vec::with_capacity(16);
    let mut facts = Facts::default();
    for line in lines {
        let (name, value) = parse_field(line)?;
        facts.note(name, value)?;
        if !is_kept_back(name) {
            fields.push(Field { name: name.to_string(), value: value.to_vec() });
        }
    }
    fields.retain(|field| !facts.names_in_connection(&field.name));

    let host = facts.host(version, authority)?;
    if authority.is_some() {
        replace_host(&mut fields, host);
    }
    let framing = facts.framing(version)?;
    Ok(Head {
        method: method.to_string(),
        target: target.to_string(),
        version,
        fields,
        framing,
        keep_alive: facts.keep_alive(version),
        expect_continue: facts.expect_continue(version)?,
        host: host.to_string(),
    })
}

fn parse_request_line(line: &[u8]) -> Result<(&str, &str, Version)> {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Error::RequestMalformed("the request line is not method, target, version with one space between"));
    };
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(Error::VersionUnsupported),
        _ => return Err(Error::RequestMalformed("the request line does not end with an HTTP version")),
    };
    let method = token(method).filter(|method| method.len() <= METHOD_BYTES_MAX);
    let method = method.ok_or(Error::RequestMalformed(METHOD_RULE))?;
    if target.len() > TARGET_BYTES_MAX {
        return Err(Error::TargetTooLong);
    }
    match std::str::from_utf8(target) {
        Ok(text) if text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') => Ok((method, text, version)),
        _ => Err(Error::RequestMalformed("the target has a character other than visible ASCII, or a #")),
    }
}

/// Checks the form of the target against the method; returns the authority of an absolute one.
fn check_target<'a>(method: &str, target: &'a str) -> Result<Option<&'a str>> {
    if method == "CONNECT" {
        return Err(Error::NotAProxy);
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(None);
    }
    let (scheme, rest) = target.split_once("://").unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(Error::RequestMalformed("the target is neither a path nor an http URL"));
    }
    let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    match is_host(authority.as_bytes()) {
        true => Ok(Some(authority)),
        false => Err(Error::RequestMalformed("the target's host is not host[:port]")),
    }
}

fn parse_field(line: &[u8]) -> Result<(&str, &[u8])> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Error::RequestMalformed("a header line starts with white space"));
    }
    let colon = line.iter().position(|byte| *byte == b':');
    let colon = colon.ok_or(Error::RequestMalformed("a header line without a colon"))?;
    let name = token(&line[..colon]).ok_or(Error::RequestMalformed("a header name is not a token"))?;
    let value = trim(&line[colon + 1..]);
    if value.iter().copied().any(is_control) {
        return Err(Error::RequestMalformed("a control character in a header value"));
    }
    Ok((name, value))
}

/// What the fields say about the connection and the body.
#[derive(Default)]
struct Facts<'a> {
    host: Option<&'a [u8]>,
    content_length: Option<u64>,
    transfer_encoding: Option<&'a [u8]>,
    /// The names that Connection lists.
    connection: Vec<&'a [u8]>,
    expect: Option<&'a [u8]>,
}

impl<'a> Facts<'a> {
    fn note(&mut self, name: &str, value: &'a [u8]) -> Result<()> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        if is("Host") {
            if self.host.replace(value).is_some() {
                return Err(Error::RequestMalformed("more than one Host"));
            }
        } else if is("Content-Length") {
            if self.content_length.replace(parse_length(value)?).is_some() {
                return Err(Error::RequestMalformed("more than one Content-Length"));
            }
        } else if is("Transfer-Encoding") {
            if self.transfer_encoding.replace(value).is_some() {
                return Err(Error::RequestMalformed("more than one Transfer-Encoding"));
            }
        } else if is("Connection") {
            self.connection.extend(elements(value).filter(|element| !element.is_empty()));
        } else if is("Expect") {
            // A second, different expectation must not hide behind a first one that is known.
            let known = |value: &[u8]| value.eq_ignore_ascii_case(b"100-continue");
            self.expect = Some(self.expect.filter(|earlier| !known(earlier)).unwrap_or(value));
        }
        Ok(())
    }

    /// An absolute target's authority goes before Host (3.2.2), which must be in order all the same.
    fn host(&self, version: Version, authority: Option<&'a str>) -> Result<&'a str> {
        let sent = match self.host {
            Some(value) if is_host(value) => std::str::from_utf8(value).unwrap_or_default(),
            Some(_) => return Err(Error::RequestMalformed("Host is not host[:port]")),
            None if version == Version::Http11 => return Err(Error::RequestMalformed("Host is missing")),
            None => "",
        };
        Ok(authority.unwrap_or(sent))
    }

    fn framing(&self, version: Version) -> Result<BodyFraming> {
        let Some(coding) = self.transfer_encoding else {
            return Ok(self.content_length.map_or(BodyFraming::None, BodyFraming::Length));
        };
        if version == Version::Http10 {
            return Err(Error::RequestMalformed("Transfer-Encoding in an HTTP/1.0 request"));
        }
        if self.content_length.is_some() {
            return Err(Error::RequestMalformed("Transfer-Encoding and Content-Length together"));
        }
        if coding.eq_ignore_ascii_case(b"chunked") {
            return Ok(BodyFraming::Chunked);
        }
        // Unknown codings below a final chunked have an end and are only not supported; all else has none (6.3).
        let codings: Vec<&[u8]> = elements(coding).collect();
        let chunked = codings.iter().filter(|coding| coding.eq_ignore_ascii_case(b"chunked")).count();
        let last_is_chunked = codings.last().is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"));
        match chunked == 1 && last_is_chunked && codings.iter().all(|coding| token(coding).is_some()) {
            true => Err(Error::TransferCodingUnknown),
            false => Err(Error::RequestMalformed("Transfer-Encoding is not chunked")),
        }
    }

    fn keep_alive(&self, version: Version) -> bool {
        let asks = |option: &[u8]| self.connection.iter().any(|element| element.eq_ignore_ascii_case(option));
        !asks(b"close") && (version == Version::Http11 || asks(b"keep-alive"))
    }

    /// A 1.0 client's expectation is to be ignored (RFC 9110, 10.1.1).
    fn expect_continue(&self, version: Version) -> Result<bool> {
        match self.expect {
            Some(value) if version == Version::Http11 => match value.eq_ignore_ascii_case(b"100-continue") {
                true => Ok(true),
                false => Err(Error::ExpectationUnknown),
            },
            _ => Ok(false),
        }
    }

    /// Connection can name any field, also those that routing and framing have been read from; these stay.
    fn names_in_connection(&self, name: &str) -> bool {
        let named = self.connection.iter().any(|element| element.eq_ignore_ascii_case(name.as_bytes()));
        named && !name.eq_ignore_ascii_case("Host") && !name.eq_ignore_ascii_case("Content-Length")
    }
}

/// Fields that speak about the connection to the client (RFC 9110, 7.6.1), which is the front door's alone, and those
/// that the gateway's parts use among themselves. X-Faas-Explain is a client's question.
fn is_kept_back(name: &str) -> bool {
    const NAMES: [&str; 8] =
        ["Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Expect"];
    const OURS: &str = "X-Faas-";
    NAMES.iter().any(|kept| name.eq_ignore_ascii_case(kept))
        || name.get(..OURS.len()).is_some_and(|start| start.eq_ignore_ascii_case(OURS))
            && !name.eq_ignore_ascii_case("X-Faas-Explain")
}

fn replace_host(fields: &mut Vec<Field>, host: &str) {
    fields.retain(|field| !field.name.eq_ignore_ascii_case("Host"));
    fields.push(Field { name: "Host".into(), value: host.as_bytes().to_vec() });
}

/// 1*DIGIT (RFC 9110, 8.6). Rust's own parse would take a `+`.
fn parse_length(value: &[u8]) -> Result<u64> {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or(Error::RequestMalformed("Content-Length is not one decimal number of 64 bits"))
}

/// `uri-host [":" port]` (RFC 9110, 7.2; RFC 3986, 3.2.2), the host not empty, the port empty or up to 65535. Of the IP
/// literals in brackets only version 6 is known.
fn is_host(value: &[u8]) -> bool {
    let Ok(value) = std::str::from_utf8(value) else { return false };
    let (host_is_valid, port) = match value.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((address, port))) => (address.parse::<Ipv6Addr>().is_ok(), port),
        Some(None) => return false,
        None => {
            let (host, port) = value.split_at(value.find(':').unwrap_or(value.len()));
            (is_registered_name(host.as_bytes()), port)
        }
    };
    let port_is_valid = match port.strip_prefix(':') {
        Some(digits) => {
            digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits.is_empty() || digits.parse::<u16>().is_ok())
        }
        None => port.is_empty(),
    };
    host_is_valid && port_is_valid
}

fn is_registered_name(name: &[u8]) -> bool {
    let mut rest = name;
    while let Some((byte, after)) = rest.split_first() {
        rest = match byte {
            b'%' if after.len() >= 2 && after[..2].iter().all(u8::is_ascii_hexdigit) => &after[2..],
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => {
                after
            }
            byte if byte.is_ascii_alphanumeric() => after,
            _ => return false,
        };
    }
    !name.is_empty()
}

/// The elements of a comma-separated list, without the white space around them.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim)
}

/// Takes spaces and tabs off both ends: OWS (RFC 9110, 5.6.3).
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// A control character other than tab, which no part of a head may contain.
pub(super) fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

/// `bytes`, if they are a token (RFC 9110, 5.6.2).
pub(super) fn token(bytes: &[u8]) -> Option<&str> {
    if bytes.is_empty() || !bytes.iter().copied().all(is_token_byte) {
        return None;
    }
    std::str::from_utf8(bytes).ok()
}

pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether `line` is a header line that keeps the rules: what trailers are checked for before they are dropped.
pub(super) fn check_field(line: &[u8]) -> Result<()> {
    parse_field(line).map(drop)
}
