//! Tests that take the whole machine, such as a fork bomb or ten times too many clients. They would starve others, so they
//! are a binary of their own, which cargo runs after the first one, and run one after the other.

mod hostile_functions;
// They share the harness, and none of the two binaries uses all of it.
#[allow(dead_code)]
mod http;
#[allow(dead_code)]
mod instance;
mod overload;

use std::sync::{Mutex, MutexGuard};

/// Held by each test as long as it runs. One that failed holds up no other.
fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
