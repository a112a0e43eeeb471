//! Finds the client behind trusted proxies: its address and its scheme, from X-Forwarded-For and X-Forwarded-Proto, or
//! from Forwarded (RFC 7239).
//!
//! Each proxy appends its caller's address to X-Forwarded-For. So the list is read from its end, while the address
//! before is that of a trusted proxy; the entries beyond can be forged. Rules:
//!
//! 1. These fields are removed if the peer is no trusted proxy: a function that trusts them would trust its client.
//! 2. From a trusted proxy, the part that trusted proxies have added stays.
//! 3. If X-Forwarded-For is present, it counts, and Forwarded is removed: the usual proxies write the former, and pass
//!    the latter on as their client has sent it.
//! 4. The scheme is that of the client's own hop if each proxy has appended one, else the last one.
//! 5. A client's open quote must not swallow the entry that a proxy appends. X-Forwarded-For has no quotes; a Forwarded
//!    whose quotes do not pair is split at every comma.
//! 6. An entry that is no address ("unknown", "_hidden") ends the walk: the client is then the nearest known address.

use std::net::{IpAddr, SocketAddr};

use super::parser::{Field, Head};
use crate::networks::Networks;

/// The origin of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Port 0 where the proxy does not state it.
    pub client: SocketAddr,
    /// `None` where no trusted proxy states it: then it is plain HTTP to our own port.
    pub scheme: Option<Scheme>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

const FOR: &str = "X-Forwarded-For";
const PROTO: &str = "X-Forwarded-Proto";
const FORWARDED: &str = "Forwarded";

/// One proxy's statement about its caller.
struct Hop {
    client: Option<SocketAddr>,
    scheme: Option<Scheme>,
    /// As it was sent.
    text: String,
}

/// Finds the origin of a request from `peer`, and leaves in its head only the entries that trusted proxies have added.
pub fn find(head: &mut Head, peer: SocketAddr, trusted: &Networks) -> Origin {
    let direct = Origin { client: peer, scheme: None };
    if !head.fields.iter().any(|field| is_of_proxy(&field.name)) {
        return direct;
    }
    if !trusted.contain(peer.ip()) {
        head.fields.retain(|field| !is_of_proxy(&field.name));
        return direct;
    }
    let (name, hops) = match head.field(FOR).is_some() {
        true => (FOR, x_forwarded(head)),
        false => (FORWARDED, forwarded(head)),
    };
    let proto = elements(head, PROTO).pop().and_then(|last| scheme(&last));
    let mut origin = Origin { client: peer, scheme: proto };
    let mut kept: Vec<&str> = Vec::new(); // the last one first
    for hop in hops.iter().rev() {
        let Some(client) = hop.client else { break };
        origin = Origin { client, scheme: hop.scheme.or(proto) };
        kept.push(&hop.text);
        if !trusted.contain(client.ip()) {
            break;
        }
    }
    kept.reverse();
    let kept = kept.join(", ");
    head.fields.retain(|field| ![FOR, PROTO, FORWARDED].iter().any(|name| field.name.eq_ignore_ascii_case(name)));
    if !kept.is_empty() {
        head.fields.push(Field { name: name.into(), value: kept.into_bytes() });
    }
    if let Some(scheme) = origin.scheme {
        head.fields.push(Field { name: PROTO.into(), value: scheme.as_str().into() });
    }
    origin
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// Fields by which a proxy describes its client, including X-Forwarded-Host, X-Forwarded-Port and X-Real-IP.
fn is_of_proxy(name: &str) -> bool {
    const PREFIX: &str = "X-Forwarded-";
    let begins = name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
    begins || [FORWARDED, "X-Real-IP"].iter().any(|other| name.eq_ignore_ascii_case(other))
}

fn x_forwarded(head: &Head) -> Vec<Hop> {
    let (clients, schemes) = (elements(head, FOR), elements(head, PROTO));
    let has_each = clients.len() == schemes.len();
    let hop = |(at, text): (usize, String)| {
        let scheme = if has_each { scheme(&schemes[at]) } else { None };
        Hop { client: address(&text), scheme, text }
    };
    clients.into_iter().enumerate().map(hop).collect()
}

fn forwarded(head: &Head) -> Vec<Hop> {
    let hop = |text: String| {
        let parameter = |wanted: &str| {
            let mut pairs = split_outside_quotes(&text, ';').into_iter();
            pairs.find_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                name.trim().eq_ignore_ascii_case(wanted).then(|| value.trim().trim_matches('"').to_string())
            })
        };
        let client = parameter("for").as_deref().and_then(address);
        Hop { client, scheme: parameter("proto").as_deref().and_then(scheme), text: text.clone() }
    };
    elements(head, FORWARDED).into_iter().map(hop).collect()
}

