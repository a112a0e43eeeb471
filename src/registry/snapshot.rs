//! Reading the registry so that no writer ever notices.
//!
//! A plain `sqlite3` program does not wait for a lock: one that another program holds makes its INSERT fail with
//! "database is locked". Every SQLite reader takes locks: in rollback mode while it reads, in WAL mode while it recovers
//! a -wal that a killed program left. A reader that is open when the last writer closes also makes it leave its -wal
//! behind, and a plain `cp` then lacks rows.
//!
//! So the gateway never opens the registry itself with SQLite. It reads the files as plain bytes, without any lock, and
//! gives SQLite a private copy:
//!
//! 1. Copy the database, then its -wal, then its -journal. A missing file counts as empty.
//! 2. Read all of them a second time and compare with the copy. Equal bytes prove that the files had just these bytes in the moment between the two
//!    readings, without trust in any clock or file time. Of the -wal only the part read first must be equal: it grows at
//!    its end, and its first part is a whole state by itself. As it was read after the database, it has every page that
//!    a checkpoint may have written there.
//! 3. Unequal bytes mean that a writer was at work: try again, a few times now, else in the next look.
//!
//! Such a snapshot is what a power failure at that moment would have left on the disk, and SQLite promises to recover
//! the last committed state from that. It replays the copy's -wal, or rolls its -journal back (tables.rs). So the reader sees a transaction whole or not at all, also one whose writer was killed with SIGKILL. It works
//! where the gateway may not write, and leaves no -wal or -shm beside the registry.
//!
//! The price: each change copies the whole file, by chunks, so memory does not grow with it. With 10,000 rows that is 2.5 MB,
//! and 2 ms of the 15 ms of a reading.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::files::{JOURNAL, WAL, remove_database, with_suffix};

/// Bytes of each file of the registry; a larger one holds something else. SQLite's own limit for one blob is half of it.
const FILE_BYTES_MAX: u64 = 4 << 30;

/// Bytes that files are copied and compared by.
const CHUNK_BYTES: usize = 256 * 1024;

/// Attempts at one snapshot while writers are busy. Each takes about a millisecond with 10,000 routes, and sixteen outlast
/// the write of any single sqlite3 program.
const ATTEMPTS_MAX: u32 = 16;

/// The registry's files and how each is compared: of the -wal only what was copied.
const FILES: [(&str, bool); 3] = [("", true), (WAL, false), (JOURNAL, true)];

/// Makes `copy`, a path that belongs to the gateway alone, a copy of the registry at one moment. Returns false where writers
/// were at work in every attempt; then there is no copy.
pub fn copy_registry(db: &Path, copy: &Path) -> io::Result<bool> {
    if let Some(folder) = copy.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|cause| could_not_write(copy, cause))?;
    }
    for _ in 0..ATTEMPTS_MAX {
        copy_files(db, copy)?;
        if holds(db, copy)? {
            return Ok(true);
        }
    }
    remove_database(copy);
    Ok(false)
}

/// The first reading, in the order that step 1 demands.
fn copy_files(db: &Path, copy: &Path) -> io::Result<()> {
    remove_database(copy);
    let mut chunk = vec![0; CHUNK_BYTES];
    for (suffix, _) in FILES {
        let mut from = match open(&with_suffix(db, suffix)) {
            Ok(file) => file.take(FILE_BYTES_MAX),
            Err(cause) if cause.kind() == ErrorKind::NotFound && !suffix.is_empty() => continue,
            Err(cause) => return Err(cause),
        };
        let path = with_suffix(copy, suffix);
        let mut to = None;
        loop {
            let count = read_full(&mut from, &mut chunk)?;
            if count == 0 && (to.is_some() || !suffix.is_empty()) {
                break;
            }
            let to = match &mut to {
                Some(to) => to,
                None => to.insert(create(&path).map_err(|cause| could_not_write(&path, cause))?),
            };
            to.write_all(&chunk[..count]).map_err(|cause| could_not_write(&path, cause))?;
        }
    }
    Ok(())
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn could_not_write(copy: &Path, cause: io::Error) -> io::Error {
    io::Error::new(cause.kind(), format!("could not write its copy {}: {cause}", copy.display()))
}

/// The second reading: true where all bytes of the copy existed at one moment.
fn holds(db: &Path, copy: &Path) -> io::Result<bool> {
    for (suffix, exactly) in FILES {
        if !starts_with(&with_suffix(db, suffix), &with_suffix(copy, suffix), exactly)? {
            return Ok(false);
        }
    }
    Ok(true)
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

/// True where the file, read anew, starts with the bytes of `copy`, and with `exactly` also ends with them. A missing file is
/// empty.
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

/// Fills the buffer as far as the file goes.
fn read_full(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
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
