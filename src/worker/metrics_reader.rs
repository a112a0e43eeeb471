//! Reads this worker's usage out of /proc: the C original's metrics_reader.c.
//!
//! Unlike there, the figures are those of the worker and all its functions: their CPU, memory and I/O are the load; the
//! worker's own is next to nothing. The worker's own counters include the CPU time and I/O of functions that have
//! ended, because the kernel adds them to the parent that waits for a child.
//!
//! The same look finds processes that have outlived their invocation (orphans.rs). It takes hundreds of system calls,
//! so a worker at rest looks rarely: from then on only an invocation changes its processes.

use std::time::{Duration, Instant};

use crate::limits::{METRICS_PERIOD, TREE_PROCESSES_MAX};
use crate::procfs;
use crate::sandbox::orphans;
use crate::scheduler_config::{IO_FULL_KB_PER_S, MEM_FULL_MIB};
use crate::sys::{self, Pid};

/// The result of [`MetricsReader::read`].
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub reading: Reading,
    /// True if a process seems to have outlived its invocation.
    pub has_orphans: bool,
}

/// One measurement, each part normalised: 0 is idle, 100 is full (see scheduler_config.rs).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Reading {
    pub cpu: f64,
    pub mem: f64,
    pub io: f64,
}

/// Time between two looks of a worker at rest.
const REST_PERIOD: Duration = Duration::from_secs(5);
/// A worker is at rest after this many looks without an invocation that all found the same processes and no orphan. One
/// look could miss a process whose parent ends meanwhile; then the next one finds other processes.
const LOOKS_TO_REST: u32 = 2;
/// A look waits at least this many times the cost of the look before it: the more processes, the rarer the looks.
const COST_INVERSE: u32 = 500;

/// Remembers the last counters, since rates are differences.
pub struct MetricsReader {
    pid: Pid,
    cores: f64,
    ticks_per_s: f64,
    last: Counters,
    /// Consecutive looks that count for [`LOOKS_TO_REST`].
    quiet_looks: u32,
    last_reading: Reading,
    next_look: Instant,
}

struct Counters {
    /// `processes`: the worker and all its descendants; `children`: those of them that are its children.
    processes: Vec<Pid>,
    children: Vec<Pid>,
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
            quiet_looks: 0,
            last_reading: Reading::default(),
            next_look: Instant::now(),
        }
    }

    /// The usage since the last look. `is_busy` tells whether an invocation has run since the last call; at rest most
    /// calls do not look.
    pub fn read(&mut self, is_busy: bool) -> Look {
        if !is_busy && self.quiet_looks >= LOOKS_TO_REST && self.last.at.elapsed() < REST_PERIOD {
            return Look { reading: self.reading(0.0, 0.0, 1.0), has_orphans: false };
        }
        if Instant::now() < self.next_look {
            return Look { reading: self.last_reading, has_orphans: false };
        }
        let began = sys::own_thread_cpu_time();
        let now = Counters::read(self.pid);
        // Below the sampling period it changes nothing.
        let pause = COST_INVERSE * (sys::own_thread_cpu_time() - began);
        self.next_look = Instant::now() + if pause > METRICS_PERIOD { pause } else { Duration::ZERO };
        let has_orphans = orphans::may_be_among(&now.children);
        let is_quiet = !is_busy && !has_orphans && now.processes == self.last.processes;
        self.quiet_looks = if is_quiet { self.quiet_looks + 1 } else { 0 };
        let seconds = now.at.duration_since(self.last.at).as_secs_f64().max(0.001);
        // A function's process can end between the look at it and the look at its parent; the sum then falls for a
        // moment.
        let ticks = now.cpu_ticks.saturating_sub(self.last.cpu_ticks) as f64;
        let storage_kb = now.storage_bytes.saturating_sub(self.last.storage_bytes) as f64 / 1000.0;
        self.last = now;
        self.last_reading = self.reading(ticks, storage_kb, seconds);
        Look { reading: self.last_reading, has_orphans }
    }

    /// Uses the memory of the last look.
    fn reading(&self, ticks: f64, storage_kb: f64, seconds: f64) -> Reading {
        let resident_mib = self.last.resident_bytes as f64 / f64::from(1 << 20);
        Reading {
            cpu: (100.0 * ticks / self.ticks_per_s / seconds / self.cores).min(100.0),
            mem: (100.0 * resident_mib / MEM_FULL_MIB).min(100.0),
            io: (100.0 * storage_kb / seconds / IO_FULL_KB_PER_S).min(100.0),
        }
    }
}

impl Counters {
    fn read(pid: Pid) -> Counters {
        let descendants = procfs::descendants(pid, TREE_PROCESSES_MAX);
        let children = descendants.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child).collect();
        let processes: Vec<Pid> = std::iter::once(pid).chain(descendants.into_iter().map(|(pid, _)| pid)).collect();
        let sum = |figure: fn(Pid) -> Option<u64>| processes.iter().filter_map(|pid| figure(*pid)).sum();
        Counters {
            at: Instant::now(),
            cpu_ticks: sum(procfs::cpu_ticks),
            storage_bytes: sum(procfs::storage_bytes),
            resident_bytes: sum(procfs::resident_bytes),
            processes,
            children,
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
            busy = reader.read(true).reading.cpu;
        }
        assert!(busy > 0.0);
        let before = Counters::read(reader.pid).cpu_ticks;
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(Counters::read(reader.pid).cpu_ticks >= before);
        assert!(reader.read(true).reading.mem > 0.0);
    }

    #[test]
    fn a_reader_at_rest_looks_again_when_an_invocation_runs_and_after_a_while() {
        let mut reader = MetricsReader::new();
        // Pretends that nothing else runs in this process: its other tests start and end processes.
        let mut at_rest = || {
            reader.quiet_looks = LOOKS_TO_REST;
            reader.last.at = Instant::now();
            let last = reader.last.at;
            (reader.read(false), reader.last.at == last)
        };
        let (look, is_as_before) = at_rest();
        assert!(is_as_before && !look.has_orphans && look.reading.cpu == 0.0 && look.reading.mem > 0.0, "{look:?}");
        reader.quiet_looks = LOOKS_TO_REST;
        let last = reader.last.at;
        reader.read(true);
        assert!(reader.last.at > last && reader.quiet_looks == 0);
        reader.quiet_looks = LOOKS_TO_REST;
        let long_ago = Instant::now().checked_sub(REST_PERIOD).unwrap();
        reader.last.at = long_ago;
        reader.read(false);
        assert!(reader.last.at > long_ago);
    }
}
