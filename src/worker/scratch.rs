//! The scratch folder of an invocation: its TMPDIR, and the only place where it may write without a `write` entry. It
//! is removed with all its contents when the invocation is over.
//!
//! Removal must cope with the leftovers of a hostile function: folders nested a hundred thousand deep, against which
//! recursion would run out of stack, names of any bytes, symbolic links to elsewhere, folders without permissions. So
//! it follows no link, and moves nested folders up and empties them one after the other. By then the function's
//! processes are dead, so no process changes the folder meanwhile.
//!
//! To remove 16,384 entries can take ten seconds, on a disk that is told of each freed block. The thread that served the
//! invocation has its next call by then. So it spends a moment on removing, and leaves the rest to another thread.

use std::fs::{self, DirBuilder, DirEntry, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::error::start::{Result, StartError};
use crate::limits::{SCRATCH_DEPTH_MAX, SCRATCH_ENTRIES_MAX, SCRATCH_LOOKS_MAX};
use crate::log;
use crate::sandbox::quota::{Project, Projects};
use crate::sandbox::{Sandbox, User};
use crate::sys;

/// Time that an invocation's own thread spends on removing its scratch folder. Most take less than a millisecond.
const OWN_REMOVAL_MAX: Duration = Duration::from_millis(20);
/// Folders that wait for the thread that removes the rest. Those of further invocations are removed by their own threads.
const WAITING_MAX: usize = 64;

/// The area in which one worker makes the scratch folders of its invocations.
///
/// Most functions leave their folder empty. An empty folder serves the next invocation: making, giving away and
/// removing one costs a quarter of a native invocation on ext4; checking that it is empty costs next to nothing.
pub struct ScratchArea {
    folder: PathBuf,
    /// Where the kernel bounds what is in a folder.
    projects: Option<Projects>,
    /// Empty folders; of those with a project, and of those without, never more than invocations at once. Guards the list;
    /// held for a push or a pop.
    empty: Mutex<Vec<Empty>>,
    /// Folders whose removal takes long.
    waiting: (Sender<PathBuf>, Receiver<PathBuf>),
}

/// An empty folder, and a ruleset that allows writing there: it holds for the folder, whatever its name.
#[derive(Default)]
struct Empty {
    path: PathBuf,
    project: Option<Project>,
    /// The last ruleset, and the settings it was made for: network allowed or not, and the folder for sessions.
    ruleset: Option<(bool, Option<Arc<Path>>, Arc<OwnedFd>)>,
}

impl ScratchArea {
    /// Makes the worker's folder anew, empty. `above` are the folders that it lies in, the outermost first, which the
    /// first worker makes. `projects` finds the project quotas there.
    ///
    /// # Errors
    /// If one of those exists but belongs to another user, who could have made it beforehand in a folder like /tmp.
    pub fn new(
        above: &[PathBuf],
        worker: u32,
        projects: impl FnOnce(&Path) -> Option<Projects>,
    ) -> Result<ScratchArea> {
        let failed = |path: &Path| StartError::io("make the scratch folder", path.display().to_string());
        // Other users may pass through, to their own folders, but not list it.
        let mut builder = DirBuilder::new();
        builder.mode(0o711);
        for folder in above {
            match builder.create(folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(failed(folder))?,
            }
            let metadata = fs::symlink_metadata(folder).map_err(failed(folder))?;
            if !metadata.is_dir() || metadata.uid() != sys::own_uid() {
                return Err(failed(folder)(io::Error::other("it belongs to somebody else; set FAAS_SPOOL_DIR")));
            }
        }
        let all = above.last().expect("a worker's folder lies in others");
        let folder = all.join(format!("worker_{worker}"));
        remove(&folder, None).map_err(failed(&folder))?;
        // Not even its owner may list it without privileges: functions may run as that user, and could otherwise find
        // each other's folders.
        builder.mode(0o311).create(&folder).map_err(failed(&folder))?;
        let projects = projects(&folder);
        Ok(ScratchArea { folder, projects, empty: Mutex::default(), waiting: bounded(WAITING_MAX) })
    }

    /// An empty folder for one invocation and its user alone, under a name that no function can guess: other functions
    /// may run as the same user, and Landlock does not keep them from reading. The kernel bounds its contents to
    /// `bytes_max` if that is not `None`, and it can.
    pub fn take(&self, user: Option<&User>, bytes_max: Option<u64>) -> io::Result<Scratch<'_>> {
        let path = self.folder.join(unguessable_name());
        let mut scratch = match self.take_empty(bytes_max.is_some()) {
            // The previous invocation knows the previous name.
            Some(empty) if fs::rename(&empty.path, &path).is_ok() => {
                Scratch { area: self, folder: Empty { path, ..empty } }
            }
            _ => {
                DirBuilder::new().mode(0o700).create(&path)?;
                let scratch = Scratch { area: self, folder: Empty { path, ..Empty::default() } };
                if let Some(user) = user {
                    chown(scratch.path(), Some(user.uid), Some(user.gid))?;
                }
                scratch
            }
        };
        if bytes_max.is_some() && scratch.folder.project.is_none() {
            scratch.folder.project = self.projects.as_ref().and_then(|projects| projects.take(scratch.path()));
        }
        Ok(scratch.bounded(bytes_max))
    }

    /// One that was used before. Without a project unless it `is_bounded`, else with one if there is such a folder: where
    /// the kernel takes none any more, those without must serve, or each call would leave one more.
    fn take_empty(&self, is_bounded: bool) -> Option<Empty> {
        let mut empty = self.empty.lock().expect("nothing panics under this lock");
        let at = empty.iter().rposition(|empty| empty.project.is_some() == is_bounded);
        let at = at.or(empty.len().checked_sub(1).filter(|_| is_bounded))?;
        Some(empty.swap_remove(at))
    }

    /// Removes all that is here.
    pub fn remove(&self) {
        remove_and_log(&self.folder, None);
        if let Some(projects) = &self.projects {
            projects.sweep();
        }
    }

    /// The life of the thread that removes folders whose removal takes long.
    pub fn remove_the_waiting(&self) {
        for folder in &self.waiting.1 {
            remove_and_log(&folder, None);
        }
    }

    /// Removes an invocation's folder, or has the rest of it removed.
    fn clear(&self, folder: PathBuf, own_time: Duration) {
        if remove_and_log(&folder, Some(Instant::now() + own_time)) {
            return;
        }
        if let Err(unsent) = self.waiting.0.try_send(folder) {
            remove_and_log(&unsent.into_inner(), None);
        }
    }
}

