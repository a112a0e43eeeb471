//! The files of a SQLite database: SQLite puts its logs beside the database, under the same name with a suffix.

use std::fs;
use std::path::{Path, PathBuf};

/// Suffix of the write-ahead log.
pub const WAL: &str = "-wal";
/// Suffix of the rollback journal.
pub const JOURNAL: &str = "-journal";
/// Suffix of the shared memory of a write-ahead log.
const SHARED_MEMORY: &str = "-shm";

pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Removes a private database of the gateway, and the files that SQLite may have put beside it. Missing files are no
/// error.
pub fn remove_database(path: &Path) {
    let _ = fs::remove_file(path);
    remove_logs(path);
}

/// Removes the files that SQLite has put beside a deleted database.
pub fn remove_logs(path: &Path) {
    for suffix in [WAL, JOURNAL, SHARED_MEMORY] {
        let _ = fs::remove_file(with_suffix(path, suffix));
    }
}
