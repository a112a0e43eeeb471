//! The SQL that the sync thread runs on its copy of the registry (snapshot.rs).
//!
//! The sync reads routes row by row, and only the code that changed. Triggers keep the table `bundles`, which tells
//! when each bundle last changed; blobs are streamed. A registry that predates these tables has only routes.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, MAIN_DB, OpenFlags, OptionalExtension};

use super::kv::Version;
use crate::limits::{DESCRIPTOR_BYTES_MAX, ROUTE_KEY_BYTES_MAX, ROUTES_MAX};
use crate::log;

/// The bundle that a module's name belongs to, in SQL: its first folder with the slash, else the name itself.
const BUNDLE: &str = "substr(name, 1, instr(name || '/', '/'))";

/// Bytes in which a blob is read.
const CHUNK_BYTES: usize = 64 * 1024;

/// Memory for pages of a copy that stays open. The console has little memory.
const COPY_CACHE_KIB: u32 = 512;

/// The copy, open for one reading. Dropping it closes the copy and leaves it unchanged.
pub struct Tables {
    /// Dropping it ends the thread that bounds the reading.
    _reading: Sender<()>,
    connection: Connection,
    has_code: bool,
}

/// The last change of a bundle: the history's id, and the time as the bits of a float. The time distinguishes two
/// registries whose ids are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(i64, u64);

/// One file of a bundle.
pub struct ModuleFile {
    row: i64,
    pub name: String,
    pub bytes: u64,
}

/// Time limit of one reading. `functions` can be a view that never yields a row, or never ends.
const READING_MAX: Duration = Duration::from_secs(10);

/// Interrupts the connection's statements after [`READING_MAX`], unless the returned sender is dropped before.
fn bound_reading(connection: &Connection) -> Sender<()> {
    let (reading, ended) = bounded::<()>(0);
    let interrupt = connection.get_interrupt_handle();
    let watch = move || {
        if ended.recv_timeout(READING_MAX) == Err(RecvTimeoutError::Timeout) {
            interrupt.interrupt();
        }
    };
    // Without the thread this reading has no bound; the next one may get one.
    let thread = std::thread::Builder::new().name("reading".into()).stack_size(64 * 1024).spawn(watch);
    if let Err(error) = thread {
        log!("registry: could not start a thread: {error}");
    }
    reading
}

