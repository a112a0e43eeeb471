//! The ledger: the record of a call. No state of its file affects a call.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::instance::{Instance, run, wait_for, wait_until};

fn ledger(instance: &Instance) -> PathBuf {
    instance.path("faas_calls.db")
}

/// Waits for the recorded call with this request id.
fn recorded(instance: &Instance, request_id: &str) -> Value {
    let find = || {
        let connection = Connection::open(ledger(instance)).ok()?;
        let sql = "SELECT json_object('at', at, 'route', route, 'function', function, 'status', status,
            'worker', worker, 'start', start, 'ms_queued', ms_queued, 'ms_run', ms_run, 'cpu_ms', cpu_ms,
            'memory', memory, 'measured', measured, 'in', bytes_in, 'out', bytes_out, 'client', client,
            'generation', generation, 'stderr', stderr) FROM calls WHERE request_id = ?1";
        let text: String = connection.query_row(sql, [request_id], |row| row.get(0)).ok()?;
        Some(serde_json::from_str(&text).unwrap())
    };
    wait_for("the call is recorded", find)
}

fn call(instance: &Instance, target: &str, request_id: &str) -> u16 {
    instance.request("GET", target, &[("X-Request-Id", request_id)], b"").status
}

#[test]
fn a_call_is_recorded_with_all_that_is_known_of_it() {
    let instance = Instance::start();
    instance.script_with("POST:/x/*", "cat; echo warning >&2", json!({"name": "echo"}));
    instance.request("POST", "/x/y", &[("X-Request-Id", "it-known")], b"four");
    let call = recorded(&instance, "it-known");
    let texts = ["route", "function", "start", "client"].map(|name| call[name].as_str().unwrap());
    assert_eq!(texts, ["POST:/x/*", "echo", "exec", "127.0.0.1"]);
    assert_eq!((&call["status"], &call["in"], &call["out"]), (&json!(200), &json!(4), &json!(4)));
    assert!([json!(0), json!(1)].contains(&call["worker"]), "{call}");
    assert!(call["generation"].as_u64() > Some(1) && call["at"].as_u64() > Some(1_700_000_000_000), "{call}");
    assert!(["ms_run", "cpu_ms", "memory"].iter().all(|name| call[name].as_f64() > Some(0.0)), "{call}");
    assert_eq!(call["stderr"], Value::Null, "only failed calls have it");
}

#[test]
fn cpu_time_is_that_of_the_process_its_children_and_the_killed() {
    let instance = Instance::start();
    let busy = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
    instance.script("GET:/own", busy);
    instance.script("GET:/waited", &format!("sh -c '{busy}'"));
    // The function leaves a busy process behind once that has used CPU time, and the platform kills that process.
    let stat = "$(cut -d' ' -f14 /proc/$!/stat)";
    instance.script("GET:/killed", &format!("(while :; do :; done) & until [ {stat} -ge 30 ]; do sleep 0.1; done"));
    for target in ["/own", "/waited", "/killed"] {
        assert_eq!(call(&instance, target, &target.replace('/', "it-")), 200);
    }
    let cpu_ms = |id: &str| recorded(&instance, id)["cpu_ms"].as_f64().unwrap();
    assert!(cpu_ms("it-own") > 10.0 && cpu_ms("it-waited") > 10.0);
    assert!(cpu_ms("it-killed") > 200.0, "{}", cpu_ms("it-killed"));
}

#[test]
fn memory_is_the_highest_sample_of_all_its_processes() {
    let instance = Instance::start();
    // 16 MiB in a child that has ended before the function does.
    instance.script("GET:/large", "awk 'BEGIN { s = \"x\"; for (i = 0; i < 24; i++) s = s s; system(\"sleep 0.5\") }'");
    assert_eq!(call(&instance, "/large", "it-large"), 200);
    let call = recorded(&instance, "it-large");
    assert_eq!(call["measured"], "samples");
    assert!((16 << 20..60_000_000).contains(&call["memory"].as_u64().unwrap()), "{call}");
}

