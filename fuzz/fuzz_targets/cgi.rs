//! The opening of a function's output.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| faas::fuzzing::cgi(bytes));
