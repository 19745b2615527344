#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::c_abi::check(bytes));
