//! One request, received whole.

use std::net::SocketAddr;

use super::parser::Head;
use super::spool::Spool;

pub struct Request {
    pub head: Head,
    pub peer: SocketAddr,
    /// The client's X-Request-Id where it is sane, else one of ours.
    pub id: String,
    pub body: Spool,
}
