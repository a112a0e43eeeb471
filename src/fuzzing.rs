//! Entry points for the fuzz targets in fuzz/: the parsers of untrusted bytes, each with the rules for its result.
//!
//! Not part of the library's interface: it is public because a fuzz target is a program of its own, and hidden from the
//! documentation. tests/it/corpus.rs replays the corpora through the same functions. Each function takes any bytes and
//! panics if a rule is broken.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::error::request::RequestError;
use crate::gateway::cgi::{self, Meta};
use crate::gateway::cgi_output::{self, Opening};
use crate::http_handler::chunked::{ChunkDecoder, Step};
use crate::http_handler::origin::Origin;
use crate::http_handler::parser::{BodyFraming, Head, HeadScan, Version, parse_complete};
use crate::limits::HEAD_FIELDS_MAX;
use crate::protocol::function_spec::{FunctionSpec, Output, strings};
use crate::protocol::metrics::Sample;
use crate::protocol::worker_protocol::{self, End, Invocation, Kind};
use crate::worker::fork_server::Word;

/// A request head reads the same whole and byte by byte. Written out again, the parsed head parses to the same head.
pub fn head(bytes: &[u8]) {
    let whole = HeadScan::default().end(bytes).map_err(text);
    let mut scan = HeadScan::default();
    let pieces = (1..=bytes.len()).map(|length| scan.end(&bytes[..length]).map_err(text));
    let pieces = pieces.into_iter().find(|end| *end != Ok(None)).unwrap_or(Ok(None));
    assert_eq!(pieces, whole, "byte by byte, and whole");
    let Ok(Some(end)) = whole else { return };
    let Ok(head) = parse_complete(&bytes[..end]) else { return };

    assert!(head.target.bytes().all(|byte| byte.is_ascii_graphic()), "{head:?}");
    assert!(head.target.contains(head.path()) || head.path() == "/", "{head:?}");
    assert!(head.target.ends_with(head.query()), "{head:?}");
    for field in &head.fields {
        assert!(!field.value.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)), "{field:?}");
    }
    // With Host, the written head has one line more where an absolute target has a host and the fields do not.
    if head.fields.len() < HEAD_FIELDS_MAX - 4 {
        assert_eq!(parse_complete(&written(&head)).ok().as_ref(), Some(&head));
    }
    for path_info_start in [0, head.path().len()] {
        check_environment(&head, path_info_start);
    }
}

/// A chunked body: its data are the same in pieces of any size, and the decoder takes none of the bytes after it.
pub fn chunks(bytes: &[u8]) {
    let whole = decoded(bytes, bytes.len());
    for size in [1, 2, 3, 7, 64] {
        assert_eq!(decoded(bytes, size), whole, "in pieces of {size}");
    }
    if let Ok((data, used, has_ended)) = whole {
        assert!(data.len() <= used && used <= bytes.len());
        assert!(has_ended || used == bytes.len());
        if has_ended {
            assert_eq!(decoded(&bytes[..used], used.max(1)), Ok((data, used, true)), "without what follows");
        }
    }
}

/// Frames between gateway and worker: a decoded frame, encoded again, decodes to the same frame.
pub fn frame(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some((kind, payload, used))) = worker_protocol::decode(rest) {
        let mut again = Vec::new();
        worker_protocol::encode(&mut again, kind, payload);
        assert_eq!(again, rest[..used]);
        assert!(matches!(worker_protocol::decode(&rest[..used - 1]), Ok(None)), "a frame lacks its last byte");
        match kind {
            Kind::Invoke => check_invocation(payload),
            Kind::End => check_end(payload),
            Kind::Output | Kind::Stays | Kind::Whole | Kind::Compile => {}
        }
        rest = &rest[used..];
    }
}

/// The opening of a function's output: no field that passes breaks the response or belongs to the platform, and more
/// output never changes a decision.
pub fn cgi(bytes: &[u8]) {
    for is_demanded in [false, true] {
        let whole = cgi_output::opening(bytes, true, is_demanded);
        assert_ne!(whole, Opening::Undecided, "all has come");
        let early = cgi_output::opening(bytes, false, is_demanded);
        if let Opening::Head(head, body_at) = &whole {
            assert!(*body_at <= bytes.len() && (200..1000).contains(&head.status), "{head:?}");
            assert!(head.reason.bytes().all(|byte| byte == b'\t' || byte >= b' ' && byte != 127), "{head:?}");
            for (name, value) in &head.fields {
                assert!(
                    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'),
                    "{name:?}"
                );
                assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{value:?}");
                let is_ours = ["transfer-encoding", "content-length", "connection", "x-request-id", "x-sendfile"];
                assert!(!is_ours.contains(&name.to_ascii_lowercase().as_str()), "{name}");
            }
        }
        if matches!(early, Opening::Head(..)) {
            assert_eq!(early, whole);
        }
    }
}

