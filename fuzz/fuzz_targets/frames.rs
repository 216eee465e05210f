//! Hands libFuzzer's bytes to `bodies::frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::frames(data));
