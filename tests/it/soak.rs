//! The length of the tests that repeat, and the figures that must be as before.
//!
//! With FAAS_TEST_SOAK=N, each attack of a hostile function is tried N times against one running gateway. The other tests
//! that repeat make 10 (clients), 200 (invocations) or 2,000 (changed inputs) times as many tries, if that is more than
//! they make by themselves. So 1,000 is a long run of each.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::instance::{Instance, wait_until};

/// Tries in which pools, caches and idle children grow to what an attack needs.
const WARM_UP: usize = 10;

/// What the allocator of a worker may keep for its next use: a list of 38,000 mapped files, as one attack makes, leaves it
/// with 2 to 4 MiB, now in one worker and then in the other.
const ALLOCATOR_KIB: u64 = 4096;

fn tries() -> usize {
    std::env::var("FAAS_TEST_SOAK").map_or(1, |text| text.parse().expect("FAAS_TEST_SOAK is a number of tries"))
}

/// The number of repetitions of a test that makes `short` by itself, and `each` for one try of a soak.
#[allow(dead_code)] // the tests that take the whole machine repeat otherwise
pub fn count(short: usize, each: usize) -> usize {
    short.max(tries().saturating_mul(each))
}

/// Makes an attack as often as FAAS_TEST_SOAK says. Asserts then that it has left nothing that it had not left after the
/// first tries.
#[allow(dead_code)] // for the tests that take the whole machine
pub fn repeat(instance: &Instance, attack: impl Fn()) {
    let attack_all = |numbers: std::ops::Range<usize>| {
        for number in numbers {
            catch_unwind(AssertUnwindSafe(&attack)).unwrap_or_else(|panic| {
                eprintln!("in try {number} of {}", tries());
                resume_unwind(panic)
            });
        }
    };
    let first = WARM_UP.min(tries());
    attack_all(0..first);
    if tries() > first {
        let before = Usage::when_calm(instance);
        attack_all(first..tries());
        Usage::when_calm(instance).assert_no_more_than(&before);
    }
}

/// Figures of gateway, workers and the machine that must not grow.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    descriptors: usize,
    threads: usize,
    /// Processes of functions.
    functions: usize,
    zombies: usize,
    anonymous_kib: u64,
    /// Files and folders in the spool folder, scratch folders among them.
    files: usize,
    /// Objects of shared memory, semaphores and queues of all users but root.
    objects: usize,
}

impl Usage {
    fn of(instance: &Instance) -> Usage {
        let workers = instance.status()["workers"].as_array().unwrap().clone();
        let workers = workers.iter().filter_map(|worker| Some(worker["pid"].as_u64()? as u32));
        let pids: Vec<u32> = workers.chain([instance.gateway_pid()]).collect();
        let figure = |pid: &u32, file: &str, name: &str| -> u64 {
            let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let is_zombie = |stat: &str| {
            let words: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
            words[0] == "Z" && pids.contains(&words[1].parse().unwrap())
        };
        let stats = fs::read_dir("/proc").unwrap().flatten();
        let stats = stats.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
        Usage {
            descriptors: pids.iter().map(|pid| entries(Path::new(&format!("/proc/{pid}/fd")))).sum(),
            threads: pids.iter().map(|pid| figure(pid, "status", "Threads:") as usize).sum(),
            functions: instance.functions().len(),
            zombies: stats.filter(|stat| stat.contains(')') && is_zombie(stat)).count(),
            // Without the pages of programs: their share depends on other processes that run the same programs.
            anonymous_kib: pids.iter().map(|pid| figure(pid, "smaps_rollup", "Pss_Anon:")).sum(),
            files: entries_beneath(&instance.path("spool")),
            objects: ["shm", "sem", "msg"].iter().map(|kind| objects_of_system_v(kind)).sum::<usize>()
                + ["/dev/shm", "/dev/mqueue"].iter().map(|folder| objects_of_posix(folder)).sum::<usize>(),
        }
    }

    /// Waits until idle threads have ended. Takes the lowest count of descriptors since then, because samplers open files
    /// of /proc for a moment.
    pub fn when_calm(instance: &Instance) -> Usage {
        let mut usage = Usage::of(instance);
        let mut since = Instant::now();
        wait_until("it is calm", || {
            let now = Usage::of(instance);
            if now.threads == usage.threads {
                usage = Usage { descriptors: now.descriptors.min(usage.descriptors), ..now };
            } else {
                since = Instant::now();
                usage = now;
            }
            // Longer than idle handlers are kept.
            since.elapsed() > Duration::from_secs(6)
        });
        usage
    }

    pub fn assert_no_more_than(&self, before: &Usage) {
        // The platform keeps some connections between its parts, and their threads.
        let is_as_before = self.descriptors <= before.descriptors + 16
            && self.threads <= before.threads + 8
            && self.functions <= before.functions
            && self.zombies == 0
            // Workers keep some empty scratch folders.
            && self.files <= before.files + 2 * 64
            && self.objects <= before.objects
            && self.anonymous_kib <= before.anonymous_kib * 11 / 10 + 2 * ALLOCATOR_KIB;
        assert!(is_as_before, "before {before:?}, after {self:?}");
    }
}

fn objects_of_system_v(kind: &str) -> usize {
    let list = fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
    let mut lines = list.lines().map(|line| line.split_whitespace());
    let Some(uid_at) = lines.next().and_then(|mut names| names.position(|name| name == "uid")) else { return 0 };
    lines.filter_map(|mut words| words.nth(uid_at)).filter(|uid| *uid != "0").count()
}

fn objects_of_posix(folder: &str) -> usize {
    let objects = fs::read_dir(folder).into_iter().flatten().flatten();
    objects.filter(|object| object.metadata().is_ok_and(|metadata| metadata.uid() != 0)).count()
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

fn entries_beneath(folder: &Path) -> usize {
    let entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
    entries.iter().map(|entry| 1 + if entry.path().is_dir() { entries_beneath(&entry.path()) } else { 0 }).sum()
}
