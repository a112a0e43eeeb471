//! The recent past in rings of fixed size: calls by second and by minute, run times by half minute.

use serde_json::{Value, json};

use crate::protocol::counters::{BUCKETS_S, Histogram};

/// The last N periods; the newest is `at`.
#[derive(Clone)]
struct Ring<T, const N: usize> {
    slots: [T; N],
    at: u64,
}

impl<T: Copy + Default, const N: usize> Default for Ring<T, N> {
    fn default() -> Self {
        Ring { slots: [T::default(); N], at: 0 }
    }
}

impl<T: Copy + Default, const N: usize> Ring<T, N> {
    /// The slot of a period; it is emptied first if it held an older one.
    fn slot(&mut self, period: u64) -> &mut T {
        let passed = period.saturating_sub(self.at).min(N as u64);
        for number in 0..passed {
            self.slots[((period - number) % N as u64) as usize] = T::default();
        }
        self.at = self.at.max(period);
        &mut self.slots[(period % N as u64) as usize]
    }

    /// The N periods up to `period`, the oldest first.
    fn until(&self, period: u64) -> impl Iterator<Item = T> {
        let first = (period + 1).saturating_sub(N as u64);
        let missing = N - (period + 1 - first) as usize;
        let known = (first..=period).map(|period| {
            let is_known = period <= self.at && self.at - period < N as u64;
            if is_known { self.slots[(period % N as u64) as usize] } else { T::default() }
        });
        std::iter::repeat_n(T::default(), missing).chain(known)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    calls: u32,
    errors: u32,
    cpu_ms: u32,
}

impl Tally {
    fn add(&mut self, calls: u32, errors: u32, cpu_ms: u32) {
        self.calls += calls;
        self.errors += errors;
        self.cpu_ms += cpu_ms;
    }
}

/// Calls, errors and CPU time by second, and by minute.
#[derive(Default)]
pub struct Course {
    seconds: Ring<Tally, { Course::SECONDS }>,
    minutes: Ring<Tally, 60>,
}

impl Course {
    const SECONDS: usize = 60;
    /// Seconds over which a rate is averaged.
    const RATE_S: usize = 5;

    pub fn add(&mut self, now_s: u64, calls: u32, errors: u32, cpu_ms: u32) {
        self.seconds.slot(now_s).add(calls, errors, cpu_ms);
        self.minutes.slot(now_s / 60).add(calls, errors, cpu_ms);
    }

    /// Adds the calls of an earlier minute, `ago` minutes back.
    pub fn add_minute(&mut self, now_s: u64, ago: u64, calls: u32, errors: u32) {
        self.minutes.slot(now_s / 60);
        if let Some(period) = (now_s / 60).checked_sub(ago).filter(|_| ago < 60) {
            self.minutes.slots[(period % 60) as usize].add(calls, errors, 0);
        }
    }

    /// Calls and errors per second.
    pub fn rate(&self, now_s: u64) -> [f64; 2] {
        let (calls, errors) = self.recent(now_s).fold((0, 0), |sum, tally| (sum.0 + tally.calls, sum.1 + tally.errors));
        [calls, errors].map(|count| f64::from(count) / Course::RATE_S as f64)
    }

    /// Cores that the calls keep busy.
    pub fn cpu_share(&self, now_s: u64) -> f64 {
        f64::from(self.recent(now_s).map(|tally| tally.cpu_ms).sum::<u32>()) / 1000.0 / Course::RATE_S as f64
    }

    /// Pairs of calls and errors, for each complete second, the oldest first.
    pub fn seconds(&self, now_s: u64) -> Value {
        self.seconds.until(now_s.saturating_sub(1)).map(|tally| json!([tally.calls, tally.errors])).collect()
    }

    /// Pairs of calls and errors for each minute, the present one included.
    pub fn minutes(&self, now_s: u64) -> Value {
        self.minutes.until(now_s / 60).map(|tally| json!([tally.calls, tally.errors])).collect()
    }

    /// The last complete seconds.
    fn recent(&self, now_s: u64) -> impl Iterator<Item = Tally> {
        self.seconds.until(now_s.saturating_sub(1)).skip(Course::SECONDS - Course::RATE_S)
    }
}

const BUCKETS: usize = BUCKETS_S.len() + 1;

/// Run times of the last five minutes.
#[derive(Default)]
pub struct Window {
    steps: Ring<[u32; BUCKETS], { Window::STEPS }>,
}

impl Window {
    const STEPS: usize = 10;
    const STEP_S: u64 = 30;
    pub const SECONDS: u64 = Window::STEPS as u64 * Window::STEP_S;

    /// Adds the difference between two states of a histogram.
    pub fn add(&mut self, now_s: u64, new: &Histogram, old: &Histogram) {
        let slot = self.steps.slot(now_s / Window::STEP_S);
        for ((count, new), old) in slot.iter_mut().zip(new.counts).zip(old.counts) {
            *count += new.saturating_sub(old) as u32;
        }
    }

    /// The time that `share` of the calls do not exceed, in milliseconds; `None` without calls. Assumes that calls are
    /// spread evenly within a bucket, as Prometheus does.
    pub fn quantile_ms(&self, now_s: u64, share: f64) -> Option<f64> {
        let mut counts = [0u64; BUCKETS];
        for step in self.steps.until(now_s / Window::STEP_S) {
            counts.iter_mut().zip(step).for_each(|(sum, count)| *sum += u64::from(count));
        }
        let total: u64 = counts.iter().sum();
        let wanted = share * total as f64;
        let mut below = 0.0;
        for (at, count) in counts.iter().map(|count| *count as f64).enumerate().filter(|(_, count)| *count > 0.0) {
            let lower = if at == 0 { 0.0 } else { BUCKETS_S[at - 1] };
            let upper = BUCKETS_S.get(at).copied().unwrap_or(lower);
            if below + count >= wanted {
                return Some((lower + (upper - lower) * (wanted - below) / count) * 1000.0);
            }
            below += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_forgets_what_is_too_old() {
        let mut ring: Ring<u32, 4> = Ring::default();
        *ring.slot(1) = 1;
        *ring.slot(2) = 2;
        assert_eq!(ring.until(2).collect::<Vec<_>>(), [0, 0, 1, 2]);
        *ring.slot(5) = 5;
        assert_eq!(ring.until(5).collect::<Vec<_>>(), [2, 0, 0, 5]);
        assert_eq!(ring.until(7).collect::<Vec<_>>(), [0, 5, 0, 0]);
        *ring.slot(100) = 9;
        assert_eq!(ring.until(100).collect::<Vec<_>>(), [0, 0, 0, 9]);
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let mut window = Window::default();
        assert_eq!(window.quantile_ms(0, 0.5), None);
        let (old, mut new) = (Histogram::default(), Histogram::default());
        (0..90).for_each(|_| new.add(0.015));
        (0..10).for_each(|_| new.add(0.4));
        window.add(10, &new, &old);
        let [p50, p95] = [0.5, 0.95].map(|share| window.quantile_ms(10, share).unwrap());
        assert!((10.0..20.0).contains(&p50) && (200.0..500.0).contains(&p95), "{p50} {p95}");
        assert_eq!(window.quantile_ms(10 + Window::SECONDS, 0.5), None);
    }
}
