//! The choice of a worker for an invocation.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::cases::each;
use crate::instance::{Instance, WORKER, signal, start, wait_for, wait_until};

fn figure(worker: &Value, name: &str) -> f64 {
    worker[name].as_f64().unwrap()
}

#[test]
fn of_a_spinning_and_a_sleeping_worker_the_sleeping_one_gets_the_work() {
    let instance = Instance::start();
    let mut gate = instance.gate("gate");
    // Several processes, so that the load also shows on a machine that runs many others.
    instance.script("GET:/spin", "for i in 1 2 3 4 5; do while :; do :; done & done; while :; do :; done");
    instance.script("GET:/sleep", "read _ < \"$IT_FOLDER/gate\"");
    instance.script("GET:/probe", "echo probe");
    std::thread::scope(|scope| {
        let spinner = scope.spawn(|| {
            let mut stream = instance.connect();
            stream.get_mut().write_all(b"GET /spin HTTP/1.1\r\nHost: it\r\n\r\n").unwrap();
            stream
        });
        let stream = spinner.join().unwrap();
        let has = |id: u32, calls: u32| instance.worker(id).unwrap()["in_flight"] == calls;
        let spinning = wait_for("one spins", || [0, 1].into_iter().find(|id| has(*id, 1)));
        let sleeping = 1 - spinning;
        // A worker that gets no turn at the processor for two seconds is passed over.
        let sleeper = wait_for("the other one sleeps", || {
            let sleeper = scope.spawn(|| instance.get("/sleep"));
            wait_until("a worker has the call", || has(sleeping, 1) || has(spinning, 2));
            if has(sleeping, 1) {
                return Some(sleeper);
            }
            gate.write_all(b"\n").unwrap();
            sleeper.join().unwrap();
            None
        });
        wait_until("the load shows", || {
            let score = |id: u32| figure(&instance.worker(id).unwrap(), "score");
            score(spinning) > score(sleeping) + 5.0
        });
        let probes: Vec<String> = (0..100)
            .map(|_| {
                let answer = instance.get("/probe");
                assert_eq!(answer.status, 200);
                answer.field("X-Faas-Worker").unwrap().to_string()
            })
            .collect();
        let right = probes.iter().filter(|id| **id == sleeping.to_string()).count();
        assert!(right >= 80, "only {right} of 100 went to the sleeping worker");
        gate.write_all(b"\n").unwrap();
        assert_eq!(sleeper.join().unwrap().status, 200);
        // The client leaves, and the busy function ends with it.
        drop(stream);
    });
}

#[test]
fn a_request_can_ask_why_it_went_to_its_worker() {
    let instance = Instance::start();
    instance.script("GET:/x", "echo x");
    instance.script_with("GET:/env", "env", json!({"output": "raw"}));
    let token = std::fs::read_to_string(instance.run_dir().join("operator.token")).unwrap();
    each(["1", "", &token[1..], &token.replace(char::is_numeric, "x")], |stranger| {
        assert_eq!(
            instance.request("GET", "/x", &[("X-Faas-Explain", stranger.trim())], b"").field("X-Faas-Explain"),
            None
        );
    });
    let environment = instance.request("GET", "/env", &[("X-Faas-Explain", token.trim())], b"").text();
    assert!(!environment.contains(token.trim()), "a function must not see it: {environment}");
    let answer = instance.request("GET", "/x", &[("X-Faas-Explain", token.trim())], b"");
    let why = answer.field("X-Faas-Explain").unwrap();
    let chosen = answer.field("X-Faas-Worker").unwrap();
    assert!(why.starts_with(&format!("chosen={chosen} why=\"lowest score")), "{why}");
    for id in [0, 1] {
        let part = why.split("; ").find(|part| part.starts_with(&format!("worker={id} "))).unwrap();
        each(["cpu=", "mem=", "io=", "score=", "in-flight="], |figure| assert!(part.contains(figure), "{why}"));
    }
    let timing = answer.field("Server-Timing").unwrap();
    each(["queue;dur=", "spawn;dur=", "exec;dur="], |step| assert!(timing.contains(step), "{timing}"));
    assert_eq!(instance.get("/x").field("X-Faas-Explain"), None);
}

