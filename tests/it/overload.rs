//! Too many requests: the platform bounds them everywhere, rejects the excess with the right status, and keeps no trace
//! of it. A benchmark measures the rate of good responses meanwhile (benches/hostile.rs).

use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::http::Answer;
use crate::instance::{Instance, wait_until};

fn memory_kib(instance: &Instance) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", instance.gateway_pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn assert_retry_after(answer: &Answer) {
    let seconds: u64 = answer.field("Retry-After").expect("an answer that says when to come back").parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
}

/// Waits until no call runs and none waits.
fn wait_until_calm(instance: &Instance) {
    wait_until("nothing runs or waits", || {
        let status = instance.status();
        let workers = status["workers"].as_array().unwrap();
        status["waiting"] == 0 && workers.iter().all(|worker| worker["in_flight"] == 0)
    });
}

#[test]
fn of_ten_times_too_many_clients_each_is_served_or_told_when_to_come_back() {
    let _alone = crate::alone();
    const CLIENTS: usize = 80;
    const GOOD_WANTED: usize = 400;
    let settings = [("FAAS_WORKER_SLOTS", "4"), ("FAAS_QUEUE_MAX", "16"), ("FAAS_QUEUE_TIMEOUT_MS", "1000")];
    let instance = Instance::with(&settings);
    instance.script("GET:/sleep", "sleep 0.05\necho done");
    let before = memory_kib(&instance);
    let (good, refused, refused_ms_max) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let client = || {
        let mut stream = instance.connect();
        while good.load(Ordering::Relaxed) < GOOD_WANTED {
            let began = Instant::now();
            stream.get_mut().write_all(b"GET /sleep HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            let answer = Answer::read(&mut stream, false).unwrap();
            match answer.status {
                200 => {
                    assert_eq!(answer.text(), "done\n");
                    good.fetch_add(1, Ordering::Relaxed);
                }
                503 => {
                    assert_retry_after(&answer);
                    refused_ms_max.fetch_max(began.elapsed().as_millis() as usize, Ordering::Relaxed);
                    refused.fetch_add(1, Ordering::Relaxed);
                    // Comes back like an impatient client, but not at once.
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => panic!("{answer:?}"),
            }
        }
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        while !clients.iter().all(|client| client.is_finished()) {
            let status = instance.status();
            assert!(status["waiting"].as_u64().unwrap() <= 16, "{status}");
            for worker in status["workers"].as_array().unwrap() {
                assert!(worker["in_flight"].as_u64().unwrap() <= 4, "{status}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    assert!(refused.into_inner() > 0, "eighty clients had room");
    let refused_ms_max = refused_ms_max.into_inner();
    assert!(refused_ms_max < 2000, "one waited {refused_ms_max} ms to be refused, of 1000 that were allowed");
    let grown = memory_kib(&instance).saturating_sub(before);
    assert!(grown < 24 * 1024, "it grew by {grown} KiB");
    wait_until_calm(&instance);
    assert_eq!(instance.get("/sleep").status, 200);
}

#[test]
fn calls_beyond_what_the_gateway_carries_are_503_and_it_carries_on() {
    let _alone = crate::alone();
    let settings = [
        ("FAAS_WORKERS", "1"),
        ("FAAS_WORKER_SLOTS", "1"),
        ("FAAS_QUEUE_MAX", "512"),
        ("FAAS_QUEUE_TIMEOUT_MS", "600000"),
    ];
    let instance = Instance::with(&settings);
    let mut gate = instance.gate("gate");
    instance.script("GET:/wait", "touch \"$IT_FOLDER/started\"\nread _ <\"$IT_FOLDER/gate\"\necho through");
    instance.script("GET:/quick", "echo quick");
    let max = faas::limits::CALLS_MAX;
    let ask = |path: &str| {
        let mut stream = instance.connect();
        stream.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).unwrap();
        stream
    };
    let mut first = ask("/wait");
    wait_until("it has started", || instance.shared("started").exists());
    let mut others: Vec<_> = (1..max).map(|_| ask("/wait")).collect();
    wait_until("all others wait", || instance.status()["waiting"] == max - 1);
    // A rejected client may use its connection again, and does so once a place is free.
    let mut late = ask("/quick");
    let refusal = Answer::read(&mut late, false).unwrap();
    refusal.problem(503, "too-many-calls");
    assert_retry_after(&refusal);
    assert_eq!(refusal.field("Connection"), None);
    // What calls no function needs no place.
    instance.get("/no/such/route").problem(404, "no-route");
    assert_eq!(instance.get("/healthz").status, 200);
    gate.write_all(b"\n").unwrap();
    assert_eq!(Answer::read(&mut first, false).unwrap().text(), "through\n");
    // All waiting clients leave, and no trace of them stays.
    others.drain(..).for_each(drop);
    wait_until_calm(&instance);
    late.get_mut().write_all(b"GET /quick HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(Answer::read(&mut late, false).unwrap().text(), "quick\n");
}

#[test]
fn who_is_told_to_come_back_later_and_comes_at_once_waits_a_moment_and_others_do_not() {
    let _alone = crate::alone();
    let settings = [("FAAS_WORKERS", "1"), ("FAAS_WORKER_SLOTS", "1"), ("FAAS_QUEUE_MAX", "0")];
    let instance = Instance::with(&settings);
    let mut gate = instance.gate("gate");
    instance.script("GET:/wait", "touch \"$IT_FOLDER/started\"\nread _ <\"$IT_FOLDER/gate\"\necho through");
    let request = b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut first = instance.connect();
    first.get_mut().write_all(request).unwrap();
    wait_until("it has started", || instance.shared("started").exists());
    let mut impatient = instance.connect();
    let began = Instant::now();
    impatient.get_mut().write_all(&request.repeat(4)).unwrap();
    for number in 0..4 {
        Answer::read(&mut impatient, false).unwrap().problem(503, "queue-full");
        assert!(began.elapsed() >= number * faas::limits::RETRY_PAUSE, "answer {number} came too soon");
    }
    gate.write_all(b"\n").unwrap();
    assert_eq!(Answer::read(&mut first, false).unwrap().text(), "through\n");
}
