//! Counts the calls of each function, for status.sock.
//!
//! A call costs two look-ups in one map. A client of status.sock receives only the functions that changed since the
//! last line, and at most [`TOLD_MAX`] in one line, so that a line stays small with any number of functions.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use serde_json::Value;

use crate::ledger::Call;
use crate::protocol::counters::{FunctionCounters, STARTS};

/// Functions in one line, of about 500 bytes each: together they fit into a socket's buffer.
const TOLD_MAX: usize = 128;

#[derive(Default)]
pub struct Counters {
    /// Guards the counters. Held for a look-up and a few additions, and for one line's functions.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    functions: HashMap<String, Entry>,
    /// Routes whose entries are marked as changed.
    changed: VecDeque<String>,
}

struct Entry {
    counters: FunctionCounters,
    is_changed: bool,
}

impl Counters {
    pub fn begin(&self, route: &str, name: &str) {
        self.state().change(route, name, |counters| counters.in_flight += 1);
    }

    /// Must be called once for each [`Counters::begin`].
    pub fn end(&self, call: &Call) {
        self.state().change(&call.route, &call.function, |counters| {
            counters.in_flight = counters.in_flight.saturating_sub(1);
            counters.add_answer(call.status);
            counters.queued.add(call.queued_ms / 1000.0);
            if let Some(run_ms) = call.run_ms {
                counters.run.add(run_ms / 1000.0);
            }
            if let Some(usage) = &call.usage {
                counters.cpu_s += usage.cpu_us as f64 / 1e6;
                counters.memory_bytes_max = counters.memory_bytes_max.max(usage.memory_bytes);
            }
            let start = STARTS.iter().position(|start| Some(*start) == call.start);
            start.into_iter().for_each(|start| counters.starts[start] += 1);
        });
    }

    /// Counts a request that met no route.
    pub fn count_unrouted(&self, status: u16) {
        self.state().change("", "", |counters| counters.add_answer(status));
    }

    /// Marks all functions as changed, for a client that has just connected.
    pub fn tell_all(&self) {
        let mut state = self.state();
        let State { functions, changed } = &mut *state;
        for (route, entry) in functions.iter_mut().filter(|(_, entry)| !entry.is_changed) {
            entry.is_changed = true;
            changed.push_back(route.clone());
        }
    }

    /// Some functions that have changed since they were last told, those that wait longest first, and the number that
    /// remain.
    pub fn tell(&self) -> (Vec<Value>, usize) {
        let mut state = self.state();
        let State { functions, changed } = &mut *state;
        let count = changed.len().min(TOLD_MAX);
        let told = changed.drain(..count).filter_map(|route| {
            let entry = functions.get_mut(&route)?;
            entry.is_changed = false;
            Some(entry.counters.to_value())
        });
        (told.collect(), changed.len())
    }

    /// Forgets functions whose rows are gone, but keeps the entry for requests that met no route.
    pub fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.state().functions.retain(|route, entry| route.is_empty() || entry.counters.in_flight > 0 || exists(route));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }
}

impl State {
    fn change(&mut self, route: &str, name: &str, change: impl FnOnce(&mut FunctionCounters)) {
        if !self.functions.contains_key(route) {
            let counters = FunctionCounters { route: route.into(), ..FunctionCounters::default() };
            self.functions.insert(route.into(), Entry { counters, is_changed: false });
        }
        let entry = self.functions.get_mut(route).expect("it was just inserted");
        change(&mut entry.counters);
        if entry.counters.name != name {
            entry.counters.name = name.into();
        }
        if !entry.is_changed {
            entry.is_changed = true;
            self.changed.push_back(route.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_told_and_the_rest_waits_its_turn() {
        let counters = Counters::default();
        for number in 0..300 {
            counters.begin(&format!("GET:/{number}"), "name");
        }
        let counts: Vec<usize> = (0..4).map(|_| counters.tell().0.len()).collect();
        assert_eq!(counts, [128, 128, 44, 0]);
        let ended = |route: &str| Call { route: route.into(), status: 500, ..Call::default() };
        counters.end(&ended("GET:/7"));
        let (told, _) = counters.tell();
        assert_eq!((told.len(), &told[0]["in_flight"], &told[0]["codes"]["500"]), (1, &0.into(), &1.into()));
        counters.tell_all();
        assert_eq!((counters.tell().0.len(), counters.tell().1), (128, 44));
        counters.end(&ended("GET:/8"));
        counters.retain(|route| route == "GET:/7");
        assert_eq!(counters.state().functions.len(), 299);
    }
}
