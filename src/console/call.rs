//! One request to the console, parsed: path parameters, query, body.

use std::io::Read;

use serde_json::Value;
use tiny_http::Request;

use super::access::only;
use super::reply::Reply;

/// Bytes of a body other than an upload: a descriptor has at most 64 KiB, and a call's body is in JSON.
const JSON_BYTES_MAX: usize = 2 << 20;

pub struct Call {
    pub request: Request,
    /// The decoded values for the `{}` of the route.
    pub params: Vec<String>,
    query: Vec<(String, String)>,
    /// True once the whole body has been read.
    pub is_read: bool,
}

impl Call {
    pub fn new(request: Request) -> Call {
        let query = request.url().split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(&name.replace('+', " ")), decoded(&value.replace('+', " ")))
        });
        let query = pairs.collect();
        // tiny_http treats a malformed length as no body, and reads the body as the next request. That is harmless on a
        // connection that carries only one request.
        let is_chunked = request.headers().iter().any(|header| header.field.equiv("Transfer-Encoding"));
        let is_read = !is_chunked && request.body_length().unwrap_or(0) == 0;
        Call { request, params: Vec::new(), query, is_read }
    }

    pub fn method(&self) -> &str {
        match self.request.method().as_str() {
            "HEAD" => "GET",
            method => method,
        }
    }

    pub fn path(&self) -> &str {
        self.request.url().split('?').next().unwrap_or_default()
    }

    pub fn field(&self, name: &'static str) -> Option<&str> {
        only(self.request.headers(), name)
    }

    /// A parameter of the query that is not empty.
    pub fn query(&self, name: &str) -> Option<&str> {
        let pair = self.query.iter().find(|(other, _)| other == name)?;
        Some(pair.1.as_str()).filter(|value| !value.is_empty())
    }

    /// # Errors
    /// 400 where the parameter is present but no whole number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Reply> {
        let number = |text: &str| {
            text.parse().map_err(|_| Reply::problem(400, &format!("{name} must be a whole number, and is {text}")))
        };
        self.query(name).map(number).transpose()
    }

    /// The whole body.
    ///
    /// # Errors
    /// 411 without a length, 413 above `bytes_max`, 400 where it is cut short.
    pub fn body(&mut self, bytes_max: usize) -> Result<Vec<u8>, Reply> {
        if self.is_read {
            return Ok(Vec::new());
        }
        let length = self.request.body_length();
        let length = length.ok_or_else(|| Reply::problem(411, "send the body with a Content-Length"))?;
        if length > bytes_max {
            return Err(Reply::problem(413, &format!("the body must have at most {bytes_max} bytes")));
        }
        let mut body = Vec::with_capacity(length);
        let read = self.request.as_reader().take(length as u64).read_to_end(&mut body);
        match read {
            Ok(count) if count == length => {
                self.is_read = true;
                Ok(body)
            }
            _ => Err(Reply::problem(400, "the body is cut short")),
        }
    }

    /// A body that is JSON and declares it: no form of another site can send that.
    pub fn json(&mut self) -> Result<Value, Reply> {
        let content_type = self.field("Content-Type").unwrap_or("").split(';').next().unwrap_or("").trim();
        if !content_type.eq_ignore_ascii_case("application/json") {
            return Err(Reply::problem(415, "send the body as application/json"));
        }
        let body = self.body(JSON_BYTES_MAX)?;
        serde_json::from_slice(&body).map_err(|cause| Reply::problem(400, &format!("the body is no JSON: {cause}")))
    }
}

/// Resolves %XX. Bytes that are no UTF-8 then become U+FFFD, which no name contains.
pub fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|hex| *first == b'%' && hex.iter().all(u8::is_ascii_hexdigit));
        let hex = hex.and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_resolved_and_half_ones_stay() {
        assert_eq!(decoded("GET%3A%2Fa%20b"), "GET:/a b");
        assert_eq!(decoded("100%"), "100%");
        assert_eq!(decoded("%zz%+4%4"), "%zz%+4%4");
        assert_eq!(decoded("%ff"), "\u{fffd}");
    }
}
