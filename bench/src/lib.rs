//! The load generator: what it writes, how it measures, and how it proves that nothing acknowledged was lost.
//!
//! [`client`] issues operations through a [`port::NodePort`] per node and measures them; [`workload`] chooses them;
//! [`ledger`] remembers what was acknowledged and checks every replica against it; [`cluster`] starts nodes, runs the
//! whole thing and fills the [`report`]. [`node`] is a node in a process of its own.
//!
//! ```
//! use raftwerk_bench::rng::{Rng, mix};
//!
//! // Keys are spread by a hash, and the same seed gives the same load everywhere.
//! let (mut one, mut other) = (Rng::new(7), Rng::new(7));
//! assert!((0..100).all(|_| one.below(48) == other.below(48)));
//! assert_ne!(mix(1), mix(2));
//! ```
//! It is not a test of the protocol (that is the `tests` room) and no part of the engine. Next: `README.md` beside
//! this crate for what each figure means; [`cluster::run`] is the way in.

pub mod certs;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod failover;
pub mod file_system;
pub mod hash_machine;
pub mod idle;
pub mod latency;
pub mod ledger;
pub mod log;
pub mod node;
pub mod port;
pub mod probe;
pub mod protocol;
pub mod reading;
pub mod recovery;
pub mod relay;
pub mod report;
pub mod rng;
pub mod suite;
pub mod summed;
pub mod usage;
pub mod workload;
