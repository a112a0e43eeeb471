//! Browser sessions: a cookie, and a key that the page keeps and sends in a field of its own.
//!
//! Browsers send a cookie to every port of an address, and so also to functions on the public port. The cookie alone
//! therefore opens only the page's files. The API wants the key as well, which the page keeps in localStorage, where
//! only pages of the same address and port can read it. Scripts cannot read the cookie (HttpOnly), and other sites
//! cannot make the browser send it (SameSite=Strict).
//!
//! Both are derived from the operator's token and the session's end, so a restart of the console ends no session, and
//! nothing is stored. A new token ends all sessions.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::access::is_equal;

pub const COOKIE: &str = "faas_console";
/// The request field that carries the key.
pub const KEY_FIELD: &str = "X-Faas-Key";

/// Lifetime of a session: a browser that is open all week asks once for the token.
const LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

pub struct Session {
    pub cookie: String,
    pub key: String,
}

impl Session {
    pub fn new(token: &str) -> Session {
        let ends_at = now_s() + LIFE.as_secs();
        let cookie = format!("{ends_at}.{}", derived("cookie", token, ends_at));
        Session { cookie, key: derived("key", token, ends_at) }
    }

    /// The field Set-Cookie.
    pub fn set_cookie(&self) -> String {
        format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}", self.cookie, LIFE.as_secs())
    }
}

/// The field Set-Cookie that removes it.
pub fn remove_cookie() -> String {
    format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0")
}

/// True if a cookie belongs to a session that has not ended.
pub fn is_cookie(token: &str, cookie: &str) -> bool {
    let Some((ends_at, value)) = ended_and_value(cookie) else { return false };
    is_equal(value.as_bytes(), derived("cookie", token, ends_at).as_bytes()) && now_s() < ends_at
}

/// True if a key belongs to a valid cookie.
pub fn is_key(token: &str, cookie: &str, key: &str) -> bool {
    let Some((ends_at, _)) = ended_and_value(cookie) else { return false };
    is_equal(key.as_bytes(), derived("key", token, ends_at).as_bytes())
}

fn ended_and_value(cookie: &str) -> Option<(u64, &str)> {
    let (ends_at, value) = cookie.split_once('.')?;
    Some((ends_at.parse().ok()?, value))
}

/// The token comes last: with this kind of hash, an attacker who knows the hash could append to data that follows a
/// secret.
fn derived(purpose: &str, token: &str, ends_at: u64) -> String {
    let hash = Sha256::digest(format!("console {purpose}\n{ends_at}\n{token}"));
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::each;

    #[test]
    fn session_is_good_with_its_own_token_until_it_ends() {
        let session = Session::new("token");
        assert!(is_cookie("token", &session.cookie) && is_key("token", &session.cookie, &session.key));
        assert!(!is_cookie("other", &session.cookie) && !is_key("other", &session.cookie, &session.key));
        let value = session.cookie.split_once('.').unwrap().1;
        assert!(!is_key("token", &session.cookie, value), "a cookie is no key");
        let later = now_s() + 2 * LIFE.as_secs();
        let cases = ["", ".", value, &format!("{later}.{value}"), &format!("1.{}", derived("cookie", "token", 1))];
        each(cases, |cookie| assert!(!is_cookie("token", cookie)));
    }
}
