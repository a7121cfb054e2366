//! `cargo fuzz run batch`, in the folder `wal`: see `raftwerk_wal_fuzz::batch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| raftwerk_wal_fuzz::batch(bytes));
