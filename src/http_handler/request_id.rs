//! The id that a request carries through log, response and function: the client's X-Request-Id if it is valid, else a
//! new one.
//!
//! A valid id fits unchanged into a log line, a header and an environment variable, and has a bounded length. New ids
//! are 16 hexadecimal digits: a counter, mixed so that neighbours look different. The counter starts at random, so that
//! two runs of the gateway do not create the same ids. Ids are not secret and need no cryptography.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::parser::Head;
use crate::limits::REQUEST_ID_BYTES_MAX;

/// The id for a request with this head; a new id if the head could not be read.
pub fn request_id(head: Option<&Head>) -> String {
    head.and_then(|head| head.field("X-Request-Id")).and_then(valid).map_or_else(mint, str::to_string)
}

fn valid(value: &[u8]) -> Option<&str> {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._:/+=-".contains(byte);
    let is_valid = (1..=REQUEST_ID_BYTES_MAX).contains(&value.len()) && value.iter().all(is_allowed);
    is_valid.then(|| std::str::from_utf8(value).ok()).flatten()
}

fn mint() -> String {
    static START: OnceLock<u64> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // std seeds RandomState from the system's random numbers.
    let start = START.get_or_init(|| RandomState::new().build_hasher().finish());
    format!("{:016x}", mix(start.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed))))
}

/// The finaliser of MurmurHash3: a bijection, so different counts never give the same id.
fn mix(mut number: u64) -> u64 {
    number ^= number >> 33;
    number = number.wrapping_mul(0xff51_afd7_ed55_8ccd);
    number ^= number >> 33;
    number = number.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    number ^ (number >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::check;
    use crate::http_handler::parser::parse_head;

    fn id_for(value: &str) -> String {
        let bytes = format!("GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: {value}\r\n\r\n");
        request_id(Some(&parse_head(bytes.as_bytes()).unwrap().unwrap().0))
    }

    #[test]
    fn a_valid_id_is_kept_any_other_is_replaced() {
        assert_eq!(id_for("Root=1-67891233-abc/7:+_."), "Root=1-67891233-abc/7:+_.");
        assert_eq!(id_for(&"x".repeat(128)), "x".repeat(128));
        let invalid = ["", "a b", "a\"b", "a\u{e9}", "a;b", &"x".repeat(129)];
        check(invalid.map(|value| (value, true)), |value| {
            let id = id_for(value);
            id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
    }

    #[test]
    fn minted_ids_differ() {
        let ids: std::collections::HashSet<String> = (0..1000).map(|_| request_id(None)).collect();
        assert_eq!(ids.len(), 1000);
    }
}
