//! CGI/1.1 (RFC 3875) in both directions: a request becomes environment variables, and the head of a function's output
//! becomes the head of an answer. Pure functions over bytes.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::request::{RequestError, Result};
use crate::http_handler::parser::{Head, Version};
use crate::limits::CGI_HEAD_BYTES_MAX;
use crate::protocol::function_spec::Output;

// ---- In: RFC 3875, section 4.1 ------------------------------------------------------------------------------------

/// What of a request does not stand in its head.
pub struct Meta<'a> {
    pub request_id: &'a str,
    pub function: &'a str,
    pub handler: &'a str,
    pub module: &'a Path,
    pub output: Output,
    /// Where in the path PATH_INFO begins.
    pub path_info_start: usize,
    pub content_length: u64,
    pub peer: SocketAddr,
    pub port: u16,
    /// The descriptor's `env`, which has the last word.
    pub env: &'a [(String, String)],
}

/// The variables for one invocation, none of them twice: `NAME=value` and a NUL, again and again, as in /proc/PID/environ.
///
/// # Errors
/// [`RequestError::RequestMalformed`] where the path holds an encoded NUL, which no variable can carry.
pub fn environment(head: &Head, meta: &Meta<'_>) -> Result<Vec<u8>> {
    let (script_name, path_info) = head.path().split_at(meta.path_info_start);
    let mut variables = Variables { block: Vec::with_capacity(2048), overridden: meta.env };
    variables.add("GATEWAY_INTERFACE", b"CGI/1.1")?;
    variables.add("SERVER_SOFTWARE", concat!("faas/", env!("CARGO_PKG_VERSION")).as_bytes())?;
    let protocol = match head.version {
        Version::Http10 => "HTTP/1.0",
        Version::Http11 => "HTTP/1.1",
    };
    variables.add("SERVER_PROTOCOL", protocol.as_bytes())?;
    variables.add("SERVER_NAME", host_name(&head.host).as_bytes())?;
    variables.add("SERVER_PORT", meta.port.to_string().as_bytes())?;
    variables.add("REQUEST_METHOD", head.method.as_bytes())?;
    variables.add("REQUEST_URI", head.target.as_bytes())?;
    variables.add("SCRIPT_NAME", &percent_decoded(script_name))?;
    variables.add("SCRIPT_FILENAME", meta.module.as_os_str().as_bytes())?;
    variables.add("PATH_INFO", &percent_decoded(path_info))?;
    variables.add("QUERY_STRING", head.query().as_bytes())?;
    variables.add("REMOTE_ADDR", meta.peer.ip().to_string().as_bytes())?;
    variables.add("REMOTE_PORT", meta.peer.port().to_string().as_bytes())?;
    variables.add("CONTENT_LENGTH", meta.content_length.to_string().as_bytes())?;
    if let Some(content_type) = head.field("content-type") {
        variables.add("CONTENT_TYPE", content_type)?;
    }
    variables.add("FAAS_REQUEST_ID", meta.request_id.as_bytes())?;
    variables.add("FAAS_FUNCTION", meta.function.as_bytes())?;
    variables.add("FAAS_HANDLER", meta.handler.as_bytes())?;
    variables.add("FAAS_OUTPUT", meta.output.as_str().as_bytes())?;
    add_fields(&mut variables, head, meta.request_id)?;
    for (name, value) in meta.env {
        variables.push(name, value.as_bytes())?;
    }
    Ok(variables.block)
}

struct Variables<'a> {
    block: Vec<u8>,
    overridden: &'a [(String, String)],
}

impl Variables<'_> {
    /// Adds a variable of ours, unless the descriptor's `env` has one of that name.
    fn add(&mut self, name: &str, value: &[u8]) -> Result<()> {
        if self.overridden.iter().any(|(other, _)| other == name) {
            return Ok(());
        }
        self.push(name, value)
    }

    fn push(&mut self, name: &str, value: &[u8]) -> Result<()> {
        if value.contains(&0) {
            return Err(RequestError::RequestMalformed("the path holds an encoded NUL"));
        }
        for part in [name.as_bytes(), b"=", value, b"\0"] {
            self.block.extend_from_slice(part);
        }
        Ok(())
    }
}

