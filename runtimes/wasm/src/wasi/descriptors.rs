//! Open files: fd_* and sock_*, each by the matching call of the kernel.
//!
//! A module's descriptor is an index into a table, not the kernel's number: so a module can only reach files in the
//! table. The table holds the three streams, then the folders opened to the module, then the files that it opens
//! itself. The kernel keeps flags, kinds and positions. Rights, which preview 1 has and its successors gave up, are not
//! kept: the reported ones follow from a file's kind and from how it was opened, by which the kernel judges.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Advice, FallocateFlags, FileType, OFlags, SeekFrom, Stat, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno as Os;
use rustix::time::Timespec;

use super::Host;
use super::errno::{self, Errno};
use super::guest::Guest;

const RIGHTS_ALL: u64 = (1 << 30) - 1;
pub const RIGHT_READ: u64 = 1 << 1;
pub const RIGHT_WRITE: u64 = 1 << 6;
/// FD_SEEK and FD_TELL. wasi-libc takes a file without them for a terminal (isatty).
const RIGHTS_OF_POSITION: u64 = 1 << 2 | 1 << 5;
/// Rights to a file's content, which a folder never has: reading, writing, positions, allocation, size.
const RIGHTS_OF_CONTENT: u64 = RIGHT_READ | RIGHT_WRITE | RIGHTS_OF_POSITION | 1 << 8 | 1 << 22;
/// path_filestat_set_size, for which preview 1 has no function.
const RIGHT_SIZE_BY_PATH: u64 = 1 << 19;

/// The flags that a descriptor can have, as (WASI's, the kernel's).
pub const FLAGS: [(u32, OFlags); 5] =
    [(1, OFlags::APPEND), (2, OFlags::DSYNC), (4, OFlags::NONBLOCK), (8, OFlags::RSYNC), (16, OFlags::SYNC)];

/// The files that are open to the module.
pub struct Files(Vec<Option<Open>>);

enum Open {
    /// 0, 1 or 2 of the process. Never closed: the next file would get the number, and our last messages on stderr. A
    /// stream that the module closes is replaced by /dev/null, so that the other end of a pipe sees the close.
    Standard(BorrowedFd<'static>),
    File(OwnedFd),
    /// A folder that was opened to the module, under this name.
    Folder(OwnedFd, Vec<u8>),
}

impl Open {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Open::Standard(fd) => *fd,
            Open::File(fd) | Open::Folder(fd, _) => fd.as_fd(),
        }
    }

    fn close(self) {
        let Open::Standard(fd) = self else { return };
        let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") else { return };
        // A failure leaves the stream open, which does no harm.
        let _ = match std::os::fd::AsRawFd::as_raw_fd(&fd) {
            0 => rustix::stdio::dup2_stdin(null),
            1 => rustix::stdio::dup2_stdout(null),
            // This program needs it for its own messages: a trap's, and the one about short memory.
            _ => Ok(()),
        };
    }
}

impl Files {
    pub fn new() -> Files {
        let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        Files(streams.map(|fd| Some(Open::Standard(fd))).into())
    }

    pub fn add_folder(&mut self, folder: OwnedFd, name: Vec<u8>) {
        self.0.push(Some(Open::Folder(folder, name)));
    }

    /// Adds a file at the lowest free number, as open(2) does.
    pub fn add(&mut self, file: OwnedFd) -> u32 {
        let free = self.0.iter().position(Option::is_none).unwrap_or(self.0.len());
        if free == self.0.len() {
            self.0.push(None);
        }
        self.0[free] = Some(Open::File(file));
        free as u32
    }

    fn open(&self, fd: u32) -> Result<&Open, Errno> {
        self.0.get(fd as usize).and_then(Option::as_ref).ok_or(errno::BADF)
    }

    pub fn get(&self, fd: u32) -> Result<BorrowedFd<'_>, Errno> {
        self.open(fd).map(Open::as_fd)
    }

    fn take(&mut self, fd: u32) -> Result<Open, Errno> {
        self.0.get_mut(fd as usize).and_then(Option::take).ok_or(errno::BADF)
    }

    fn folder_name(&self, fd: u32) -> Result<&[u8], Errno> {
        match self.open(fd)? {
            Open::Folder(_, name) => Ok(name),
            _ => Err(errno::BADF),
        }
    }
}

