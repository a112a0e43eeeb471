//! A new registry: its contents, the files beside it, and CHECK constraints that agree with the parser.

use std::sync::Arc;

use super::*;
use crate::cases::each;
use crate::limits;
use crate::registry::config_loader::{self, Places};
use crate::registry::files::WAL;
use crate::registry::fixture::{Fixture, execute, names_in, sqlite3};

#[test]
fn init_registers_the_examples() {
    let mut fixture = Fixture::empty();
    create_registry(&fixture.db, &fixture.folder).unwrap();
    assert_eq!(names_in(&fixture.folder), ["faas_meta.db"]);
    assert!(fixture.sync.look());
    let cases = [
        ("POST", "/api/hello", "php", "hello.php"),
        ("GET", "/api/info", "php", "info.php"),
        ("POST", "/resize", "wasm", "resize.wasm"),
        ("GET", "/ping", "wasm", "ping.wasm"),
        ("GET", "/api/env", "native", "env.sh"),
    ];
    each(cases, |(method, path, runtime, module)| {
        let function = fixture.function_of(method, path).unwrap();
        assert_eq!(function.runtime.as_str(), runtime);
        // The tests run in the project's folder, so readfile() finds the functions that ship.
        assert!(function.code.is_some() && function.module.ends_with(module));
        let shipped = fs::read(format!("functions/{module}")).unwrap();
        assert!(fs::read(&function.module).unwrap() == shipped);
    });
    assert_eq!(fixture.kv.len(), 5);
    let env = fixture.function("/api/env").unwrap();
    assert_eq!((env.memory_mib, env.timeout.as_secs()), (64, 5));
}

