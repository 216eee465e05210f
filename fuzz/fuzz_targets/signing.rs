//! Hands libFuzzer's bytes to `bodies::signing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::signing(data));
