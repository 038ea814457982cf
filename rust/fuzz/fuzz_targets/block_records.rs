#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vioblk_tests::fuzz::block_records(data));
