//! A packet of a fork server.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| faas::fuzzing::word(bytes));
