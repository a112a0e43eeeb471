//! The front service: owns the public port, and lets in only HTTP/1.x requests that are well-formed, bounded and timely.
//!
//! The connection's thread reads a request whole, checks it, and takes it through the handler (http_handler.rs) itself.
//!
//! | file | is |
//! |---|---|
//! | head.rs, chunked.rs | the parsers, pure functions over bytes |
//! | connection.rs | one client, one thread: request in, answer out |
//! | allowance.rs, buffer.rs | how long a client may keep us waiting; bytes not used yet |
//! | port_holder.rs | who holds our port |
//!
//! Here are the listener, the count of connections, and the end of service. Invariants:
//!
//! - Each connection has one thread and one request under way at a time.
//! - Every connection that is accepted gets an answer or was closed by its client: also over the limit of connections,
//!   and when no thread can be had.
//! - Accepting goes on whatever happens to one connection, until [`HttpServer::drain`].
//!
//! The C original accepted in main, started a thread per connection without a limit, and read once.

mod buffer;
pub mod chunked;
mod connection;
pub mod handler;
pub mod parser;
mod port_holder;
mod problem;
mod rejected;
pub mod request;
mod request_id;
pub mod response;
#[cfg(test)]
mod smuggling;
#[cfg(test)]
mod smuggling_table;
pub mod spool;
#[cfg(test)]
mod tests;
mod time_allowance;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use self::connection::Connection;
use self::handler::Handler;
use self::port_holder::port_holder;
use self::rejected::Rejected;
use self::spool::SpoolArea;
use self::time_allowance::TimeAllowance;
use crate::error::{Error, Result};
use crate::limits;
use crate::log;
use crate::settings::Settings;
use crate::sys::{self, EventFd, Watched, poll};

/// The bounds of a front service that tests make smaller; their reasons stand in limits.rs.
#[derive(Debug, Clone)]
pub struct Bounds {
    pub connections_max: usize,
    pub requests_max: usize,
    pub rejected_max: usize,
    pub head_deadline: Duration,
    pub idle_max: Duration,
    pub rate_min_bytes_per_s: u64,
    pub rate_grace: Duration,
    pub linger_max: Duration,
    pub half_close_grace: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            connections_max: limits::CONNECTIONS_MAX,
            requests_max: limits::REQUESTS_MAX,
            rejected_max: limits::REJECTED_MAX,
            head_deadline: limits::HEAD_DEADLINE,
            idle_max: limits::IDLE_MAX,
            rate_min_bytes_per_s: limits::RATE_MIN_BYTES_PER_S,
            rate_grace: limits::RATE_GRACE,
            linger_max: limits::LINGER_MAX,
            half_close_grace: limits::HALF_CLOSE_GRACE,
        }
    }
}

const DESCRIPTORS_PER_CONNECTION: usize = 1;

impl Bounds {
    /// Takes on no more than the descriptors suffice for: half of them for requests, half for connections, with an eighth
    /// of these for those that are turned away.
    fn fit(mut self, descriptors: u64) -> Bounds {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let half = descriptors.saturating_sub(limits::DESCRIPTORS_RESERVED) / 2;
        self.rejected_max = self.rejected_max.min((half / 8).max(1));
        let connections = (half - half / 8) / DESCRIPTORS_PER_CONNECTION;
        self.connections_max = self.connections_max.min(connections.max(1));
        self.requests_max = self.requests_max.min((half / limits::DESCRIPTORS_PER_REQUEST).max(1));
        self
    }
}

pub struct HttpServer {
    service: Arc<Service>,
    address: SocketAddr,
    /// Until `run` takes it.
    listener: Mutex<Option<TcpListener>>,
}

/// What the threads of all connections share.
struct Service {
    bounds: Bounds,
    body_bytes_max: u64,
    area: Arc<SpoolArea>,
    /// Requests in the handler.
    under_way: AtomicUsize,
    draining: AtomicBool,
    /// Becomes readable, and stays so, when `draining` is set.
    drain: EventFd,
    /// Guards the count; held for a look.
    open: Mutex<Open>,
    /// Told when a connection has ended, and when accepting has.
    ended: Condvar,
}

struct Open {
    connections: usize,
    accepting: bool,
}

impl HttpServer {
    /// Opens the public port. Clients can connect from here on, and are served once [`HttpServer::run`] is called.
    ///
    /// # Errors
    /// [`Error::AddressTaken`], naming the program that holds the port where that can be found out.
    pub fn open(settings: &Settings, area: Arc<SpoolArea>) -> Result<HttpServer> {
        let descriptors = sys::raise_open_files_limit().map_err(Error::io("raise", "the limit of open files"))?;
        let bounds = Bounds::default().fit(descriptors);
        if bounds.connections_max < limits::CONNECTIONS_MAX || bounds.requests_max < limits::REQUESTS_MAX {
            let Bounds { connections_max, requests_max, .. } = bounds;
            log!(
                "front service: {descriptors} open files allow for {connections_max} connections and {requests_max} requests"
            );
        }
        HttpServer::open_within(settings, area, bounds)
    }

    /// The same with other bounds.
    pub fn open_within(settings: &Settings, area: Arc<SpoolArea>, bounds: Bounds) -> Result<HttpServer> {
        let listener = listen(settings.address)?;
        let address = listener.local_addr().map_err(Error::io("read the address of", "the public port"))?;
        let service = Service {
            under_way: AtomicUsize::new(0),
            bounds,
            body_bytes_max: settings.body_bytes_max,
            area,
            draining: AtomicBool::new(false),
            drain: EventFd::new()?,
            open: Mutex::new(Open { connections: 0, accepting: true }),
            ended: Condvar::new(),
        };
        Ok(HttpServer { service: Arc::new(service), address, listener: Mutex::new(Some(listener)) })
    }

