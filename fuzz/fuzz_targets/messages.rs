//! Hands libFuzzer's bytes to `bodies::messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::messages(data));
