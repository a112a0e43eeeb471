//! Samples an invocation while it runs, for the limits that no kernel keeps for it: memory, processes and threads,
//! scratch. In a control group that bounds memory and processes (sandbox/groups.rs), the looks serve scratch and the
//! record; and one at the number of threads ends an invocation that the kernel merely keeps from forking.
//!
//! It takes two kinds of look. It reads figures of processes (/proc/PID/status) often. A look at the files of processes
//! that have run costs ten times that (held_files.rs), so it looks at files less often the more of them exist. Neither
//! takes more than a share of a processor ([`COST_INVERSE`]), whatever an invocation does to make the look expensive. In
//! that case the next look comes after [`PERIOD_MAX`] at the latest. Only an invocation that has grown since the last
//! look, or may be the beginning of a fork bomb, is counted in time whatever that costs: a bomb must not gain a second
//! because it was expensive to count. The one can happen [`FUNCTION_PROCESSES_MAX`] times, the other
//! [`ONLY_COUNTED_MAX`] times in a row.

use std::time::{Duration, Instant};

use super::held_files::{Held, HeldFiles};
use super::process::Process;
use super::scratch::Scratch;
use crate::limits::{FUNCTION_PROCESSES_MAX, SAMPLE_FIRST, SAMPLE_PERIOD};
use crate::procfs::{self, Figures, Tree};
use crate::protocol::function_spec::{FunctionSpec, Runtime};
use crate::protocol::worker_protocol::Verdict;
use crate::sandbox::groups::{Group, GroupFigures};
use crate::sandbox::stopped::Stopped;
use crate::sys::{self, Pid, Urgency};

/// A pause is at least this many times the cost of the look before it, for all invocations of a worker together.
const COST_INVERSE: u32 = 150;
/// Threads by which an invocation grows between two looks before it is counted ahead of all else, or stopped.
const GROWTH_MAX: usize = FUNCTION_PROCESSES_MAX / 8;
/// Threads by which an invocation grows between two looks, and processes of it that end during one, before it is taken
/// for the beginning of a fork bomb, and only counted. To read the mappings of a process that forks, the kernel waits
/// until that process gets a turn at a processor, and meanwhile a bomb grows without bound.
const SPROUTS_MAX: usize = 4;
/// Looks in a row that only count. In that many, a bomb is found.
const ONLY_COUNTED_MAX: usize = 8;
/// A look at files that takes longer counts the threads again.
const RECOUNT_PERIOD: Duration = Duration::from_millis(50);
/// Upper bound of a pause that the cost demands.
const PERIOD_MAX: Duration = Duration::from_secs(1);

pub struct Sampler<'a> {
    spec: &'a FunctionSpec,
    scratch: &'a Scratch<'a>,
    figures: Rhythm,
    files: Rhythm,
    held: HeldFiles,
    /// Number of threads at the last look.
    threads: usize,
    /// Looks since the last one that did more than count.
    only_counted: usize,
    /// Bytes of files in memory, and of the kernel's descriptions of mappings, that the last look at files found.
    in_memory: u64,
    mappings: u64,
    pub seen: Seen,
}

/// The samples' findings about an invocation.
#[derive(Default)]
pub struct Seen {
    /// The highest sum over its processes.
    pub memory_bytes_max: u64,
    /// The processes of the last sample, without the main process.
    descendants: Vec<Pid>,
    /// CPU time of descendants that were killed.
    pub killed_cpu_us: u64,
}

impl Seen {
    fn note(&mut self, processes: &[Pid], memory_bytes: u64) {
        self.memory_bytes_max = self.memory_bytes_max.max(memory_bytes);
        self.descendants.clear();
        self.descendants.extend(processes.iter().skip(1));
    }

    /// Adds up the CPU time of descendants that are about to be killed: those of the last sample that still exist.
    /// Descendants that the main process has waited for are gone, and part of its own usage.
    pub fn note_killed(&mut self) {
        let ticks: u64 = self.descendants.drain(..).filter_map(procfs::cpu_ticks).sum();
        self.killed_cpu_us += ticks * 1_000_000 / sys::clock_ticks_per_s();
    }
}

