//! Components of WASI 0.2, in text form: their ends, their limits, their descriptors, those that are refused. Each is
//! called in three ways, which must not differ: by `run`, by a child that loads it itself, and by one whose fork server
//! has prepared it. faas-wasm's tests cover the fork server itself; the platform's own tests, which have real languages,
//! cover arguments, environment, streams and folders.

#[path = "../../../../src/cases.rs"]
mod cases;
#[path = "../../tests/driver/mod.rs"]
mod driver;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use cases::{check, each};
use driver::{Call, Folder, Function, MODULE, call, compile};

const PROGRAM: &str = env!("CARGO_BIN_EXE_faas-wasm-component");

/// A component whose program consists of `fields`. `$say` writes to stdout: four bytes of memory from 16 on say "said".
fn component(memory_pages: u32, fields: &str) -> Vec<u8> {
    format!(
        r#"(component
        (import "wasi:cli/exit@0.2.12" (instance $exit (export "exit-with-code" (func (param "status-code" u8)))))
        (import "wasi:io/error@0.2.12" (instance $error (export "error" (type (sub resource)))))
        (alias export $error "error" (type $error-type))
        (import "wasi:io/streams@0.2.12" (instance $streams
            (export "output-stream" (type $stream (sub resource)))
            (alias outer 1 $error-type (type $outer-error))
            (export "error" (type $error (eq $outer-error)))
            (type $failure (variant (case "last-operation-failed" (own $error)) (case "closed")))
            (export "stream-error" (type $stream-error (eq $failure)))
            (export "[method]output-stream.blocking-write-and-flush" (func
                (param "self" (borrow $stream)) (param "contents" (list u8)) (result (result (error $stream-error)))))))
        (alias export $streams "output-stream" (type $stream))
        (import "wasi:cli/stdout@0.2.12" (instance $stdout
            (alias outer 1 $stream (type $outer-stream))
            (export "output-stream" (type $stream (eq $outer-stream)))
            (export "get-stdout" (func (result (own $stream))))))
        (import "wasi:random/random@0.2.12" (instance $random (export "get-random-u64" (func (result u64)))))
        (import "wasi:random/insecure@0.2.12" (instance $insecure
            (export "get-insecure-random-u64" (func (result u64)))))
        (import "wasi:random/insecure-seed@0.2.12" (instance $seed
            (export "insecure-seed" (func (result (tuple u64 u64))))))
        (core module $memory (memory (export "memory") {memory_pages}) (data (i32.const 16) "said"))
        (core instance $memory (instantiate $memory))
        (core func $exit (canon lower (func $exit "exit-with-code")))
        (core func $stdout (canon lower (func $stdout "get-stdout")))
        (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
            (memory (core memory $memory "memory"))))
        (core func $random (canon lower (func $random "get-random-u64")))
        (core func $insecure (canon lower (func $insecure "get-insecure-random-u64")))
        (core func $seed (canon lower (func $seed "insecure-seed") (memory (core memory $memory "memory"))))
        (core module $program
            (import "" "exit" (func $exit (param i32)))
            (import "" "stdout" (func $stdout (result i32)))
            (import "" "write" (func $write (param i32 i32 i32 i32)))
            (import "" "random" (func $random (result i64)))
            (import "" "insecure" (func $insecure (result i64)))
            (import "" "seed" (func $seed (param i32)))
            (import "memory" "memory" (memory 1))
            (func $say (param $len i32)
                (call $write (call $stdout) (i32.const 16) (local.get $len) (i32.const 1024)))
            {fields})
        (core instance $program (instantiate $program (with "memory" (instance $memory)) (with "" (instance
            (export "exit" (func $exit)) (export "stdout" (func $stdout)) (export "write" (func $write))
            (export "random" (func $random)) (export "insecure" (func $insecure)) (export "seed" (func $seed))))))
        (func $run (result (result)) (canon lift (core func $program "run")))
        (instance $run (export "run" (func $run)))
        (export "wasi:cli/run@0.2.12" (instance $run)))"#
    )
    .into_bytes()
}

/// A component whose `run` is `body`, which gives 0 for success and 1 for failure.
fn function(body: &str) -> Function {
    Function::of(&component(1, &run(body)))
}

