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

/// Reads one head from the start of `bytes`, and says how many of them it took. `None`: more bytes are needed. A connection
/// does the same in two steps, because its bytes come in pieces.
///
/// # Errors
/// [`Error::RequestMalformed`], [`Error::TargetTooLong`], [`Error::HeadTooLarge`], [`Error::VersionUnsupported`],
/// [`Error::TransferCodingUnknown`], [`Error::ExpectationUnknown`], [`Error::NotAProxy`].
#[cfg(test)]
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
                return Err(Error::HeadTooLarge(HEAD_RULE));
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
            return Err(Error::HeadTooLarge(HEAD_RULE));
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
            return if self.at <= HEAD_BYTES_MAX { Ok(true) } else { Err(Error::HeadTooLarge(HEAD_RULE)) };
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

const HEAD_RULE: &str = "it does not end within 64 KiB";
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

/// Fields that speak about the connection to the client (RFC 9110, 7.6.1), which is the front service's alone, and those
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: impl AsRef<[u8]>) -> Result<Head> {
        let bytes = bytes.as_ref();
        parse_head(bytes).map(|parsed| {
            let (head, used) = parsed.expect("the head is complete");
            assert_eq!(used, bytes.len());
            head
        })
    }

    fn status_of(bytes: impl AsRef<[u8]>) -> u16 {
        parse(bytes).map_or_else(|error| error.status(), |_| 200)
    }

    fn with_field(line: &str) -> String {
        format!("GET / HTTP/1.1\r\nHost: h\r\n{line}\r\n\r\n")
    }

    #[test]
    fn a_plain_request_is_read() {
        let head =
            parse("POST /a/b?c=d&e HTTP/1.1\r\nHost: h:80\r\nX-A: \t b c \r\nContent-Length: 3\r\n\r\n").unwrap();
        assert_eq!((head.method.as_str(), head.path(), head.query()), ("POST", "/a/b", "c=d&e"));
        assert_eq!((head.host.as_str(), head.version, head.framing), ("h:80", Version::Http11, BodyFraming::Length(3)));
        assert!(head.keep_alive && !head.expect_continue);
        assert_eq!(head.field("x-a"), Some(&b"b c"[..]));
        assert_eq!(head.field("x-b"), None);
    }

    #[test]
    fn every_prefix_of_a_head_wants_more_and_bytes_behind_it_are_not_touched() {
        let bytes = b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\nGET";
        let end = bytes.len() - 3;
        for length in 0..end {
            assert_eq!(parse_head(&bytes[..length]).unwrap(), None, "after {length} bytes");
        }
        assert_eq!(parse_head(bytes).unwrap().unwrap().1, end);
    }

    #[test]
    fn a_head_in_pieces_is_the_same_as_a_whole_one() {
        let heads: [&[u8]; 4] = [
            b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n",
            b"GET / HTTP/1.1\rHost: h\r\n\r\n",
            b"\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        ];
        for head in heads {
            let whole = HeadScan::default().end(head).map_err(|error| error.to_string());
            let mut scan = HeadScan::default();
            let pieces = (1..=head.len()).map(|length| scan.end(&head[..length])).find(|end| !matches!(end, Ok(None)));
            assert_eq!(pieces.unwrap().map_err(|error| error.to_string()), whole);
        }
    }

    #[test]
    fn targets_have_one_of_three_forms() {
        let target = |method: &str, target: &str| {
            parse(format!("{method} {target} HTTP/1.1\r\nHost: sent\r\n\r\n"))
                .map(|head| format!("{} {} {}", head.host, head.path(), head.query()))
                .map_err(|error| error.status())
        };
        let good = [
            ("/", "sent / "),
            ("//a/../%00?x?y", "sent //a/../%00 x?y"),
            ("/a://b", "sent /a://b "),
            ("/p?u=http://x/y", "sent /p u=http://x/y"),
            ("/[]{}|^`\"<>\\", "sent /[]{}|^`\"<>\\ "),
            ("http://Abs:81/p?q", "Abs:81 /p q"),
            ("HTTPS://abs", "abs / "),
            ("http://abs?q", "abs / q"),
            ("http://[::1]:8/", "[::1]:8 / "),
        ];
        for (sent, expected) in good {
            assert_eq!(target("GET", sent).as_deref(), Ok(expected), "{sent}");
        }
        assert_eq!(target("OPTIONS", "*").as_deref(), Ok("sent * "));
        let bad = [
            "*",
            "a",
            "",
            "?x",
            "/a#b",
            "/\u{e9}",
            "ftp://h/",
            "http:/h",
            "http://",
            "http:///p",
            "http://u@h/",
            "h:80",
        ];
        for sent in bad {
            assert_eq!(target("GET", sent), Err(400), "{sent}");
        }
        assert_eq!(target("CONNECT", "h:443"), Err(501));
        let longest = format!("/{}", "x".repeat(TARGET_BYTES_MAX - 1));
        assert!(target("GET", &longest).is_ok());
        assert_eq!(target("GET", &format!("{longest}x")), Err(414));
    }

    #[test]
    fn an_absolute_target_replaces_host() {
        let head = parse("GET http://abs/ HTTP/1.1\r\nhOST: sent\r\n\r\n").unwrap();
        assert_eq!((head.host.as_str(), head.field("Host")), ("abs", Some(&b"abs"[..])));
        let head = parse("GET http://abs/ HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!((head.host.as_str(), head.field("Host")), ("abs", Some(&b"abs"[..])));
        assert_eq!(status_of("GET http://abs/ HTTP/1.1\r\nHost: a b\r\n\r\n"), 400);
        assert_eq!(status_of("GET http://abs/ HTTP/1.1\r\n\r\n"), 400);
    }

    #[test]
    fn methods_are_tokens_of_bounded_length() {
        let with_method = |method: &str| status_of(format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n"));
        for method in ["GET", "get", "M-SEARCH", "X!#$%&'*+-.^_`|~9", &"M".repeat(32)] {
            assert_eq!(with_method(method), 200, "{method}");
        }
        for method in ["", "G(T", "G\tT", "G\"T", "G:T", "G\u{e9}T", &"M".repeat(33), &"M".repeat(9000)] {
            assert_eq!(with_method(method), 400, "{method}");
        }
    }

    #[test]
    fn versions_other_than_1_0_and_1_1_are_refused() {
        let with_version = |version: &str| status_of(format!("GET / {version}\r\nHost: h\r\n\r\n"));
        for version in ["HTTP/2.0", "HTTP/3.0", "HTTP/0.9", "HTTP/1.2", "HTTP/9.9"] {
            assert_eq!(with_version(version), 505, "{version}");
        }
        for version in ["http/1.1", "HTTP/1", "HTTP/11", "HTTP/1.1.1", "HTTP/01.1", "HTTP/1,1", "HTTPS/1.1", "FTP/1.1"]
        {
            assert_eq!(with_version(version), 400, "{version}");
        }
        assert_eq!(parse_head(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap_err().status(), 505);
        assert_eq!(status_of("GET /\r\nHost: h\r\n\r\n"), 400);
        // The start of a TLS handshake: refused at its first byte.
        assert_eq!(parse_head(b"\x16\x03\x01").unwrap_err().status(), 400);
    }

    #[test]
    fn hosts_keep_their_grammar() {
        let with_host = |host: &str| status_of(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let good = ["h", "h:80", "h:", "H.example.", "1.2.3.4:65535", "[::1]", "[::1]:80", "a%2Fb", "a_b", "a,b;c=d"];
        for host in good {
            assert_eq!(with_host(host), 200, "{host}");
        }
        let bad = [
            "", ":80", "h:x", "h:-1", "h:65536", "h:80:80", "a b", "a/b", "a?b", "a#b", "u@h", "[::1", "::1", "[::1]x",
            "[x]", "a%2", "a%zz", "h\u{e9}", "\"h\"", "<h>", "h\\h",
        ];
        for host in bad {
            assert_eq!(with_host(host), 400, "{host}");
        }
        assert_eq!(status_of("GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status_of("GET / HTTP/1.0\r\n\r\n"), 200);
        assert_eq!(status_of("GET / HTTP/1.0\r\nHost: a b\r\n\r\n"), 400);
        assert_eq!(status_of("GET / HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n"), 400);
    }

    #[test]
    fn what_is_for_the_connection_only_is_kept_back() {
        let head = parse(
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: close, X-Named, Host\r\nX-Named: 1\r\nKeep-Alive: 5\r\n\
             Proxy-Connection: x\r\nTE: trailers\r\nTrailer: x\r\nUpgrade: h2c\r\nExpect: 100-Continue\r\n\
             x-faas-conversation: 7\r\nX-FAAS-Spooled: 1\r\nX-Faas-Explain: kept\r\nCookie: kept\r\n\r\n",
        )
        .unwrap();
        let names: Vec<&str> = head.fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["Host", "X-Faas-Explain", "Cookie"]);
        assert!(!head.keep_alive && head.expect_continue);
    }

    #[test]
    fn keep_alive_is_the_default_of_1_1_and_an_option_of_1_0() {
        let keeps = |version: &str, connection: &str| {
            let head = format!("GET / HTTP/{version}\r\nHost: h\r\nConnection: {connection}\r\n\r\n");
            parse(head).unwrap().keep_alive
        };
        assert!(keeps("1.1", "") && keeps("1.1", "foo") && keeps("1.0", "foo, Keep-Alive"));
        assert!(!keeps("1.0", "") && !keeps("1.1", "CLOSE") && !keeps("1.0", "keep-alive, close"));
    }

    #[test]
    fn only_100_continue_can_be_expected_and_only_with_1_1() {
        assert_eq!(status_of(with_field("Expect: 200-ok")), 417);
        assert_eq!(status_of(with_field("Expect: 100-continue\r\nExpect: x")), 417);
        let old = parse("GET / HTTP/1.0\r\nExpect: 200-ok\r\n\r\n").unwrap();
        assert!(!old.expect_continue);
    }

    #[test]
    fn heads_are_bounded_in_lines_and_bytes() {
        let lines = |count: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(count));
        assert_eq!((status_of(lines(99)), status_of(lines(100))), (200, 431));
        let sized = |bytes: usize| {
            let start = "GET / HTTP/1.1\r\nHost: h\r\nX: ";
            format!("{start}{}\r\n\r\n", "y".repeat(bytes - start.len() - 4))
        };
        assert_eq!((status_of(sized(HEAD_BYTES_MAX)), status_of(sized(HEAD_BYTES_MAX + 1))), (200, 431));
        // As the front service sees it: a full buffer, and no end.
        assert_eq!(parse_head(&sized(1 << 20).as_bytes()[..HEAD_BYTES_MAX]).unwrap_err().status(), 431);
        // A target without an end is refused before it has filled the buffer.
        let endless = format!("GET /{}", "x".repeat(TARGET_BYTES_MAX + 100));
        assert_eq!(parse_head(endless.as_bytes()).unwrap_err().status(), 414);
    }

    #[test]
    fn values_may_hold_any_byte_but_control_characters() {
        let mut bytes = b"GET / HTTP/1.1\r\nHost: h\r\nX: a\xff\x80\t~".to_vec();
        bytes.extend_from_slice(b"\r\n\r\n");
        assert_eq!(parse(&bytes).unwrap().field("X"), Some(&b"a\xff\x80\t~"[..]));
        for control in (0..0x20).filter(|byte| *byte != b'\t').chain([0x7f]) {
            let mut bytes = b"GET / HTTP/1.1\r\nHost: h\r\nX: a".to_vec();
            bytes.extend_from_slice(&[control, b'b']);
            bytes.extend_from_slice(b"\r\n\r\n");
            assert_eq!(parse_head(&bytes).unwrap_err().status(), 400, "byte {control}");
        }
    }

    #[test]
    fn the_peer_is_appended_to_what_was_forwarded() {
        let mut head =
            parse(with_field("x-forwarded-for: 1.1.1.1, 2.2.2.2\r\nX: y\r\nX-Forwarded-For: 3.3.3.3")).unwrap();
        head.append_forwarded_for("9.9.9.9".parse().unwrap());
        assert_eq!(head.field("X-Forwarded-For"), Some(&b"1.1.1.1, 2.2.2.2, 3.3.3.3, 9.9.9.9"[..]));
        assert_eq!(head.fields.iter().filter(|field| field.name.eq_ignore_ascii_case("x-forwarded-for")).count(), 1);
        let mut head = parse(with_field("X: y")).unwrap();
        head.append_forwarded_for("::1".parse().unwrap());
        assert_eq!(head.field("X-Forwarded-For"), Some(&b"::1"[..]));
    }
}
