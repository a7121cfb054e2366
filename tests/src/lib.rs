//! Proof of Raftwerk from outside: what its test binaries share.
//!
//! ```
//! let story = "cluster nodes=3\ncampaign 1 quiet\nstabilize quiet\n----\n";
//! let told = raftwerk_tests::script::run(story).expect("the script runs");
//! assert!(told.contains("1 is leader in t1"));
//! ```
//! [`script`] runs protocol stories written as text files. [`nodes`] is a cluster of engines in one process,
//! [`processes`] one of real processes that can be killed, with [`calls`] on their side; both drive [`journal`], a state
//! machine that forgets nothing. [`levels`] writes and reads at every level there, and judges what was shown. [`stores`] is a key-value store on such a cluster. [`conformance`] runs other projects' test data. The tests themselves are in `tests/tests`, the stories in `tests/scripts`; `tests/README.md` tells what is
//! tested where. What is not here: unit tests, which stand beside the code they test.

pub mod calls;
pub mod conformance;
pub mod facts;
pub mod journal;
pub mod levels;
pub mod nodes;
pub mod processes;

pub mod script;
pub mod stores;
