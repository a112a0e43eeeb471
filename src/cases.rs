//! Tables of cases, for tests: a table runs to its end, and its failure names all cases that failed.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A case may hold a long body.
const NAME_CHARS_MAX: usize = 500;

/// Runs `run`, which asserts, with each case. Fails with the names and messages of all cases that panicked.
pub fn each<Case: Debug>(cases: impl IntoIterator<Item = Case>, mut run: impl FnMut(Case)) {
    let (mut count, mut failed) = (0, Vec::new());
    for case in cases {
        count += 1;
        let name: String = format!("{case:?}").chars().take(NAME_CHARS_MAX).collect();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(case))) {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            failed.push(format!("{name}: {text}"));
        }
    }
    assert!(count > 0, "the table has no cases");
    assert!(failed.is_empty(), "{} of {count} cases failed:\n{}", failed.len(), failed.join("\n"));
}

/// Asserts that `run` makes of each case the table's outcome.
pub fn check<Case: Debug, Outcome: Debug + PartialEq>(
    cases: impl IntoIterator<Item = (Case, Outcome)>,
    run: impl Fn(&Case) -> Outcome,
) {
    each(cases, |(case, expected)| {
        let outcome = run(&case);
        assert!(outcome == expected, "{outcome:?}, expected {expected:?}");
    });
}
