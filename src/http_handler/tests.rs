//! The server over real sockets, with a handler of its own in place of the gateway.

mod ending;
mod limits;
mod requests;
mod server;
