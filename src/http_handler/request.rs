//! One request, received whole.

use std::net::SocketAddr;

use super::parser::Head;
use super::spool::Spool;

pub struct Request {
    pub head: Head,
    pub peer: SocketAddr,
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// The client's X-Request-Id where it is valid, else a new id (request_id.rs).
    pub id: String,
    pub body: Spool,
}
