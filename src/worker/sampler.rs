//! Looks at what an invocation uses while it runs, against the limits that no kernel keeps for it: memory, processes and
//! threads, scratch.
//!
//! It looks in two ways. Figures of processes (/proc/PID/status) are read often; files cost ten times that, so a look at many
//! of them is taken less often. Neither takes more than a share of a processor ([`COST_INVERSE`]), whatever an invocation
//! does to make the look at it dear; then it is looked at after [`PERIOD_MAX`] at the latest.

use std::time::{Duration, Instant};

use super::process::Process;
use super::scratch::Scratch;
use crate::limits::{FUNCTION_PROCESSES_MAX, SAMPLE_FIRST, SAMPLE_PERIOD};
use crate::procfs::{self, Figures, Unlinked};
use crate::protocol::function_spec::{FunctionSpec, Runtime};
use crate::protocol::worker_protocol::Verdict;
use crate::sys::{self, Pid};

/// A pause is at least this many times what the look before it has cost, for all invocations of a worker together.
const COST_INVERSE: u32 = 75;
/// But not longer than this.
const PERIOD_MAX: Duration = Duration::from_millis(500);

pub struct Sampler<'a> {
    spec: &'a FunctionSpec,
    scratch: &'a Scratch<'a>,
    figures: Rhythm,
    files: Rhythm,
    /// Files in memory that the last look at files has found.
    in_memory: u64,
    pub seen: Seen,
}

/// What the samples have seen of an invocation.
#[derive(Default)]
pub struct Seen {
    /// The highest sum over its processes.
    pub memory_bytes_max: u64,
    /// Those of the last sample, without the main process.
    descendants: Vec<Pid>,
    /// CPU time of those that were killed.
    pub killed_cpu_us: u64,
}

impl Seen {
    fn note(&mut self, processes: &[Pid], memory_bytes: u64) {
        self.memory_bytes_max = self.memory_bytes_max.max(memory_bytes);
        self.descendants.clear();
        self.descendants.extend(processes.iter().skip(1));
    }

    /// Adds up what descendants have used that are about to be killed: those of the last sample that are still there. What
    /// the main process has waited for is gone, and part of its own usage.
    pub fn note_killed(&mut self) {
        let ticks: u64 = self.descendants.drain(..).filter_map(procfs::cpu_ticks).sum();
        self.killed_cpu_us += ticks * 1_000_000 / sys::clock_ticks_per_s();
    }
}

/// When to look next.
struct Rhythm {
    next: Instant,
    pause: Duration,
}

impl<'a> Sampler<'a> {
    pub fn new(spec: &'a FunctionSpec, scratch: &'a Scratch<'a>) -> Sampler<'a> {
        let rhythm = || Rhythm { next: Instant::now() + SAMPLE_FIRST, pause: SAMPLE_FIRST };
        Sampler { spec, scratch, figures: rhythm(), files: rhythm(), in_memory: 0, seen: Seen::default() }
    }

    /// When [`Sampler::look`] is due.
    pub fn next(&self) -> Instant {
        self.figures.next
    }

    /// What the invocation of this main process uses more of than it may. `running` invocations share the worker's time for
    /// looks.
    pub fn look(&mut self, process: &Process, running: usize) -> Option<Verdict> {
        sys::join_alarm();
        let began = sys::own_thread_cpu_time();
        let found = procfs::figures_of_tree(process.pid(), FUNCTION_PROCESSES_MAX);
        let processes: Vec<Pid> = found.iter().map(|(pid, _)| *pid).collect();
        let before_files = sys::own_thread_cpu_time();
        let threads: usize = found.iter().map(|(_, figures)| figures.threads).sum();
        let is_bomb = threads > FUNCTION_PROCESSES_MAX;
        // Of a bomb nothing else is read: for that the kernel waits until a process that forks has a turn at a processor.
        let holds_too_much = !is_bomb && self.files.is_due() && self.look_at_files(&processes);
        let after_files = sys::own_thread_cpu_time();
        let memory = if is_bomb { 0 } else { self.memory(&found) };
        self.seen.note(&processes, memory);
        let excess = match () {
            () if is_bomb => Some(Verdict::TooManyProcesses),
            () if memory > self.spec.memory_mib << 20 => Some(Verdict::MemoryExceeded),
            () if holds_too_much => Some(Verdict::ScratchExceeded),
            () => None,
        };
        let of_files = after_files - before_files;
        let of_figures = sys::own_thread_cpu_time() - began - of_files;
        self.figures.go_on(of_figures, running);
        if self.files.is_due() {
            self.files.go_on(of_files, running);
        }
        // Where the main process has ended meanwhile, its id could be another's by now.
        let is_there = excess.is_none() || procfs::pid_of(process.pidfd()) == Some(process.pid());
        excess.filter(|_| is_there)
    }

    /// Proportional memory is dear to read; the plain sum, which is never less, is asked first.
    fn memory(&self, found: &[(Pid, Figures)]) -> u64 {
        let sum = |figures: &mut dyn Iterator<Item = Figures>| {
            let (anonymous, shared) =
                figures.fold((0, 0), |sum, figures| (sum.0 + figures.anonymous, sum.1 + figures.shared));
            // Of files in memory some pages are mapped, and so among the shared ones.
            anonymous + shared.max(self.in_memory)
        };
        let plain = sum(&mut found.iter().map(|(_, figures)| *figures));
        if plain <= self.spec.memory_mib << 20 {
            return plain;
        }
        // Where a process forbids the look, all of its memory counts.
        sum(&mut found.iter().map(|(pid, figures)| figures.proportional(*pid).unwrap_or(*figures)))
    }

    /// Whether there is more in the scratch folder than may be.
    fn look_at_files(&mut self, processes: &[Pid]) -> bool {
        let Unlinked { of_folder, in_memory } = procfs::unlinked(processes, self.scratch.path());
        // A WASM module cannot make files in memory; its engine has some, which it shares with its fork server.
        self.in_memory = if self.spec.runtime == Runtime::Wasm { 0 } else { in_memory };
        // What was deleted but is still held lies on the disk as well.
        let scratch_max = (self.spec.scratch_mib << 20).checked_sub(of_folder);
        scratch_max.is_none_or(|max| self.scratch.holds_more_than(max))
    }
}

impl Rhythm {
    fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }

    /// Sets the next look. Pauses double from [`SAMPLE_FIRST`], which there is twice, to [`SAMPLE_PERIOD`], and are longer after
    /// a dear look.
    fn go_on(&mut self, cost: Duration, running: usize) {
        let due_to_cost = (cost * COST_INVERSE * running.max(1) as u32).min(PERIOD_MAX);
        self.next = Instant::now() + self.pause.max(due_to_cost);
        self.pause = (2 * self.pause).min(SAMPLE_PERIOD);
    }
}
