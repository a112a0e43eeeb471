//! Connections that wait for a request and send none. When places run out, the server ends the one that has waited
//! longest: otherwise a few silent clients could occupy all places.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

#[derive(Default)]
pub struct IdleConnections {
    /// By the time when they began to wait; the number distinguishes those that began at once. Guards the map; a
    /// shutdown under the lock does not wait.
    waiting: Mutex<BTreeMap<(Instant, u64), Arc<TcpStream>>>,
    next_number: AtomicU64,
}

/// A connection while it waits for a request. Dropping this removes it from the list.
pub struct Waiting<'a> {
    connections: &'a IdleConnections,
    key: (Instant, u64),
}

impl IdleConnections {
    /// Adds a connection that has waited since then.
    pub fn enter(&self, since: Instant, client: &Arc<TcpStream>) -> Waiting<'_> {
        let key = (since, self.next_number.fetch_add(1, Ordering::Relaxed));
        self.waiting.lock().expect("nothing panics under this lock").insert(key, client.clone());
        Waiting { connections: self, key }
    }

    /// Ends the connection that has waited longest; its thread then finds the end of the stream. False where none waits.
    pub fn end_longest(&self) -> bool {
        let first = self.waiting.lock().expect("nothing panics under this lock").pop_first();
        first.is_some_and(|(_, client)| client.shutdown(Shutdown::Both).is_ok())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.connections.waiting.lock().expect("nothing panics under this lock").remove(&self.key);
    }
}
