#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weightloader_fuzz::check("file.gguf", bytes));