/// The processes of an invocation, the main process first.
struct Census {
    processes: Vec<Pid>,
    threads: usize,
    /// Processes that have ended during the census.
    fleeting: usize,
    memory: Memory,
}

enum Memory {
    /// Bytes, from a control group that bounds them; they are for the record only.
    OfGroup(u64),
    OfEach(Vec<(Pid, Figures)>),
}

impl Census {
    /// Asks the control group where that bounds memory and processes; otherwise looks at each process, until these have
    /// more than `threads_max` threads.
    fn take(process: &Process, threads_max: usize) -> Census {
        let main = process.pid();
        if let Some(GroupFigures { processes, threads, memory_bytes }) = process.group().and_then(Group::figures) {
            let others = processes.into_iter().filter(|pid| *pid != main);
            let processes = std::iter::once(main).chain(others).collect();
            return Census { processes, threads, fleeting: 0, memory: Memory::OfGroup(memory_bytes) };
        }
        let Tree { figures: found, threads, fleeting } = procfs::figures_of_tree(main, threads_max);
        let processes = found.iter().map(|(pid, _)| *pid).collect();
        Census { processes, threads, fleeting, memory: Memory::OfEach(found) }
    }

    /// Counts an invocation with more than `calm_max` threads again, and this time it cannot outrun the count, nor what
    /// follows, before the second result is dropped.
    fn take_ahead(process: &Process, calm_max: usize) -> (Census, Option<Ahead>) {
        let census = Census::take(process, calm_max);
        if census.threads <= calm_max {
            return (census, None);
        }
        let ahead = Ahead::of(process);
        (Census::take(process, FUNCTION_PROCESSES_MAX), Some(ahead))
    }
}

/// Keeps an invocation from outrunning this thread.
enum Ahead {
    Urgent { _urgency: Urgency },
    Stopped(Stopped),
}

impl Ahead {
    fn of(process: &Process) -> Ahead {
        match Urgency::try_begin() {
            Some(urgency) => Ahead::Urgent { _urgency: urgency },
            None => Ahead::Stopped(Stopped::with_descendants(process.pid())),
        }
    }
}

/// The schedule of one kind of look.
struct Rhythm {
    next: Instant,
    pause: Duration,
}

