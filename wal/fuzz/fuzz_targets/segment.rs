//! `cargo fuzz run segment`, in the folder `wal`: see `raftwerk_wal_fuzz::segment`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| raftwerk_wal_fuzz::segment(bytes));
