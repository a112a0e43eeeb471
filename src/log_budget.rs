//! Bounds the bytes that one writer may put into the log within an hour: a function with the stderr of all its calls on
//! one worker, or all requests that reach no function.
//!
//! Each call's stderr has a bound of its own (worker/stderr_log.rs), but a function that is called ten times a second
//! would still write gigabytes an hour, and so would a client that asks for paths without a route. The dropped parts
//! are counted, and the count is logged once in a while.

use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::log;
use crate::log::Line;

const HOUR: Duration = Duration::from_secs(3600);
/// Bytes of the log, as written, that one writer may take within an hour.
const BYTES_PER_HOUR_MAX: usize = 16 << 20;
/// Time between two log lines that report dropped parts.
const TELL_PERIOD: Duration = Duration::from_secs(60);

/// Guards the numbers; held for a look or an addition.
pub struct LogBudget(Mutex<State>);

struct State {
    hour_began: Instant,
    written: usize,
    /// Dropped and not reported yet, in the caller's unit.
    dropped: usize,
    last_told: Option<Instant>,
}

/// Bounds the lines of requests that reach no function.
static UNROUTED: LazyLock<LogBudget> = LazyLock::new(LogBudget::new);

/// Logs the line of a request that reaches no function, while this hour has room for it.
pub fn log_unrouted(line: Line) {
    let unlogged = if UNROUTED.has_room() {
        UNROUTED.note_written(line.log());
        UNROUTED.untold()
    } else {
        UNROUTED.note_dropped(1)
    };
    if let Some(count) = unlogged {
        log!(
            "log: {count} requests that reached no function were not logged: they have filled their share of the hour"
        );
    }
}

impl LogBudget {
    pub fn new() -> LogBudget {
        LogBudget(Mutex::new(State { hour_began: Instant::now(), written: 0, dropped: 0, last_told: None }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.lock().expect("nothing panics under this lock");
        if state.hour_began.elapsed() >= HOUR {
            (state.hour_began, state.written) = (Instant::now(), 0);
        }
        state
    }

    /// True if the budget of this hour is not used up.
    pub fn has_room(&self) -> bool {
        self.state().written < BYTES_PER_HOUR_MAX
    }

    pub fn note_written(&self, bytes: usize) {
        self.state().written += bytes;
    }

    /// Counts what was dropped; returns the number to report now, if a report is due.
    pub fn note_dropped(&self, count: usize) -> Option<usize> {
        let mut state = self.state();
        state.dropped += count;
        let is_due = state.last_told.is_none_or(|at| at.elapsed() >= TELL_PERIOD);
        if !is_due {
            return None;
        }
        state.last_told = Some(Instant::now());
        Some(std::mem::take(&mut state.dropped))
    }

    /// The number that an hour before this one left unreported, if any.
    fn untold(&self) -> Option<usize> {
        let mut state = self.state();
        let is_over = state.written < BYTES_PER_HOUR_MAX && state.dropped > 0;
        is_over.then(|| std::mem::take(&mut state.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_has_an_end_and_what_is_dropped_is_told_once_in_a_while() {
        let budget = LogBudget::new();
        budget.note_written(BYTES_PER_HOUR_MAX - 1);
        assert!(budget.has_room());
        budget.note_written(1);
        assert!(!budget.has_room());
        assert_eq!(budget.note_dropped(5), Some(5));
        assert_eq!((budget.note_dropped(6), budget.note_dropped(7)), (None, None));
        budget.state().last_told = Some(Instant::now() - TELL_PERIOD);
        assert_eq!(budget.note_dropped(1), Some(14));
        assert_eq!((budget.note_dropped(2), budget.untold()), (None, None));
        budget.0.lock().unwrap().hour_began = Instant::now() - HOUR;
        assert!(budget.has_room());
        assert_eq!((budget.untold(), budget.untold()), (Some(2), None));
    }
}
