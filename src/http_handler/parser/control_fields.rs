//! The fields that decide about connection and body: Host, Content-Length, Content-Type, Transfer-Encoding, Connection,
//! Expect.
//!
//! Section numbers without an RFC are those of RFC 9112.

use super::head::{BodyFraming, Version};
use super::host::is_host;
use super::syntax::{elements, token};
use crate::error::request::{RequestError, Result};

/// The fields that control connection and body. Each may occur once, except Connection and Expect, and Content-Type with the same value.
#[derive(Default)]
pub struct ControlFields<'a> {
    host: Option<&'a [u8]>,
    content_length: Option<u64>,
    transfer_encoding: Option<&'a [u8]>,
    /// The names that Connection lists.
    connection: Vec<&'a [u8]>,
    expect: Option<&'a [u8]>,
    content_type: Option<&'a [u8]>,
}

impl<'a> ControlFields<'a> {
    /// Notes a field, if it is one of these.
    pub fn note(&mut self, name: &str, value: &'a [u8]) -> Result<()> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        if is("Host") {
            if self.host.replace(value).is_some() {
                return Err(RequestError::RequestMalformed("more than one Host"));
            }
        } else if is("Content-Length") {
            if self.content_length.replace(parse_length(value)?).is_some() {
                return Err(RequestError::RequestMalformed("more than one Content-Length"));
            }
        } else if is("Transfer-Encoding") {
            if self.transfer_encoding.replace(value).is_some() {
                return Err(RequestError::RequestMalformed("more than one Transfer-Encoding"));
            }
        } else if is("Content-Type") {
            if self.content_type.replace(value).is_some_and(|earlier| earlier != value) {
                return Err(RequestError::RequestMalformed("two different Content-Types"));
            }
        } else if is("Connection") {
            self.connection.extend(elements(value).filter(|element| !element.is_empty()));
        } else if is("Expect") {
            // A second, different expectation must not hide behind a known first one.
            let known = |value: &[u8]| value.eq_ignore_ascii_case(b"100-continue");
            self.expect = Some(self.expect.filter(|earlier| !known(earlier)).unwrap_or(value));
        }
        Ok(())
    }

    /// An absolute target's authority overrides Host (3.2.2), which must still be valid.
    pub fn host(&self, version: Version, authority: Option<&'a str>) -> Result<&'a str> {
        let sent = match self.host {
            Some(value) if is_host(value) => std::str::from_utf8(value).unwrap_or_default(),
            Some(_) => return Err(RequestError::RequestMalformed("Host is not host[:port]")),
            None if version == Version::Http11 => return Err(RequestError::RequestMalformed("Host is missing")),
            None => "",
        };
        Ok(authority.unwrap_or(sent))
    }

    /// The way to find the end of the body (6.3).
    pub fn framing(&self, version: Version) -> Result<BodyFraming> {
        let Some(coding) = self.transfer_encoding else {
            return Ok(self.content_length.map_or(BodyFraming::None, BodyFraming::Length));
        };
        if version == Version::Http10 {
            return Err(RequestError::RequestMalformed("Transfer-Encoding in an HTTP/1.0 request"));
        }
        if self.content_length.is_some() {
            return Err(RequestError::RequestMalformed("Transfer-Encoding and Content-Length together"));
        }
        if coding.eq_ignore_ascii_case(b"chunked") {
            return Ok(BodyFraming::Chunked);
        }
        // Unknown codings below a final chunked have an end, so they are only unsupported. All others have no end.
        let codings: Vec<&[u8]> = elements(coding).collect();
        let chunked = codings.iter().filter(|coding| coding.eq_ignore_ascii_case(b"chunked")).count();
        let last_is_chunked = codings.last().is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"));
        match chunked == 1 && last_is_chunked && codings.iter().all(|coding| token(coding).is_some()) {
            true => Err(RequestError::TransferCodingUnknown),
            false => Err(RequestError::RequestMalformed("Transfer-Encoding is not chunked")),
        }
    }

    /// Persistence is the default of HTTP/1.1, and an option of 1.0 (9.3).
    pub fn keep_alive(&self, version: Version) -> bool {
        let asks = |option: &[u8]| self.connection.iter().any(|element| element.eq_ignore_ascii_case(option));
        !asks(b"close") && (version == Version::Http11 || asks(b"keep-alive"))
    }

    /// True for `100-continue`. A server ignores the expectation of a 1.0 client (RFC 9110, 10.1.1).
    pub fn expect_continue(&self, version: Version) -> Result<bool> {
        match self.expect {
            Some(value) if version == Version::Http11 => match value.eq_ignore_ascii_case(b"100-continue") {
                true => Ok(true),
                false => Err(RequestError::ExpectationUnknown),
            },
            _ => Ok(false),
        }
    }

    /// True for a field that Connection names. Host and Content-Length always stay: routing and framing rest on them.
    pub fn names_in_connection(&self, name: &str) -> bool {
        let named = self.connection.iter().any(|element| element.eq_ignore_ascii_case(name.as_bytes()));
        named && !name.eq_ignore_ascii_case("Host") && !name.eq_ignore_ascii_case("Content-Length")
    }
}

/// 1*DIGIT (RFC 9110, 8.6). Rust's own parse would accept a `+`. Some parsers read a leading zero as octal.
fn parse_length(value: &[u8]) -> Result<u64> {
    let is_plain =
        |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit()) && (*text == "0" || !text.starts_with('0'));
    let digits = std::str::from_utf8(value).ok().filter(is_plain);
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or(RequestError::RequestMalformed("Content-Length is not one decimal number of 64 bits"))
}
