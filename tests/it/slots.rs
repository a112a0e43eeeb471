//! Slots, the queue in front of them, and the responses when both are full.

use std::collections::HashSet;
use std::fs;
use std::io::Write;

use serde_json::json;

use crate::http::Answer;
use crate::instance::{Instance, wait_until};

/// Records its start, waits at the gate, and prints its process id.
const WAITER: &str = "touch \"$IT_FOLDER/started-$$\"\nread _ < \"$IT_FOLDER/gate\"\necho $$";

fn started(instance: &Instance) -> usize {
    let names = fs::read_dir(instance.shared("")).unwrap().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with("started-")).count()
}

#[test]
fn sixty_four_slow_invocations_run_at_once_each_in_a_process_of_its_own() {
    const COUNT: usize = 64;
    let instance = Instance::with(&[("FAAS_WORKER_SLOTS", "32")]);
    let mut gate = instance.gate("gate");
    instance.script("GET:/wait", WAITER);
    let processes: HashSet<String> = std::thread::scope(|scope| {
        let requests: Vec<_> = (0..COUNT).map(|_| scope.spawn(|| instance.get("/wait"))).collect();
        // No call ends before all have started.
        wait_until("all have started", || started(&instance) == COUNT);
        // A fork server that starts is not told from a function at once.
        wait_until("each has one process", || instance.functions().len() == COUNT);
        gate.write_all(&[b'\n'; COUNT]).unwrap();
        let answers = requests.into_iter().map(|request| request.join().unwrap());
        answers.map(|answer| (assert_eq!(answer.status, 200), answer.text()).1).collect()
    });
    assert_eq!(processes.len(), COUNT);
}

#[test]
fn a_full_queue_answers_503_with_retry_after_and_those_in_it_get_their_turn() {
    let instance = Instance::with(&[
        ("FAAS_WORKERS", "1"),
        ("FAAS_WORKER_SLOTS", "1"),
        ("FAAS_QUEUE_MAX", "2"),
        ("FAAS_QUEUE_TIMEOUT_MS", "600000"),
    ]);
    let mut gate = instance.gate("gate");
    instance.script("GET:/wait", WAITER);
    std::thread::scope(|scope| {
        let requests = [(); 3].map(|()| scope.spawn(|| instance.get("/wait")));
        wait_until("two wait", || instance.status()["waiting"] == 2);
        let answer = instance.get("/wait");
        assert!(answer.problem(503, "queue-full").contains("FAAS_QUEUE_MAX"));
        assert_retry_after(&answer);
        gate.write_all(b"\n\n\n").unwrap();
        assert_eq!(requests.map(|request| request.join().unwrap().status), [200, 200, 200]);
    });
}

#[test]
fn a_function_at_its_max_inflight_answers_429_with_retry_after_and_others_run() {
    let instance = Instance::start();
    let mut gate = instance.gate("gate");
    instance.script_with("GET:/wait", WAITER, json!({"max_inflight": 2}));
    instance.script("GET:/other", "echo other");
    std::thread::scope(|scope| {
        let requests = [(); 2].map(|()| scope.spawn(|| instance.get("/wait")));
        wait_until("both have started", || started(&instance) == 2);
        let answer = instance.get("/wait");
        let detail = answer.problem(429, "function-busy");
        assert!(detail.ends_with("2 invocations of this function are running, its max_inflight"), "{detail}");
        assert_retry_after(&answer);
        assert_eq!(instance.get("/other").status, 200);
        // An edit of the row does not let twice as many run.
        instance.script_with("GET:/wait", WAITER, json!({"max_inflight": 2, "timeout": 20}));
        instance.get("/wait").problem(429, "function-busy");
        gate.write_all(b"\n\n").unwrap();
        assert_eq!(requests.map(|request| request.join().unwrap().status), [200, 200]);
    });
    gate.write_all(b"\n").unwrap();
    assert_eq!(instance.get("/wait").status, 200);
}

#[test]
fn calls_over_max_inflight_wait_as_far_as_queue_lets_them() {
    let instance = Instance::with(&[("FAAS_QUEUE_TIMEOUT_MS", "600000")]);
    let mut gate = instance.gate("gate");
    instance.script_with("GET:/wait", WAITER, json!({"max_inflight": 1, "queue": 1}));
    instance.script("GET:/other", "echo other");
    std::thread::scope(|scope| {
        let requests = [(); 2].map(|()| scope.spawn(|| instance.get("/wait")));
        wait_until("one runs and one waits", || started(&instance) == 1 && instance.status()["waiting"] == 1);
        let answer = instance.get("/wait");
        let detail = answer.problem(429, "function-busy");
        assert!(detail.ends_with("its max_inflight, and as many calls wait as its queue permits: 1"), "{detail}");
        assert_retry_after(&answer);
        assert_eq!(instance.get("/other").status, 200);
        gate.write_all(b"\n\n").unwrap();
        assert_eq!(requests.map(|request| request.join().unwrap().status), [200, 200]);
    });
}

fn assert_retry_after(answer: &Answer) {
    let seconds: u64 = answer.field("Retry-After").expect("an answer that says when to come back").parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
}
