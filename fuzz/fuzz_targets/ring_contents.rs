#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::ring_contents::check(bytes));
