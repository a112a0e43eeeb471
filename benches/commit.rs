//! From a commit to service: how long after its transaction's COMMIT has returned a new route answers, with 10,000
//! routes in the table and a light load on the gateway.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::instance::{Instance, insert, native_row};
use crate::load::{Client, get};
use crate::table::{Outcome, Row, Samples};

const ROUTES: usize = 10_000;
const COMMITS: usize = 200;
/// Between a route's first answer and the next commit there is a pause of up to this.
const PAUSE_MAX_MS: u64 = 100;
/// The route is asked for this often, so a figure is up to this much too high.
const ASK_EVERY: Duration = Duration::from_millis(1);
const SERVICE_WAIT_MAX: Duration = Duration::from_secs(10);
/// The load beside it: a request each time this has passed.
const LOAD_EVERY: Duration = Duration::from_millis(5);
const GOAL_MS: f64 = 100.0;

pub fn measure() -> Outcome<Vec<Row>> {
    // A route answers 500 as soon as it is in service, since its module is missing, and 404 before.
    let missing = Path::new("/nonexistent/module");
    let rows: Vec<_> = (0..ROUTES).map(|n| native_row(&format!("GET:/table/{n}"), missing)).collect();
    let instance = Instance::start(4, &rows)?;
    let mut registry = instance.registry()?;
    let mut client = Client::connect(instance.address)?;
    let is_over = AtomicBool::new(false);
    let waits = std::thread::scope(|scope| {
        scope.spawn(|| light_load(&instance, &is_over));
        let measured = measure_commits(&mut registry, &mut client);
        is_over.store(true, Ordering::Relaxed);
        measured
    })?;
    let p99 = waits.percentile(99.0);
    let shown =
        format!("{p99:.0} ms (median {:.0} ms, highest {:.0} ms, {COMMITS} commits)", waits.median(), waits.max());
    Ok(vec![Row::new("commit to service, 10,000 routes, 99th percentile", "≤ 100 ms", shown, p99 <= GOAL_MS)])
}

fn measure_commits(registry: &mut rusqlite::Connection, client: &mut Client) -> Outcome<Samples> {
    let mut waits = Samples::default();
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for number in 0..COMMITS {
        let path = format!("/new/{number}");
        let row = native_row(&format!("GET:{path}"), Path::new("/nonexistent/module"));
        let request = get(&path);
        insert(registry, &[row])?;
        let committed = Instant::now();
        while client.call(&request)?.0 == 404 {
            if committed.elapsed() > SERVICE_WAIT_MAX {
                return Err("a new route was not in service in time".into());
            }
            std::thread::sleep(ASK_EVERY);
        }
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
