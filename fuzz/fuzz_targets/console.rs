//! The fuzzer of `pgidle_fuzz::console`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgidle_fuzz::console(data));