impl Host {
    pub(super) fn fd_advise(&mut self, _: Guest, fd: u32, at: u64, len: u64, advice: u32) -> Result<(), Errno> {
        let advice = match advice {
            0 => Advice::Normal,
            1 => Advice::Sequential,
            2 => Advice::Random,
            3 => Advice::WillNeed,
            4 => Advice::DontNeed,
            5 => Advice::NoReuse,
            _ => return Err(errno::INVAL),
        };
        Ok(rustix::fs::fadvise(self.files.get(fd)?, at, len.try_into().ok(), advice)?)
    }

    pub(super) fn fd_allocate(&mut self, _: Guest, fd: u32, at: u64, len: u64) -> Result<(), Errno> {
        Ok(rustix::fs::fallocate(self.files.get(fd)?, FallocateFlags::empty(), at, len)?)
    }

    pub(super) fn fd_close(&mut self, _: Guest, fd: u32) -> Result<(), Errno> {
        self.files.take(fd)?.close();
        Ok(())
    }

    pub(super) fn fd_datasync(&mut self, _: Guest, fd: u32) -> Result<(), Errno> {
        Ok(rustix::fs::fdatasync(self.files.get(fd)?)?)
    }

    pub(super) fn fd_sync(&mut self, _: Guest, fd: u32) -> Result<(), Errno> {
        Ok(rustix::fs::fsync(self.files.get(fd)?)?)
    }