    /// How many requests are in the handler.
    pub fn under_way(&self) -> usize {
        self.service.under_way.load(Ordering::Relaxed)
    }

    /// Where clients connect; with the real port, where the settings say 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts connections on the calling thread until [`HttpServer::drain`]. To be called once.
    pub fn run(&self, handler: Arc<dyn Handler>) {
        let listener = self.listener.lock().expect("nothing panics under this lock").take();
        let Some(listener) = listener else { return };
        let mut acceptor = Acceptor {
            service: &self.service,
            handler,
            listener,
            rejected: Rejected::new(self.service.bounds.rejected_max, self.service.bounds.linger_max),
            is_starved: false,
        };
        while !self.service.is_draining() {
            acceptor.wait();
            acceptor.accept();
        }
        // Once more, for what had arrived before the end of service; then the port is closed.
        acceptor.accept();
        let mut rejected = acceptor.rejected;
        drop(acceptor.listener);
        while !rejected.is_empty() {
            rejected.wait(&[]);
        }
        self.service.open().accepting = false;
        self.service.ended.notify_all();
    }

    /// Ends the service: accepts what has arrived, closes the port, answers the requests that have begun with
    /// `Connection: close`, closes idle connections. Returns when all connections have ended (`true`) or at `deadline`.
    pub fn drain(&self, deadline: Instant) -> bool {
        self.service.draining.store(true, Ordering::SeqCst);
        self.service.drain.signal();
        let mut open = self.service.open();
        while open.accepting || open.connections > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            open = self.service.ended.wait_timeout(open, left).expect("nothing panics under this lock").0;
        }
        true
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).map_err(|cause| match cause.kind() {
        ErrorKind::AddrInUse => {
            Error::AddressTaken { address: address.to_string(), holder: port_holder(address.port()) }
        }
        _ => Error::Io { step: "listen on", subject: address.to_string(), cause },
    })?;
    let set_up = listener.set_nonblocking(true);
    let set_up = set_up.and_then(|()| sys::set_backlog(listener.as_fd(), limits::BACKLOG_MAX));
    set_up.map_err(Error::io("listen on", address))?;
    Ok(listener)
}

impl Service {
    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("nothing panics under this lock")
    }

    /// A place for one request in the handler.
    fn take_request(&self) -> Result<UnderWay<'_>> {
        let place = UnderWay(self);
        match self.under_way.fetch_add(1, Ordering::Relaxed) < self.bounds.requests_max {
            true => Ok(place),
            false => Err(Error::TooManyRequests),
        }
    }

    /// The allowance for one body or one answer.
    fn least_rate(&self) -> TimeAllowance {
        TimeAllowance::least_rate(self.bounds.rate_min_bytes_per_s, self.bounds.rate_grace, self.bounds.idle_max)
    }
}

/// One of the requests in the handler.
struct UnderWay<'service>(&'service Service);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One of the connections that are counted; ends the count when it is dropped, also by a panic.
struct Place(Arc<Service>);

impl Place {
    fn take(service: &Arc<Service>) -> Result<Place> {
        let mut open = service.open();
        if open.connections >= service.bounds.connections_max {
            return Err(Error::TooManyConnections);
        }
        open.connections += 1;
        Ok(Place(service.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open().connections -= 1;
        self.0.ended.notify_all();
    }
}

/// The accept loop's state.
struct Acceptor<'service> {
    service: &'service Arc<Service>,
    handler: Arc<dyn Handler>,
    listener: TcpListener,
    rejected: Rejected,
    /// The last accept failed for want of descriptors or memory.
    is_starved: bool,
}

impl Acceptor<'_> {
    /// Waits for a connection or the end of service. For want of descriptors there is no use in looking at the listener,
    /// which stays ready.
    fn wait(&mut self) {
        let drain = self.service.drain.as_fd();
        match self.is_starved {
            true => {
                // If even this fails, the next accept says why.
                let _ = poll(&mut [Watched::read(drain)], Some(limits::ACCEPT_PAUSE));
            }
            false => self.rejected.wait(&[drain, self.listener.as_fd()]),
        }
    }

    /// Accepts all that has arrived, up to one full backlog, so that a flood cannot hold off the end of service.
    fn accept(&mut self) {
        for _ in 0..limits::BACKLOG_MAX {
            match self.listener.accept() {
                Ok((client, peer)) => {
                    if std::mem::replace(&mut self.is_starved, false) {
                        log!("front service: accepts connections again");
                    }
                    self.admit(client, peer);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.is_starved, true) {
                        log!("front service: could not accept connections: {error}; goes on trying");
                    }
                    return;
                }
            }
        }
    }

    fn admit(&mut self, client: TcpStream, peer: SocketAddr) {
        // Where this fails, the client has gone already.
        if client.set_nonblocking(true).and_then(|()| client.set_nodelay(true)).is_err() {
            return;
        }
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        // Shared, because a thread that cannot be started drops what was meant for it.
        let client = Arc::new(client);
        if let Err(error) = start(self.service, self.handler.clone(), client.clone(), peer) {
            self.rejected.answer(client, peer, &error);
        }
    }
}

/// Starts a connection's thread.
fn start(service: &Arc<Service>, handler: Arc<dyn Handler>, client: Arc<TcpStream>, peer: SocketAddr) -> Result<()> {
    let place = Place::take(service)?;
    let serve = move || Connection::new(&place.0, &*handler, &client, peer).serve();
    let thread = std::thread::Builder::new().name("connection".into()).stack_size(limits::CONNECTION_STACK_BYTES);
    thread.spawn(serve).map(drop).map_err(|cause| Error::Exhausted { step: "start a thread", cause })
}

/// Errors that accept(2) passes on from a connection that broke before it was accepted: the next one may be fine.
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