/// `HTTP_*`. Fields of one name are joined as RFC 9110 5.3 says, cookies as RFC 6265 5.4 does. Left out are those that
/// have a variable of their own, Proxy (a client could set HTTP_PROXY, which many libraries obey: "httpoxy"), and names with
/// other characters than letters, digits and hyphens, since `A_B` and `A-B` would become the same variable.
fn add_fields(variables: &mut Variables<'_>, head: &Head, request_id: &str) -> Result<()> {
    let mut joined: Vec<(String, Vec<u8>)> = Vec::with_capacity(head.fields.len() + 2);
    for field in &head.fields {
        let is_plain = field.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let has_own = ["content-type", "content-length", "proxy", "host", "x-request-id"];
        if !is_plain || has_own.iter().any(|name| field.name.eq_ignore_ascii_case(name)) {
            continue;
        }
        let mut name = String::from("HTTP_");
        name.extend(field.name.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_uppercase() }));
        match joined.iter_mut().find(|(other, _)| *other == name) {
            Some((_, value)) => {
                value.extend_from_slice(if name == "HTTP_COOKIE" { b"; " } else { b", " });
                value.extend_from_slice(&field.value);
            }
            None => joined.push((name, field.value.clone())),
        }
    }
    if !head.host.is_empty() {
        joined.push(("HTTP_HOST".into(), head.host.clone().into_bytes()));
    }
    joined.push(("HTTP_X_REQUEST_ID".into(), request_id.as_bytes().to_vec()));
    joined.iter().try_for_each(|(name, value)| variables.add(name, value))
}

/// The host without its port; `localhost` where a 1.0 client named none.
fn host_name(host: &str) -> &str {
    let end = match host.rfind(']') {
        Some(bracket) => bracket + 1,
        None => host.find(':').unwrap_or(host.len()),
    };
    if host.is_empty() { "localhost" } else { &host[..end] }
}

/// `%41` becomes `A`; what is no valid escape stays as it is.
fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| (*byte as char).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (other, ..) => {
                decoded.push(other);
                at += 1;
            }
        }
    }
    decoded
}

// ---- Out: RFC 3875, section 6 -------------------------------------------------------------------------------------

/// The head of an answer, as the function wrote it and as we checked it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgiHead {
    pub status: u16,
    /// Empty where the function gave none: the standard phrase stands in.
    pub reason: String,
    /// Without those that are the platform's business, Content-Type included.
    pub fields: Vec<(String, Vec<u8>)>,
}

/// What the beginning of a function's output is.
#[derive(Debug, PartialEq, Eq)]
pub enum Opening {
    /// It cannot be told yet.
    Undecided,
    /// A CGI head, and where the body begins.
    Head(CgiHead, usize),
    /// All of it is body.
    NoHead,
    /// A head was wanted or begun, and is malformed: the text says how.
    Malformed(String),
}

/// Fields that make a block a CGI head: RFC 3875 6.2 asks for one of the first two at least.
const MAKES_A_HEAD: [&str; 3] = ["content-type", "location", "status"];

/// Fields of a function that do not get through: those of one connection (RFC 9110 7.6.1), the length and the framing,
/// which we know better, and those that the platform sets itself; besides these, whatever begins with [`OURS`].
const NOT_THE_FUNCTIONS: [&str; 12] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "content-length",
    "date",
    "x-request-id",
    "server-timing",
];

/// How fields begin that the gateway adds, or that its parts use among themselves.
const OURS: &str = "x-faas-";

fn is_the_functions(name: &str) -> bool {
    let is_ours = name.get(..OURS.len()).is_some_and(|start| start.eq_ignore_ascii_case(OURS));
    !is_ours && !NOT_THE_FUNCTIONS.iter().any(|taken| name.eq_ignore_ascii_case(taken))
}

