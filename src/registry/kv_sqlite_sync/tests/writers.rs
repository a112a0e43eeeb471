//! Readers beside writers that work, or are killed in the middle of a transaction.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;

use crate::cases::each;
use crate::registry::create::INIT_SQL;
use crate::registry::files::{WAL, with_suffix};
use crate::registry::fixture::{Fixture, MANY_ROWS, WITHOUT_CHECKS, execute, killed_after, names_in, sqlite3};

#[test]
fn a_transaction_is_seen_whole_or_not_at_all() {
    each(["WAL", "DELETE"], |mode| {
        let mut fixture = Fixture::with(&format!("{WITHOUT_CHECKS} {MANY_ROWS} PRAGMA journal_mode = {mode};"));
        let (db, is_over) = (fixture.db.clone(), Arc::new(AtomicBool::new(false)));
        let writer = std::thread::spawn({
            let is_over = is_over.clone();
            move || {
                // A small cache and a small limit cause many writes into the file while it is being read.
                let small = "PRAGMA cache_size = 5; PRAGMA wal_autocheckpoint = 5; PRAGMA synchronous = OFF;";
                for timeout in 2..100 {
                    let set = format!("UPDATE functions SET v = json_set(v, '$.timeout', {timeout})");
                    execute(&db, &format!("{small} {set}"));
                }
                is_over.store(true, Ordering::Relaxed);
            }
        });
        let paths: Vec<String> = (1..=2000).map(|i| format!("/n/{i}")).collect();
        while !is_over.load(Ordering::Relaxed) {
            fixture.sync.look();
            let first = fixture.timeout_s(&paths[0]);
            assert!(paths.iter().all(|path| fixture.timeout_s(path) == first));
        }
        writer.join().unwrap();
        assert!(fixture.sync.look());
        assert_eq!(fixture.timeout_s("/n/2000"), 99);
    });
}

#[test]
fn a_reader_never_fails_a_writer() {
    each(["WAL", "DELETE"], |mode| {
        let mut fixture = Fixture::with(&format!("{INIT_SQL} PRAGMA journal_mode = {mode};"));
        let (db, is_over) = (fixture.db.clone(), Arc::new(AtomicBool::new(false)));
        let writer = std::thread::spawn({
            let is_over = is_over.clone();
            move || {
                let row = |i: u32| format!("('GET:/i/{i}', '{{\"runtime\":\"php\",\"module\":\"x\"}}', 0)");
                let failed = (0..100).filter_map(|i| {
                    let output = sqlite3(&db, &format!("INSERT INTO functions VALUES {};", row(i)));
                    (!output.stderr.is_empty()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
                });
                let failed: Vec<String> = failed.collect();
                is_over.store(true, Ordering::Relaxed);
                failed
            }
        });
        while !is_over.load(Ordering::Relaxed) {
            fixture.sync.seen = None;
            fixture.sync.look();
        }
        assert_eq!(writer.join().unwrap(), Vec::<String>::new());
        fixture.sync.look();
        assert_eq!(fixture.kv.len(), 105);
    });
}

#[test]
fn a_reading_leaves_nothing_beside_the_registry() {
    let mut fixture = Fixture::with(INIT_SQL);
    let open = Connection::open(&fixture.db).unwrap();
    open.execute("DELETE FROM functions WHERE k = 'GET:/ping'", []).unwrap();
    assert!(fixture.sync.look());
    assert_eq!(fixture.kv.len(), 4);
    assert_eq!(names_in(&fixture.folder), ["code", "faas_meta.db", "faas_meta.db-shm", "faas_meta.db-wal", "run"]);
    drop(open);
    assert_eq!(
        names_in(&fixture.folder),
        ["code", "faas_meta.db", "run"],
        "the last program to close takes its -wal along"
    );
    assert!(fixture.sync.look());
    assert_eq!(names_in(&fixture.folder.join("run")), ["registry.copy", "registry.copy-wal"]);
}

#[test]
fn a_killed_writers_wal_is_read_to_its_last_commit() {
    let mut fixture = Fixture::with(INIT_SQL);
    let row = |path: &str| {
        format!("INSERT INTO functions VALUES ('GET:/{path}', '{{\"runtime\":\"php\",\"module\":\"x\"}}', 0);")
    };
    let begun = format!("PRAGMA cache_size = 1; BEGIN; {} {MANY_ROWS}", row("begun"));
    killed_after(&fixture.db, &format!("{}{begun}", row("committed")));
    assert!(fs::metadata(with_suffix(&fixture.db, WAL)).unwrap().len() > 64 * 1024, "pages of both are in it");
    fixture.sync.look();
    for reader in [&fixture, &fixture.restarted()] {
        assert!(reader.function("/committed").is_some() && reader.function("/begun").is_none());
        assert_eq!(reader.kv.len(), 6);
    }
    let output = sqlite3(&fixture.db, &row("next"));
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    fixture.sync.look();
    assert_eq!(fixture.kv.len(), 7);
}

#[test]
fn a_killed_writers_journal_is_rolled_back_in_the_copy() {
    let mut fixture = Fixture::with(&format!("{INIT_SQL}{MANY_ROWS} PRAGMA journal_mode = DELETE;"));
    let before = fs::read(&fixture.db).unwrap();
    let update = "UPDATE functions SET v = json_set(v, '$.timeout', 77);";
    killed_after(&fixture.db, &format!("PRAGMA cache_size = 1; BEGIN; {update}"));
    let torn = fs::read(&fixture.db).unwrap();
    assert!(torn != before, "pages that were not committed are in the file");
    fixture.sync.look();
    for reader in [&fixture, &fixture.restarted()] {
        assert_eq!((reader.kv.len(), reader.timeout_s("/n/1"), reader.timeout_s("/n/2000")), (2005, 1, 1));
    }
    assert!(fs::read(&fixture.db).unwrap() == torn, "a reader leaves the registry as it is");
    assert!(sqlite3(&fixture.db, &update.replace("77", "78")).stderr.is_empty());
    assert!(fixture.sync.look());
    assert_eq!(fixture.timeout_s("/n/2000"), 78);
}
