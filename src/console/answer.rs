//! What the console answers: its routes, and problems (RFC 9457).

use std::io::Cursor;

use serde_json::{Value, json};
use tiny_http::{Header, Method, Request, Response, StatusCode};

use super::status::Status;

pub type Reply = Response<Cursor<Vec<u8>>>;

/// For a request that may be answered.
pub fn route(request: &Request, status: &Status) -> Reply {
    let path = request.url().split('?').next().unwrap_or_default();
    match (path, request.method()) {
        ("/api/v1/status", Method::Get | Method::Head) => json_response(200, "application/json", &status.show()),
        ("/api/v1/status", _) => {
            let allow = Header::from_bytes("Allow", "GET, HEAD").expect("this is a field");
            problem(405, "allowed methods: GET, HEAD").with_header(allow)
        }
        _ => problem(404, "the console has nothing at this path"),
    }
}

pub fn problem(status: u16, detail: &str) -> Reply {
    let title = StatusCode(status).default_reason_phrase();
    let body = json!({"type": "about:blank", "title": title, "status": status, "detail": detail});
    json_response(status, "application/problem+json", &body)
}

/// No cache may keep it, and no browser take it for anything but JSON.
fn json_response(status: u16, content_type: &str, body: &Value) -> Reply {
    let fields = [("Content-Type", content_type), ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")];
    let response = Response::from_data(format!("{body}\n")).with_status_code(status);
    fields.into_iter().fold(response, |response, (name, value)| {
        response.with_header(Header::from_bytes(name, value).expect("these are fields"))
    })
}
