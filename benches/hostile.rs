//! Normal requests beside clients that mean harm, and beside ten times too many that mean none.
//!
//! Slow clients: 1,000 that dribble a request head, byte by byte, 1,000 that are connected and say nothing, and 200 that read
//! an answer of 10 MB one byte a second. Each round measures the same few clients without them and with them.
//!
//! Overload: 320 clients on a function that sleeps 50 ms, with 32 slots, between two measurements with 32 clients, who just
//! fill the slots. For 10 s, or as long as FAAS_BENCH_OVERLOAD_S says.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use faas::sys::raise_open_files_limit;

use crate::functions::compile;
use crate::instance::{Instance, native_row};
use crate::load::{Load, get};
use crate::table::{Outcome, Row, Samples, Unit, failed, take_turns};

const DRIBBLING: usize = 1000;
const IDLE: usize = 1000;
const READING: usize = 200;
/// Every slow client does something once in a second; they take their turns evenly over it.
const TURNS_PER_S: usize = 50;

const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_millis(2000);
const NORMAL_CONNECTIONS: usize = 2;

const FULL: usize = 32;
const TOO_MANY: usize = 320;
/// FAAS_QUEUE_TIMEOUT_MS and a second.
const REFUSED_WITHIN: Duration = Duration::from_secs(6);
/// Bound on the gateway's growth under ten times too many clients: a thread and a request for each.
const GROWTH_MAX_BYTES: u64 = 48 << 20;

pub fn slow_clients() -> Outcome<Vec<Row>> {
    raise_open_files_limit().map_err(failed("raise the limit of open files"))?;
    with_programs(|folder| {
        let large = native_row("GET:/bench/large", &compile(folder, "large", LARGE)?);
        let hello = native_row("GET:/bench/hello", &compile(folder, "hello", HELLO)?);
        let instance = Instance::start(4, &[large, hello])?;
        let path = p99_with_and_without(&instance, "/no/such/route", 404)?;
        let function = p99_with_and_without(&instance, "/bench/hello", 200)?;
        Ok(vec![row("404 path", path), row("native function", function)])
    })
}

fn p99_with_and_without(instance: &Instance, path: &str, status: u16) -> Outcome<[Samples; 2]> {
    let load = Load { address: instance.address, request: get(path), status, connections: NORMAL_CONNECTIONS };
    let p99 = || Ok(load.run(TIME)?.latency_us.percentile(99.0));
    take_turns(
        ROUNDS,
        [&mut || p99(), &mut || {
            let slow = SlowClients::connect(instance.address)?;
            slow.beside(p99)
        }],
    )
}

fn row(what: &str, [calm, disturbed]: [Samples; 2]) -> Row {
    let goal_us = (2.0 * calm.median()).max(calm.median() + 5000.0);
    let is_met = disturbed.median() <= goal_us;
    let what = format!("{what}, 99th percentile beside 2,200 slow clients");
    let in_ms = |samples: &Samples| samples.scaled(1e-3);
    let shown = in_ms(&disturbed).show(Unit::Milliseconds);
    Row::new(&what, "≤ 2×, or + 5 ms", shown, is_met).beside(
        "without them",
        &in_ms(&calm),
        Unit::Milliseconds,
        &disturbed.ratio_to(&calm),
    )
}

/// They go away when this is dropped.
struct SlowClients {
    address: SocketAddr,
    dribbling: Vec<TcpStream>,
    _idle: Vec<TcpStream>,
    reading: Vec<TcpStream>,
}

impl SlowClients {
    /// Returns when all are connected, and the readers' answers on their way.
    fn connect(address: SocketAddr) -> Outcome<SlowClients> {
        let connect_all = |count: usize| (0..count).map(|_| connect(address)).collect::<Outcome<Vec<_>>>();
        let mut slow = SlowClients {
            address,
            dribbling: connect_all(DRIBBLING)?,
            _idle: connect_all(IDLE)?,
            reading: connect_all(READING)?,
        };
        for stream in &mut slow.reading {
            stream.write_all(&get("/bench/large")).map_err(failed("send a request"))?;
        }
        for stream in &mut slow.reading {
            stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(failed("connect"))?;
            let mut head = [0; 12];
            stream.read_exact(&mut head).map_err(failed("receive an answer"))?;
            if !head.ends_with(b"200") {
                return Err(format!("a large answer began with {}", String::from_utf8_lossy(&head)));
            }
        }
        for stream in slow.dribbling.iter_mut().chain(&mut slow.reading) {
            stream.set_nonblocking(true).map_err(failed("connect"))?;
        }
        Ok(slow)
    }

