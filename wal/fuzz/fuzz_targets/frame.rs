//! `cargo fuzz run frame`, in the folder `wal`: see `raftwerk_wal_fuzz::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| raftwerk_wal_fuzz::frame(bytes));
