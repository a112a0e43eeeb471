//! WASM functions. Most of them are one C program, wasm.c, compiled as functions/build.sh compiles the examples.
//! Modules that C cannot express are in text form.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::bodies::pattern;
use super::case::{Agreement, Case, wasm};
use super::languages::component_of_module;
use super::run::conform;
use crate::instance::{need, run};

/// Variables of one call, and variables that a runtime needs for itself.
const OWN: &[&str] = &["TMPDIR=", "HOME=", "FAAS_DEADLINE_MS=", "REMOTE_PORT=", "WASMER_DIR="];

/// wasm.c as a module.
fn module() -> Vec<u8> {
    need(&["faas-wasm"]);
    module_in(tempfile::tempdir().unwrap().path())
}

/// wasm.c as the module `folder`/function.wasm.
fn module_in(folder: &Path) -> Vec<u8> {
    need(&["clang", "wasm-ld"]);
    let (source, module) = (folder.join("wasm.c"), folder.join("function.wasm"));
    std::fs::write(&source, include_str!("wasm.c")).unwrap();
    let stack = ["-Wl,-z,stack-size=262144", "-Wl,--stack-first"];
    let mut compiler = Command::new("clang");
    compiler.args(["--target=wasm32-wasi", "-std=gnu11", "-O1", "-Wno-infinite-recursion"]).args(stack);
    let output = run(compiler.arg(source).arg("-o").arg(&module));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(module).unwrap()
}

/// A case of wasm.c: `?deed` says which.
fn deed(module: &[u8], deed: &'static str) -> Case {
    wasm(deed, module).at(deed)
}

fn text(name: &str, text: &str) -> Case {
    wasm(name, wat::parse_str(text).unwrap())
}

#[test]
fn wasm_bodies_ends_and_errors() {
    let module = module();
    let deed = |name| deed(&module, name);
    let sizes = [0, 1, 65_535, 65_536, 65_537, 1_000_000, 50_000_000];
    let mut cases: Vec<Case> = sizes.map(|size| deed("?echo").echoes(pattern(size))).into();
    cases.extend([
        deed("?count").posts(pattern(200_000)).answers("200000\n"),
        deed("?count").answers("0\n"),
        deed("?ignore").posts(pattern(1_000_000)).answers("unread\n"),
        deed("?nothing").answers(""),
        deed("?pieces").answers("0123456789".repeat(500)),
        deed("?head").status(201).has_field("X-Own", "1").has_field("Content-Type", "text/csv").answers("a,b\n"),
        deed("?at-exit").answers("first\nsaid at the end\n"),
        deed("?exit-0").answers("x"),
        deed("?exit-1").exits("code 1"),
        deed("?exit-3").exits("code 3"),
        deed("?exit-127").exits("code 127"),
        deed("?exit-255").exits("code 255"),
        deed("?errors").answers("done\n").logs(&["first", "second, without an end"]),
        deed("?flood").answers("done\n").logs(&["a line of many", "more bytes were dropped"]).agreeing(Agreement::None),
    ]);
    // Each engine has its own names for traps. The log must show that a trap happened, and which.
    let traps =
        [("?abort", "unreachable"), ("?divide", "divi"), ("?stray", "out of bounds"), ("?recurse", "out of bounds")];
    cases.extend(traps.map(|(name, word)| deed(name).status(500).logs(&[word])));
    conform(cases);
}