/// A line on the metrics stream: a parsed sample, written again, parses to the same sample.
pub fn sample(bytes: &[u8]) {
    let Ok(line) = std::str::from_utf8(bytes) else { return };
    let Ok(sample) = Sample::parse(line) else { return };
    let again = Sample::parse(&sample.to_line()).expect("it was written by us");
    assert_eq!(again.to_line(), sample.to_line());
}

/// A packet of a fork server: any packet has one meaning, and only one letter means ready.
pub fn word(bytes: &[u8]) {
    match Word::parse(bytes) {
        Word::Ready => assert_eq!(bytes, b"R"),
        Word::Prepared { .. } => assert_eq!(bytes[0], b'p'),
        Word::Unpreparable { version, .. } => assert!(bytes[0] == b'u' && !version.contains('\0')),
        Word::End => {}
        Word::Nothing => panic!("a packet is something"),
    }
}

fn text(error: RequestError) -> String {
    error.to_string()
}

/// A head in the form that its client could have sent.
fn written(head: &Head) -> Vec<u8> {
    let version = if head.version == Version::Http10 { "HTTP/1.0" } else { "HTTP/1.1" };
    let mut bytes = format!("{} {} {version}\r\n", head.method, head.target).into_bytes();
    for field in &head.fields {
        bytes.extend_from_slice(field.name.as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(&field.value);
        bytes.extend_from_slice(b"\r\n");
    }
    if head.framing == BodyFraming::Chunked {
        bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if head.expect_continue {
        bytes.extend_from_slice(b"Expect: 100-continue\r\n");
    }
    bytes.extend_from_slice(match head.keep_alive {
        true => b"Connection: keep-alive\r\n\r\n",
        false => b"Connection: close\r\n\r\n",
    });
    bytes
}

fn check_environment(head: &Head, path_info_start: usize) {
    let meta = Meta {
        request_id: "r",
        function: "f",
        handler: "h",
        module: Path::new("/m"),
        output: Output::Auto,
        path_info_start,
        route: "GET:/",
        params: &[],
        content_length: 0,
        origin: Origin { client: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), scheme: None },
        local: SocketAddr::from((Ipv4Addr::LOCALHOST, 80)),
        env: &[],
    };
    let Ok(environment) = cgi::environment(head, &meta) else { return };
    let name = |pair: &[u8]| pair.split(|byte| *byte == b'=').next().unwrap_or_default().to_vec();
    let all: Vec<Vec<u8>> = strings(&environment).expect("it ends with a NUL").map(name).collect();
    let names: HashSet<Vec<u8>> = all.iter().cloned().collect();
    assert_eq!(names.len(), all.len(), "a variable stands twice in {all:?}");
    assert!(!names.contains(b"HTTP_PROXY".as_slice()), "{all:?}");
    let is_ours = |name: &Vec<u8>| name.starts_with(b"HTTP_X_FAAS_");
    assert!(!names.iter().any(is_ours), "{all:?}");
}

type Decoded = Result<(Vec<u8>, usize, bool), (u16, String)>;

/// The data of a body fed in pieces of `size`, the number of bytes taken, and true at its end; or status and reason of
/// its rejection.
pub(crate) fn decoded(bytes: &[u8], size: usize) -> Decoded {
    let mut decoder = ChunkDecoder::new();
    let (mut data, mut taken) = (Vec::new(), 0);
    for piece in bytes.chunks(size.max(1)) {
        let mut rest = piece;
        loop {
            let (used, step) = decoder.step(rest).map_err(|error| (error.status(), error.to_string()))?;
            (rest, taken) = (&rest[used..], taken + used);
            match step {
                Step::Data(piece) => data.extend_from_slice(piece),
                Step::More => break,
                Step::End => return Ok((data, taken, true)),
            }
        }
    }
    Ok((data, taken, false))
}

fn check_invocation(payload: &[u8]) {
    let Some((_, payload)) = payload.split_last() else { return };
    let Ok(invocation) = Invocation::decode(payload.to_vec()) else { return };
    let (settings, environment) = (invocation.settings(), invocation.environment());
    let frame = Invocation::encode(settings, environment, invocation.request_id(), invocation.body());
    let Ok(frame) = frame else { return };
    let Ok(Some((Kind::Invoke, payload, _))) = worker_protocol::decode(&frame) else {
        panic!("{frame:?} is no INVOKE frame")
    };
    assert_eq!(Invocation::decode(payload[..payload.len() - 1].to_vec()).ok(), Some(invocation.clone()));
    let Ok(spec) = FunctionSpec::decode(settings) else { return };
    assert_eq!(FunctionSpec::decode(&spec.encode()).ok(), Some(spec));
}

fn check_end(payload: &[u8]) {
    let Ok(end) = End::decode(payload) else { return };
    assert_eq!(End::decode(&end.encode()).ok(), Some(end));
}
