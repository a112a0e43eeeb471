//! `gateway --init` on a registry that predates modules and history. The registry gets the tables, triggers and
//! constraints of init.sql and keeps its rows, in one transaction, after a backup beside the file.
//!
//! A registry that is not migrated still works; it has no code, no history and no generation.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::create::{INIT_SQL, create_private};
use super::files::with_suffix;
use crate::error::start::{Result, StartError};

/// Time to wait for a writer that holds the registry.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(5);

/// Backups beside one registry.
const BACKUPS_MAX: u32 = 1000;

/// Migrates an old registry, and returns the path of the backup.
///
/// # Errors
/// [`StartError::Registry`], which names the row that prevents the migration. The registry is then unchanged.
pub fn migrate(db: &Path) -> Result<Option<PathBuf>> {
    let failed = |cause| StartError::Registry { path: db.to_path_buf(), cause };
    let mut connection = Connection::open(db).map_err(|cause| failed(cause.to_string()))?;
    match is_due(&connection) {
        Ok(true) => {}
        Ok(false) => return Ok(None),
        Err(cause) => return Err(failed(cause.to_string())),
    }
    migrate_now(&mut connection, db).map(Some).map_err(|cause| failed(format!("it could not be migrated: {cause}")))
}

/// A file without the table is no registry, so the gateway must not change it.
fn is_due(connection: &Connection) -> rusqlite::Result<bool> {
    connection.busy_timeout(BUSY_WAIT_MAX)?;
    let sql = "SELECT count(*) = 1, coalesce(sum(instr(sql, 'or * for any')), 0) > 0
          AND EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'rollback_to_inserted')
        FROM sqlite_master WHERE type = 'table' AND name = 'functions'";
    connection.query_row(sql, [], |row| Ok(row.get::<_, bool>(0)? && !row.get::<_, bool>(1)?))
}

fn migrate_now(connection: &mut Connection, db: &Path) -> std::result::Result<PathBuf, String> {
    let sentence = |cause: rusqlite::Error| cause.to_string();
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA legacy_alter_table = ON").map_err(sentence)?;
    // No program writes between the backup and the change.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sentence)?;
    let backup = back_up(db)?;
    replace_table(&transaction)?;
    let (_, from_begin) = INIT_SQL.split_once("BEGIN IMMEDIATE;").expect("init.sql is one transaction");
    let (schema, _) = from_begin.split_once("-- ---- Samples").expect("its samples come last");
    transaction.execute_batch(schema).map_err(sentence)?;
    transaction.commit().map_err(sentence)?;
    Ok(backup)
}

fn back_up(db: &Path) -> std::result::Result<PathBuf, String> {
    let backup = (1..=BACKUPS_MAX)
        .map(|number| with_suffix(db, &format!(".backup-{number}")))
        .find(|path| !path.exists())
        .ok_or("too many backups lie beside it")?;
    create_private(&backup).map_err(|cause| format!("could not write {}: {cause}", backup.display()))?;
    let reader = Connection::open(db).map_err(|cause| cause.to_string())?;
    let copied = reader.execute("VACUUM INTO ?1", [backup.to_string_lossy()]);
    copied.map_err(|cause| format!("could not write {}: {cause}", backup.display()))?;
    Ok(backup)
}

/// Gives the rows a table with the constraints of today. Recreates the indexes and triggers that users added to the old
/// table.
fn replace_table(transaction: &Transaction<'_>) -> std::result::Result<(), String> {
    let sentence = |cause: rusqlite::Error| cause.to_string();
    let text = |sql: &str| -> rusqlite::Result<Vec<String>> {
        transaction.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
    };
    let made_of_it = "SELECT sql FROM sqlite_master
        WHERE tbl_name = 'functions' AND type IN ('index', 'trigger') AND sql IS NOT NULL";
    let made_of_it = text(made_of_it).map_err(sentence)?;
    let has_time = text("SELECT name FROM pragma_table_info('functions') WHERE name = 'updated'").map_err(sentence)?;
    let start = INIT_SQL.find("CREATE TABLE IF NOT EXISTS functions (").expect("init.sql makes the table");
    let length = INIT_SQL[start..].find(";\n").expect("a statement has an end");
    let table = INIT_SQL[start..start + length].replacen("IF NOT EXISTS functions", "functions_new", 1);
    transaction.execute_batch(&table).map_err(sentence)?;
    let time = if has_time.is_empty() { "NULL" } else { "updated" };
    let mut rows = transaction.prepare("SELECT rowid, k FROM functions").map_err(sentence)?;
    let copy = format!("INSERT INTO functions_new (k, v, updated) SELECT k, v, {time} FROM functions WHERE rowid = ?1");
    let mut copy = transaction.prepare(&copy).map_err(sentence)?;
    let keys = rows.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, rusqlite::types::Value>(1)?)));
    for row in keys.map_err(sentence)? {
        let (row, key) = row.map_err(sentence)?;
        let named = |cause| match &key {
            rusqlite::types::Value::Text(key) => format!("row {key}: {cause}"),
            _ => format!("row number {row}: {cause}"),
        };
        copy.execute([row]).map_err(named)?;
    }
    transaction
        .execute_batch("DROP TABLE functions; ALTER TABLE functions_new RENAME TO functions")
        .map_err(sentence)?;
    made_of_it.iter().try_for_each(|sql| transaction.execute_batch(sql)).map_err(sentence)
}

#[cfg(test)]
mod tests;
