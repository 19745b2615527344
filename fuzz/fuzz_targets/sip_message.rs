#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::sip_message::check(bytes));
