//! The HTTP server: owns the public port, and accepts only HTTP/1.x requests that are well-formed, bounded and timely.
//!
//! A connection's thread receives a request whole, checks it, and calls the `Handler` (handler.rs) itself, which is the
//! gateway.
//!
//! | file | holds |
//! |---|---|
//! | acceptor.rs | the accept loop |
//! | bounds.rs | limits on connections and requests, and on each wait |
//! | connection.rs | one client, one thread: request in, response out |
//! | rejected.rs | connections that get a 503 instead of a thread |
//! | idle.rs | connections that wait, and make room for new ones |
//! | parser/, chunked.rs | the parsers, pure functions over bytes |
//! | handler.rs, request.rs, response.rs, problem.rs | the interface to the gateway |
//! | spool.rs | bodies, in memory or in an unlinked file |
//! | origin.rs | the client behind trusted proxies |
//! | time_allowance.rs, buffer.rs | time left for a client; bytes not used yet |
//! | request_id.rs, port_holder.rs | ids of requests; the process that holds the port |
//!
//! This file has the server's start and end, and the counts of connections and requests. Invariants:
//!
//! - Each connection has one thread and at most one request in the handler.
//! - Every accepted connection gets a response or is closed by its client, even above the limit of connections, and
//!   when no thread can be started.
//! - Accepting goes on after any failure of a single connection, until [`HttpServer::drain`].
//!
//! The C original accepted in main, started a thread per connection without a limit, and read once.

mod acceptor;
mod bounds;
mod buffer;
pub(crate) mod chunked;
mod connection;
pub(crate) mod handler;
mod idle;
pub(crate) mod origin;
pub(crate) mod parser;
mod port_holder;
mod problem;
mod rejected;
pub(crate) mod request;
mod request_id;
pub(crate) mod response;
#[cfg(test)]
mod smuggling;
#[cfg(test)]
mod smuggling_table;
pub(crate) mod spool;
#[cfg(test)]
mod tests;
mod time_allowance;

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

pub use self::acceptor::{adopt, listen};
pub use self::bounds::Bounds;

use self::acceptor::Acceptor;
use self::handler::Handler;
use self::idle::IdleConnections;
use self::spool::SpoolArea;
use self::time_allowance::TimeAllowance;
use crate::error::request::{RequestError, Result};
use crate::error::start::StartError;
use crate::limits;
use crate::log;
use crate::networks::Networks;
use crate::settings::Settings;
use crate::sys::{self, EventFd};

pub struct HttpServer {
    service: Arc<Service>,
    address: SocketAddr,
    /// Present until `run` takes it.
    listener: Mutex<Option<TcpListener>>,
    /// The same socket, for a successor; present while the server accepts from it.
    shared: Mutex<Option<TcpListener>>,
}

/// State that the threads of all connections share.
struct Service {
    bounds: Bounds,
    body_bytes_max: u64,
    trusted_proxies: Networks,
    area: Arc<SpoolArea>,
    /// Number of calls under way.
    calls: AtomicUsize,
    draining: AtomicBool,
    /// Becomes readable, and stays so, when `draining` is set.
    drain: EventFd,
    is_cut_off: AtomicBool,
    /// Becomes readable, and stays so, when `is_cut_off` is set.
    cut_off: EventFd,
    idle: IdleConnections,
    /// Guards the count of connections; never held across I/O.
    open: Mutex<Open>,
    /// Notified when a connection has ended, and when accepting has ended.
    ended: Condvar,
}

struct Open {
    connections: usize,
    accepting: bool,
}

impl HttpServer {
    /// A server for an open port from [`listen`] or [`adopt`]. Clients can connect already; the server answers them
    /// once [`HttpServer::run`] is called.
    pub fn new(settings: &Settings, area: Arc<SpoolArea>, listener: TcpListener) -> Result<HttpServer, StartError> {
        let descriptors = sys::raise_open_files_limit().map_err(StartError::io("raise", "the limit of open files"))?;
        let bounds = Bounds::default().fit(descriptors);
        if bounds.connections_max < limits::CONNECTIONS_MAX || bounds.calls_max < limits::CALLS_MAX {
            let Bounds { connections_max, calls_max, .. } = bounds;
            log!("http: {descriptors} open files allow for {connections_max} connections and {calls_max} calls");
        }
        HttpServer::new_within(settings, area, listener, bounds)
    }

