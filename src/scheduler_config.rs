//! The parts of the scheduler's score: the C original's scheduler_config.h.
//!
//! score = alpha × CPU + beta × MEM + gamma × IO, where each part is normalised to 0–100 by the constants below, and
//! the worker with the lowest score gets the invocation. All four factors are settings; these are their defaults.

/// Weight of the CPU part.
pub const ALPHA: f64 = 0.5;
/// Weight of the memory part.
pub const BETA: f64 = 0.3;
/// Weight of the I/O part.
pub const GAMMA: f64 = 0.2;
/// Smoothing: this much of the old value, the rest of the new one, every 500 ms.
pub const EMA_FACTOR: f64 = 0.7;

/// Resident memory of a worker and its functions that counts as 100.
pub const MEM_FULL_MIB: f64 = 512.0;
/// Storage traffic (read and written) that counts as 100.
pub const IO_FULL_KB_PER_S: f64 = 10_000.0;

/// Points that the gateway adds to a score for slots that are taken right now, since a sample is up to 500 ms old: 100
/// × in-flight ÷ slots.
pub const INFLIGHT_FULL: f64 = 100.0;

/// The factors in force.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    pub alpha: f64,
    pub beta: f64,
    pub gamma: f64,
    /// 0 (only the newest sample counts) to below 1.
    pub ema: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Weights { alpha: ALPHA, beta: BETA, gamma: GAMMA, ema: EMA_FACTOR }
    }
}

impl Weights {
    /// The score of a worker whose CPU, memory and I/O are each given as 0–100.
    pub fn score(&self, cpu: f64, mem: f64, io: f64) -> f64 {
        self.alpha * cpu + self.beta * mem + self.gamma * io
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_counts_half_and_memory_and_io_less() {
        assert_eq!(Weights::default().score(100.0, 10.0, 1.0), 53.2);
    }
}
