//! Tests of the pauses between two starts of a program.

use super::*;

/// The pauses in ms after each of `count` ends of a child that had lived for `lived`.
fn pauses(child: &mut Child, count: usize, has_announced: bool, lived: Duration) -> Vec<u128> {
    let mut after_end = || {
        child.has_announced = has_announced;
        child.started_at = Instant::now() - lived;
        child.pause_after_end();
        child.pause.as_millis()
    };
    (0..count).map(|_| after_end()).collect()
}

#[test]
fn worker_that_had_announced_itself_starts_at_once() {
    let mut worker = Child::new(Role::Worker { id: 0 });
    assert_eq!(pauses(&mut worker, 20, true, Duration::ZERO), [0; 20]);
    assert_eq!(pauses(&mut worker, 8, false, Duration::ZERO), [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    assert_eq!(pauses(&mut worker, 1, true, Duration::ZERO), [0]);
}

#[test]
fn console_pauses_from_its_fifth_end_in_a_minute() {
    let mut console = Child::new(Role::Console);
    let expected = [0, 0, 0, 0, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000];
    assert_eq!(pauses(&mut console, 12, true, Duration::ZERO), expected);
    // The pauses make the ends rarer than five in a minute; that alone does not end them.
    console.ends.clear();
    assert_eq!(pauses(&mut console, 1, true, Duration::from_secs(59)), [60_000]);
    console.ends.clear();
    assert_eq!(pauses(&mut console, 1, true, Duration::from_secs(60)), [0]);
}

#[test]
fn console_that_never_serves_pauses_at_once() {
    let mut console = Child::new(Role::Console);
    assert_eq!(pauses(&mut console, 3, false, Duration::ZERO), [1000, 2000, 4000]);
}
