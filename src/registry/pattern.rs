//! A route's key, taken apart: `METHOD:/path`, `METHOD:/prefix/*`, `*:` for any method, `{name}` for any one segment,
//! `METHOD://host/path` for requests to one host.
//!
//! Requests are compared with the key as clients send them, so a key that no request line can contain is a fault. The
//! CHECK constraints and triggers of init.sql enforce the same rules at the sqlite3 prompt.

use std::borrow::Cow;

use crate::limits::ROUTE_KEY_BYTES_MAX;

use super::config_loader::shown;

/// The method that stands for every method.
pub const ANY_METHOD: &str = "*";

/// Words that other routers have for every method. A request never has them as its method.
const NOT_METHODS: [&str; 2] = ["ANY", "ALL"];

#[derive(Debug, PartialEq, Eq)]
pub struct Pattern<'a> {
    pub method: &'a str,
    /// Without a port, as written; empty for every host.
    pub host: &'a str,
    /// The path, or its part before the `/*` of a prefix: `/api` for `/api/*`, nothing for `/*`.
    pub path: &'a str,
    pub is_prefix: bool,
}

/// One `{name}` of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// FAAS_PARAM_ID for `{id}`.
    pub variable: String,
    /// Index of the path segment that it stands for, counted from 0.
    pub segment: usize,
}

impl<'a> Pattern<'a> {
    /// `Err` is the fault, one sentence without its final stop.
    pub fn parse(key: &'a str) -> Result<Pattern<'a>, String> {
        let fault = |must: &str| Err(format!("k is {}; it must {must}", shown(key)));
        if key.len() > ROUTE_KEY_BYTES_MAX {
            return fault(&format!("have at most {ROUTE_KEY_BYTES_MAX} bytes"));
        }
        let Some((method, path)) = key.split_once(':') else {
            return fault("be METHOD:/path or METHOD:/prefix/*");
        };
        let (host, path) = match path.strip_prefix("//") {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", path),
        };
        let names_a_host = key.len() > method.len() + 1 + path.len();
        let is_name = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
        if !(is_name || method == ANY_METHOD) || !path.starts_with('/') {
            return fault("be METHOD:/path or METHOD:/prefix/*, with the method in capital letters, or * for any");
        }
        if NOT_METHODS.contains(&method) {
            return fault(&format!("have * for any method: *:{path}"));
        }
        if path.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'?' || byte == b'#') {
            return fault("be written as browsers send it: no query, no fragment, %20 for a space and the like");
        }
        if names_a_host && !is_host(host) {
            return fault("name a host without a port, of letters, digits, dots and hyphens: GET://shop.example/cart");
        }
        if path == "/healthz" {
            return fault("be another path: the gateway itself answers /healthz");
        }
        let pattern = match path.split_once('*') {
            None => Pattern { method, host, path, is_prefix: false },
            Some((prefix, "")) if prefix.ends_with('/') => {
                Pattern { method, host, path: &prefix[..prefix.len() - 1], is_prefix: true }
            }
            Some(_) => return fault("have a * only as its last character, after a /"),
        };
        match pattern.has_sound_params() {
            true => Ok(pattern),
            false => fault("have each {name} as a whole segment, of letters, digits and _, and no name twice"),
        }
    }

    /// The segments between the slashes; none for the path of `/*`.
    pub fn segments(&self) -> impl Iterator<Item = &'a str> {
        self.path.split('/').skip(1)
    }

    pub fn params(&self) -> Vec<Param> {
        let names = self.segments().enumerate().filter_map(|(segment, text)| Some((segment, param_name(text)?)));
        names.map(|(segment, name)| Param { variable: variable(name), segment }).collect()
    }

    fn has_sound_params(&self) -> bool {
        if !self.path.contains(['{', '}']) {
            return true;
        }
        let mut variables: Vec<String> = self.params().into_iter().map(|param| param.variable).collect();
        let count = variables.len();
        variables.sort_unstable();
        variables.dedup();
        variables.len() == count && self.segments().all(|text| param_name(text).is_some() || !text.contains(['{', '}']))
    }
}

/// A name, an IPv4 address, or an IPv6 address in brackets. init.sql has the same rule.
fn is_host(host: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    };
    let is_address = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'));
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => !address.is_empty() && is_address(address),
        None => is_name(host),
    }
}

/// A host in the form that look-ups compare: in small letters, without the dot that may end a full domain name.
pub fn comparable_host(host: &str) -> Cow<'_, str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => host.to_ascii_lowercase().into(),
        false => host.into(),
    }
}

