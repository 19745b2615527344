#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::diameter_peer::check(bytes));
