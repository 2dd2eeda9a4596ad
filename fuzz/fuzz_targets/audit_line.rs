//! The fuzzer of `pgidle_fuzz::audit_line`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgidle_fuzz::audit_line(data));
