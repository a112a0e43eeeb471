//! WASM functions in several languages, each by its own compiler: Rust, Zig and AssemblyScript as modules; Rust, Zig,
//! JavaScript and Python as components. wasm.rs tests all of WASI preview 1, in C, and C as a component. Here the
//! standard library of each language must work with it. All programs do the same: `?deed` names the task.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::bodies::pattern;
use super::case::{Agreement, Case, wasm};
use super::run::conform;

use crate::instance::{need, needed, run};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/conformance/languages");

const WORLD: &str = "package faas:function;\nworld function { include wasi:cli/command@0.2.12; }\n";

/// The module that `compiler`, which works in `folder`, makes of a source.
fn compiled(compiler: &mut Command, source: &str, folder: &Path) -> Vec<u8> {
    made(compiler.arg(Path::new(SOURCES).join(source)), folder)
}

/// The module that `compiler`, which works in `folder`, makes.
fn made(compiler: &mut Command, folder: &Path) -> Vec<u8> {
    let output = run(compiler.current_dir(folder));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read(folder.join("function.wasm")).unwrap()
}

/// Cases for all of the languages. `exit` is the end of a program that asks for exit code 3.
fn deeds(module: &[u8], exit: &'static str) -> Vec<Case> {
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
        deed("?exit").exits(exit),
        deed("?fails").status(500).logs(&["out of luck"]),
    ]
}

/// Cases for the languages whose libraries know files.
fn file_deeds(module: &[u8]) -> Vec<Case> {
    let deed = |query| wasm(query, module).at(query);
    vec![deed("?scratch").answers("fresh content [\"folder\"]\n"), deed("?elsewhere").answers("true\n")]
}

/// function.rs as a module of WASI preview 1, in `folder`.
fn rust_module(folder: &Path) -> Vec<u8> {
    const TARGET: [&str; 2] = ["--target", "wasm32-wasip1"];
    need(&["faas-wasm"]);
    let library = run(Command::new("rustc").args(["--print", "target-libdir"]).args(TARGET));
    let is_there = Path::new(String::from_utf8_lossy(&library.stdout).trim()).is_dir();
    assert!(is_there, "Rust's target is not installed; install it with: rustup target add wasm32-wasip1");
    let mut rustc = Command::new("rustc");
    compiled(rustc.args(["--edition=2024", "-O"]).args(TARGET), "function.rs", folder)
}

#[test]
#[ignore = "needs Rust's target wasm32-wasip1"]
fn wasm_from_rust() {
    let module = rust_module(tempfile::tempdir().unwrap().path());
    conform([deeds(&module, "code 3"), file_deeds(&module)].into_iter().flatten().collect());
}

/// function.zig as a module of WASI preview 1, in `folder`.
fn zig_module(folder: &Path) -> Vec<u8> {
    let mut zig = Command::new("zig");
    zig.args(["build-exe", "-target", "wasm32-wasi", "-O", "ReleaseSmall"]).env("ZIG_GLOBAL_CACHE_DIR", folder);
    compiled(&mut zig, "function.zig", folder)
}

#[test]
#[ignore = "needs zig"]
fn wasm_from_zig() {
    need(&["faas-wasm", "zig"]);
    let folder = tempfile::tempdir().unwrap();
    let module = zig_module(folder.path());
    conform([deeds(&module, "code 3"), file_deeds(&module)].into_iter().flatten().collect());
}

#[test]
#[ignore = "needs zig and jco"]
fn component_from_zig() {
    need(&["faas-wasm-component", "zig", "jco"]);
    let folder = tempfile::tempdir().unwrap();
    zig_module(folder.path());
    let component = component_of_module(folder.path());
    conform([deeds(&component, "code 1"), file_deeds(&component)].into_iter().flatten().collect());
}