impl Tables {
    /// Opens the copy. SQLite may write to it, to roll a journal back. The copy lives for milliseconds, so SQLite need
    /// not wait for a disk. No other process opens it, so it needs no shared memory file.
    pub fn open(copy: &Path) -> rusqlite::Result<Tables> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(copy, flags)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection
            .execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = OFF; PRAGMA cell_size_check = ON")?;
        let reading = bound_reading(&connection);
        let tables = "SELECT count(*) FROM sqlite_master WHERE name IN ('modules', 'bundles', 'history')";
        let has_code = connection.query_row(tables, [], |row| row.get::<_, i64>(0))? == 3;
        Ok(Tables { _reading: reading, connection, has_code })
    }

    /// A connection for readers that outlive the copy's files: SQLite has all of them open from its first reading on.
    pub fn into_connection(self) -> rusqlite::Result<Connection> {
        self.connection.execute_batch(&format!("PRAGMA cache_size = -{COPY_CACHE_KIB}"))?;
        self.connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get::<_, i64>(0))?;
        Ok(self.connection)
    }

    /// Calls `each` with key and descriptor of every row. A row may reach `each` before the reading fails at a later one.
    ///
    /// A value that is not UTF-8 text arrives as text that parses as neither a key nor a descriptor.
    pub fn for_each_row(&self, mut each: impl FnMut(&str, &str)) -> Result<(), Box<dyn std::error::Error>> {
        let mut select = self.connection.prepare("SELECT k, v FROM functions LIMIT ?1")?;
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

    /// The version of this state of the registry; `None` where it keeps no history.
    pub fn version(&self) -> rusqlite::Result<Option<Version>> {
        if !self.has_code {
            return Ok(None);
        }
        let newest = "SELECT coalesce(max(id), 0), coalesce(at, 0.0) FROM history";
        let (generation, changed_at) =
            self.connection.query_row(newest, [], |row| Ok((row.get(0)?, row.get::<_, f64>(1)?)))?;
        let heartbeat = "SELECT coalesce(max(value), 0) FROM settings WHERE name = 'heartbeat_at'";
        let heartbeat_at: f64 = self.connection.query_row(heartbeat, [], |row| row.get::<_, i64>(0))? as f64;
        Ok(Some(Version { generation, changed_at, alive_at: changed_at.max(heartbeat_at) }))
    }

    /// The first sign that the registry was never in this state, such as half of a copy; `None` without such a sign.
    /// Pages of two states can form a valid file; then the tables and their history disagree.
    pub fn tear(&self) -> rusqlite::Result<Option<String>> {
        let found: String = self.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if found != "ok" {
            return Ok(Some(found));
        }
        let has_history = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'unrecorded')";
        if !self.connection.query_row(has_history, [], |row| row.get::<_, bool>(0))? {
            return Ok(None);
        }
        let unrecorded = "SELECT kind || ' ' || name FROM unrecorded LIMIT 1";
        let unrecorded = self.connection.query_row(unrecorded, [], |row| row.get::<_, String>(0)).optional()?;
        Ok(unrecorded.map(|what| format!("the history does not know its {what}")))
    }

    /// The bundles that rows name, and the last change of each.
    pub fn named_bundles(&self) -> rusqlite::Result<Vec<(String, Mark)>> {
        if !self.has_code {
            return Ok(Vec::new());
        }
        // The bounds mean "begins with db:", in the form that the index of init.sql can answer.
        let sql = format!(
            "SELECT name, changed, at FROM bundles WHERE name IN (
               SELECT {BUNDLE} FROM (
                 SELECT substr(json_extract(v, '$.module'), 4) AS name FROM functions
                 WHERE json_extract(v, '$.module') >= 'db:' AND json_extract(v, '$.module') < 'db;'))"
        );
        let mut select = self.connection.prepare(&sql)?;
        let named =
            select.query_map([], |row| Ok((row.get(0)?, Mark(row.get(1)?, row.get::<_, f64>(2)?.to_bits()))))?;
        named.collect()
    }

    /// The files of a bundle, by name. Reads only their sizes.
    pub fn files_of(&self, bundle: &str) -> rusqlite::Result<Vec<ModuleFile>> {
        let sql =
            "SELECT rowid, name, CASE typeof(code) WHEN 'blob' THEN length(code) ELSE length(CAST(code AS BLOB)) END
            FROM modules WHERE name = ?1 OR (name >= ?1 AND name < ?2 AND ?1 <> ?2) ORDER BY name";
        // For a folder, `shop/`, all names that begin with it: 0 is the character after the slash.
        let end = bundle.strip_suffix('/').map_or(bundle.to_string(), |folder| format!("{folder}0"));
        let mut select = self.connection.prepare_cached(sql)?;
        let files = select.query_map([bundle, &end], |row| {
            Ok(ModuleFile { row: row.get(0)?, name: row.get(1)?, bytes: row.get(2)? })
        })?;
        files.collect()
    }

    /// Streams a file's code.
    pub fn copy_code(&self, file: &ModuleFile, to: &mut impl Write) -> io::Result<()> {
        let mut blob =
            self.connection.blob_open(MAIN_DB, "modules", "code", file.row, true).map_err(io::Error::other)?;
        let mut chunk = vec![0; CHUNK_BYTES.min(file.bytes as usize + 1)];
        loop {
            let count = blob.read(&mut chunk)?;
            if count == 0 {
                return Ok(());
            }
            to.write_all(&chunk[..count])?;
        }
    }
}

/// A value as text, cut to one character more than `bytes_max` bytes: enough to detect that it is too long.
fn clipped(value: ValueRef<'_>, bytes_max: usize) -> &str {
    let Ok(text) = value.as_str() else { return "(not UTF-8 text)" };
    let mut end = text.len().min(bytes_max + 4);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
