//! CGI/1.1 (RFC 3875, section 4.1): a request becomes environment variables. cgi_output.rs handles the response.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::request::{RequestError, Result};
use crate::http_handler::origin::{Origin, Scheme};
use crate::http_handler::parser::{Head, Version};
use crate::protocol::function_spec::Output;
use crate::registry::pattern::{Param, param_value};

/// The facts about a request that its head does not contain.
pub struct Meta<'a> {
    pub request_id: &'a str,
    /// The route's key in the registry.
    pub route: &'a str,
    pub function: &'a str,
    pub handler: &'a str,
    pub module: &'a Path,
    pub output: Output,
    /// Where in the path PATH_INFO begins.
    pub path_info_start: usize,
    /// The `{name}` segments of the route.
    pub params: &'a [Param],
    pub content_length: u64,
    pub origin: Origin,
    /// The address that the connection was made to.
    pub local: SocketAddr,
    /// The descriptor's `env`, which overrides all other variables.
    pub env: &'a [(String, String)],
}

/// The variables of one invocation, each of them once: a sequence of `NAME=value` and NUL, as in /proc/PID/environ.
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
    variables.add("SERVER_ADDR", meta.local.ip().to_string().as_bytes())?;
    let scheme = meta.origin.scheme;
    let server_port = scheme.map_or(meta.local.port(), |scheme| host_port(&head.host).unwrap_or(scheme.default_port()));
    variables.add("SERVER_PORT", server_port.to_string().as_bytes())?;
    variables.add("REQUEST_SCHEME", scheme.unwrap_or(Scheme::Http).as_str().as_bytes())?;
    if scheme == Some(Scheme::Https) {
        variables.add("HTTPS", b"on")?;
    }
    variables.add("REQUEST_METHOD", head.method.as_bytes())?;
    variables.add("REQUEST_URI", head.target.as_bytes())?;
    variables.add("SCRIPT_NAME", &percent_decoded(script_name))?;
    variables.add("SCRIPT_FILENAME", meta.module.as_os_str().as_bytes())?;
    let folder = meta.module.parent().unwrap_or(Path::new("/"));
    variables.add("DOCUMENT_ROOT", folder.as_os_str().as_bytes())?;
    variables.add("PATH_INFO", &percent_decoded(path_info))?;
    variables.add("QUERY_STRING", head.query().as_bytes())?;
    let client = meta.origin.client;
    variables.add("REMOTE_ADDR", client.ip().to_string().as_bytes())?;
    if client.port() != 0 {
        variables.add("REMOTE_PORT", client.port().to_string().as_bytes())?;
    }
    variables.add("CONTENT_LENGTH", meta.content_length.to_string().as_bytes())?;
    if let Some(content_type) = head.field("content-type") {
        variables.add("CONTENT_TYPE", content_type)?;
    }
    variables.add("FAAS_REQUEST_ID", meta.request_id.as_bytes())?;
    variables.add("FAAS_ROUTE", meta.route.as_bytes())?;
    variables.add("FAAS_FUNCTION", meta.function.as_bytes())?;
    variables.add("FAAS_HANDLER", meta.handler.as_bytes())?;
    variables.add("FAAS_OUTPUT", meta.output.as_str().as_bytes())?;
    for param in meta.params {
        variables.add(&param.variable, &param_value(head.path(), param.segment))?;
    }
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
    /// Adds a variable of the platform, unless the descriptor's `env` has one of that name.
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

