//! Access rules: a request must show the operator's token, and name an address of ours as its host.
//!
//! | fault | answer | why |
//! |---|---|---|
//! | Host names neither `localhost` nor an address of ours | 403 | a page of a stranger, whose name leads here (DNS rebinding) |
//! | Origin, where it is sent, is not the Host | 403 | a page of another site, or of a function on another port (CSRF) |
//! | no token and no session, or a wrong one | 401 | |
//! | a wrong one, after [`WRONG_TRIES_MAX`] within a second | 429 | guessing |
//!
//! A right token is accepted even while others guess: otherwise a function with network access could lock the operator
//! out. No rate of tries finds 256 random bits.
//!
//! A browser shows a session instead (session.rs): a cookie and a key.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tiny_http::{Header, Request};

use super::reply::Reply;
use super::session::{self, COOKIE, KEY_FIELD};
use crate::log;

/// Wrong tokens that are answered 401 within [`TRIES_PERIOD`], from all clients together.
const WRONG_TRIES_MAX: usize = 5;
const TRIES_PERIOD: Duration = Duration::from_secs(1);

pub struct Access {
    token: String,
    /// The address that the console listens on.
    address: IpAddr,
    /// Guards the times of the last wrong tries, at most [`WRONG_TRIES_MAX`].
    wrong_tries: Mutex<VecDeque<Instant>>,
}

/// The proof that a request must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Only an address of ours as host: the login form.
    Nothing,
    /// The token, or a session's cookie: the page's files.
    Cookie,
    /// The token, or a session's cookie and key: everything else.
    Token,
}

impl Access {
    pub fn new(token: &str, address: IpAddr) -> Access {
        Access { token: token.into(), address, wrong_tries: Mutex::default() }
    }

    /// # Errors
    /// The reply that rejects the request.
    pub fn check(&self, request: &Request, need: Need) -> Result<(), Reply> {
        let headers = request.headers();
        let Some(host) = only(headers, "Host").filter(|host| self.is_own(host)) else {
            return Err(Reply::problem(403, "Host must be localhost or the console's address"));
        };
        if !is_same_origin(headers, host) {
            return Err(Reply::problem(403, "the request comes from a page of another site"));
        }
        if need == Need::Nothing {
            return Ok(());
        }
        let bearer = only(headers, "Authorization").and_then(|value| value.split_once(' '));
        let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        if let Some((_, token)) = bearer {
            return self.check_token(token.trim());
        }
        let cookie = headers.iter().filter(|header| header.field.equiv("Cookie"));
        let cookie = cookie.flat_map(|header| header.value.as_str().split(';')).find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == COOKIE).then_some(value)
        });
        match cookie {
            Some(cookie) if session::is_cookie(&self.token, cookie) => {
                let key = only(headers, KEY_FIELD);
                let has_key = key.is_some_and(|key| session::is_key(&self.token, cookie, key));
                match need == Need::Cookie || has_key {
                    true => Ok(()),
                    false => Err(unauthorized("the session's key is missing")),
                }
            }
            _ => Err(unauthorized("send the token in run/operator.token as Authorization: Bearer TOKEN")),
        }
    }

    /// # Errors
    /// The rejection of a wrong token, which counts as a try.
    pub fn check_token(&self, token: &str) -> Result<(), Reply> {
        match () {
            () if is_equal(token.as_bytes(), self.token.as_bytes()) => Ok(()),
            () if self.may_try_again() => Err(unauthorized("this is not the operator's token")),
            () => Err(Reply::problem(429, "too many wrong tokens").with("Retry-After", "1")),
        }
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    /// Notes a wrong try; true if it is one of the first within a second.
    fn may_try_again(&self) -> bool {
        let mut tries = self.wrong_tries.lock().expect("nothing panics under this lock");
        let now = Instant::now();
        tries.retain(|at| now.duration_since(*at) < TRIES_PERIOD);
        if tries.len() >= WRONG_TRIES_MAX {
            return false;
        }
        tries.push_back(now);
        if tries.len() == WRONG_TRIES_MAX {
            log!("console: {WRONG_TRIES_MAX} wrong tokens within a second; further ones are answered 429");
        }
        true
    }

    /// True if a Host field names this machine. The port may differ, as behind `ssh -L`. A stranger's page uses a name,
    /// so any address is harmless where the console listens on all of them.
    fn is_own(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let address: Option<IpAddr> = name.trim_start_matches('[').trim_end_matches(']').parse().ok();
        match address {
            Some(address) => {
                address == self.address || self.address.is_unspecified() || {
                    address.is_loopback() && self.address.is_loopback()
                }
            }
            None => name.eq_ignore_ascii_case("localhost"),
        }
    }
}

/// True if the browser's fields show that a request comes from our own page. Other ports of the same address are other
/// sites: functions answer there.
fn is_same_origin(headers: &[Header], host: &str) -> bool {
    let origins: Vec<&str> =
        headers.iter().filter(|header| header.field.equiv("Origin")).map(|header| header.value.as_str()).collect();
    let is_own = |origin: &str| {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    };
    match origins.as_slice() {
        [] => true,
        [origin] => is_own(origin),
        _ => false,
    }
}

fn unauthorized(detail: &str) -> Reply {
    Reply::problem(401, detail).with("WWW-Authenticate", "Bearer realm=\"console\"")
}

/// The value of a field that occurs once; `None` where it occurs twice.
pub fn only<'a>(headers: &'a [Header], name: &'static str) -> Option<&'a str> {
    let mut values = headers.iter().filter(|header| header.field.equiv(name)).map(|header| header.value.as_str());
    values.next().filter(|_| values.next().is_none())
}

/// Takes the same time wherever the first difference lies. Another length shows in the time; the length is no secret.
pub fn is_equal(one: &[u8], other: &[u8]) -> bool {
    let difference = one.iter().zip(other).fold(0, |difference, (a, b)| std::hint::black_box(difference | (a ^ b)));
    one.len() == other.len() && difference == 0
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