fn run(body: &str) -> String {
    format!(r#"(func $run (export "run") (result i32) {body})"#)
}

#[test]
fn a_component_ends_as_it_says() {
    let ends = [("(i32.const 0)", 0), ("(i32.const 1)", 1), ("(call $exit (i32.const 44)) (i32.const 0)", 44)];
    check(ends.map(|(body, status)| (body, (status, String::new()))), |body| {
        let outcome = function(body).call(&call());
        (outcome.status, outcome.stderr)
    });
    each([("(unreachable)", "unreachable"), ("(call $run) (drop) (call $run)", "stack exhausted")], |(body, cause)| {
        let outcome = function(body).call(&call());
        assert!(outcome.status == 134 && outcome.stderr.contains(cause), "{outcome:?}");
    });
}

#[test]
fn a_components_memory_is_limited_and_its_lack_is_said() {
    let grow = "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (i32.const 1)";
    let grow = function(grow);
    each(["64", "32"], |limit| {
        let outcome = grow.call(&Call::default().set("memory_mib", limit));
        let cause = format!("out of memory: the function asked for more than its {limit} MiB");
        assert!(outcome.status == 1 && outcome.stderr.contains(&cause), "{outcome:?}");
    });
    // More than is prepared of a module; a component is prepared without its memory.
    let large = Function::of(&component(1100, &run("(i32.const 0)")));
    assert_eq!(large.call(&Call::default()).status, 0);
    let outcome = large.call(&Call::default().set("memory_mib", "32"));
    assert!(outcome.status == 1 && outcome.stderr.contains("needs more than its 32 MiB"), "{outcome:?}");
}

#[test]
fn a_folder_that_is_missing_ends_the_component_before_it_begins() {
    let outcome = function("(i32.const 0)").call(&call().set("dir", "/data=/nowhere"));
    let cause = "could not open the folder /nowhere: No such file or directory";
    assert!(outcome.status == 127 && outcome.stderr.contains(cause), "{outcome:?}");
}

#[test]
fn code_of_the_instantiation_runs_once_in_each_call_and_never_in_the_server() {
    let begins = format!("(func $begin (call $say (i32.const 4))) (start $begin) {}", run("(i32.const 0)"));
    let function = Function::of(&component(1, &begins));
    for _ in 0..2 {
        assert_eq!(function.call(&call()).stdout, b"said");
    }
    each([("(call $exit (i32.const 9))", 9), ("unreachable", 134)], |(deed, status)| {
        let ends = format!("(func $begin {deed}) (start $begin) {}", run("(i32.const 0)"));
        assert_eq!(Function::of(&component(1, &ends)).call(&call()).status, status);
    });
}

#[test]
fn random_numbers_globals_and_memory_are_each_calls_own() {
    // All three generators, 32 bytes; the status counts the calls that it knows of.
    let body = r#"(i64.store (i32.const 16) (call $random)) (i64.store (i32.const 24) (call $insecure))
        (call $seed (i32.const 32)) (call $say (i32.const 32))
        (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (i32.store (i32.const 500) (i32.add (i32.load (i32.const 500)) (i32.const 1)))
        (call $exit (i32.add (global.get $calls) (i32.load (i32.const 500)))) (i32.const 0)"#;
    let function = Function::of(&component(1, &format!("(global $calls (mut i32) (i32.const 0)) {}", run(body))));
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for _ in 0..4 {
        let outcome = function.prepared(&call());
        assert_eq!((outcome.status, outcome.stdout.len()), (2, 32), "{outcome:?}");
        seen.extend(outcome.stdout.chunks(8).map(<[u8]>::to_vec));
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4 * 4, "{seen:?}");
}

/// Says its four bytes, and goes on for good.
const GOES_ON: &str = "(call $say (i32.const 4)) (loop $again (br $again)) (unreachable)";

/// A process that is killed at its end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn await_said(mut stdout: impl Read) {
    let mut word = [0; 4];
    stdout.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"said");
}

/// The files that a process has open, but for its streams and what this process has open.
fn open_files(process: u32) -> Vec<String> {
    let of = |process: &str| -> Vec<String> {
        let entries = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
        entries.filter_map(|fd| Some(fs::read_link(fd.ok()?.path()).ok()?.display().to_string())).collect()
    };
    let own = of("self");
    let mut files = of(&process.to_string());
    files.retain(|file| file != "/dev/null" && !own.contains(file));
    files.sort();
    files
}

/// Checks that a component of this process can write to its streams alone, and that the process has one thread. Its
/// memory is mapped from the artifact, and its seeds come from /dev/urandom; it can only read either. With sockets, the
/// runtime waits by an epoll, whose eventfd wakes it.
fn assert_confined(process: u32, function: &Function, net: &str, channels: usize) {
    assert_eq!(fs::read_dir(format!("/proc/{process}/task")).unwrap().count(), 1);
    let artifact = fs::canonicalize(&function.artifact).unwrap().display().to_string();
    let files = open_files(process);
    let is_expected = |file: &String| {
        *file == artifact || file == "/dev/urandom" || net == "1" && file.starts_with("anon_inode:[event")
    };
    let (expected, other): (Vec<_>, Vec<_>) = files.into_iter().partition(is_expected);
    assert!(expected.contains(&artifact), "{expected:?}");
    assert!(other.len() == channels && other.iter().all(|file| file.starts_with("socket:")), "{other:?}");
}

