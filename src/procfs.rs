//! Reads /proc for facts about processes: children, memory, CPU time and I/O (proc(5)).
//!
//! A process may end between two reads; then the result is `None`, which is no error.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use crate::sys::{self, Pid};

/// Bytes of the longest process id in a list of children, with its space: the kernel gives out ids below 4,194,304.
const LISTED_PID_BYTES: usize = 8;
/// Bytes of such a list that are read at least. The kernel writes a page at once.
const LIST_BYTES_MIN: usize = 4096;

/// The children of one thread of this process. Of more than `max`, and more than fit into a page, only the oldest: a
/// process that forks faster than its list is read would never let the reader come to an end. Orphans that a subreaper
/// inherits become children of its first thread, whose id is the process id.
///
/// If the kernel lacks /proc/PID/task/TID/children (CONFIG_PROC_CHILDREN), this searches all processes for their
/// parent, which is slower and finds the children of all threads.
pub fn children_of_thread(pid: Pid, thread: Pid, max: usize) -> Vec<Pid> {
    if !sys::is_there(thread) {
        return Vec::new();
    }
    let list = fs::File::open(format!("/proc/{pid}/task/{thread}/children"));
    let mut bytes = Vec::with_capacity(LIST_BYTES_MIN);
    let bytes_max = LIST_BYTES_MIN.max(max * LISTED_PID_BYTES) as u64;
    match list.and_then(|list| list.take(bytes_max).read_to_end(&mut bytes)) {
        // The last id may be cut off. There is a space behind each whole one.
        Ok(_) => {
            let ids = bytes.split_inclusive(|byte| *byte == b' ').filter_map(|word| word.strip_suffix(b" "));
            ids.filter_map(|id| std::str::from_utf8(id).ok()?.parse().ok()).collect()
        }
        Err(_) if lists_children() => Vec::new(),
        Err(_) => all().into_iter().filter(|other| parent_of(*other) == Some(pid)).collect(),
    }
}

/// Our process id as the gateway knows it: the one outside of our PID namespace, if we have our own. Must first be called
/// before this process mounts a /proc of its own.
pub fn outer_pid() -> Pid {
    static OUTER: OnceLock<Pid> = OnceLock::new();
    *OUTER.get_or_init(|| {
        let link = fs::read_link("/proc/self").ok();
        link.and_then(|link| link.to_str()?.parse().ok()).unwrap_or(std::process::id() as Pid)
    })
}

/// True if this process is the first of a PID namespace of its own.
pub fn has_own_namespace() -> bool {
    std::process::id() == 1 && outer_pid() != 1
}

/// True if the kernel lists the children of a thread.
pub fn lists_children() -> bool {
    let own = std::process::id();
    fs::exists(format!("/proc/{own}/task/{own}/children")).unwrap_or(false)
}

/// The children of all threads of a process, as [`children_of_thread`] lists them.
pub fn children(pid: Pid, max: usize) -> Vec<Pid> {
    // For the reason at `listing_of`, as below.
    if !sys::is_there(pid) {
        return Vec::new();
    }
    let folder = fs::metadata(format!("/proc/{pid}/task"));
    // Three links mean one folder inside, so one thread. Listing a process's threads takes longer than all else.
    if folder.is_ok_and(|folder| folder.nlink() == 3) {
        return children_of_thread(pid, pid, max);
    }
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let threads = threads.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    threads.flat_map(|thread| children_of_thread(pid, thread, max)).collect()
}

/// The descendants of a process, each with its parent, parents first. The walk ends when they are more than
/// `processes_max`, so that a fork bomb cannot turn the check itself into a load.
pub fn descendants(root: Pid, processes_max: usize) -> Vec<(Pid, Pid)> {
    let mut found = Vec::new();
    // A process that loses its parent meanwhile can appear twice.
    let mut seen = HashSet::from([root]);
    let mut parent = root;
    for next in 0.. {
        let below = children(parent, processes_max).into_iter().filter(|child| seen.insert(*child));
        found.extend(below.map(|child| (child, parent)));
        if next >= found.len() || found.len() > processes_max {
            break;
        }
        parent = found[next].0;
    }
    found
}

