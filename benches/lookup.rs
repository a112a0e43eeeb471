//! Route look-ups among 100,000 routes: by paths that the processor's caches hold, as under a load that has its favourites,
//! and by all paths in random order, which is as bad as it can get: then it is main memory that is measured.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use faas::registry::config_loader::{Function, Places, parse};
use faas::registry::kv::Kv;
use faas::registry::routes::{Found, Route, Routes};

use crate::table::{Outcome, Row, Samples, Unit, take_turns};

const ROUTES: usize = 100_000;
/// Every hundredth route is a prefix.
const PREFIX_EVERY: usize = 100;
/// The favourites.
const BUSY: usize = 1000;
const LOOKUPS: usize = 400_000;
const ROUNDS: usize = 7;
const GOAL_NS: f64 = 200.0;

pub fn measure() -> Outcome<Vec<Row>> {
    let functions: Vec<Arc<Function>> = (0..ROUTES).map(function).collect();
    let kv = Kv::new();
    let route = |function: &Arc<Function>| Arc::new(Route::new(&function.route, Ok(function.clone())).expect("sound"));
    kv.swap(Routes::new(functions.iter().map(route)), None);
    let bare: HashMap<String, Arc<Function>> = functions.into_iter().map(|each| (each.route.clone(), each)).collect();

    let exact: Vec<usize> = shuffled().filter(|n| n % PREFIX_EVERY != 0).collect();
    let paths: Vec<String> = exact.iter().map(|n| format!("/app/{n}/item")).collect();
    let keys: Vec<String> = exact.iter().map(|n| key(*n)).collect();
    let prefixed = shuffled().filter(|n| n % PREFIX_EVERY == 0).map(|n| format!("/app/{n}/tree/of/what/lies/below"));
    let prefixed: Vec<String> = prefixed.collect();
    let find = |path: &str| drop(std::hint::black_box(found(&kv, path)));
    let find_bare = |key: &str| drop(std::hint::black_box(bare.get(key).cloned()));

    let [busy, bare_busy, all, bare_all, prefix, busy_4, all_4] = take_turns(
        ROUNDS,
        [
            &mut || Ok(look_up(&paths[..BUSY], 1, find)),
            &mut || Ok(look_up(&keys[..BUSY], 1, find_bare)),
            &mut || Ok(look_up(&paths, 1, find)),
            &mut || Ok(look_up(&keys, 1, find_bare)),
            &mut || Ok(look_up(&prefixed, 1, find)),
            &mut || Ok(look_up(&paths[..BUSY], 4, find)),
            &mut || Ok(look_up(&paths, 4, find)),
        ],
    )?;
    let row = |what: &str, samples: &Samples| {
        let what = format!("route look-up among 100,000, {what}");
        Row::new(&what, "≤ 200 ns", samples.show(Unit::Nanoseconds), samples.median() <= GOAL_NS)
    };
    let floor = "a HashMap of std without a lock";
    Ok(vec![
        row("1,000 busy ones", &busy).beside(floor, &bare_busy, Unit::Nanoseconds, &busy.ratio_to(&bare_busy)),
        row("1,000 busy prefixes", &prefix),
        row("1,000 busy ones, 4 threads at once", &busy_4),
        row("all in random order", &all).beside(floor, &bare_all, Unit::Nanoseconds, &all.ratio_to(&bare_all)),
        row("all in random order, 4 threads at once", &all_4),
    ])
}

fn key(n: usize) -> String {
    if n.is_multiple_of(PREFIX_EVERY) { format!("GET:/app/{n}/tree/*") } else { format!("GET:/app/{n}/item") }
}

fn function(n: usize) -> Arc<Function> {
    let descriptor = r#"{"runtime":"php","module":"x.php"}"#;
    Arc::new(parse(&key(n), descriptor, &Places::default(), Arc::default()).expect("the row is sound"))
}

fn found(kv: &Kv, path: &str) -> Arc<Route> {
    match kv.find("GET", "localhost", path).0 {
        Found::Route { route, .. } if route.serves().is_ok() => route,
        other => panic!("{path} is registered, but: {other:?}"),
    }
}

/// 0 to ROUTES - 1, each once, in an order without a pattern that a processor could guess.
fn shuffled() -> impl Iterator<Item = usize> {
    (0..ROUTES).map(|n| (n * 61_803 + 7) % ROUTES)
}

/// Nanoseconds of one core that a look-up takes, with so many threads looking up at the same time.
fn look_up(keys: &[String], threads: usize, find: impl Fn(&str) + Copy + Send) -> f64 {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let from_here_on = keys.iter().cycle().skip(thread * keys.len() / threads);
            scope.spawn(move || from_here_on.take(LOOKUPS / threads).for_each(|key| find(key)));
        }
    });
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get()).min(threads);
    began.elapsed().as_secs_f64() * 1e9 * cores as f64 / LOOKUPS as f64
}
