//! The fuzzer of `pgidle_fuzz::configuration`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgidle_fuzz::configuration(data));
