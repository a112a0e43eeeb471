//! Paths: path_* and fd_readdir.
//!
//! The kernel resolves a path (openat2(2), RESOLVE_BENEATH), relative to a folder in the module's table: neither `..`,
//! nor an absolute path, nor a symbolic link leads out of it, and no process can change the links between a check and
//! the use. The calls that know no such flag (mkdirat and its kin) get the folder that holds the last name, opened that
//! way, and the last name alone. None of them follows a link in that.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, ResolveFlags, SeekFrom};
use rustix::io::Errno as Os;

use super::Host;
use super::descriptors::{RIGHT_READ, RIGHT_WRITE, file_stat, kind, os_flags, times};
use super::errno::{self, Errno};
use super::guest::Guest;
use crate::limits::ENTRIES_BYTES;

const FOLLOW: u32 = 1;

const CREATE: u32 = 1;
const DIRECTORY: u32 = 2;
const EXCLUSIVE: u32 = 4;
const TRUNCATE: u32 = 8;

impl Host {
    pub(super) fn path_open(
        &mut self,
        mut guest: Guest,
        fd: u32,
        follow: u32,
        path: u32,
        len: u32,
        how: u32,
        base: u64,
        _inheriting: u64,
        flags: u32,
        result: u32,
    ) -> Result<(), Errno> {
        let mut os = os_flags(flags) | OFlags::CLOEXEC | OFlags::NOCTTY;
        os |= match (base & RIGHT_READ != 0, base & RIGHT_WRITE != 0) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            (_, false) => OFlags::RDONLY,
        };
        for (bit, flag) in [(CREATE, OFlags::CREATE), (EXCLUSIVE, OFlags::EXCL), (TRUNCATE, OFlags::TRUNC)] {
            if how & bit != 0 {
                os |= flag;
            }
        }
        if how & DIRECTORY != 0 {
            if how & CREATE != 0 {
                return Err(errno::INVAL);
            }
            if base & RIGHT_WRITE != 0 {
                return Err(errno::ISDIR);
            }
            os = (os - OFlags::RWMODE) | OFlags::DIRECTORY;
        }
        if follow & FOLLOW == 0 {
            os |= OFlags::NOFOLLOW;
        }
        // The kernel rejects a mode if nothing can be created.
        let mode = if how & CREATE != 0 { Mode::from_raw_mode(0o666) } else { Mode::empty() };
        let file = open_beneath(self.files.get(fd)?, guest.path(path, len)?, os, mode)?;
        let number = self.files.add(file);
        guest.put_u32(result, number)
    }

    pub(super) fn path_create_directory(&mut self, guest: Guest, fd: u32, path: u32, len: u32) -> Result<(), Errno> {
        let (folder, name) = self.last_name(&guest, fd, path, len)?;
        Ok(rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o777))?)
    }

    pub(super) fn path_remove_directory(&mut self, guest: Guest, fd: u32, path: u32, len: u32) -> Result<(), Errno> {
        let (folder, name) = self.last_name(&guest, fd, path, len)?;
        Ok(rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?)
    }

    pub(super) fn path_unlink_file(&mut self, guest: Guest, fd: u32, path: u32, len: u32) -> Result<(), Errno> {
        let (folder, name) = self.last_name(&guest, fd, path, len)?;
        Ok(rustix::fs::unlinkat(folder, name, AtFlags::empty())?)
    }

    pub(super) fn path_rename(
        &mut self,
        guest: Guest,
        fd: u32,
        path: u32,
        len: u32,
        new_fd: u32,
        new_path: u32,
        new_len: u32,
    ) -> Result<(), Errno> {
        let (folder, name) = self.last_name(&guest, fd, path, len)?;
        let (new_folder, new_name) = self.last_name(&guest, new_fd, new_path, new_len)?;
        Ok(rustix::fs::renameat(folder, name, new_folder, new_name)?)
    }

    /// A hard link, to a symbolic link itself if it is one. As elsewhere, following it is not supported.
    pub(super) fn path_link(
        &mut self,
        guest: Guest,
        fd: u32,
        follow: u32,
        path: u32,
        len: u32,
        new_fd: u32,
        new_path: u32,
        new_len: u32,
    ) -> Result<(), Errno> {
        if follow & FOLLOW != 0 {
            return Err(errno::INVAL);
        }
        let (folder, name) = self.last_name(&guest, fd, path, len)?;
        let (new_folder, new_name) = self.last_name(&guest, new_fd, new_path, new_len)?;
        Ok(rustix::fs::linkat(folder, name, new_folder, new_name, AtFlags::empty())?)
    }

    /// An absolute target is rejected: it could only lead outside.
    pub(super) fn path_symlink(
        &mut self,
        guest: Guest,
        target: u32,
        target_len: u32,
        fd: u32,
        path: u32,
        len: u32,
    ) -> Result<(), Errno> {
        let target = guest.path(target, target_len)?;
        if target.first() == Some(&b'/') {
            return Err(errno::NOTCAPABLE);
        }
        let (folder, name) = self.last_name(&guest, fd, path, len)?;
        Ok(rustix::fs::symlinkat(target, folder, name)?)
    }

    pub(super) fn path_readlink(
        &mut self,
        mut guest: Guest,
        fd: u32,
        path: u32,
        len: u32,
        buffer: u32,
        buffer_len: u32,
        result: u32,
    ) -> Result<(), Errno> {
        let target = {
            let (folder, name) = self.last_name(&guest, fd, path, len)?;
            rustix::fs::readlinkat(folder, name, Vec::new())?.into_bytes()
        };
        let count = target.len().min(buffer_len as usize);
        guest.put(buffer, &target[..count])?;
        guest.put_u32(result, count as u32)
    }

    pub(super) fn path_filestat_get(
        &mut self,
        mut guest: Guest,
        fd: u32,
        follow: u32,
        path: u32,
        len: u32,
        result: u32,
    ) -> Result<(), Errno> {
        let file = self.locate(&guest, fd, follow, path, len)?;
        guest.put(result, &file_stat(&rustix::fs::fstat(file)?))
    }

    pub(super) fn path_filestat_set_times(
        &mut self,
        guest: Guest,
        fd: u32,
        follow: u32,
        path: u32,
        len: u32,
        accessed: u64,
        modified: u64,
        which: u32,
    ) -> Result<(), Errno> {
        let file = self.locate(&guest, fd, follow, path, len)?;
        Ok(rustix::fs::utimensat(file, c"", &times(accessed, modified, which)?, AtFlags::EMPTY_PATH)?)
    }

    /// dirent, 24 bytes: where to continue (0), inode (8), length of the name (16), kind (20); then the name. An entry
    /// that does not fit is cut off, and a buffer that is not full means the end.
    pub(super) fn fd_readdir(
        &mut self,
        mut guest: Guest,
        fd: u32,
        buffer: u32,
        len: u32,
        cookie: u64,
        result: u32,
    ) -> Result<(), Errno> {
        let folder = self.files.get(fd)?;
        let target = guest.bytes_mut(buffer, len)?;
        rustix::fs::seek(folder, SeekFrom::Start(cookie))?;
        let mut room = [MaybeUninit::uninit(); ENTRIES_BYTES];
        let mut entries = RawDir::new(folder, &mut room);
        let mut used = 0;
        while let Some(entry) = entries.next().transpose()? {
            let name = entry.file_name().to_bytes();
            let mut head = [0; 24];
            head[..8].copy_from_slice(&entry.next_entry_cookie().to_le_bytes());
            head[8..16].copy_from_slice(&entry.ino().to_le_bytes());
            head[16..20].copy_from_slice(&(name.len() as u32).to_le_bytes());
            head[20] = kind(entry.file_type());
            for part in [&head[..], name] {
                let count = part.len().min(target.len() - used);
                target[used..used + count].copy_from_slice(&part[..count]);
                used += count;
            }
            if used == target.len() {
                break;
            }
        }
        guest.put_u32(result, used as u32)
    }

    /// The file at a path, opened without any right to its content.
    fn locate(&self, guest: &Guest, fd: u32, follow: u32, path: u32, len: u32) -> Result<OwnedFd, Errno> {
        let nofollow = if follow & FOLLOW == 0 { OFlags::NOFOLLOW } else { OFlags::empty() };
        let os = OFlags::PATH | OFlags::CLOEXEC | nofollow;
        open_beneath(self.files.get(fd)?, guest.path(path, len)?, os, Mode::empty())
    }

    /// The folder that holds a path's last name, and that name. A slash at the end stays with the name: it tells the
    /// kernel that the path means a folder.
    fn last_name<'a>(
        &'a self,
        guest: &'a Guest,
        fd: u32,
        path: u32,
        len: u32,
    ) -> Result<(Folder<'a>, &'a [u8]), Errno> {
        let start = self.files.get(fd)?;
        let path = guest.path(path, len)?;
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        match path[..end].iter().rposition(|byte| *byte == b'/') {
            _ if end == 0 => Err(if path.is_empty() { errno::NOENT } else { errno::NOTCAPABLE }),
            None => Ok((Folder::Start(start), path)),
            Some(slash) => {
                let os = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let folder = open_beneath(start, &path[..=slash], os, Mode::empty())?;
                Ok((Folder::Opened(folder), &path[slash + 1..]))
            }
        }
    }
}

enum Folder<'a> {
    Start(BorrowedFd<'a>),
    Opened(OwnedFd),
}

impl AsFd for Folder<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Folder::Start(fd) => *fd,
            Folder::Opened(fd) => fd.as_fd(),
        }
    }
}

fn open_beneath(folder: BorrowedFd<'_>, path: &[u8], os: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    loop {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(folder, path, os, mode, resolve) {
            // Because of a rename elsewhere, the kernel could not be sure about a `..`.
            Err(Os::AGAIN | Os::INTR) => {}
            // The kernel reports in this way that the path leads out.
            Err(Os::XDEV) => return Err(errno::NOTCAPABLE),
            result => return Ok(result?),
        }
    }
}