    /// Measures something while they do what they do.
    fn beside(mut self, measure: impl FnOnce() -> Outcome<f64>) -> Outcome<f64> {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let turns = (0..TURNS_PER_S).cycle();
                for turn in turns.take_while(|_| !is_over.load(Ordering::Relaxed)) {
                    self.take_turn(turn);
                    std::thread::sleep(Duration::from_secs(1) / TURNS_PER_S as u32);
                }
            });
            let measured = measure();
            is_over.store(true, Ordering::Relaxed);
            measured
        })
    }

    fn take_turn(&mut self, turn: usize) {
        for stream in self.dribbling.iter_mut().skip(turn).step_by(TURNS_PER_S) {
            // One that has had its 408 is replaced.
            let has_ended = stream.peek(&mut [0]).map_or_else(|error| error.kind() != ErrorKind::WouldBlock, |_| true);
            if (has_ended || stream.write_all(b"G").is_err())
                && let Ok(new) = connect(self.address)
                && new.set_nonblocking(true).is_ok()
            {
                *stream = new;
            }
        }
        for stream in self.reading.iter_mut().skip(turn).step_by(TURNS_PER_S) {
            let _ = stream.read(&mut [0]);
        }
    }
}

fn connect(address: SocketAddr) -> Outcome<TcpStream> {
    TcpStream::connect(address).map_err(failed("connect"))
}

pub fn overload() -> Outcome<Vec<Row>> {
    let seconds = std::env::var("FAAS_BENCH_OVERLOAD_S").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let time = Duration::from_secs(seconds);
    with_programs(|folder| {
        let sleep = native_row("GET:/bench/sleep", &compile(folder, "sleep", SLEEP)?);
        let instance = Instance::start(4, &[sleep])?;
        let before_per_s = crowd(instance.address, FULL, time / 2)?.good_per_s;
        let bytes_before = resident_bytes(instance.pid())?;
        let crowd_of_all = crowd(instance.address, TOO_MANY, time)?;
        let grown = resident_bytes(instance.pid())?.saturating_sub(bytes_before);
        let calm_after = time_until_calm(&instance)?;
        let after_per_s = crowd(instance.address, FULL, time / 2)?.good_per_s;
        Ok(rows(&crowd_of_all, (before_per_s + after_per_s) / 2.0, grown, calm_after, time))
    })
}

fn rows(crowd: &Crowd, full_per_s: f64, grown: u64, calm_after: Duration, time: Duration) -> Vec<Row> {
    let (good, full) = (Samples::from(vec![crowd.good_per_s]), Samples::from(vec![full_per_s]));
    let what = format!("{TOO_MANY} clients, {FULL} slots, {} s: good answers", time.as_secs());
    let is_met = crowd.good_per_s >= 0.9 * full_per_s && crowd.bad == 0;
    let good_row = Row::new(&what, "≥ 90 % of what 32 clients get", good.show(Unit::PerSecond), is_met);
    let refused = Samples::from(vec![crowd.refused_ms_max]);
    let shown = format!("{}; {} refused", refused.show(Unit::Milliseconds), crowd.refused);
    let refused_met = crowd.refused_ms_max <= REFUSED_WITHIN.as_secs_f64() * 1000.0 && crowd.bad == 0;
    let grown_by = Samples::from(vec![grown as f64 / 1e6]);
    let calm = Samples::from(vec![calm_after.as_secs_f64() * 1000.0]);
    vec![
        good_row.beside("32 clients", &full, Unit::PerSecond, &good.ratio_to(&full)),
        Row::new("the others: 503 with Retry-After, the slowest", "≤ 6 s", shown, refused_met),
        Row::new(
            "the gateway's growth meanwhile",
            "≤ 48 MiB",
            grown_by.show(Unit::Megabytes),
            grown <= GROWTH_MAX_BYTES,
        ),
        Row::new(
            "until nothing waits or runs any more",
            "≤ 1 s",
            calm.show(Unit::Milliseconds),
            calm_after <= Duration::from_secs(1),
        ),
    ]
}

