//! The bounds of the server. Tests make them smaller, and so does a low limit of open files.

use std::time::Duration;

use crate::limits;

/// The bounds of a server; limits.rs gives their reasons.
#[derive(Debug, Clone)]
pub struct Bounds {
    pub connections_max: usize,
    pub calls_max: usize,
    pub rejected_max: usize,
    pub head_deadline: Duration,
    pub idle_max: Duration,
    pub rate_min_bytes_per_s: u64,
    pub rate_grace: Duration,
    pub linger_max: Duration,
    pub half_close_grace: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            connections_max: limits::CONNECTIONS_MAX,
            calls_max: limits::CALLS_MAX,
            rejected_max: limits::REJECTED_MAX,
            head_deadline: limits::HEAD_DEADLINE,
            idle_max: limits::IDLE_MAX,
            rate_min_bytes_per_s: limits::RATE_MIN_BYTES_PER_S,
            rate_grace: limits::RATE_GRACE,
            linger_max: limits::LINGER_MAX,
            half_close_grace: limits::HALF_CLOSE_GRACE,
        }
    }
}

pub const DESCRIPTORS_PER_CONNECTION: usize = 1;

impl Bounds {
    /// Lowers the bounds to the process's limit of open files: half of the descriptors for calls, half for
    /// connections, of which an eighth is for rejected ones.
    pub fn fit(mut self, descriptors: u64) -> Bounds {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let half = descriptors.saturating_sub(limits::DESCRIPTORS_RESERVED) / 2;
        self.rejected_max = self.rejected_max.min((half / 8).max(1));
        let connections = (half - half / 8) / DESCRIPTORS_PER_CONNECTION;
        self.connections_max = self.connections_max.min(connections.max(1));
        self.calls_max = self.calls_max.min((half / limits::DESCRIPTORS_PER_CALL).max(1));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::each;

    #[test]
    fn few_open_files_lower_the_bounds() {
        let full = Bounds::default().fit(20_000);
        assert_eq!((full.connections_max, full.calls_max), (limits::CONNECTIONS_MAX, limits::CALLS_MAX));
        each([0, 64, 256, 1024, 4096], |descriptors| {
            let Bounds { connections_max, calls_max, rejected_max, .. } = Bounds::default().fit(descriptors);
            assert!(connections_max >= 1 && calls_max >= 1 && rejected_max >= 1);
            let needed =
                connections_max * DESCRIPTORS_PER_CONNECTION + calls_max * limits::DESCRIPTORS_PER_CALL + rejected_max;
            let available = (descriptors as usize).saturating_sub(limits::DESCRIPTORS_RESERVED);
            assert!(needed <= available.max(12), "{needed} of {descriptors}");
        });
    }
}
