#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| roletalk_fuzz::policy(data));
