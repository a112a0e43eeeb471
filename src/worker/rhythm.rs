//! The schedule of one kind of look at an invocation: often at first, and never for more than a share of a processor.

use std::time::{Duration, Instant};

use crate::limits::{SAMPLE_FIRST, SAMPLE_PERIOD};

/// A pause is at least this many times the cost of the look before it, for all invocations of a worker together.
const COST_INVERSE: u32 = 150;
/// Upper bound of a pause that the cost demands.
const PERIOD_MAX: Duration = Duration::from_secs(1);

pub struct Rhythm {
    next: Instant,
    pause: Duration,
}

impl Rhythm {
    pub fn new() -> Rhythm {
        Rhythm { next: Instant::now() + SAMPLE_FIRST, pause: SAMPLE_FIRST }
    }

    /// The time at which another look is due.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Makes another look due at once.
    pub fn hasten(&mut self) {
        self.next = Instant::now();
    }

    pub fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }

    /// Sets the next look. Pauses double from [`SAMPLE_FIRST`], which comes twice, to [`SAMPLE_PERIOD`], and are longer
    /// after an expensive look.
    pub fn go_on(&mut self, cost: Duration, running: usize) {
        let due_to_cost = (cost * COST_INVERSE * running.max(1) as u32).min(PERIOD_MAX);
        self.next = Instant::now() + self.pause.max(due_to_cost);
        self.pause = (2 * self.pause).min(SAMPLE_PERIOD);
    }
}
