//! Reads what this worker uses, out of /proc: the C original's metrics_reader.c.
//!
//! Unlike there, the figures are those of the worker and all its functions: their CPU, memory and I/O are the load; the
//! worker's own is next to nothing. CPU time and I/O of functions that have ended are in the worker's own counters,
//! because the kernel adds them to the parent that waits for a child.

use std::time::Instant;

use crate::limits::TREE_PROCESSES_MAX;
use crate::procfs;
use crate::scheduler_config::{IO_FULL_KB_PER_S, MEM_FULL_MIB};
use crate::sys::{self, Pid};

/// One measurement, each part normalised: 0 is idle, 100 is full (see scheduler_config.rs).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Reading {
    pub cpu: f64,
    pub mem: f64,
    pub io: f64,
}

/// Remembers the last counters, since rates are differences.
pub struct MetricsReader {
    pid: Pid,
    cores: f64,
    ticks_per_s: f64,
    last: Counters,
}

struct Counters {
    at: Instant,
    cpu_ticks: u64,
    storage_bytes: u64,
    resident_bytes: u64,
}

impl MetricsReader {
    pub fn new() -> MetricsReader {
        let pid = std::process::id() as Pid;
        MetricsReader {
            pid,
            cores: std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64),
            ticks_per_s: sys::clock_ticks_per_s() as f64,
            last: Counters::read(pid),
        }
    }

    /// What was used since the last call.
    pub fn read(&mut self) -> Reading {
        let now = Counters::read(self.pid);
        let seconds = now.at.duration_since(self.last.at).as_secs_f64().max(0.001);
        // A function's process can end between the two looks at it and at its parent; the sum then falls for a moment.
        let ticks = now.cpu_ticks.saturating_sub(self.last.cpu_ticks) as f64;
        let storage_kb = now.storage_bytes.saturating_sub(self.last.storage_bytes) as f64 / 1000.0;
        let resident_mib = now.resident_bytes as f64 / f64::from(1 << 20);
        self.last = now;
        Reading {
            cpu: (100.0 * ticks / self.ticks_per_s / seconds / self.cores).min(100.0),
            mem: (100.0 * resident_mib / MEM_FULL_MIB).min(100.0),
            io: (100.0 * storage_kb / seconds / IO_FULL_KB_PER_S).min(100.0),
        }
    }
}

impl Counters {
    fn read(pid: Pid) -> Counters {
        let processes = procfs::tree(pid, TREE_PROCESSES_MAX);
        let sum = |figure: fn(Pid) -> Option<u64>| processes.iter().filter_map(|pid| figure(*pid)).sum();
        Counters {
            at: Instant::now(),
            cpu_ticks: sum(procfs::cpu_ticks),
            storage_bytes: sum(procfs::storage_bytes),
            resident_bytes: sum(procfs::resident_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::Duration;

    #[test]
    fn the_cpu_time_of_a_child_counts_while_it_runs_and_after_it_was_waited_for() {
        let mut reader = MetricsReader::new();
        let mut child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let mut busy = 0.0;
        let deadline = Instant::now() + Duration::from_secs(10);
        while busy == 0.0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
            busy = reader.read().cpu;
        }
        assert!(busy > 0.0);
        let before = Counters::read(reader.pid).cpu_ticks;
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(Counters::read(reader.pid).cpu_ticks >= before);
        assert!(reader.read().mem > 0.0);
    }
}
