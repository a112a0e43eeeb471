//! The registry's history: its newest changes, and rollbacks.

use serde_json::{Value, json};

use super::deploy::Done;
use super::registry::Registry;
use super::{OperationError, Result};

/// An entry of the history.
pub(crate) struct Change {
    pub id: u64,
    pub at: f64,
    pub kind: String,
    pub name: String,
    /// Size of the changed entry in bytes; `None` where the change removed it.
    pub bytes: Option<u64>,
    is_first: bool,
}

impl Change {
    pub fn json(&self) -> Value {
        json!({"generation": self.id, "at": self.at, "kind": self.kind, "name": self.name, "change": self.verb(),
            "bytes": self.bytes})
    }

    pub fn verb(&self) -> &'static str {
        match self.bytes {
            None => "removed",
            Some(_) if self.is_first => "added",
            Some(_) => "changed",
        }
    }
}

/// The newest changes: all, or those of a route and of the bundles that it named.
pub(crate) fn changes(registry: &Registry, key: Option<&str>, limit: u64) -> Result<Vec<Change>> {
    let sql = "SELECT id, at, kind, name, length(CASE kind WHEN 'route' THEN CAST(after AS BLOB) ELSE after END),
          NOT EXISTS (SELECT 1 FROM history AS older
            WHERE older.kind = history.kind AND older.name = history.name AND older.until = history.id
              AND older.id < history.id)
        FROM history
        WHERE ?1 IS NULL OR (kind = 'route' AND name = ?1) OR (kind = 'module'
          AND substr(name, 1, instr(name || '/', '/')) IN (
            SELECT substr(module, 4, instr(substr(module, 4) || '/', '/')) FROM (
              SELECT json_extract(after, '$.module') AS module FROM history
              WHERE kind = 'route' AND name = ?1 AND after IS NOT NULL) WHERE module GLOB 'db:*'))
        ORDER BY id DESC LIMIT ?2";
    let read = || -> rusqlite::Result<Vec<Change>> {
        let mut select = registry.connection.prepare(sql)?;
        let rows = select.query_map(rusqlite::params![key, limit], |row| {
            Ok(Change {
                id: row.get(0)?,
                at: row.get(1)?,
                kind: row.get(2)?,
                name: row.get(3)?,
                bytes: row.get(4)?,
                is_first: row.get(5)?,
            })
        })?;
        rows.collect()
    };
    read().map_err(|cause| registry.error(cause))
}

/// Sets a route and its code back by one step.
pub(crate) fn roll_back(registry: &mut Registry, key: &str) -> Result<Done> {
    if changes(registry, Some(key), 1)?.is_empty() {
        return Err(OperationError::NotFound(format!("the history knows no route {key}")));
    }
    let before = registry.generation()?;
    let generation =
        registry.change(|transaction| transaction.execute("INSERT INTO rollback VALUES (?1)", [key]).map(drop))?;
    Ok(Done { generation, is_changed: generation > before })
}

/// Sets all routes and modules back to a generation.
pub(crate) fn roll_back_to(registry: &mut Registry, to: u64) -> Result<Done> {
    let before = registry.generation()?;
    if to > before {
        return Err(OperationError::NotFound(format!("{before} is the newest generation; {to} does not exist")));
    }
    let generation =
        registry.change(|transaction| transaction.execute("INSERT INTO rollback_to VALUES (?1)", [to]).map(drop))?;
    Ok(Done { generation, is_changed: generation > before })
}
