//! The bounds of the queue of arrivals.

use serde_json::json;

use super::*;
use crate::registry::config_loader::{Places, parse};

fn functions(descriptors: impl Iterator<Item = serde_json::Value>) -> Vec<Arc<Function>> {
    let function = |text: serde_json::Value| parse("GET:/x", &text.to_string(), &Places::default(), Arc::default());
    descriptors.map(|descriptor| Arc::new(function(descriptor).unwrap())).collect()
}

#[test]
fn wasm_modules_wait_once_for_each_engine() {
    let (arrived, arrivals) = queue();
    arrived(&functions(
        [
            json!({"runtime": "wasm", "module": "/a.wasm"}),
            json!({"runtime": "wasm", "module": "/a.wasm", "timeout": 1}),
            json!({"runtime": "wasm", "module": "/a.wasm", "engine": "wasmer"}),
            json!({"runtime": "native", "module": "/b"}),
            json!({"runtime": "wasm", "module": "/c.wasm"}),
        ]
        .into_iter(),
    ));
    assert_eq!(arrivals.len(), 3);
}

#[test]
fn ten_thousand_rows_neither_block_nor_exceed_the_bound() {
    let (arrived, arrivals) = queue();
    let row = |number: usize| json!({"runtime": "wasm", "module": format!("/{number}.wasm")});
    let functions = functions((0..10_000).map(row));
    arrived(&functions);
    arrived(&functions);
    assert_eq!(arrivals.len(), QUEUE_MAX);
    drop(functions);
    assert!(arrivals.try_iter().all(|arrival| arrival.upgrade().is_none()), "the queue keeps no function in memory");
}
