//! `gateway --init`: creates the registry from init.sql, so that the sqlite3 program is not required.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;

use super::files::{remove_database, remove_logs, with_suffix};
use crate::error::start::{Result, StartError};

/// `gateway --init` and `sqlite3 faas_meta.db < init.sql` run the same text.
pub(super) const INIT_SQL: &str = include_str!("../../init.sql");

/// Gives a connection readfile(), as the sqlite3 program has it: a file's bytes, or NULL where it is missing. Relative
/// paths start at the working folder, then, if the file is missing there, at `folder`.
pub(super) fn add_readfile(connection: &Connection, folder: &Path) -> rusqlite::Result<()> {
    let folder = folder.to_path_buf();
    connection.create_scalar_function("readfile", 1, FunctionFlags::SQLITE_UTF8, move |context| {
        let path: String = context.get(0)?;
        Ok(fs::read(&path).or_else(|_| fs::read(folder.join(&path))).ok())
    })
}

/// Creates the registry if no file of that name exists. Builds it under another name and links it to its own when it is
/// complete, so no program sees half of it. A registry that another program creates meanwhile stays as it is. Reads the
/// shipped functions from `folder`.
pub fn create_registry(db: &Path, folder: &Path) -> Result<()> {
    if db.exists() {
        return Ok(());
    }
    let unfinished = with_suffix(db, &format!(".{}.new", std::process::id()));
    remove_database(&unfinished);
    let created = fill(&unfinished, folder).and_then(|()| publish(&unfinished, db).map_err(|cause| cause.to_string()));
    remove_database(&unfinished);
    created.map_err(|cause| StartError::Registry { path: db.to_path_buf(), cause })
}

fn fill(path: &Path, folder: &Path) -> std::result::Result<(), String> {
    create_private(path).map_err(|cause| cause.to_string())?;
    run_init_sql(path, folder).map_err(|cause| cause.to_string())
}

/// Only the owner may read it: descriptors can hold secrets, and functions run on the same machine. SQLite gives the
/// files that it adds the same permissions.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn run_init_sql(path: &Path, folder: &Path) -> rusqlite::Result<()> {
    let connection = Connection::open(path)?;
    add_readfile(&connection, folder)?;
    connection.execute_batch(INIT_SQL)?;
    connection.close().map_err(|(_, cause)| cause)
}

/// Gives the finished database its name, unless another program has taken the name.
fn publish(unfinished: &Path, db: &Path) -> io::Result<()> {
    if !db.exists() {
        // SQLite would otherwise apply the -wal of a deleted database to this one.
        remove_logs(db);
    }
    match fs::hard_link(unfinished, db) {
        Err(cause) if cause.kind() == ErrorKind::AlreadyExists => Ok(()),
        // The file system may not support links.
        Err(_) if !db.exists() => fs::rename(unfinished, db),
        result => result,
    }
}

#[cfg(test)]
mod tests;
