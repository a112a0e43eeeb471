//! The client of one request, as the handler sees it: somebody who waits, may leave, and may be sent an answer piece by
//! piece. The front door's connection is one; tests have others.

use std::time::Duration;

use super::answer::Answer;
use crate::error::Result;
use crate::sys::Watched;

pub trait Client {
    /// Waits until `other` is ready, at most `timeout`; says whether it is.
    ///
    /// # Errors
    /// [`crate::error::Error::ClientGone`] when the client has left.
    fn wait(&mut self, other: Watched<'_>, timeout: Duration) -> Result<bool>;

    /// Sends the head of an answer whose body follows in pieces.
    fn begin(&mut self, head: &Answer) -> Result<()>;

    /// Sends a piece of that body.
    fn send(&mut self, piece: &[u8]) -> Result<()>;
}
