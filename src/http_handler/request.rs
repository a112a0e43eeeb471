//! One request, received whole.

use std::net::SocketAddr;

use super::origin::Origin;
use super::parser::Head;
use super::spool::Spool;

pub struct Request {
    pub head: Head,
    /// The client: the other end of the connection, or the address that trusted proxies state.
    pub origin: Origin,
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// The client's X-Request-Id where it is valid, else a new id (request_id.rs).
    pub id: String,
    pub body: Spool,
}
