//! Control groups (cgroups(7), version 2): bounds of an invocation's memory and processes that the kernel itself keeps,
//! where a group was delegated to the gateway.
//!
//! ```text
//! the delegated group                     that of the gateway when it starts
//! ├── faas-programs                       gateway, console, workers, fork servers and their children
//! └── faas-<uid>-<run dir>-<N>-<W>-<I>    worker W of gateway N: one for each invocation that runs at a time
//! ```
//!
//! A group with processes of its own lends no controller to groups below it, hence `faas-programs`. A process that is
//! started by exec is born in its group. A process is never moved into one, and a child of a fork server has none: to
//! move a process takes 12 ms where none was moved a moment ago (docs/PERFORMANCE.md).
//!
//! Nothing is assumed: each control is written and read back. Controls that do not work are left out, and samples take
//! their place (worker/sampler.rs).

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::limits::FUNCTION_PROCESSES_MAX;
use crate::log;
use crate::settings::Settings;
use crate::sys::{self, Pid};

/// The group of the platform's own programs.
const PROGRAMS: &str = "faas-programs";
/// Value of pids.max. One more than an invocation may have, so that a sample sees the excess and ends the invocation; the
/// kernel alone would only refuse to fork.
const PROCESSES_MAX: usize = FUNCTION_PROCESSES_MAX + 1;
/// Memory that an ended invocation may leave charged to its group, in bytes. A group with more, such as that of files
/// read or of files on a tmpfs, does not serve again.
const LEFT_BYTES_MAX: u64 = 4 << 20;
/// Names that are tried for a new group, if some are taken.
const NAMES_TRIED_MAX: u32 = 64;
/// Depth of groups within groups that are removed. The platform makes none; others may.
const DEPTH_MAX: u32 = 16;
/// Longest listing that is read: the ids of [`PROCESSES_MAX`] processes take 2,827 bytes at the most.
const LISTING_BYTES: usize = 4096;

/// The controls that work on this machine, each tried for itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Controls {
    /// cgroup.kill, since Linux 5.14.
    pub kill: bool,
    /// memory.max.
    pub memory: bool,
    /// pids.max.
    pub processes: bool,
    /// memory.peak that can be reset, since Linux 6.12: a group serves more than one invocation.
    pub peak: bool,
}

/// Moves the gateway into a group of its own, and has the delegated group lend controllers. Processes that live beside
/// the gateway come along, such as the shell that has started it. Returns the delegated group; `None` without one, or
/// with FAAS_CGROUP=0.
pub fn enter(settings: &Settings) -> Option<PathBuf> {
    let delegated = settings.uses_cgroups.then(delegated).flatten()?;
    let programs = delegated.join(PROGRAMS);
    let _ = fs::create_dir(&programs);
    let beside = fs::read_to_string(delegated.join("cgroup.procs")).ok()?;
    for process in beside.lines() {
        let _ = put(&programs, "cgroup.procs", process);
    }
    for controller in ["+memory", "+pids"] {
        let _ = put(&delegated, "cgroup.subtree_control", controller);
    }
    // Those of gateways that were killed.
    for number in settings.free_instances() {
        remove_all(&delegated, settings, number);
    }
    (own_group()? == programs).then_some(delegated)
}

/// Removes the groups of gateway `number` of this run dir. Its workers have ended, or were killed.
pub fn remove_all(delegated: &Path, settings: &Settings, number: u32) {
    remove_named(delegated, &format!("{}-", settings.group_name(number)));
}

fn remove_named(delegated: &Path, prefix: &str) {
    let entries = fs::read_dir(delegated).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().as_bytes().starts_with(prefix.as_bytes())) {
        let _ = put(&entry.path(), "cgroup.kill", "1");
        remove_tree(&entry.path(), DEPTH_MAX);
    }
}

/// Removes a group and those in it, as far as they have no processes.
fn remove_tree(group: &Path, depth_max: u32) {
    if fs::remove_dir(group).is_ok() || depth_max == 0 {
        return;
    }
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    for below in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&below.path(), depth_max - 1);
    }
    let _ = fs::remove_dir(group);
}

