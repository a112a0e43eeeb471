//! Turns a [`RequestError`] into a response: problem details in JSON (RFC 9457), and the reason phrases.

use crate::error::request::RequestError;

/// The media type of [`body`].
pub const CONTENT_TYPE: &str = "application/problem+json";

/// The problem details: a JSON object with type, title, status, detail and request_id.
pub fn body(error: &RequestError, detail: &str, request_id: &str) -> Vec<u8> {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        "{{\"type\":\"urn:faas:{}\",\"title\":{},\"status\":{},\"detail\":{},\"request_id\":{}}}\n",
        error.kind(),
        text(&title(error.kind())),
        error.status(),
        text(detail),
        text(request_id),
    )
    .into_bytes()
}

/// The kind of error in a few words, the same for each occurrence (RFC 9457, 3.1.3): `module-missing` is "Module
/// missing".
fn title(kind: &str) -> String {
    let words = kind.replace('-', " ");
    words[..1].to_uppercase() + &words[1..]
}

/// The reason phrase of a status (RFC 9110, 15); "" for one that is not registered, which is allowed.
pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_error_text_makes_valid_json() {
        let error = RequestError::ModuleMissing { path: "a\"b\\\n".into(), cause: "\u{1}".into() };
        let problem: serde_json::Value = serde_json::from_slice(&body(&error, &error.to_string(), "id-1")).unwrap();
        assert_eq!(problem["type"], "urn:faas:module-missing");
        assert_eq!(problem["title"], "Module missing");
        assert_eq!(problem["status"], 500);
        assert_eq!(problem["detail"], error.to_string());
        assert_eq!(problem["request_id"], "id-1");
    }
}
