//! Project quotas (quotactl(2), ioctl_fs(2) of linux/fs.h): bounds of the space that all files of a project take. libc
//! has neither the structs nor the numbers.
//!
//! A folder that hands its project down has each file that is made in it belong to that project, as long as the file
//! exists: deleted, mapped, or on its way in a message.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;

/// PRJQUOTA.
const OF_PROJECTS: u32 = 2;
/// Q_XGETQSTATV of linux/dqblk_xfs.h; ext4 answers it, too.
const GET_STATE: u32 = 0x5808;
/// FS_QUOTA_PDQ_ENFD in the second word of its answer.
const IS_ENFORCED: u16 = 1 << 5;
/// Q_GETQUOTA, Q_SETQUOTA and Q_GETNEXTQUOTA of linux/quota.h.
const GET: u32 = 0x80_0007;
const SET: u32 = 0x80_0008;
const GET_NEXT: u32 = 0x80_0009;
/// QIF_LIMITS: limits of blocks and of inodes are to be set.
const LIMITS: u32 = 0b101;
/// The unit of limits of blocks.
const BLOCK_BYTES: u64 = 1024;

/// FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR.
const GET_ATTRIBUTES: u64 = 0x801c_581f;
pub(super) const SET_ATTRIBUTES: u32 = 0x401c_5820;
/// FS_XFLAG_PROJINHERIT.
const HANDS_DOWN: u32 = 0x200;

/// struct if_nextdqblk, which begins as struct if_dqblk.
#[repr(C)]
#[derive(Default)]
struct Block {
    blocks_max: u64,
    blocks_soft: u64,
    bytes: u64,
    inodes_max: u64,
    inodes_soft: u64,
    inodes: u64,
    times: [u64; 2],
    valid: u32,
    id: u32,
}

/// struct fsxattr.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_bytes: u32,
    extents: u32,
    project: u32,
    rest: [u32; 3],
}

/// What a project may take and takes. No limit is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    pub bytes_max: u64,
    pub inodes_max: u64,
    pub bytes: u64,
    pub inodes: u64,
}

/// True if the file system of `folder` refuses what exceeds the limits of projects.
pub fn has_project_quotas(folder: BorrowedFd<'_>) -> bool {
    // struct fs_quota_statv has 168 bytes. The caller sets its version in the first.
    let mut state = [0u16; 128];
    state[0] = 1;
    control(folder, GET_STATE, 0, &mut state).is_ok() && state[1] & IS_ENFORCED != 0
}

/// # Errors
/// Without the right to look (CAP_SYS_ADMIN), or without quotas.
pub fn project_quota(folder: BorrowedFd<'_>, project: u32) -> io::Result<Quota> {
    let mut block = Block::default();
    match control(folder, GET, project, &mut block) {
        // XFS knows only projects that have, or had, a file or a limit.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Quota::default()),
        result => result.map(|()| block.quota()),
    }
}

/// The first project from `project` on that has a limit or a file; `None` if there is none.
pub fn next_project_quota(folder: BorrowedFd<'_>, project: u32) -> Option<(u32, Quota)> {
    let mut block = Block::default();
    control(folder, GET_NEXT, project, &mut block).ok()?;
    Some((block.id, block.quota()))
}

/// Sets the limits of a project. The kernel counts bytes in steps of 1,024.
pub fn set_project_quota(folder: BorrowedFd<'_>, project: u32, bytes_max: u64, inodes_max: u64) -> io::Result<()> {
    let blocks_max = bytes_max / BLOCK_BYTES;
    control(folder, SET, project, &mut Block { blocks_max, inodes_max, valid: LIMITS, ..Block::default() })
}

/// Puts a folder into a project, and with it all that is made in it from now on.
pub fn set_project(folder: BorrowedFd<'_>, project: u32) -> io::Result<()> {
    let mut attributes = Attributes::default();
    // SAFETY: the kernel writes a struct fsxattr, which this is.
    check(unsafe { libc::ioctl(folder.as_raw_fd(), GET_ATTRIBUTES as _, &raw mut attributes) })?;
    attributes.project = project;
    attributes.flags |= HANDS_DOWN;
    // SAFETY: the kernel reads a struct fsxattr, which this is.
    check(unsafe { libc::ioctl(folder.as_raw_fd(), SET_ATTRIBUTES as _, &raw const attributes) }).map(drop)
}

impl Block {
    fn quota(&self) -> Quota {
        let bytes_max = self.blocks_max * BLOCK_BYTES;
        Quota { bytes_max, inodes_max: self.inodes_max, bytes: self.bytes, inodes: self.inodes }
    }
}

/// quotactl_fd(2), since Linux 5.14. `T` is at least as long as what the kernel writes for this command.
fn control<T>(folder: BorrowedFd<'_>, command: u32, project: u32, argument: &mut T) -> io::Result<()> {
    let command = command << 8 | OF_PROJECTS;
    let (call, folder) = (libc::SYS_quotactl_fd, folder.as_raw_fd());
    // SAFETY: the kernel reads and writes within the argument, which is of plain integers.
    check(unsafe { libc::syscall(call, folder, command, project, std::ptr::from_mut(argument)) } as c_int).map(drop)
}
