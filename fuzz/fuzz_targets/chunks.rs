//! Chunked bodies, as clients send them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| faas::fuzzing::chunks(bytes));