/// Looks for a CGI head at the beginning of `output`. `is_all`: nothing more will come. `is_demanded`: without a head
/// the output is malformed (`"output": "cgi"`).
pub fn opening(output: &[u8], is_all: bool, is_demanded: bool) -> Opening {
    let no_head = |why: &str| match is_demanded {
        true => Opening::Malformed(why.into()),
        false => Opening::NoHead,
    };
    let mut lines = Vec::new();
    let mut at = 0;
    loop {
        let rest = &output[at..];
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
            if !looks_like_field(rest, false) {
                return no_head("a line of it has no colon");
            }
            if output.len() >= CGI_HEAD_BYTES_MAX {
                return no_head("no empty line ends it within 16 KiB");
            }
            return if is_all { no_head("no empty line ends it") } else { Opening::Undecided };
        };
        let line = rest[..length].strip_suffix(b"\r").unwrap_or(&rest[..length]);
        at += length + 1;
        if at > CGI_HEAD_BYTES_MAX {
            return no_head("no empty line ends it within 16 KiB");
        }
        if line.is_empty() {
            break;
        }
        if !looks_like_field(line, true) {
            return no_head("a line of it is not `name: value`");
        }
        lines.push(line);
    }
    let is_head = |line: &&&[u8]| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        MAKES_A_HEAD.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
    };
    if lines.iter().find(is_head).is_none() {
        return no_head("it has neither Content-Type nor Location nor Status");
    }
    match head_of(&lines) {
        Ok(head) => Opening::Head(head, at),
        Err(fault) => Opening::Malformed(fault),
    }
}

/// Whether a line is `token: …`, or, where it is not whole, can become one.
fn looks_like_field(line: &[u8], is_whole: bool) -> bool {
    match line.iter().position(|byte| *byte == b':') {
        Some(colon) => colon > 0 && line[..colon].iter().copied().all(is_token_byte),
        None => !is_whole && line.iter().copied().all(|byte| is_token_byte(byte) || byte == b'\r'),
    }
}

/// RFC 9110 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn head_of(lines: &[&[u8]]) -> std::result::Result<CgiHead, String> {
    let mut head = CgiHead { status: 0, reason: String::new(), fields: Vec::new() };
    let mut has_location = false;
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':').expect("looks_like_field found one");
        let name = std::str::from_utf8(&line[..colon]).expect("token bytes are ASCII");
        let value = line[colon + 1..].trim_ascii();
        // RFC 9110 5.5: a CR, LF or NUL in a value could end the head, or begin another answer.
        if value.iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f) {
            return Err(format!("the value of {name} holds a control character"));
        }
        if name.eq_ignore_ascii_case("status") {
            (head.status, head.reason) =
                status_of(value).ok_or("Status is not a number from 200 to 599 and a phrase")?;
            continue;
        }
        has_location |= name.eq_ignore_ascii_case("location");
        if is_the_functions(name) {
            head.fields.push((name.to_string(), value.to_vec()));
        }
    }
    if head.status == 0 {
        // RFC 3875 6.2.3: a Location without a Status redirects.
        head.status = if has_location { 302 } else { 200 };
    }
    Ok(head)
}

fn status_of(value: &[u8]) -> Option<(u16, String)> {
    let text = std::str::from_utf8(value).ok()?;
    let (code, reason) = text.split_once(' ').unwrap_or((text, ""));
    let code: u16 = code.parse().ok().filter(|code| (200..600).contains(code) && text.len() >= 3)?;
    Some((code, reason.trim().to_string()))
}

impl CgiHead {
    /// The head of an output that has none, or whose head is not looked for.
    pub fn ok() -> CgiHead {
        CgiHead { status: 200, reason: String::new(), fields: Vec::new() }
    }