    /// Like [`HttpServer::new`], with other bounds.
    pub fn new_within(
        settings: &Settings,
        area: Arc<SpoolArea>,
        listener: TcpListener,
        bounds: Bounds,
    ) -> Result<HttpServer, StartError> {
        let address = listener.local_addr().map_err(StartError::io("read the address of", "the public port"))?;
        let service = Service {
            calls: AtomicUsize::new(0),
            bounds,
            body_bytes_max: settings.body_bytes_max,
            trusted_proxies: settings.trusted_proxies.clone(),
            area,
            draining: AtomicBool::new(false),
            drain: EventFd::new().map_err(StartError::io("make", "an eventfd"))?,
            is_cut_off: AtomicBool::new(false),
            cut_off: EventFd::new().map_err(StartError::io("make", "an eventfd"))?,
            idle: IdleConnections::default(),
            open: Mutex::new(Open { connections: 0, accepting: true }),
            ended: Condvar::new(),
        };
        let shared = listener.try_clone().map_err(StartError::io("share", "the public port"))?;
        let (listener, shared) = (Mutex::new(Some(listener)), Mutex::new(Some(shared)));
        Ok(HttpServer { service: Arc::new(service), address, listener, shared })
    }

    /// The listening socket, for a successor; `None` once the server accepts no more.
    pub fn listener(&self) -> Option<TcpListener> {
        self.shared.lock().expect("nothing panics under this lock").as_ref()?.try_clone().ok()
    }

    /// Number of calls under way.
    pub fn calls(&self) -> usize {
        self.service.calls.load(Ordering::Relaxed)
    }

    /// The address for clients; with the port that the system chose where the settings say 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts connections on the calling thread until [`HttpServer::drain`]. Must be called once.
    pub fn run(&self, handler: Arc<dyn Handler>) {
        let listener = self.listener.lock().expect("nothing panics under this lock").take();
        let Some(listener) = listener else { return };
        let mut acceptor = Acceptor::new(&self.service, handler, listener);
        while !self.service.is_draining() {
            acceptor.wait();
            acceptor.accept();
        }
        // Accepts once more, for connections that arrived before the end of service.
        acceptor.accept();
        // Closed, not shut down: a successor may accept from the same socket.
        *self.shared.lock().expect("nothing panics under this lock") = None;
        acceptor.close();
        self.service.open().accepting = false;
        self.service.ended.notify_all();
    }

    /// Ends the service: accepts the connections that have arrived, closes the port, answers the requests that have
    /// begun with `Connection: close`, and closes idle connections. Returns true when all connections have ended, false
    /// at `deadline` or at [`HttpServer::cut_off`].
    pub fn drain(&self, deadline: Instant) -> bool {
        self.service.draining.store(true, Ordering::SeqCst);
        self.service.drain.signal();
        self.wait_for_end(deadline, || self.service.is_cut_off.load(Ordering::SeqCst))
    }

    /// True from [`HttpServer::drain`] on.
    pub fn is_draining(&self) -> bool {
        self.service.is_draining()
    }

    /// Ends the waits of all handlers with [`RequestError::Stopping`], which becomes their clients' response.
    pub fn cut_off(&self) {
        self.service.is_cut_off.store(true, Ordering::SeqCst);
        self.service.cut_off.signal();
        // Under the lock, so that no thread is between its check of the flag and its wait.
        let _open = self.service.open();
        self.service.ended.notify_all();
    }

    /// Waits until all connections have ended, at most until `deadline`.
    pub fn wait_until_closed(&self, deadline: Instant) {
        self.wait_for_end(deadline, || false);
    }

    /// Returns true when all connections have ended, false at `deadline` or once `gives_up`.
    fn wait_for_end(&self, deadline: Instant, gives_up: impl Fn() -> bool) -> bool {
        let mut open = self.service.open();
        while open.accepting || open.connections > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || gives_up() {
                return false;
            }
            open = self.service.ended.wait_timeout(open, left).expect("nothing panics under this lock").0;
        }
        true
    }
}

impl Service {
    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("nothing panics under this lock")
    }

    /// Takes a place for one call.
    fn take_call_place(&self) -> Result<CallPlace<'_>> {
        let place = CallPlace(self);
        match self.calls.fetch_add(1, Ordering::Relaxed) < self.bounds.calls_max {
            true => Ok(place),
            false => Err(RequestError::TooManyCalls),
        }
    }

    /// The time allowance for one body or one response.
    fn least_rate(&self) -> TimeAllowance {
        TimeAllowance::least_rate(self.bounds.rate_min_bytes_per_s, self.bounds.rate_grace, self.bounds.idle_max)
    }
}

/// The place of one call. Dropping it frees the place, also during a panic.
struct CallPlace<'service>(&'service Service);

impl Drop for CallPlace<'_> {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The place of one connection. Dropping it frees the place, also during a panic.
struct Place(Arc<Service>);

impl Place {
    fn take(service: &Arc<Service>) -> Result<Place> {
        let mut open = service.open();
        let max = service.bounds.connections_max;
        // The connection that is ended here frees its place in a moment, so the place can be taken already. The second
        // bound applies when many are ended at once.
        if open.connections >= max && (open.connections >= 2 * max || !service.idle.end_longest()) {
            return Err(RequestError::TooManyConnections);
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