#[test]
fn wasm_environment_clocks_randoms_and_limits() {
    let module = module();
    let deed = |name| deed(&module, name);
    let mut randoms = deed("?randoms").agreeing(Agreement::Distinct);
    randoms.warm_calls = 8;
    conform(vec![
        deed("?environment")
            .field("X-Asked", "yes")
            .posts("body")
            .has_lines(
                &["IT_ANSWER=42", "REQUEST_METHOD=POST", "CONTENT_LENGTH=4", "HTTP_X_ASKED=yes"],
                &["FAAS_DB=", "FAAS_PORT=", "FAAS_RUN_DIR="],
            )
            .agreeing(Agreement::AllBut(OWN)),
        deed("?arguments").check(|seen| assert!(seen.answer.text().starts_with("1 "), "{}", seen.answer.text())),
        randoms,
        deed("?clocks").field("X-Now", "{now}").answers("slept now\n"),
        deed("?globals").answers("1 fresh\n"),
        deed("?memory").answers("zeroes\n"),
        deed("?much-memory")
            .row("memory", 96)
            .row("timeout", 5)
            .fails(500, "memory-limit", "limit of 96 MiB")
            .logs_what(|_| true)
            .agreeing(Agreement::None),
        deed("?elsewhere").answers("refused refused refused refused\n"),
        deed("?spin").row("timeout", 1).once().fails(504, "timed-out", "of 1 s"),
        deed("?sleep").row("timeout", 1).once().fails(504, "timed-out", "of 1 s"),
        text(
            "a module that does nothing",
            r#"(module
                (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
                (memory (export "memory") 1)
                (func (export "_start")))"#,
        )
        .answers(""),
        text(
            "globals of a module",
            r#"(module
                (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                (memory (export "memory") 1)
                (global $calls (mut i32) (i32.const 6))
                (func (export "_start")
                    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
                    (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (global.get $calls)))
                    (call $exit (i32.load (i32.const 0)))))"#,
        )
        .exits("code 7"),
    ]);
}

#[test]
fn wasm_files_are_in_the_scratch_folder_and_in_dirs() {
    let module = module();
    let deed = |name| deed(&module, name);
    let functions = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/conformance/given");
    conform(vec![
        deed("?scratch").answers("fresh content there\n"),
        deed("?folders").row("dirs", json!({"/data": functions})).answers("given refused\n"),
        deed("?folders").answers("No such file or directory\n").agreeing(Agreement::None),
    ]);
}

/// As the modules above, through the adapter from preview 1.
#[test]
#[ignore = "needs jco"]
fn component_from_c() {
    need(&["faas-wasm-component", "jco"]);
    let folder = tempfile::tempdir().unwrap();
    module_in(folder.path());
    let component = component_of_module(folder.path());
    let deed = |name| deed(&component, name);
    let functions = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/conformance/given");
    conform(vec![
        deed("?echo").echoes(pattern(1_000_000)),
        deed("?count").posts(pattern(200_000)).answers("200000\n"),
        deed("?ignore").posts(pattern(1_000_000)).answers("unread\n"),
        deed("?nothing").answers(""),
        deed("?exit-0").answers("x"),
        deed("?exit-1").exits("code 1"),
        deed("?errors").answers("done\n").logs(&["first", "second, without an end"]),
        deed("?abort").status(500).logs(&["unreachable"]),
        deed("?divide").status(500).logs(&["divi"]),
        deed("?stray").status(500).logs(&["out of bounds"]),
        deed("?globals").answers("1 fresh\n"),
        deed("?memory").answers("zeroes\n"),
        deed("?much-memory")
            .row("memory", 96)
            .row("timeout", 5)
            .fails(500, "memory-limit", "limit of 96 MiB")
            .logs_what(|_| true)
            .agreeing(Agreement::None),
        deed("?folders").row("dirs", json!({"/data": functions})).answers("given refused\n"),
        deed("?sleep").row("timeout", 1).once().fails(504, "timed-out", "of 1 s"),
    ]);
}

#[test]
fn wasm_without_a_start_is_called_by_its_handler() {
    need(&["faas-wasm"]);
    let module = |result: &str| {
        format!(
            r#"(module
                (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
                (memory (export "memory") 1)
                (data (i32.const 0) "\10\00\00\00\07\00\00\00")
                (data (i32.const 16) "handled")
                (func (export "_initialize") (i32.store8 (i32.const 16) (i32.const 72)))
                (func (export "handle") {result}
                    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
        )
    };
    let status = "(result i32) (i32.const 4)";
    conform(vec![
        text("a handler", &module("")).row("handler", "handle").answers("Handled"),
        text("a handler's result is its exit status", &module(status)).row("handler", "handle").exits("code 4"),
        text("a handler that is not there", &module(""))
            .row("handler", "other")
            .stays_cold()
            .exits("code 1")
            .logs(&["handle"]),
    ]);
}
