//! The line of calls that wait for a slot, and what each function has of the slots.
//!
//! 1. The functions in line take turns, one slot at a turn. Calls of one function go in order of arrival.
//! 2. While another function calls, a function has at most three quarters of all slots, and of the places in line. One
//!    that calls counts as calling for [`CALLS_FOR`] more: its next call comes when it has its answer, and must not find
//!    that all slots were taken meanwhile.
//! 3. A function has at most its `max_inflight` slots.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Ticket;

/// A function counts as calling this long after its last call began or ended: longer than a call waits in line by default.
const CALLS_FOR: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Line {
    /// By route. Those that neither run, wait nor call are forgotten.
    functions: HashMap<String, Demand>,
    /// Routes of the functions with calls in line: the first one is next.
    turns: VecDeque<String>,
}

/// What a function has and wants.
struct Demand {
    /// Slots that it has.
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
    /// How many calls wait.
    pub fn len(&self) -> usize {
        self.functions.values().map(|demand| demand.waiting.len()).sum()
    }

    pub fn has_waiting(&self, route: &str) -> bool {
        self.functions.get(route).is_some_and(|demand| !demand.waiting.is_empty())
    }

    /// A call of this function has come.
    pub fn note_call(&mut self, route: &str) {
        match self.functions.get_mut(route) {
            Some(demand) => demand.called_at = Instant::now(),
            None => {
                let demand = Demand { running: 0, waiting: VecDeque::new(), called_at: Instant::now() };
                self.functions.insert(route.to_string(), demand);
            }
        }
    }

    /// Whether the function may have one more of these slots.
    pub fn may_run(&self, route: &str, max_inflight: Option<u64>, slots: usize) -> bool {
        let running = self.running(route);
        max_inflight.is_none_or(|max| running < max)
            && (running < share_of(slots) as u64 || !self.has_others_calling(route))
    }

    pub fn running(&self, route: &str) -> u64 {
        self.functions.get(route).map_or(0, |demand| demand.running)
    }

    /// Whether the function may have one more place in a line of this length.
    pub fn may_wait(&self, route: &str, length_max: usize) -> bool {
        let waiting = self.functions.get(route).map_or(0, |demand| demand.waiting.len());
        self.len() < length_max && (waiting < share_of(length_max) || !self.has_others_calling(route))
    }

    fn has_others_calling(&self, route: &str) -> bool {
        self.functions.iter().any(|(other, demand)| other != route && demand.is_calling())
    }

    /// It has got a slot.
    pub fn begin(&mut self, route: &str) {
        if let Some(demand) = self.functions.get_mut(route) {
            demand.running += 1;
        }
    }

    /// It has given one back.
    pub fn end(&mut self, route: &str) {
        if let Some(demand) = self.functions.get_mut(route) {
            demand.running -= 1;
            demand.called_at = Instant::now();
        }
    }

    /// To be called after [`Line::note_call`].
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

    /// How many functions have calls in line.
    pub fn turns(&self) -> usize {
        self.turns.len()
    }

    /// Takes a ticket out that has its slot: its function goes to the end of the turns.
    pub fn serve(&mut self, ticket: &Arc<Ticket>) {
        self.remove(ticket);
        if self.has_waiting(&ticket.route) {
            self.turns.retain(|route| *route != ticket.route);
            self.turns.push_back(ticket.route.clone());
        }
    }

    /// Takes a ticket out, where it is still in.
    pub fn remove(&mut self, ticket: &Arc<Ticket>) {
        let Some(demand) = self.functions.get_mut(&ticket.route) else { return };
        demand.waiting.retain(|other| !Arc::ptr_eq(other, ticket));
        if demand.waiting.is_empty() {
            self.turns.retain(|route| *route != ticket.route);
        }
    }

    /// To be called now and then, so that functions that are called no more take no room.
    pub fn forget_idle(&mut self) {
        self.functions.retain(|_, demand| demand.is_calling());
    }
}