/// `HTTP_*`. Fields of one name are joined as RFC 9110 5.3 says, cookies as RFC 6265 5.4 says. Omitted are:
/// - fields that have a variable of their own;
/// - Proxy: a client could set HTTP_PROXY, which many libraries obey ("httpoxy");
/// - X-Faas-Explain with the operator's token;
/// - names with characters other than letters, digits and hyphens, since `A_B` and `A-B` would become one.
fn add_fields(variables: &mut Variables<'_>, head: &Head, request_id: &str) -> Result<()> {
    let mut joined: Vec<(String, Vec<u8>)> = Vec::with_capacity(head.fields.len() + 2);
    for field in &head.fields {
        let is_plain = field.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let has_own = ["content-type", "content-length", "proxy", "host", "x-request-id", "x-faas-explain"];
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

/// The host without its port; `localhost` where an HTTP/1.0 client named none.
pub fn host_name(host: &str) -> &str {
    let end = match host.rfind(']') {
        Some(bracket) => bracket + 1,
        None => host.find(':').unwrap_or(host.len()),
    };
    if host.is_empty() { "localhost" } else { &host[..end] }
}

/// The port of a host, if it names one.
fn host_port(host: &str) -> Option<u16> {
    host[host_name(host).len().min(host.len())..].strip_prefix(':')?.parse().ok()
}

/// `%41` becomes `A`; an invalid escape stays as it is.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::each;
    use crate::http_handler::parser::parse_complete;

    /// The environment of a request to the route `/tell/*`, as text without the last NUL.
    fn told(request: &str) -> Result<String> {
        let address = "127.0.0.1:80".parse().unwrap();
        let meta = Meta {
            request_id: "r",
            route: "GET:/tell/*",
            function: "tell",
            handler: "",
            module: Path::new("/srv/tell"),
            output: Output::Auto,
            path_info_start: "/tell".len(),
            params: &[],
            content_length: 0,
            origin: Origin { client: address, scheme: None },
            local: address,
            env: &[],
        };
        let environment = environment(&parse_complete(request.as_bytes()).unwrap(), &meta)?;
        Ok(String::from_utf8(environment).unwrap().trim_end_matches('\0').into())
    }

    #[test]
    fn targets_arrive_as_sent_and_in_parts() {
        let cases = [
            ("/tell", "/tell", "", "", "h"),
            ("/tell?", "/tell?", "", "", "h"),
            ("/tell?a=b?c=d&%00", "/tell?a=b?c=d&%00", "", "a=b?c=d&%00", "h"),
            ("/tell//a", "/tell//a", "//a", "", "h"),
            ("/tell/a%2Fb", "/tell/a%2Fb", "/a/b", "", "h"),
            ("/tell/%zz%4", "/tell/%zz%4", "/%zz%4", "", "h"),
            // The absolute form, whose host wins over the Host line.
            ("http://other:81/tell?q", "http://other:81/tell?q", "", "q", "other:81"),
        ];
        each(cases, |(target, uri, info, query, host)| {
            let all = told(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap();
            let lines = [
                format!("REQUEST_URI={uri}"),
                format!("PATH_INFO={info}"),
                format!("QUERY_STRING={query}"),
                format!("HTTP_HOST={host}"),
                format!("SERVER_NAME={}", host_name(host)),
            ];
            each(lines, |line| assert!(all.split('\0').any(|other| other == line), "is not in {all:?}"));
        });
        assert!(told("GET /tell/a%00b HTTP/1.1\r\nHost: h\r\n\r\n").is_err(), "no variable can carry a NUL");
    }

    #[test]
    fn fields_become_variables_that_no_other_can_pretend_to_be() {
        let all = told(
            "GET /tell HTTP/1.0\r\nProxy: evil\r\nContent_Length: 3\r\nRemote_Addr: 6.6.6.6\r\nX.Dot: 1\r\n\
             Content-Length: 0\r\nX-Twice: 1\r\nX-Twice: 2\r\nCookie: a=1\r\ncookie: b=\"\u{fc}\"\r\n\
             X-Request-Id: evil\r\n\r\n",
        );
        let all = all.unwrap();
        let fields: Vec<&str> = all.split('\0').filter(|line| line.starts_with("HTTP_")).collect();
        assert_eq!(fields, ["HTTP_X_TWICE=1, 2", "HTTP_COOKIE=a=1; b=\"\u{fc}\"", "HTTP_X_REQUEST_ID=r"]);
        let lines = ["REMOTE_ADDR=127.0.0.1", "CONTENT_LENGTH=0", "SERVER_NAME=localhost", "SERVER_PROTOCOL=HTTP/1.0"];
        each(lines, |line| assert!(all.split('\0').any(|other| other == line), "is not in {all:?}"));
    }

    #[test]
    fn escapes_are_decoded_and_hosts_lose_their_port() {
        assert_eq!(percent_decoded("/a%20b%2Fc%zz%4"), b"/a b/c%zz%4");
        assert_eq!(host_name("example.org:80"), "example.org");
        assert_eq!(host_name("[::1]:8080"), "[::1]");
        assert_eq!(host_name(""), "localhost");
        assert_eq!(
            ["h:81", "[::1]:82", "h", "[::1]", "", "h:x"].map(host_port),
            [Some(81), Some(82), None, None, None, None]
        );
    }
}
