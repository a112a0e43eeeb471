//! The formats that gateway and worker share: a function's settings, the frames of an invocation and the metric sample.
//! They share nothing else, so each can be read, and replaced, alone. The counters of calls go from the gateway to the
//! console.

pub mod counters;
pub mod function_spec;
pub(crate) mod metrics;
pub mod worker_protocol;

use std::fmt;

/// The version of the protocol: the package's version, and a number that grows with each change of a frame or a sample.
/// Gateway and worker of different versions refuse each other.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "-3");

/// A protocol error of a peer on one of the platform's own sockets. The side that finds it closes the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProtocolError {
    UnknownKind(u8),
    FrameTooLarge(usize),
    /// A frame that this side does not accept.
    Unexpected(&'static str),
    /// The other version of a worker; `None` if it names none.
    OtherVersion(Option<String>),
    Malformed {
        message: &'static str,
        fault: String,
    },
}

impl ProtocolError {
    fn malformed(message: &'static str, fault: impl Into<String>) -> ProtocolError {
        ProtocolError::Malformed { message, fault: fault.into() }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProtocolError::UnknownKind(kind) => write!(f, "a frame has the unknown kind {kind}"),
            ProtocolError::FrameTooLarge(bytes) => write!(f, "a frame of {bytes} bytes is over the bound"),
            ProtocolError::Unexpected(rule) => write!(f, "a frame is out of turn: {rule}"),
            ProtocolError::OtherVersion(version) => write!(
                f,
                "it is of version {}, this gateway of {VERSION}: build both, and start.sh --upgrade",
                version.as_deref().unwrap_or("unknown")
            ),
            ProtocolError::Malformed { message, fault } => write!(f, "{message} is malformed: {fault}"),
        }
    }
}