/// The name in a segment `{name}`; `None` where it is another segment.
pub fn param_name(segment: &str) -> Option<&str> {
    let name = segment.strip_prefix('{')?.strip_suffix('}')?;
    let is_first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let is_name =
        name.bytes().next().is_some_and(is_first) && name.bytes().all(|byte| is_first(byte) || byte.is_ascii_digit());
    is_name.then_some(name)
}

fn variable(name: &str) -> String {
    format!("FAAS_PARAM_{}", name.to_ascii_uppercase())
}

/// The value of a parameter: the segment as sent, percent-decoded once. `%2F` stays, so that a value never gains a
/// slash. `%00` stays, because no variable can carry a NUL.
pub fn param_value(path: &str, segment: usize) -> Vec<u8> {
    let sent = path.split('/').nth(segment + 1).unwrap_or("").as_bytes();
    let digit = |at: usize| sent.get(at).and_then(|byte| (*byte as char).to_digit(16));
    let mut value = Vec::with_capacity(sent.len());
    let mut at = 0;
    while at < sent.len() {
        let escaped = match (sent[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => Some((high * 16 + low) as u8).filter(|byte| !matches!(byte, b'/' | 0)),
            _ => None,
        };
        value.push(escaped.unwrap_or(sent[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::check;

    #[test]
    fn keys_are_methods_and_paths_or_prefixes() {
        let of_host = |method, host, path, is_prefix| Ok(Pattern { method, host, path, is_prefix });
        let pattern = |method, path, is_prefix| of_host(method, "", path, is_prefix);
        assert_eq!(Pattern::parse("GET:/"), pattern("GET", "/", false));
        assert_eq!(Pattern::parse("POST:/api/a:b"), pattern("POST", "/api/a:b", false));
        assert_eq!(Pattern::parse("GET:/api/*"), pattern("GET", "/api", true));
        assert_eq!(Pattern::parse("M-SEARCH:/*"), pattern("M-SEARCH", "", true));
        assert_eq!(Pattern::parse("*:/any"), pattern("*", "/any", false));
        assert_eq!(Pattern::parse("*:/*"), pattern("*", "", true));
        assert_eq!(Pattern::parse("GET:/u/{id}/*"), pattern("GET", "/u/{id}", true));
        assert_eq!(Pattern::parse("GET://Shop.example/cart"), of_host("GET", "Shop.example", "/cart", false));
        assert_eq!(Pattern::parse("*://shop.example/*"), of_host("*", "shop.example", "", true));
        assert_eq!(Pattern::parse("GET://[::1]/{id}"), of_host("GET", "[::1]", "/{id}", false));
        assert_eq!(Pattern::parse("GET://a//b"), of_host("GET", "a", "//b", false));
    }

    #[test]
    fn keys_that_no_request_can_have_are_faults() {
        let bad = "|ANY:/x|ALL://a/x|GET|GET:|GET:x|:/x|get:/x|GET /x|GE T:/x|GET:/a b|GET:/é|GET:/a?b|GET:/a#b|GET:/a*|GET:/*/a\
            |GET:/a/**|GET:/*.php|GET:/a\n|GET:/healthz|POST:/healthz|*:/healthz|**:/x|*GET:/x|*:/a*\
            |GET://|GET:///a|GET://a|GET://a:80/x|GET://*/x|GET://{a}/x|GET://a@b/x|GET://[]/x|GET://[a]x/y|GET://a/healthz\
            |GET:/{}|GET:/{1}|GET:/{a|GET:/a}|GET:/x{a}|GET:/{a}x|GET:/{a}/{A}|GET:/{a-b}|GET:/{{a}}";
        check(bad.split('|').map(|key| (key, true)), |key| {
            Pattern::parse(key).is_err_and(|fault| fault.starts_with("k is ") && fault.contains("; it must "))
        });
        assert!(Pattern::parse(&format!("GET:/{}", "x".repeat(ROUTE_KEY_BYTES_MAX))).is_err());
    }

    #[test]
    fn params_have_variables_and_values() {
        let params = Pattern::parse("GET:/users/{id}/posts/{post_id}").unwrap().params();
        let shown: Vec<(&str, usize)> = params.iter().map(|param| (param.variable.as_str(), param.segment)).collect();
        assert_eq!(shown, [("FAAS_PARAM_ID", 1), ("FAAS_PARAM_POST_ID", 3)]);
        let values = [
            ("42", "42"),
            ("a%20b", "a b"),
            ("a%2Fb%2fc", "a%2Fb%2fc"),
            ("a%2520b", "a%20b"),
            ("%", "%"),
            ("%zz", "%zz"),
            ("%00", "%00"),
            ("%C3%BC", "ü"),
        ];
        check(values.map(|(sent, value)| (sent, value.as_bytes().to_vec())), |sent| {
            param_value(&format!("/users/{sent}/posts/7"), 1).to_vec()
        });
    }
}
