//! Reads the registry without any effect on writers.
//!
//! A plain `sqlite3` program does not wait for a lock: if another program holds one, its INSERT fails with "database is
//! locked". Every SQLite reader takes locks: in rollback mode while it reads, in WAL mode while it recovers a -wal that
//! a killed program left. A reader that is open when the last writer closes also makes the writer leave its -wal
//! behind, and a plain `cp` then lacks rows.
//!
//! So the gateway never opens the registry itself with SQLite. It reads the files as plain bytes, without any lock, and
//! gives SQLite a private copy:
//!
//! 1. Bring the copy of the database up to date: compare it by chunks, and write those that differ. Skip this if the
//!    database has not changed since the last snapshot, as is usual in WAL mode, where a commit writes only the -wal.
//!    Skip it also where the -wal has grown since: then only a checkpoint wrote to the database, and the pages of a
//!    checkpoint are in that -wal too. Then copy the valid part of the -wal, and the -journal. A missing file counts
//!    as empty.
//! 2. Read all of them a second time and compare with the copy. Equal bytes prove that the files had just these bytes
//!    in the moment between the two readings. The database need not be read again if its stamp is the same as before
//!    step 1 and was no longer young then (stamps.rs), nor behind a checkpoint, if the -wal did not begin anew before
//!    it was copied. Of the -wal only the part read first must be equal: it grows at its end, and its first part is a
//!    whole state by itself. It was read after the database, so it has every page that a checkpoint may have written
//!    there.
//! 3. Unequal bytes mean that a writer was at work: try again, a few times now, else in the next look.
//!
//! Such a snapshot equals the state that a power failure at that moment would leave on the disk. SQLite promises to
//! recover the last committed state from that: it replays the copy's -wal, or rolls its -journal back (tables.rs). So
//! the reader sees a transaction whole or not at all, even one whose writer was killed with SIGKILL. This works where
//! the gateway may not write, and leaves no -wal or -shm beside the registry.
//!
//! The price: the run dir holds a copy of the database while the gateway runs. Making a new copy at each change took
//! four times as long: with 1,000 modules of 20 KB and their history, the file has 45 MB.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::files::{JOURNAL, WAL, remove_database, remove_logs, with_suffix};
use super::stamps::Stamp;

/// Bytes of each file of the registry; a larger file is no registry. SQLite's own limit for one blob is half of it.
const FILE_BYTES_MAX: u64 = 4 << 30;

/// Bytes in which files are copied and compared: two of these stay in a processor's cache.
const CHUNK_BYTES: usize = 128 * 1024;

/// The begin of a -wal. Each generation has salts of its own in it, which change when the file begins anew
/// (https://www.sqlite.org/fileformat2.html, 4.1).
type WalHeader = [u8; 32];

/// Attempts at one snapshot while writers are busy. Each takes about a millisecond with 10,000 routes, and sixteen outlast
/// the write of any single sqlite3 program.
const ATTEMPTS_MAX: u32 = 16;

/// The gateway's private copy of the registry. Dropping it removes the copy.
pub struct Snapshot {
    copy: PathBuf,
    /// Stamp of the database that the copy equals; `None` if no stamp proves that.
    copied: Option<Stamp>,
    /// Where a checkpoint has written to the database since: the header of the -wal that has its pages.
    behind: Option<WalHeader>,
    /// The copy has been read, so it need not be read again while the registry equals it.
    is_read: bool,
}

/// The result of taking a snapshot.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// The copy equals the registry at one moment.
    New,
    /// It does, and [`Snapshot::set_read`] was called for the same bytes. Times of files have a grain, so a look that
    /// comes right after a commit cannot tell that nothing came after it; the next look compares the bytes.
    Same,
    /// The database has caught up with the -wal that was read, and so has the copy. That takes long enough: the next look
    /// should read it.
    CaughtUp,
    /// Writers were at work in every attempt; the copy is invalid.
    Busy,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        remove_database(&self.copy);
    }
}

impl Snapshot {
    /// `copy` is a path that belongs to the gateway alone. A file that an earlier gateway left there is updated.
    pub fn new(copy: PathBuf) -> Snapshot {
        Snapshot { copy, copied: None, behind: None, is_read: false }
    }

    pub fn path(&self) -> &Path {
        &self.copy
    }

    /// Tells if the copy was read to its end, and its state is in service: then the same bytes need not be read again.
    pub fn set_read(&mut self, is_read: bool) {
        self.is_read = is_read;
    }

    /// True if the copy of the database is older than the database, though the copy of the -wal makes up for it. Another
    /// snapshot should follow soon: once the -wal begins anew, the copy must be brought up to date while a commit waits.
    pub fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// Makes the copy equal to the registry at one moment. Must be called before each reading, since SQLite may change
    /// the copy.
    pub fn take(&mut self, db: &Path) -> io::Result<Taken> {
        let taken = self.attempts(db);
        if taken.is_err() {
            // The disk may be full: removing the copy frees space.
            remove_database(&self.copy);
            self.copied = None;
        }
        taken
    }

