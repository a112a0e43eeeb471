//! The interface between HTTP and the gateway: this folder receives requests and sends responses, and calls a
//! [`Handler`] in between. The gateway is one handler; the tests of this folder have another.

use std::time::Duration;

use super::request::Request;
use super::response::Response;
use crate::error::request::Result;
use crate::sys::Watched;

/// Makes a response for a request, on the thread of its connection.
pub trait Handler: Send + Sync {
    fn handle(&self, request: &Request, client: &mut dyn Client) -> Reply;
}

/// Outcome of a request.
pub enum Reply {
    /// A whole response, not sent yet.
    Response(Response),
    /// The response has been sent through [`Client`]; `complete` is false where the function failed before its end.
    Streamed { complete: bool },
    /// The client has left.
    Gone,
}

/// The client of one request, as a handler sees it: it may leave, and it receives a response piece by piece.
pub trait Client {
    /// Takes one of the places for calls, until the handler returns. What takes none, such as a 404, holds nothing but
    /// its connection, so those are the only bound on it.
    ///
    /// # Errors
    /// [`RequestError::TooManyCalls`](crate::error::request::RequestError::TooManyCalls) when all are taken.
    fn take_place(&mut self) -> Result<()>;

    /// Sets if the work goes on when the client leaves; initially it does not. While it does, no method here fails
    /// because the client has left: output is then discarded.
    fn keep_going(&mut self, keeps_going: bool);

    /// True once the service is cut off: new work must not begin.
    fn is_cut_off(&self) -> bool;

    /// Waits until `other` is ready (true) or `timeout` has passed (false).
    ///
    /// # Errors
    /// [`RequestError::ClientGone`](crate::error::request::RequestError::ClientGone) when the client has left,
    /// [`RequestError::Stopping`](crate::error::request::RequestError::Stopping) when the service is cut off.
    fn wait(&mut self, other: Watched<'_>, timeout: Duration) -> Result<bool>;

    /// Sends the head of a response whose body follows in pieces.
    fn begin(&mut self, head: &Response) -> Result<()>;

    /// Sends a piece of that body.
    fn send(&mut self, piece: &[u8]) -> Result<()>;

    /// Sends the response to its end, and ends the connection for the client: `whole`, or what is left of a begun body.
    /// From then on the work goes on without the client.
    fn end(&mut self, whole: Option<&Response>) -> Result<()>;
}