#[test]
fn a_component_has_one_thread_and_can_write_to_its_streams_alone() {
    let function = function(GOES_ON);
    // Their artifacts are open in the server.
    let others: Vec<String> = ["a", "b"].map(|name| function.folder.path(name)).into();
    for other in &others {
        fs::copy(&function.artifact, other).unwrap();
        assert_eq!(function.server.prepare(other, other), [b"p", other.as_bytes()].concat());
    }
    each(["0", "1"], |net| {
        let ((stdout, to_stdout), (_stderr, to_stderr)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        let mut command = Command::new(PROGRAM);
        command.args(["run", "--artifact", &function.artifact, "--net", net, MODULE]).env_clear();
        command.stdin(Stdio::null()).stdout(to_stdout).stderr(to_stderr);
        let running = Running(command.spawn().unwrap());
        drop(command);
        await_said(&stdout);
        assert_confined(running.0.id(), &function, net, 0);
        each(["1", "not prepared"], |version| {
            let call = call().set("net", net).set("route", "GET:/a");
            let mut running = function.server.fork().begin(version, &function.artifact, &call);
            await_said(&mut running.stdout);
            // The channel's other end is here, so that only the child has a socket of this number.
            assert_confined(running.child.pid, &function, net, 1);
            let title = fs::read_to_string(format!("/proc/{}/cmdline", running.child.pid)).unwrap();
            assert_eq!(title.trim_end_matches('\0'), "faas-wasm-component: GET:/a");
            let status = fs::read_to_string(format!("/proc/{}/status", running.child.pid)).unwrap();
            let filters = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:\t"));
            assert_eq!(filters, Some(if net == "0" { "1" } else { "0" }));
        });
    });
}

#[test]
fn the_kernels_limit_of_memory_is_each_calls_own() {
    let function = function(GOES_ON);
    let call = call().set("data_mib_max", "100");
    let mut running = function.server.fork().begin("1", &function.artifact, &call);
    await_said(&mut running.stdout);
    let limits = fs::read_to_string(format!("/proc/{}/limits", running.child.pid)).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max data size")).unwrap();
    assert_eq!(line.split_whitespace().nth(4), Some(&(100 << 20).to_string()[..]));
}

#[test]
fn the_server_has_one_thread_and_stays_the_same_over_300_children() {
    let function = function("(i32.const 0)");
    let maps = || fs::read_to_string(format!("/proc/{}/maps", function.server.process.id())).unwrap();
    function.prepared(&call());
    let before = (function.server.count("fd"), maps());
    for _ in 0..300 {
        assert_eq!(function.server.count("task"), 1);
        assert_eq!(function.prepared(&call()).status, 0);
    }
    assert_eq!((function.server.count("fd"), maps()), before);
}

#[test]
fn a_component_that_cannot_run_is_refused_when_it_is_compiled() {
    let folder = Folder::new();
    let refusal = |source: &str| compile(source.as_bytes(), folder.path("artifact").as_ref()).unwrap_err();
    each(["wasi:http/types@0.2.0", "wasi:cli/stdin@0.3.0", "a:b/c"], |import| {
        let said = refusal(&format!(r#"(component (import "{import}" (instance)))"#));
        assert!(said.contains(&format!("it imports {import}; what a component finds here")), "{said}");
    });
    // An interface that is there, a function that is not.
    let said = refusal(r#"(component (import "wasi:cli/stdin@0.2.0" (instance (export "get-nothing" (func)))))"#);
    assert!(said.contains("get-nothing"), "{said}");
    let said = refusal("(component)");
    assert!(said.contains("could not run the module") && said.contains("wasi:cli/run"), "{said}");
    let said = refusal("(module)");
    assert!(said.contains("it is no component"), "{said}");
}

#[test]
fn an_artifact_that_others_could_change_is_not_run() {
    let function = function("(i32.const 0)");
    fs::set_permissions(&function.artifact, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(driver::run(&function.artifact, &call()).status, 3);
    assert!(function.server.prepare("2", &function.artifact).starts_with(b"u2\0the artifact"));
    let (outcome, said) = function.server.fork().begin("2", &function.artifact, &call()).finish(b"");
    assert_eq!((outcome.status, &said[..]), (0, &b"E"[..]));
}
