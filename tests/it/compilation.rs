//! WASM modules are compiled when their rows arrive, without a call.

use std::collections::HashSet;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::cases::check;
use crate::instance::{Instance, need, run, wait_until};

const COMPONENT: &str = r#"(component
    (core module $code (func (export "run") (result i32) (i32.const 0)))
    (core instance $made (instantiate $code))
    (func $run (result (result)) (canon lift (core func $made "run")))
    (instance $command (export "run" (func $run)))
    (export "wasi:cli/run@0.2.0" (instance $command)))"#;

/// Paths in the folder of compiled modules that end with this word.
fn results(instance: &Instance, word: &str) -> Vec<PathBuf> {
    let entries = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    // In the spool folder, the scratch folder has the run dir's name, and in it that of the gateway its number.
    let gateways = entries(instance.path("spool")).flat_map(entries);
    let paths = gateways.flat_map(|gateway| entries(gateway.join("compiled")));
    paths.filter(|path| path.extension().is_some_and(|is| is == word)).collect()
}

fn wait_for_results(instance: &Instance, word: &str, count: usize) {
    wait_until(&format!("{count} {word}"), || results(instance, word).len() >= count);
    assert_eq!(results(instance, word).len(), count, "{:?}", results(instance, word));
}

/// A module in text form that says nothing. To compile its functions takes a second or more.
fn slow() -> String {
    let mut text = String::from(r#"(module (memory (export "memory") 1) (func (export "_start"))"#);
    for number in 0..6000 {
        let sum = "(local.set 0 (i64.add (i64.mul (local.get 0) (i64.const 3)) (i64.load (i32.const 8))))".repeat(20);
        write!(text, "(func (export \"{number}\") (param i64) (result i64) {sum} (local.get 0))").unwrap();
    }
    text + ")"
}

#[test]
fn modules_are_compiled_when_their_rows_arrive() {
    need(&["faas-wasm", "faas-wasm-component"]);
    let instance = Instance::start();
    // Of the examples, which were there at the start.
    wait_for_results(&instance, "compiled", 2);
    instance.function("GET:/slow", "wasm", &slow(), json!({}));
    wait_for_results(&instance, "compiled", 3);
    instance.function("GET:/component", "wasm", COMPONENT, json!({}));
    wait_for_results(&instance, "compiled", 4);
    let broken = instance.descriptor("wasm", r#"(module (import "none" "such" (func)))"#, json!({}));
    instance.install(&[("GET:/broken", broken.clone())]);
    wait_for_results(&instance, "failed", 1);
    let lines = instance.wait_for_log(&format!("module {}: ", broken["module"].as_str().unwrap()), 1);
    assert!(lines[0].contains("none"), "{lines:?}");
    check([("/slow", 200), ("/component", 200)], |target| instance.get(target).status);
    assert_eq!(results(&instance, "compiled").len(), 4, "a call compiles nothing again");
}

#[test]
fn a_module_that_gives_way_to_a_pipe_and_comes_back_holds_up_nobody() {
    need(&["faas-wasm"]);
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    let pipe = instance.path("pipe");
    assert!(run(Command::new("mkfifo").arg(&pipe)).status.success());
    let nothing = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
    let descriptor = instance.descriptor("wasm", nothing, json!({}));
    let module = PathBuf::from(descriptor["module"].as_str().unwrap());
    let (good, next) = (instance.path("good"), instance.path("next"));
    fs::copy(&module, &good).unwrap();
    instance.install(&[("GET:/swapped", descriptor)]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // With each link the file has another version, which is compiled anew.
                for file in [&pipe, &good] {
                    fs::hard_link(file, &next).unwrap();
                    fs::rename(&next, &module).unwrap();
                }
                symlink(&good, &next).unwrap();
                fs::rename(&next, &module).unwrap();
            }
        });
        let calls: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..100).map(|_| instance.get("/swapped").status).collect::<HashSet<u16>>()))
            .collect();
        let statuses: HashSet<u16> = calls.into_iter().flat_map(|call| call.join().unwrap()).collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(statuses.iter().all(|status| [200, 500, 503].contains(status)), "{statuses:?}");
    });
    wait_until("it serves again", || instance.get("/swapped").status == 200);
    instance.function("GET:/other", "wasm", nothing, json!({}));
    assert_eq!(instance.get("/other").status, 200);
}

#[test]
#[ignore = "needs wasmer"]
fn a_module_for_wasmer_is_compiled_when_its_row_arrives() {
    need(&["wasmer"]);
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    let rows =
        ["auto", "wasmer"].map(|engine| json!({"runtime": "wasm", "module": "functions/ping.wasm", "engine": engine}));
    let rows: Vec<(&str, Value)> = ["GET:/a", "GET:/b"].into_iter().zip(rows).collect();
    instance.install(&rows);
    // With the two of the examples, which have paths of their own.
    wait_for_results(&instance, "compiled", 4);
    assert_eq!(instance.get("/b").status, 200);
    assert_eq!(results(&instance, "compiled").len(), 4, "a call compiles nothing again");
}
