//! The registry as an operator's programs see it: opened with rusqlite, changed in one transaction or not at all.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};
use serde_json::Value;

use super::{OperationError, Result, failed};
use crate::settings::Settings;
use crate::sys;

/// Time to wait for a writer that holds the registry; then the error names that writer.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(5);

pub(crate) struct Registry {
    pub connection: Connection,
    path: PathBuf,
    /// The reason why the registry must not be changed.
    read_only_reason: Option<String>,
}

/// A row of functions.
pub(crate) struct Route {
    pub key: String,
    pub descriptor: Value,
    pub updated: Option<f64>,
}

impl Registry {
    /// Opens the registry that FAAS_DB names. It must exist.
    pub fn open(settings: &Settings) -> Result<Registry> {
        let path = settings.db.clone();
        if !path.exists() {
            let text = format!("no registry is at {}; set FAAS_DB, or make one with: gateway --init", path.display());
            return Err(OperationError::NotFound(text));
        }
        let read_only_reason = settings.read_only_reason();
        let connection = match read_only_reason {
            None => {
                Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            }
            Some(_) => open_copy(&path),
        };
        let connection = connection.map_err(failed(format!("open the registry {}", path.display())))?;
        connection.busy_timeout(BUSY_WAIT_MAX).map_err(failed("set a time to wait for locks"))?;
        Ok(Registry { connection, path, read_only_reason })
    }

    /// A private copy of the registry at `path`, for reading.
    pub fn from_copy(connection: Connection, path: PathBuf) -> Registry {
        Registry { connection, path, read_only_reason: None }
    }

    /// Like `open`, for verbs that need code and history.
    pub fn open_with_history(settings: &Settings) -> Result<Registry> {
        let registry = Registry::open(settings)?;
        match registry.has_history()? {
            true => Ok(registry),
            false => Err(OperationError::Failed(format!(
                "the registry {} has neither code nor history yet; give it both with: gateway --init",
                registry.path.display()
            ))),
        }
    }

    pub fn has_history(&self) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'rollback_to')";
        self.connection.query_row(sql, [], |row| row.get(0)).map_err(|cause| self.error(cause))
    }

    /// The newest id of the history; 0 where it has none.
    pub fn generation(&self) -> Result<u64> {
        if !self.has_history()? {
            return Ok(0);
        }
        let sql = "SELECT coalesce(max(id), 0) FROM history";
        self.connection.query_row(sql, [], |row| row.get(0)).map_err(|cause| self.error(cause))
    }

    pub fn routes(&self) -> Result<Vec<Route>> {
        let read = || -> rusqlite::Result<Vec<Route>> {
            let mut select = self.connection.prepare("SELECT k, v, updated FROM functions ORDER BY k")?;
            let rows = select.query_map([], |row| {
                let text: String = row.get(1)?;
                let descriptor = serde_json::from_str(&text).unwrap_or(Value::String(text));
                Ok(Route { key: row.get(0)?, descriptor, updated: row.get(2).unwrap_or(None) })
            })?;
            rows.collect()
        };
        read().map_err(|cause| self.error(cause))
    }

    pub fn route(&self, key: &str) -> Result<Option<Route>> {
        Ok(self.routes()?.into_iter().find(|route| route.key == key))
    }

    /// Like [`Registry::route`], but an error where the route does not exist.
    pub fn existing_route(&self, key: &str) -> Result<Route> {
        self.route(key)?.ok_or_else(|| OperationError::NotFound(format!("no route is {key}; faas list shows them")))
    }

    /// The names and sizes of all modules.
    pub fn modules(&self) -> Result<Vec<(String, u64)>> {
        let read = || -> rusqlite::Result<Vec<(String, u64)>> {
            let mut select = self.connection.prepare("SELECT name, length(code) FROM modules ORDER BY name")?;
            select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        read().map_err(|cause| self.error(cause))
    }

    pub fn code(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT CAST(code AS BLOB) FROM modules WHERE name = ?1";
        self.connection.query_row(sql, [name], |row| row.get(0)).optional().map_err(|cause| self.error(cause))
    }

    pub fn setting(&self, name: &str) -> Result<u64> {
        let sql = "SELECT value FROM settings WHERE name = ?1";
        self.connection.query_row(sql, [name], |row| row.get(0)).map_err(|cause| self.error(cause))
    }

    /// Makes a change, all of it or nothing, and returns the new generation.
    pub fn change(&mut self, change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>) -> Result<u64> {
        if let Some(reason) = &self.read_only_reason {
            return Err(OperationError::Refused(reason.clone()));
        }
        let made = (|| {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            change(&transaction)?;
            transaction.commit()
        })();
        made.map_err(|cause| self.error(cause))?;
        self.generation()
    }

    /// SQLite's objection to a statement, as a sentence.
    pub fn error(&self, cause: rusqlite::Error) -> OperationError {
        let path = self.path.display();
        match &cause {
            rusqlite::Error::SqliteFailure(code, _) if code.code == ErrorCode::DatabaseBusy => {
                let holder = self.holder().map_or("another program".to_string(), |pid| {
                    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                    format!("process {pid} ({})", name.trim_end())
                });
                let seconds = BUSY_WAIT_MAX.as_secs();
                OperationError::Failed(format!(
                    "{holder} has held the registry {path} for {seconds} s; nothing was changed"
                ))
            }
            // The text of a trigger, or the name of a constraint: init.sql makes both a sentence.
            rusqlite::Error::SqliteFailure(code, Some(text)) if code.code == ErrorCode::ConstraintViolation => {
                OperationError::Refused(text.trim_start_matches("CHECK constraint failed: ").to_string())
            }
            _ => OperationError::Failed(format!("could not use the registry {path}: {cause}")),
        }
    }

    /// The process that holds SQLite's lock for writing: a byte of the -shm in WAL mode, else one of the database
    /// (sqlite.org/walformat.html 2.2.2, os.h RESERVED_BYTE).
    fn holder(&self) -> Option<u32> {
        let mut shm = self.path.clone().into_os_string();
        shm.push("-shm");
        [(PathBuf::from(shm), 120), (self.path.clone(), 0x4000_0001)].into_iter().find_map(|(path, byte)| {
            let holder = sys::lock_holder(&File::open(path).ok()?, byte).ok()??;
            u32::try_from(holder).ok()
        })
    }
}

