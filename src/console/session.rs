//! Sessions of browsers: a cookie, and a key that the page keeps and shows in a field of its own.
//!
//! Browsers send a cookie to every port of an address, so also to functions on the public port. The cookie alone is
//! therefore worth nothing but the page's files: the API wants the key as well, which the page keeps in localStorage,
//! where only pages of the same address and port can read it. Scripts cannot read the cookie (HttpOnly), and other sites
//! cannot have it sent (SameSite=Strict).
//!
//! Both are made of the operator's token and of when the session ends, so a restart of the console ends no session, and
//! nothing is stored. A new token ends all.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::access::is_equal;

pub const COOKIE: &str = "faas_console";
/// The field of a request that has the key.
pub const KEY_FIELD: &str = "X-Faas-Key";

/// How long a session lasts: a browser that is open all week asks once for the token.
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

/// Whether a cookie is one of a session that has not ended.
pub fn is_cookie(token: &str, cookie: &str) -> bool {
    let Some((ends_at, value)) = ended_and_value(cookie) else { return false };
    is_equal(value.as_bytes(), derived("cookie", token, ends_at).as_bytes()) && now_s() < ends_at
}

/// Whether a key belongs to a good cookie.
pub fn is_key(token: &str, cookie: &str, key: &str) -> bool {
    let Some((ends_at, _)) = ended_and_value(cookie) else { return false };
    is_equal(key.as_bytes(), derived("key", token, ends_at).as_bytes())
}

fn ended_and_value(cookie: &str) -> Option<(u64, &str)> {
    let (ends_at, value) = cookie.split_once('.')?;
    Some((ends_at.parse().ok()?, value))
}

/// The token comes last: what follows a secret in a hash of this kind could be added to by whoever knows the hash.
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

    #[test]
    fn session_is_good_with_its_own_token_until_it_ends() {
        let session = Session::new("token");
        assert!(is_cookie("token", &session.cookie) && is_key("token", &session.cookie, &session.key));
        assert!(!is_cookie("other", &session.cookie) && !is_key("other", &session.cookie, &session.key));
        let value = session.cookie.split_once('.').unwrap().1;
        assert!(!is_key("token", &session.cookie, value), "a cookie is no key");
        let later = now_s() + 2 * LIFE.as_secs();
        for cookie in ["", ".", value, &format!("{later}.{value}"), &format!("1.{}", derived("cookie", "token", 1))] {
            assert!(!is_cookie("token", cookie), "{cookie}");
        }
    }
}
