//! A machine that runs out of descriptors, processes or disk. And a long run that leaves all as it was.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use crate::instance::{Instance, lacks_root, need, run, skip, wait_until};
use crate::soak::{self, Usage};

/// Sets a soft limit of another process. It can be raised again up to the hard limit.
fn limit(pid: u32, name: &str, value: usize) {
    let output = run(Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--{name}={value}:")]));
    assert!(output.status.success(), "{output:?}");
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Lines that are about a fault and not about one request.
fn fault_lines(instance: &Instance) -> Vec<String> {
    let lines = instance.log();
    lines
        .lines()
        .filter(|line| line.contains("could not"))
        .filter(|line| !line.contains("request="))
        .map(String::from)
        .collect()
}

#[test]
fn a_worker_without_descriptors_answers_503_and_serves_again_when_it_has_some() {
    need(&["prlimit"]);
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    instance.script("GET:/x", "echo x");
    assert_eq!(instance.get("/x").text(), "x\n");
    let worker = instance.worker_pid(0);
    for more in 0..32 {
        limit(worker, "nofile", open_files(worker) + more);
        let answer = instance.get("/x");
        match answer.status {
            // With this many descriptors the call succeeds.
            200 => break,
            _ => assert!(answer.problem(503, "exhausted").contains("files"), "{}", answer.text()),
        }
        assert!(answer.field("Retry-After").is_some());
        assert!(more < 31);
    }
    limit(worker, "nofile", 1024);
    assert_eq!(instance.get("/x").text(), "x\n");
    assert_eq!(instance.worker_pid(0), worker, "it was not started again");
}

#[test]
fn a_gateway_without_descriptors_says_so_once_and_serves_again_when_it_has_some() {
    need(&["prlimit"]);
    let instance = Instance::start();
    instance.script("GET:/x", "echo x");
    assert_eq!(instance.get("/x").text(), "x\n");
    let gateway = instance.gateway_pid();
    // Leaves room for a connection but not for a request, and then not even for a connection.
    for room in [4, 3, 2, 1, 0] {
        limit(gateway, "nofile", open_files(gateway) + room);
        let mut connections: Vec<_> = (0..4).map(|_| instance.connect()).collect();
        for connection in &mut connections {
            std::io::Write::write_all(
                connection.get_mut(),
                b"GET /x HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n",
            )
            .unwrap();
        }
        wait_until("it is full", || room > 0 || !fault_lines(&instance).is_empty());
        limit(gateway, "nofile", 10_000);
        for mut connection in connections {
            let answer = crate::http::Answer::read(&mut connection, false).unwrap();
            assert!([200, 503].contains(&answer.status), "{}", answer.text());
        }
    }
    let lines = fault_lines(&instance);
    assert!((1..=5).contains(&lines.len()), "{lines:?}");
    assert_eq!(instance.get("/x").text(), "x\n");
}

#[test]
fn without_a_process_for_a_function_it_is_503_and_afterwards_all_is_well() {
    need(&["prlimit"]);
    // As another user: the limit does not hold for root, and threads of this test would count against it.
    if lacks_root() {
        return;
    }
    let mut instance = Instance::prepare(&[("FAAS_WORKERS", "1")]);
    instance.run_as(47_115);
    instance.init();
    instance.launch();
    instance.wait_until_ready();
    instance.script("GET:/x", "echo x");
    assert_eq!(instance.get("/x").text(), "x\n");
    let worker = instance.worker_pid(0);
    let limit = |value: &str| {
        let pid = worker.to_string();
        // As that user, who may set its own limits.
        let output =
            run(Command::new("prlimit").args(["--pid", &pid, &format!("--nproc={value}:")]).uid(47_115).gid(47_115));
        assert!(output.status.success(), "{output:?}");
    };
    limit("1");
    for _ in 0..5 {
        let answer = instance.get("/x");
        assert!(!answer.problem(503, "exhausted").is_empty() && answer.field("Retry-After").is_some());
    }
    limit("10000");
    assert_eq!(instance.get("/x").text(), "x\n");
}

/// A small file system, mounted as long as this lives.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None`, and the test is skipped, where it cannot be mounted.
    fn mount(folder: &Path, mib: u32) -> Option<Tmpfs> {
        fs::create_dir_all(folder).unwrap();
        let options = format!("size={mib}m,mode=755");
        let output = run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder));
        if !output.status.success() {
            skip("only root can mount a file system");
            return None;
        }
        Some(Tmpfs(folder.to_path_buf()))
    }

    /// Leaves no byte free.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("fill");
        assert!(fs::write(&path, vec![1; 64 << 20]).is_err(), "it is smaller than that");
        path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

