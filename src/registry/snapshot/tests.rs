//! The conditions under which a snapshot holds. The tests of kv_sqlite_sync.rs read through it while real writers work.

use std::fs;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::*;
use crate::cases::each;
use crate::registry::fixture::{Fixture, MANY_ROWS, WITHOUT_CHECKS, execute};
use crate::registry::tables::Tables;

#[test]
fn a_snapshot_holds_while_only_the_wal_grows() {
    let fixture = Fixture::with(WITHOUT_CHECKS);
    let (db, mut snapshot) = (fixture.db.clone(), Snapshot::new(fixture.folder.join("copy")));
    // The youngest possible stamp: it proves nothing, so the bytes decide.
    let young = || fs::metadata(&fixture.db).unwrap().modified().unwrap();
    let take = |snapshot: &mut Snapshot| {
        let before = Stamp::of(&db);
        update(&db, snapshot.path()).unwrap();
        snapshot.copy_logs(&db).unwrap();
        before
    };
    let holds = |snapshot: &Snapshot, before: &Option<Stamp>| snapshot.holds(&db, before, young()).unwrap();
    let open = Connection::open(&db).unwrap();
    let insert = |key: &str| open.execute("INSERT INTO functions VALUES (?1, '{}', 0)", [key]).unwrap();
    insert("GET:/1");
    let before = take(&mut snapshot);
    assert!(holds(&snapshot, &before));
    insert("GET:/2");
    assert!(holds(&snapshot, &before));
    open.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
    assert!(!holds(&snapshot, &before), "the database was written");
    let before = take(&mut snapshot);
    insert("GET:/3");
    assert!(!holds(&snapshot, &before), "the wal began anew");
    open.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    let before = take(&mut snapshot);
    let copy = snapshot.path().to_path_buf();
    assert!(!with_suffix(&copy, WAL).exists() && !with_suffix(&copy, JOURNAL).exists() && holds(&snapshot, &before));
    open.execute_batch("BEGIN IMMEDIATE; DELETE FROM functions").unwrap();
    assert!(!holds(&snapshot, &before), "a journal was begun");
    let before = take(&mut snapshot);
    assert!(holds(&snapshot, &before));
    open.execute_batch("COMMIT").unwrap();
    assert!(!holds(&snapshot, &before));
}

#[test]
fn a_database_that_did_not_move_is_not_copied_again() {
    let fixture = Fixture::with(&format!("{WITHOUT_CHECKS}{MANY_ROWS}"));
    let mut snapshot = Snapshot::new(fixture.folder.join("copy"));
    fs::write(snapshot.path(), "what an earlier gateway left").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while snapshot.copied.is_none() {
        assert!(snapshot.take(&fixture.db).unwrap() == Taken::New && Instant::now() < deadline);
    }
    assert!(fs::read(snapshot.path()).unwrap() == fs::read(&fixture.db).unwrap());
    fs::write(snapshot.path(), "marked").unwrap();
    assert_eq!(snapshot.take(&fixture.db).unwrap(), Taken::New);
    assert_eq!(fs::read(snapshot.path()).unwrap(), b"marked");
    execute(&fixture.db, "DELETE FROM functions; VACUUM");
    assert_eq!(snapshot.take(&fixture.db).unwrap(), Taken::New);
    assert!(fs::read(snapshot.path()).unwrap() == fs::read(&fixture.db).unwrap());
    let copy = snapshot.path().to_path_buf();
    drop(snapshot);
    assert!(!copy.exists());
}

#[test]
fn bytes_that_were_read_are_not_read_again() {
    let fixture = Fixture::with(&format!("{WITHOUT_CHECKS}{MANY_ROWS}"));
    let mut snapshot = Snapshot::new(fixture.folder.join("copy"));
    let mut take = |is_read| {
        let taken = snapshot.take(&fixture.db).unwrap();
        snapshot.set_read(is_read);
        taken
    };
    assert_eq!([take(false), take(true), take(true)], [Taken::New, Taken::New, Taken::Same]);
    let open = Connection::open(&fixture.db).unwrap();
    let steps = [
        ("DELETE FROM functions WHERE k = 'GET:/n/1'", Taken::New),
        ("SELECT count(*) FROM functions", Taken::Same),
        ("DELETE FROM functions WHERE k = 'GET:/n/2'", Taken::New),
        ("PRAGMA wal_checkpoint(RESTART)", Taken::New),
        ("DELETE FROM functions WHERE k = 'GET:/n/3'", Taken::New),
        ("PRAGMA journal_mode = DELETE", Taken::New),
        ("DELETE FROM functions WHERE k = 'GET:/n/4'", Taken::New),
        ("SELECT count(*) FROM functions", Taken::Same),
        ("BEGIN IMMEDIATE; DELETE FROM functions", Taken::New),
        // A journal is rolled back into the copy, which then differs from the database.
        ("SELECT count(*) FROM functions", Taken::New),
        ("COMMIT", Taken::New),
    ];
    each(steps.into_iter().enumerate(), |(_, (sql, expected))| {
        open.execute_batch(sql).unwrap();
        assert_eq!(take(true), expected);
    });
}