/// 128 bits out of the random state with which the standard library keys its hash tables.
fn unguessable_name() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

/// The scratch folder of one invocation. Dropping it removes its contents.
pub struct Scratch<'a> {
    area: &'a ScratchArea,
    folder: Empty,
}

impl Scratch<'_> {
    /// Sets the kernel's bound of its contents, if it has one.
    fn bounded(mut self, bytes_max: Option<u64>) -> Self {
        if let (Some(projects), Some(project), Some(bytes_max)) =
            (&self.area.projects, &mut self.folder.project, bytes_max)
            && let Err(error) = projects.bound(project, bytes_max)
        {
            log!("could not set a project quota: {error}; samples bound the scratch folder instead");
        }
        self
    }

    pub fn path(&self) -> &Path {
        &self.folder.path
    }

    /// The Landlock ruleset for an invocation that may write here, beneath `write` and in `sessions`; see
    /// [`Sandbox::ruleset`].
    pub fn ruleset(
        &mut self,
        sandbox: &Sandbox,
        write: &[PathBuf],
        sessions: Option<&Arc<Path>>,
        net: bool,
    ) -> io::Result<Option<Arc<OwnedFd>>> {
        // A listed path may be replaced, or appear, before the next invocation.
        let is_lasting = write.is_empty();
        if is_lasting
            && let Some((last_net, last_sessions, ruleset)) = &self.folder.ruleset
            && *last_net == net
            && last_sessions.as_ref() == sessions
        {
            return Ok(Some(ruleset.clone()));
        }
        let folder = sessions.map(|sessions| &**sessions);
        let ruleset = sandbox.ruleset(Some(&self.folder.path), write, folder, !net)?.map(Arc::new);
        if is_lasting && let Some(ruleset) = &ruleset {
            self.folder.ruleset = Some((net, sessions.cloned(), ruleset.clone()));
        }
        Ok(ruleset)
    }

    /// True if the kernel counts more files or blocks for the folder than the invocation may have, whether or not a path
    /// leads to them.
    pub fn is_over_quota(&self) -> bool {
        let project = self.area.projects.as_ref().zip(self.folder.project.as_ref());
        project.is_some_and(|(projects, project)| projects.is_exceeded(project))
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        let folder = std::mem::take(&mut self.folder);
        // A file that is still on its way in a message would count for the next invocation.
        let project = self.area.projects.as_ref().zip(folder.project.as_ref());
        let is_vacant = project.is_none_or(|(projects, project)| projects.is_as_made(project));
        if is_as_made(&folder.path) && is_vacant {
            self.area.empty.lock().expect("nothing panics under this lock").push(folder);
        } else {
            self.area.clear(folder.path, OWN_REMOVAL_MAX);
        }
    }
}

