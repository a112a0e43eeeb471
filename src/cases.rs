//! Tables of cases, for tests: a table runs to its end, and its failure names all cases that differ.

use std::fmt::Debug;

/// Runs each case, and asserts that all results are those of the table.
pub fn check<Case: Debug, Outcome: Debug + PartialEq>(
    cases: impl IntoIterator<Item = (Case, Outcome)>,
    run: impl Fn(&Case) -> Outcome,
) {
    let outcomes = cases.into_iter().map(|(case, expected)| (run(&case), case, expected));
    let wrong: Vec<String> = outcomes
        .filter(|(outcome, _, expected)| outcome != expected)
        .map(|(outcome, case, expected)| format!("{case:?}: {outcome:?}, expected {expected:?}"))
        .collect();
    assert!(wrong.is_empty(), "{} cases differ:\n{}", wrong.len(), wrong.join("\n"));
}