    /// fdstat, 24 bytes: kind (0), flags (2), rights (8), rights of files opened through it (16).
    pub(super) fn fd_fdstat_get(&mut self, mut guest: Guest, fd: u32, result: u32) -> Result<(), Errno> {
        let fd = self.files.get(fd)?;
        let kind = kind(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode));
        let os_flags = rustix::fs::fcntl_getfl(fd)?;
        let flags = FLAGS.iter().filter(|(_, os)| os_flags.contains(*os)).map(|(flag, _)| *flag).sum::<u32>();
        let (rights, inheriting) = rights(kind, os_flags);
        let mut stat = [0; 24];
        stat[0] = kind;
        stat[2..4].copy_from_slice(&(flags as u16).to_le_bytes());
        stat[8..16].copy_from_slice(&rights.to_le_bytes());
        stat[16..].copy_from_slice(&inheriting.to_le_bytes());
        guest.put(result, &stat)
    }

    pub(super) fn fd_fdstat_set_flags(&mut self, _: Guest, fd: u32, flags: u32) -> Result<(), Errno> {
        let fd = self.files.get(fd)?;
        let settable = OFlags::APPEND | OFlags::NONBLOCK;
        let wanted = os_flags(flags) & settable;
        Ok(rustix::fs::fcntl_setfl(fd, (rustix::fs::fcntl_getfl(fd)? & !settable) | wanted)?)
    }

    /// Rights are not kept, so none can be given up; the module gets an error.
    pub(super) fn fd_fdstat_set_rights(&mut self, _: Guest, fd: u32, _: u64, _: u64) -> Result<(), Errno> {
        self.files.get(fd).and(Err(errno::NOTSUP))
    }

    pub(super) fn fd_filestat_get(&mut self, mut guest: Guest, fd: u32, result: u32) -> Result<(), Errno> {
        guest.put(result, &file_stat(&rustix::fs::fstat(self.files.get(fd)?)?))
    }

    pub(super) fn fd_filestat_set_size(&mut self, _: Guest, fd: u32, size: u64) -> Result<(), Errno> {
        Ok(rustix::fs::ftruncate(self.files.get(fd)?, size)?)
    }

    pub(super) fn fd_filestat_set_times(
        &mut self,
        _: Guest,
        fd: u32,
        accessed: u64,
        modified: u64,
        which: u32,
    ) -> Result<(), Errno> {
        Ok(rustix::fs::futimens(self.files.get(fd)?, &times(accessed, modified, which)?)?)
    }

    pub(super) fn fd_read(
        &mut self,
        mut guest: Guest,
        fd: u32,
        buffers: u32,
        count: u32,
        result: u32,
    ) -> Result<(), Errno> {
        let fd = self.files.get(fd)?;
        let read = fill_first(&mut guest, buffers, count, |buffer| rustix::io::read(fd, buffer))?;
        guest.put_u32(result, read as u32)
    }

    pub(super) fn fd_pread(
        &mut self,
        mut guest: Guest,
        fd: u32,
        buffers: u32,
        count: u32,
        at: u64,
        result: u32,
    ) -> Result<(), Errno> {
        let fd = self.files.get(fd)?;
        let read = fill_first(&mut guest, buffers, count, |buffer| rustix::io::pread(fd, buffer, at))?;
        guest.put_u32(result, read as u32)
    }

    pub(super) fn fd_write(
        &mut self,
        mut guest: Guest,
        fd: u32,
        buffers: u32,
        count: u32,
        result: u32,
    ) -> Result<(), Errno> {
        let fd = self.files.get(fd)?;
        let written = {
            let slices = slices(&guest, buffers, count)?;
            match &slices[..] {
                [one] => uninterrupted(|| rustix::io::write(fd, one))?,
                all => uninterrupted(|| rustix::io::writev(fd, all))?,
            }
        };
        guest.put_u32(result, written as u32)
    }

    pub(super) fn fd_pwrite(
        &mut self,
        mut guest: Guest,
        fd: u32,
        buffers: u32,
        count: u32,
        at: u64,
        result: u32,
    ) -> Result<(), Errno> {
        let fd = self.files.get(fd)?;
        let written = {
            let slices = slices(&guest, buffers, count)?;
            uninterrupted(|| rustix::io::pwritev(fd, &slices, at))?
        };
        guest.put_u32(result, written as u32)
    }

    /// prestat, 8 bytes: the tag (0: a folder), the length of its name (4).
    pub(super) fn fd_prestat_get(&mut self, mut guest: Guest, fd: u32, result: u32) -> Result<(), Errno> {
        let len = self.files.folder_name(fd)?.len() as u32;
        guest.put_u32(result, 0)?;
        guest.put_u32(super::offset(result, 4)?, len)
    }

    pub(super) fn fd_prestat_dir_name(&mut self, mut guest: Guest, fd: u32, at: u32, len: u32) -> Result<(), Errno> {
        let name = self.files.folder_name(fd)?;
        if name.len() > len as usize {
            return Err(errno::NAMETOOLONG);
        }
        guest.put(at, name)
    }

    pub(super) fn fd_renumber(&mut self, _: Guest, from: u32, to: u32) -> Result<(), Errno> {
        self.files.get(to)?;
        let open = self.files.take(from)?;
        // If both are the same, it has just been taken out, and no old one exists.
        if let Some(old) = self.files.0[to as usize].replace(open) {
            old.close();
        }
        Ok(())
    }

    pub(super) fn fd_seek(
        &mut self,
        mut guest: Guest,
        fd: u32,
        by: i64,
        whence: u32,
        result: u32,
    ) -> Result<(), Errno> {
        let to = match whence {
            0 => SeekFrom::Start(by.try_into().map_err(|_| errno::INVAL)?),
            1 => SeekFrom::Current(by),
            2 => SeekFrom::End(by),
            _ => return Err(errno::INVAL),
        };
        guest.put_u64(result, rustix::fs::seek(not_a_folder(self.files.get(fd)?)?, to)?)
    }

    pub(super) fn fd_tell(&mut self, mut guest: Guest, fd: u32, result: u32) -> Result<(), Errno> {
        guest.put_u64(result, rustix::fs::tell(not_a_folder(self.files.get(fd)?)?)?)
    }

    // No descriptor of a module is a socket.

    pub(super) fn sock_accept(&mut self, _: Guest, fd: u32, _: u32, _: u32) -> Result<(), Errno> {
        self.files.get(fd).and(Err(errno::NOTSOCK))
    }

    pub(super) fn sock_recv(&mut self, _: Guest, fd: u32, _: u32, _: u32, _: u32, _: u32, _: u32) -> Result<(), Errno> {
        self.files.get(fd).and(Err(errno::NOTSOCK))
    }

    pub(super) fn sock_send(&mut self, _: Guest, fd: u32, _: u32, _: u32, _: u32, _: u32) -> Result<(), Errno> {
        self.files.get(fd).and(Err(errno::NOTSOCK))
    }

    pub(super) fn sock_shutdown(&mut self, _: Guest, fd: u32, _: u32) -> Result<(), Errno> {
        self.files.get(fd).and(Err(errno::NOTSOCK))
    }
}

