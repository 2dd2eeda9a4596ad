//! The fuzzer of `pgidle_fuzz::dsn`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgidle_fuzz::dsn(data));
