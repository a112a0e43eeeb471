//! Forms with files (multipart/form-data, RFC 7578): splits a body in memory into its parts.

/// One field of the form.
#[derive(Debug, PartialEq)]
pub struct Part<'a> {
    pub name: &'a str,
    /// Empty where the part has none.
    pub file_name: &'a str,
    pub bytes: &'a [u8],
}

/// Parts of one form. A bundle has at most 10,000 files unless its registry says more.
const PARTS_MAX: usize = 20_000;

/// # Errors
/// A sentence that describes the fault.
pub fn parts<'a>(content_type: &str, body: &'a [u8]) -> Result<Vec<Part<'a>>, &'static str> {
    const MALFORMED: &str = "the form is malformed";
    let (kind, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return Err("send the files as multipart/form-data");
    }
    let boundary = parameter(parameters, "boundary").filter(|boundary| (1..=70).contains(&boundary.len()));
    let delimiter = format!("\r\n--{}", boundary.ok_or("the form has no boundary")?);
    let delimiter = delimiter.as_bytes();
    // The first delimiter may lack its line break.
    let mut rest = match body.strip_prefix(&delimiter[2..]) {
        Some(rest) => rest,
        None => after(body, delimiter).ok_or(MALFORMED)?.1,
    };
    let mut parts = Vec::new();
    loop {
        if rest.starts_with(b"--") {
            return Ok(parts);
        }
        let part = rest.strip_prefix(b"\r\n").ok_or(MALFORMED)?;
        let (content, next) = after(part, delimiter).ok_or(MALFORMED)?;
        let (head, bytes) = after(content, b"\r\n\r\n").ok_or(MALFORMED)?;
        let head = std::str::from_utf8(head).map_err(|_| MALFORMED)?;
        let disposition = head.split("\r\n").find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-disposition").then_some(value)
        });
        let disposition = disposition.ok_or(MALFORMED)?;
        let name = parameter(disposition, "name").ok_or(MALFORMED)?;
        parts.push(Part { name, file_name: parameter(disposition, "filename").unwrap_or(""), bytes });
        if parts.len() > PARTS_MAX {
            return Err("the form has too many parts");
        }
        rest = next;
    }
}

/// The bytes before and after the first `delimiter`.
fn after<'a>(bytes: &'a [u8], delimiter: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (first, mut from) = (delimiter[0], 0);
    loop {
        let at = from + bytes[from..].iter().position(|byte| *byte == first)?;
        if bytes[at..].starts_with(delimiter) {
            return Some((&bytes[..at], &bytes[at + delimiter.len()..]));
        }
        from = at + 1;
    }
}

/// A parameter of a field: `name="value"` or `name=value`. Browsers and curl write a quote in a value as %22 or \";
/// module names have none, so a backslash stays as it is.
fn parameter<'a>(parameters: &'a str, name: &str) -> Option<&'a str> {
    parameters.split(';').map(str::trim).find_map(|parameter| {
        let (other, value) = parameter.split_once('=')?;
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        other.trim().eq_ignore_ascii_case(name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::check;

    const TYPE: &str = "multipart/form-data; boundary=\"xyz\"";

    #[test]
    fn parts_keep_every_byte() {
        let body = b"--xyz\r\nContent-Disposition: form-data; name=\"options\"\r\n\r\n{}\r\n--xyz\r\n\
            content-disposition: form-data; name=\"file\"; filename=\"a/b.php\"\r\nContent-Type: x\r\n\r\n\
            \r\n--xy\0\xff\r\n\r\n--xyz--\r\n";
        let parts = parts(TYPE, body).unwrap();
        assert_eq!(parts[0], Part { name: "options", file_name: "", bytes: b"{}" });
        assert_eq!(parts[1], Part { name: "file", file_name: "a/b.php", bytes: b"\r\n--xy\0\xff\r\n" });
        assert_eq!(parts.len(), 2);
    }

    #[test]
    fn malformed_forms_are_refused() {
        let malformed = [
            ("text/plain", &b"--xyz--"[..]),
            ("multipart/form-data", b"--xyz--"),
            (TYPE, b""),
            (TYPE, b"--xyz"),
            (TYPE, b"--xyz\r\nContent-Disposition: form-data; name=a\r\n\r\nx"),
            (TYPE, b"--xyz\r\nContent-Disposition: form-data; name=a\r\n--xyz--"),
            (TYPE, b"--xyz\r\nX: y\r\n\r\nx\r\n--xyz--"),
        ];
        check(malformed.map(|form| (form, true)), |(content_type, body)| parts(content_type, body).is_err());
        assert_eq!(parts(TYPE, b"--xyz--").unwrap(), []);
    }
}
