//! Fork servers: when there is one, what it shares, and that its end is nobody's error.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::instance::{Instance, has, signal, wait_for, wait_until};

const WHO: &str = "<?php echo getmypid(), ' ', posix_getppid(), ' ', posix_getsid(0), ' ', getenv('A');";

fn numbers(text: &str) -> Vec<u32> {
    text.split(' ').filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn every_warm_invocation_is_a_process_of_its_own_and_a_child_of_the_worker() {
    if !has(&["php"]) {
        return;
    }
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    instance.function("GET:/who", "php", WHO, json!({}));
    assert!(!instance.get("/who").is_warm(), "the first has nobody to be forked from");
    instance.warm("/who");
    let mut seen = Vec::new();
    for _ in 0..20 {
        let answer = instance.get("/who");
        assert!(answer.is_warm());
        let [pid, parent, session] = numbers(&answer.text())[..] else { panic!("{}", answer.text()) };
        assert_eq!((parent, session), (instance.worker_pid(0), pid));
        assert!(!seen.contains(&pid), "{pid} twice");
        seen.push(pid);
    }
    assert_eq!(instance.fork_servers().len(), 1);
    wait_until("they are all gone", || instance.functions().is_empty());
}

#[test]
fn a_fork_server_that_is_asked_often_hands_down_what_is_used() {
    if !has(&["php"]) {
        return;
    }
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    // What is handed down is not faulted in; and a process that is laid out anew still is what it was.
    const FAULTS: &str = "<?php preg_match('/^(?<word>\\w+) \\w+$/', 'some text', $found);
        echo json_encode([getrusage()['ru_minflt'], $found['word'], strlen(file_get_contents(__FILE__))]);";
    instance.function("GET:/faults", "php", FAULTS, json!({}));
    let call = || serde_json::from_slice::<serde_json::Value>(&instance.warm("/faults").body).unwrap();
    let least_of_ten = || {
        let answers = (0..10).map(|_| call());
        let faults = answers.map(|answer| {
            assert_eq!((&answer[1], &answer[2]), (&json!("some"), &json!(FAULTS.len())));
            answer[0].as_u64().unwrap()
        });
        faults.min().unwrap()
    };
    let first = least_of_ten();
    (0..80).for_each(|_| drop(call()));
    let last = least_of_ten();
    assert!(last * 10 < first * 9, "{first} faults at first, {last} at last");
}

#[test]
fn a_function_that_asks_for_a_cold_start_never_gets_a_fork_server() {
    if !has(&["php"]) {
        return;
    }
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    instance.function("GET:/cold", "php", WHO, json!({"start": "cold"}));
    for _ in 0..5 {
        assert!(!instance.get("/cold").is_warm());
    }
    assert!(instance.fork_servers().is_empty());
}

#[test]
fn there_are_no_more_fork_servers_than_the_setting_allows() {
    if !has(&["php"]) {
        return;
    }
    let instance = Instance::with(&[("FAAS_WORKERS", "1"), ("FAAS_FORK_SERVERS", "1")]);
    instance.function("GET:/one", "php", WHO, json!({}));
    instance.function("GET:/other", "php", WHO, json!({}));
    instance.warm("/one");
    for _ in 0..5 {
        assert!(!instance.get("/other").is_warm(), "the place is taken, and was used a moment ago");
    }
    assert!(instance.get("/one").is_warm());
    assert_eq!(instance.fork_servers().len(), 1);
    let none = Instance::with(&[("FAAS_FORK_SERVERS", "0")]);
    none.function("GET:/one", "php", WHO, json!({}));
    for _ in 0..5 {
        assert!(!none.get("/one").is_warm());
    }
    assert!(none.fork_servers().is_empty());
}

#[test]
fn routes_that_agree_in_module_limits_and_env_share_a_fork_server_and_others_do_not() {
    if !has(&["php"]) {
        return;
    }
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    let same = instance.descriptor("php", WHO, json!({}));
    let with = |field: &str, value| {
        let mut other = same.clone();
        other[field] = value;
        other
    };
    instance.install(&[
        ("GET:/one", same.clone()),
        ("GET:/other", with("timeout", json!(7))),
        ("GET:/memory", with("memory", json!(64))),
        ("GET:/net", with("net", json!(false))),
        ("GET:/env", with("env", json!({"A": "1", "IT_FOLDER": instance.shared("")}))),
    ]);
    instance.warm("/one");
    assert!(instance.get("/other").is_warm());
    assert_eq!(instance.fork_servers().len(), 1);
    for (count, target) in [(2, "/memory"), (3, "/net")] {
        assert!(!instance.get(target).is_warm(), "{target}");
        instance.warm(target);
        assert_eq!(instance.fork_servers().len(), count);
    }
    assert!(instance.warm("/env").text().ends_with(" 1"));
}

#[test]
fn the_death_of_a_fork_server_fails_no_invocation_and_another_takes_its_place() {
    if !has(&["php"]) {
        return;
    }
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    let source = "<?php if (isset($_GET['wait'])) fgets(fopen(getenv('IT_FOLDER') . '/gate', 'r')); echo 'done';";
    instance.function("GET:/x", "php", source, json!({}));
    let mut gate = instance.gate("gate");
    instance.warm("/x");
    let [server] = instance.fork_servers()[..] else { panic!("there is one") };
    std::thread::scope(|scope| {
        let running = scope.spawn(|| instance.get("/x?wait"));
        wait_until("it runs", || !instance.functions().is_empty());
        signal("KILL", server);
        wait_until("it is gone", || !instance.fork_servers().contains(&server));
        for _ in 0..5 {
            assert_eq!(instance.get("/x").text(), "done");
        }
        std::io::Write::write_all(&mut gate, b"\n").unwrap();
        let answer = running.join().unwrap();
        assert!(answer.is_warm(), "it had begun as a child of the one that died");
        assert_eq!(answer.text(), "done");
    });
    instance.warm("/x");
    assert_eq!(instance.wait_for_log("has ended; functions start cold", 1).len(), 1);
}

#[test]
fn a_changed_module_has_a_new_fork_server_without_a_failed_request() {
    if !has(&["php"]) {
        return;
    }
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    let source = |version: u32| format!("<?php echo 'version {version} of this';");
    let descriptor = instance.descriptor("php", &source(0), json!({}));
    let module = descriptor["module"].as_str().unwrap().to_string();
    instance.install(&[("GET:/x", descriptor)]);
    instance.warm("/x");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let calls = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let answer = instance.get("/x");
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert!(answer.text().starts_with("version "), "{}", answer.text());
            }
        });
        for version in 1..=5 {
            let new = format!("{module}.new");
            fs::write(&new, source(version)).unwrap();
            fs::rename(&new, &module).unwrap();
            assert_eq!(instance.get("/x").text(), format!("version {version} of this"));
            wait_until("the new version starts warm", || {
                let answer = instance.get("/x");
                assert_eq!(answer.text(), format!("version {version} of this"));
                answer.is_warm()
            });
        }
        is_over.store(true, Ordering::Relaxed);
        calls.join().unwrap();
    });
    wait_until("one fork server is left", || instance.fork_servers().len() == 1);
}

