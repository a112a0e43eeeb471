//! What a function may rely on, and what the worker may. A function is called in three ways, which must not differ: by
//! `run`, by a child that loads the module itself, and by one whose fork server has prepared it.

#[path = "../../../src/cases.rs"]
mod cases;
mod driver;

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use cases::{check, each};
use driver::{CAT, Call, Folder, Function, Server, call, compile, module, receive, run, send};
use std::os::fd::AsFd;

const PROGRAM: &str = env!("CARGO_BIN_EXE_faas-wasm");

const REPORT: &str = r#"(func (export "_start")
    (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
    (drop (call $args_get (i32.const 1024) (i32.const 2048)))
    (call $write (i32.const 1) (i32.const 2048) (i32.load (i32.const 20)))
    (drop (call $environ_sizes_get (i32.const 16) (i32.const 20)))
    (drop (call $environ_get (i32.const 1024) (i32.const 65536)))
    (call $write (i32.const 1) (i32.load (i32.const 1028)) (i32.const 4))
    (call $write (i32.const 1) (i32.const 65536) (i32.load (i32.const 20))))"#;

#[test]
fn a_function_gets_its_arguments_and_whole_environment() {
    let function = Function::new(REPORT);
    let with_arguments = call().env("A=1").env("B=ä").set("arg", "-x").set("arg", "a b");
    let expected = "/functions/test.wasm\0-x\0a b\0B=äA=1\0B=ä\0".as_bytes();
    assert_eq!(function.call(&with_arguments).stdout, expected);
    // More than fits into one read of the channel.
    let long = format!("LONG={}", "x".repeat(100_000));
    let outcome = function.call(&call().env("A=1").env("B=2").env(&long));
    assert!(outcome.stdout.ends_with(&[long.as_bytes(), b"\0"].concat()));
}

