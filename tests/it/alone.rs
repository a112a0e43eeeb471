//! Tests that take the whole machine, such as a fork bomb or ten times too many clients. They would starve other tests.
//! So they are a binary of their own, which cargo runs after the first one, and run one after the other.

mod hostile_functions;
mod hostile_modules;
// Both binaries share the harness, and neither uses all of it.
#[allow(dead_code)]
#[path = "../../src/cases.rs"]
mod cases;
#[allow(dead_code)]
mod http;
#[allow(dead_code)]
mod instance;
mod overload;
mod soak;

use std::sync::{Mutex, MutexGuard};

/// Each test holds this lock while it runs. A failed test does not hold up the others.
fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
