//! What the processes of an invocation hold beyond their pages: deleted files, by descriptors or mappings, which take
//! space although no path leads to them; and the kernel's descriptions of their mappings.
//!
//! To list a process's descriptors and mappings takes about 100 µs, ten times as long as all else that a sample reads. A
//! process that has not run since its last listing holds what it held then. So its listing is kept, and only the sizes
//! of the files in it are read anew: others can write to them.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::procfs;
use crate::sys::{self, Pid};

/// Bytes of /proc/PID/maps that are read: the 65,530 mappings that a process can have, with paths of 150 bytes. A path
/// can have 4,096.
const MAPS_BYTES_MAX: u64 = 16 << 20;
/// Bytes of the kernel's memory that one mapping takes: 192 for itself, and its part of a node of a tree (measured on
/// Linux 6.18, as the growth of Slab in /proc/meminfo).
pub const MAPPING_BYTES: u64 = 216;
/// Age of a listing that is not used any more. Processes that share their memory or descriptors (CLONE_VM, CLONE_FILES)
/// can map and open files for one that does not run.
const LISTING_AGE_MAX: Duration = Duration::from_secs(4);

/// Files of one process whose listing is kept. A function may have 256 processes with 65,530 mappings each: their
/// listings would take gigabytes of the worker's memory.
const LISTED_MAX: usize = 512;

/// What processes hold, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Blocks of deleted files of a certain folder.
    pub of_folder: u64,
    /// Blocks of files in memory: memfds, shared memory, and files of a tmpfs outside that folder.
    pub in_memory: u64,
    /// The kernel's descriptions of mappings.
    pub mappings: u64,
    /// True if a process has more mappings than can be read, so that some files were not seen.
    pub is_cut: bool,
}

/// The listings of the processes of one invocation.
#[derive(Default)]
pub struct HeldFiles(HashMap<Pid, Listing>);

/// The files that a process holds and that may count.
struct Listing {
    state: State,
    at: Instant,
    /// Links of /proc that lead to files of the folder, or to deleted ones; true: to one of the folder.
    descriptors: Vec<(PathBuf, bool)>,
    mappings: Mappings,
}

/// What the list of a process's mappings tells.
#[derive(Default)]
struct Mappings {
    /// Links of /proc that lead to deleted files; true: to one of the folder; and the length of all mapped parts.
    deleted: Vec<(PathBuf, bool, u64)>,
    count: u64,
    /// True if not all were read.
    is_cut: bool,
}

/// Differs once a process has run, or its descriptors were changed (the kernel counts them since Linux 6.2).
#[derive(PartialEq, Eq)]
struct State {
    cpu_time: Duration,
    descriptors: u64,
}

impl State {
    /// `None` if the process is gone, or was waited for.
    fn of(pid: Pid) -> Option<State> {
        // Its path could be about to go; procfs.rs says why that matters.
        if !sys::is_there(pid) {
            return None;
        }
        let descriptors = fs::metadata(format!("/proc/{pid}/fd")).ok()?.len();
        Some(State { cpu_time: sys::cpu_time(pid), descriptors }).filter(|state| !state.cpu_time.is_zero())
    }
}

impl HeldFiles {
    /// Deleted files that one of these processes has open or mapped; those from beneath `folder` are counted separately.
    /// Several processes can hold the same file. `folder` must be the same at each call. The look ends early once it has
    /// found more than `mappings_bytes_max` of mappings, since to list those of 256 processes can take minutes.
    ///
    /// A process that forbids the access (PR_SET_DUMPABLE, prctl(2)) hides them from everybody but root. Only root sees
    /// the size of a mapped file (CAP_SYS_ADMIN); for others only the mapped part of such a file counts.
    pub fn look(&mut self, processes: &[Pid], folder: &Path, mappings_bytes_max: u64) -> Held {
        let present: HashSet<Pid> = processes.iter().copied().collect();
        self.0.retain(|pid, _| present.contains(pid));
        let mut sizes = Sizes::default();
        for pid in processes {
            // Before the listing: what changes meanwhile is found by the next look.
            let state = State::of(*pid);
            let is_good =
                |listing: &Listing| Some(&listing.state) == state.as_ref() && listing.at.elapsed() < LISTING_AGE_MAX;
            let kept = self.0.remove(pid).filter(is_good);
            let Some(listing) = kept.or_else(|| Some(Listing::of(*pid, folder, state?))) else { continue };
            sizes.add(&listing);
            if listing.descriptors.len() + listing.mappings.deleted.len() <= LISTED_MAX {
                self.0.insert(*pid, listing);
            }
            if sizes.mappings_count * MAPPING_BYTES > mappings_bytes_max {
                break;
            }
        }
        sizes.sum()
    }
}