#[test]
fn exit_statuses_are_a_processs() {
    let function = Function::new(r#"(func (export "_start") (call $proc_exit (i32.const 300)))"#);
    assert_eq!(function.call(&call()).status, 44);
    let (outcome, said) = function.server.fork().begin("1", &function.artifact, &call()).finish(b"");
    assert_eq!((outcome.status, &said[..2]), (44, &b"X\x2c"[..]));
}

#[test]
fn a_trap_says_where_and_ends_with_134() {
    // A stack that overflows and an address that is out of bounds are traps of their own, by signals.
    let cases = [
        (r#"(func $inner (unreachable)) (func (export "_start") (call $inner))"#, "!inner"),
        (r#"(func $f (export "_start") (call $f) (call $f))"#, "stack exhausted"),
        (r#"(func (export "_start") (drop (i32.load (i32.const -5))))"#, "out of bounds"),
    ];
    each(cases, |(body, said)| {
        let outcome = Function::new(body).call(&call());
        assert!(outcome.status == 134 && outcome.stderr.contains(said), "{}", outcome.stderr);
    });
}

#[test]
fn fifty_megabytes_go_through() {
    let function = Function::new(CAT);
    let body: Vec<u8> = (0..50 << 20).map(|at: u32| (at ^ at >> 11) as u8).collect();
    assert!(function.prepared(&call().stdin(&body)).stdout == body);
    assert_eq!(function.call(&call()).stdout, b"");
}

#[test]
fn output_can_be_read_before_the_function_ends() {
    let function = Function::new(CAT);
    let mut running = function.server.fork().begin("1", &function.artifact, &call());
    let mut byte = [0];
    running.stdin.as_mut().unwrap().write_all(b"a").unwrap();
    running.stdout.read_exact(&mut byte).unwrap();
    assert_eq!(running.finish(b"b").0.stdout, b"b");
}

/// Opens `path` in the folder `fd`, creating it, and ends with the error number, or writes four bytes.
fn opening(path: &str, fd: u32) -> String {
    format!(
        r#"(data (i32.const 100) "{path}") (func (export "_start") (local $e i32)
        (local.set $e (call $path_open (i32.const {fd}) (i32.const 1) (i32.const 100) (i32.const {}) (i32.const 1)
            (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 200)))
        (if (local.get $e) (then (call $proc_exit (local.get $e))))
        (call $write (i32.load (i32.const 200)) (i32.const 100) (i32.const 4)))"#,
        path.len()
    )
}

#[test]
fn folders_can_be_written_to_and_not_left() {
    let (scratch, other) = (Folder::new(), Folder::new());
    let in_scratch = call().env(&format!("TMPDIR={}", scratch.0.display()));
    // 3 is the scratch folder, then come those that are opened, and the last is `.`, unless one of them is `/`.
    let opened = [(3, "/data", &scratch), (4, "/data", &other), (5, "/data", &scratch), (4, "/", &other)];
    each(opened, |(fd, name, written)| {
        let call = in_scratch.clone().set("dir", &format!("{name}={}", other.0.display()));
        assert_eq!(Function::new(&opening("file", fd)).call(&call).status, 0);
        assert_eq!(std::fs::read(written.0.join("file")).unwrap(), b"file");
        std::fs::remove_file(written.0.join("file")).unwrap();
    });
    // 8 is EBADF: there is no `.` beside a `/`.
    let root = in_scratch.clone().set("dir", &format!("/={}", other.0.display()));
    assert_eq!(Function::new(&opening("file", 5)).call(&root).status, 8);
    std::os::unix::fs::symlink("/etc", scratch.0.join("link")).unwrap();
    std::fs::create_dir(scratch.0.join("a")).unwrap();
    // 76 is ENOTCAPABLE.
    let outside = ["../file", "/etc/x", "link/x", "a/../../x"].map(|path| (path, 76));
    check(outside, |path| Function::new(&opening(path, 3)).call(&in_scratch).status);
    let outcome = Function::new(&opening("file", 3)).call(&in_scratch.set("dir", "/data=/nowhere"));
    assert_eq!(outcome.status, 127);
    assert!(outcome.stderr.contains("could not open the folder /nowhere"), "{}", outcome.stderr);
}

#[test]
fn memory_is_limited_and_its_lack_is_said() {
    let grow = Function::new(
        r#"(func (export "_start") (loop $again
        (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1))) (unreachable)))"#,
    );
    // Calls with different limits share the preparation.
    each(["64", "32"], |limit| {
        let outcome = grow.call(&Call::default().set("memory_mib", limit));
        let said = format!("out of memory: the function asked for more than its {limit} MiB");
        assert!(outcome.status == 134 && outcome.stderr.contains(&said), "{}", outcome.stderr);
    });
    // Who copes with a refusal has not failed.
    let outcome = Function::new(r#"(func (export "_start") (drop (memory.grow (i32.const 9999))))"#).call(&call());
    assert_eq!((outcome.status, &outcome.stderr[..]), (0, ""));
    // More than the limit from the beginning.
    let large = Function::of(br#"(module (memory (export "memory") 1000) (func (export "_start")))"#);
    assert_eq!(large.call(&call()).status, 0);
    let outcome = large.call(&Call::default().set("memory_mib", "32"));
    assert!(outcome.status == 1 && outcome.stderr.contains("needs more than its 32 MiB"), "{}", outcome.stderr);
    // Tables count too.
    let table = r#"(table $t 1 funcref) (func (export "_start")
        (call $proc_exit (i32.eq (table.grow $t (ref.null func) (i32.const 90000000)) (i32.const -1))))"#;
    assert_eq!(Function::new(table).call(&call()).status, 1);
}

#[test]
fn the_kernels_limit_of_memory_is_each_calls_own() {
    let function = Function::new(CAT);
    let limit = |call: &Call| {
        let mut running = function.server.fork().begin("1", &function.artifact, call);
        let mut byte = [0];
        running.stdin.as_mut().unwrap().write_all(b"a").unwrap();
        running.stdout.read_exact(&mut byte).unwrap();
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", running.child.pid)).unwrap();
        running.finish(b"");
        let line = limits.lines().find(|line| line.starts_with("Max data size")).unwrap().to_owned();
        line.split_whitespace().nth(4).unwrap().to_owned()
    };
    // The prepared module's four pages, which the kernel counts as the child's, come on top.
    assert_eq!(limit(&call().set("data_mib_max", "100")), ((100 << 20) + 4 * 65536).to_string());
    assert_eq!(limit(&call()), "unlimited");
}

#[test]
fn random_numbers_and_globals_are_each_calls_own() {
    let body = r#"(global $calls (mut i32) (i32.const 0)) (func (export "_start")
        (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (i32.store (i32.const 500) (i32.add (i32.load (i32.const 500)) (i32.const 1)))
        (drop (call $random_get (i32.const 600) (i32.const 300)))
        (call $write (i32.const 1) (i32.const 600) (i32.const 300))
        (call $proc_exit (i32.add (global.get $calls) (i32.load (i32.const 500)))))"#;
    let function = Function::new(body);
    let (first, second) = (function.prepared(&call()), function.prepared(&call()));
    assert_eq!((first.status, second.status), (2, 2));
    assert_ne!(first.stdout, second.stdout);
}

