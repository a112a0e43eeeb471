//! The form that calls a function: a request of the console to the public port.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use super::Console;
use super::call::Call;
use super::reply::Reply;
use crate::operator::Result;
use crate::operator::gateway::Gateway;

/// Bytes of an answer that the form shows; a larger one is an error.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Calls at once: each occupies a thread of the console while the function runs.
const CALLS_MAX: usize = 8;

static CALLS: AtomicUsize = AtomicUsize::new(0);

struct Place;

impl Place {
    fn take() -> Option<Place> {
        let place = Place;
        (CALLS.fetch_add(1, Ordering::AcqRel) < CALLS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        CALLS.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Takes `{"method", "target", "headers", "body"}`, and replies with the function's answer.
pub fn invoke(console: &Console, call: &mut Call) -> Result<Reply, Reply> {
    let asked = call.json()?;
    let wrong = |what: &str| Reply::problem(400, what);
    let method = asked["method"].as_str().unwrap_or("GET");
    if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
        return Err(wrong("method must be capital letters"));
    }
    let target = asked["target"].as_str().unwrap_or("");
    if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("target must be a path that begins with /, written as browsers send it"));
    }
    let fields = fields(&asked["headers"]).ok_or_else(|| wrong("headers must be an object of names and texts"))?;
    let body = asked["body"].as_str().unwrap_or("").as_bytes();
    let Some(_place) = Place::take() else {
        return Err(Reply::problem(503, "too many calls of this form run").with("Retry-After", "1"));
    };
    let gateway = Gateway::required(&console.settings)?.bounded(ANSWER_BYTES_MAX);
    let began = Instant::now();
    let answer = gateway.invoke(method, target, &fields, body)?;
    let text = String::from_utf8(answer.body);
    let (is_text, body) = match text {
        Ok(text) => (true, text),
        Err(error) => (false, format!("{} bytes that are no text", error.as_bytes().len())),
    };
    let headers: Vec<Value> = answer.fields.iter().map(|(name, value)| json!([name, value])).collect();
    Ok(Reply::json(
        200,
        &json!({
            "status": answer.status, "headers": headers, "body": body, "is_text": is_text,
            "ms": began.elapsed().as_secs_f64() * 1000.0,
        }),
    ))
}

/// Names and values without line breaks.
fn fields(headers: &Value) -> Option<Vec<(String, String)>> {
    let none = serde_json::Map::new();
    let headers = if headers.is_null() { &none } else { headers.as_object()? };
    let is_token = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    let field = |(name, value): (&String, &Value)| {
        let value = value.as_str()?;
        let is_framing = ["content-length", "transfer-encoding", "connection"].contains(&name.to_lowercase().as_str());
        let is_sound = is_token(name) && !value.chars().any(char::is_control) && !is_framing;
        is_sound.then(|| (name.clone(), value.to_string()))
    };
    headers.iter().map(field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::check;

    #[test]
    fn headers_stay_on_their_lines() {
        assert_eq!(fields(&json!({"X-A": "b c"})), Some(vec![("X-A".into(), "b c".into())]));
        assert_eq!(fields(&Value::Null), Some(vec![]));
        let bad = [
            json!({"X": "a\r\nY: b"}),
            json!({"X Y": "a"}),
            json!({"": "a"}),
            json!({"X": 1}),
            json!([]),
            json!({"Content-Length": "5"}),
        ];
        check(bad.map(|headers| (headers, None)), fields);
    }
}
