//! Errors, by who has to deal with them.
//!
//! | type | is dealt with by |
//! |---|---|
//! | [`RequestError`](request::RequestError) | a client: it becomes a response; its status comes from one exhaustive match |
//! | [`StartError`](start::StartError) | whoever starts a program: it ends it; its exit code comes from one exhaustive match |
//!
//! Errors that one folder makes and deals with itself stand there. A variant is one true sentence about one step: the step,
//! its subject, the cause, and the remedy where there is one.

pub mod request;
pub mod start;

use std::fmt;
use std::io;

use crate::protocol::ProtocolError;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug)]
pub enum Error {
    ClientGone,
    Exhausted { step: &'static str, cause: io::Error },
    Io { step: &'static str, subject: String, cause: io::Error },
    Stalled(&'static str),
    Protocol(ProtocolError),
    Start(start::StartError),
}

impl Error {
    pub fn io(step: &'static str, subject: impl fmt::Display) -> impl FnOnce(io::Error) -> Error {
        move |cause| Error::Io { step, subject: subject.to_string(), cause }
    }
}

impl From<start::StartError> for Error {
    fn from(error: start::StartError) -> Error {
        Error::Start(error)
    }
}

impl From<ProtocolError> for Error {
    fn from(error: ProtocolError) -> Error {
        Error::Protocol(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::ClientGone => write!(f, "the gateway closed the connection"),
            Error::Exhausted { step, cause } => write!(f, "could not {step}: {cause}"),
            Error::Io { step, subject, cause } => write!(f, "could not {step} {subject}: {cause}"),
            Error::Stalled(what) => write!(f, "{what}"),
            Error::Protocol(error) => write!(f, "{error}"),
            Error::Start(error) => write!(f, "{error}"),
        }
    }
}
