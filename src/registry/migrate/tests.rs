//! Old registries: the C original's table, and the later one with constraints.

use std::fs;

use super::*;
use crate::registry::fixture::{Fixture, WITHOUT_CHECKS, execute, names_in};

fn text(db: &Path, sql: &str) -> String {
    Connection::open(db).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn an_old_registry_gets_a_history_and_keeps_its_rows() {
    let mut fixture = Fixture::with(WITHOUT_CHECKS);
    fixture.set("GET:/a", r#""timeout":1,"unknown":1"#);
    execute(
        &fixture.db,
        "CREATE TABLE seen (k); CREATE INDEX by_time ON functions (updated); CREATE VIEW own AS SELECT k FROM functions;
         CREATE TRIGGER watch AFTER INSERT ON functions BEGIN INSERT INTO seen VALUES (NEW.k); END;",
    );
    let before = fs::read(&fixture.db).unwrap();
    let backup = migrate(&fixture.db).unwrap().unwrap();
    assert_eq!(backup, with_suffix(&fixture.db, ".backup-1"));
    assert_eq!(text(&backup, "SELECT k FROM functions"), "GET:/a");
    assert_ne!(fs::read(&fixture.db).unwrap(), before);
    assert!(migrate(&fixture.db).unwrap().is_none(), "a second time nothing is due");

    assert_eq!(text(&fixture.db, "SELECT group_concat(name) FROM history"), "GET:/a");
    fixture.set("*:/b/{id}", r#""timeout":2"#);
    assert_eq!(text(&fixture.db, "SELECT group_concat(k) FROM seen"), "*:/b/{id}");
    assert_eq!(text(&fixture.db, "SELECT count(*) || '' FROM own"), "2");
    assert_eq!(text(&fixture.db, "SELECT name FROM sqlite_master WHERE name = 'by_time'"), "by_time");
    assert!(fixture.sync.look());
    assert_eq!((fixture.timeout_s("/a"), fixture.timeout_s("/b/7"), fixture.kv.generation()), (1, 2, Some(2)));
}

#[test]
fn a_row_that_cannot_work_stops_the_migration_and_is_named() {
    let mut fixture = Fixture::with(WITHOUT_CHECKS);
    fixture.set("GET:/good", r#""timeout":1"#);
    fixture.set("GET:/bad", r#""timeout":0"#);
    let error = migrate(&fixture.db).unwrap_err().to_string();
    assert!(error.contains("row GET:/bad: CHECK constraint failed: timeout must be"), "{error}");
    assert_eq!(text(&fixture.db, "SELECT group_concat(name) FROM sqlite_master WHERE type = 'table'"), "functions");
    assert!(fixture.sync.look());
    assert_eq!((fixture.timeout_s("/good"), fixture.kv.generation()), (1, None));
}

#[test]
fn what_is_no_registry_is_left_alone() {
    let fixture = Fixture::empty();
    execute(&fixture.db, "CREATE TABLE other (x)");
    assert!(migrate(&fixture.db).unwrap().is_none());
    assert_eq!(names_in(&fixture.folder), ["faas_meta.db"]);
}