#[test]
fn with_a_full_spool_folder_long_bodies_and_answers_are_503_and_short_ones_are_served() {
    let mut instance = Instance::prepare(&[]);
    let Some(spool) = Tmpfs::mount(&instance.path("spool"), 2) else { return };
    instance.init();
    instance.launch();
    instance.wait_until_ready();
    instance.script("POST:/cat", "cat");
    instance.script("GET:/long", "head -c 3000000 /dev/zero");
    instance.script("GET:/own", "head -c 100000 /dev/zero >$TMPDIR/f || exit 1; wc -c <$TMPDIR/f");
    let long = "x".repeat(100_000);
    assert_eq!(instance.post("/cat", &long).text(), long);
    // A body longer than the disk.
    assert!(!instance.get("/long").problem(503, "spool-full").is_empty());
    assert!(!instance.post("/cat", "x".repeat(3_000_000)).problem(503, "spool-full").is_empty());
    assert_eq!(instance.post("/cat", &long).text(), long);
    let fill = spool.fill();
    for _ in 0..3 {
        let answer = instance.post("/cat", &long);
        assert!(!answer.problem(503, "spool-full").is_empty());
        assert!(answer.field("Retry-After").is_some());
        assert_eq!(instance.post("/cat", "short").text(), "short");
        // The function learns of the full disk by its own write.
        assert_eq!(instance.get("/own").status, 500);
    }
    fs::remove_file(fill).unwrap();
    assert_eq!(instance.post("/cat", &long).text(), long);
    assert_eq!(instance.get("/own").text(), "100000\n");
    drop(instance);
}

#[test]
fn with_a_full_code_folder_the_last_good_version_stays_until_there_is_room() {
    let mut instance = Instance::prepare(&[]);
    let Some(_disk) = Tmpfs::mount(&instance.path("code"), 1) else { return };
    instance.init();
    instance.launch();
    instance.wait_until_ready();
    let deploy = |version: u32, padding: usize| {
        let mut registry = instance.registry();
        let transaction = registry.transaction().unwrap();
        let code = format!("#!/bin/sh\necho {version} $VERSION\nexit\n{}", "x".repeat(padding));
        let sql = "INSERT OR REPLACE INTO modules (name, code) VALUES ('a.sh', ?1)";
        transaction.execute(sql, [code.as_bytes()]).unwrap();
        let row = json!({"runtime": "native", "module": "db:a.sh", "env": {"VERSION": version.to_string()}});
        let sql = "INSERT OR REPLACE INTO functions (k, v) VALUES ('GET:/a', ?1)";
        transaction.execute(sql, [row.to_string()]).unwrap();
        transaction.commit().unwrap();
    };
    deploy(1, 0);
    wait_until("it is in service", || instance.get("/a").text() == "1 1\n");
    deploy(2, 2 << 20);
    let said = instance.wait_for_log("could not write the code of db:a.sh to ", 1);
    assert!(said[0].contains("No space left on device"), "{said:?}");
    assert_eq!(instance.get("/a").text(), "1 1\n");
    let output = run(Command::new("mount").args(["-o", "remount,size=8m"]).arg(instance.path("code")));
    assert!(output.status.success(), "{output:?}");
    wait_until("the new version is in service", || instance.get("/a").text() == "2 2\n");
    assert_eq!(instance.log_lines("could not write the code of").len(), 1);
    drop(instance);
}

#[test]
fn with_a_full_run_folder_requests_and_new_rows_are_served_and_workers_come_back() {
    let mut instance = Instance::prepare(&[]);
    let Some(disk) = Tmpfs::mount(&instance.run_dir(), 1) else { return };
    instance.init();
    instance.launch();
    instance.wait_until_ready();
    instance.script("GET:/x", "echo x");
    let fill = disk.fill();
    assert_eq!(instance.get("/x").text(), "x\n");
    let killed = instance.worker_pid(0);
    crate::instance::signal("KILL", killed);
    wait_until("it is back", || instance.worker(0).is_some_and(|worker| worker["pid"] != killed));
    instance.registry().execute("UPDATE functions SET updated = updated + 1", []).unwrap();
    assert_eq!(instance.get("/x").text(), "x\n");
    fs::remove_file(fill).unwrap();
    instance.script("GET:/y", "echo y");
    assert_eq!(instance.get("/y").text(), "y\n");
    assert_eq!(instance.stop().code(), Some(0));
}

// ---- A long run ----------------------------------------------------------------------------------------------------

