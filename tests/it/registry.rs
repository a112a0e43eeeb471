//! The registry: changes made by the sqlite3 program come into service, whatever happens to the file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::instance::{Instance, has, run, wait_until};

/// A table as the C original makes it, without constraints.
const PLAIN_TABLE: &str = "CREATE TABLE functions (k TEXT PRIMARY KEY, v TEXT NOT NULL, updated INTEGER);";

#[test]
fn an_insert_an_update_and_a_delete_by_the_sqlite3_program_come_into_service() {
    if !has(&["sqlite3"]) {
        return;
    }
    let instance = Instance::start();
    // Literally from the README of the C original; the file that it names does not exist.
    let output = instance.sqlite3(
        r#"INSERT INTO functions (k, v, updated) VALUES (
  'POST:/api/convert',
  '{"name":"imageConverter","runtime":"wasm","module":"/opt/functions/convert.wasm","handler":"convert","memory":512,"timeout":30}',
  strftime('%s','now')
);"#,
    );
    assert!(output.status.success(), "{output:?}");
    wait_until("the row is in service", || instance.post("/api/convert", "{}").status != 404);
    let detail = instance.post("/api/convert", r#"{"format":"png"}"#).problem(500, "module-missing");
    assert!(!detail.contains("/opt"), "paths are for the log: {detail}");
    instance.wait_for_log("could not read the module /opt/functions/convert.wasm", 1);

    let module = instance.program("convert.sh", "#!/bin/sh\necho converted");
    let output = instance.sqlite3(&format!(
        r#"UPDATE functions
SET v='{{"module":"{}","runtime":"native"}}',
    updated=strftime('%s','now')
WHERE k='POST:/api/convert';"#,
        module.display()
    ));
    assert!(output.status.success(), "{output:?}");
    wait_until("the update is in service", || instance.post("/api/convert", "").text() == "converted\n");

    assert!(instance.sqlite3("DELETE FROM functions WHERE k='POST:/api/convert';").status.success());
    wait_until("the row is out of service", || instance.post("/api/convert", "").status == 404);
}

#[test]
fn two_edits_within_one_second_both_arrive() {
    let instance = Instance::start();
    let write = |text: &str| {
        let row = instance.descriptor("native", &format!("#!/bin/sh\necho {text}"), json!({})).to_string();
        let sql = "INSERT OR REPLACE INTO functions VALUES ('GET:/edited', ?1, 1700000000)";
        instance.registry().execute(sql, [row]).unwrap();
    };
    for round in 0..10 {
        write(&format!("first-{round}"));
        if round % 2 == 0 {
            wait_until("the first is in service", || instance.get("/edited").text() == format!("first-{round}\n"));
        }
        write(&format!("second-{round}"));
        wait_until("the second is in service", || instance.get("/edited").text() == format!("second-{round}\n"));
    }
}

#[test]
fn of_a_thousand_inserts_none_is_refused_and_no_request_fails_meanwhile() {
    if !has(&["sqlite3"]) {
        return;
    }
    const INSERTS: usize = 1000;
    let instance = Instance::start();
    instance.script("GET:/steady", "echo steady");
    let routes = || instance.get("/healthz").json()["routes"].as_u64().unwrap() as usize;
    let before = routes();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients = [(); 2].map(|()| {
            scope.spawn(|| {
                let mut count = 0;
                while !done.load(Ordering::Relaxed) {
                    let answer = instance.get("/steady");
                    assert_eq!((answer.status, answer.text().as_str()), (200, "steady\n"));
                    count += 1;
                }
                count
            })
        });
        for number in 0..INSERTS {
            let output = instance.sqlite3(&format!(
                r#"INSERT INTO functions VALUES ('GET:/many/{number}', '{{"runtime":"native","module":"/x"}}', 1);"#
            ));
            assert!(output.status.success(), "{number}: {output:?}");
        }
        wait_until("all of them are in service", || routes() == before + INSERTS);
        done.store(true, Ordering::Relaxed);
        let requests: usize = clients.map(|client| client.join().unwrap()).iter().sum();
        assert!(requests > 100, "only {requests} requests were made meanwhile");
    });
}

