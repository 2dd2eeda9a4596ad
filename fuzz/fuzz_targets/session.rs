//! The fuzzer of `pgidle_fuzz::session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgidle_fuzz::session(data));