/// The group that was delegated to this gateway: its own, or that above [`PROGRAMS`] if an earlier gateway made that.
fn delegated() -> Option<PathBuf> {
    let own = own_group()?;
    if own.file_name() == Some(OsStr::new(PROGRAMS)) {
        return own.parent().map(Path::to_path_buf);
    }
    is_delegated(&own).then_some(own)
}

/// The folder of this process's group, where the hierarchy is mounted.
fn own_group() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        words.next().filter(|_| words.next() == Some("cgroup2"))
    })?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(mount).join(path))
}

/// True if this group was given to us: it belongs to our user, and the one above does not; or its manager says so by an
/// attribute (systemd's Delegate=); or it is a container's root, which differs from the machine's by its cgroup.events.
/// All other groups, such as that of a login session, belong to whoever made them.
fn is_delegated(folder: &Path) -> bool {
    let owner = |folder: Option<&Path>| fs::metadata(folder?).ok().map(|found| found.uid());
    let own = Some(sys::own_uid());
    let is_ours = owner(Some(folder)) == own && owner(folder.parent()) != own;
    let is_given = |name| sys::attribute(folder, name).is_some_and(|value| value == b"1");
    let is_root = fs::read_to_string("/proc/self/cgroup").is_ok_and(|groups| groups.lines().any(|line| line == "0::/"));
    let is_containers = is_root && folder.join("cgroup.events").exists();
    is_ours || is_given(c"trusted.delegate") || is_given(c"user.delegate") || is_containers
}

fn put(folder: &Path, name: &str, value: &str) -> std::io::Result<()> {
    OpenOptions::new().write(true).open(folder.join(name))?.write_all(value.as_bytes())
}

/// A listing as the kernel writes it, without the last newline.
fn get(folder: &Path, name: &str) -> Option<String> {
    let mut bytes = vec![0; LISTING_BYTES];
    let count = File::open(folder.join(name)).ok()?.read(&mut bytes).ok()?;
    bytes.truncate(count);
    Some(String::from_utf8(bytes).ok()?.trim_end().to_string())
}

/// Like [`get`], of a short listing that stays open.
fn get_again(file: &File) -> Option<String> {
    let mut bytes = [0; 256];
    let count = file.read_at(&mut bytes, 0).ok()?;
    Some(std::str::from_utf8(&bytes[..count]).ok()?.trim_end().to_string())
}

