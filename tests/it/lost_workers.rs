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

#[test]
fn workers_killed_at_any_moment_run_nothing_twice_and_what_had_not_begun_is_tried_again() {
    const ROUNDS: u64 = 30;
    let instance = Instance::with(&[("FAAS_WORKERS", "2"), ("FAAS_WORKER_SLOTS", "2")]);
    instance.script("POST:/run", "read id; echo \"$id\" >>\"$IT_FOLDER/runs\"; echo \"$id\"");
    let mut answers = Vec::new();
    for round in 0..ROUNDS {
        let killed = [0, 1].map(|id| instance.worker_pid(id));
        let is_back = |id: u32| instance.worker(id).is_some_and(|worker| worker["pid"] != killed[id as usize]);
        let victim = (round % 2) as usize;
        std::thread::scope(|scope| {
            let clients = [0, 1, 2].map(|client| {
                let id = 10 * round + client;
                let instance = &instance;
                scope.spawn(move || (id, instance.post("/run", format!("{id}\n"))))
            });
            // A little later each time, from before the first byte to after the last.
            std::thread::sleep(std::time::Duration::from_micros(200 * round));
            signal("KILL", killed[victim]);
            answers.extend(clients.map(|client| client.join().unwrap()));
        });
        wait_until("it is back", || is_back(victim as u32));
    }
    let runs = std::fs::read_to_string(instance.shared("runs")).unwrap();
    for (id, answer) in &answers {
        let count = runs.lines().filter(|line| *line == id.to_string()).count();
        match answer.status {
            200 => assert_eq!((count, answer.text()), (1, format!("{id}\n")), "{id}"),
            _ => {
                answer.problem(502, "worker-lost");
                assert!(count <= 1, "{id} ran twice");
            }
        }
    }
    assert!(answers.iter().filter(|(_, answer)| answer.status == 200).count() as u64 > ROUNDS);
}