impl<'a> Sampler<'a> {
    pub fn new(spec: &'a FunctionSpec, scratch: &'a Scratch<'a>) -> Sampler<'a> {
        let rhythm = || Rhythm { next: Instant::now() + SAMPLE_FIRST, pause: SAMPLE_FIRST };
        Sampler {
            spec,
            scratch,
            figures: rhythm(),
            files: rhythm(),
            held: HeldFiles::default(),
            threads: 1,
            only_counted: 0,
            in_memory: 0,
            mappings: 0,
            seen: Seen::default(),
        }
    }

    /// The time at which [`Sampler::look`] is due.
    pub fn next(&self) -> Instant {
        self.figures.next
    }

    /// The limit that the invocation of this main process exceeds, if any. `running` invocations share the worker's
    /// time for looks.
    pub fn look(&mut self, process: &Process, running: usize) -> Option<Verdict> {
        sys::join_alarm();
        let began = sys::own_thread_cpu_time();
        let grown = self.threads + GROWTH_MAX;
        let (census, ahead) = Census::take_ahead(process, grown.min(FUNCTION_PROCESSES_MAX));
        let before_files = sys::own_thread_cpu_time();
        let Census { processes, threads, fleeting, memory } = census;
        let (is_bomb, is_growing) = (threads > FUNCTION_PROCESSES_MAX, threads > grown);
        let sprouts = threads > self.threads + SPROUTS_MAX || fleeting > SPROUTS_MAX;
        let may_be_bomb = sprouts || (sys::is_alarmed() && threads > SPROUTS_MAX);
        let only_counts = is_bomb || (may_be_bomb && self.only_counted < ONLY_COUNTED_MAX);
        self.only_counted = if only_counts { self.only_counted + 1 } else { 0 };
        let is_urgent = threads > self.threads || only_counts;
        self.threads = threads;
        let looks_at_files = !only_counts && self.files.is_due();
        let holds_too_much = looks_at_files && self.look_at_files(&processes);
        let after_files = sys::own_thread_cpu_time();
        let memory = match &memory {
            _ if is_bomb || is_growing => 0,
            Memory::OfGroup(bytes) => *bytes,
            Memory::OfEach(found) => self.memory(found),
        };
        self.seen.note(&processes, memory);
        let excess = match () {
            () if is_bomb => Some(Verdict::TooManyProcesses),
            () if memory > self.spec.memory_mib << 20 => Some(Verdict::MemoryExceeded),
            () if holds_too_much => Some(Verdict::ScratchExceeded),
            () => None,
        };
        let of_files = after_files - before_files;
        let of_figures = if is_urgent { Duration::ZERO } else { sys::own_thread_cpu_time() - began - of_files };
        self.figures.go_on(of_figures, running);
        if looks_at_files {
            self.files.go_on(of_files, running);
        }
        // If the main process has ended meanwhile, the kernel may have reused its id.
        let is_there = excess.is_none() || procfs::pid_of(process.pidfd()) == Some(process.pid());
        if let Some(Ahead::Stopped(stopped)) = ahead
            && is_bomb
            && is_there
        {
            self.seen.note_killed();
            stopped.kill();
        }
        excess.filter(|_| is_there)
    }

    /// Proportional memory is expensive to read, so the plain sum, which is never less, is checked first.
    fn memory(&self, found: &[(Pid, Figures)]) -> u64 {
        let sum = |figures: &mut dyn Iterator<Item = Figures>| {
            let (anonymous, shared) =
                figures.fold((0, 0), |sum, figures| (sum.0 + figures.anonymous, sum.1 + figures.shared));
            // Some pages of files in memory are mapped, and so counted among the shared ones.
            anonymous + shared.max(self.in_memory) + self.mappings
        };
        let plain = sum(&mut found.iter().map(|(_, figures)| *figures));
        if plain <= self.spec.memory_mib << 20 {
            return plain;
        }
        // If a process forbids the look, all of its memory counts.
        sum(&mut found.iter().map(|(pid, figures)| figures.proportional(*pid).unwrap_or(*figures)))
    }

    /// True if the scratch folder holds more than it may, or if that cannot be told.
    fn look_at_files(&mut self, processes: &[Pid]) -> bool {
        let (main, threads_before, mut counted) = (processes.first().copied(), self.threads, Instant::now());
        let is_calm = || {
            if counted.elapsed() < RECOUNT_PERIOD {
                return true;
            }
            counted = Instant::now();
            let tree = main.map(|main| procfs::figures_of_tree(main, FUNCTION_PROCESSES_MAX)).unwrap_or_default();
            tree.threads <= threads_before + GROWTH_MAX
        };
        let held = self.held.look(processes, self.scratch.path(), self.spec.memory_mib << 20, is_calm);
        let Held { of_folder, in_memory, mappings, is_cut } = held;
        self.mappings = mappings;
        // A WASM module cannot make files in memory; its engine has some, which it shares with its fork server.
        self.in_memory = if self.spec.runtime == Runtime::Wasm { 0 } else { in_memory };
        // A deleted file that is still open also takes space on the disk.
        let scratch_max = (self.spec.scratch_mib << 20).checked_sub(of_folder);
        is_cut || self.scratch.is_over_quota() || scratch_max.is_none_or(|max| self.scratch.holds_more_than(max))
    }
}

impl Rhythm {
    fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }

    /// Sets the next look. Pauses double from [`SAMPLE_FIRST`], which comes twice, to [`SAMPLE_PERIOD`], and are longer
    /// after an expensive look.
    fn go_on(&mut self, cost: Duration, running: usize) {
        let due_to_cost = (cost * COST_INVERSE * running.max(1) as u32).min(PERIOD_MAX);
        self.next = Instant::now() + self.pause.max(due_to_cost);
        self.pause = (2 * self.pause).min(SAMPLE_PERIOD);
    }
}