/// The number behind `name` in a listing with one name and number a line.
fn number_in(listing: &str, name: &str) -> Option<u64> {
    listing.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// The groups of one worker.
pub struct Groups {
    delegated: PathBuf,
    /// Beginning of their names.
    name: String,
    pub controls: Controls,
    /// The number of groups made so far, which ends the name of each.
    made: AtomicU32,
    /// Groups without a process. Held for a push or a pop.
    free: Mutex<Vec<Folder>>,
}

/// A group. The files that each invocation needs stay open, because to open one takes longer than to read it.
struct Folder {
    path: PathBuf,
    /// The last value of its memory.max.
    memory_mib: u64,
    directory: File,
    /// cgroup.events.
    events: File,
    /// pids.events and memory.current, where the controllers are lent.
    refusals: Option<File>,
    charged: Option<File>,
}

/// The samples' figures of a group.
pub struct GroupFigures {
    pub processes: Vec<Pid>,
    /// Threads of all its processes.
    pub threads: usize,
    /// Anonymous and shared memory and page tables, without pages of files.
    pub memory_bytes: u64,
}

impl Groups {
    /// The groups for worker `id`; `None` if no control works, or functions could leave them. Removes those of a killed
    /// worker of the same id.
    pub fn new(settings: &Settings, id: &str, may_leave: bool) -> Option<Arc<Groups>> {
        let own = own_group().filter(|_| settings.uses_cgroups && !may_leave && sys::has_clone3())?;
        let delegated = own.parent().filter(|_| own.file_name() == Some(OsStr::new(PROGRAMS)))?.to_path_buf();
        let name = format!("{}-{id}", settings.group_name(settings.instance?));
        let mut groups =
            Groups { delegated, name, controls: Controls::default(), made: AtomicU32::new(0), free: Mutex::default() };
        groups.remove();
        let trial = groups.make().ok()?;
        groups.controls = trial.controls();
        let _ = fs::remove_dir(trial.path);
        let controls = groups.controls;
        (controls.kill || controls.memory || controls.processes).then(|| Arc::new(groups))
    }

    /// A group for one invocation that may have this much memory. `None` if none can be made: then samples alone bound
    /// the invocation.
    pub fn take(self: &Arc<Groups>, memory_mib: u64) -> Option<Group> {
        let free = self.free.lock().expect("nothing panics under this lock").pop();
        let made = match free {
            Some(folder) => Ok(folder),
            None => self.make(),
        };
        let open = made.and_then(|mut folder| {
            self.bound(&mut folder, memory_mib)?;
            let peak = self.controls.peak.then(|| reset_peak(&folder.path)).transpose()?;
            Ok(Group { groups: self.clone(), folder: Some(folder), peak, is_spent: false.into() })
        });
        open.inspect_err(|error| log!("could not make a cgroup: {error}; samples bound the function instead")).ok()
    }

    fn make(&self) -> std::io::Result<Folder> {
        let next = || {
            let number = self.made.fetch_add(1, Ordering::Relaxed);
            let path = self.delegated.join(format!("{}-{number}", self.name));
            fs::create_dir(&path).map(|()| path)
        };
        // Somebody else may hold on to a group that could not be removed.
        let is_taken = |made: &std::io::Result<PathBuf>| {
            made.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::AlreadyExists)
        };
        let path = (0..NAMES_TRIED_MAX).map(|_| next()).find(|made| !is_taken(made)).unwrap_or_else(next)?;
        let open = |name| File::open(path.join(name));
        let (directory, events) = (open("")?, open("cgroup.events")?);
        let (refusals, charged) = (open("pids.events").ok(), open("memory.current").ok());
        Ok(Folder { path, memory_mib: 0, directory, events, refusals, charged })
    }

    fn bound(&self, folder: &mut Folder, memory_mib: u64) -> std::io::Result<()> {
        if folder.memory_mib == memory_mib {
            return Ok(());
        }
        // The first time.
        if folder.memory_mib == 0 {
            if self.controls.processes {
                put(&folder.path, "pids.max", &PROCESSES_MAX.to_string())?;
            }
            if self.controls.memory {
                // All its processes end with the one that the kernel chooses.
                put(&folder.path, "memory.oom.group", "1")?;
                // A kernel without swap has no such file.
                let _ = put(&folder.path, "memory.swap.max", "0");
            }
        }
        if self.controls.memory {
            put(&folder.path, "memory.max", &(memory_mib << 20).to_string())?;
        }
        folder.memory_mib = memory_mib;
        Ok(())
    }

    /// Removes all groups of this worker, also those that another process of its id has left.
    pub fn remove(&self) {
        self.free.lock().expect("nothing panics under this lock").clear();
        remove_named(&self.delegated, &format!("{}-", self.name));
    }
}

impl Folder {
    /// Tries each control on a group without processes.
    fn controls(&self) -> Controls {
        let keeps =
            |name, value: &str| put(&self.path, name, value).is_ok() && get(&self.path, name).as_deref() == Some(value);
        Controls {
            kill: put(&self.path, "cgroup.kill", "1").is_ok(),
            memory: keeps("memory.max", "67108864") && keeps("memory.oom.group", "1"),
            processes: keeps("pids.max", &PROCESSES_MAX.to_string()),
            peak: reset_peak(&self.path).is_ok(),
        }
    }

    fn has_processes(&self) -> bool {
        get_again(&self.events).is_none_or(|events| number_in(&events, "populated") != Some(0))
    }

    /// True if pids.max has kept a process from forking. The kernel never resets that count.
    fn has_refused(&self) -> bool {
        let events = self.refusals.as_ref().and_then(get_again);
        events.and_then(|events| number_in(&events, "max")).is_some_and(|refusals| refusals > 0)
    }

