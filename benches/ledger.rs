//! The ledger's price: the same function by a gateway that records calls and by one that does not, in turns; and its
//! memory. And what it takes to read: `faas stats` of the last hour out of ten million calls.

use std::path::Path;
use std::time::{Duration, Instant};

use faas::ledger::reader::{Reader, now_ms};
use faas::procfs;
use rusqlite::Connection;

use crate::functions::{HELLO, compile};
use crate::instance::{Instance, native_row};
use crate::load::{Load, get};
use crate::table::{Outcome, Row, Samples, Unit, failed, take_turns};

const CONNECTIONS: usize = 4;
const WORKERS: u32 = 4;
const ROUNDS: usize = 15;
const TIME: Duration = Duration::from_millis(1000);
/// With the ledger ÷ without.
const GOAL: f64 = 0.97;
const MEMORY_GOAL_MB: f64 = 2.0;

/// Calls in the file that is read, of thirty days.
const CALLS: u64 = 10_000_000;
const DAYS: u64 = 30;
const STATS_GOAL_MS: f64 = 100.0;

pub fn measure() -> Outcome<Vec<Row>> {
    let folder = std::env::temp_dir().join(format!("faas-bench-ledger-{}", std::process::id()));
    let rows = compile(&folder, "hello", HELLO).and_then(|program| {
        let rows = [native_row("GET:/bench/hello", &program)];
        let on = Instance::start(WORKERS, &rows)?;
        let off = Instance::with(WORKERS, &rows, &[("FAAS_LEDGER", "")])?;
        let mut rows = vec![paired("native", &on, &off, "/bench/hello")?, paired("WASM", &on, &off, "/ping")?];
        rows.push(memory(&on, &off)?);
        Ok(rows)
    });
    let _ = std::fs::remove_dir_all(&folder);
    rows
}

fn paired(what: &str, on: &Instance, off: &Instance, path: &str) -> Outcome<Row> {
    let load = |instance: &Instance| Load {
        address: instance.address,
        request: get(path),
        status: 200,
        connections: CONNECTIONS,
    };
    let (with, without) = (load(on), load(off));
    let [with, without] = take_turns(ROUNDS, [&mut || with.per_s(TIME), &mut || without.per_s(TIME)])?;
    let ratio = with.ratio_to(&without);
    let what = format!("ledger, {what}, 4 connections, on ÷ off");
    let row = Row::new(&what, "≥ 0.97×", ratio.show(Unit::Times), ratio.median() >= GOAL);
    Ok(row.beside("without the ledger", &without, Unit::PerSecond, &ratio))
}

/// What the gateway with a ledger holds more than the other one, after as many calls.
fn memory(on: &Instance, off: &Instance) -> Outcome<Row> {
    let [on, off] = [on, off].map(|instance| procfs::proportional_bytes(instance.pid()));
    let (on, off) = on.zip(off).ok_or("the gateways' memory cannot be read")?;
    let mut more = Samples::default();
    more.push((on as f64 - off as f64) / 1e6);
    Ok(Row::new("ledger, memory", "≤ 2 MB", more.show(Unit::Megabytes), more.median() <= MEMORY_GOAL_MB))
}

/// The name of the next one on the command line.
pub const STATS: &str = "stats";

/// Minutes of work and three gigabytes: only where it is named on the command line.
pub fn stats() -> Outcome<Vec<Row>> {
    let folder = std::env::temp_dir().join(format!("faas-bench-stats-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(failed("make a folder"))?;
    let rows = read(&folder);
    let _ = std::fs::remove_dir_all(&folder);
    rows
}

fn read(folder: &Path) -> Outcome<Vec<Row>> {
    // An instance makes the file; the rows are added when it has ended.
    let path = folder.join("calls.db");
    let text = path.display().to_string();
    let instance = Instance::with(1, &[], &[("FAAS_LEDGER", &text), ("FAAS_LEDGER_MAX", "1000000000000")])?;
    drop(instance);
    fill(&path).map_err(failed("fill the ledger"))?;
    let mut times = Samples::default();
    for _ in 0..9 {
        let began = Instant::now();
        let reader = Reader::open(&path).map_err(failed("open the ledger"))?;
        let stats = reader.stats(now_ms() - 3_600_000, None).map_err(failed("read the ledger"))?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        if stats.len() < 20 {
            return Err(format!("{} routes were found in the last hour", stats.len()));
        }
    }
    let shown = times.show(Unit::Milliseconds);
    Ok(vec![Row::new(
        "faas stats of the last hour, 10 million calls in 30 days",
        "≤ 100 ms",
        shown,
        times.median() <= STATS_GOAL_MS,
    )])
}

/// Twenty functions, called in turns, evenly until now.
fn fill(path: &Path) -> rusqlite::Result<()> {
    let connection = Connection::open(path)?;
    connection.execute_batch("PRAGMA synchronous = OFF; DELETE FROM calls")?;
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
        INSERT INTO calls SELECT NULL, ?2 - (?1 - i) * ?3 / ?1, printf('%016x', i), 'GET:/function/' || (i % 20),
            'function-' || (i % 20), iif(i % 50, 200, 500), i % 4, 'forked', 0.1, 1.0 + i % 97, 0.9, 14000000, 'rusage', 0,
            123, '127.0.0.1', 7, iif(i % 50, NULL, 'it broke') FROM n";
    connection.execute(sql, (CALLS as i64, now_ms(), (DAYS * 86_400_000) as i64))?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}