/// The elements of all fields of this name, which form one list (RFC 9110, 5.3).
fn elements(head: &Head, name: &str) -> Vec<String> {
    let fields = head.fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
    let lists = fields.map(|field| String::from_utf8_lossy(&field.value).into_owned());
    let has_quotes = |list: &str| name == FORWARDED && list.matches('"').count().is_multiple_of(2);
    let elements = lists.flat_map(|list| match has_quotes(&list) {
        true => split_outside_quotes(&list, ','),
        false => list.split(',').map(str::to_string).collect(),
    });
    elements.map(|element| element.trim().to_string()).filter(|element| !element.is_empty()).collect()
}

fn split_outside_quotes(text: &str, separator: char) -> Vec<String> {
    let mut is_quoted = false;
    let parts = text.split(|character| {
        is_quoted ^= character == '"';
        character == separator && !is_quoted
    });
    parts.map(str::to_string).collect()
}

fn scheme(text: &str) -> Option<Scheme> {
    [Scheme::Http, Scheme::Https].into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme.as_str()))
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:4711`.
fn address(text: &str) -> Option<SocketAddr> {
    let canonical = |ip: IpAddr, port| SocketAddr::new(ip.to_canonical(), port);
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(ip) => Some(canonical(ip, 0)),
        Err(_) => text.parse::<SocketAddr>().ok().map(|address| canonical(address.ip(), address.port())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::check;
    use crate::http_handler::parser::parse_complete;

    /// The origin as text, and the remaining fields.
    fn found(peer: &str, fields: &str) -> (String, String) {
        let mut head = parse_complete(format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n").as_bytes()).unwrap();
        let trusted = "10.0.0.0/8,::1".parse().unwrap();
        let origin = find(&mut head, SocketAddr::new(peer.parse().unwrap(), 99), &trusted);
        let scheme = origin.scheme.map_or("-", Scheme::as_str);
        let left = head.fields.iter().filter(|field| field.name != "Host");
        let left = left.map(|field| format!("{}: {}\n", field.name, String::from_utf8_lossy(&field.value)));
        (format!("{} {scheme}", origin.client), left.collect())
    }

    #[test]
    fn nobody_but_a_trusted_proxy_is_believed() {
        let fields = "X-Forwarded-For: 1.1.1.1\r\nx-forwarded-proto: https\r\nX-Forwarded-Host: evil\r\n\
                      Forwarded: for=1.1.1.1\r\nX-Real-IP: 1.1.1.1\r\nX-Other: stays\r\n";
        assert_eq!(found("192.0.2.1", fields), ("192.0.2.1:99 -".into(), "X-Other: stays\n".into()));
    }

    #[test]
    fn the_walk_begins_at_the_end_and_stops_at_the_first_address_that_is_not_trusted() {
        let table = [
            ("X-Forwarded-For: 7.7.7.7\r\n", "7.7.7.7:0 -", "X-Forwarded-For: 7.7.7.7\n"),
            ("X-Forwarded-For: 6.6.6.6, 7.7.7.7\r\n", "7.7.7.7:0 -", "X-Forwarded-For: 7.7.7.7\n"),
            (
                "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7, 10.0.0.2\r\n",
                "7.7.7.7:0 -",
                "X-Forwarded-For: 7.7.7.7, 10.0.0.2\n",
            ),
            ("X-Forwarded-For: 10.9.9.9\r\n", "10.9.9.9:0 -", "X-Forwarded-For: 10.9.9.9\n"),
            ("X-Forwarded-For: 6.6.6.6, unknown\r\n", "10.0.0.1:99 -", ""),
            ("X-Forwarded-For: \", 7.7.7.7\r\n", "7.7.7.7:0 -", "X-Forwarded-For: 7.7.7.7\n"),
            ("Forwarded: for=\", for=7.7.7.7\r\n", "7.7.7.7:0 -", "Forwarded: for=7.7.7.7\n"),
            (
                "Forwarded: a=\", for=\"[2001:db8::7]:81\"\r\n",
                "[2001:db8::7]:81 -",
                "Forwarded: for=\"[2001:db8::7]:81\"\n",
            ),
            (
                "X-Forwarded-For: [2001:db8::1]:4711\r\n",
                "[2001:db8::1]:4711 -",
                "X-Forwarded-For: [2001:db8::1]:4711\n",
            ),
            ("X-Forwarded-For: 7.7.7.7:81\r\n", "7.7.7.7:81 -", "X-Forwarded-For: 7.7.7.7:81\n"),
        ];
        let cases = table.map(|(fields, origin, left)| (fields, (origin.to_string(), left.to_string())));
        check(cases, |fields| found("10.0.0.1", fields));
        assert_eq!(found("::1", "X-Forwarded-For: 7.7.7.7\r\n").0, "7.7.7.7:0 -");
    }

    #[test]
    fn the_scheme_is_the_last_or_that_of_the_client_s_hop() {
        let table = [
            ("X-Forwarded-Proto: https\r\n", "10.0.0.1:99 https"),
            ("X-Forwarded-For: 7.7.7.7\r\nX-Forwarded-Proto: https\r\n", "7.7.7.7:0 https"),
            ("X-Forwarded-For: 6.6.6.6, 7.7.7.7\r\nX-Forwarded-Proto: https, http\r\n", "7.7.7.7:0 http"),
            ("X-Forwarded-For: 7.7.7.7, 10.0.0.2\r\nX-Forwarded-Proto: https, http\r\n", "7.7.7.7:0 https"),
            ("X-Forwarded-For: 7.7.7.7, 10.0.0.2\r\nX-Forwarded-Proto: https\r\n", "7.7.7.7:0 https"),
            ("X-Forwarded-For: 7.7.7.7\r\nX-Forwarded-Proto: gopher\r\n", "7.7.7.7:0 -"),
        ];
        check(table.map(|(fields, origin)| (fields, origin.to_string())), |fields| found("10.0.0.1", fields).0);
    }

    #[test]
    fn forwarded_counts_where_x_forwarded_for_is_missing() {
        let (origin, left) = found(
            "10.0.0.1",
            "Forwarded: for=6.6.6.6;proto=http, For=\"[2001:db8::7]:81\";by=x;Proto=https, for=10.0.0.2;proto=http\r\n",
        );
        assert_eq!(origin, "[2001:db8::7]:81 https");
        assert!(left.starts_with("Forwarded: For=\"[2001:db8::7]:81\";by=x;Proto=https, for=10.0.0.2"), "{left}");
        let both = "Forwarded: for=6.6.6.6;proto=https\r\nX-Forwarded-For: 7.7.7.7\r\n";
        assert_eq!(found("10.0.0.1", both), ("7.7.7.7:0 -".into(), "X-Forwarded-For: 7.7.7.7\n".into()));
        assert_eq!(found("10.0.0.1", "Forwarded: for=_hidden\r\n").0, "10.0.0.1:99 -");
    }
}
