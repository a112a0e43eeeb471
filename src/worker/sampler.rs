//! Samples an invocation while it runs, for the limits that no kernel keeps for it: memory, processes and threads,
//! scratch. In a control group that bounds memory and processes (sandbox/groups.rs), the looks serve scratch and the
//! record; and one at the number of threads ends an invocation that the kernel merely keeps from forking.
//!
//! It counts processes and reads their figures (/proc/PID/status) often; for that the kernel takes no lock that a
//! function can hold. A look at the files of processes that have run costs ten times as much (held_files.rs), so there
//! are fewer of these the more files exist; and it may have to wait, as may a look at shared pages, so other threads take
//! these two (aside.rs). No kind of look takes more than a share of a processor, whatever an invocation does to make it
//! expensive (rhythm.rs); in that case the next look comes after a second at the latest.
//!
//! But an invocation that has grown since the last look is counted in time whatever that costs, and so is each while the
//! machine's number of threads jumps (guard.rs): a bomb must not gain a second because it was expensive to count. An
//! invocation can grow at most [`FUNCTION_PROCESSES_MAX`] times in a row.

use std::time::{Duration, Instant};

use super::aside::Aside;
use super::held_files::{Held, HeldFiles};
use super::process::Process;
use super::rhythm::Rhythm;
use super::scratch::{Scratch, holds_more_than};
use crate::limits::{FUNCTION_PROCESSES_MAX, SAMPLE_PERIOD};
use crate::procfs::{self, Figures, Tree};
use crate::protocol::function_spec::{FunctionSpec, Runtime};
use crate::protocol::worker_protocol::Verdict;
use crate::sandbox::groups::{Group, GroupFigures};
use crate::sandbox::stopped::Stopped;
use crate::sys::{self, Pid, Urgency};

/// Threads by which an invocation grows between two looks before it is counted ahead of all else, or stopped.
const GROWTH_MAX: usize = FUNCTION_PROCESSES_MAX / 8;
/// Time for which the sampler waits for looks in other threads; most take less. It does not wait while the invocation
/// grows, or the alarm is on.
const ASIDE_WAIT_MAX: Duration = Duration::from_millis(10);

pub struct Sampler<'a> {
    spec: &'a FunctionSpec,
    scratch: &'a Scratch<'a>,
    figures: Rhythm,
    files: Aside<FilesFound>,
    memory: Aside<u64>,
    held: HeldFiles,
    /// Number of threads at the last look.
    threads: usize,
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
            return Census { processes, threads, memory: Memory::OfGroup(memory_bytes) };
        }
        let Tree { figures: found, threads } = procfs::figures_of_tree(main, threads_max);
        let processes = found.iter().map(|(pid, _)| *pid).collect();
        Census { processes, threads, memory: Memory::OfEach(found) }
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

/// What a look at files has found.
struct FilesFound {
    held: Held,
    /// True if the scratch folder holds more than it may, or if that cannot be told.
    is_too_much: bool,
    /// For the next look.
    files: HeldFiles,
}

