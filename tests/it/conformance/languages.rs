//! WASM functions in Rust, Zig and AssemblyScript, each by its own compiler. wasm.rs tests all of WASI, in C. Here the
//! standard library of each language must work with it. All programs do the same: `?deed` names the task.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::bodies::pattern;
use super::case::{Agreement, Case, wasm};
use super::run::conform;
use super::wasm::can_run;
use crate::instance::{find, has, run, skip};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/conformance/languages");

/// The module that `compiler`, which works in `folder`, makes of a source.
fn compiled(compiler: &mut Command, source: &str, folder: &Path) -> Vec<u8> {
    let output = run(compiler.arg(Path::new(SOURCES).join(source)).current_dir(folder));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(folder.join("function.wasm")).unwrap()
}

/// Cases for all of the languages.
fn deeds(module: &[u8]) -> Vec<Case> {
    let deed = |query| wasm(query, module).at(query);
    let mut randoms = deed("?randoms").agreeing(Agreement::Distinct);
    randoms.warm_calls = 8;
    vec![
        deed("?echo").echoes(pattern(0)),
        deed("?echo").echoes(pattern(1_000_000)),
        deed("?count").posts(pattern(200_000)).answers("200000\n"),
        deed("?count").answers("0\n"),
        deed("?environment").answers("42 1\n"),
        deed("?clocks").field("X-Now", "{now}").answers("true true\n"),
        randoms,
        deed("?head").status(201).has_field("Content-Type", "text/csv").answers("a,b\n"),
        deed("?errors").answers("done\n").logs(&["said on stderr"]),
        deed("?exit").exits("code 3"),
        deed("?fails").status(500).logs(&["out of luck"]),
    ]
}

/// Cases for the languages whose libraries know files.
fn file_deeds(module: &[u8]) -> Vec<Case> {
    let deed = |query| wasm(query, module).at(query);
    vec![deed("?scratch").answers("fresh content [\"folder\"]\n"), deed("?elsewhere").answers("true\n")]
}

#[test]
fn wasm_from_rust() {
    const TARGET: [&str; 2] = ["--target", "wasm32-wasip1"];
    if !can_run() || !has(&["rustc"]) {
        return;
    }
    let library = run(Command::new("rustc").args(["--print", "target-libdir"]).args(TARGET));
    if !Path::new(String::from_utf8_lossy(&library.stdout).trim()).is_dir() {
        return skip("Rust's target wasm32-wasip1 is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut rustc = Command::new("rustc");
    let module = compiled(rustc.args(["--edition=2024", "-O"]).args(TARGET), "function.rs", folder.path());
    conform([deeds(&module), file_deeds(&module)].into_iter().flatten().collect());
}

#[test]
fn wasm_from_zig() {
    if !can_run() || !has(&["zig"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut zig = Command::new("zig");
    zig.args(["build-exe", "-target", "wasm32-wasi", "-O", "ReleaseSmall"]).env("ZIG_GLOBAL_CACHE_DIR", folder.path());
    let module = compiled(&mut zig, "function.zig", folder.path());
    conform([deeds(&module), file_deeds(&module)].into_iter().flatten().collect());
}

#[test]
fn wasm_from_assemblyscript() {
    if !can_run() || !has(&["asc"]) {
        return;
    }
    // As the shim's documentation says, for a project with both packages in its node_modules.
    let compiler = find("asc").unwrap().canonicalize().unwrap();
    let folder = tempfile::tempdir().unwrap();
    symlink(compiler.ancestors().nth(3).unwrap(), folder.path().join("node_modules")).unwrap();
    let mut asc = Command::new("asc");
    asc.args(["-O", "--outFile", "function.wasm", "--config", "node_modules/@assemblyscript/wasi-shim/asconfig.json"]);
    conform(deeds(&compiled(&mut asc, "function.ts", folder.path())));
}
