//! Time left for the client to send or receive.

use std::io;
use std::time::{Duration, Instant};

use crate::sys::{Watched, poll};

/// An account of waiting time. Waiting draws on it, and each byte that moves pays in. It is empty when the client has
/// sent or read nothing for too long, or was slower than the least rate.
///
/// Only time spent waiting for the client counts. A function that works between two lines of an event stream does not
/// reduce its reader's account.
#[derive(Debug)]
pub struct TimeAllowance {
    left: Duration,
    max: Duration,
    per_byte: Duration,
}

impl TimeAllowance {
    /// For bytes that must move within `time`, in any number.
    pub fn deadline(time: Duration) -> TimeAllowance {
        TimeAllowance { left: time, max: time, per_byte: Duration::ZERO }
    }

    /// Begins with `grace`. A fast client can save up to `max`.
    pub fn least_rate(bytes_per_s: u64, grace: Duration, max: Duration) -> TimeAllowance {
        let per_byte = Duration::from_secs(1) / u32::try_from(bytes_per_s.max(1)).unwrap_or(u32::MAX);
        TimeAllowance { left: grace, max: max.max(grace), per_byte }
    }

    /// Pays in for bytes that moved.
    pub fn earn(&mut self, bytes: usize) {
        let earned = self.per_byte.saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.left = self.left.saturating_add(earned).min(self.max);
    }

    /// Waits until `watched` is ready (true) or the allowance has run out (false).
    pub fn wait(&mut self, watched: Watched<'_>) -> io::Result<bool> {
        let since = Instant::now();
        let ready = poll(&mut [watched], Some(self.left))?;
        self.left = self.left.saturating_sub(since.elapsed());
        Ok(ready > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_earn_time_up_to_the_maximum() {
        let second = Duration::from_secs(1);
        let mut allowance = TimeAllowance::least_rate(1000, second, 3 * second);
        allowance.earn(500);
        assert_eq!(allowance.left, second * 3 / 2);
        allowance.earn(1 << 30);
        assert_eq!(allowance.left, 3 * second);

        let silent = crate::sys::EventFd::new().unwrap();
        let mut allowance = TimeAllowance::deadline(Duration::from_millis(1));
        allowance.earn(1 << 30);
        assert!(!allowance.wait(Watched::read(silent.as_fd())).unwrap());
        assert_eq!(allowance.left, Duration::ZERO);
        silent.signal();
        assert!(allowance.wait(Watched::read(silent.as_fd())).unwrap());
    }
}
