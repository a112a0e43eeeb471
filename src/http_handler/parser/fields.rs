//! Header lines one by one (RFC 9112, 5), and the fields that stay on this connection.

use super::head::Field;
use super::syntax::{is_control, token, trim};
use crate::error::request::{RequestError, Result};

/// Name and value, without the white space around the value.
pub fn parse_field(line: &[u8]) -> Result<(&str, &[u8])> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(RequestError::RequestMalformed("a header line starts with white space"));
    }
    let colon = line.iter().position(|byte| *byte == b':');
    let colon = colon.ok_or(RequestError::RequestMalformed("a header line without a colon"))?;
    let name = token(&line[..colon]).ok_or(RequestError::RequestMalformed("a header name is not a token"))?;
    let value = trim(&line[colon + 1..]);
    if value.iter().copied().any(is_control) {
        return Err(RequestError::RequestMalformed("a control character in a header value"));
    }
    Ok((name, value))
}

/// Checks a trailer by the rules of a header line, before the decoder drops it.
pub fn check_field(line: &[u8]) -> Result<()> {
    parse_field(line).map(drop)
}

/// True for fields that do not reach the handler: those that concern this connection alone (RFC 9110, 7.6.1), and the
/// X-Faas- fields, which only the platform may set. The exception is X-Faas-Explain, which a client may send.
pub fn is_withheld(name: &str) -> bool {
    const NAMES: [&str; 8] =
        ["Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Expect"];
    const PLATFORM: &str = "X-Faas-";
    NAMES.iter().any(|withheld| name.eq_ignore_ascii_case(withheld))
        || name.get(..PLATFORM.len()).is_some_and(|start| start.eq_ignore_ascii_case(PLATFORM))
            && !name.eq_ignore_ascii_case("X-Faas-Explain")
}

/// Makes Host agree with an absolute target (RFC 9112, 3.2.2).
pub fn replace_host(fields: &mut Vec<Field>, host: &str) {
    fields.retain(|field| !field.name.eq_ignore_ascii_case("Host"));
    fields.push(Field { name: "Host".into(), value: host.as_bytes().to_vec() });
}