#[test]
fn calls_without_a_worker_are_recorded_and_those_without_a_route_are_not() {
    let instance = Instance::start();
    let gate = instance.gate("gate");
    instance.script_with("GET:/one", "read _ < \"$IT_FOLDER/gate\"", json!({"max_inflight": 1}));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| call(&instance, "/one", "it-first"));
        wait_until("it runs", || instance.functions().len() == 1);
        assert_eq!(call(&instance, "/one", "it-busy"), 429);
        std::io::Write::write_all(&mut &gate, b"\n").unwrap();
        assert_eq!(first.join().unwrap(), 200);
    });
    assert_eq!(call(&instance, "/nowhere", "it-nowhere"), 404);
    let call = recorded(&instance, "it-busy");
    assert_eq!([&call["worker"], &call["start"], &call["ms_run"], &call["cpu_ms"]], [&Value::Null; 4]);
    recorded(&instance, "it-first");
    let connection = Connection::open(ledger(&instance)).unwrap();
    let count: u64 = connection.query_row("SELECT count(*) FROM calls", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 2);
}

#[test]
fn what_waits_to_be_written_is_written_at_the_end() {
    let mut instance = Instance::start();
    instance.script("GET:/x", "echo x");
    for number in 0..20 {
        assert_eq!(call(&instance, "/x", &format!("it-{number}")), 200);
    }
    assert!(instance.stop().success());
    assert!(!fs::exists(instance.path("faas_calls.db-wal")).unwrap(), "it is copied into the file");
    let connection = Connection::open(ledger(&instance)).unwrap();
    let count: u64 = connection.query_row("SELECT count(*) FROM calls", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 20);
}

#[test]
fn an_empty_name_is_off_and_the_registry_is_no_ledger() {
    let off = Instance::with(&[("FAAS_LEDGER", "")]);
    assert_eq!(off.get("/api/info").status, 200);
    assert!(!fs::exists(ledger(&off)).unwrap());
    let instance = Instance::prepare(&[]);
    instance.init();
    let output = run(instance.command(crate::instance::GATEWAY).env("FAAS_LEDGER", instance.db()));
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("FAAS_LEDGER and FAAS_DB name the same file"));
}

#[test]
fn a_damaged_ledger_is_moved_aside_and_a_new_one_begun() {
    let mut instance = Instance::prepare(&[]);
    instance.init();
    fs::write(ledger(&instance), "no database, but 40 bytes of something else").unwrap();
    instance.launch();
    instance.wait_until_ready();
    instance.script("GET:/x", "echo x");
    assert_eq!(call(&instance, "/x", "it-first"), 200);
    recorded(&instance, "it-first");
    assert!(fs::read(instance.path("faas_calls.db.damaged")).unwrap().starts_with(b"no database"));
    assert_eq!(instance.log_lines("ledger: could not write").len(), 1);

    // The same while the file is in use: the test overwrites bytes of its pages behind SQLite's back.
    let path = ledger(&instance);
    let rewrite = "PRAGMA wal_checkpoint(TRUNCATE);";
    Connection::open(&path).unwrap().query_row(rewrite, [], |_| Ok(())).unwrap();
    let length = fs::metadata(&path).unwrap().len() as usize;
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0x5a; length - 4096], 4096).unwrap();
    let damaged = || instance.log_lines("ledger: moved").len() == 2;
    wait_until("the damage is found", || call(&instance, "/x", "it-many") == 200 && damaged());
    assert_eq!(call(&instance, "/x", "it-second"), 200);
    recorded(&instance, "it-second");
}

#[test]
fn a_locked_ledger_keeps_no_call_and_is_written_when_it_is_free() {
    let instance = Instance::start();
    instance.script("GET:/x", "echo x");
    assert_eq!(call(&instance, "/x", "it-before"), 200);
    recorded(&instance, "it-before");
    let holder = Connection::open(ledger(&instance)).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    for number in 0..3 {
        assert_eq!(call(&instance, "/x", &format!("it-{number}")), 200);
    }
    instance.wait_for_log("ledger: could not write", 1);
    assert_eq!(call(&instance, "/x", "it-later"), 200);
    holder.execute_batch("ROLLBACK").unwrap();
    instance.wait_for_log("is written again; 0 calls were not recorded", 1);
    ["it-0", "it-1", "it-2", "it-later"].iter().for_each(|id| drop(recorded(&instance, id)));
    assert_eq!(instance.log_lines("ledger: could not write").len(), 1, "it is said once");
}

