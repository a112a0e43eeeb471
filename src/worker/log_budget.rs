//! Bounds the bytes that one function may write to the log of one worker within an hour, over all its calls.
//!
//! Each call's stderr has a bound of its own (stderr_log.rs), but a function that is called ten times a second would
//! still write gigabytes an hour. The worker counts the dropped bytes, and logs the count once in a while.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

const HOUR: Duration = Duration::from_secs(3600);
/// Bytes of the log, as written, that one function's stderr may take within an hour.
const BYTES_PER_HOUR_MAX: usize = 16 << 20;
/// Time between two log lines that report dropped bytes.
const TELL_PERIOD: Duration = Duration::from_secs(60);

/// Guards the numbers; held for a look or an addition.
pub struct LogBudget(Mutex<State>);

struct State {
    hour_began: Instant,
    written: usize,
    /// Bytes that were dropped and not reported yet.
    dropped: usize,
    last_told: Option<Instant>,
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

    /// Counts dropped bytes; returns the number to report now, if a report is due.
    pub fn note_dropped(&self, bytes: usize) -> Option<usize> {
        let mut state = self.state();
        state.dropped += bytes;
        let is_due = state.last_told.is_none_or(|at| at.elapsed() >= TELL_PERIOD);
        if !is_due {
            return None;
        }
        state.last_told = Some(Instant::now());
        Some(std::mem::take(&mut state.dropped))
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
        budget.0.lock().unwrap().hour_began = Instant::now() - HOUR;
        assert!(budget.has_room());
    }
}
