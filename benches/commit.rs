//! From a commit to service: how long after its transaction's COMMIT has returned a new route answers, with 10,000
//! routes and 1,000 modules of 20 KB in the registry and a light load on the gateway; and the same for one module of 50 MB.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::instance::{Instance, native_row};
use crate::load::{Client, get};
use crate::table::{Outcome, Row, Samples, failed};

const ROUTES: usize = 10_000;
const MODULES: usize = 1_000;
const MODULE_BYTES: usize = 20_000;
const LARGE_BYTES: usize = 50_000_000;
const COMMITS: usize = 200;
const LARGE_COMMITS: usize = 5;
/// Readings of the table by itself.
const READINGS: usize = 20;
/// Between a route's first answer and the next commit there is a pause of up to this.
const PAUSE_MAX_MS: u64 = 100;
/// The route is asked for this often, so a figure is up to this much too high.
const ASK_EVERY: Duration = Duration::from_millis(1);
const SERVICE_WAIT_MAX: Duration = Duration::from_secs(10);
/// The load beside it: a request each time this has passed.
const LOAD_EVERY: Duration = Duration::from_millis(5);
const GOAL_MS: f64 = 100.0;
const LARGE_GOAL_MS: f64 = 1_000.0;

pub fn measure() -> Outcome<Vec<Row>> {
    // A route answers 500 as soon as it is in service, since its module is missing or no program, and 404 before.
    let missing = Path::new("/nonexistent/module");
    let rows: Vec<_> = (0..ROUTES - MODULES).map(|n| native_row(&format!("GET:/table/{n}"), missing)).collect();
    let instance = Instance::start(4, &rows)?;
    let mut registry = instance.registry()?;
    let names: Vec<String> = (0..MODULES).map(|n| format!("module-{n}")).collect();
    deploy(&mut registry, &names, MODULE_BYTES)?;
    let mut client = Client::connect(instance.address)?;
    wait_for(&mut client, &names[MODULES - 1])?;
    let is_over = AtomicBool::new(false);
    let [waits, large] = std::thread::scope(|scope| {
        scope.spawn(|| light_load(&instance, &is_over));
        let measured = measure_commits(&mut registry, &mut client, COMMITS, MODULE_BYTES)
            .and_then(|waits| Ok([waits, measure_commits(&mut registry, &mut client, LARGE_COMMITS, LARGE_BYTES)?]));
        is_over.store(true, Ordering::Relaxed);
        measured
    })?;
    let reading = reading_ms(&registry)?;
    let goal = 50.0 + 3.0 * reading.median();
    let (median, p99) = (waits.median(), waits.percentile(99.0));
    let what = "commit to service, 10,000 routes, 1,000 modules of 20 KB";
    let goal_p99 = format!("≤ {goal:.0} ms: 50 ms + 3 × {:.0} ms, the time to read the table", reading.median());
    Ok(vec![
        Row::new(what, "≤ 100 ms", format!("{median:.0} ms ({COMMITS} commits)"), median <= GOAL_MS),
        Row::new(
            &format!("{what}, 99th percentile"),
            &goal_p99,
            format!("{p99:.0} ms (highest {:.0} ms)", waits.max()),
            p99 <= goal,
        ),
        Row::new(
            "commit to service, a module of 50 MB",
            "≤ 1000 ms",
            format!("{:.0} ms (highest {:.0} ms, {LARGE_COMMITS} commits)", large.median(), large.max()),
            large.max() <= LARGE_GOAL_MS,
        ),
    ])
}

/// Writes modules and a route for each in one transaction.
fn deploy(registry: &mut Connection, names: &[String], bytes: usize) -> Outcome<()> {
    let mut deploy = || {
        let transaction = registry.transaction()?;
        for name in names {
            let descriptor = serde_json::json!({"runtime": "native", "module": format!("db:{name}")});
            transaction.execute("INSERT INTO modules (name, code) VALUES (?1, randomblob(?2))", (name, bytes))?;
            let row = "INSERT INTO functions (k, v) VALUES (?1, ?2)";
            transaction.execute(row, (format!("GET:/{name}"), descriptor.to_string()))?;
        }
        transaction.commit()
    };
    deploy().map_err(failed("add modules to the registry"))
}

fn wait_for(client: &mut Client, name: &str) -> Outcome<()> {
    let (request, began) = (get(&format!("/{name}")), Instant::now());
    while client.call(&request)?.0 == 404 {
        if began.elapsed() > SERVICE_WAIT_MAX {
            return Err("a new route was not in service in time".into());
        }
        std::thread::sleep(ASK_EVERY);
    }
    Ok(())
}

/// Milliseconds that a program needs to read all rows.
fn reading_ms(registry: &Connection) -> Outcome<Samples> {
    let mut samples = Samples::default();
    for _ in 0..READINGS {
        let began = Instant::now();
        let read = || -> rusqlite::Result<usize> {
            let mut select = registry.prepare("SELECT k, v FROM functions")?;
            let mut rows = select.query([])?;
            let mut bytes = 0;
            while let Some(row) = rows.next()? {
                bytes += row.get::<_, String>(0)?.len() + row.get::<_, String>(1)?.len();
            }
            Ok(bytes)
        };
        std::hint::black_box(read().map_err(failed("read the table"))?);
        samples.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(samples)
}

fn measure_commits(registry: &mut Connection, client: &mut Client, commits: usize, bytes: usize) -> Outcome<Samples> {
    let mut waits = Samples::default();
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for number in 0..commits {
        let name = format!("new-{bytes}-{number}");
        deploy(registry, std::slice::from_ref(&name), bytes)?;
        let committed = Instant::now();
        wait_for(client, &name)?;
        waits.push(committed.elapsed().as_secs_f64() * 1e3);
        // xorshift: enough not to fall into step with the gateway's period.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(Duration::from_millis(random % PAUSE_MAX_MS));
    }
    Ok(waits)
}

/// Calls an existing route, until it is over.
fn light_load(instance: &Instance, is_over: &AtomicBool) {
    let Ok(mut client) = Client::connect(instance.address) else { return };
    while !is_over.load(Ordering::Relaxed) {
        if client.call(&get("/table/7")).is_err() {
            return;
        }
        std::thread::sleep(LOAD_EVERY);
    }
}