#[test]
#[ignore = "needs asc"]
fn wasm_from_assemblyscript() {
    need(&["faas-wasm"]);
    // As the shim's documentation says, for a project with both packages in its node_modules.
    let compiler = needed("asc").canonicalize().unwrap();
    let folder = tempfile::tempdir().unwrap();
    symlink(compiler.ancestors().nth(3).unwrap(), folder.path().join("node_modules")).unwrap();
    let mut asc = Command::new("asc");
    asc.args(["-O", "--outFile", "function.wasm", "--config", "node_modules/@assemblyscript/wasi-shim/asconfig.json"]);
    conform(deeds(&compiled(&mut asc, "function.ts", folder.path()), "code 3"));
}

/// The component that jco makes of folder/function.wasm, a module of WASI preview 1. A component ends with status 0 or
/// 1: none of the compilers here uses `exit-with-code`.
pub fn component_of_module(folder: &Path) -> Vec<u8> {
    let mut adapter = Command::new("jco");
    made(adapter.args(["new", "function.wasm", "--wasi-command", "-o", "function.wasm"]), folder)
}

#[test]
#[ignore = "needs jco, and Rust's target wasm32-wasip1"]
fn component_from_rust() {
    need(&["faas-wasm-component", "jco"]);
    let folder = tempfile::tempdir().unwrap();
    rust_module(folder.path());
    let component = component_of_module(folder.path());
    let limits = vec![
        wasm("timeout", &component[..]).at("?hangs").row("timeout", 1).fails(504, "timed-out", "1 s").once(),
        wasm("memory", &component[..])
            .at("?grows")
            .row("memory", 32)
            .fails(500, "memory-limit", "32 MiB")
            .logs(&["memory allocation of", "out of memory"]),
    ];
    conform([deeds(&component, "code 1"), file_deeds(&component), limits].into_iter().flatten().collect());
}

/// Writes the world of a function, as the compilers for JavaScript and Python need it, to `folder`/wit. jco has the
/// interfaces of WASI.
fn write_world(folder: &Path) {
    let jco: PathBuf = needed("jco").canonicalize().unwrap();
    let interfaces = jco.ancestors().nth(2).unwrap().join("lib/wit/builtin/0.2.12");
    fs::create_dir_all(folder.join("wit/deps")).unwrap();
    fs::write(folder.join("wit/world.wit"), WORLD).unwrap();
    for package in ["cli", "clocks", "filesystem", "io", "random", "sockets"] {
        let given = interfaces.join(format!("wasi-{package}/package.wit"));
        fs::copy(given, folder.join(format!("wit/deps/{package}.wit"))).unwrap();
    }
}

#[test]
#[ignore = "needs componentize-js and jco"]
fn component_from_javascript() {
    need(&["faas-wasm-component", "componentize-js", "jco"]);
    let folder = tempfile::tempdir().unwrap();
    write_world(folder.path());
    let mut compiler = Command::new("componentize-js");
    compiler.args(["--wit", "wit", "--world-name", "function", "--disable", "http", "fetch-event"]);
    compiler.args(["--out", "function.wasm", "--"]);
    let component = compiled(&mut compiler, "function.js", folder.path());
    let sockets =
        |net: bool, says| wasm(format!("net: {net}"), &component[..]).at("?sockets").row("net", net).answers(says);
    let network = vec![sockets(true, "a socket\n"), sockets(false, "access-denied\n")];
    conform([deeds(&component, "code 1"), network].into_iter().flatten().collect());
}

#[test]
#[ignore = "needs componentize-py and jco"]
fn component_from_python() {
    need(&["faas-wasm-component", "componentize-py", "jco"]);
    let folder = tempfile::tempdir().unwrap();
    write_world(folder.path());
    // The compiler writes beside the source.
    fs::copy(Path::new(SOURCES).join("function.py"), folder.path().join("function.py")).unwrap();
    let mut compiler = Command::new("componentize-py");
    compiler.args([
        "--wit-path",
        "wit",
        "--world",
        "function",
        "componentize",
        "function",
        "--output",
        "function.wasm",
    ]);
    let component = made(&mut compiler, folder.path());
    conform([deeds(&component, "code 1"), file_deeds(&component)].into_iter().flatten().collect());
}
