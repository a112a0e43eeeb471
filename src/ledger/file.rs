//! The ledger's file: its tables, a batch of rows as one transaction, and its retention.
//!
//! It is in WAL mode, so that readers never wait for the writer, nor the writer for them. A crash of the machine can
//! lose the last batches (synchronous=NORMAL), never the file.

use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior, params};

use super::Call;

/// The version of these tables, as the file states it (user_version).
const VERSION: i64 = 1;

/// A file without tables gets these. The retention deletes the oldest rows first, and returns their pages to the file
/// system (auto_vacuum), which must be set before the first table.
const TABLES: &str = "
    PRAGMA auto_vacuum = INCREMENTAL;
    PRAGMA journal_mode = WAL;
    BEGIN IMMEDIATE;
    CREATE TABLE calls (
        id INTEGER PRIMARY KEY,
        at INTEGER NOT NULL,          -- ms since 1970, when the request had arrived
        request_id TEXT NOT NULL,
        route TEXT NOT NULL,          -- as in the registry: METHOD:/path
        function TEXT NOT NULL,
        status INTEGER NOT NULL,
        worker INTEGER,               -- NULL: none was chosen
        start TEXT,                   -- forked or exec; NULL: it had no process
        ms_queued REAL NOT NULL,
        ms_run REAL,                  -- NULL: it had no slot
        cpu_ms REAL,
        memory INTEGER,               -- peak, in bytes
        measured TEXT,                -- how cpu_ms and memory were measured: rusage, samples or cgroup
        bytes_in INTEGER NOT NULL,
        bytes_out INTEGER NOT NULL,
        client TEXT NOT NULL,
        generation INTEGER,
        stderr TEXT                   -- its last 4 KiB, where the call failed
    );
    CREATE INDEX calls_at ON calls (at);
    CREATE TABLE unrecorded (
        calls INTEGER NOT NULL,       -- how many did not fit into the queue
        at INTEGER                    -- ms since 1970, when that was last found
    );
    INSERT INTO unrecorded VALUES (0, NULL);
    PRAGMA user_version = 1;
    COMMIT;";

/// Time to wait for a writer that holds the file; then the thread tries the batch again later.
const BUSY_WAIT_MAX: Duration = Duration::from_millis(500);
/// Pages that SQLite keeps in memory, in KiB: enough for the ends of the table and its index.
const CACHE_KIB: i64 = 256;
/// Size to which the -wal is cut once it has been copied into the file.
const WAL_BYTES_KEPT: i64 = 8 << 20;
/// Rows that one step of the retention deletes: some milliseconds.
const STEP_ROWS: usize = 1000;
/// Pages that one step returns: more than those rows had.
const STEP_PAGES: usize = 1000;

/// Limits on the age and the number of bytes of rows.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    pub days: u64,
    /// Of the file, without its -wal.
    pub bytes_max: u64,
}

/// The reason for a failed write.
#[derive(Debug)]
pub enum Fault {
    /// The file is no database, or holds wrong bytes.
    Damaged(String),
    /// Any other fault: it may pass.
    Other(String),
}

impl From<rusqlite::Error> for Fault {
    fn from(cause: rusqlite::Error) -> Fault {
        match cause.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Fault::Damaged(cause.to_string()),
            _ => Fault::Other(cause.to_string()),
        }
    }
}

pub struct LedgerFile {
    path: PathBuf,
    connection: Connection,
    /// Device and inode, which distinguish the file from another one at its path.
    identity: (u64, u64),
}