#[test]
fn what_can_never_work_is_refused_at_the_sqlite3_prompt_with_what_must_be() {
    if !has(&["sqlite3"]) {
        return;
    }
    let instance = Instance::prepare(&[]);
    instance.init();
    for (key, descriptor, must) in [
        ("/x", r#"{"runtime":"php","module":"x"}"#, "k must be METHOD:/path"),
        ("get:/x", r#"{"runtime":"php","module":"x"}"#, "k must be METHOD:/path"),
        ("GET:/a b", r#"{"runtime":"php","module":"x"}"#, "k must be written as browsers send it"),
        ("GET:/a*", r#"{"runtime":"php","module":"x"}"#, "k must have a * only as its last character"),
        ("GET:/healthz", r#"{"runtime":"php","module":"x"}"#, "k must be another path"),
        ("GET:/x", "{", "v must be a JSON object"),
        ("GET:/x", "[1]", "v must be a JSON object"),
        ("GET:/x", r#"{"module":"x"}"#, "runtime must be php, wasm or native"),
        ("GET:/x", r#"{"runtime":"lua","module":"x"}"#, "runtime must be php, wasm or native"),
        ("GET:/x", r#"{"runtime":"php"}"#, "module must be the path of a file"),
        ("GET:/x", r#"{"runtime":"php","module":"x","memory":8}"#, "memory must be a whole number of MiB"),
        ("GET:/x", r#"{"runtime":"php","module":"x","memory":"64"}"#, "memory must be a whole number of MiB"),
        ("GET:/x", r#"{"runtime":"php","module":"x","timeout":0}"#, "timeout must be a whole number of seconds"),
        ("GET:/x", r#"{"runtime":"php","module":"x","max_inflight":0}"#, "max_inflight must be a whole number"),
        ("GET:/x", r#"{"runtime":"php","module":"x","output":"html"}"#, "output must be auto, cgi or raw"),
        ("GET:/x", r#"{"runtime":"php","module":"x","stream":"yes"}"#, "stream must be true or false"),
        ("GET:/x", r#"{"runtime":"php","module":"x","env":[]}"#, "env must be an object of strings"),
    ] {
        let output = instance.sqlite3(&format!("INSERT INTO functions VALUES ('{key}', '{descriptor}', 1);"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(must), "{key} {descriptor}: {said}");
    }
}

#[test]
fn the_last_good_routes_serve_while_the_registry_is_missing_or_damaged_and_it_is_said_once() {
    let instance = Instance::start();
    instance.script("GET:/good", "echo good");
    let is_good = || instance.get("/good").text() == "good\n" && instance.get("/healthz").status == 200;
    let complaints = || instance.log_lines(" registry ").len();
    let backup = instance.path("backup.db");
    // A copy in one file, without -wal.
    instance.registry().execute("VACUUM INTO ?1", [backup.to_str().unwrap()]).unwrap();

    let spoil: [&dyn Fn(); 2] = [&|| fs::rename(instance.db(), instance.path("elsewhere.db")).unwrap(), &|| {
        fs::write(instance.db(), "this is no database".repeat(1000)).unwrap()
    }];
    for (number, spoil) in spoil.iter().enumerate() {
        let before = complaints();
        spoil();
        wait_until("it is said", || complaints() > before);
        assert!(is_good());
        let stale = "the registry cannot be used; its last good routes are in service";
        assert_eq!(instance.get("/healthz").json()["status"], stale);
        assert!(instance.status()["registry"]["fault"].is_string(), "{}", instance.status());
        // The gateway looks at the file at least twice a second, and logs the fault once.
        let looks = instance.log().len();
        for _ in 0..100 {
            assert!(is_good());
        }
        assert!(instance.log().len() > looks);
        assert_eq!(complaints(), before + 1, "{:?}", instance.log_lines(" registry "));

        // The operator mends it: takes a good file and adds a row.
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(instance.path(&format!("registry.db{suffix}")));
        }
        fs::copy(&backup, instance.path("new.db")).unwrap();
        fs::rename(instance.path("new.db"), instance.db()).unwrap();
        instance.script(&format!("GET:/new/{number}"), "echo new");
        // The good file is a change of its own, which may have ended the wait above.
        wait_until("the row is in service", || instance.get(&format!("/new/{number}")).text() == "new\n");
        assert!(is_good());
        assert_eq!(instance.get("/healthz").json()["status"], "ready");
    }
}

#[test]
fn a_bad_row_keeps_its_last_good_version_and_a_new_bad_row_answers_500_naming_its_fault() {
    let mut instance = Instance::prepare(&[]);
    instance.registry().execute_batch(PLAIN_TABLE).unwrap();
    instance.launch();
    instance.wait_until_ready();
    instance.script("GET:/row", "echo good");
    instance.install(&[("GET:/row", json!({"runtime": "native", "module": "x", "timeout": 0}))]);
    assert_eq!(instance.get("/row").text(), "good\n");
    wait_until("it is said", || !instance.log_lines("row GET:/row: timeout is 0").is_empty());
    assert!(instance.log_lines("row GET:/row:")[0].ends_with("its last good version stays in service"));

    instance.install(&[("GET:/bad", json!({"runtime": "lua", "module": "x"}))]);
    let detail = instance.get("/bad").problem(500, "row-unusable");
    assert!(detail.ends_with("runtime must be one of php, wasm, native"), "{detail}");
    let told = &instance.status()["registry"];
    assert_eq!((&told["faulty_rows"], &told["first"][1]["route"]), (&json!(2), &json!("GET:/row")), "{told}");
    assert_eq!(instance.get("/healthz").json()["faulty_rows"], 2);
    let said = run(instance.command(env!("CARGO_BIN_EXE_faas")).arg("status"));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("\nrow GET:/row: timeout is 0; it must be"), "{said}");
    // The last good version survives a restart.
    instance.stop();
    instance.launch();
    instance.wait_until_ready();
    assert_eq!(instance.get("/row").text(), "good\n");
    // Neither row blocks changes of other rows, and both can be mended.
    instance.script("GET:/bad", "echo mended");
    instance.script("GET:/row", "echo better");
    assert_eq!((instance.get("/bad").text(), instance.get("/row").text()), ("mended\n".into(), "better\n".into()));
}

#[test]
fn what_calls_of_a_new_row_would_meet_is_told_when_it_arrives() {
    let mut instance = Instance::prepare(&[]);
    instance.registry().execute_batch(PLAIN_TABLE).unwrap();
    instance.launch();
    instance.wait_until_ready();
    let plain = instance.path("plain.sh");
    fs::write(&plain, "#!/bin/sh\n").unwrap();
    let good = instance.program("good.sh", "#!/bin/sh\necho good\n");
    let windows = instance.program("windows.sh", "#!/bin/sh\r\n");
    let secret = instance.path("secret.php");
    fs::write(&secret, "<?php\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let native = |module: &std::path::Path| json!({"runtime": "native", "module": module});
    let with = |name: &str, value: serde_json::Value| {
        let mut row = native(&good);
        row[name] = value;
        row
    };
    instance.install(&[
        ("GET:/a", native(&instance.path("nothing.sh"))),
        ("GET:/b", native(&plain)),
        ("GET:/c", native(&windows)),
        ("GET:/d", with("memroy", json!(64))),
        ("GET:/e", with("write", json!(["no such folder"]))),
        ("GET:/f", native(&good)),
        ("GET:/g", json!({"runtime": "php", "module": secret})),
    ]);
    let is_other_user = !instance.log_lines("functions run as nobody").is_empty();
    let unreadable = ("/g", format!("the user nobody cannot read {0}; try: chmod o+r {0}", secret.display()));
    for (key, says) in [
        ("/a", "no module is at ".to_string()),
        ("/b", format!("is not executable; try: chmod +x {}", plain.display())),
        ("/c", "ends with CR LF".to_string()),
        ("/d", r#"the field memroy does not exist, and is ignored"#.to_string()),
        ("/e", "nothing is there; try: mkdir -p '".to_string()),
    ]
    .into_iter()
    .chain(is_other_user.then_some(unreadable))
    {
        let lines = instance.wait_for_log(&format!("registry: row GET:{key}: "), 1);
        assert!(lines.len() == 1 && lines[0].contains(&says), "{key}: {lines:?}");
    }
    assert!(instance.log_lines("row GET:/f").is_empty() && instance.get("/f").text() == "good\n");
}

#[test]
fn a_prefix_route_takes_what_lies_under_it_and_the_longest_wins() {
    let instance = Instance::start();
    let show = |name: &str| {
        let script = format!("#!/bin/sh\necho \"{name} $SCRIPT_NAME|$PATH_INFO|$QUERY_STRING\"");
        instance.descriptor("native", &script, json!({}))
    };
    instance.install(&[
        ("GET:/api/*", show("short")),
        ("GET:/api/deep/*", show("long")),
        ("GET:/api/deep/exact", show("exact")),
    ]);
    for (target, says) in [
        ("/api/x/y?q=1", "short /api|/x/y|q=1"),
        ("/api/", "short /api|/|"),
        ("/api", "short /api||"),
        ("/api/deep/er", "long /api/deep|/er|"),
        ("/api/deep/exact", "exact /api/deep/exact||"),
        ("/api/deep/exact/not", "long /api/deep|/exact/not|"),
        ("/api/a%20b", "short /api|/a b|"),
    ] {
        assert_eq!(instance.get(target).text(), format!("{says}\n"), "{target}");
    }
    instance.get("/apix").problem(404, "no-route");
}

#[test]
fn a_path_with_other_methods_answers_405_with_allow_options_204_and_head_the_get_route() {
    let instance = Instance::start();
    instance.script("GET:/page", "echo page");
    instance.script("PUT:/page", "echo put");
    let answer = instance.post("/page", "");
    answer.problem(405, "method-not-allowed");
    assert_eq!(answer.field("Allow"), Some("GET, HEAD, PUT, OPTIONS"));

    let answer = instance.request("OPTIONS", "/page", &[], b"");
    assert_eq!((answer.status, answer.field("Allow")), (204, Some("GET, HEAD, PUT, OPTIONS")));
    assert!(answer.body.is_empty());
    instance.request("OPTIONS", "/nowhere", &[], b"").problem(404, "no-route");

    let answer = instance.request("HEAD", "/page", &[], b"");
    assert_eq!((answer.status, answer.field("Content-Length")), (200, Some("5")));
}

#[test]
fn healthz_answers_503_until_the_registry_is_loaded_and_names_the_reason() {
    let mut instance = Instance::prepare(&[]);
    instance.launch();
    wait_until("the workers are there", || instance.status()["workers"].as_array().unwrap().len() == 2);
    let answer = instance.get("/healthz");
    assert_eq!((answer.status, answer.field("Retry-After")), (503, Some("1")));
    assert_eq!(answer.json()["status"], "the registry is not loaded");
    assert_eq!(instance.gateway(&["--healthz"]).status.code(), Some(1));
    instance.get("/ping").problem(503, "registry-not-loaded");
    instance.init();
    instance.wait_until_ready();
    assert_eq!(instance.get("/healthz").json()["status"], "ready");
    assert_eq!(instance.gateway(&["--healthz"]).status.code(), Some(0));
    assert_eq!(instance.request("HEAD", "/healthz", &[], b"").status, 200);
    instance.post("/healthz", "").problem(405, "method-not-allowed");
}