#[test]
fn a_worker_that_is_started_by_hand_joins_and_leaves_without_a_request_lost() {
    let instance = Instance::start();
    instance.script("GET:/x", "echo x");
    let mut by_hand = start(instance.command(WORKER).stdin(Stdio::null()).stdout(Stdio::null()));
    let joined = wait_for("it has joined", || instance.worker(2));
    assert_eq!(joined["pid"], by_hand.id());
    wait_until("it gets work", || instance.get("/x").field("X-Faas-Worker") == Some("2"));
    std::thread::scope(|scope| {
        let clients = [(); 2].map(|()| scope.spawn(|| (0..40).map(|_| instance.get("/x").status).collect::<Vec<_>>()));
        signal("TERM", by_hand.id());
        for client in clients {
            assert_eq!(client.join().unwrap(), [200; 40]);
        }
    });
    assert_eq!(by_hand.wait().unwrap().code(), Some(0));
    wait_until("it has left", || instance.worker(2).is_none());
}

#[test]
fn a_worker_that_is_told_to_end_finishes_what_it_runs_and_gets_nothing_more() {
    let instance = Instance::start();
    let mut gate = instance.gate("gate");
    instance.script("GET:/wait", "read _ < \"$IT_FOLDER/gate\"\necho finished");
    instance.script("GET:/x", "echo x");
    std::thread::scope(|scope| {
        let request = scope.spawn(|| instance.get("/wait"));
        let busy = wait_for("it runs", || (0..2).find(|id| instance.worker(*id).unwrap()["in_flight"] == 1));
        let ending = instance.worker_pid(busy);
        signal("TERM", ending);
        wait_until("it offers no slots", || instance.worker(busy).unwrap()["slots"] == 0);
        for _ in 0..40 {
            let answer = instance.get("/x");
            assert_eq!((answer.status, answer.field("X-Faas-Worker")), (200, Some(&*(1 - busy).to_string())));
        }
        gate.write_all(b"\n").unwrap();
        assert_eq!(request.join().unwrap().text(), "finished\n");
        wait_until("another one has taken its place", || {
            instance.worker(busy).is_some_and(|worker| worker["pid"] != ending && worker["slots"] == 8)
        });
    });
}

#[test]
fn a_worker_that_falls_silent_is_avoided_and_then_killed_and_started_again() {
    let instance = Instance::start();
    instance.script("GET:/x", "echo x");
    let silent = instance.worker_pid(0);
    signal("STOP", silent);
    wait_until("its sample is stale", || instance.worker(0).is_none_or(|worker| worker["fresh"] == false));
    for _ in 0..20 {
        let answer = instance.get("/x");
        assert_eq!((answer.status, answer.field("X-Faas-Worker")), (200, Some("1")));
    }
    wait_until("another one has taken its place", || {
        instance.worker(0).is_some_and(|worker| worker["pid"] != silent && worker["fresh"] == true)
    });
    wait_until("it gets work", || instance.get("/x").field("X-Faas-Worker") == Some("0"));
    assert_eq!(instance.wait_for_log("worker 0: silent for", 1).len(), 1);
}

#[test]
fn memory_of_a_function_counts_as_its_workers() {
    let instance = Instance::start();
    let mut gate = instance.gate("gate");
    let before = figure(&instance.worker(0).unwrap(), "mem").max(figure(&instance.worker(1).unwrap(), "mem"));
    // tail keeps its whole input: 100 MB, a fifth of the amount that counts as full.
    let script = "{ head -c 100000000 /dev/zero; read _ < \"$IT_FOLDER/gate\"; } | tail -c 100000000 | wc -c";
    instance.script_with("GET:/large", script, json!({"memory": 512}));
    std::thread::scope(|scope| {
        let request = scope.spawn(|| instance.get("/large"));
        wait_until("it shows", || (0..2).any(|id| figure(&instance.worker(id).unwrap(), "mem") > before + 10.0));
        gate.write_all(b"\n").unwrap();
        assert_eq!(request.join().unwrap().text().trim(), "100000000");
    });
}