/// A file of less than a page, which the kernel writes in one piece. std would first read it in pieces of 32 bytes, and
/// a worker reads hundreds of these every half second. A process can give itself a name that is not UTF-8.
fn listing(path: &str) -> Option<String> {
    let mut bytes = vec![0; 4096];
    let count = fs::File::open(path).ok()?.read(&mut bytes).ok()?;
    bytes.truncate(count);
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Such a file of a process, unless the process is gone. To look a process up by its path while the kernel removes it
/// from /proc means to spin until that is done; and the thread that removes it, which is often the process itself, may
/// wait for a turn at a processor. A look at a fork bomb was seen to spin for 600 ms.
fn listing_of(pid: Pid, file: &str) -> Option<String> {
    sys::is_there(pid).then(|| listing(&format!("/proc/{pid}/{file}"))).flatten()
}

/// All processes.
fn all() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn parent_and_threads(pid: Pid) -> Option<(Pid, u64)> {
    let stat = listing_of(pid, "stat")?;
    stat_fields(&stat, &[4, 20]).map(|fields| (fields[0] as Pid, fields[1]))
}

/// Number of threads of all processes of one user, without those that a gateway's workers have started. Reads a file for
/// each process of the user.
pub fn threads_beside_functions(uid: u32, gateway: Pid) -> u64 {
    let is_of_user = |pid: &Pid| fs::metadata(format!("/proc/{pid}")).is_ok_and(|folder| folder.uid() == uid);
    let found = all().into_iter().filter(is_of_user);
    beside_functions(&found.filter_map(|pid| Some((pid, parent_and_threads(pid)?))).collect(), gateway)
}

/// `found` has the parent and the number of threads of each process.
fn beside_functions(found: &HashMap<Pid, (Pid, u64)>, gateway: Pid) -> u64 {
    let parent = |pid: Pid| found.get(&pid).map(|(parent, _)| *parent);
    // The number of one that ends meanwhile may be given anew, and close a circle.
    let above = |pid: Pid| std::iter::successors(parent(pid), |above| parent(*above)).take(found.len());
    let is_of_function = |pid: Pid| above(pid).skip(1).any(|above| above == gateway);
    found.iter().filter(|(pid, _)| !is_of_function(**pid)).map(|(_, (_, threads))| threads).sum()
}

/// Fields of /proc/PID/stat by their numbers in proc(5), which counts from 1. The name, field 2, may hold spaces and
/// brackets, so counting starts after it.
fn stat_fields(stat: &str, numbers: &[usize]) -> Option<Vec<u64>> {
    let behind_name = stat.rsplit_once(')')?.1;
    let words: Vec<&str> = behind_name.split_ascii_whitespace().collect();
    numbers.iter().map(|number| words.get(number - 3)?.parse().ok()).collect()
}

/// The process id for a pidfd of ours; `None` once the process has been waited for.
pub fn pid_of(pidfd: BorrowedFd<'_>) -> Option<Pid> {
    let info = listing(&format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    named_number(&info, "Pid:").map(|pid| pid as Pid).filter(|pid| *pid > 0)
}

pub fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = listing_of(pid, "stat")?;
    stat_fields(&stat, &[4]).map(|fields| fields[0] as Pid)
}

/// CPU time in clock ticks, user and system, of a process and of its children that it has waited for.
pub fn cpu_ticks(pid: Pid) -> Option<u64> {
    let stat = listing_of(pid, "stat")?;
    stat_fields(&stat, &[14, 15, 16, 17]).map(|fields| fields.iter().sum())
}

/// Resident memory in bytes, shared pages counted whole.
pub fn resident_bytes(pid: Pid) -> Option<u64> {
    let statm = listing_of(pid, "statm")?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * sys::page_bytes())
}

/// Looks at the threads of a process for one that does not end meanwhile.
const LOOKS_AT_THREADS: usize = 16;
/// Memory of a process that hides it in [`Unread::Fleeting`] threads: more than any may have, and little enough to be
/// added up.
const UNKNOWN_BYTES: u64 = 1 << 50;

