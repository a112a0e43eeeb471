//! What a function may rely on, and what the worker may: each test has a module in text form and a fork server of its
//! own; where `run` must behave alike, both are asked.

mod driver;

use std::io::Read;
use std::process::{Command, Stdio};

use driver::{Folder, Outcome, PROGRAM, Server, compile, send};
use std::os::fd::AsFd;

/// A module with one page of memory, the imports that the tests use, and `body`.
fn module(body: &str) -> Vec<u8> {
    format!(
        r#"(module
        (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_open"
            (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
        (memory (export "memory") 4)
        (func $write (param $fd i32) (param $at i32) (param $len i32)
            (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $len))
            (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
        {body})"#
    )
    .into_bytes()
}

fn start(body: &str, arguments: &[&str]) -> (Folder, Server) {
    let folder = Folder::new();
    let artifact = compile(&module(body), &folder.0);
    let server = Server::start(arguments, &artifact);
    (folder, server)
}

/// The same function without a fork server.
fn cold(folder: &Folder, environment: &[(&str, &str)], stdin: Stdio) -> std::process::Output {
    let command = &mut Command::new(PROGRAM);
    command.args(["run", "--memory-mib", "64"]).arg(folder.0.join("artifact")).arg("/functions/test.wasm");
    command.env_clear().envs(environment.iter().copied()).stdin(stdin).output().unwrap()
}

const REPORT: &str = r#"(func (export "_start")
    (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
    (drop (call $args_get (i32.const 1024) (i32.const 2048)))
    (call $write (i32.const 1) (i32.const 2048) (i32.load (i32.const 20)))
    (drop (call $environ_sizes_get (i32.const 16) (i32.const 20)))
    (drop (call $environ_get (i32.const 1024) (i32.const 65536)))
    (call $write (i32.const 1) (i32.load (i32.const 1028)) (i32.const 4))
    (call $write (i32.const 1) (i32.const 65536) (i32.load (i32.const 20))))"#;

#[test]
fn a_function_gets_the_module_as_its_argument_and_the_whole_environment() {
    let (folder, server) = start(REPORT, &[]);
    let expected = b"/functions/test.wasm\0B=\xc3\xa4A=1\0B=\xc3\xa4\0";
    let outcome = server.call(&["A=1", "B=ä"], b"");
    assert_eq!(outcome, Outcome { stdout: expected.to_vec(), stderr: String::new(), status: 0, said: b"X\0".to_vec() });
    assert_eq!(cold(&folder, &[("A", "1"), ("B", "ä")], Stdio::null()).stdout, expected);
    // More than fits into one read of the channel.
    let long = format!("LONG={}", "x".repeat(100_000));
    assert!(server.call(&["A=1", "B=2", &long], b"").stdout.ends_with(&[long.as_bytes(), b"\0"].concat()));
}

#[test]
fn exit_statuses_are_a_processs() {
    let (folder, server) = start(r#"(func (export "_start") (call $proc_exit (i32.const 300)))"#, &[]);
    let outcome = server.call(&[], b"");
    assert_eq!((outcome.status, &outcome.said[..]), (44, &b"X\x2c"[..]));
    assert_eq!(cold(&folder, &[], Stdio::null()).status.code(), Some(44));
}

#[test]
fn a_trap_says_where_and_ends_with_134() {
    let (folder, server) = start(r#"(func $inner (unreachable)) (func (export "_start") (call $inner))"#, &[]);
    let outcome = server.call(&[], b"");
    assert_eq!(outcome.status, 134);
    assert!(outcome.stderr.contains("unreachable") && outcome.stderr.contains("!inner"), "{}", outcome.stderr);
    assert_eq!(cold(&folder, &[], Stdio::null()).status.code(), Some(134));
    // A stack that overflows and an address that is out of bounds are traps of their own, by signals.
    let (_folder, server) = start(r#"(func $f (export "_start") (call $f) (call $f))"#, &[]);
    assert!(server.call(&[], b"").stderr.contains("stack exhausted"));
    let (_folder, server) = start(r#"(func (export "_start") (drop (i32.load (i32.const -5))))"#, &[]);
    let outcome = server.call(&[], b"");
    assert!(outcome.status == 134 && outcome.stderr.contains("out of bounds"), "{}", outcome.stderr);
}

const CAT: &str = r#"(func (export "_start") (local $n i32)
    (loop $again
        (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 65536))
        (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (local.set $n (i32.load (i32.const 8)))
        (if (local.get $n) (then
            (call $write (i32.const 1) (i32.const 4096) (local.get $n))
            (br $again)))))"#;

#[test]
fn fifty_megabytes_go_through() {
    let (_folder, server) = start(CAT, &[]);
    let body: Vec<u8> = (0..50 << 20).map(|at: u32| (at ^ at >> 11) as u8).collect();
    assert!(server.call(&[], &body).stdout == body);
    assert_eq!(server.call(&[], b"").stdout, b"");
}

#[test]
fn output_can_be_read_before_the_function_ends() {
    let (_folder, server) = start(CAT, &[]);
    let mut running = server.fork().begin(&[]);
    let mut byte = [0];
    std::io::Write::write_all(running.stdin.as_mut().unwrap(), b"a").unwrap();
    running.stdout.read_exact(&mut byte).unwrap();
    assert_eq!(running.finish(b"b").stdout, b"b");
}

/// Opens `path` (5 bytes at 100) in descriptor 3 with oflags `how`, and ends with the error number, or writes and reads.
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
fn the_scratch_folder_and_opened_folders_can_be_written_to_and_not_left() {
    let scratch = Folder::new();
    let other = Folder::new();
    let tmpdir = format!("TMPDIR={}", scratch.0.display());
    let dir = format!("/data={}", other.0.display());
    for (fd, folder) in [(3, &scratch), (4, &other)] {
        let (_folder, server) = start(&opening("file", fd), &["--dir", &dir]);
        assert_eq!(server.call(&[&tmpdir], b"").status, 0);
        assert_eq!(std::fs::read(folder.0.join("file")).unwrap(), b"file");
    }
    std::os::unix::fs::symlink("/etc", scratch.0.join("link")).unwrap();
    for path in ["../file", "/etc/x", "link/x", "a/../../x"] {
        let (_folder, server) = start(&opening(path, 3), &[]);
        std::fs::create_dir_all(scratch.0.join("a")).unwrap();
        // 76 is ENOTCAPABLE.
        assert_eq!(server.call(&[&tmpdir], b"").status, 76, "{path}");
    }
    let (_folder, server) = start(&opening("file", 3), &["--dir", "/data=/nowhere"]);
    let outcome = server.call(&[&tmpdir], b"");
    assert_eq!(outcome.status, 127);
    assert!(outcome.stderr.contains("could not open the folder /nowhere"), "{}", outcome.stderr);
}

#[test]
fn memory_is_limited_and_its_lack_is_said() {
    let grow = r#"(func (export "_start") (loop $again
        (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1))) (unreachable)))"#;
    let (folder, server) = start(grow, &[]);
    let outcome = server.call(&[], b"");
    assert!(outcome.status == 134 && outcome.stderr.contains("out of memory"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("64 MiB"), "{}", outcome.stderr);
    assert!(String::from_utf8_lossy(&cold(&folder, &[], Stdio::null()).stderr).contains("out of memory"));
    // Who copes with a refusal has not failed.
    let (_folder, server) = start(r#"(func (export "_start") (drop (memory.grow (i32.const 9999))))"#, &[]);
    assert_eq!(server.call(&[], b"").stderr, "");
    // More than the limit from the beginning.
    let folder = Folder::new();
    let artifact = compile(br#"(module (memory (export "memory") 2000) (func (export "_start")))"#, &folder.0);
    let mut server = Server::begin(&[], &artifact);
    assert_eq!(server.process.wait().unwrap().code(), Some(1));
    assert!(String::from_utf8_lossy(&cold(&folder, &[], Stdio::null()).stderr).contains("out of memory"));
    // Tables count too.
    let table = r#"(table $t 1 funcref) (func (export "_start")
        (call $proc_exit (i32.eq (table.grow $t (ref.null func) (i32.const 90000000)) (i32.const -1))))"#;
    let (_folder, server) = start(table, &[]);
    assert_eq!(server.call(&[], b"").status, 1);
}

#[test]
fn random_numbers_and_globals_are_each_calls_own() {
    let body = r#"(global $calls (mut i32) (i32.const 0)) (func (export "_start")
        (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (i32.store (i32.const 500) (i32.add (i32.load (i32.const 500)) (i32.const 1)))
        (drop (call $random_get (i32.const 600) (i32.const 300)))
        (call $write (i32.const 1) (i32.const 600) (i32.const 300))
        (call $proc_exit (i32.add (global.get $calls) (i32.load (i32.const 500)))))"#;
    let (_folder, server) = start(body, &[]);
    let (first, second) = (server.call(&[], b""), server.call(&[], b""));
    assert_eq!((first.status, second.status), (2, 2));
    assert_ne!(first.stdout, second.stdout);
}

#[test]
fn a_start_function_runs_once_in_each_call_and_never_in_the_server() {
    let body = r#"(global $g (mut i32) (i32.const 0)) (data (i32.const 100) "started ")
        (func $begin (global.set $g (i32.const 7)) (call $write (i32.const 1) (i32.const 100) (i32.const 8)))
        (start $begin)
        (func (export "_start") (call $proc_exit (global.get $g)))"#;
    let (_folder, server) = start(body, &[]);
    for _ in 0..2 {
        let outcome = server.call(&[], b"");
        assert_eq!((outcome.status, &outcome.stdout[..]), (7, &b"started "[..]));
    }
}

#[test]
fn a_handler_is_called_where_there_is_no_start() {
    let body = r#"(global $g (mut i32) (i32.const 0))
        (func (export "_initialize") (global.set $g (i32.const 40)))
        (func (export "handle") (result i32) (i32.add (global.get $g) (i32.const 2)))
        (func (export "odd") (param i32))"#;
    let (folder, server) = start(body, &["--handler", "handle"]);
    assert_eq!(server.call(&[], b"").status, 42);
    for (arguments, said) in [
        (&[][..], "no handler is named; functions that it exports: _initialize, handle, odd"),
        (&["--handler", "other"][..], "no handler other; functions"),
        (&["--handler", "odd"][..], "its handler odd must take no parameters"),
    ] {
        let mut server = Server::begin(arguments, &folder.0.join("artifact"));
        let mut stderr = String::new();
        server.process.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!(server.process.wait().unwrap().code(), Some(1));
        assert!(stderr.contains(said) && stderr.lines().count() == 1, "{stderr}");
    }
}

#[test]
fn a_function_sleeps_as_long_as_it_asks() {
    // One clock, 50 ms; the event is at 600.
    let body = r#"(func (export "_start")
        (i32.store (i32.const 316) (i32.const 1)) (i64.store (i32.const 324) (i64.const 50000000))
        (call $proc_exit (call $poll_oneoff (i32.const 300) (i32.const 600) (i32.const 1) (i32.const 700))))"#;
    let (_folder, server) = start(body, &[]);
    let begun = std::time::Instant::now();
    assert_eq!(server.call(&[], b"").status, 0);
    assert!(begun.elapsed().as_millis() >= 50);
}

#[test]
fn an_artifact_of_another_engine_is_refused_with_status_3() {
    let (folder, server) = start(REPORT, &[]);
    drop(server);
    let artifact = folder.0.join("artifact");
    let good = std::fs::read(&artifact).unwrap();
    let output = Command::new(PROGRAM).arg("--version").output().unwrap().stdout;
    let output = String::from_utf8(output).unwrap();
    let major = output.split(' ').next_back().unwrap().split('.').next().unwrap();
    // The header holds the major version, its length before it; another digit is another version.
    let needle = [&[major.len() as u8], major.as_bytes()].concat();
    let at = good.windows(needle.len()).position(|bytes| bytes == needle).expect("the header names the version");
    let mut other = good.clone();
    other[at + 1] ^= 1;
    for bad in [&other[..], b"", b"\0asm\x01\0\0\0", &good[..200]] {
        std::fs::write(&artifact, bad).unwrap();
        let output = cold(&folder, &[], Stdio::null());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        assert!(stderr.contains("is not for this engine") && stderr.lines().count() == 1, "{stderr}");
    }
    std::fs::remove_file(&artifact).unwrap();
    assert_eq!(cold(&folder, &[], Stdio::null()).status.code(), Some(1));
}

#[test]
fn what_does_not_compile_is_explained_in_one_line() {
    for bad in [&b"(module (func (export \"x\") i32.add))"[..], b"\0asm\x01\0\0\0\x0a\x55", b"(mod", b""] {
        let folder = Folder::new();
        std::fs::write(folder.0.join("in"), bad).unwrap();
        let input = std::fs::File::open(folder.0.join("in")).unwrap();
        let output = Command::new(PROGRAM).arg("compile").stdin(input).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
    }
}

fn entries(path: &str) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

#[test]
fn the_server_has_one_thread_and_stays_the_same_over_2000_children() {
    let (_folder, server) = start(r#"(func (export "_start"))"#, &[]);
    let of = |what: &str| format!("/proc/{}/{what}", server.process.id());
    server.call(&[], b"");
    let before = (entries(&of("fd")), std::fs::read_to_string(of("maps")).unwrap());
    assert_eq!(entries(&of("task")), 1);
    for _ in 0..2000 {
        assert_eq!(server.call(&[], b"").status, 0);
    }
    assert_eq!((entries(&of("fd")), std::fs::read_to_string(of("maps")).unwrap()), before);
    assert_eq!(entries(&of("task")), 1);
}

#[test]
fn a_child_is_in_a_session_of_its_own_and_has_only_its_own_descriptors() {
    let (_folder, server) = start(CAT, &[]);
    let mut running = server.fork().begin(&[]);
    let pid = running.child.pid.as_raw_nonzero();
    let mut byte = [0];
    std::io::Write::write_all(running.stdin.as_mut().unwrap(), b"a").unwrap();
    running.stdout.read_exact(&mut byte).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let (parent, session) = (fields[1], fields[3]);
    assert_eq!(parent, std::process::id().to_string());
    assert_eq!(session, pid.to_string());
    // What the server has, with the channel instead of the control socket.
    let open = |pid: String| -> Vec<_> {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        fds.map(|fd| std::fs::read_link(fd.unwrap().path()).unwrap()).collect()
    };
    let (child, of_server) = (open(pid.to_string()), open(server.process.id().to_string()));
    assert_eq!(child.len(), of_server.len(), "{child:?} {of_server:?}");
    assert!(!child.iter().any(|fd| fd.to_string_lossy().starts_with("socket:") && of_server.contains(fd)));
    running.finish(b"");
}

#[test]
fn an_idle_child_ends_with_its_channel_and_the_server_with_its_control_socket() {
    let (_folder, mut server) = start(CAT, &[]);
    let idle = server.fork();
    drop(idle.channel);
    let (_, status) = rustix::process::waitpid(Some(idle.pid), rustix::process::WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.exit_status(), Some(0));
    let running = server.fork().begin(&[]);
    server.control.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(server.process.wait().unwrap().code(), Some(0));
    // A child outlives its server.
    assert_eq!(running.finish(b"still here").stdout, b"still here");
}

#[test]
fn who_breaks_the_protocol_ends_the_server_or_the_child() {
    for bytes in [&b"F"[..], b"x"] {
        let (_folder, mut server) = start(CAT, &[]);
        send(server.control.as_fd(), bytes, &[]);
        assert_eq!(server.process.wait().unwrap().code(), Some(1));
    }
    let (_folder, server) = start(CAT, &[]);
    let idle = server.fork();
    send(idle.channel.as_fd(), &driver::message(&["A=1"]), &[]);
    let (_, status) = rustix::process::waitpid(Some(idle.pid), rustix::process::WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.exit_status(), Some(127));
    assert_eq!(server.call(&[], b"as before").stdout, b"as before");
}
