//! The fuzzer of `pgidle_fuzz::startup`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgidle_fuzz::startup(data));
