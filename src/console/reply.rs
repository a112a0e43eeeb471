//! The console's replies, and their sending: head and body in one piece, and one request per connection.
//!
//! tiny_http queues a burst of new connections behind too few threads, where they wait until another one closes; so
//! each connection carries one request. Its own response code would write large bodies in pieces of 1 KiB.

use std::borrow::Cow;
use std::io::Write;

use serde_json::{Value, json};
use tiny_http::{Header, Method, Request, Response, StatusCode};

use crate::operator::OperationError;

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    fields: Vec<(&'static str, String)>,
    body: Cow<'static, [u8]>,
}

/// For pages and API alike: no cache keeps the reply, no browser guesses another type, no other site embeds it.
const FIELDS: [(&str, &str); 6] = [
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
    ),
];

impl Reply {
    pub fn new(status: u16, content_type: &str, body: impl Into<Cow<'static, [u8]>>) -> Reply {
        let fields = vec![("Content-Type", content_type.to_string())];
        Reply { status, fields, body: body.into() }
    }

    pub fn json(status: u16, value: &Value) -> Reply {
        Reply::new(status, "application/json", format!("{value}\n").into_bytes())
    }

    /// A problem (RFC 9457).
    pub fn problem(status: u16, detail: &str) -> Reply {
        let title = StatusCode(status).default_reason_phrase();
        let body = json!({"type": "about:blank", "title": title, "status": status, "detail": detail});
        Reply::new(status, "application/problem+json", format!("{body}\n").into_bytes())
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.fields.push((name, value.into()));
        self
    }

    /// `is_read`: true if the request's body was read to its end. Otherwise tiny_http first sends the reply and then
    /// waits for the rest; with a writer the order would be reversed.
    pub fn send(self, request: Request, is_read: bool) {
        // A client that has left is not an error.
        let _ = match is_read {
            true => self.write(request),
            false => {
                let fields = self.fields.iter().map(|(name, value)| (*name, value.as_str())).chain(FIELDS);
                let response = Response::from_data(self.body.to_vec()).with_status_code(self.status);
                let response = fields.fold(response, |response, (name, value)| {
                    response.with_header(Header::from_bytes(name, value).expect("these are fields"))
                });
                request.respond(response)
            }
        };
    }

    fn write(&self, request: Request) -> std::io::Result<()> {
        let is_head = *request.method() == Method::Head;
        let reason = StatusCode(self.status).default_reason_phrase();
        let mut bytes = format!("HTTP/1.1 {} {reason}\r\nConnection: close\r\n", self.status);
        for (name, value) in
            FIELDS.iter().copied().chain(self.fields.iter().map(|(name, value)| (*name, value.as_str())))
        {
            bytes += &format!("{name}: {value}\r\n");
        }
        bytes += &format!("Content-Length: {}\r\n\r\n", self.body.len());
        let mut bytes = bytes.into_bytes();
        if !is_head {
            bytes.extend_from_slice(&self.body);
        }
        let mut writer = request.into_writer();
        writer.write_all(&bytes)?;
        writer.flush()
    }
}

impl From<OperationError> for Reply {
    fn from(error: OperationError) -> Reply {
        let status = match error {
            OperationError::Usage(_) => 400,
            OperationError::NotFound(_) => 404,
            OperationError::Refused(_) => 422,
            OperationError::NotLive(_) => 504,
            OperationError::Failed(_) => 500,
        };
        Reply::problem(status, &error.to_string())
    }
}