    fn attempts(&mut self, db: &Path) -> io::Result<Taken> {
        if let Some(folder) = self.copy.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(|cause| could_not_write(&self.copy, cause))?;
        }
        for _ in 0..ATTEMPTS_MAX {
            let now = SystemTime::now();
            let before = Stamp::of(db);
            let is_current = before.is_some() && self.copied == before;
            let was_behind = self.is_read && self.is_behind();
            self.behind = if !is_current && self.is_read { self.wal_that_goes_on(db, &before)? } else { None };
            if self.is_read && !self.is_behind() && self.equals(db, &before, now)? {
                return Ok(Taken::Same);
            }
            self.is_read = false;
            if !is_current && !self.is_behind() {
                self.copied = None;
                update(db, &self.copy)?;
            }
            let is_caught_up = was_behind && !self.is_behind() && self.logs_are_equal(db)?;
            if !is_caught_up {
                self.copy_logs(db)?;
            }
            if self.holds(db, &before, now)? {
                // SQLite rolls a -journal back into the copy, which then differs from the database.
                if with_suffix(&self.copy, JOURNAL).exists() {
                    self.copied = None;
                } else if !self.is_behind() {
                    self.copied = before.filter(|before| !before.is_young(now));
                }
                return Ok(if is_caught_up { Taken::CaughtUp } else { Taken::New });
            }
        }
        Ok(Taken::Busy)
    }

    /// True where the files have the bytes of the copy. One reading is enough: what is written after it changes a stamp
    /// that was taken before, so the next look sees it.
    fn equals(&mut self, db: &Path, before: &Option<Stamp>, now: SystemTime) -> io::Result<bool> {
        let copy = &self.copy;
        let is_same_database = before.is_some() && (self.copied == *before || starts_with(db, copy, true)?);
        let is_same = is_same_database && self.logs_are_equal(db)?;
        if is_same && before.as_ref().is_some_and(|before| !before.is_young(now)) {
            self.copied.clone_from(before);
        }
        Ok(is_same)
    }

    /// True where the -wal has the bytes of its copy, and there is no -journal.
    fn logs_are_equal(&self, db: &Path) -> io::Result<bool> {
        if bytes_of(&with_suffix(db, JOURNAL), |_| FILE_BYTES_MAX)? > 0 {
            return Ok(false);
        }
        let (wal, copied_wal) = (with_suffix(db, WAL), with_suffix(&self.copy, WAL));
        let is_same_length = bytes_of(&wal, wal_bytes)? == bytes_of(&copied_wal, |_| FILE_BYTES_MAX)?;
        Ok(is_same_length && starts_with(&wal, &copied_wal, false)?)
    }

    /// The header of the -wal where it has all that the copy of it has, and more.
    fn wal_that_goes_on(&self, db: &Path, before: &Option<Stamp>) -> io::Result<Option<WalHeader>> {
        let is_same_file =
            matches!((&self.copied, before), (Some(copied), Some(before)) if copied.is_same_file(before));
        if !is_same_file || bytes_of(&with_suffix(db, JOURNAL), |_| FILE_BYTES_MAX)? > 0 {
            return Ok(None);
        }
        let (wal, copied_wal) = (with_suffix(db, WAL), with_suffix(&self.copy, WAL));
        let is_longer = bytes_of(&wal, wal_bytes)? > bytes_of(&copied_wal, |_| FILE_BYTES_MAX)?;
        match is_longer && starts_with(&wal, &copied_wal, false)? {
            true => wal_header(&copied_wal),
            false => Ok(None),
        }
    }

    /// Copies what belongs to the database, after it: the order that step 1 demands.
    fn copy_logs(&self, db: &Path) -> io::Result<()> {
        remove_logs(&self.copy);
        copy_log(db, &self.copy, WAL, wal_bytes)?;
        copy_log(db, &self.copy, JOURNAL, |_| FILE_BYTES_MAX)
    }

    /// The second reading: true where all bytes of the copy existed at one moment. `before` is the database's stamp,
    /// taken at `now`, before the first reading.
    fn holds(&self, db: &Path, before: &Option<Stamp>, now: SystemTime) -> io::Result<bool> {
        let log_holds =
            |suffix, exactly| starts_with(&with_suffix(db, suffix), &with_suffix(&self.copy, suffix), exactly);
        let database_holds = || {
            let proves = before.as_ref().is_some_and(|before| !before.is_young(now));
            Ok::<_, io::Error>(Stamp::of(db) == *before && (proves || starts_with(db, &self.copy, true)?))
        };
        let is_whole = match self.behind {
            Some(header) => wal_header(&with_suffix(&self.copy, WAL))? == Some(header),
            None => database_holds()?,
        };
        Ok(is_whole && log_holds(WAL, false)? && log_holds(JOURNAL, true)?)
    }
}