impl<'a> Sampler<'a> {
    pub fn new(spec: &'a FunctionSpec, scratch: &'a Scratch<'a>) -> Sampler<'a> {
        Sampler {
            spec,
            scratch,
            figures: Rhythm::new(),
            files: Aside::new(),
            memory: Aside::new(),
            held: HeldFiles::default(),
            threads: 1,
            in_memory: 0,
            mappings: 0,
            seen: Seen::default(),
        }
    }

    /// The time at which [`Sampler::look`] is due.
    pub fn next(&self) -> Instant {
        self.figures.next()
    }

    /// True if the cost of the last look delays the next one. An alarm (guard.rs) then calls for [`Sampler::hasten`].
    pub fn is_delayed(&self) -> bool {
        self.figures.next() > Instant::now() + SAMPLE_PERIOD
    }

    pub fn hasten(&mut self) {
        self.figures.hasten();
    }

    /// The limit that the invocation of this main process exceeds, if any. `running` invocations share the worker's
    /// time for looks.
    pub fn look(&mut self, process: &Process, running: usize) -> Option<Verdict> {
        sys::join_alarm();
        let began = sys::own_thread_cpu_time();
        let grown = self.threads + GROWTH_MAX;
        let (census, ahead) = Census::take_ahead(process, grown.min(FUNCTION_PROCESSES_MAX));
        let counting = sys::own_thread_cpu_time() - began;
        let Census { processes, threads, memory } = census;
        let is_bomb = threads > FUNCTION_PROCESSES_MAX;
        let is_urgent = ahead.is_some() || threads > self.threads || sys::is_alarmed();
        self.threads = threads;
        let (cost, wait) = if is_urgent { (Duration::ZERO, Duration::ZERO) } else { (counting, ASIDE_WAIT_MAX) };
        let excess = if is_bomb {
            self.seen.note(&processes, 0);
            Some(Verdict::TooManyProcesses)
        } else {
            self.excess(&processes, memory, Instant::now() + wait, running)
        };
        self.figures.go_on(cost, running);
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

    /// The limit of memory or of the scratch folder that is exceeded, as far as looks tell that end until this time.
    fn excess(&mut self, processes: &[Pid], memory: Memory, until: Instant, running: usize) -> Option<Verdict> {
        let holds_too_much = self.look_at_files(processes, until, running);
        let memory = match memory {
            Memory::OfGroup(bytes) => Some(bytes),
            Memory::OfEach(found) => self.memory(found, until, running),
        };
        self.seen.note(processes, memory.unwrap_or(0));
        match () {
            () if memory.is_some_and(|bytes| bytes > self.memory_max()) => Some(Verdict::MemoryExceeded),
            () if holds_too_much => Some(Verdict::ScratchExceeded),
            () => None,
        }
    }

    fn memory_max(&self) -> u64 {
        self.spec.memory_mib << 20
    }

    /// Bytes of memory; `None` as long as they are not known. Proportional memory is expensive to read, so the plain
    /// sum, which is never less, is checked first.
    fn memory(&mut self, found: Vec<(Pid, Figures)>, until: Instant, running: usize) -> Option<u64> {
        let (in_memory, mappings, max) = (self.in_memory, self.mappings, self.memory_max());
        // Some pages of files in memory are mapped, and so counted among the shared ones.
        let whole = move |sum: Figures| sum.anonymous + sum.shared.max(in_memory) + mappings;
        let plain = whole(sum(found.iter().map(|(_, figures)| *figures)));
        // If a process forbids the look, all of its memory counts.
        let of = |(pid, figures): (Pid, Figures)| figures.proportional(pid).or_else(|| Figures::of(pid));
        let make = || {
            let found = found.clone();
            move || whole(sum(found.into_iter().filter_map(of)))
        };
        match self.memory.look(plain > max, make, until, running) {
            Some(bytes) if bytes > max => Some(bytes),
            _ if plain <= max || self.memory.is_late() => Some(plain),
            proportional => proportional,
        }
    }

    /// True if a look that has ended by now has found too much, or one is late.
    fn look_at_files(&mut self, processes: &[Pid], until: Instant, running: usize) -> bool {
        if self.files.is_due() && self.scratch.is_over_quota() {
            return true;
        }
        let (mappings_max, scratch_max) = (self.memory_max(), self.spec.scratch_mib << 20);
        let make = || {
            let (mut files, processes) = (std::mem::take(&mut self.held), processes.to_vec());
            let scratch = self.scratch.path().to_path_buf();
            move || {
                let held = files.look(&processes, &scratch, mappings_max);
                // A deleted file that is still open also takes space on the disk.
                let folder_max = scratch_max.checked_sub(held.of_folder);
                let is_too_much = held.is_cut || folder_max.is_none_or(|max| holds_more_than(&scratch, max));
                FilesFound { held, is_too_much, files }
            }
        };
        let found = self.files.look(true, make, until, running);
        let Some(found) = found else { return self.files.is_late() };
        self.held = found.files;
        self.mappings = found.held.mappings;
        // A WASM module cannot make files in memory; its engine has some, which it shares with its fork server.
        self.in_memory = if self.spec.runtime == Runtime::Wasm { 0 } else { found.held.in_memory };
        found.is_too_much
    }
}

fn sum(all: impl Iterator<Item = Figures>) -> Figures {
    all.fold(Figures::default(), |sum, figures| Figures {
        anonymous: sum.anonymous + figures.anonymous,
        shared: sum.shared + figures.shared,
        threads: sum.threads + figures.threads,
    })
}