/// Memory of one process in /proc/PID/status that counts against a limit, in bytes. A memory cgroup would charge the
/// sum of anonymous and shared memory to the process, whoever else has it mapped. Pages of files do not count: the
/// kernel takes them back when it needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Anonymous pages, swapped ones included, and page tables.
    pub anonymous: u64,
    /// Shared memory that the process has mapped, including files of tmpfs.
    pub shared: u64,
    pub threads: usize,
}

impl Figures {
    /// `None` once the process has ended.
    pub fn of(pid: Pid) -> Option<Figures> {
        let status = listing_of(pid, "status")?;
        if let Some(figures) = Figures::read(&status) {
            return Some(figures);
        }
        match of_other_thread(pid, |thread| Figures::read(&listing_of(thread, "status")?)) {
            Ok(figures) => Some(figures),
            Err(Unread::Ended) => None,
            Err(Unread::Fleeting) => {
                let threads = named_number(&status, "Threads:")? as usize;
                Some(Figures { anonymous: UNKNOWN_BYTES, shared: 0, threads })
            }
        }
    }

    fn read(status: &str) -> Option<Figures> {
        let bytes = |name| named_number(status, name).map(|kib| kib * 1024);
        Some(Figures {
            anonymous: bytes("RssAnon:")? + bytes("VmSwap:")? + bytes("VmPTE:")?,
            shared: bytes("RssShmem:")?,
            threads: named_number(status, "Threads:")? as usize,
        })
    }

    /// The same figures, but a page that n processes share counts 1/n. Costs a walk over the page tables. `None` also
    /// where the process forbids the access (PR_SET_DUMPABLE, prctl(2)).
    pub fn proportional(self, pid: Pid) -> Option<Figures> {
        let rollup = listing_of(pid, "smaps_rollup")?;
        let tables = named_number(&listing_of(pid, "status")?, "VmPTE:")?;
        let kib = |name| named_number(&rollup, name);
        let anonymous = (kib("Pss_Anon:")? + kib("SwapPss:")? + tables) * 1024;
        Some(Figures { anonymous, shared: kib("Pss_Shmem:")? * 1024, ..self })
    }
}

/// Reads something from a thread of a process whose first thread has ended while others go on. The files of the process in
/// /proc are those of its first thread, and then they are empty: it has no memory and no descriptors any more. But by the
/// number of each thread, /proc has the same files for that thread, although it does not list them.
pub fn of_other_thread<T>(pid: Pid, read: impl Fn(Pid) -> Option<T>) -> Result<T, Unread> {
    let mut seen = HashSet::from([pid]);
    for _ in 0..LOOKS_AT_THREADS {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let threads: Vec<Pid> = threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        if let Some(found) = threads.iter().filter(|thread| **thread != pid).find_map(|thread| read(*thread)) {
            return Ok(found);
        }
        let known = seen.len();
        seen.extend(threads);
        if seen.len() == known {
            return Err(Unread::Ended);
        }
    }
    Err(Unread::Fleeting)
}

/// Why no thread of a process could be read.
pub enum Unread {
    /// The process starts no threads any more: it has ended, or is about to.
    Ended,
    /// At each look it had new threads, and none of them lasted until it was read.
    Fleeting,
}

/// A process and its descendants, as [`figures_of_tree`] finds them.
pub struct Tree {
    pub figures: Vec<(Pid, Figures)>,
    /// Threads of all. A process that has ended counts as one until it is waited for, as the kernel counts it
    /// (RLIMIT_NPROC, pids.max).
    pub threads: usize,
}

/// The walk ends when there are more than `threads_max` threads, so that a fork bomb cannot turn the check itself into a
/// load.
pub fn figures_of_tree(root: Pid, threads_max: usize) -> Tree {
    let figures: Vec<(Pid, Figures)> = Figures::of(root).map(|figures| (root, figures)).into_iter().collect();
    let threads = figures.iter().map(|(_, figures)| figures.threads).sum();
    let mut tree = Tree { figures, threads };
    let mut seen = HashSet::from([root]);
    let mut at = 0;
    while let Some((pid, _)) = tree.figures.get(at).copied() {
        // While a bomb goes off, the list lacks some, and names others twice.
        for child in children(pid, 2 * threads_max) {
            if tree.threads > threads_max {
                return tree;
            }
            if !seen.insert(child) {
                continue;
            }
            match Figures::of(child) {
                Some(figures) => {
                    tree.threads += figures.threads;
                    tree.figures.push((child, figures));
                }
                None => tree.threads += 1,
            }
        }
        at += 1;
    }
    tree
}