/// Makes `copy` equal to the database, unless it is already.
fn update(db: &Path, copy: &Path) -> io::Result<()> {
    let from = open(db)?;
    let failed = |cause| could_not_write(copy, cause);
    let mut options = OpenOptions::new();
    let to = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(copy).map_err(failed)?;
    let (mut theirs, mut ours) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut at = 0;
    while at < FILE_BYTES_MAX {
        let count = read_full_at(&from, &mut theirs, at)?;
        let is_same = read_full_at(&to, &mut ours[..count], at)? == count && ours[..count] == theirs[..count];
        if !is_same {
            to.write_all_at(&theirs[..count], at).map_err(failed)?;
        }
        at += count as u64;
        if count < CHUNK_BYTES {
            break;
        }
    }
    match to.metadata()?.len() > at {
        true => to.set_len(at).map_err(failed),
        false => Ok(()),
    }
}

/// The length of a file, at most `bytes` of it; 0 without a file.
fn bytes_of(path: &Path, bytes: impl Fn(&File) -> u64) -> io::Result<u64> {
    let Some(file) = open_if_any(path)? else { return Ok(0) };
    Ok(file.metadata()?.len().min(bytes(&file)))
}

/// Copies a log that is not empty, up to the number of bytes that `bytes` returns for it.
fn copy_log(db: &Path, copy: &Path, suffix: &str, bytes: impl Fn(&File) -> u64) -> io::Result<()> {
    let Some(from) = open_if_any(&with_suffix(db, suffix))? else { return Ok(()) };
    if from.metadata()?.len() == 0 {
        return Ok(());
    }
    let path = with_suffix(copy, suffix);
    let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let bytes = bytes(&from).min(FILE_BYTES_MAX);
    let copied = create().and_then(|mut to| io::copy(&mut from.take(bytes), &mut to));
    copied.map(drop).map_err(|cause| could_not_write(&path, cause))
}

/// The bytes of a -wal up to the first frame of an older generation: after a checkpoint a -wal starts again at its
/// beginning and keeps its old rest, which may be long (https://www.sqlite.org/fileformat2.html, 4.1). All bytes of a
/// file with another header.
fn wal_bytes(wal: &File) -> u64 {
    const FRAME_HEADER_BYTES: u64 = 24;
    let mut header: WalHeader = [0; _];
    if wal.read_exact_at(&mut header, 0).is_err() {
        return FILE_BYTES_MAX;
    }
    let page_bytes = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    if !page_bytes.is_power_of_two() || !(512..=65536).contains(&page_bytes) {
        return FILE_BYTES_MAX;
    }
    let mut end = header.len() as u64;
    let mut frame = [0; FRAME_HEADER_BYTES as usize];
    // Each generation has salts of its own; they stand at 16 in the header and at 8 in each frame.
    while end < FILE_BYTES_MAX && wal.read_exact_at(&mut frame, end).is_ok() && frame[8..16] == header[16..24] {
        end += FRAME_HEADER_BYTES + u64::from(page_bytes);
    }
    end
}

/// `None` without a whole header.
fn wal_header(path: &Path) -> io::Result<Option<WalHeader>> {
    let mut header = [0; _];
    let Some(mut file) = open_if_any(path)? else { return Ok(None) };
    Ok((read_full(&mut file, &mut header)? == header.len()).then_some(header))
}

fn could_not_write(copy: &Path, cause: io::Error) -> io::Error {
    io::Error::new(cause.kind(), format!("could not write its copy {}: {cause}", copy.display()))
}

/// Opens a regular file of a size that a registry can have. Without O_NONBLOCK a FIFO of that name would block for ever.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if found.len() > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(file)
}

/// True where the file, read again, starts with the bytes of `copy`, and with `exactly` also ends with them. A missing
/// file counts as empty.
fn starts_with(path: &Path, copy: &Path, exactly: bool) -> io::Result<bool> {
    let (file, copy) = (open_if_any(path)?, open_if_any(copy)?);
    let Some(mut copy) = copy else {
        return Ok(!exactly || file.is_none_or(|file| file.metadata().is_ok_and(|found| found.len() == 0)));
    };
    let Some(mut file) = file else { return Ok(copy.metadata()?.len() == 0) };
    let (mut ours, mut theirs) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    loop {
        let count = read_full(&mut copy, &mut ours)?;
        if count == 0 {
            return Ok(!exactly || file.read(&mut theirs[..1])? == 0);
        }
        if read_full(&mut file, &mut theirs[..count])? < count || ours[..count] != theirs[..count] {
            return Ok(false);
        }
    }
}

fn open_if_any(path: &Path) -> io::Result<Option<File>> {
    match open(path) {
        Ok(file) => Ok(Some(file)),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// Fills the buffer until the file ends.
fn read_full(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    fill(buffer, |rest, _| file.read(rest))
}

/// Fills the buffer from an offset in the file.
fn read_full_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    fill(buffer, |rest, filled| file.read_at(rest, at + filled as u64))
}

fn fill(buffer: &mut [u8], mut read: impl FnMut(&mut [u8], usize) -> io::Result<usize>) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(&mut buffer[filled..], filled) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