impl Listing {
    fn of(pid: Pid, folder: &Path, state: State) -> Listing {
        let (pid, mappings) = mappings_of(pid, folder);
        let is_of_folder = |target: &[u8]| Path::new(OsStr::from_bytes(target)).starts_with(folder);
        let at = Instant::now();
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let descriptors = descriptors.filter_map(|entry| {
            let link = entry.path();
            let target = match fs::read_link(&link) {
                Ok(target) => target,
                // The path is longer than the kernel tells (PATH_MAX). Only functions make such paths, in this folder.
                Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => folder.to_path_buf(),
                Err(_) => return None,
            };
            let target = target.as_os_str().as_bytes();
            (is_of_folder(target) || target.ends_with(b" (deleted)")).then(|| (link, is_of_folder(target)))
        });
        let descriptors = descriptors.collect();
        Listing { state, at, descriptors, mappings }
    }
}

/// Sizes of files by device and inode.
#[derive(Default)]
struct Sizes {
    of_folder: HashMap<(u64, u64), u64>,
    in_memory: HashMap<(u64, u64), u64>,
    /// Mapped parts of files whose size cannot be read.
    mapped: u64,
    mappings_count: u64,
    is_cut: bool,
}

impl Sizes {
    fn add(&mut self, listing: &Listing) {
        self.mappings_count += listing.mappings.count;
        self.is_cut |= listing.mappings.is_cut;
        for (link, is_of_folder) in &listing.descriptors {
            self.add_file(link, *is_of_folder);
        }
        for (link, is_of_folder, length) in &listing.mappings.deleted {
            if !self.add_file(link, *is_of_folder) && *is_of_folder {
                self.mapped += length;
            }
        }
    }

    /// False if the file's size cannot be read.
    fn add_file(&mut self, link: &Path, is_of_folder: bool) -> bool {
        let Ok(metadata) = fs::metadata(link) else { return false };
        // Blocks of 512 bytes, whatever block size the file system has.
        let (object, bytes) = ((metadata.dev(), metadata.ino()), metadata.blocks() * 512);
        if metadata.nlink() == 0 && is_of_folder {
            self.of_folder.insert(object, bytes);
        } else if metadata.nlink() == 0 && sys::is_in_memory(link).unwrap_or(false) {
            self.in_memory.insert(object, bytes);
        }
        true
    }

    fn sum(&self) -> Held {
        Held {
            of_folder: self.of_folder.values().sum::<u64>() + self.mapped,
            in_memory: self.in_memory.values().sum(),
            mappings: self.mappings_count * MAPPING_BYTES,
            is_cut: self.is_cut,
        }
    }
}

/// The number by which /proc has the files of a process: its own, or that of a thread if the first one has ended. Then
/// its mappings; `is_cut` also if they could not be read.
fn mappings_of(pid: Pid, folder: &Path) -> (Pid, Mappings) {
    let read = |pid: Pid| Mappings::read(pid, folder).ok().filter(|found| found.count > 0).map(|found| (pid, found));
    read(pid).unwrap_or_else(|| {
        procfs::of_other_thread(pid, read).unwrap_or_else(|why| {
            (pid, Mappings { is_cut: matches!(why, procfs::Unread::Fleeting), ..Mappings::default() })
        })
    })
}

impl Mappings {
    /// Reads line by line: a list can have megabytes, which the allocator would keep.
    fn read(pid: Pid, folder: &Path) -> io::Result<Mappings> {
        let mut lines = BufReader::new(fs::File::open(format!("/proc/{pid}/maps"))?.take(MAPS_BYTES_MAX));
        // One entry for each file: PHP's fork server has its own data in one, in a hundred mappings.
        let (mut mappings, mut places) = (Mappings::default(), HashMap::<Vec<u8>, usize>::new());
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            mappings.count += 1;
            if let Some((range, file, target)) = deleted_mapping(line.trim_ascii_end()) {
                let deleted = &mut mappings.deleted;
                let place = *places.entry(file.to_vec()).or_insert(deleted.len());
                if place == deleted.len() {
                    let is_of_folder = Path::new(OsStr::from_bytes(target)).starts_with(folder);
                    deleted.push((PathBuf::from(format!("/proc/{pid}/map_files/{range}")), is_of_folder, 0));
                }
                deleted[place].2 += length_of(range);
            }
            line.clear();
        }
        mappings.is_cut = lines.get_ref().limit() == 0;
        Ok(mappings)
    }
}