/// Results of clients in a closed loop: each sends again as soon as it has its answer.
struct Crowd {
    good_per_s: f64,
    refused: usize,
    refused_ms_max: f64,
    /// Answers that are neither, or a 503 without Retry-After.
    bad: usize,
}

fn crowd(address: SocketAddr, clients: usize, time: Duration) -> Outcome<Crowd> {
    let [good, refused, refused_us_max, bad] = [const { AtomicUsize::new(0) }; 4];
    let until = Instant::now() + time;
    let client = || -> Outcome<()> {
        let mut stream = connect(address)?;
        stream.set_nodelay(true).map_err(failed("connect"))?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(failed("connect"))?;
        let request = get("/bench/sleep");
        while Instant::now() < until {
            let sent_at = Instant::now();
            stream.write_all(&request).map_err(failed("send a request"))?;
            let head = receive(&mut stream)?;
            let is_refusal = head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nRetry-After: ");
            if is_refusal {
                refused.fetch_add(1, Ordering::Relaxed);
                refused_us_max.fetch_max(sent_at.elapsed().as_micros() as usize, Ordering::Relaxed);
            } else if head.starts_with("HTTP/1.1 200 ") {
                good.fetch_add(1, Ordering::Relaxed);
            } else {
                bad.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a client's thread does not panic"))
    })?;
    Ok(Crowd {
        good_per_s: good.into_inner() as f64 / time.as_secs_f64(),
        refused: refused.into_inner(),
        refused_ms_max: refused_us_max.into_inner() as f64 / 1000.0,
        bad: bad.into_inner(),
    })
}

/// Reads one short answer with a Content-Length; returns its head.
fn receive(stream: &mut TcpStream) -> Outcome<String> {
    let mut bytes = Vec::with_capacity(1024);
    let mut piece = [0; 1024];
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("Content-Length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
            let length: usize = length.ok_or("an answer has no Content-Length")?;
            if body.len() >= length {
                return Ok(head.to_string());
            }
        }
        match stream.read(&mut piece).map_err(failed("receive an answer"))? {
            0 => return Err("the connection was closed before the answer had come".into()),
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

/// From now until no request waits and no slot is taken.
fn time_until_calm(instance: &Instance) -> Outcome<Duration> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(30) {
        let status = instance.status().ok_or("the gateway does not say how it is")?;
        let workers = status["workers"].as_array().ok_or("the gateway names no workers")?;
        if status["waiting"] == 0 && workers.iter().all(|worker| worker["in_flight"] == 0) {
            return Ok(began.elapsed());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err("the gateway did not come to rest".into())
}

/// Memory of its own that the process has in RAM.
fn resident_bytes(pid: i32) -> Outcome<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(failed("read the gateway's status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    let kib: Option<u64> = line.trim().strip_suffix("kB").and_then(|kib| kib.trim().parse().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| "the kernel does not tell RssAnon".into())
}

fn with_programs(measure: impl FnOnce(&Path) -> Outcome<Vec<Row>>) -> Outcome<Vec<Row>> {
    let folder = std::env::temp_dir().join(format!("faas-bench-hostile-{}", std::process::id()));
    let rows = measure(&folder);
    let _ = std::fs::remove_dir_all(&folder);
    rows
}

const HELLO: &str = r#"
#include <unistd.h>
int main(void) { return write(1, "hello\n", 6) < 0; }
"#;

const SLEEP: &str = r#"
#include <unistd.h>
int main(void) { usleep(50000); return write(1, "slept\n", 6) < 0; }
"#;

/// 10 MB.
const LARGE: &str = r#"
#include <unistd.h>
int main(void) {
    static char buffer[50000];
    for (int i = 0; i < 200; i++)
        for (unsigned long sent = 0; sent < sizeof buffer;) {
            long count = write(1, buffer + sent, sizeof buffer - sent);
            if (count < 0) return 1;
            sent += count;
        }
    return 0;
}
"#;
