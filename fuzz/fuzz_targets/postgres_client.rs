#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::postgres_client::check(bytes));
