//! When a snapshot holds. The tests of kv_sqlite_sync.rs read through it while real writers work.

use std::fs;

use rusqlite::Connection;

use super::*;
use crate::registry::fixture::{Fixture, WITHOUT_CHECKS};

#[test]
fn a_snapshot_holds_while_only_the_wal_grows() {
    let fixture = Fixture::with(WITHOUT_CHECKS);
    let (db, copy) = (fixture.db.clone(), fixture.folder.join("copy"));
    let (take, holds) = (|| copy_files(&db, &copy).unwrap(), || holds(&db, &copy).unwrap());
    let open = Connection::open(&db).unwrap();
    let insert = |key: &str| open.execute("INSERT INTO functions VALUES (?1, '{}', 0)", [key]).unwrap();
    insert("GET:/1");
    take();
    assert!(holds());
    insert("GET:/2");
    assert!(holds());
    open.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
    assert!(!holds(), "the database was written");
    take();
    insert("GET:/3");
    assert!(!holds(), "the wal began anew");
    open.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    take();
    assert!(!with_suffix(&copy, WAL).exists() && !with_suffix(&copy, JOURNAL).exists() && holds());
    open.execute_batch("BEGIN IMMEDIATE; DELETE FROM functions").unwrap();
    assert!(!holds(), "a journal was begun");
    take();
    assert!(holds());
    open.execute_batch("COMMIT").unwrap();
    assert!(!holds());
}

#[test]
fn a_changed_file_breaks_the_snapshot() {
    let fixture = Fixture::empty();
    let other = fixture.folder.join("other");
    fs::write(&fixture.db, "abcdef").unwrap();
    let is = |bytes: &str, exactly| {
        fs::write(&other, bytes).unwrap();
        starts_with(&fixture.db, &other, exactly).unwrap()
    };
    assert!(is("abcdef", true) && is("abc", false) && is("", false));
    assert!(!is("abc", true) && !is("abx", false) && !is("abcdefg", false) && !is("", true));
    let gone = fixture.folder.join("gone");
    assert!(starts_with(&gone, &gone, true).unwrap() && !starts_with(&gone, &fixture.db, false).unwrap());
    assert!(starts_with(&fixture.db, &gone, false).unwrap() && !starts_with(&fixture.db, &gone, true).unwrap());
}
