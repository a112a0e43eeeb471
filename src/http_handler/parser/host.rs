//! The grammar of a host in Host and in an absolute target.

use std::net::Ipv6Addr;

/// `uri-host [":" port]` (RFC 9110, 7.2; RFC 3986, 3.2.2), the host not empty, the port empty or up to 65535. Of the IP
/// literals in brackets it accepts only those of version 6.
pub fn is_host(value: &[u8]) -> bool {
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
