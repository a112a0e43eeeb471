//! Errors that end a connection from the gateway, and with it the invocation on it.

use std::fmt;
use std::io;

use crate::protocol::ProtocolError;

pub type Result<T, E = InvocationError> = std::result::Result<T, E>;

/// Why an invocation has no END. The worker logs it and closes the connection.
#[derive(Debug)]
pub enum InvocationError {
    /// The gateway has closed the connection, which is its way to cancel; or it is gone; or this worker is to end.
    GatewayGone,
    /// A peer did nothing for too long; the text names the peer and the step.
    Stalled(&'static str),
    Protocol(ProtocolError),
    Io {
        step: &'static str,
        subject: String,
        cause: io::Error,
    },
}

impl InvocationError {
    pub fn io(step: &'static str, subject: impl fmt::Display) -> impl FnOnce(io::Error) -> InvocationError {
        move |cause| InvocationError::Io { step, subject: subject.to_string(), cause }
    }
}

impl From<ProtocolError> for InvocationError {
    fn from(error: ProtocolError) -> InvocationError {
        InvocationError::Protocol(error)
    }
}

impl fmt::Display for InvocationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvocationError::GatewayGone => write!(f, "the gateway closed the connection"),
            InvocationError::Stalled(what) => write!(f, "{what}"),
            InvocationError::Protocol(error) => write!(f, "the gateway broke the protocol: {error}"),
            InvocationError::Io { step, subject, cause } => write!(f, "could not {step} {subject}: {cause}"),
        }
    }
}