#[test]
fn fork_servers_and_waiting_children_end_with_their_worker_and_with_the_gateway() {
    if !has(&["php"]) {
        return;
    }
    let mut instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    instance.function("GET:/who", "php", WHO, json!({}));
    instance.warm("/who");
    let servers = instance.fork_servers();
    signal("KILL", instance.worker_pid(0));
    wait_until("the fork server is gone", || servers.iter().all(|pid| !instance.fork_servers().contains(pid)));
    wait_for("there is a new worker", || instance.worker(0));
    instance.warm("/who");
    assert!(instance.stop().success());
    wait_until("nothing is left", || instance.processes().is_empty());
}

#[test]
fn a_warm_invocation_can_neither_signal_nor_look_into_the_fork_server_or_its_siblings() {
    if !has(&["php"]) {
        return;
    }
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    let source = "<?php foreach (array_diff(explode(',', $_GET['pids']), [getmypid()]) as $pid) {
        var_dump(posix_kill((int) $pid, 0), @file_get_contents(\"/proc/$pid/environ\"), @fopen(\"/proc/$pid/mem\", 'r+'));
    }";
    instance.function("GET:/x", "php", source, json!({}));
    instance.function("GET:/who", "php", WHO, json!({}));
    instance.warm("/x?pids=1");
    if instance.status()["sandbox"]["landlock"].as_u64().unwrap() < 6 {
        return;
    }
    let others = instance.processes();
    assert!(others.len() >= 4, "gateway, worker, fork server, children: {others:?}");
    let pids = others.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let answer = instance.get(&format!("/x?pids={pids}"));
    assert!(answer.is_warm());
    let text = answer.text();
    assert_eq!(text.matches("bool(false)").count(), text.lines().count(), "{text}");
}

#[test]
fn a_variable_that_changes_how_php_starts_is_honoured_by_starting_it_anew() {
    if !has(&["php"]) {
        return;
    }
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    let folder = instance.path("ini");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("own.ini"), "precision = 5\n").unwrap();
    let source = "<?php echo ini_get('precision');";
    instance.function("GET:/x", "php", source, json!({"env": {"PHP_INI_SCAN_DIR": folder}}));
    for _ in 0..5 {
        let answer = instance.get("/x");
        assert_eq!(answer.text(), "5");
        assert!(!answer.is_warm());
    }
    assert!(instance.fork_servers().is_empty());
}

#[test]
fn a_function_that_lies_to_its_worker_harms_nobody_but_itself() {
    if !has(&["php"]) {
        return;
    }
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    // The channel is one of the descriptors that a child has; this writes to all.
    let source = "<?php
        for ($fd = 3; isset($_GET['say']) && $fd < 32; $fd++) {
            if ($file = @fopen(\"php://fd/$fd\", 'w')) { @fwrite($file, base64_decode($_GET['say'])); }
        }
        if (isset($_GET['stay'])) { exec('setsid sleep 1000 >/dev/null 2>&1 &'); sleep(1000); }
        echo 'done';";
    instance.function("GET:/x", "php", source, json!({"timeout": 5}));
    instance.warm("/x");
    // X and the status 7, before it is through: taken at its word, and ended.
    assert!(instance.get("/x?say=WAc=&stay").problem(500, "function-exited").ends_with("code 7"));
    wait_until("all of it is gone", || instance.functions().is_empty());
    // What makes no sense is not listened to any more.
    assert_eq!(instance.get("/x?say=WlpaWlpaWlpa").status, 500);
    let server = instance.fork_servers();
    for _ in 0..5 {
        let answer = instance.get("/x");
        assert_eq!((answer.status, answer.text().as_str(), answer.is_warm()), (200, "done", true));
    }
    assert_eq!(instance.fork_servers(), server);
}