    fn charged_bytes(&self) -> u64 {
        self.charged.as_ref().and_then(get_again).and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
    }
}

/// Opens memory.peak. Read through this file, it is the peak since now.
fn reset_peak(folder: &Path) -> std::io::Result<File> {
    let mut peak = OpenOptions::new().read(true).write(true).open(folder.join("memory.peak"))?;
    peak.write_all(b"reset")?;
    Ok(peak)
}

/// The group of one invocation. Dropping it, once the processes have ended, lets it serve again.
pub struct Group {
    groups: Arc<Groups>,
    /// `None` only while it is dropped.
    folder: Option<Folder>,
    /// memory.peak, reset when the invocation began.
    peak: Option<File>,
    /// True if processes in it were killed. Its count of kills is not reset; and after a write to cgroup.kill, kernels
    /// since 6.14 kill each process that is born in it by clone3, because they compare the count of its maker's group.
    is_spent: AtomicBool,
}

impl Group {
    fn folder(&self) -> &Folder {
        self.folder.as_ref().expect("it is taken by the drop alone")
    }

    /// Its folder, for the process that is to be born in it.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.folder().directory.as_fd()
    }

    /// Kills all its processes at once, if the kernel can.
    pub fn kill(&self) -> bool {
        self.is_spent.store(true, Ordering::Relaxed);
        self.groups.controls.kill && put(&self.folder().path, "cgroup.kill", "1").is_ok()
    }

    /// Kills what the main process has left behind, if the kernel can.
    pub fn kill_rest(&self) -> bool {
        self.groups.controls.kill && (!self.folder().has_processes() || self.kill())
    }

    /// True if the kernel has killed the processes because they reached memory.max.
    pub fn ran_out_of_memory(&self) -> bool {
        self.is_spent.store(true, Ordering::Relaxed);
        let events = self.groups.controls.memory.then(|| get(&self.folder().path, "memory.events")).flatten();
        events.and_then(|events| number_in(&events, "oom_kill")).is_some_and(|kills| kills > 0)
    }

    /// True if the kernel has kept a process of it from forking, because of pids.max.
    pub fn ran_out_of_processes(&self) -> bool {
        self.groups.controls.processes && self.folder().has_refused()
    }

    /// Peak of the memory that the kernel has charged to the invocation, in bytes.
    pub fn peak_bytes(&self) -> Option<u64> {
        get_again(self.peak.as_ref()?)?.parse().ok()
    }

    /// The present figures, where the kernel bounds memory and processes; otherwise samples must look at each process.
    pub fn figures(&self) -> Option<GroupFigures> {
        let (path, controls) = (&self.folder().path, self.groups.controls);
        if !(controls.memory && controls.processes) {
            return None;
        }
        let stat = get(path, "memory.stat")?;
        Some(GroupFigures {
            processes: get(path, "cgroup.procs")?.lines().filter_map(|line| line.parse().ok()).collect(),
            threads: get(path, "pids.current")?.parse().ok()?,
            memory_bytes: ["anon", "shmem", "pagetables"].iter().filter_map(|name| number_in(&stat, name)).sum(),
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(folder) = self.folder.take() else { return };
        let is_spent = self.is_spent.load(Ordering::Relaxed) || folder.has_refused();
        if is_spent || folder.charged_bytes() > LEFT_BYTES_MAX || folder.has_processes() {
            // One that still has processes goes when the worker ends.
            let _ = put(&folder.path, "cgroup.kill", "1");
            let _ = fs::remove_dir(&folder.path);
        } else {
            self.groups.free.lock().expect("nothing panics under this lock").push(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_by_its_whole_name() {
        let listing = "oom 3\noom_kill 1\noom_group_kill 0";
        assert_eq!(number_in(listing, "oom_kill"), Some(1));
        assert_eq!(number_in(listing, "oom"), Some(3));
        assert_eq!(number_in(listing, "kill"), None);
    }
}