#[test]
fn a_checkpoint_makes_no_commit_wait_for_a_copy() {
    let fixture = Fixture::with(&format!("{WITHOUT_CHECKS}{MANY_ROWS}"));
    let mut snapshot = Snapshot::new(fixture.folder.join("copy"));
    let open = Connection::open(&fixture.db).unwrap();
    let delete = |number: u32| format!("DELETE FROM functions WHERE k = 'GET:/n/{number}'");
    open.execute_batch(&delete(1)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while snapshot.copied.is_none() {
        snapshot.take(&fixture.db).unwrap();
        snapshot.set_read(true);
        assert!(Instant::now() < deadline);
    }
    let bytes = |path: &Path| fs::read(path).unwrap();
    let copied = bytes(snapshot.path());
    open.execute_batch(&format!("{}; PRAGMA wal_checkpoint(PASSIVE)", delete(2))).unwrap();
    assert_eq!((snapshot.take(&fixture.db).unwrap(), snapshot.is_behind()), (Taken::New, true));
    assert!(bytes(snapshot.path()) == copied && copied != bytes(&fixture.db));
    let rows = |path: &Path| {
        let mut rows = 0;
        Tables::open(path).unwrap().for_each_row(|_, _| rows += 1).unwrap();
        rows
    };
    assert_eq!(rows(snapshot.path()), 1998);
    snapshot.set_read(true);
    assert_eq!((snapshot.take(&fixture.db).unwrap(), snapshot.is_behind()), (Taken::CaughtUp, false));
    assert!(bytes(snapshot.path()) == bytes(&fixture.db));
    assert_eq!((snapshot.take(&fixture.db).unwrap(), rows(snapshot.path())), (Taken::New, 1998));
    snapshot.set_read(true);
    open.execute_batch(&delete(3)).unwrap();
    assert_eq!((snapshot.take(&fixture.db).unwrap(), snapshot.is_behind()), (Taken::New, false), "the wal began anew");
    assert_eq!(rows(snapshot.path()), 1997);
}

#[test]
fn a_wal_that_begins_anew_while_it_is_copied_makes_up_for_no_checkpoint() {
    let fixture = Fixture::with(WITHOUT_CHECKS);
    let (db, mut snapshot) = (fixture.db.clone(), Snapshot::new(fixture.folder.join("copy")));
    let open = Connection::open(&db).unwrap();
    let insert = |key: &str| open.execute("INSERT INTO functions VALUES (?1, '{}', 0)", [key]).unwrap();
    let checkpoint = || open.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
    insert("GET:/1");
    assert_eq!(snapshot.take(&db).unwrap(), Taken::New);
    snapshot.copied = Stamp::of(&db);
    insert("GET:/2");
    checkpoint();
    let (before, now) = (Stamp::of(&db), SystemTime::now());
    snapshot.behind = snapshot.wal_that_goes_on(&db, &before).unwrap();
    assert!(snapshot.is_behind());
    snapshot.copy_logs(&db).unwrap();
    assert!(snapshot.holds(&db, &before, now).unwrap(), "the wal has the pages of the checkpoint");
    insert("GET:/3");
    assert!(!snapshot.holds(&db, &before, now).unwrap(), "the wal began anew after its copy");
    snapshot.copy_logs(&db).unwrap();
    assert!(!snapshot.holds(&db, &before, now).unwrap(), "the wal began anew before its copy");
}

#[test]
fn the_old_rest_of_a_wal_is_not_copied() {
    let fixture = Fixture::with(WITHOUT_CHECKS);
    let open = Connection::open(&fixture.db).unwrap();
    open.execute_batch(&format!(
        "{MANY_ROWS} PRAGMA wal_checkpoint(RESTART); DELETE FROM functions WHERE k = 'GET:/n/1'"
    ))
    .unwrap();
    let mut snapshot = Snapshot::new(fixture.folder.join("copy"));
    assert_eq!(snapshot.take(&fixture.db).unwrap(), Taken::New);
    let bytes = |path: &Path| fs::metadata(with_suffix(path, WAL)).unwrap().len();
    assert!(bytes(snapshot.path()) < bytes(&fixture.db) / 10);
    let copy = Connection::open(snapshot.path()).unwrap();
    let count: i64 = copy.query_row("SELECT count(*) FROM functions", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1999);
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