#[test]
fn a_start_function_runs_once_in_each_call_and_never_in_the_server() {
    let body = r#"(global $g (mut i32) (i32.const 0)) (data (i32.const 100) "started ")
        (func $begin (global.set $g (i32.const 7)) (call $write (i32.const 1) (i32.const 100) (i32.const 8)))
        (start $begin)
        (func (export "_start") (call $proc_exit (global.get $g)))"#;
    let function = Function::new(body);
    for _ in 0..2 {
        let outcome = function.call(&call());
        assert_eq!((outcome.status, &outcome.stdout[..]), (7, &b"started "[..]));
    }
}

#[test]
fn a_handler_is_called_where_there_is_no_start() {
    let body = r#"(global $g (mut i32) (i32.const 0))
        (func (export "_initialize") (global.set $g (i32.const 40)))
        (func (export "handle") (result i32) (i32.add (global.get $g) (i32.const 2)))
        (func (export "other"))
        (func (export "odd") (param i32))"#;
    let function = Function::new(body);
    // All of them share the preparation.
    assert_eq!(function.call(&call().set("handler", "handle")).status, 42);
    assert_eq!(function.call(&call().set("handler", "other")).status, 0);
    let cases = [
        (call(), "no handler is named; functions that it exports: _initialize, handle, other, odd"),
        (call().set("handler", "absent"), "no handler absent; functions"),
        (call().set("handler", "odd"), "its handler odd must take no parameters"),
    ];
    each(cases, |(call, said)| {
        let outcome = function.call(&call);
        assert!(outcome.status == 1 && outcome.stderr.contains(said), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    });
}

#[test]
fn a_function_sleeps_as_long_as_it_asks() {
    // One clock, 50 ms; the event is at 600.
    let body = r#"(func (export "_start")
        (i32.store (i32.const 316) (i32.const 1)) (i64.store (i32.const 324) (i64.const 50000000))
        (call $proc_exit (call $poll_oneoff (i32.const 300) (i32.const 600) (i32.const 1) (i32.const 700))))"#;
    let function = Function::new(body);
    let begun = std::time::Instant::now();
    assert_eq!(function.prepared(&call()).status, 0);
    assert!(begun.elapsed().as_millis() >= 50);
}

