//! Kills processes of the platform, repeatedly or all at once.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::ending::leftovers;
use crate::http::Answer;
use crate::instance::{Instance, need, signal, wait_until};

/// Seconds during which the test kills workers: FAAS_TEST_KILL_S, 30 for a thorough run.
fn kill_time() -> Duration {
    let seconds = std::env::var("FAAS_TEST_KILL_S").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

const KILL_PERIOD: Duration = Duration::from_millis(300);
const SLOTS: usize = 4;

#[test]
fn with_a_worker_killed_every_300_ms_no_answer_is_wrong_and_502_is_only_for_what_had_started_there() {
    let instance = Instance::with(&[("FAAS_WORKERS", "4"), ("FAAS_WORKER_SLOTS", &SLOTS.to_string())]);
    // Records each run, so that a call that ran twice shows.
    instance.script("POST:/echo", "read id; echo \"$id\" >>\"$IT_FOLDER/runs\"; echo \"$id\"; exec cat");
    let (done, next) = (AtomicBool::new(false), AtomicU64::new(0));
    let (answers, kills) = std::thread::scope(|scope| {
        let clients = [(); 6].map(|()| {
            scope.spawn(|| {
                let mut answers = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let id = next.fetch_add(1, Ordering::Relaxed);
                    // Every eighth body is too long for memory and travels as a file.
                    let length = if id % 8 == 0 { 30_000 } else { 20 };
                    let body = format!("{id}\n{}", format!("body of {id},").repeat(length));
                    answers.push((id, body.clone(), instance.post("/echo", body)));
                }
                answers
            })
        });
        let began = Instant::now();
        let mut kills = 0;
        while began.elapsed() < kill_time() {
            let due = began + KILL_PERIOD * (kills + 1);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if let Some(worker) = instance.worker(kills % 4) {
                signal("KILL", worker["pid"].as_u64().unwrap() as u32);
            }
            kills += 1;
        }
        done.store(true, Ordering::Relaxed);
        (clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>(), kills as usize)
    });

    let mut runs = HashMap::new();
    for id in fs::read_to_string(instance.shared("runs")).unwrap().lines() {
        *runs.entry(id.parse::<u64>().unwrap()).or_insert(0) += 1;
    }
    let mut lost = 0;
    for (id, body, answer) in &answers {
        let ran = runs.get(id).copied().unwrap_or(0);
        if answer.status == 200 {
            assert!(answer.text() == *body, "request {id} got another answer than its own");
            assert_eq!(ran, 1, "request {id}");
        } else {
            assert!(answer.problem(502, "worker-lost").contains("died"));
            assert!(ran <= 1, "request {id} was tried again though it had started");
            lost += 1;
        }
    }
    assert!(lost <= kills * SLOTS && lost < answers.len() / 2, "{lost} of {} are lost", answers.len());
    wait_until("all workers are back", || (0..4).all(|id| instance.worker(id).is_some()));
    wait_until("no function is left", || instance.functions().is_empty());
    assert_eq!(instance.post("/echo", "last\n").text(), "last\n");
}

#[test]
fn a_killed_gateway_takes_even_functions_along_that_want_to_stay_and_the_registry_is_whole() {
    need(&["cc"]);
    let mut instance = Instance::start();
    let program = instance.compile("hostile", include_str!("hostile.c"));
    instance.install(&[("POST:/hostile", json!({"runtime": "native", "module": program}))]);
    instance.script("GET:/sleep", "(setsid sh -c 'trap \"\" TERM HUP; sleep 1000 & wait' &)\nsleep 1000");
    for _ in 0..3 {
        let mut streams: Vec<_> = (0..6).map(|_| instance.connect()).collect();
        for (number, stream) in streams.iter_mut().enumerate() {
            let request = match number % 2 {
                0 => "GET /sleep HTTP/1.1\r\nHost: it\r\n\r\n",
                _ => "POST /hostile HTTP/1.1\r\nHost: it\r\nContent-Length: 16\r\n\r\nstay-on\nhold 10\n",
            };
            stream.get_mut().write_all(request.as_bytes()).unwrap();
        }
        wait_until("all run", || instance.functions().len() >= 12);
        signal("KILL", instance.gateway_pid());
        let killed = Instant::now();
        instance.wait();
        wait_until("workers and functions end", || instance.processes().is_empty());
        let took = killed.elapsed();
        assert!(took < Duration::from_secs(2), "they took {took:?}");
        for mut stream in streams {
            assert!(Answer::read(&mut stream, false).is_err());
        }
        assert!(leftovers(&instance).contains(&"gateway.pid".to_string()), "it had no time to clear up");
        let verdict: String = instance.registry().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(verdict, "ok");
        instance.launch();
        instance.wait_until_ready();
        assert_eq!(instance.post("/hostile", "socketpair\n").text(), "socketpair: ok\n");
    }
    assert_eq!(instance.stop().code(), Some(0));
    assert_eq!(leftovers(&instance), [] as [&str; 0]);
}