#[test]
fn init_keeps_an_existing_registry() {
    let mut fixture = Fixture::empty();
    create_registry(&fixture.db, &fixture.folder).unwrap();
    execute(&fixture.db, "DELETE FROM functions WHERE k <> 'GET:/ping'");
    create_registry(&fixture.db, &fixture.folder).unwrap();
    fixture.sync.look();
    assert_eq!(fixture.kv.len(), 1);
    // The script itself adds missing rows, and keeps edited ones.
    fixture.set("GET:/ping", r#""timeout":9"#);
    assert!(sqlite3(&fixture.db, INIT_SQL).stderr.is_empty());
    fixture.sync.look();
    assert_eq!((fixture.kv.len(), fixture.timeout_s("/ping")), (5, 9));
}

#[test]
fn init_removes_the_wal_of_a_deleted_registry() {
    let mut fixture = Fixture::empty();
    fs::write(with_suffix(&fixture.db, WAL), "left over").unwrap();
    create_registry(&fixture.db, &fixture.folder).unwrap();
    assert_eq!(names_in(&fixture.folder), ["faas_meta.db"]);
    assert!(fixture.sync.look());
}

#[test]
fn a_failed_init_names_the_registry() {
    let error = create_registry(Path::new("/nonexistent/folder/r.db"), Path::new("/")).unwrap_err();
    assert!(error.to_string().starts_with("could not use the registry /nonexistent/folder/r.db: "), "{error}");
}

#[test]
fn plain_sqlite3_inserts_and_updates() {
    let mut fixture = Fixture::with(INIT_SQL);
    let insert = r#"
INSERT INTO functions (k, v, updated) VALUES (
  'POST:/api/convert',
  '{"name":"imageConverter","runtime":"wasm","module":"/opt/functions/convert.wasm","handler":"convert","memory":512,"timeout":30}',
  strftime('%s','now')
);
"#;
    let output = sqlite3(&fixture.db, insert);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let update = r#"UPDATE functions
SET v='{"module":"/new/path.wasm","runtime":"wasm"}',
    updated=strftime('%s','now')
WHERE k='POST:/resize';"#;
    assert!(sqlite3(&fixture.db, update).stderr.is_empty());
    assert!(fixture.sync.look());
    let convert = fixture.function_of("POST", "/api/convert").unwrap();
    assert_eq!((convert.name.as_str(), convert.handler.as_str()), ("imageConverter", "convert"));
    assert_eq!(fixture.function_of("POST", "/resize").unwrap().module, Path::new("/new/path.wasm"));
    let unfilled = update.replace(r#""runtime":"wasm""#, "...");
    let message = String::from_utf8(sqlite3(&fixture.db, &unfilled).stderr).unwrap();
    assert!(message.contains("CHECK constraint failed: v must be a JSON object"), "{message}");
}

#[test]
fn sql_checks_agree_with_the_parser() {
    let fixture = Fixture::with(INIT_SQL);
    let connection = Connection::open(&fixture.db).unwrap();
    let good = r#"{"runtime":"php","module":"x"}"#.to_string();
    let with = |field: &str| format!(r#"{{"runtime":"php","module":"x",{field}}}"#);
    let mut rows: Vec<(String, String)> = Vec::new();
    let ranges = [
        ("memory", limits::MEMORY_MIB),
        ("timeout", limits::TIMEOUT_S),
        ("max_inflight", limits::MAX_INFLIGHT),
        ("queue", limits::FUNCTION_QUEUE),
        ("scratch", limits::SCRATCH_MIB),
    ];
    for (name, range) in ranges {
        let below = *range.start() as i64 - 1;
        for number in [below, *range.start() as i64, *range.end() as i64, *range.end() as i64 + 1] {
            rows.push(("GET:/t".into(), with(&format!(r#""{name}":{number}"#))));
        }
        for other in "null -1 20.0 20.5 \"20\" true [20] 1e2 18446744073709551616".split(' ') {
            rows.push(("GET:/t".into(), with(&format!(r#""{name}":{other}"#))));
        }
    }
    for name in "name handler env output stream net write x-own".split(' ') {
        for value in r#"null 1 true "" "raw" "Raw" {} []"#.split(' ') {
            rows.push(("GET:/t".into(), with(&format!(r#""{name}":{value}"#))));
        }
    }
    let texts = r#"| { | [] | 1 | null | "x" | {} | {"runtime":"php"} | {"module":"x"}
        | {"runtime":"PHP","module":"x"} | {"runtime":"native","module":""} | {"runtime":1,"module":"x"}
        | {"runtime":"wasm","module":["x"]}
        | {"runtime":null,"module":null} | {"runtime":"wasm","module":"x"} "#;
    rows.extend(texts.split('|').map(|text| ("GET:/t".into(), text.into())));
    let keys = "|GET|GET:|:/x|GET:x|get:/x|GE T:/x|G1:/x|GET:/a b|GET:/é|GÉT:/|GET:/a?b|GET:/a#b|GET:/a*|GET:/*/a\
        |GET:/a/**|GET:/\u{7f}|GET:/\t|GET:/healthz|POST:/healthz|GET:/healthz/x|GET:/|GET:/a/*|GET:/*|M-X:/a:b\
        |GET:/a%20b|*:/a|*:/*|**:/a|*A:/a|*:/a*|*:/healthz|GET:/{id}|GET:/a/{id}/b/{c_2}/*|GET:/{}|GET:/{1}\
        |GET:/a{b}|GET:/{b}a|GET:/{a}/{A}|GET:/{a|GET:/a}|GET:/{a-b}|GET:/{{a}}|GET:/\"{a}|GET:/\\/{a}";
    rows.extend(keys.split('|').map(|key| (key.into(), good.clone())));
    for filler in [limits::DESCRIPTOR_BYTES_MAX, limits::DESCRIPTOR_BYTES_MAX + 1] {
        rows.push(("GET:/t".into(), format!("{good}{}", " ".repeat(filler - good.len()))));
    }
    for filler in [limits::ROUTE_KEY_BYTES_MAX, limits::ROUTE_KEY_BYTES_MAX + 1] {
        rows.push((format!("GET:/{}", "x".repeat(filler - 5)), good.clone()));
    }
    each(rows, |(key, text)| {
        let parsed = config_loader::parse(&key, &text, &Places::default(), Arc::default());
        let inserted = connection.execute("INSERT INTO functions VALUES (?1, ?2, 0)", (&key, &text));
        assert_eq!(parsed.is_ok(), inserted.is_ok(), "{parsed:?}\n{inserted:?}");
        connection.execute("DELETE FROM functions WHERE k = ?1", [&key]).unwrap();
    });
    assert!(connection.execute("INSERT INTO functions VALUES (NULL, ?1, 0)", [&good]).is_err());
    assert!(connection.execute("INSERT INTO functions VALUES ('GET:/t', CAST(?1 AS BLOB), 0)", [&good]).is_err());
}