/// Ways to end, chosen in turn by the request's number.
const MIX: &str = r#"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(void) {
    int kind = atoi(getenv("QUERY_STRING"));
    char path[4096];
    switch (kind) {
    case 0: puts("good"); return 0;
    case 1: return 3;
    case 2: signal(SIGSEGV, SIG_DFL); raise(SIGSEGV); return 0;
    case 3: if (fork() == 0) { setsid(); if (fork() == 0) pause(); pause(); } puts("good"); return 0;
    case 4: for (int i = 0; i < 20000; i++) puts("a line of output"); return 0;
    case 5: close(1); close(2); return 0;
    case 6: for (int i = 0; i < 3; i++) fputs("a line of stderr\n", stderr); puts("good"); return 0;
    case 7: abort();
    case 8: snprintf(path, sizeof path, "%s/file", getenv("TMPDIR")); fclose(fopen(path, "w")); puts("good"); return 0;
    default: fwrite("\0\r\n\0", 1, 4, stdout); return 0;
    }
}
"#;
const KINDS: u64 = 10;

#[test]
fn after_many_invocations_good_and_bad_all_is_as_it_was_before() {
    need(&["cc"]);
    let instance = Instance::start();
    let program = instance.compile("mix", MIX);
    instance.install(&[("POST:/mix", json!({"runtime": "native", "module": program}))]);
    is_as_before(&instance, 2_000, |number| {
        let kind = number % KINDS;
        // Each kind has, in turn, a body that travels as a file.
        let body = if number.is_multiple_of(7) { "x".repeat(70_000) } else { String::new() };
        (format!("/mix?{kind}"), body, [200, 500, 500, 200, 200, 200, 200, 500, 200, 200][kind as usize])
    });
}

/// The same for children of a fork server.
const PHP_MIX: &str = r#"<?php
switch ((int) $_SERVER['QUERY_STRING']) {
    case 0: echo 'good'; break;
    case 1: exit(3);
    case 2: posix_kill(getmypid(), SIGSEGV); break;
    case 3: header('X-A: b'); exec('setsid sleep 1000 >/dev/null 2>&1 &'); break;
    case 4: echo str_repeat("a line of output\n", 20000); break;
    case 5: fclose(STDOUT); fclose(STDERR); break;
    case 6: error_log('a line of stderr'); echo 'good'; break;
    case 7: throw new Exception('bad');
    case 8: file_put_contents(getenv('TMPDIR') . '/file', 'x'); break;
    default: echo strlen(file_get_contents('php://input')), function_exists('once') ? 'again' : '';
}
function once() { static $x = 1; }
"#;

#[test]
fn after_many_forked_invocations_good_and_bad_all_is_as_it_was_before() {
    need(&["php", "faas-wasm"]);
    let instance = Instance::start();
    let trap = r#"(module (func (export "_start") unreachable))"#;
    instance.install(&[
        ("POST:/mix", instance.descriptor("php", PHP_MIX, json!({}))),
        ("POST:/trap", instance.descriptor("wasm", trap, json!({}))),
        ("POST:/ping", json!({"runtime": "wasm", "module": "functions/ping.wasm"})),
    ]);
    is_as_before(&instance, 1_000, |number| {
        let body = if number.is_multiple_of(7) { "x".repeat(70_000) } else { String::new() };
        let kind = (number / 2) % KINDS;
        match number % 2 {
            0 if kind == 1 => ("/trap".into(), body, 500),
            0 => ("/ping".into(), body, 200),
            _ => (format!("/mix?{kind}"), body, [200, 500, 500, 200, 200, 200, 200, 500, 200, 200][kind as usize]),
        }
    });
    assert!(instance.post("/ping", "").is_warm() && instance.post("/mix?0", "").is_warm());
}

/// Sends `total` requests or more (soak.rs), six at a time. Asserts that gateway, workers and scratch folders are then as
/// they were after the first few. `request` makes target, body and expected status of each from its number.
fn is_as_before(instance: &Instance, total: usize, request: impl Fn(u64) -> (String, String, u16) + Sync) {
    let next = AtomicU64::new(0);
    let invoke_until = |end: u64| {
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= end {
                            return;
                        }
                        let (target, body, expected) = request(number);
                        let answer = instance.post(&target, body);
                        assert_eq!(answer.status, expected, "{target}: {}", answer.text());
                    }
                });
            }
        });
    };
    invoke_until(300);
    let before = Usage::when_calm(instance);
    next.store(0, Ordering::Relaxed);
    invoke_until(soak::count(total, 200) as u64);
    Usage::when_calm(instance).assert_no_more_than(&before);
}