/// The rights of an open file, and of files opened through it.
fn rights(kind: u8, os_flags: OFlags) -> (u64, u64) {
    let not_opened_for = match os_flags & OFlags::RWMODE {
        _ if kind == KIND_DIRECTORY => return (RIGHTS_ALL & !RIGHTS_OF_CONTENT & !RIGHT_SIZE_BY_PATH, RIGHTS_ALL),
        OFlags::WRONLY => RIGHT_READ,
        OFlags::RDONLY => RIGHT_WRITE,
        _ => 0,
    };
    let position = if kind == KIND_CHARACTER_DEVICE { RIGHTS_OF_POSITION } else { 0 };
    (RIGHTS_ALL & !not_opened_for & !position, RIGHTS_ALL & !not_opened_for)
}

/// Rejects a folder: the kernel would move its position, which fd_readdir uses.
fn not_a_folder(fd: BorrowedFd<'_>) -> Result<BorrowedFd<'_>, Errno> {
    match FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) {
        FileType::Directory => Err(errno::BADF),
        _ => Ok(fd),
    }
}

const KIND_CHARACTER_DEVICE: u8 = 2;
const KIND_DIRECTORY: u8 = 3;

pub fn kind(kind: FileType) -> u8 {
    match kind {
        FileType::BlockDevice => 1,
        FileType::CharacterDevice => KIND_CHARACTER_DEVICE,
        FileType::Directory => KIND_DIRECTORY,
        FileType::RegularFile => 4,
        FileType::Socket => 6,
        FileType::Symlink => 7,
        _ => 0,
    }
}

pub fn os_flags(flags: u32) -> OFlags {
    FLAGS.iter().filter(|(flag, _)| flags & flag != 0).fold(OFlags::empty(), |all, (_, os)| all | *os)
}

/// filestat, 64 bytes: device (0), inode (8), kind (16), links (24), size (32), times in ns of access (40), change of
/// content (48), change of attributes (56).
#[allow(clippy::unnecessary_cast, reason = "the fields' types differ from one architecture to the next")]
pub fn file_stat(stat: &Stat) -> [u8; 64] {
    let time = |seconds: i64, nanoseconds: u64| (seconds as u64).wrapping_mul(1_000_000_000).wrapping_add(nanoseconds);
    let mut bytes = [0; 64];
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, stat.st_dev);
    put(8, stat.st_ino);
    put(16, kind(FileType::from_raw_mode(stat.st_mode)).into());
    put(24, stat.st_nlink as u64);
    put(32, stat.st_size as u64);
    put(40, time(stat.st_atime, stat.st_atime_nsec as u64));
    put(48, time(stat.st_mtime, stat.st_mtime_nsec as u64));
    put(56, time(stat.st_ctime, stat.st_ctime_nsec as u64));
    bytes
}

/// The times to set: bits 0 and 1 of `which` are for the access time, given and now, 2 and 3 for the change.
pub fn times(accessed: u64, modified: u64, which: u32) -> Result<Timestamps, Errno> {
    let time = |bits: u32, value: u64| match bits {
        0 => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }),
        1 => Ok(Timespec { tv_sec: (value / 1_000_000_000) as i64, tv_nsec: (value % 1_000_000_000) as i64 }),
        2 => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_NOW }),
        _ => Err(errno::INVAL),
    };
    Ok(Timestamps { last_access: time(which & 3, accessed)?, last_modification: time(which >> 2 & 3, modified)? })
}

fn slices<'a>(guest: &'a Guest, buffers: u32, count: u32) -> Result<Vec<IoSlice<'a>>, Errno> {
    guest.pieces(buffers, count).map(|piece| Ok(IoSlice::new(guest.bytes(piece?.at, piece?.len)?))).collect()
}

/// Fills the first buffer that is not empty: a caller that wants more asks again, as after any short read.
fn fill_first(
    guest: &mut Guest,
    buffers: u32,
    count: u32,
    read: impl Fn(&mut [u8]) -> Result<usize, Os>,
) -> Result<usize, Errno> {
    let Some(piece) = guest.pieces(buffers, count).next().transpose()? else { return Ok(0) };
    let buffer = guest.bytes_mut(piece.at, piece.len)?;
    Ok(uninterrupted(|| read(buffer))?)
}

fn uninterrupted<T>(mut call: impl FnMut() -> Result<T, Os>) -> Result<T, Os> {
    loop {
        match call() {
            Err(Os::INTR) => {}
            result => return result,
        }
    }
}
