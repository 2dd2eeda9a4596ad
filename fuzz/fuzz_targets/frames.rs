//! The fuzzer of `pgidle_fuzz::frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgidle_fuzz::frames(data));
