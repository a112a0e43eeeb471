//! The request line: method, target and version (RFC 9112, 3).

use super::head::Version;
use super::host::is_host;
use super::syntax::token;
use crate::error::request::{RequestError, Result};
use crate::limits::{METHOD_BYTES_MAX, TARGET_BYTES_MAX};

pub const METHOD_RULE: &str = "the method is not a token of at most 32 bytes";

/// Method, target and version, each separated by one space.
pub fn parse_request_line(line: &[u8]) -> Result<(&str, &str, Version)> {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(RequestError::RequestMalformed(
            "the request line is not method, target, version with one space between",
        ));
    };
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(RequestError::VersionUnsupported),
        _ => return Err(RequestError::RequestMalformed("the request line does not end with an HTTP version")),
    };
    let method = token(method).filter(|method| method.len() <= METHOD_BYTES_MAX);
    let method = method.ok_or(RequestError::RequestMalformed(METHOD_RULE))?;
    if target.len() > TARGET_BYTES_MAX {
        return Err(RequestError::TargetTooLong);
    }
    match std::str::from_utf8(target) {
        Ok(text) if text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') => Ok((method, text, version)),
        _ => Err(RequestError::RequestMalformed("the target has a character other than visible ASCII, or a #")),
    }
}

/// Checks the form of the target against the method; returns the authority of an absolute target.
pub fn check_target<'a>(method: &str, target: &'a str) -> Result<Option<&'a str>> {
    if method == "CONNECT" {
        return Err(RequestError::NotAProxy);
    }
    if target == "*" && method == "OPTIONS" {
        return Ok(None);
    }
    if has_two_readings(target) {
        return Err(RequestError::RequestMalformed("the path has a segment . or .., or a backslash"));
    }
    if target.starts_with('/') {
        return Ok(None);
    }
    let (scheme, rest) = target.split_once("://").unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(RequestError::RequestMalformed("the target is neither a path nor an http URL"));
    }
    let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    match is_host(authority.as_bytes()) {
        true => Ok(Some(authority)),
        false => Err(RequestError::RequestMalformed("the target's host is not host[:port]")),
    }
}

/// True if a proxy may resolve the path before it applies its rules, while routes are looked up as sent:
/// `/api/admin/../x` passes a rule against `/api/admin`. A client resolves these itself (RFC 3986, 5.2.4).
fn has_two_readings(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    let is_dots = |segment: &str| match segment.len() {
        0 => false,
        1..=6 => matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | ".."),
        _ => false,
    };
    path.contains('\\') || path.split('/').any(is_dots)
}