/// Proportional set size in bytes: a page that n processes share counts 1/n. Costs a walk over the page tables.
pub fn proportional_bytes(pid: Pid) -> Option<u64> {
    let rollup = listing_of(pid, "smaps_rollup")?;
    named_number(&rollup, "Pss:").map(|kib| kib * 1024)
}

/// Bytes that a process, and its children that it has waited for, read from and wrote to storage.
pub fn storage_bytes(pid: Pid) -> Option<u64> {
    let io = listing_of(pid, "io")?;
    Some(named_number(&io, "read_bytes:")? + named_number(&io, "write_bytes:")?)
}

/// The number behind `name` in a listing with one name and number a line.
fn named_number(listing: &str, name: &str) -> Option<u64> {
    let line = listing.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn functions_are_what_the_gateways_children_have_started() {
        let (gateway, init) = (10, 1);
        let own = (gateway, (init, 1000));
        let (worker, fork_server, function) = ((11, (gateway, 5)), (12, (11, 1)), (13, (12, 100)));
        let (editor, circle) = ((20, (init, 7)), [(30, (31, 1)), (31, (30, 1))]);
        let found = [own, worker, fork_server, function, editor].into_iter().chain(circle).collect();
        assert_eq!(beside_functions(&found, gateway), 1000 + 5 + 7 + 2);
        assert_eq!(beside_functions(&found, 0), 1000 + 5 + 1 + 100 + 7 + 2);
    }

    #[test]
    fn a_tree_holds_children_and_grandchildren() {
        let mut shell =
            Command::new("sh").args(["-c", "sleep 60 & echo; wait"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut byte).unwrap();
        let (own, pid) = (std::process::id() as Pid, shell.id() as Pid);
        let found = descendants(own, 10);
        assert!(found.contains(&(pid, own)), "{found:?}");
        let (sleep, _) = *found.iter().find(|(_, parent)| *parent == pid).expect("it has a child");
        assert_eq!(parent_of(sleep), Some(pid));
        sys::kill_child(pid);
        shell.wait().unwrap();
        // Its parent is gone, but it has not been waited for by anybody who could give its id away within this test.
        sys::kill_child(sleep);
    }

    #[test]
    fn processes_that_have_ended_count_until_they_are_waited_for() {
        // A shell would wait for its children, and sleep does not.
        let script = "sleep 0 & sleep 1000 & sleep 1000 & exec sleep 1000";
        let mut parent = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let pid = parent.id() as Pid;
        let counts = || {
            let tree = figures_of_tree(pid, 100);
            (tree.figures.len(), tree.threads)
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while counts() != (3, 4) {
            assert!(std::time::Instant::now() < deadline, "{:?}", counts());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let all = children(pid, 100);
        assert_eq!(all.len(), 3);
        all.into_iter().for_each(sys::kill_child);
        parent.kill().unwrap();
        parent.wait().unwrap();
    }

    #[test]
    fn a_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = "7 (a ) b (c) S 1 7 7 0 -1 0 0 0 0 0 11 12 13 14 20 0 1";
        assert_eq!(stat_fields(stat, &[4, 14, 17]), Some(vec![1, 11, 14]));
    }

    #[test]
    fn figures_of_this_process_are_plausible_and_of_none_absent() {
        let own = std::process::id() as Pid;
        let (resident, proportional) = (resident_bytes(own).unwrap(), proportional_bytes(own).unwrap());
        assert!(proportional > 100_000 && proportional <= resident + 1_000_000, "{proportional} {resident}");
        let figures = Figures::of(own).unwrap();
        for figures in [figures, figures.proportional(own).unwrap()] {
            assert!((100_000..resident).contains(&(figures.anonymous + figures.shared)), "{figures:?} {resident}");
        }
        assert_eq!(figures_of_tree(own, 1000).figures[0].0, own);
        assert!(cpu_ticks(own).is_some() && storage_bytes(own).is_some());
        assert!(cpu_ticks(Pid::MAX).is_none() && resident_bytes(Pid::MAX).is_none());
    }
}
