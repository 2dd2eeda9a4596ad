//! The fuzzer of `pgidle_fuzz::messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgidle_fuzz::messages(data));