/// A file system of 256 KiB, as long as it lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where it cannot be mounted; only root can.
    fn mount(folder: PathBuf) -> Option<SmallDisk> {
        fs::create_dir(&folder).unwrap();
        let mounted = run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(&folder));
        mounted.status.success().then_some(SmallDisk(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

#[test]
fn a_full_disk_keeps_no_call() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path().join("small")) else { return };
    let mut instance = Instance::prepare(&[("FAAS_LEDGER", disk.0.join("calls.db").to_str().unwrap())]);
    instance.init();
    fs::write(disk.0.join("filler"), vec![1; 128 << 10]).unwrap();
    instance.launch();
    instance.wait_until_ready();
    instance.script("GET:/fails", "head -c 4096 /dev/zero | tr '\\0' x >&2; exit 3");
    wait_until("it is full", || {
        assert_eq!(call(&instance, "/fails", "it-full"), 500);
        !instance.log_lines("ledger: could not write").is_empty()
    });
    assert_eq!(call(&instance, "/api/info", "it-on"), 200);
    fs::remove_file(disk.0.join("filler")).unwrap();
    instance.wait_for_log("is written again", 1);
}

#[test]
fn rows_go_when_the_file_is_too_large() {
    let instance = Instance::with(&[("FAAS_LEDGER_MAX", "1048576")]);
    instance.script("GET:/x", "echo x");
    assert_eq!(call(&instance, "/x", "it-old"), 200);
    recorded(&instance, "it-old");
    let connection = Connection::open(ledger(&instance)).unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    // 2 MB of calls, dated a day from now.
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
        INSERT INTO calls SELECT NULL, (SELECT max(at) FROM calls) + 86400000 + i, 'made', route, function, status, worker,
            start, ms_queued, ms_run, cpu_ms, memory, measured, bytes_in, bytes_out, client, generation,
            printf('%.*c', 100, 'x') FROM calls, n WHERE request_id = 'it-old'";
    connection.execute_batch(sql).unwrap();
    wait_until("the file is small again", || {
        let pages: u64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        pages * 4096 <= 1 << 20
    });
    let (count, old): (u64, u64) = connection
        .query_row("SELECT count(*), sum(request_id = 'it-old') FROM calls", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert!(count > 1000 && old == 0, "the oldest go first: {count} are left, {old} of them old");
}

#[test]
fn rows_go_when_they_are_too_old() {
    let instance = Instance::with(&[("FAAS_LEDGER_DAYS", "1")]);
    instance.script("GET:/x", "echo x");
    ["it-old", "it-new"].iter().for_each(|id| assert_eq!(call(&instance, "/x", id), 200));
    ["it-old", "it-new"].iter().for_each(|id| drop(recorded(&instance, id)));
    let connection = Connection::open(ledger(&instance)).unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    connection.execute("UPDATE calls SET at = at - 86500000 WHERE request_id = 'it-old'", []).unwrap();
    let count = || connection.query_row("SELECT count(*) FROM calls", [], |row| row.get::<_, u64>(0)).unwrap();
    wait_until("it is gone", || count() == 1);
    recorded(&instance, "it-new");
}

#[test]
fn a_function_can_neither_read_nor_write_the_ledger() {
    let instance = Instance::start();
    let files = ["faas_calls.db", "faas_calls.db-wal"].map(|name| instance.path(name));
    wait_until("it is begun", || files.iter().all(|file| file.exists()));
    let script = "for file in $FILES; do\n(cat \"$file\" >/dev/null) 2>/dev/null && echo read\n\
        (echo x >>\"$file\") 2>/dev/null && echo written\ndone\necho done";
    let list = files.each_ref().map(|file| file.display().to_string()).join(" ");
    instance.script_with("GET:/look", script, json!({"env": {"FILES": list}}));
    assert_eq!(instance.get("/look").text(), "done\n");
    let row = instance.descriptor("native", "#!/bin/sh\n", json!({"write": [files[0]]}));
    instance.install(&[("GET:/write", row)]);
    assert!(instance.get("/write").problem(500, "row-unusable").contains("write"));
}
