//! Project quotas of scratch folders: a bound of their blocks and entries that the kernel itself keeps, where the file
//! system has such quotas (ext4 and XFS, mounted with prjquota) and we may set them.
//!
//! A file that is made in a folder belongs to the folder's project until it is gone: also deleted, mapped, or in a
//! message of a Unix socket, where no sample finds it. Nothing is assumed: the platform asks if the limits are enforced,
//! and reads back each that it sets.
//!
//! A function owns its files, and the kernel lets an owner put them into another project. So seccomp takes that from it
//! (sys/seccomp.rs), and Landlock keeps it from moving a file to where it would take the project along. Where a row
//! lists folders under `write`, both may be one file system, and a file may move there; so its scratch folder has none.
//!
//! The id of a folder's project follows from its inode number, so that no two folders of a file system share one,
//! whichever gateway they serve. It is not taken if files belong to it, if /etc/projid or /etc/projects names it, or if
//! it has limits other than ours.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::limits::SCRATCH_ENTRIES_MAX;
use crate::sys::{self, Quota};

/// Ids of our projects. Administrators and container engines count upwards: from 1, and Kubernetes from 2^20.
const FIRST: u32 = 1 << 30;
const COUNT: u32 = 1 << 30;
/// Ids that are tried for one folder. Files that an ended function had put into messages may keep one for a moment.
const TRIES: u32 = 64;
/// Limit of inodes: the folder itself, and one entry more than an invocation may have, so that a sample sees the excess.
/// No other program sets this number, by which ours are known.
const INODES_MAX: u64 = SCRATCH_ENTRIES_MAX + 2;
/// Bytes above an invocation's limit at which the kernel refuses more. So a sample sees the excess, and ends the
/// invocation with a clear answer, and the refusal is for growth between two samples.
const GRACE_BYTES: u64 = 1 << 20;
/// Bytes that the empty folder itself may take.
const EMPTY_BYTES_MAX: u64 = 64 << 10;
/// Limits that one sweep removes.
const SWEPT_MAX: usize = 65_536;

/// The project quotas of one file system.
pub struct Projects {
    file_system: File,
    /// Ids that files of the administrator name.
    named: HashSet<u32>,
}

/// The project of a scratch folder.
pub struct Project {
    id: u32,
    /// Bytes that the invocation may have there.
    bytes_max: u64,
}

impl Projects {
    /// `None` if the file system of `folder` has no such quotas, or we may not set them.
    pub fn new(folder: &Path) -> Option<Projects> {
        let file_system = File::open(folder).ok().filter(|folder| sys::has_project_quotas(folder.as_fd()))?;
        let lists = ["/etc/projid", "/etc/projects"].map(|path| fs::read_to_string(path).unwrap_or_default());
        let named = lists.iter().flat_map(|list| list.split([':', '\n'])).filter_map(|word| word.parse().ok());
        let projects = Projects { named: named.collect(), file_system };
        projects.quota(FIRST).ok()?;
        projects.sweep();
        Some(projects)
    }

    /// Puts an empty folder into a project of its own. `None` if that does not work; then samples alone bound it.
    pub fn take(&self, folder: &Path) -> Option<Project> {
        let folder = File::open(folder).ok()?;
        let first = folder.metadata().ok()?.ino() as u32;
        let ids = (0..TRIES).map(|try_number| FIRST + first.wrapping_add(try_number) % COUNT);
        let id = ids.filter(|id| !self.named.contains(id)).find(|id| self.quota(*id).is_ok_and(is_free))?;
        sys::set_project(folder.as_fd(), id).ok()?;
        let is_alone = self.quota(id).is_ok_and(|quota| quota.inodes == 1);
        is_alone.then_some(Project { id, bytes_max: u64::MAX })
    }

    /// Lets an invocation have `bytes_max` in the folder of this project. The kernel must answer that it does.
    pub fn bound(&self, project: &mut Project, bytes_max: u64) -> io::Result<()> {
        if project.bytes_max == bytes_max {
            return Ok(());
        }
        let bound = bytes_max + GRACE_BYTES;
        sys::set_project_quota(self.file_system.as_fd(), project.id, bound, INODES_MAX)?;
        let quota = self.quota(project.id)?;
        if (quota.bytes_max, quota.inodes_max) != (bound, INODES_MAX) {
            return Err(io::Error::other("the limit was not kept"));
        }
        project.bytes_max = bytes_max;
        Ok(())
    }

    /// True if the invocation has more in its folder than it may. Counts files of which no sample knows.
    pub fn is_exceeded(&self, project: &Project) -> bool {
        let is_more = |quota: Quota| quota.bytes > project.bytes_max || quota.inodes > SCRATCH_ENTRIES_MAX + 1;
        self.quota(project.id).is_ok_and(is_more)
    }

    /// True if nothing but the folder itself belongs to the project, and its limit has stayed.
    pub fn is_as_made(&self, project: &Project) -> bool {
        let is_as_made =
            |quota: Quota| quota.inodes_max == INODES_MAX && quota.inodes == 1 && quota.bytes <= EMPTY_BYTES_MAX;
        self.quota(project.id).is_ok_and(is_as_made)
    }

    fn quota(&self, id: u32) -> io::Result<Quota> {
        sys::project_quota(self.file_system.as_fd(), id)
    }

    /// Removes the limits of projects without files: those that we have set, and those of workers that were killed. One
    /// that another worker takes at that very moment may lose its limit for one invocation.
    pub fn sweep(&self) {
        let mut from = FIRST;
        for _ in 0..SWEPT_MAX {
            let Some((id, quota)) = sys::next_project_quota(self.file_system.as_fd(), from) else { return };
            if id >= FIRST + COUNT {
                return;
            }
            if quota.inodes_max == INODES_MAX && is_free(quota) {
                let _ = sys::set_project_quota(self.file_system.as_fd(), id, 0, 0);
            }
            from = id + 1;
        }
    }
}

/// True if no file belongs to the project, and its limits are none or ours. A limit of ours may be left of a folder that
/// is gone.
fn is_free(quota: Quota) -> bool {
    let is_ours = quota.inodes_max == INODES_MAX || (quota.bytes_max, quota.inodes_max) == (0, 0);
    is_ours && (quota.bytes, quota.inodes) == (0, 0)
}
