//! init.sql in the plain sqlite3 program: its history, its rollback, and the rows that it refuses. No gateway runs
//! here.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::cases::each;
use crate::instance::{need, run, start};

const INIT_SQL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/init.sql");

/// A registry without routes, in a folder of its own.
struct Registry {
    folder: tempfile::TempDir,
}

impl Registry {
    fn new() -> Registry {
        need(&["sqlite3"]);
        let registry = Registry { folder: tempfile::tempdir().unwrap() };
        registry.script(&std::fs::read_to_string(INIT_SQL).unwrap());
        registry.ok("DELETE FROM functions; DELETE FROM modules; DELETE FROM history; DELETE FROM sqlite_sequence;
            UPDATE history_state SET oldest = 0;");
        registry
    }

    fn db(&self) -> PathBuf {
        self.folder.path().join("registry.db")
    }

    /// Runs statements and returns stdout and stderr.
    fn run(&self, sql: &str) -> (String, String) {
        let output = run(Command::new("sqlite3").current_dir(self.folder.path()).arg(self.db()).arg(sql));
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// Like `run`, for a script on stdin.
    fn script(&self, sql: &str) {
        use std::io::Write;
        let mut command = Command::new("sqlite3");
        command.arg(self.db()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = start(&mut command);
        child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn ok(&self, sql: &str) -> String {
        let (said, error) = self.run(sql);
        assert_eq!(error, "", "{sql}");
        said.trim_end().to_string()
    }

    fn refused(&self, sql: &str) -> String {
        let before =
            self.ok("SELECT * FROM functions; SELECT name, hex(code) FROM modules; SELECT max(id) FROM history");
        let (_, error) = self.run(sql);
        assert_ne!(error, "", "not refused: {sql}");
        let after =
            self.ok("SELECT * FROM functions; SELECT name, hex(code) FROM modules; SELECT max(id) FROM history");
        assert_eq!(before, after, "a refused statement changes nothing: {sql}");
        error
    }

    /// The entries that `sql` adds to the history, as `name=after` with the module's text or the row's timeout.
    fn entries(&self, sql: &str) -> Vec<String> {
        let last = self.ok("SELECT coalesce(max(id), 0) FROM history");
        self.ok(sql);
        let shown = "CASE WHEN after IS NULL THEN 'removed' WHEN kind = 'module' THEN CAST(after AS TEXT)
            ELSE coalesce(json_extract(after, '$.timeout'), 'default') END";
        let entries = self.ok(&format!("SELECT name || '=' || {shown} FROM history WHERE id > {last} ORDER BY id"));
        entries.lines().map(str::to_string).collect()
    }

    /// All rows and modules, in the form of `entries`.
    fn state(&self) -> Vec<String> {
        let state = self.ok("SELECT k || '=' || coalesce(json_extract(v, '$.timeout'), 'default') FROM functions
             UNION ALL SELECT name || '=' || CAST(code AS TEXT) FROM modules ORDER BY 1");
        state.lines().map(str::to_string).collect()
    }
}

fn descriptor(module: &str, timeout: u32) -> String {
    format!(r#"{{"runtime":"php","module":"{module}","timeout":{timeout}}}"#)
}

/// Statements that give a route this module and timeout, the module with this text.
fn deploy(route: &str, module: &str, code: &str, timeout: u32) -> String {
    let row = descriptor(&format!("db:{module}"), timeout);
    format!(
        "BEGIN; INSERT OR REPLACE INTO modules VALUES ('{module}', '{code}', 0);
         INSERT OR REPLACE INTO functions VALUES ('{route}', '{row}', 0); COMMIT;"
    )
}

#[test]
fn each_kind_of_write_records_exactly_its_real_changes() {
    let registry = Registry::new();
    let (one, two) = (descriptor("x", 1), descriptor("x", 2));
    let cases: &[(String, &[&str])] = &[
        (format!("INSERT INTO functions VALUES ('GET:/a', '{one}', 0)"), &["GET:/a=1"]),
        (format!("INSERT OR REPLACE INTO functions VALUES ('GET:/a', '{one}', 7)"), &[]),
        (format!("INSERT OR REPLACE INTO functions VALUES ('GET:/a', '{two}', 0)"), &["GET:/a=2"]),
        (format!("REPLACE INTO functions VALUES ('GET:/b', '{one}', 0)"), &["GET:/b=1"]),
        (format!("INSERT OR IGNORE INTO functions VALUES ('GET:/b', '{two}', 0)"), &[]),
        (format!("INSERT OR IGNORE INTO functions VALUES ('GET:/c', '{two}', 0)"), &["GET:/c=2"]),
        (
            format!("INSERT INTO functions VALUES ('GET:/c', '{one}', 0) ON CONFLICT DO UPDATE SET v = excluded.v"),
            &["GET:/c=1"],
        ),
        (format!("INSERT INTO functions VALUES ('GET:/c', '{two}', 0) ON CONFLICT DO NOTHING"), &[]),
        ("UPDATE functions SET updated = 9".into(), &[]),
        (format!("UPDATE functions SET v = '{two}' WHERE k < 'GET:/c'"), &["GET:/b=2"]),
        ("UPDATE functions SET k = 'GET:/d' WHERE k = 'GET:/c'".into(), &["GET:/d=1", "GET:/c=removed"]),
        ("UPDATE OR REPLACE functions SET k = 'GET:/b' WHERE k = 'GET:/d'".into(), &["GET:/b=1", "GET:/d=removed"]),
        ("DELETE FROM functions WHERE k = 'GET:/a'".into(), &["GET:/a=removed"]),
        ("DELETE FROM functions WHERE k = 'GET:/a'".into(), &[]),
        ("INSERT INTO modules VALUES ('m', 'one', 0)".into(), &["m=one"]),
        ("INSERT OR REPLACE INTO modules VALUES ('m', CAST('one' AS BLOB), 0)".into(), &[]),
        ("INSERT OR REPLACE INTO modules VALUES ('m', 'two', 0)".into(), &["m=two"]),
        ("INSERT OR IGNORE INTO modules VALUES ('m', 'three', 0)".into(), &[]),
        (
            "INSERT INTO modules VALUES ('m', 'four', 0) ON CONFLICT (name) DO UPDATE SET code = excluded.code".into(),
            &["m=four"],
        ),
        ("INSERT INTO modules VALUES ('n', 'five', 0)".into(), &["n=five"]),
        ("UPDATE OR REPLACE modules SET name = 'n' WHERE name = 'm'".into(), &["n=four", "m=removed"]),
        ("DELETE FROM modules".into(), &["n=removed"]),
        ("BEGIN; INSERT INTO modules VALUES ('r', 'x', 0); ROLLBACK".into(), &[]),
    ];
    each(cases, |(sql, expected)| assert_eq!(registry.entries(sql), *expected));
    assert_eq!(registry.ok("SELECT * FROM unrecorded"), "");
}

#[test]
fn statements_that_cannot_work_are_refused_by_name() {
    let registry = Registry::new();
    registry.ok(&deploy("GET:/used", "used/index.php", "x", 1));
    let row = |fields: &str| {
        format!(r#"INSERT INTO functions VALUES ('GET:/x', '{{"runtime":"php","module":"x",{fields}}}', 0)"#)
    };
    let key = |key: &str| format!("INSERT INTO functions VALUES ('{key}', '{}', 0)", descriptor("x", 1));
    let module = |name: &str, code: &str| format!("INSERT INTO modules VALUES ({name}, {code}, 0)");
    let cases: &[(String, &str)] = &[
        (key("/x"), "k must be METHOD:/path"),
        (key("get:/x"), "k must be METHOD:/path"),
        (key("GET:/a b"), "k must be written as browsers send it"),
        (key("GET:/healthz"), "k must be another path"),
        ("INSERT INTO functions VALUES ('GET:/x', '{', 0)".into(), "v must be a JSON object"),
        ("INSERT INTO functions VALUES ('GET:/x', '[1]', 0)".into(), "v must be a JSON object"),
        (key("GET:/x").replace("php", "lua"), "runtime must be php, wasm or native"),
        (key("GET:/x").replace(r#""runtime":"php","#, ""), "runtime must be php, wasm or native"),
        (key("GET:/x").replace(r#""module":"x","#, ""), "module must be the path of a file"),
        (row(r#""memory":8"#), "memory must be a whole number of MiB"),
        (row(r#""memory":"64""#), "memory must be a whole number of MiB"),
        (row(r#""timeout":0"#), "timeout must be a whole number of seconds"),
        (row(r#""max_inflight":0"#), "max_inflight must be a whole number"),
        (row(r#""output":"html""#), "output must be auto, cgi or raw"),
        (row(r#""stream":"yes""#), "stream must be true or false"),
        (row(r#""memroy":64"#), "the fields are name, runtime, module,"),
        (row(r#""env":{"A":"1","B":2}"#), "env, ini and dirs must be objects of strings"),
        (row(r#""ini":{"memory_limit":128}"#), "env, ini and dirs must be objects of strings"),
        (row(r#""args":["a",1]"#), "write and args must be arrays of strings"),
        (row(r#""env":[]"#), "env must be an object of strings"),
        (row(r#""module":"db:none.php""#), "v has a field twice"),
        (key("GET:/x").replace("\"x\"", "\"db:none.php\""), "module names a db: module that is not there; insert into modules first"),
        (key("GET:/a{id}"), "as a whole segment"),
        (key("GET:/{1a}"), "as a whole segment"),
        (key("GET:/{id}/{ID}"), "no name twice"),
        (key("GET:/{id"), "as a whole segment"),
        (key("*GET:/x"), "k must be METHOD:/path"),
        (key("*:/x*"), "k must have a * only as its last character"),
        (key("*:/healthz"), "k must be another path"),
        (key("GET://a.example/healthz"), "k must be another path"),
        (key("GET://a.example"), "k must name a host"),
        (key("ANY:/a"), "k must have * for any method"),
        (key("GET:///a"), "k must name a host"),
        (key("GET://a.example:80/x"), "k must name a host"),
        (key("GET://{a}/x"), "k must name a host"),
        (key("GET://[::1/x"), "k must name a host"),
        (module("'a.php'", "NULL"), "code is missing: readfile() found no file?"),
        (module("'a.php'", "readfile('nothing-here.php')"), "code is missing: readfile() found no file?"),
        ("INSERT OR IGNORE INTO modules VALUES ('a.php', NULL, 0)".into(), "code is missing"),
        ("UPDATE modules SET code = NULL".into(), "code is missing"),
        (module("'a.php'", "''"), "code is empty"),
        (module("'a.php'", "x''"), "code is empty"),
        (module("'a.php'", "17"), "code must be a blob"),
        (module("''", "'x'"), "name must be text"),
        (module("NULL", "'x'"), "name must be text"),
        (module("'a' || char(10)", "'x'"), "control characters"),
        (module("'/etc/passwd'", "'x'"), "name must be a relative path"),
        (module("'../x'", "'x'"), "name must be a relative path"),
        (module("'a/../x'", "'x'"), "name must be a relative path"),
        (module("'a//x'", "'x'"), "name must be a relative path"),
        (module("'a/./x'", "'x'"), "name must be a relative path"),
        (module("'a/'", "'x'"), "name must be a relative path"),
        (module("'used'", "'x'"), "both a file and a folder"),
        (module("'used/index.php/x'", "'x'"), "both a file and a folder"),
        ("DELETE FROM modules".into(), "rows of functions name this module"),
        ("UPDATE modules SET name = 'other'".into(), "rows of functions name this module"),
        ("UPDATE settings SET value = 3 WHERE name = 'module_bytes_max'; INSERT INTO modules VALUES ('a', 'long', 0)".into(),
            "module_bytes_max in the table settings"),
        ("UPDATE settings SET value = 1 WHERE name = 'bundle_files_max'; INSERT INTO modules VALUES ('used/b', 'x', 0)".into(),
            "bundle_files_max in the table settings"),
        ("INSERT INTO rollback VALUES ('GET:/none')".into(), "no such route"),
        ("INSERT INTO rollback_to VALUES (1000)".into(), "no such generation"),
        ("INSERT INTO rollback_to VALUES ('x')".into(), "no such generation"),
    ];
    each(cases, |(sql, expected)| {
        let error = registry.refused(sql);
        assert!(error.contains(expected), "{error}");
    });
    let allowed = [
        row(r#""x-owner":{"any":1},"sapi":"cgi","dirs":null,"env":{"A":"8"},"args":["a"],"ini":{"memory_limit":"1G"}"#),
        key("*:/any/*"),
        key("GET:/users/{id}/posts/{post_id}"),
        key("GET:/users/{id}/*"),
        key("GET://shop.example/healthz/x/healthz"),
        key("*://[::1]/*"),
        module("'b.c/d e/ü.php'", "'x'"),
        module("'a..b'", "'x'"),
    ];
    each(allowed, |sql| drop(registry.ok(&sql)));
}

#[test]
fn rollback_goes_back_one_step_each_time() {
    let registry = Registry::new();
    for version in 1..=3 {
        registry.ok(&deploy("POST:/r", "shop/index.php", &format!("v{version}"), version));
        registry.ok(&deploy("GET:/other", "other.php", &format!("other {version}"), version));
    }
    // The fourth deploy changes only code, and adds a file.
    registry.ok("INSERT OR REPLACE INTO modules VALUES ('shop/index.php', 'v4', 0), ('shop/lib.php', 'new', 0)");
    let rollback = "INSERT INTO rollback VALUES ('POST:/r')";
    let other = ["GET:/other=3", "other.php=other 3"];
    let shop = |timeout: u32, code: &str| {
        let mut state = vec![format!("POST:/r={timeout}"), format!("shop/index.php={code}")];
        state.extend(other.map(str::to_string));
        state.sort();
        state
    };
    for version in [3, 2, 1] {
        registry.ok(rollback);
        assert_eq!(registry.state(), shop(version, &format!("v{version}")));
    }
    assert!(registry.refused(rollback).contains("there is no older version: this is the first one"));
    // A later deploy begins anew: the step before it is the result of the rollback.
    registry.ok(&deploy("POST:/r", "shop/index.php", "v5", 5));
    registry.ok(rollback);
    assert_eq!(registry.state(), shop(1, "v1"));
}

#[test]
fn rollback_restores_a_removed_route_and_a_row_without_code() {
    let registry = Registry::new();
    registry.ok(&format!("INSERT INTO functions VALUES ('GET:/file', '{}', 0)", descriptor("f.php", 1)));
    registry.ok(&format!("UPDATE functions SET v = '{}'", descriptor("f.php", 2)));
    registry.ok("INSERT INTO rollback VALUES ('GET:/file')");
    assert_eq!(registry.state(), ["GET:/file=1"]);
    registry.ok(&deploy("GET:/db", "m.php", "code", 3));
    // A change of another bundle right before the removal is no part of it.
    registry.ok("INSERT INTO modules VALUES ('else.php', 'else', 0)");
    registry.ok("DELETE FROM functions WHERE k = 'GET:/db'; DELETE FROM modules WHERE name = 'm.php';");
    registry.ok("INSERT INTO rollback VALUES ('GET:/db')");
    assert_eq!(registry.state(), ["GET:/db=3", "GET:/file=1", "else.php=else", "m.php=code"]);
}

#[test]
fn rollback_of_shared_code_is_refused_and_names_rollback_to() {
    let registry = Registry::new();
    registry.ok(&deploy("GET:/a", "shared/x.php", "one", 1));
    registry.ok(&deploy("GET:/b", "shared/y.php", "one", 1));
    let generation = registry.ok("SELECT * FROM rollback_to");
    registry.ok(&deploy("GET:/a", "shared/x.php", "two", 2));
    let error = registry.refused("INSERT INTO rollback VALUES ('GET:/a')");
    assert!(error.contains("INSERT INTO rollback_to VALUES (generation)"), "{error}");
    registry.ok(&format!("INSERT INTO rollback_to VALUES ({generation})"));
    assert_eq!(registry.state(), ["GET:/a=1", "GET:/b=1", "shared/x.php=one", "shared/y.php=one"]);
}

#[test]
fn rollback_to_sets_rows_and_modules_back_and_forth() {
    let registry = Registry::new();
    let mut states = Vec::new();
    for sql in [
        deploy("GET:/a", "a.php", "a1", 1),
        deploy("GET:/b", "b.php", "b1", 1),
        deploy("GET:/a", "a.php", "a2", 2),
        "DELETE FROM functions WHERE k = 'GET:/b'; DELETE FROM modules WHERE name = 'b.php'".into(),
        deploy("GET:/b", "a.php", "a3", 4),
    ] {
        registry.ok(&sql);
        states.push((registry.ok("SELECT * FROM rollback_to"), registry.state()));
    }
    for index in [0, 3, 1, 4, 2] {
        let (generation, state) = &states[index];
        registry.ok(&format!("INSERT INTO rollback_to VALUES ({generation})"));
        assert_eq!(registry.state(), *state, "generation {generation}");
    }
}

#[test]
fn history_keeps_its_bounds_and_the_newest_entries() {
    let registry = Registry::new();
    registry.ok("UPDATE settings SET value = 20 WHERE name = 'history_entries_max'");
    registry.ok(&deploy("GET:/still", "still.php", "still", 1));
    let many: String = (0..60).map(|n| deploy("GET:/a", "a.php", &format!("code {n}"), n % 9 + 1)).collect();
    registry.ok(&many);
    let past = "SELECT count(*), (SELECT entries FROM history_state) FROM history WHERE until IS NOT NULL";
    assert_eq!(registry.ok(past), "20|20");
    let living = "SELECT group_concat(name, ' ') FROM (SELECT name FROM history WHERE until IS NULL ORDER BY name)";
    assert_eq!(registry.ok(living), "GET:/a GET:/still a.php still.php");
    assert!(registry.refused("INSERT INTO rollback_to VALUES (3)").contains("has been trimmed"));
    registry.ok("INSERT INTO rollback_to SELECT oldest FROM history_state");

    registry.ok("UPDATE settings SET value = 3000 WHERE name = 'history_bytes_max'");
    let many: String =
        (0..12).map(|n| format!("REPLACE INTO modules VALUES ('a.php', randomblob({}), 0);", 500 + n)).collect();
    registry.ok(&many);
    let bytes = "SELECT sum(length(after)) <= 3000, sum(length(after)) = (SELECT bytes FROM history_state)
        FROM history WHERE until IS NOT NULL";
    assert_eq!(registry.ok(bytes), "1|1");
    assert_eq!(registry.ok("SELECT files FROM bundles WHERE name = 'a.php'"), "1");
}

#[test]
fn bundles_count_their_files_and_their_last_change() {
    let registry = Registry::new();
    let bundles = || registry.ok("SELECT name, files, changed FROM bundles ORDER BY name");
    registry.ok("INSERT INTO modules VALUES ('one.php', 'x', 0), ('shop/a', 'x', 0), ('shop/b/c', 'x', 0)");
    assert_eq!(bundles(), "one.php|1|1\nshop/|2|3");
    registry.ok("REPLACE INTO modules VALUES ('shop/a', 'x', 0), ('shop/b/c', 'y', 0)");
    assert_eq!(bundles(), "one.php|1|1\nshop/|2|4");
    registry.ok("DELETE FROM modules WHERE name IN ('one.php', 'shop/a')");
    assert_eq!(bundles(), "shop/|1|6");
    registry.ok("INSERT INTO modules VALUES ('one.php', 'x', 0)");
    assert_eq!(bundles(), "one.php|1|7\nshop/|1|6");
}

#[test]
fn a_registry_without_history_gets_one_and_keeps_its_rows() {
    need(&["sqlite3"]);
    let registry = Registry { folder: tempfile::tempdir().unwrap() };
    registry.ok("CREATE TABLE functions (k TEXT PRIMARY KEY, v TEXT NOT NULL, updated INTEGER)");
    registry.ok(&format!("INSERT INTO functions VALUES ('GET:/old', '{}', 5)", descriptor("x", 7)));
    let init = std::fs::read_to_string(INIT_SQL).unwrap();
    registry.script(&init);
    registry.script(&init);
    assert_eq!(registry.ok("SELECT id, name FROM history ORDER BY id LIMIT 1"), "1|GET:/old");
    assert_eq!(
        registry.ok("SELECT count(*) = (SELECT (SELECT count(*) FROM functions) + count(*) FROM modules) FROM history"),
        "1"
    );
    assert!(registry.refused("INSERT INTO rollback_to VALUES (0)").contains("trimmed"));
}
