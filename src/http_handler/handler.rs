//! The seam between HTTP and what requests are for: this folder receives requests and sends responses, and asks a
//! [`Handler`] in between. The gateway is one; the tests of this folder have another.

use std::time::Duration;

use super::request::Request;
use super::response::Response;
use crate::error::Result;
use crate::sys::Watched;

/// Makes a response of a request, on the thread of its connection.
pub trait Handler: Send + Sync {
    fn handle(&self, request: &Request, client: &mut dyn Client) -> Reply;
}

/// What comes of a request.
pub enum Reply {
    /// To be sent.
    Response(Response),
    /// It has been sent as the function wrote it; `false`: it broke off.
    Streamed { complete: bool },
    /// There is nobody to send it to.
    Gone,
}

/// The client of one request, as a handler sees it: it waits, may leave, and may be sent a response piece by piece.
pub trait Client {
    /// Waits until `other` is ready, at most `timeout`; says whether it is.
    ///
    /// # Errors
    /// [`crate::error::Error::ClientGone`] when the client has left.
    fn wait(&mut self, other: Watched<'_>, timeout: Duration) -> Result<bool>;

    /// Sends the head of an answer whose body follows in pieces.
    fn begin(&mut self, head: &Response) -> Result<()>;

    /// Sends a piece of that body.
    fn send(&mut self, piece: &[u8]) -> Result<()>;
}
