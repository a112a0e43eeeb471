//! What /proc says about processes: children, memory, CPU time and I/O (proc(5)).
//!
//! A process may end between two reads; then there is no answer (`None`), which is no error.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::sys::{self, Pid};

/// The children of one thread of this process. Orphans that a subreaper inherits become children of its first thread,
/// whose id is the process id.
///
/// Where the kernel lacks /proc/PID/task/TID/children (CONFIG_PROC_CHILDREN), all processes are searched for their
/// parent, which is slower and names the children of all threads.
pub fn children_of_thread(pid: Pid, thread: Pid) -> Vec<Pid> {
    match fs::read_to_string(format!("/proc/{pid}/task/{thread}/children")) {
        Ok(list) => list.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect(),
        Err(_) if lists_children() => Vec::new(),
        Err(_) => all().into_iter().filter(|other| parent_of(*other) == Some(pid)).collect(),
    }
}

/// Whether the kernel lists the children of a thread.
pub fn lists_children() -> bool {
    let own = std::process::id();
    fs::exists(format!("/proc/{own}/task/{own}/children")).unwrap_or(false)
}

/// The children of all threads of a process.
pub fn children(pid: Pid) -> Vec<Pid> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let threads = threads.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    threads.flat_map(|thread| children_of_thread(pid, thread)).collect()
}

/// A process and those that descend from it; the walk ends when there are more than `processes_max`, so that a fork bomb
/// cannot make the look at it a load of its own.
pub fn tree(root: Pid, processes_max: usize) -> Vec<Pid> {
    let descendants = descendants(root, processes_max.saturating_sub(1));
    std::iter::once(root).chain(descendants.into_iter().map(|(pid, _)| pid)).collect()
}

/// Those that descend from a process, each with its parent, parents first; bounded like [`tree`].
pub fn descendants(root: Pid, processes_max: usize) -> Vec<(Pid, Pid)> {
    let mut found = Vec::new();
    // A process that loses its parent meanwhile can come up twice.
    let mut seen = HashSet::from([root]);
    let mut parent = root;
    for next in 0.. {
        found.extend(children(parent).into_iter().filter(|child| seen.insert(*child)).map(|child| (child, parent)));
        if next >= found.len() || found.len() > processes_max {
            break;
        }
        parent = found[next].0;
    }
    found
}

/// A file of less than a page, which the kernel writes in one piece; std would ask for it in pieces of 32 bytes at first, and a
/// worker reads hundreds of these every half second. A process can give itself a name that is no text.
fn listing(path: String) -> Option<String> {
    let mut bytes = vec![0; 4096];
    let count = fs::File::open(path).ok()?.read(&mut bytes).ok()?;
    bytes.truncate(count);
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// All processes.
fn all() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// How many threads the processes of one user have, all together.
pub fn threads_of_user(uid: u32) -> u64 {
    let is_of_user = |folder: &String| fs::metadata(folder).is_ok_and(|metadata| metadata.uid() == uid);
    let folders = all().into_iter().map(|pid| format!("/proc/{pid}/task")).filter(is_of_user);
    folders.filter_map(|folder| Some(fs::read_dir(folder).ok()?.count() as u64)).sum()
}

/// Fields of /proc/PID/stat by their numbers in proc(5), which counts from 1. The name, field 2, may hold spaces and
/// brackets, so counting starts behind it.
fn stat_fields(stat: &str, numbers: &[usize]) -> Option<Vec<u64>> {
    let behind_name = stat.rsplit_once(')')?.1;
    let words: Vec<&str> = behind_name.split_ascii_whitespace().collect();
    numbers.iter().map(|number| words.get(number - 3)?.parse().ok()).collect()
}

/// The id of the process behind a pidfd of ours; `None` where it has been waited for.
pub fn pid_of(pidfd: BorrowedFd<'_>) -> Option<Pid> {
    let info = listing(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    named_number(&info, "Pid:").map(|pid| pid as Pid).filter(|pid| *pid > 0)
}

pub fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = listing(format!("/proc/{pid}/stat"))?;
    stat_fields(&stat, &[4]).map(|fields| fields[0] as Pid)
}

/// CPU time in clock ticks, user and system, of a process and of its children that it has waited for.
pub fn cpu_ticks(pid: Pid) -> Option<u64> {
    let stat = listing(format!("/proc/{pid}/stat"))?;
    stat_fields(&stat, &[14, 15, 16, 17]).map(|fields| fields.iter().sum())
}

/// Resident memory in bytes, shared pages counted whole.
pub fn resident_bytes(pid: Pid) -> Option<u64> {
    let statm = listing(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * sys::page_bytes())
}

/// Proportional set size in bytes: a page that n processes share counts 1/n. Pages of files do not count, as they do not in a
/// memory cgroup, where the kernel tells them apart. Costs a walk over the page tables.
pub fn proportional_bytes(pid: Pid) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let own = named_number(&rollup, "Pss_Anon:").zip(named_number(&rollup, "Pss_Shmem:"));
    own.map(|(anonymous, shared)| anonymous + shared).or_else(|| named_number(&rollup, "Pss:")).map(|kib| kib * 1024)
}