#[test]
fn an_artifact_that_does_not_fit_or_cannot_be_trusted_is_not_run() {
    use std::os::unix::fs::PermissionsExt;
    let function = Function::new(REPORT);
    let good = std::fs::read(&function.artifact).unwrap();
    let output = Command::new(PROGRAM).arg("--version").output().unwrap().stdout;
    let output = String::from_utf8(output).unwrap();
    let major = output.split(' ').next_back().unwrap().split('.').next().unwrap();
    // The header holds the major version, its length before it; another digit is another version.
    let needle = [&[major.len() as u8], major.as_bytes()].concat();
    let at = good.windows(needle.len()).position(|bytes| bytes == needle).expect("the header names the version");
    let mut other = good.clone();
    other[at + 1] ^= 1;
    let bad = function.folder.path("bad");
    let refused = |said: &str, status: i32| {
        let answer = function.server.prepare("3", &bad);
        assert!(answer.starts_with(b"u3\0could not") || answer.starts_with(b"u3\0the artifact"), "{answer:?}");
        let (outcome, answer) = function.server.fork().begin("3", &bad, &call()).finish(b"");
        assert_eq!((outcome.status, &answer[..]), (0, &b"E"[..]));
        let outcome = run(&bad, &call());
        assert!(outcome.status == status && outcome.stderr.contains(said), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    };
    each([&other[..], b"", b"\0asm\x01\0\0\0", &good[..200]], |content| {
        std::fs::write(&bad, content).unwrap();
        refused("is not for this engine", 3);
    });
    std::fs::write(&bad, &good).unwrap();
    assert_eq!(run(&bad, &call()).status, 0);
    std::fs::set_permissions(&bad, std::fs::Permissions::from_mode(0o666)).unwrap();
    refused("others than the worker's user may write to it", 3);
    std::fs::remove_file(&bad).unwrap();
    refused("could not open the artifact", 1);
    std::os::unix::fs::symlink(&function.artifact, &bad).unwrap();
    refused("could not open the artifact", 1);
}

#[test]
fn a_module_without_an_artifact_is_compiled_where_it_runs() {
    let folder = Folder::new();
    std::fs::write(folder.path("m.wat"), module(REPORT)).unwrap();
    let output = Command::new(PROGRAM).args(["run", &folder.path("m.wat"), "x"]).output().unwrap();
    assert!(output.stdout.starts_with(format!("{}\0x\0", folder.path("m.wat")).as_bytes()), "{output:?}");
}

#[test]
fn a_module_that_cannot_become_a_function_is_explained_in_one_line() {
    let cases = [
        (&b"(module (func (export \"x\") i32.add))"[..], "could not compile"),
        (b"\0asm\x01\0\0\0\x0a\x55", "could not compile"),
        (b"(mod", "could not compile"),
        (b"", "could not compile"),
        (br#"(module (import "env" "f" (func)) (func i32.add))"#, "it imports env.f; what a module finds here"),
        (br#"(module (import "wasi_snapshot_preview1" "f" (func)))"#, "it imports wasi_snapshot_preview1.f; what"),
    ];
    each(cases, |(bad, said)| {
        let folder = Folder::new();
        let error = compile(bad, folder.path("artifact").as_ref()).unwrap_err();
        assert!(error.starts_with("Some(1)") && error.contains(said) && error.lines().count() == 1, "{error}");
    });
}

#[test]
fn the_server_has_one_thread_and_stays_the_same_over_2000_children() {
    let function = Function::new(r#"(func (export "_start"))"#);
    let server = &function.server;
    let maps = || std::fs::read_to_string(format!("/proc/{}/maps", server.process.id())).unwrap();
    function.prepared(&call());
    let before = (server.count("fd"), maps());
    assert_eq!(server.count("task"), 1);
    for _ in 0..2000 {
        assert_eq!(function.prepared(&call()).status, 0);
    }
    assert_eq!((server.count("fd"), maps()), before);
    assert_eq!(server.count("task"), 1);
}

#[test]
fn the_least_recently_prepared_module_goes_first() {
    const PREPARED_MAX: usize = 8;
    let function = Function::new(r#"(func (export "_start"))"#);
    let server = &function.server;
    let maps = || {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", server.process.id())).unwrap();
        maps.lines().filter(|line| line.ends_with(&function.artifact)).count()
    };
    for number in 2..=PREPARED_MAX {
        server.prepare(&number.to_string(), &function.artifact);
    }
    let full = (server.count("fd"), maps());
    // Known: it becomes the most recent.
    assert_eq!(server.prepare("1", &function.artifact), b"p1");
    assert_eq!((server.count("fd"), maps()), full);
    for number in 1..PREPARED_MAX {
        assert_eq!(server.prepare(&format!("new{number}"), &function.artifact), format!("pnew{number}").into_bytes());
    }
    assert_eq!((server.count("fd"), maps()), full);
    // 1 is prepared still, and 2 is not: without the artifact, it cannot be loaded.
    std::fs::remove_file(&function.artifact).unwrap();
    let said = |version| server.fork().begin(version, &function.artifact, &call()).finish(b"").1;
    assert_eq!((&said("1")[..2], &said("2")[..]), (&b"X\0"[..], &b"E"[..]));
}

#[test]
fn a_child_is_its_own_session_and_has_its_own_descriptors_only() {
    let function = Function::new(CAT);
    let _others = [function.server.fork(), function.server.fork()];
    let mut running = function.server.fork().begin("1", &function.artifact, &call().set("route", "GET:/a"));
    let mut byte = [0];
    running.stdin.as_mut().unwrap().write_all(b"a").unwrap();
    running.stdout.read_exact(&mut byte).unwrap();
    let pid = running.child.pid.to_string();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    assert_eq!((fields[1], fields[3]), (&function.server.process.id().to_string()[..], &pid[..]));
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| entry.unwrap().path());
    let mut kinds: Vec<String> = entries
        .map(|fd| std::fs::read_link(fd).unwrap().to_str().unwrap().split(':').next().unwrap().to_owned())
        .collect();
    kinds.sort();
    assert_eq!(kinds, ["pipe", "pipe", "pipe", "socket"]);
    let title = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(title.trim_end_matches('\0'), "faas-wasm: GET:/a");
    // SIGCHLD, which the server blocks, comes to it.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("SigBlk:\t0000000000000000") && status.contains("Threads:\t1"), "{status}");
    running.finish(b"");
}

#[test]
fn the_network_is_cut_where_it_is_to_be() {
    let function = Function::new(CAT);
    // The number of filters; the fork server has none of its own here.
    each([("0", "1"), ("1", "0")], |(net, filters)| {
        let mut running = function.server.fork().begin("1", &function.artifact, &call().set("net", net));
        let mut byte = [0];
        running.stdin.as_mut().unwrap().write_all(b"a").unwrap();
        running.stdout.read_exact(&mut byte).unwrap();
        let status = std::fs::read_to_string(format!("/proc/{}/status", running.child.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:\t"));
        assert_eq!(line, Some(filters), "net {net}");
        running.finish(b"");
    });
}

#[test]
fn a_child_changes_to_the_folder_or_says_why_not() {
    let function = Function::new(r#"(func (export "_start"))"#);
    let outcome = function.prepared(&call().set("folder", "/nowhere"));
    assert!(outcome.status == 127 && outcome.stderr.contains("change to the folder /nowhere"), "{outcome:?}");
    assert_eq!(function.prepared(&call().set("folder", "/")).status, 0);
}

#[test]
fn children_end_with_their_channel_or_their_server() {
    let mut function = Function::new(CAT);
    let idle = function.server.fork();
    drop(idle.channel.shutdown(std::net::Shutdown::Both));
    assert_eq!(idle.await_end().unwrap().0, 0);
    let idle = function.server.fork();
    let running = function.server.fork().begin("1", &function.artifact, &call());
    function.server.process.kill().unwrap();
    // End of file without a D, and the children are dead.
    for child in [&idle, &running.child] {
        assert_eq!(child.await_end(), None);
        let mut watched = [rustix::event::PollFd::new(&child.pidfd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut watched, None).unwrap();
    }
}

#[test]
fn the_end_of_a_child_is_reported_with_its_figures() {
    // Some 100 ms of counting.
    let body = r#"(func (export "_start") (local $i i32) (loop $again
        (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 200000000)))))"#;
    let function = Function::new(body);
    let mut running = function.server.fork().begin("1", &function.artifact, &call());
    let mut said = Vec::new();
    running.child.channel.read_to_end(&mut said).unwrap();
    let (status, [user_us, _, resident_kib_max]) = running.child.await_end().unwrap();
    assert_eq!(status, 0);
    assert!((1000..10_000_000).contains(&user_us) && (100..100_000).contains(&resident_kib_max), "{user_us}");
}

#[test]
fn a_retired_server_ends_with_its_last_child() {
    let function = Function::new(CAT);
    let running = function.server.fork().begin("1", &function.artifact, &call());
    send(function.server.control.as_fd(), b"Q", &[]);
    // A child that is ordered afterwards is refused: the sockets close.
    let (report, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    send(function.server.control.as_fd(), b"F", &[theirs.as_fd(), theirs.as_fd()]);
    drop(theirs);
    assert_eq!(receive(&report.into()).0, b"");
    assert_eq!(running.finish(b"still here").0.stdout, b"still here");
    assert_eq!(receive(&function.server.control).0, b"");
}

#[test]
fn who_breaks_the_protocol_ends_the_server_or_the_child() {
    let cases = [
        (&b"F"[..], "without its two descriptors"),
        (b"x", "begins with 0x78"),
        (b"Pversion", "is not name=value"),
        (&[b'P'; 20_000], "more than"),
    ];
    each(cases, |(packet, said)| {
        let server = Server::start();
        send(server.control.as_fd(), packet, &[]);
        let mut server = std::mem::ManuallyDrop::new(server);
        let mut stderr = String::new();
        server.process.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!(server.process.wait().unwrap().code(), Some(1));
        assert!(stderr.contains(said) && stderr.lines().count() == 1, "{stderr}");
    });
    let function = Function::new(CAT);
    let no_streams = function.server.fork();
    send(no_streams.channel.as_fd(), &driver::message("1", &function.artifact, &call()), &[]);
    assert_eq!(no_streams.await_end().unwrap().0, 127 << 8);
    let no_number = function.prepared(&Call::default().set("memory_mib", "many"));
    assert_eq!(no_number.status, 127);
    assert_eq!(function.call(&call().stdin(b"as before")).stdout, b"as before");
}

#[test]
fn a_server_whose_worker_is_gone_does_not_start() {
    // The shell's child is not the child of who made the socket.
    let (control, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let output = Command::new("sh")
        .args(["-c", r#"("$@" 3<&0 </dev/null; exit $?); exit $?"#, "sh", PROGRAM, "serve"])
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .output()
        .unwrap();
    drop(control);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("has ended"), "{output:?}");
}