/// True if a scratch folder holds more than `bytes_max` on disk, or more than [`SCRATCH_ENTRIES_MAX`] files and folders,
/// or folders nested deeper than [`SCRATCH_DEPTH_MAX`], or if no path leads to the end (PATH_MAX).
/// Reopens a folder that a function has closed, if it runs as the worker's own user.
pub fn holds_more_than(scratch: &Path, bytes_max: u64) -> bool {
    let mut folders = vec![(scratch.to_path_buf(), 0)];
    let (mut bytes, mut entries) = (0, 0);
    while let Some((folder, depth)) = folders.pop() {
        let listed = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                reopen(&folder);
                fs::read_dir(&folder)
            }
            listed => listed,
        };
        let listed = match listed {
            Ok(listed) => listed,
            // Removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => return true,
        };
        for entry in listed.flatten() {
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(_) => return true,
            };
            // Blocks have 512 bytes, whatever the file system's size is. A sparse file counts for the blocks that
            // it takes.
            bytes += metadata.blocks() * 512;
            entries += 1;
            if bytes > bytes_max || entries > SCRATCH_ENTRIES_MAX || depth > SCRATCH_DEPTH_MAX {
                return true;
            }
            if metadata.is_dir() {
                folders.push((entry.path(), depth + 1));
            }
        }
    }
    false
}

/// Lets a folder's owner enter it, unless a link has replaced it meanwhile.
fn reopen(folder: &Path) {
    if let Ok(folder) = sys::refer_to(folder, libc::O_NOFOLLOW | libc::O_DIRECTORY) {
        let _ = fs::set_permissions(format!("/proc/self/fd/{}", folder.as_raw_fd()), Permissions::from_mode(0o700));
    }
}

/// True if a folder is empty, and still closed to all users but its owner.
fn is_as_made(path: &Path) -> bool {
    let is_private = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && found.mode() & 0o7777 == 0o700);
    is_private && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Like [`remove`], but logs an error. False if the time was up.
fn remove_and_log(top: &Path, deadline: Option<Instant>) -> bool {
    remove(top, deadline).unwrap_or_else(|error| {
        log!("could not remove {}: {error}", top.display());
        true
    })
}

