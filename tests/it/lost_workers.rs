//! Workers that die: the clients of their invocations get an error, and other clients notice nothing.

use serde_json::json;

use crate::instance::{Instance, signal, wait_until};

#[test]
fn what_runs_on_a_killed_worker_answers_502_and_its_processes_are_gone() {
    let instance = Instance::start();
    instance.script(
        "GET:/sleep",
        "setsid sleep 1000 &\necho run >>\"$IT_FOLDER/runs\"\ntouch \"$IT_FOLDER/started\"\nsleep 1000",
    );
    // The gateway must tell these calls from calls that never started, on the same connections.
    instance.install(&[("GET:/missing", json!({"runtime": "native", "module": "/nonexistent"}))]);
    for _ in 0..4 {
        assert_eq!(instance.get("/missing").status, 500);
    }
    std::thread::scope(|scope| {
        let request = scope.spawn(|| instance.get("/sleep"));
        wait_until("it runs", || instance.shared("started").exists());
        let id = (0..2).find(|id| instance.worker(*id).unwrap()["in_flight"] == 1).unwrap();
        signal("KILL", instance.worker_pid(id));
        assert!(request.join().unwrap().problem(502, "worker-lost").contains(&format!("worker {id} died")));
    });
    assert_eq!(std::fs::read_to_string(instance.shared("runs")).unwrap(), "run\n", "it has run once");
    wait_until("its processes are gone", || instance.functions().is_empty());
}

#[test]
fn a_request_whose_worker_dies_before_it_has_started_runs_on_another_one() {
    let instance = Instance::start();
    instance.script("POST:/work", "echo run >>\"$IT_FOLDER/runs\"\ncat");
    // A stopped worker takes requests and starts none.
    let standing = instance.worker_pid(0);
    signal("STOP", standing);
    std::thread::scope(|scope| {
        let mut requests = Vec::new();
        wait_until("it has a request", || {
            requests.push(scope.spawn(|| instance.post("/work", "body")));
            instance.worker(0).is_some_and(|worker| worker["in_flight"].as_u64() >= Some(1))
        });
        signal("KILL", standing);
        let count = requests.len();
        for request in requests {
            let answer = request.join().unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "body"));
            assert!(answer.field("X-Faas-Worker").is_some());
        }
        let runs = std::fs::read_to_string(instance.shared("runs")).unwrap();
        assert_eq!(runs.lines().count(), count, "each has run once");
    });
    instance.wait_for_log("trying another", 1);
}

#[test]
fn without_any_worker_healthz_says_so_and_requests_wait_for_the_next_one() {
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    instance.script("GET:/x", "echo x");
    for _ in 0..3 {
        let killed = instance.worker_pid(0);
        signal("KILL", killed);
        assert_eq!(instance.get("/x").status, 200);
        wait_until("it is back", || instance.worker(0).is_some_and(|worker| worker["pid"] != killed));
    }
}
