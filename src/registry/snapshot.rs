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
//! 1. Read the database, then its -wal, then its -journal. A missing file counts as empty.
//! 2. Read all of them a second time. Equal bytes prove that the files had just these bytes in the moment between the two
//!    readings, without trust in any clock or file time. Of the -wal only the part read first must be equal: it grows at
//!    its end, and its first part is a whole state by itself. As it was read after the database, it has every page that
//!    a checkpoint may have written there.
//! 3. Unequal bytes mean that a writer was at work: try again, a few times now, else in the next look.
//!
//! Such a snapshot is what a power failure at that moment would have left on the disk, and SQLite promises to recover
//! the last committed state from that. It replays the copy's -wal, or rolls its -journal back, and one SELECT reads the
//! table. So the reader sees a transaction whole or not at all, also one whose writer was killed with SIGKILL. It works
//! where the gateway may not write, and leaves no -wal or -shm beside the registry.
//!
//! The price: each change copies the whole file. With 10,000 rows that is 2.5 MB, and 2 ms of the 15 ms of a reading.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use super::files::{JOURNAL, WAL, remove_database, with_suffix};
use crate::limits::{DESCRIPTOR_BYTES_MAX, ROUTE_KEY_BYTES_MAX, ROUTES_MAX};

/// Bytes of each file of the registry, since a snapshot holds them in memory. Four times what [`ROUTES_MAX`] routes take;
/// a larger file holds something else.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Attempts at one snapshot while writers are busy. Each takes about a millisecond with 10,000 routes, and sixteen outlast
/// the write of any single sqlite3 program.
const ATTEMPTS_MAX: u32 = 16;

/// The bytes of the registry's files at one moment. A file that did not exist is empty.
pub struct Snapshot {
    db: Vec<u8>,
    wal: Vec<u8>,
    journal: Vec<u8>,
}

impl Snapshot {
    /// Returns `None` where writers were at work in every attempt.
    pub fn take(db: &Path) -> io::Result<Option<Snapshot>> {
        for _ in 0..ATTEMPTS_MAX {
            let snapshot = Snapshot::read(db)?;
            if snapshot.holds(db)? {
                return Ok(Some(snapshot));
            }
        }
        Ok(None)
    }

    /// The first reading, in the order that step 1 demands.
    fn read(db: &Path) -> io::Result<Snapshot> {
        let db_bytes = bytes_of(db)?;
        let wal = bytes_if_any(&with_suffix(db, WAL))?;
        let journal = bytes_if_any(&with_suffix(db, JOURNAL))?;
        Ok(Snapshot { db: db_bytes, wal, journal })
    }

    /// The second reading: true where all bytes of the first existed at one moment.
    fn holds(&self, db: &Path) -> io::Result<bool> {
        Ok(starts_with(db, &self.db, true)?
            && starts_with(&with_suffix(db, WAL), &self.wal, false)?
            && starts_with(&with_suffix(db, JOURNAL), &self.journal, true)?)
    }

    /// Writes the snapshot to `copy`, a path that belongs to the gateway alone.
    pub fn write_to(&self, copy: &Path) -> io::Result<()> {
        remove_database(copy);
        if let Some(folder) = copy.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        for (suffix, bytes) in [("", &self.db), (WAL, &self.wal), (JOURNAL, &self.journal)] {
            if suffix.is_empty() || !bytes.is_empty() {
                let path = with_suffix(copy, suffix);
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)?;
            }
        }
        Ok(())
    }
}

/// Calls `each` with key and descriptor of every row of the copy, in one statement. A row may reach `each` before the
/// reading fails at a later one.
///
/// A value that is not UTF-8 text arrives as text that parses as neither a key nor a descriptor.
pub fn for_each_row(copy: &Path, mut each: impl FnMut(&str, &str)) -> Result<(), Box<dyn std::error::Error>> {
    let connection = open_copy(copy)?;
    let mut select = connection.prepare("SELECT k, v FROM functions LIMIT ?1")?;
    let mut cursor = select.query([ROUTES_MAX + 1])?;
    let mut count = 0;
    while let Some(row) = cursor.next()? {
        count += 1;
        each(clipped(row.get_ref(0)?, ROUTE_KEY_BYTES_MAX), clipped(row.get_ref(1)?, DESCRIPTOR_BYTES_MAX));
    }
    match count > ROUTES_MAX {
        true => Err(format!("it has more than {ROUTES_MAX} rows").into()),
        false => Ok(()),
    }
}

/// Opens the copy for one reading. SQLite may write to it, to roll a journal back. The copy lives for milliseconds, so
/// nothing waits for a disk. No other process opens it, so it needs no shared memory file.
fn open_copy(copy: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(copy, flags)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = OFF; PRAGMA cell_size_check = ON")?;
    Ok(connection)
}

/// A value as text, cut to one character more than `bytes_max` bytes: enough to see that it is too long.
fn clipped(value: ValueRef<'_>, bytes_max: usize) -> &str {
    let Ok(text) = value.as_str() else { return "(not UTF-8 text)" };
    let mut end = text.len().min(bytes_max + 4);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
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

fn bytes_of(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::with_capacity(file.metadata()?.len() as usize);
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn bytes_if_any(path: &Path) -> io::Result<Vec<u8>> {
    match bytes_of(path) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        result => result,
    }
}

/// True where the file, read anew, starts with `bytes`, and with `exactly` also ends with them.
fn starts_with(path: &Path, bytes: &[u8], exactly: bool) -> io::Result<bool> {
    let mut file = match open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(bytes.is_empty()),
        Err(cause) => return Err(cause),
    };
    let mut chunk = vec![0; 64 * 1024];
    let mut rest = bytes;
    while !rest.is_empty() {
        let wanted = rest.len().min(chunk.len());
        match file.read(&mut chunk[..wanted]) {
            Ok(0) => return Ok(false),
            Ok(count) if chunk[..count] == rest[..count] => rest = &rest[count..],
            Ok(_) => return Ok(false),
            Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(!exactly || file.read(&mut chunk[..1])? == 0)
}

#[cfg(test)]
mod tests;
