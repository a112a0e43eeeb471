//! Smooths readings, so that one busy half-second does not turn the scheduler around: the C original's
//! metrics_smoother.c, an exponential moving average with 0.7 of the old value and 0.3 of the new one.

use super::metrics_reader::Reading;

pub struct MetricsSmoother {
    /// Share of the old value (FAAS_EMA).
    factor: f64,
    value: Option<Reading>,
}

impl MetricsSmoother {
    pub fn new(factor: f64) -> MetricsSmoother {
        MetricsSmoother { factor, value: None }
    }

    /// Takes a reading in and returns the smoothed value. The first reading is returned as it is.
    pub fn smooth(&mut self, new: Reading) -> Reading {
        let old = self.value.unwrap_or(new);
        let mix = |old: f64, new: f64| self.factor * old + (1.0 - self.factor) * new;
        let value = Reading { cpu: mix(old.cpu, new.cpu), mem: mix(old.mem, new.mem), io: mix(old.io, new.io) };
        self.value = Some(value);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_reading_counts_three_tenths() {
        let mut smoother = MetricsSmoother::new(0.7);
        let reading = |cpu| Reading { cpu, mem: 10.0, io: 0.0 };
        assert_eq!(smoother.smooth(reading(50.0)).cpu, 50.0);
        let next = smoother.smooth(reading(100.0));
        assert!((next.cpu - 65.0).abs() < 1e-9 && (next.mem - 10.0).abs() < 1e-9);
        let last = smoother.smooth(reading(0.0));
        assert!((last.cpu - 45.5).abs() < 1e-9);
    }
}
