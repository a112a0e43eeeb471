//! A table that could not fail would hide what its users break.

use std::panic::catch_unwind;

use crate::cases::check;

#[test]
fn a_failed_table_names_each_failed_case_with_both_outcomes() {
    let panic = catch_unwind(|| check([(1, 2), (2, 5), (3, 6), (0, 7)], |number| 12 / number * number * number / 6));
    assert_eq!(
        *panic.unwrap_err().downcast::<String>().unwrap(),
        "2 of 4 cases failed:\n(2, 5): 4, expected 5\n(0, 7): attempt to divide by zero"
    );
}
