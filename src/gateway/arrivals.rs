//! Has WASM modules compiled from the moment their rows arrive, before a call needs them.
//!
//! The sync thread puts the functions of new and changed rows into a queue, which never blocks it. One thread hands them
//! to a worker, one after another, so they keep one core busy at most. A module that does not fit into the queue, or
//! whose worker dies, is compiled at its first call.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Weak};

use crossbeam_channel::{Receiver, bounded};

use super::scheduler::Scheduler;
use super::start_thread;
use crate::error::start::Result;
use crate::protocol::function_spec::{Engine, Runtime};
use crate::registry::config_loader::Function;

/// Modules that wait. Workers keep 256 compiled ones: more would only displace each other.
const QUEUE_MAX: usize = 256;

/// A function that has left service meanwhile is gone, and nothing is compiled for it.
type Arrival = Weak<Function>;

/// The queue: its way in, to be called with the functions of one reading of the registry, and its way out.
pub fn queue() -> (impl Fn(&[Arc<Function>]) + Send + 'static, Receiver<Arrival>) {
    let (sender, receiver) = bounded(QUEUE_MAX);
    let arrived = move |functions: &[Arc<Function>]| {
        let mut modules: HashSet<(&Path, Engine)> = HashSet::new();
        for function in functions.iter().filter(|function| function.runtime == Runtime::Wasm) {
            let is_new = modules.insert((&function.module, function.engine));
            if is_new && sender.try_send(Arc::downgrade(function)).is_err() {
                return;
            }
        }
    };
    (arrived, receiver)
}

/// Starts the thread that hands the queue's functions to a worker.
pub fn start(arrivals: Receiver<Arrival>, scheduler: Arc<Scheduler>) -> Result<()> {
    let compile = move || {
        for arrival in arrivals {
            let worker = scheduler.first_worker();
            if let Some(function) = arrival.upgrade() {
                // If the worker dies, the first call has the module compiled.
                let _ = worker.compile(&function.settings);
            }
        }
    };
    start_thread("arrivals", compile).map(drop)
}

#[cfg(test)]
#[path = "arrivals_tests.rs"]
mod tests;
