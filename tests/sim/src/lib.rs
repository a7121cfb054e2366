//! Whole clusters of the real engine in one thread, on simulated time, disks and networks; and the checkers that judge
//! what they did.
//!
//! What is not here: a model of the engine. The worker, the core, the log and the codec are the ones that users run.

pub mod linearizability;
