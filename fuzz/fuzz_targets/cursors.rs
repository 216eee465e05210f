//! Hands libFuzzer's bytes to `bodies::cursors`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::cursors(data));
