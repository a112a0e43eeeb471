//! A line on the metrics stream.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| faas::fuzzing::sample(bytes));