/// The mapping of a deleted file: its range, as files in map_files are named, the file's device and inode, and its path.
fn deleted_mapping(line: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let path_at = line.iter().position(|byte| *byte == b'/').filter(|_| line.ends_with(b" (deleted)"))?;
    // Behind the range stand rights and offset.
    let mut columns = line[..path_at].splitn(4, |byte| *byte == b' ');
    let (range, file) = (columns.next()?, columns.nth(2)?);
    Some((std::str::from_utf8(range).ok()?, file, &line[path_at..]))
}

/// Length of a range such as `7f00-8000`.
fn length_of(range: &str) -> u64 {
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap_or(0);
    range.split_once('-').map_or(0, |(start, end)| number(end).saturating_sub(number(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleted_files_count_once_as_long_as_they_are_open() {
        let folder = std::env::temp_dir().join(format!("faas-deleted-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        fs::write(&path, vec![1; 100_000]).unwrap();
        let file = fs::File::open(&path).unwrap();
        let again = file.try_clone().unwrap();
        let of_folder =
            |folder: &Path| HeldFiles::default().look(&[std::process::id() as Pid], folder, u64::MAX).of_folder;
        assert_eq!(of_folder(&folder), 0);
        fs::remove_file(&path).unwrap();
        assert!((100_000..200_000).contains(&of_folder(&folder)));
        assert_eq!(of_folder(Path::new("/elsewhere")), 0);
        drop((file, again));
        assert_eq!(of_folder(&folder), 0);
        fs::remove_dir(folder).unwrap();
    }

    #[test]
    fn mappings_of_one_file_are_one_entry() {
        let maps = b"7f00-8000 rw-p 00001000 fe:00 123                        /tmp/a b (deleted)\n\
            8000-9000 r-xp 00000000 fe:00 77     /lib/c.so\n\
            9000-a000 r--s 00002000 fe:00 123                        /tmp/a b (deleted)\n\
            a000-b000 rw-s 00000000 00:01 123    /dev/zero (deleted)\nb000-c000 rw-p 00000000 00:00 0\n";
        let found: Vec<_> = maps.split(|byte| *byte == b'\n').filter_map(deleted_mapping).collect();
        let ranges: Vec<&str> = found.iter().map(|(range, ..)| *range).collect();
        assert_eq!(ranges, ["7f00-8000", "9000-a000", "a000-b000"]);
        assert!(found[0].1 == found[1].1 && found[0].1 != found[2].1);
        assert_eq!(found[0].2, b"/tmp/a b (deleted)");
    }

    #[test]
    fn a_process_that_does_not_run_is_not_listed_again_and_its_file_is_measured() {
        let folder = std::env::temp_dir().join(format!("faas-idle-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut file = fs::File::create(folder.join("file")).unwrap();
        let mut sleeper =
            std::process::Command::new("sleep").arg("1000").stdin(file.try_clone().unwrap()).spawn().unwrap();
        fs::remove_file(folder.join("file")).unwrap();
        let (pid, mut held) = (sleeper.id() as Pid, HeldFiles::default());
        let at_rest = || fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|name| name.contains("nanosleep"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !at_rest() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(held.look(&[pid], &folder, u64::MAX).of_folder, 0);
        let listed = held.0[&pid].at;
        io::Write::write_all(&mut file, &[1; 100_000]).unwrap();
        assert!((100_000..200_000).contains(&held.look(&[pid], &folder, u64::MAX).of_folder));
        assert_eq!(held.0[&pid].at, listed, "it has not run");
        held.0.get_mut(&pid).unwrap().at = listed - LISTING_AGE_MAX;
        held.look(&[pid], &folder, u64::MAX);
        assert!(held.0[&pid].at >= listed, "an old listing is not used");
        assert_eq!(held.look(&[], &folder, u64::MAX), Held::default());
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        fs::remove_dir(folder).unwrap();
    }

    #[test]
    fn a_long_listing_is_not_kept_and_counts() {
        let folder = std::env::temp_dir().join(format!("faas-many-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        fs::write(&path, vec![1; 100_000]).unwrap();
        let open_all =
            format!("for fd in {{10..{}}}; do eval \"exec $fd<&0\"; done; echo open; kill -STOP $$", LISTED_MAX + 20);
        let (mut said, says) = io::pipe().unwrap();
        let mut holder = std::process::Command::new("bash")
            .args(["-c", &open_all])
            .stdin(fs::File::open(&path).unwrap())
            .stdout(says)
            .spawn()
            .unwrap();
        fs::remove_file(&path).unwrap();
        said.read_exact(&mut [0; 5]).unwrap();
        let (pid, mut held) = (holder.id() as Pid, HeldFiles::default());
        assert!((100_000..200_000).contains(&held.look(&[pid], &folder, u64::MAX).of_folder));
        assert!(held.0.is_empty());
        holder.kill().unwrap();
        holder.wait().unwrap();
        fs::remove_dir(folder).unwrap();
    }
}