    /// With the Content-Type that the body's first bytes let guess, where the function gave none.
    pub fn with_content_type(mut self, body: &[u8]) -> CgiHead {
        if !self.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            let guess: &[u8] = match body.trim_ascii_start().first() {
                Some(b'{' | b'[') => b"application/json",
                _ => b"text/plain; charset=utf-8",
            };
            self.fields.push(("Content-Type".into(), guess.into()));
        }
        self
    }

    pub fn is_event_stream(&self) -> bool {
        self.fields.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case("content-type")
                && value.get(..17).is_some_and(|start| start.eq_ignore_ascii_case(b"text/event-stream"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(output: &[u8]) -> (CgiHead, usize) {
        match opening(output, true, false) {
            Opening::Head(head, start) => (head, start),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_block_with_a_known_field_and_an_empty_line_is_a_head() {
        let (found, start) = head(b"Status: 404 Not Here\r\nContent-Type: text/html\r\nX-A: b\r\n\r\nbody");
        assert_eq!((found.status, found.reason.as_str(), start), (404, "Not Here", 57));
        assert_eq!(found.fields, [("Content-Type".into(), b"text/html".to_vec()), ("X-A".into(), b"b".to_vec())]);
        assert_eq!(head(b"Content-Type: a/b\n\n").0.status, 200);
        assert_eq!(head(b"Location: /there\n\n").0.status, 302);
        assert_eq!(head(b"Status: 201\nLocation: /there\n\n").0.status, 201);
    }

    #[test]
    fn output_without_a_head_is_body() {
        let bodies: [&[u8]; 9] = [
            b"",
            b"Hello",
            b"{\"a\": 1}\n\n",
            b"Note: this is text\n\nreally",
            b"\n\nContent-Type: x\n\n",
            b"Content-Type : x\n\n",
            b"<p style=\"a:b\">\n\n",
            b"\xff\xfe\x00: \n\n",
            b"Content-Type: text/plain\n",
        ];
        for body in bodies {
            assert_eq!(opening(body, true, false), Opening::NoHead, "{:?}", String::from_utf8_lossy(body));
            assert!(matches!(opening(body, true, true), Opening::Malformed(_)));
        }
    }

    #[test]
    fn an_undecided_opening_is_decided_by_what_follows_and_never_later_than_16_kib() {
        let output = b"Content-Type: text/plain\r\nX: y\r\n\r\nz";
        for length in 0..output.len() - 1 {
            assert_eq!(opening(&output[..length], false, false), Opening::Undecided, "{length}");
        }
        let long = [b"X-Long: ".as_slice(), &[b'a'; CGI_HEAD_BYTES_MAX]].concat();
        assert_eq!(opening(&long, false, false), Opening::NoHead);
        let many = b"A: b\n".repeat(CGI_HEAD_BYTES_MAX / 5 + 1);
        assert_eq!(opening(&many, false, false), Opening::NoHead);
    }

    #[test]
    fn nothing_can_be_injected_through_a_head() {
        let splitting: [&[u8]; 3] =
            [b"Content-Type: a\rSet-Cookie: b\n\n", b"Content-Type: a\0b\n\n", b"Status: 200\nX: a\x0bb\n\n"];
        for output in splitting {
            assert!(matches!(opening(output, true, false), Opening::Malformed(_)));
        }
        for status in ["abc", "99", "100", "600", "20", "-200", "2e2", ""] {
            let output = format!("Status: {status}\n\n");
            assert!(matches!(opening(output.as_bytes(), true, false), Opening::Malformed(_)), "{status}");
        }
        let (found, _) = head(b"Content-Type: a\nContent-Length: 5\nTransfer-Encoding: chunked\nConnection: x\n\n");
        assert_eq!(found.fields.len(), 1);
    }

    #[test]
    fn the_guess_for_output_without_a_type_is_json_or_text() {
        let guess = |body: &[u8]| CgiHead::ok().with_content_type(body).fields.remove(0).1;
        assert_eq!(guess(b" {\"a\":1}"), b"application/json");
        assert_eq!(guess(b"hi"), b"text/plain; charset=utf-8");
        let given = head(b"Content-Type: a/b\n\n").0;
        assert_eq!(given.clone().with_content_type(b"{"), given);
        assert!(head(b"Content-Type: text/event-stream; charset=utf-8\n\n").0.is_event_stream());
        assert!(!head(b"Content-Type: text/plain\n\n").0.is_event_stream());
    }

    #[test]
    fn escapes_are_decoded_and_hosts_lose_their_port() {
        assert_eq!(percent_decoded("/a%20b%2Fc%zz%4"), b"/a b/c%zz%4");
        assert_eq!(host_name("example.org:80"), "example.org");
        assert_eq!(host_name("[::1]:8080"), "[::1]");
        assert_eq!(host_name(""), "localhost");
    }
}
