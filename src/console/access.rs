//! Who may ask: whoever shows the operator's token, under an address of ours.
//!
//! | fault | answer | why |
//! |---|---|---|
//! | Host names neither `localhost` nor an address of ours | 403 | a page of a stranger, whose name leads here (DNS rebinding) |
//! | no token, or a wrong one | 401 | |
//! | a wrong one, after [`WRONG_TRIES_MAX`] within a second | 429 | guessing |
//!
//! Whoever shows the token gets in even while others guess: a function with network could else lock the operator out, and
//! 256 random bits are not found at any rate of tries.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tiny_http::{Header, Request};

use super::answer::{Reply, problem};
use crate::log;

/// Wrong tokens that are answered 401 within [`TRIES_PERIOD`], from all clients together.
const WRONG_TRIES_MAX: usize = 5;
const TRIES_PERIOD: Duration = Duration::from_secs(1);

pub struct Access {
    token: String,
    /// Where the console listens.
    address: IpAddr,
    /// Guards the times of the last wrong tries, at most [`WRONG_TRIES_MAX`].
    wrong_tries: Mutex<VecDeque<Instant>>,
}

impl Access {
    pub fn new(token: &str, address: IpAddr) -> Access {
        Access { token: token.into(), address, wrong_tries: Mutex::default() }
    }

    /// # Errors
    /// The refusal that is to be sent.
    pub fn check(&self, request: &Request) -> Result<(), Reply> {
        if !only(request.headers(), "Host").is_some_and(|host| self.is_own(host)) {
            return Err(problem(403, "Host must be localhost or the console's address"));
        }
        let authorization = only(request.headers(), "Authorization");
        let token = authorization.and_then(|value| value.split_once(' '));
        let unauthorized = |detail| {
            let challenge = Header::from_bytes("WWW-Authenticate", "Bearer realm=\"console\"");
            Err(problem(401, detail).with_header(challenge.expect("this is a field")))
        };
        match token {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => match () {
                () if is_equal(token.trim().as_bytes(), self.token.as_bytes()) => Ok(()),
                () if self.may_try_again() => unauthorized("this is not the operator's token"),
                () => {
                    let retry = Header::from_bytes("Retry-After", "1").expect("this is a field");
                    Err(problem(429, "too many wrong tokens").with_header(retry))
                }
            },
            _ => unauthorized("send the token in run/operator.token as Authorization: Bearer TOKEN"),
        }
    }

    /// Takes note of a wrong try; says whether it is one of the first within a second.
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

    /// Whether a Host field names us. Its port may be another one, as behind `ssh -L`. A stranger's page comes under a
    /// name, so an address is harmless where we listen on all of them.
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

/// The value of a field that stands there once; none where it stands twice.
fn only<'a>(headers: &'a [Header], name: &'static str) -> Option<&'a str> {
    let mut values = headers.iter().filter(|header| header.field.equiv(name)).map(|header| header.value.as_str());
    values.next().filter(|_| values.next().is_none())
}

/// Takes the same time wherever the first difference lies. That of another length tells the length, which is no secret.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    let difference = one.iter().zip(other).fold(0, |difference, (a, b)| std::hint::black_box(difference | (a ^ b)));
    one.len() == other.len() && difference == 0
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
