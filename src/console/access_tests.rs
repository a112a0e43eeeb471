//! Tests of the access rules that need no server.

use super::*;
use crate::cases::{check, each};

#[test]
fn host_must_be_an_address_of_ours() {
    let cases = [
        ("127.0.0.1", "127.0.0.1:8081", true),
        ("127.0.0.1", "127.0.0.1", true),
        ("127.0.0.1", "localhost:9000", true),
        ("127.0.0.1", "LOCALHOST", true),
        ("127.0.0.1", "[::1]:8081", true),
        ("127.0.0.1", "192.0.2.1:8081", false),
        ("127.0.0.1", "localhost.evil.example", false),
        ("127.0.0.1", "evil.example:8081", false),
        ("127.0.0.1", "127.0.0.1.evil.example", false),
        ("127.0.0.1", "", false),
        ("192.0.2.1", "192.0.2.1:8081", true),
        ("192.0.2.1", "127.0.0.1:8081", false),
        ("0.0.0.0", "192.0.2.1:8081", true),
        ("0.0.0.0", "evil.example", false),
        ("::", "[2001:db8::1]:8081", true),
    ];
    each(cases, |(address, host, is_own)| {
        assert_eq!(Access::new("token", address.parse().unwrap()).is_own(host), is_own);
    });
}

#[test]
fn tokens_are_equal_only_as_a_whole() {
    assert!(is_equal(b"token", b"token"));
    check(["", "toke", "tokens", "tokeN", "Token"].map(|other| (other, false)), |other| {
        is_equal(other.as_bytes(), b"token")
    });
}

#[test]
fn wrong_tries_are_counted_within_a_second() {
    let access = Access::new("token", IpAddr::from([127, 0, 0, 1]));
    let tries: Vec<bool> = (0..7).map(|_| access.may_try_again()).collect();
    assert_eq!(tries, [true, true, true, true, true, false, false]);
    access.wrong_tries.lock().unwrap().iter_mut().for_each(|at| *at -= TRIES_PERIOD);
    assert!(access.may_try_again());
}

#[test]
fn pages_of_other_sites_are_told_by_their_origin() {
    let cases = [
        (&[][..], true),
        (&["http://127.0.0.1:8081"], true),
        (&["https://127.0.0.1:8081"], true),
        (&["http://127.0.0.1:8080"], false),
        (&["http://127.0.0.1"], false),
        (&["http://localhost:8081"], false),
        (&["null"], false),
        (&[""], false),
        (&["http://127.0.0.1:8081", "http://127.0.0.1:8081"], false),
    ];
    let header = |origin: &&str| Header::from_bytes("Origin", *origin).unwrap();
    check(cases, |origins| {
        let headers: Vec<Header> = origins.iter().map(header).collect();
        is_same_origin(&headers, "127.0.0.1:8081")
    });
}