/// Opens a file that another program replaces or writes to. As `immutable`, SQLite leaves no -wal and no lock beside
/// it, which would affect the next version of the file.
fn open_copy(path: &Path) -> rusqlite::Result<Connection> {
    let escaped: String = path.to_string_lossy().chars().fold(String::new(), |mut text, character| {
        match character {
            '%' => text.push_str("%25"),
            '?' => text.push_str("%3f"),
            '#' => text.push_str("%23"),
            _ => text.push(character),
        }
        text
    });
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags)
}

/// Writes a module, unless it has this code already.
pub(crate) fn write_module(transaction: &Transaction<'_>, name: &str, code: &[u8]) -> rusqlite::Result<()> {
    let sql = "INSERT INTO modules (name, code, updated) VALUES (?1, ?2, strftime('%s', 'now'))
        ON CONFLICT (name) DO UPDATE SET code = excluded.code, updated = excluded.updated WHERE code IS NOT excluded.code";
    transaction.execute(sql, params![name, code]).map(drop)
}

/// Writes a row, unless it is the same already.
pub(crate) fn write_route(transaction: &Transaction<'_>, key: &str, descriptor: &Value) -> rusqlite::Result<()> {
    let sql = "INSERT INTO functions (k, v, updated) VALUES (?1, ?2, strftime('%s', 'now'))
        ON CONFLICT (k) DO UPDATE SET v = excluded.v, updated = excluded.updated WHERE v IS NOT excluded.v";
    transaction.execute(sql, params![key, descriptor.to_string()]).map(drop)
}

/// Removes the modules of a bundle, except those that `is_kept` keeps or a row names.
pub(crate) fn remove_modules(
    transaction: &Transaction<'_>,
    bundle: &str,
    is_kept: impl Fn(&str) -> bool,
) -> rusqlite::Result<()> {
    let sql = "SELECT name FROM modules WHERE substr(name, 1, instr(name || '/', '/')) = ?1
        AND NOT EXISTS (SELECT 1 FROM functions WHERE json_extract(v, '$.module') = 'db:' || name)";
    let names: Vec<String> =
        transaction.prepare(sql)?.query_map([bundle], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for name in names.iter().filter(|name| !is_kept(name)) {
        transaction.execute("DELETE FROM modules WHERE name = ?1", [name])?;
    }
    Ok(())
}