/// Bytes that a process, and its children that it has waited for, read from and wrote to storage.
pub fn storage_bytes(pid: Pid) -> Option<u64> {
    let io = listing(format!("/proc/{pid}/io"))?;
    Some(named_number(&io, "read_bytes:")? + named_number(&io, "write_bytes:")?)
}

/// Bytes on disk of the files beneath `folder` that were deleted, but which one of these processes has open. A process that
/// forbids the look at it (PR_SET_DUMPABLE, prctl(2)) hides them from everybody but root.
pub fn deleted_bytes(processes: &[Pid], folder: &Path) -> u64 {
    let mut files = HashMap::new();
    for pid in processes {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for link in descriptors.flatten().map(|entry| entry.path()) {
            if fs::read_link(&link).is_ok_and(|target| target.starts_with(folder))
                && let Ok(metadata) = fs::metadata(&link)
                && metadata.nlink() == 0
            {
                // Blocks of 512 bytes, whatever the file system's are. The same file can be open several times.
                files.insert((metadata.dev(), metadata.ino()), metadata.blocks() * 512);
            }
        }
    }
    files.values().sum()
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
    fn a_tree_holds_children_and_grandchildren() {
        let mut shell =
            Command::new("sh").args(["-c", "sleep 60 & echo; wait"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut byte).unwrap();
        let found = tree(shell.id() as Pid, 10);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(children(std::process::id() as Pid).contains(&(shell.id() as Pid)));
        assert_eq!(parent_of(found[1]), Some(found[0]));
        sys::kill_child(found[0]);
        shell.wait().unwrap();
        // Its parent is gone, but it has not been waited for by anybody who could give its id away within this test.
        sys::kill_child(found[1]);
    }

    #[test]
    fn deleted_files_count_once_as_long_as_they_are_open() {
        let folder = std::env::temp_dir().join(format!("faas-deleted-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        fs::write(&path, vec![1; 100_000]).unwrap();
        let file = fs::File::open(&path).unwrap();
        let again = file.try_clone().unwrap();
        let own = [std::process::id() as Pid];
        assert_eq!(deleted_bytes(&own, &folder), 0);
        fs::remove_file(&path).unwrap();
        assert!((100_000..200_000).contains(&deleted_bytes(&own, &folder)));
        assert_eq!(deleted_bytes(&own, Path::new("/elsewhere")), 0);
        drop((file, again));
        assert_eq!(deleted_bytes(&own, &folder), 0);
        fs::remove_dir(folder).unwrap();
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
        assert!(cpu_ticks(own).is_some() && storage_bytes(own).is_some());
        assert!(cpu_ticks(Pid::MAX).is_none() && resident_bytes(Pid::MAX).is_none());
    }
}
