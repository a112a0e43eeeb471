//! A request head that has passed the parser.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// The way to find the end of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// No body.
    None,
    /// This many bytes.
    Length(u64),
    /// Chunks (RFC 9112, 7.1).
    Chunked,
}

/// One header line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// As sent; names are compared without regard to case.
    pub name: String,
    /// Without the white space around it. Bytes from 0x80 up may occur, control characters but tab may not.
    pub value: Vec<u8>,
}

/// A request head that satisfies all the rules (mod.rs).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub method: String,
    /// As sent, ASCII.
    pub target: String,
    pub version: Version,
    /// Without the fields that concern this connection alone (fields.rs), and without those that Connection names.
    pub fields: Vec<Field>,
    pub framing: BodyFraming,
    /// The client wants to use the connection again.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// Host and port as sent: those of an absolute target, else those of Host; "" where an HTTP/1.0 client sent none.
    pub host: String,
}

impl Head {
    /// The path of the target as sent; "*" for `OPTIONS *`.
    pub fn path(&self) -> &str {
        let path = self.path_and_query();
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        if path.is_empty() { "/" } else { path }
    }

    /// The part of the target behind its first `?`; "" without one.
    pub fn query(&self) -> &str {
        self.path_and_query().split_once('?').map_or("", |(_, query)| query)
    }

    /// The value of the first field of this name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value.as_slice())
    }

    fn path_and_query(&self) -> &str {
        match self.target.split_once("://") {
            Some((_, rest)) if !self.target.starts_with('/') => {
                rest.find(['/', '?']).map_or("", |authority_end| &rest[authority_end..])
            }
            _ => &self.target,
        }
    }
}
