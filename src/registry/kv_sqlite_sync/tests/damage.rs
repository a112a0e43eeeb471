//! Registries that are damaged, replaced, locked, or blocked.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::cases::each;
use crate::limits;
use crate::registry::create::INIT_SQL;
use crate::registry::files::{WAL, with_suffix};
use crate::registry::fixture::{Fixture, MANY_ROWS, WITHOUT_CHECKS, execute};

#[test]
fn a_damaged_registry_leaves_the_last_map_in_service() {
    let mut fixture = Fixture::with(INIT_SQL);
    let whole = fs::read(&fixture.db).unwrap();
    let mut zeros_within = whole.clone();
    zeros_within[4096..8192].fill(0);
    let damages: [&dyn Fn(&Path); 7] = [
        &|db| fs::remove_file(db).unwrap(),
        &|db| fs::write(db, "").unwrap(),
        &|db| fs::write(db, "this is not a database ".repeat(1000)).unwrap(),
        &|db| fs::write(db, &whole[..whole.len() / 2]).unwrap(),
        &|db| fs::write(db, &zeros_within).unwrap(),
        &|db| execute(db, "DROP TABLE functions"),
        &|db| execute(db, "ALTER TABLE functions RENAME COLUMN v TO descriptor"),
    ];
    each(0..damages.len(), |index| {
        damages[index](&fixture.db);
        assert!(!fixture.sync.look(), "it was taken in");
        assert_eq!(fixture.kv.len(), 5);
        fs::write(&fixture.db, &whole).unwrap();
        fixture.set("GET:/mended", &format!(r#""timeout":{}"#, index + 1));
        assert!(fixture.sync.look());
        assert_eq!(fixture.timeout_s("/mended"), index as u64 + 1);
        execute(&fixture.db, "DELETE FROM functions WHERE k = 'GET:/mended'");
        assert!(fixture.sync.look());
    });
}

#[test]
fn a_fifo_or_folder_does_not_block() {
    let mut fixture = Fixture::with(INIT_SQL);
    fs::remove_file(&fixture.db).unwrap();
    fs::create_dir(&fixture.db).unwrap();
    assert!(!fixture.sync.look());
    fs::remove_dir(&fixture.db).unwrap();
    assert!(Command::new("mkfifo").arg(&fixture.db).status().unwrap().success());
    assert!(!fixture.sync.look());
    assert_eq!(fixture.kv.len(), 5);
}

#[test]
fn an_outside_fault_is_retried() {
    let mut fixture = Fixture::with(INIT_SQL);
    // The sync cannot write its copy: the cause lies outside the registry, whose files will not change again.
    fs::remove_dir_all(fixture.folder.join("run")).unwrap();
    fs::write(fixture.folder.join("run"), "in the way").unwrap();
    fixture.set("GET:/a", r#""timeout":1"#);
    assert!(!fixture.sync.look());
    fs::remove_file(fixture.folder.join("run")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while fixture.timeout_s("/a") == 0 {
        fixture.sync.look();
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn too_many_rows_are_refused_as_a_whole() {
    let mut fixture = Fixture::with(WITHOUT_CHECKS);
    fixture.set("GET:/a", r#""timeout":1"#);
    fixture.sync.look();
    execute(&fixture.db, &MANY_ROWS.replace("2000", &limits::ROUTES_MAX.to_string()));
    assert!(!fixture.sync.look());
    assert_eq!((fixture.kv.len(), fixture.timeout_s("/a")), (1, 1));
    execute(&fixture.db, "DELETE FROM functions WHERE k = 'GET:/a'");
    assert!(fixture.sync.look());
    assert_eq!(fixture.kv.len(), limits::ROUTES_MAX);
}

#[test]
fn a_replaced_file_goes_into_service() {
    let mut fixture = Fixture::with(INIT_SQL);
    let other = fixture.folder.join("other.db");
    execute(&other, WITHOUT_CHECKS);
    let insert = |timeout: u32| {
        let text = format!(r#"{{"runtime":"php","module":"x","timeout":{timeout}}}"#);
        execute(&other, &format!("INSERT OR REPLACE INTO functions VALUES ('GET:/other', '{text}', 0)"));
    };
    insert(1);
    fs::copy(&other, &fixture.db).unwrap();
    assert!(fixture.sync.look());
    assert_eq!((fixture.kv.len(), fixture.timeout_s("/other")), (1, 1));
    insert(2);
    fs::rename(&other, &fixture.db).unwrap();
    assert!(fixture.sync.look());
    assert_eq!((fixture.kv.len(), fixture.timeout_s("/other")), (1, 2));
}

#[test]
fn a_symbolic_link_is_followed_to_its_wal() {
    let mut fixture = Fixture::empty();
    let target = fixture.folder.join("target.db");
    execute(&target, WITHOUT_CHECKS);
    std::os::unix::fs::symlink(&target, &fixture.db).unwrap();
    assert!(fixture.sync.look());
    let open = Connection::open(&target).unwrap();
    open.execute("INSERT INTO functions VALUES ('GET:/a', '{\"runtime\":\"php\",\"module\":\"x\"}', 0)", []).unwrap();
    assert!(fs::metadata(with_suffix(&target, WAL)).unwrap().len() > 0);
    assert!(fixture.sync.look());
    assert!(fixture.function("/a").is_some());
    // The link leads elsewhere, while nothing at its first target changes.
    let (other, link) = (fixture.folder.join("other.db"), fixture.folder.join("link"));
    execute(&other, WITHOUT_CHECKS);
    std::os::unix::fs::symlink(&other, &link).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while fixture.sync.look() {
        assert!(Instant::now() < deadline, "the stamps never prove that nothing changed");
    }
    fs::rename(&link, &fixture.db).unwrap();
    assert!(fixture.sync.look());
    assert_eq!(fixture.kv.len(), 0);
}

#[test]
fn vacuum_and_journal_modes_are_survived() {
    let mut fixture = Fixture::with(&format!("{INIT_SQL}{MANY_ROWS}"));
    let steps = ["VACUUM", "PRAGMA journal_mode = DELETE", "VACUUM", "PRAGMA journal_mode = PERSIST"];
    each(steps.iter().enumerate(), |(index, sql)| {
        execute(&fixture.db, &format!("DELETE FROM functions WHERE k LIKE 'GET:/n/{index}%'; {sql};"));
        fixture.set("GET:/a", &format!(r#""timeout":{}"#, index + 1));
        assert!(fixture.sync.look());
        assert_eq!(fixture.timeout_s("/a"), index as u64 + 1);
    });
}

#[test]
fn a_locked_database_is_read() {
    let mut fixture = Fixture::with(INIT_SQL);
    each(["WAL", "DELETE"], |mode| {
        execute(&fixture.db, &format!("PRAGMA journal_mode = {mode}"));
        let holder = Connection::open(&fixture.db).unwrap();
        holder.execute_batch("BEGIN EXCLUSIVE; DELETE FROM functions").unwrap();
        fixture.sync.seen = None;
        assert!(fixture.sync.look());
        assert_eq!(fixture.kv.len(), 5, "what is not committed is not seen");
    });
}

#[test]
fn a_view_that_never_comes_to_a_row_does_not_hang_the_sync() {
    let mut fixture = Fixture::with(INIT_SQL);
    fixture.sync.look();
    let before = fixture.kv.len();
    execute(
        &fixture.db,
        "DROP TABLE functions; CREATE VIEW functions (k, v) AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
         SELECT i, i FROM n WHERE i < 0",
    );
    let began = std::time::Instant::now();
    fixture.sync.look();
    assert!(began.elapsed() < std::time::Duration::from_secs(60), "{:?}", began.elapsed());
    assert_eq!(fixture.kv.len(), before, "the last good map stays in service");
}
