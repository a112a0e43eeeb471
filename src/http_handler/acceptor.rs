//! The accept loop: starts a thread for each connection, and sends a 503 to those that get none.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::connection::Connection;
use super::handler::Handler;
use super::port_holder::port_holder;
use super::rejected::Rejected;
use super::{Place, Service};
use crate::error::request::{RequestError, Result};
use crate::error::start::StartError;
use crate::limits;
use crate::log;
use crate::sys::{self, Watched, poll};

/// Opens the public port.
pub fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let listener = TcpListener::bind(address).map_err(|cause| match cause.kind() {
        ErrorKind::AddrInUse => {
            StartError::AddressTaken { address: address.to_string(), holder: port_holder(address.port()) }
        }
        _ => StartError::Io { step: "listen on", subject: address.to_string(), cause },
    })?;
    set_up(listener)
}

/// Adopts a public port that another process has opened: a service manager, or the gateway that this one succeeds.
pub fn adopt(socket: OwnedFd) -> Result<TcpListener, StartError> {
    let failed = |cause| StartError::Io { step: "listen on", subject: "the socket that was handed over".into(), cause };
    match sys::is_listening(&socket).map_err(failed)? {
        true => set_up(TcpListener::from(socket)),
        false => Err(failed(std::io::Error::other("it is no listening stream socket"))),
    }
}

fn set_up(listener: TcpListener) -> Result<TcpListener, StartError> {
    let done = listener.set_nonblocking(true);
    let done = done.and_then(|()| sys::set_backlog(listener.as_fd(), limits::BACKLOG_MAX));
    done.map_err(StartError::io("listen on", "the public port"))?;
    Ok(listener)
}

/// The accept loop's state.
pub struct Acceptor<'service> {
    service: &'service Arc<Service>,
    handler: Arc<dyn Handler>,
    listener: TcpListener,
    rejected: Rejected,
    /// The last accept failed because descriptors or memory ran out.
    is_starved: bool,
}

impl<'service> Acceptor<'service> {
    pub fn new(
        service: &'service Arc<Service>,
        handler: Arc<dyn Handler>,
        listener: TcpListener,
    ) -> Acceptor<'service> {
        let rejected = Rejected::new(service.bounds.rejected_max, service.bounds.linger_max);
        Acceptor { service, handler, listener, rejected, is_starved: false }
    }

    /// Waits for a connection or the end of service. Without descriptors it ignores the listener, which would stay
    /// ready.
    pub fn wait(&mut self) {
        let drain = self.service.drain.as_fd();
        match self.is_starved {
            true => {
                // If even this fails, the next accept logs why.
                let _ = poll(&mut [Watched::read(drain)], Some(limits::ACCEPT_PAUSE));
            }
            false => self.rejected.wait(&[drain, self.listener.as_fd()]),
        }
    }

    /// Accepts all waiting connections, up to one full backlog, so that a flood cannot delay the end of service.
    pub fn accept(&mut self) {
        for _ in 0..limits::BACKLOG_MAX {
            match self.listener.accept() {
                Ok((client, peer)) => {
                    if std::mem::replace(&mut self.is_starved, false) {
                        log!("http: accepting connections again");
                    }
                    self.admit(client, peer);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.is_starved, true) {
                        log!("http: could not accept connections: {error}; trying on");
                    }
                    return;
                }
            }
        }
    }

    /// Closes the port, and waits until the last rejected client has had time to read its response.
    pub fn close(self) {
        let mut rejected = self.rejected;
        drop(self.listener);
        while !rejected.is_empty() {
            rejected.wait(&[]);
        }
    }

    fn admit(&mut self, client: TcpStream, peer: SocketAddr) {
        // If this fails, the client has left already.
        if client.set_nonblocking(true).and_then(|()| client.set_nodelay(true)).is_err() {
            return;
        }
        let Ok(local) = client.local_addr() else { return };
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let (peer, local) = (canonical(peer), canonical(local));
        // Shared, because a failed thread start drops the closure, and the client with it.
        let client = Arc::new(client);
        if let Err(error) = start(self.service, self.handler.clone(), client.clone(), [peer, local]) {
            self.rejected.reject(client, peer, &error);
        }
    }
}

/// Starts a connection's thread. `addresses` are the client's address, and the one that it connected to.
fn start(
    service: &Arc<Service>,
    handler: Arc<dyn Handler>,
    client: Arc<TcpStream>,
    addresses: [SocketAddr; 2],
) -> Result<()> {
    let place = Place::take(service)?;
    let serve = move || Connection::new(&place.0, &*handler, &client, addresses).serve();
    let thread = std::thread::Builder::new().name("connection".into()).stack_size(limits::CONNECTION_STACK_BYTES);
    thread.spawn(serve).map(drop).map_err(|cause| RequestError::Exhausted { step: "start a thread", cause })
}

/// Errors that accept(2) passes on from a connection that broke before it was accepted: the next one may work.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_reported_with_its_holder() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        let error = listen(address).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{address} is taken by ")), "{error}");
        assert!(error.contains(&format!("(pid {})", std::process::id())) && error.contains("FAAS_PORT"), "{error}");
    }
}
