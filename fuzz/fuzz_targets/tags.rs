//! The fuzzer of `pgidle_fuzz::tags`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgidle_fuzz::tags(data));
