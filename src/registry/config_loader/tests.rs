//! Rows, good and faulty.

use std::path::Path;

use super::*;
use crate::cases::{check, each};
use crate::settings::Settings;

fn parsed(key: &str, descriptor: &str) -> Result<Function, String> {
    let places = Places { module_root: "/srv/faas".into(), ..Places::default() };
    parse(key, descriptor, &places, Arc::default())
}

/// The fault of a descriptor that has a runtime and a module besides `field`.
fn fault_of(field: &str) -> String {
    parsed("GET:/x", &format!(r#"{{"runtime":"php","module":"x.php",{field}}}"#)).unwrap_err()
}

#[test]
fn a_full_descriptor_is_taken_as_it_stands() {
    let text = r#"{"name":"conv","runtime":"wasm","module":"/opt/c.wasm","handler":"convert","memory":512,
        "timeout":7,"env":{"A":"1","B":"zwei"},"max_inflight":3,"output":"raw","stream":true,"owner":"not ours"}"#;
    let inflight = Arc::new(AtomicU64::new(2));
    let function = parse("POST:/api/convert", text, &Places::default(), inflight.clone()).unwrap();
    assert_eq!(function.route, "POST:/api/convert");
    assert_eq!((function.name.as_str(), function.handler.as_str()), ("conv", "convert"));
    assert_eq!((function.runtime, function.runtime.as_str()), (Runtime::Wasm, "wasm"));
    assert_eq!(function.module, Path::new("/opt/c.wasm"));
    assert_eq!((function.memory_mib, function.timeout), (512, Duration::from_secs(7)));
    assert_eq!(function.env, [("A".to_string(), "1".to_string()), ("B".to_string(), "zwei".to_string())]);
    assert_eq!((function.max_inflight, function.output, function.stream), (Some(3), Output::Raw, true));
    assert!(Arc::ptr_eq(&function.inflight, &inflight));
}

#[test]
fn what_is_missing_or_null_has_its_default() {
    each(["", r#","name":null,"memory":null,"timeout":null,"env":null,"output":null,"stream":null"#], |rest| {
        let text = format!(r#"{{"runtime":"native","module":"functions/env.sh"{rest}}}"#);
        let function = parsed("GET:/api/env", &text).unwrap();
        assert_eq!((function.name.as_str(), function.handler.as_str()), ("GET:/api/env", ""));
        assert_eq!(function.module, Path::new("/srv/faas/functions/env.sh"));
        assert_eq!((function.memory_mib, function.timeout), (128, Duration::from_secs(30)));
        assert_eq!((function.max_inflight, function.output, function.stream), (None, Output::Auto, false));
        assert!(function.env.is_empty());
    });
}

#[test]
fn a_fault_names_the_field_the_value_and_what_it_must_be() {
    assert_eq!(fault_of(r#""timeout":0"#), "timeout is 0; it must be a whole number of seconds from 1 to 3600");
    assert_eq!(fault_of(r#""memory":"64""#), r#"memory is "64"; it must be a whole number of MiB from 16 to 65536"#);
    assert_eq!(fault_of(r#""output":"html""#), r#"output is "html"; it must be one of auto, cgi, raw"#);
    assert_eq!(fault_of(r#""stream":1"#), "stream is 1; it must be true or false");
    assert_eq!(fault_of(r#""name":["a"]"#), r#"name is ["a"]; it must be a string without NUL"#);
    assert_eq!(fault_of(r#""env":{"A":1}"#), "env.A is a number; it must be a string without NUL");
    assert!(!fault_of(r#""env":{"KEY":["secret"]}"#).contains("secret"));
    assert!(fault_of(r#""env":{"A=B":"1"}"#).starts_with("env has a name A=B;"));
    assert!(fault_of(r#""env":[]"#).starts_with("env is an array; it must be an object"));
    assert!(fault_of(r#""handler":"a\u0000b""#).starts_with("handler is"));
}

#[test]
fn arguments_and_directives_are_taken_and_what_changes_the_start_is_started_anew() {
    let with = |field: &str| parsed("GET:/x", &format!(r#"{{"runtime":"php","module":"x.php",{field}}}"#)).unwrap();
    let function = with(r#""args":["-x","a b",""],"ini":{"precision":"3"},"sapi":"cgi""#);
    assert_eq!(function.args, ["-x", "a b", ""]);
    assert_eq!(function.ini, [("precision".to_string(), "3".to_string())]);
    assert_eq!(FunctionSpec::decode(&function.settings).unwrap(), function.spec);
    assert_eq!(function.start, Start::Auto);
    each(["LD_PRELOAD", "GLIBC_TUNABLES", "PHPRC", "PHP_INI_SCAN_DIR"], |name| {
        assert_eq!(with(&format!(r#""env":{{"A":"1","{name}":"x"}}"#)).start, Start::Cold);
    });
    assert!(fault_of(r#""args":"-x""#).starts_with(r#"args is "-x"; it must be an array of at most"#));
    assert_eq!(fault_of(r#""ini":{"precision":3}"#), "ini.precision is a number; it must be a string without NUL");
}

#[test]
fn what_is_off_limits_is_not_for_functions_to_write() {
    let folder = std::env::temp_dir().join(format!("faas-places-{}", std::process::id()));
    fs::create_dir_all(folder.join("run/spool")).unwrap();
    fs::create_dir_all(folder.join("spool/else")).unwrap();
    fs::create_dir_all(folder.join("data")).unwrap();
    std::os::unix::fs::symlink(".", folder.join("link")).unwrap();
    let text = |name| Some(folder.join(name).display().to_string());
    let settings = Settings::from_lookup(|name| match name {
        "FAAS_DB" => text("faas_meta.db"),
        "FAAS_RUN_DIR" => text("run"),
        "FAAS_SPOOL_DIR" => text("spool"),
        _ => None,
    });
    let protected = ProtectedPaths::new(&settings.unwrap());
    let places = Places { module_root: folder.clone(), protected, ..Places::default() };
    let parsed = |path: &str| {
        let descriptor = format!(r#"{{"runtime":"php","module":"x.php","write":["data",{path:?}]}}"#);
        parse("GET:/x", &descriptor, &places, Arc::default())
    };
    assert_eq!(parsed("data/../data/new").unwrap().write, [folder.join("data"), folder.join("data/../data/new")]);
    let good = ["faas_meta.db.old", "running", "spool/else"].map(|path| (path, None));
    let bad = [".", "/", "..", "run", "run/spool", "spool", "faas_meta.db", "faas_meta.db-wal", "link", "data/.."];
    let bad = bad.map(|path| (path, Some(format!("write is {path:?}; it must be {OFF_LIMITS}"))));
    check(good.into_iter().chain(bad), |path| parsed(path).err());
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn runtime_and_module_are_needed() {
    let fault = |descriptor| parsed("GET:/x", descriptor).unwrap_err();
    assert_eq!(fault(r#"{"module":"x"}"#), "runtime is missing; it must be php, wasm or native");
    assert_eq!(fault(r#"{"runtime":"lua","module":"x"}"#), r#"runtime is "lua"; it must be one of php, wasm, native"#);
    assert_eq!(fault(r#"{"runtime":"php"}"#), "module is missing; it must be the path of a file, or db:NAME");
    assert_eq!(fault(r#"{"runtime":"php","module":""}"#), "module is empty; it must be the path of a file, or db:NAME");
}

#[test]
fn a_descriptor_that_is_no_json_object_is_a_fault() {
    assert_eq!(parsed("GET:/x", "[1]").unwrap_err(), "v is [1]; it must be a JSON object");
    assert!(parsed("GET:/x", r#"{"module":"/new/path.wasm",...}"#).unwrap_err().starts_with("v is not JSON ("));
    let deep = format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
    assert!(parsed("GET:/x", &deep).unwrap_err().starts_with("v is not JSON (recursion limit"));
    let long = format!(r#"{{"runtime":"php","module":"{}"}}"#, "x".repeat(limits::DESCRIPTOR_BYTES_MAX));
    assert_eq!(parsed("GET:/x", &long).unwrap_err(), "v is longer than 65536 bytes; it must be shorter");
}

#[test]
fn a_long_value_is_cut_in_its_fault() {
    let fault = fault_of(&format!(r#""memory":"{}""#, "é".repeat(5000)));
    assert!(fault.starts_with("memory is \"ééé") && fault.contains("é…; it must") && fault.len() < 250, "{fault}");
}
