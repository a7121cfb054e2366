//! Proof of Raftwerk from outside: what several of its test binaries share.
//!
//! [`script`] runs protocol stories written as text files. The tests themselves are in `tests/tests`, the stories in
//! `tests/scripts`; `tests/README.md` tells what is tested where. What is not here: unit tests, which stand beside the
//! code they test.

pub mod script;
