//! What it costs to watch the gateway, and to let it rest: the rate beside an open page of the console, the console's own
//! memory and processor time meanwhile, and the processor time of all processes when nobody calls.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use faas::procfs;
use serde_json::Value;

use crate::functions::{HELLO, compile};
use crate::instance::{Instance, native_row};
use crate::load::{Client, Load, get, post};
use crate::table::{Outcome, Row, Samples, Unit, failed, take_turns};

const CONNECTIONS: usize = 4;
const WORKERS: u32 = 4;
const ROUNDS: usize = 15;
const TIME: Duration = Duration::from_millis(1000);
/// Watched ÷ not watched.
const GOAL: f64 = 0.99;
const CONSOLE_GOAL_MB: f64 = 10.0;
/// Percent of one core.
const CONSOLE_GOAL_CPU: f64 = 1.0;
const REST_GOAL_CPU: f64 = 0.5;
/// What the page's script waits between two questions.
const PAGE_PERIOD: Duration = Duration::from_secs(1);
const REST: Duration = Duration::from_secs(20);
const CONSOLE: &[(&str, &str)] = &[("FAAS_CONSOLE", "127.0.0.1:0")];

pub fn measure() -> Outcome<Vec<Row>> {
    let folder = std::env::temp_dir().join(format!("faas-bench-watched-{}", std::process::id()));
    let rows = compile(&folder, "hello", HELLO).and_then(|program| {
        let rows = [native_row("GET:/bench/hello", &program)];
        compare(&Instance::with(WORKERS, &rows, CONSOLE)?, &Instance::start(WORKERS, &rows)?)
    });
    let _ = fs::remove_dir_all(&folder);
    rows
}

fn compare(watched: &Instance, plain: &Instance) -> Outcome<Vec<Row>> {
    let load = |instance: &Instance| Load {
        address: instance.address,
        request: get("/bench/hello"),
        status: 200,
        connections: CONNECTIONS,
    };
    let (on, off) = (load(watched), load(plain));
    let is_over = AtomicBool::new(false);
    let [on, off, cpu, memory] = std::thread::scope(|scope| {
        let page = scope.spawn(|| open_page(watched, &is_over));
        let console = console_pid(watched).ok_or("there is no console")?;
        let (cpu, memory) = (&mut Samples::default(), &mut Samples::default());
        let mut busy = || {
            let (began, before) = (Instant::now(), cpu_ns(console));
            let rate = on.per_s(TIME)?;
            cpu.push(percent(cpu_ns(console) - before, began.elapsed()));
            memory.push(procfs::proportional_bytes(console).unwrap_or(0) as f64 / 1e6);
            Ok(rate)
        };
        let rates = take_turns(ROUNDS, [&mut busy, &mut || off.per_s(TIME)]);
        is_over.store(true, Ordering::Relaxed);
        page.join().expect("the page's thread does not panic")?;
        let [on, off] = rates?;
        Ok::<_, String>([on, off, std::mem::take(cpu), std::mem::take(memory)])
    })?;
    let ratio = on.ratio_to(&off);
    let what = "native, 4 connections, watched by an open page ÷ without a console";
    let row = Row::new(what, "≥ 0.99×", ratio.show(Unit::Times), ratio.median() >= GOAL);
    let is_small = memory.median() <= CONSOLE_GOAL_MB;
    let is_calm = cpu.median() <= CONSOLE_GOAL_CPU;
    Ok(vec![
        row.beside("without a console", &off, Unit::PerSecond, &ratio),
        Row::new("the console meanwhile: memory", "≤ 10 MB", memory.show(Unit::Megabytes), is_small),
        Row::new("the console meanwhile: processor time", "≤ 1 % of a core", cpu.show(Unit::Percent), is_calm),
    ])
}

/// All processes of an instance with a console, some seconds after the last call of several functions.
pub fn at_rest() -> Outcome<Vec<Row>> {
    let instance = Instance::with(WORKERS, &[], CONSOLE)?;
    let mut client = Client::connect(instance.address)?;
    for _ in 0..20 {
        for request in [get("/ping"), get("/api/info"), post("/api/hello", br#"{"name":"Ada"}"#)] {
            let (status, _) = client.call(&request)?;
            if status != 200 {
                return Err(format!("a sample function answered {status}"));
            }
        }
    }
    std::thread::sleep(TIME);
    let mut cpu = Samples::default();
    for _ in 0..3 {
        let processes = instance.processes();
        let (began, before) = (Instant::now(), processes.iter().map(|pid| cpu_ns(*pid)).sum::<u64>());
        std::thread::sleep(REST);
        let after: u64 = processes.iter().map(|pid| cpu_ns(*pid)).sum();
        cpu.push(percent(after.saturating_sub(before), began.elapsed()));
    }
    let what = "processor time at rest, gateway, 4 workers, their fork servers and the console";
    let is_met = cpu.median() <= REST_GOAL_CPU;
    Ok(vec![Row::new(what, "≤ 0.5 % of a core", cpu.show(Unit::Percent), is_met)])
}

/// Asks what the page asks, as often, until it is over.
fn open_page(instance: &Instance, is_over: &AtomicBool) -> Outcome<()> {
    let file = |name: &str| fs::read_to_string(instance.run_dir().join(name)).map_err(failed("find the console"));
    let address: SocketAddr = file("console.address")?.trim().parse().map_err(failed("find the console"))?;
    let token = file("operator.token")?;
    let ask = |path: &str| -> Outcome<Value> {
        let mut stream = TcpStream::connect(address).map_err(failed("connect to the console"))?;
        let fields = format!("Host: localhost\r\nAuthorization: Bearer {}\r\nConnection: close", token.trim());
        let request = format!("GET {path} HTTP/1.1\r\n{fields}\r\n\r\n");
        stream.write_all(request.as_bytes()).map_err(failed("ask the console"))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(failed("ask the console"))?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("the console sent no head")?;
        match head.starts_with("HTTP/1.1 200") && !head.to_lowercase().contains("chunked") {
            true => serde_json::from_str(body).map_err(failed("read the console's answer")),
            false => Err(format!("the console answered {head}")),
        }
    };
    ask("/api/v1/functions")?;
    let mut path = "/api/v1/live".to_string();
    while !is_over.load(Ordering::Relaxed) {
        let live = ask(&path)?;
        path = format!("/api/v1/live?minute={}", live["minute"]);
        std::thread::sleep(PAGE_PERIOD);
    }
    Ok(())
}

fn console_pid(instance: &Instance) -> Option<i32> {
    let is_console = |pid: &i32| {
        let program = fs::read_link(format!("/proc/{pid}/exe"));
        program.is_ok_and(|program| program == Path::new(env!("CARGO_BIN_EXE_console")))
    };
    instance.processes().into_iter().find(is_console)
}

/// Nanoseconds that the threads of a process have run (first field of schedstat: Documentation/scheduler/sched-stats).
fn cpu_ns(pid: i32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let ns = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    threads.flatten().filter_map(ns).sum()
}

fn percent(ns: u64, time: Duration) -> f64 {
    ns as f64 / time.as_nanos() as f64 * 100.0
}
