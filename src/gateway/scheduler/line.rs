//! The line of calls that wait for a slot, and each function's share of the slots.
//!
//! 1. The functions in line take turns, one slot per turn. Calls of one function are served in order of arrival.
//! 2. While another function calls, a function has at most three quarters of all slots, and of the places in line. A
//!    function counts as calling for another [`CALLS_FOR`]: its next call comes after its response, and must not find
//!    that others took all slots meanwhile.
//! 3. A function has at most its `max_inflight` slots.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Ticket;

/// A function counts as calling this long after its last call began or ended: longer than a call waits by default.
const CALLS_FOR: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Line {
    /// By route. Functions that neither run, wait nor call are forgotten.
    functions: HashMap<String, Demand>,
    /// Routes of the functions with calls in line: the first one is next.
    turns: VecDeque<String>,
}

/// The slots that a function has, and those that it wants.
struct Demand {
    /// Slots in use.
    running: u64,
    waiting: VecDeque<Arc<Ticket>>,
    called_at: Instant,
}

impl Demand {
    fn is_calling(&self) -> bool {
        self.running > 0 || !self.waiting.is_empty() || self.called_at.elapsed() < CALLS_FOR
    }
}

/// Three quarters, and one at least.
fn share_of(all: usize) -> usize {
    (all * 3 / 4).max(1)
}

impl Line {
    /// Number of waiting calls.
    pub fn len(&self) -> usize {
        self.functions.values().map(|demand| demand.waiting.len()).sum()
    }

    pub fn has_waiting(&self, route: &str) -> bool {
        self.functions.get(route).is_some_and(|demand| !demand.waiting.is_empty())
    }

    /// Notes a new call of this function.
    pub fn note_call(&mut self, route: &str) {
        match self.functions.get_mut(route) {
            Some(demand) => demand.called_at = Instant::now(),
            None => {
                let demand = Demand { running: 0, waiting: VecDeque::new(), called_at: Instant::now() };
                self.functions.insert(route.to_string(), demand);
            }
        }
    }

    /// True if the function may have one more of these slots.
    pub fn may_run(&self, route: &str, max_inflight: Option<u64>, slots: usize) -> bool {
        let running = self.running(route);
        max_inflight.is_none_or(|max| running < max)
            && (running < share_of(slots) as u64 || !self.has_others_calling(route))
    }

    pub fn running(&self, route: &str) -> u64 {
        self.functions.get(route).map_or(0, |demand| demand.running)
    }

    /// True if the function may have one more place in a line of this length.
    pub fn may_wait(&self, route: &str, length_max: usize) -> bool {
        let waiting = self.functions.get(route).map_or(0, |demand| demand.waiting.len());
        self.len() < length_max && (waiting < share_of(length_max) || !self.has_others_calling(route))
    }

    fn has_others_calling(&self, route: &str) -> bool {
        self.functions.iter().any(|(other, demand)| other != route && demand.is_calling())
    }

    /// Notes that the function got a slot.
    pub fn begin(&mut self, route: &str) {
        if let Some(demand) = self.functions.get_mut(route) {
            demand.running += 1;
        }
    }

    /// Notes that the function gave a slot back.
    pub fn end(&mut self, route: &str) {
        if let Some(demand) = self.functions.get_mut(route) {
            demand.running -= 1;
            demand.called_at = Instant::now();
        }
    }

    /// Requires an earlier [`Line::note_call`].
    pub fn push(&mut self, ticket: Arc<Ticket>) {
        let Some(demand) = self.functions.get_mut(&ticket.route) else { return };
        if demand.waiting.is_empty() {
            self.turns.push_back(ticket.route.clone());
        }
        demand.waiting.push_back(ticket);
    }

    /// The ticket at place `at` of the function whose turn is `turn`th.
    pub fn ticket(&self, turn: usize, at: usize) -> Option<Arc<Ticket>> {
        self.functions.get(self.turns.get(turn)?)?.waiting.get(at).cloned()
    }

    /// Number of functions with calls in line.
    pub fn turns(&self) -> usize {
        self.turns.len()
    }

    /// Removes a ticket that has its slot: its function goes to the end of the turns.
    pub fn serve(&mut self, ticket: &Arc<Ticket>) {
        self.remove(ticket);
        if self.has_waiting(&ticket.route) {
            self.turns.retain(|route| *route != ticket.route);
            self.turns.push_back(ticket.route.clone());
        }
    }

    /// Removes a ticket, if it is still in line.
    pub fn remove(&mut self, ticket: &Arc<Ticket>) {
        let Some(demand) = self.functions.get_mut(&ticket.route) else { return };
        demand.waiting.retain(|other| !Arc::ptr_eq(other, ticket));
        if demand.waiting.is_empty() {
            self.turns.retain(|route| *route != ticket.route);
        }
    }

    /// Must be called from time to time, so that functions without calls take no memory.
    pub fn forget_idle(&mut self) {
        self.functions.retain(|_, demand| demand.is_calling());
    }
}
