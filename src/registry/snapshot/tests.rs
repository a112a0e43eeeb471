//! When a snapshot holds. The tests of kv_sqlite_sync.rs read through it while real writers work.

use std::fs;

use super::*;
use crate::registry::fixture::{Fixture, WITHOUT_CHECKS};

#[test]
fn a_snapshot_holds_while_only_the_wal_grows() {
    let fixture = Fixture::with(WITHOUT_CHECKS);
    let open = Connection::open(&fixture.db).unwrap();
    let insert = |key: &str| open.execute("INSERT INTO functions VALUES (?1, '{}', 0)", [key]).unwrap();
    insert("GET:/1");
    let with_wal = Snapshot::read(&fixture.db).unwrap();
    assert!(with_wal.holds(&fixture.db).unwrap());
    insert("GET:/2");
    assert!(with_wal.holds(&fixture.db).unwrap());
    open.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
    assert!(!with_wal.holds(&fixture.db).unwrap(), "the database was written");
    let copied_back = Snapshot::read(&fixture.db).unwrap();
    insert("GET:/3");
    assert!(!copied_back.holds(&fixture.db).unwrap(), "the wal began anew");
    open.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    let alone = Snapshot::read(&fixture.db).unwrap();
    assert!(alone.wal.is_empty() && alone.journal.is_empty() && alone.holds(&fixture.db).unwrap());
    open.execute_batch("BEGIN IMMEDIATE; DELETE FROM functions").unwrap();
    assert!(!alone.holds(&fixture.db).unwrap(), "a journal was begun");
    let with_journal = Snapshot::read(&fixture.db).unwrap();
    assert!(with_journal.holds(&fixture.db).unwrap());
    open.execute_batch("COMMIT").unwrap();
    assert!(!with_journal.holds(&fixture.db).unwrap());
}

#[test]
fn a_changed_file_breaks_the_snapshot() {
    let fixture = Fixture::empty();
    fs::write(&fixture.db, "abcdef").unwrap();
    let is = |bytes: &str, exactly| starts_with(&fixture.db, bytes.as_bytes(), exactly).unwrap();
    assert!(is("abcdef", true) && is("abc", false) && is("", false));
    assert!(!is("abc", true) && !is("abx", false) && !is("abcdefg", false) && !is("", true));
    let gone = fixture.folder.join("gone");
    assert!(starts_with(&gone, b"", true).unwrap() && !starts_with(&gone, b"a", false).unwrap());
}