/// Removes a folder and its contents, without recursion and without following a link. Returns false if it stopped at the
/// deadline. What another thread removes meanwhile is no error.
fn remove(top: &Path, deadline: Option<Instant>) -> io::Result<bool> {
    let is_late = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
    let mut moved_up = 0u64;
    for _ in 0..SCRATCH_LOOKS_MAX {
        let _ = fs::set_permissions(top, Permissions::from_mode(0o700));
        let mut is_empty = true;
        let Some(entries) = unless_gone(fs::read_dir(top))? else { return Ok(true) };
        for entry in entries {
            if is_late() {
                return Ok(false);
            }
            is_empty = false;
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                unless_gone(fs::remove_file(entry.path()))?;
            } else if fs::remove_dir(entry.path()).is_err() {
                unless_gone(empty_into(top, &entry, &mut moved_up, &is_late))?;
            }
        }
        if is_empty {
            return unless_gone(fs::remove_dir(top)).map(|_| true);
        }
    }
    Err(io::Error::other("there is no end to what is in it"))
}

/// `None` if the file or folder is not there any more.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// Empties one folder within `top`: removes its files, and moves its folders up into `top` under new names. Stops where
/// it is late.
fn empty_into(top: &Path, folder: &DirEntry, moved_up: &mut u64, is_late: &dyn Fn() -> bool) -> io::Result<()> {
    let _ = fs::set_permissions(folder.path(), Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder.path())? {
        if is_late() {
            return Ok(());
        }
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            fs::remove_file(entry.path())?;
        } else if fs::remove_dir(entry.path()).is_err() {
            // To move a folder is to change its `..`, for which the kernel checks its own permissions.
            let _ = fs::set_permissions(entry.path(), Permissions::from_mode(0o700));
            // A name that the function has given cannot be taken: rename replaces only empty folders, and fails
            // otherwise.
            loop {
                *moved_up += 1;
                match fs::rename(entry.path(), top.join(format!("moved-{moved_up}"))) {
                    Err(error)
                        if matches!(error.raw_os_error(), Some(libc::ENOTEMPTY | libc::ENOTDIR | libc::EEXIST)) => {}
                    moved => break moved?,
                }
            }
        }
    }
    fs::remove_dir(folder.path())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn area(name: &str) -> (PathBuf, ScratchArea) {
        let all = std::env::temp_dir().join(format!("faas-scratch-{name}-{}", std::process::id()));
        let area = ScratchArea::new(std::slice::from_ref(&all), 0, |_| None).unwrap();
        (all, area)
    }

    /// What the other thread does, as long as folders wait.
    fn remove_all(area: &ScratchArea) {
        area.waiting.1.try_iter().for_each(|folder| assert!(remove_and_log(&folder, None)));
    }

    #[test]
    fn whatever_a_function_leaves_is_removed_and_nothing_outside() {
        let (all, area) = area("remove");
        let outside = all.join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        let scratch = area.take(None, None).unwrap();
        let path = scratch.path().to_path_buf();
        symlink(&outside, path.join("link")).unwrap();
        fs::create_dir_all(path.join("a/b/c/d")).unwrap();
        fs::write(path.join("a/b/c/file"), "x").unwrap();
        fs::create_dir_all(path.join("moved-1/x/y")).unwrap();
        symlink(&outside, path.join("a/b/link")).unwrap();
        fs::set_permissions(path.join("a/b"), Permissions::from_mode(0o000)).unwrap();
        drop(scratch);
        remove_all(&area);
        assert!(!path.exists());
        assert!(outside.join("kept").exists());
        // It cannot be listed, so only root could remove it otherwise.
        area.remove();
        fs::remove_dir_all(all).unwrap();
    }

    #[test]
    fn a_folder_without_a_project_serves_again_where_the_kernel_takes_none() {
        let (all, area) = area("project");
        for _ in 0..3 {
            drop(area.take(None, Some(1 << 20)).unwrap());
            assert_eq!(area.empty.lock().unwrap().len(), 1);
        }
        area.remove();
        fs::remove_dir_all(all).unwrap();
    }

    #[test]
    fn folders_nested_deeper_than_a_stack_are_removed() {
        let (all, area) = area("deep");
        let scratch = area.take(None, None).unwrap();
        let path = scratch.path().to_path_buf();
        // Starts with the innermost, since a path to it would be too long for any call.
        fs::create_dir(path.join("0")).unwrap();
        for depth in 1..3000 {
            let outer = path.join(depth.to_string());
            fs::create_dir(&outer).unwrap();
            fs::rename(path.join((depth - 1).to_string()), outer.join("d")).unwrap();
        }
        let thread = std::thread::Builder::new().stack_size(64 * 1024);
        std::thread::scope(|scope| {
            let remove = || {
                drop(scratch);
                remove_all(&area);
            };
            thread.spawn_scoped(scope, remove).unwrap().join().unwrap();
        });
        assert!(!path.exists());
        // It cannot be listed, so only root could remove it otherwise.
        area.remove();
        fs::remove_dir_all(all).unwrap();
    }

    #[test]
    fn what_takes_long_to_remove_is_left_to_another_thread() {
        let (all, area) = area("slow");
        let scratch = area.take(None, None).unwrap();
        let path = scratch.path().to_path_buf();
        fs::create_dir_all(path.join("a/b")).unwrap();
        fs::write(path.join("a/b/file"), "x").unwrap();
        std::mem::forget(scratch);
        area.clear(path.clone(), Duration::ZERO);
        assert!(path.join("a/b/file").exists(), "its own thread has no time");
        remove_all(&area);
        assert!(!path.exists());
        for number in 0..=WAITING_MAX {
            let folder = area.folder.join(number.to_string());
            fs::create_dir_all(folder.join("a")).unwrap();
            area.clear(folder, Duration::ZERO);
        }
        assert_eq!(area.waiting.1.len(), WAITING_MAX);
        assert!(!area.folder.join(WAITING_MAX.to_string()).exists(), "one that cannot wait is removed at once");
        area.remove();
        // What is gone is no error.
        remove_all(&area);
        fs::remove_dir(all).unwrap();
    }

    #[test]
    fn an_untouched_folder_serves_again_under_another_name_and_one_that_was_opened_to_others_does_not() {
        let (all, area) = area("again");
        let first = area.take(None, None).unwrap();
        let (path, inode) = (first.path().to_path_buf(), fs::metadata(first.path()).unwrap().ino());
        drop(first);
        let scratch = area.take(None, None).unwrap();
        assert_eq!(fs::metadata(scratch.path()).unwrap().ino(), inode);
        assert_ne!(scratch.path(), path);
        assert!(!path.exists());
        fs::set_permissions(scratch.path(), Permissions::from_mode(0o777)).unwrap();
        drop(scratch);
        assert!(area.empty.lock().unwrap().is_empty());
        // It cannot be listed, so only root could remove it otherwise.
        area.remove();
        fs::remove_dir_all(all).unwrap();
    }

    #[test]
    fn content_is_measured_by_what_it_takes_on_disk() {
        let (all, area) = area("size");
        let scratch = area.take(None, None).unwrap();
        assert!(!holds_more_than(scratch.path(), 0));
        fs::create_dir(scratch.path().join("in")).unwrap();
        fs::write(scratch.path().join("in/file"), vec![1; 100_000]).unwrap();
        assert!(holds_more_than(scratch.path(), 50_000));
        assert!(!holds_more_than(scratch.path(), 200_000));
        let mut deep = scratch.path().join("in");
        while deep.as_os_str().len() < 3900 {
            deep.push("d".repeat(100));
        }
        fs::create_dir_all(&deep).unwrap();
        assert!(!holds_more_than(scratch.path(), 1 << 20));
        fs::rename(scratch.path().join("in"), scratch.path().join("in".repeat(100))).unwrap();
        assert!(holds_more_than(scratch.path(), 1 << 20));
        let mut deep = scratch.path().join("a");
        for _ in 0..SCRATCH_DEPTH_MAX {
            deep.push("a");
        }
        fs::create_dir_all(&deep).unwrap();
        fs::rename(scratch.path().join("in".repeat(100)), scratch.path().join("in")).unwrap();
        assert!(!holds_more_than(scratch.path(), 1 << 20));
        fs::create_dir(deep.join("a")).unwrap();
        assert!(holds_more_than(scratch.path(), 1 << 20));
        drop(scratch);
        area.remove();
        fs::remove_dir(all).unwrap();
    }
}