impl LedgerFile {
    /// Opens the file, and creates it if it does not exist.
    pub fn open(path: &Path) -> Result<LedgerFile, Fault> {
        let failed = |cause: std::io::Error| Fault::Other(cause.to_string());
        // SQLite would make it readable for everybody; the files beside it get the same mode.
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let metadata = file.and_then(|file| file.metadata()).map_err(failed)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_WAIT_MAX)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT)?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let is_empty: bool = connection.query_row("SELECT count(*) = 0 FROM sqlite_master", [], |row| row.get(0))?;
        match version {
            0 if is_empty => connection.execute_batch(TABLES)?,
            VERSION => drop(connection.prepare(&insert())?),
            _ => return Err(Fault::Other("it is no ledger of this version; set FAAS_LEDGER to another file".into())),
        }
        Ok(LedgerFile { path: path.to_path_buf(), connection, identity: (metadata.dev(), metadata.ino()) })
    }

    /// True if the file is still the one at its path: it may have been moved, deleted or replaced.
    pub fn is_in_place(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity)
    }

    /// Writes a batch, adds to the count of calls that were not recorded, and takes a step of the retention: all of it
    /// or nothing. True if the retention has more to delete.
    pub fn write(&mut self, batch: &[Box<Call>], unrecorded: u64, retention: Option<Retention>) -> Result<bool, Fault> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        insert_all(&transaction, batch)?;
        if unrecorded > 0 {
            let sql = "UPDATE unrecorded SET calls = calls + ?1, at = ?2";
            transaction.execute(sql, params![unrecorded as i64, now_ms()])?;
        }
        let has_more = retention.map_or(Ok(false), |retention| retain(&transaction, retention))?;
        transaction.commit()?;
        Ok(has_more)
    }
}

/// Deletes some of the rows that are too old, or, where the file is too large, some of the oldest; true if more are
/// left.
fn retain(transaction: &Transaction<'_>, retention: Retention) -> rusqlite::Result<bool> {
    let limit = now_ms().saturating_sub_unsigned(retention.days.saturating_mul(86_400_000));
    let sql = "DELETE FROM calls WHERE id IN (SELECT id FROM calls WHERE at < ?1 ORDER BY at LIMIT ?2)";
    let too_old = transaction.prepare_cached(sql)?.execute(params![limit, STEP_ROWS])?;
    if bytes(transaction)? <= retention.bytes_max {
        return Ok(too_old == STEP_ROWS);
    }
    let sql = "DELETE FROM calls WHERE id IN (SELECT id FROM calls ORDER BY at LIMIT ?1)";
    let deleted = transaction.prepare_cached(sql)?.execute([STEP_ROWS])?;
    // One step of this statement returns one page.
    let mut vacuum = transaction.prepare_cached(&format!("PRAGMA incremental_vacuum({STEP_PAGES})"))?;
    let mut steps = vacuum.query([])?;
    while steps.next()?.is_some() {}
    Ok(deleted > 0 && bytes(transaction)? > retention.bytes_max)
}

fn bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let number = |pragma| connection.query_row(pragma, [], |row| row.get::<_, u64>(0));
    Ok(number("PRAGMA page_count")? * number("PRAGMA page_size")?)
}

/// The columns that a batch fills. The id is SQLite's.
const COLUMNS: [&str; 17] = [
    "at",
    "request_id",
    "route",
    "function",
    "status",
    "worker",
    "start",
    "ms_queued",
    "ms_run",
    "cpu_ms",
    "memory",
    "measured",
    "bytes_in",
    "bytes_out",
    "client",
    "generation",
    "stderr",
];

fn insert() -> String {
    let places = vec!["?"; COLUMNS.len()].join(", ");
    format!("INSERT INTO calls ({}) VALUES ({places})", COLUMNS.join(", "))
}

fn insert_all(transaction: &Transaction<'_>, batch: &[Box<Call>]) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(&insert())?;
    for call in batch {
        let usage = call.usage.as_ref();
        statement.execute(params![
            call.at_ms,
            call.request_id,
            call.route,
            call.function,
            call.status,
            call.worker,
            call.start,
            call.queued_ms,
            call.run_ms,
            usage.map(|usage| usage.cpu_us as f64 / 1000.0),
            usage.map(|usage| usage.memory_bytes as i64),
            usage.map(|usage| usage.measured.word()),
            call.bytes_in as i64,
            call.bytes_out as i64,
            call.client,
            call.generation.map(|generation| generation as i64),
            call.stderr,
        ])?;
    }
    Ok(())
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
