//! Whole clusters of the real engine in one thread, on simulated time, disks and networks; and the checkers that judge
//! what they did.
//!
//! [`run`] lives through one seed: the same seed, options and code give the same events, to the hash. What is real: the
//! worker, the core, the log and the codec, by way of `raftwerk::drive`. What is simulated: files, network, clocks and
//! clients. Next: `world` for how it turns, `fault` for what goes wrong, `watch` for what must hold, [`hunt()`] for many
//! seeds at once, [`scenario`] for directed runs, [`Subject`] for a state machine of your own.
//!
//! ```
//! use std::sync::Arc;
//!
//! use raftwerk_sim::{KeyValueSubject, Options, Profile, Subject, run};
//!
//! let subject: Arc<dyn Subject> = Arc::new(KeyValueSubject::default());
//! let options = Options { profile: Profile::Gentle, seconds: Some(1), ..Options::default() };
//! let report = run(7, &options, &subject);
//! assert_eq!(report.violation, None);
//! assert_eq!(report.hash, run(7, &options, &subject).hash, "a seed is one life");
//! ```
//! What is not here: a model of the engine, threads within a run, or a clock.

mod chance;
mod clock;
mod disk;
mod fault;
mod hunt;
mod ledger;
pub mod levels;
pub mod linearizability;
pub mod mutants;
mod net;
mod node;
mod plan;
mod quic;
pub mod scenario;
mod shadow;
mod shrink;
mod subject;
mod variety;
mod watch;
mod world;

use std::sync::Arc;

pub use chance::Chance;
pub use fault::{FaultCounts, FaultKind, FaultSet, Strike};
pub use hunt::{Catch, Quarry, hunt, hunt_by, run_guarded};
pub use plan::{DiskPlan, NetPlan, Options, Plan, Profile};
pub use shrink::shrink;
pub use subject::{KeyValueSubject, Operation, Seen, Subject};
pub use watch::Violation;
pub use world::{Report, World};

/// Lives through one seed.
#[must_use]
pub fn run(seed: u64, options: &Options, subject: &Arc<dyn Subject>) -> Report {
    World::new(seed, options, subject).run()
}
