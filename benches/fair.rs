//! What a sleeping function with a hundred callers does to another one with a single caller: that one's 99th percentile,
//! alone and beside it, in turns.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::functions::{HELLO, compile};
use crate::instance::{Instance, native_row};
use crate::load::{Load, get};
use crate::table::{Outcome, Row, Samples, Unit};

const WORKERS: u32 = 4;
const CALLERS: usize = 100;
const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_secs(2);
/// Beside the sleeping function ÷ alone.
const GOAL: f64 = 2.0;

/// Sleeps 200 ms, and takes no processor time for it.
const SLEEP: &str = r#"
#include <stdio.h>
#include <unistd.h>
int main(void) { usleep(200000); puts("slept"); return 0; }
"#;

pub fn measure() -> Outcome<Vec<Row>> {
    let folder = std::env::temp_dir().join(format!("faas-bench-fair-{}", std::process::id()));
    let rows = compile(&folder, "hello", HELLO).and_then(|hello| {
        let sleep = compile(&folder, "sleep", SLEEP)?;
        compare(&Instance::start(WORKERS, &[native_row("GET:/hello", &hello), native_row("GET:/sleep", &sleep)])?)
    });
    let _ = std::fs::remove_dir_all(&folder);
    rows
}

fn compare(instance: &Instance) -> Outcome<Vec<Row>> {
    let load = |path, connections| Load { address: instance.address, request: get(path), status: 200, connections };
    let (single, sleepers) = (load("/hello", 1), load("/sleep", CALLERS));
    let p99_ms = || Ok::<_, String>(single.run(TIME)?.latency_us.percentile(99.0) / 1000.0);
    let (mut alone, mut beside) = (Samples::default(), Samples::default());
    for _ in 0..ROUNDS {
        alone.push(p99_ms()?);
        let is_over = AtomicBool::new(false);
        let (slept, p99) = std::thread::scope(|scope| {
            let sleeping = scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    sleepers.run(Duration::from_millis(500))?;
                }
                Ok::<_, String>(())
            });
            // Until all callers have come.
            let p99 = single.run(Duration::from_millis(500)).and_then(|_| p99_ms());
            is_over.store(true, Ordering::Relaxed);
            (sleeping.join().expect("a client's thread does not panic"), p99)
        });
        slept?;
        beside.push(p99?);
    }
    let ratio = beside.ratio_to(&alone);
    let shown = beside.show(Unit::Milliseconds);
    let row =
        Row::new("p99 of one caller beside 100 of a sleeping function", "≤ 2× alone", shown, ratio.median() <= GOAL);
    Ok(vec![row.beside("alone", &alone, Unit::Milliseconds, &ratio)])
}
