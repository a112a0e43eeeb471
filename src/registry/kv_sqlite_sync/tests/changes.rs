//! Inserts, edits and deletes, and rows with faults.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cases::each;
use crate::registry::create::INIT_SQL;
use crate::registry::fixture::{Fixture, WITHOUT_CHECKS, execute, settings};
use crate::registry::kv_sqlite_sync::Sync;
use crate::registry::routes::Found;
use crate::sys::EventFd;

#[test]
fn changes_arrive_and_unchanged_rows_are_kept() {
    let mut fixture = Fixture::with(WITHOUT_CHECKS);
    fixture.set("GET:/a", r#""timeout":1"#);
    fixture.set("GET:/b", r#""timeout":1"#);
    assert!(fixture.sync.look());
    let (a, b) = (fixture.function("/a").unwrap(), fixture.function("/b").unwrap());
    fixture.set("GET:/b", r#""timeout":2"#);
    assert!(fixture.sync.look());
    let (a_after, b_after) = (fixture.function("/a").unwrap(), fixture.function("/b").unwrap());
    assert!(Arc::ptr_eq(&a, &a_after));
    assert_eq!((b.timeout.as_secs(), b_after.timeout.as_secs()), (1, 2));
    assert!(Arc::ptr_eq(&b.inflight, &b_after.inflight), "the count of invocations belongs to the key");
    execute(&fixture.db, "DELETE FROM functions WHERE k = 'GET:/a'");
    assert!(fixture.sync.look());
    assert!(matches!(fixture.found("GET", "/a"), Found::NotFound));
    assert_eq!((fixture.kv.len(), fixture.kv.generation()), (1, None));
}

#[test]
fn functions_of_changed_rows_arrive_once_each() {
    let fixture = Fixture::with(WITHOUT_CHECKS);
    let (arrived, arrivals) = crossbeam_channel::unbounded();
    let run_dir = fixture.folder.join("run");
    let mut sync = Sync::new(&settings(&fixture.db, &run_dir), fixture.kv.clone(), None, move |functions| {
        let routes: Vec<_> = functions.iter().map(|function| function.route.clone()).collect();
        arrived.send(routes).unwrap();
    });
    fixture.set("GET:/a", r#""timeout":1"#);
    sync.look();
    fixture.set("GET:/b", r#""timeout":1"#);
    fixture.set("GET:/faulty", r#""timeout":0"#);
    sync.look();
    sync.seen = None;
    sync.look();
    fixture.set("GET:/a", r#""timeout":2"#);
    sync.look();
    assert_eq!(arrivals.try_iter().collect::<Vec<_>>(), [["GET:/a"], ["GET:/b"], ["GET:/a"]]);
}

#[test]
fn an_unmoved_registry_is_not_read() {
    let mut fixture = Fixture::with(INIT_SQL);
    let deadline = Instant::now() + Duration::from_secs(10);
    while fixture.sync.look() {
        assert!(Instant::now() < deadline, "the file grows old, and then it is not read again");
    }
    assert!(!fixture.sync.look());
    let generation = fixture.kv.generation();
    execute(&fixture.db, "UPDATE functions SET updated = 7");
    assert!(fixture.sync.look());
    assert_eq!(fixture.kv.generation(), generation, "the time of an edit alone is no change");
}

#[test]
fn a_faulty_row_keeps_its_last_good_version() {
    let mut fixture = Fixture::with(WITHOUT_CHECKS);
    fixture.set("GET:/a", r#""timeout":1"#);
    fixture.sync.look();
    fixture.set("GET:/a", r#""timeout":0"#);
    fixture.set("GET:/new", r#""timeout":0"#);
    assert!(fixture.sync.look());
    assert_eq!(fixture.timeout_s("/a"), 1);
    let fault = "timeout is 0; it must be a whole number of seconds from 1 to 3600";
    assert_eq!(fixture.fault("/new"), fault);
    let generation = fixture.kv.generation();
    fixture.sync.seen = None;
    assert!(fixture.sync.look());
    assert_eq!(fixture.kv.generation(), generation, "the same fault is neither taken over nor logged again");
    fixture.set("GET:/a", r#""timeout":3"#);
    fixture.set("GET:/new", r#""timeout":3"#);
    fixture.sync.look();
    assert_eq!((fixture.timeout_s("/a"), fixture.timeout_s("/new")), (3, 3));
    execute(&fixture.db, "UPDATE functions SET v = '{}'; DELETE FROM functions WHERE k = 'GET:/a'");
    fixture.sync.look();
    assert!(matches!(fixture.found("GET", "/a"), Found::NotFound), "a row that is gone has no last good version");
    assert_eq!(fixture.timeout_s("/new"), 3);
}

#[test]
fn a_row_fault_names_key_and_fault() {
    let mut fixture = Fixture::with(WITHOUT_CHECKS);
    let sync = &mut fixture.sync;
    let mut take = |key: &str, text: &str| sync.rows.take_over(key.into(), text.into(), &sync.places).err();
    assert_eq!(take("GET:/a", r#"{"runtime":"php","module":"x"}"#), None);
    let fault = "row GET:/a: runtime is missing; it must be php, wasm or native";
    assert_eq!(take("GET:/a", "{}"), Some(format!("{fault}; its last good version stays in service")));
    assert_eq!(take("GET:/b", "{}"), Some(fault.replace("/a", "/b")));
    assert!(take("get:/c", r#"{"runtime":"php","module":"x"}"#).unwrap().starts_with("row get:/c: k is get:/c;"));
}

#[test]
fn a_last_good_version_survives_a_restart() {
    let mut fixture = Fixture::with(WITHOUT_CHECKS);
    fixture.set("GET:/a", r#""timeout":1"#);
    fixture.set("GET:/b", r#""timeout":1"#);
    fixture.sync.look();
    let kept = fixture.folder.join("run/last_good.json");
    assert!(!kept.exists());
    each(["0", "-1"], |timeout| {
        fixture.set("GET:/a", &format!(r#""timeout":{timeout}"#));
        fixture.sync.look();
        fixture.restart();
        assert_eq!((fixture.timeout_s("/a"), fixture.timeout_s("/b")), (1, 1));
    });
    let faults = fixture.kv.faults().rows;
    assert_eq!((faults.count, faults.first[0].0.as_str()), (1, "GET:/a"));
    fixture.set("GET:/a", r#""timeout":2"#);
    fixture.sync.look();
    assert!(!kept.exists() && fixture.kv.faults().rows.count == 0);
    fixture.restart();
    assert_eq!(fixture.timeout_s("/a"), 2);
}

#[test]
fn a_registry_that_cannot_be_used_is_told() {
    let mut fixture = Fixture::with(WITHOUT_CHECKS);
    assert!(fixture.kv.is_current());
    let moved = fixture.folder.join("moved");
    std::fs::rename(&fixture.db, &moved).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while fixture.kv.is_current() {
        assert!(!fixture.sync.look() && Instant::now() < deadline);
    }
    assert!(fixture.kv.faults().file.unwrap().contains("No such file"));
    std::fs::rename(&moved, &fixture.db).unwrap();
    assert!(fixture.sync.look() && fixture.kv.is_current());
}

#[test]
fn rows_that_are_no_routes_harm_no_other() {
    let mut fixture = Fixture::with("CREATE TABLE functions (k, v, updated)");
    let mut sql =
        String::from("INSERT INTO functions (k, v) VALUES (NULL, NULL), (1, 2), (x'ff', x'ff'), ('get:/x', '{}')");
    sql.push_str(", ('GET:/blob', x'7b7d'), ('GET:/ff', CAST(x'ff' AS TEXT)), ('GET:/long', hex(zeroblob(40000)))");
    let row = |timeout: u32| format!(r#", ('GET:/a', '{{"runtime":"php","module":"x","timeout":{timeout}}}')"#);
    sql.push_str(&(row(1) + &row(2)));
    execute(&fixture.db, &sql);
    assert!(fixture.sync.look());
    assert_eq!(fixture.timeout_s("/a"), 1, "of two rows with one key the first counts");
    assert!(fixture.fault("/blob").starts_with("v is not JSON"));
    assert!(fixture.fault("/ff").starts_with("v is not JSON"));
    assert!(fixture.fault("/long").starts_with("v is longer than 65536 bytes"));
    let generation = fixture.kv.generation();
    fixture.sync.seen = None;
    assert!(fixture.sync.look());
    assert_eq!(fixture.kv.generation(), generation);
}

#[test]
fn the_thread_syncs_until_shutdown() {
    let fixture = Fixture::with(INIT_SQL);
    let sync = Sync::new(&settings(&fixture.db, &fixture.folder.join("run")), fixture.kv.clone(), None, |_| {});
    let stop = Arc::new(EventFd::new().unwrap());
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || sync.run(&stopped, || true));
    fixture.set("GET:/a", r#""timeout":1"#);
    let deadline = Instant::now() + Duration::from_secs(10);
    while fixture.timeout_s("/a") == 0 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    stop.signal();
    thread.join().unwrap();
}

#[test]
fn the_kernel_tells_of_changes_to_the_registry_and_of_no_other() {
    let mut fixture = Fixture::with(INIT_SQL);
    let deadline = Instant::now() + Duration::from_secs(10);
    while fixture.sync.seen.is_none() {
        assert!(Instant::now() < deadline);
        fixture.sync.look();
    }
    let (watch, shutdown) = (fixture.sync.watch(), EventFd::new().unwrap());
    assert!(watch.is_some());
    std::fs::write(fixture.folder.join("another.db"), "x").unwrap();
    assert_eq!(fixture.sync.wait(&shutdown, watch.as_ref()), Some(false));
    fixture.set("GET:/a", r#""timeout":1"#);
    assert_eq!(fixture.sync.wait(&shutdown, watch.as_ref()), Some(true));
    assert_eq!(fixture.sync.wait(&shutdown, None), Some(false), "without a watch it only looks more often");
    shutdown.signal();
    assert_eq!(fixture.sync.wait(&shutdown, watch.as_ref()), None);
}
