//! Route look-ups among 100,000 routes, in random order, so that most of them miss the processor's caches.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use faas::gateway::config_loader::parse;
use faas::gateway::kv::{Found, Kv, Route, Routes};

use crate::table::{Outcome, Row, Samples, Unit, take_turns};

const ROUTES: usize = 100_000;
/// Every hundredth route is a prefix.
const PREFIX_EVERY: usize = 100;
const LOOKUPS: usize = 400_000;
const ROUNDS: usize = 7;
const GOAL_NS: f64 = 200.0;

pub fn measure() -> Outcome<Vec<Row>> {
    let kv = kv();
    let exact: Vec<String> = shuffled().filter(|n| n % PREFIX_EVERY != 0).map(|n| format!("/app/{n}/item")).collect();
    let prefix: Vec<String> =
        shuffled().filter(|n| n % PREFIX_EVERY == 0).map(|n| format!("/app/{n}/tree/of/what/lies/below")).collect();
    let [exact_1, prefix_1, exact_4, prefix_4] = take_turns(
        ROUNDS,
        [
            &mut || Ok(look_up(&kv, &exact, 1)),
            &mut || Ok(look_up(&kv, &prefix, 1)),
            &mut || Ok(look_up(&kv, &exact, 4)),
            &mut || Ok(look_up(&kv, &prefix, 4)),
        ],
    )?;
    let row = |what: &str, samples: &Samples| {
        let what = format!("route look-up among 100,000, {what}");
        Row::new(&what, "≤ 200 ns", samples.show(Unit::Nanoseconds), samples.median() <= GOAL_NS)
    };
    Ok(vec![
        row("exact", &exact_1),
        row("prefix", &prefix_1),
        row("exact, 4 threads at once", &exact_4),
        row("prefix, 4 threads at once", &prefix_4),
    ])
}

fn kv() -> Kv {
    let kv = Kv::new();
    let routes = (0..ROUTES).map(|n| {
        let key = if n % PREFIX_EVERY == 0 { format!("GET:/app/{n}/tree/*") } else { format!("GET:/app/{n}/item") };
        let function = parse(&key, r#"{"runtime":"php","module":"x.php"}"#, Path::new("/"), Arc::default());
        Arc::new(Route::new(&key, Ok(Arc::new(function.expect("the row is sound")))).expect("the key is sound"))
    });
    kv.swap(Routes::new(routes));
    kv
}

/// 0 to ROUTES - 1, each once, in an order without a pattern that a processor could guess.
fn shuffled() -> impl Iterator<Item = usize> {
    (0..ROUTES).map(|n| (n * 61_803 + 7) % ROUTES)
}

/// Nanoseconds of one core that a look-up takes, with so many threads looking up at the same time.
fn look_up(kv: &Kv, paths: &[String], threads: usize) -> f64 {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let from_here_on = paths.iter().cycle().skip(thread * paths.len() / threads);
                for path in from_here_on.take(LOOKUPS / threads) {
                    let found = kv.find("GET", path);
                    assert!(matches!(std::hint::black_box(&found), Found::Function { .. }));
                }
            });
        }
    });
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get()).min(threads);
    began.elapsed().as_secs_f64() * 1e9 * cores as f64 / LOOKUPS as f64
}
