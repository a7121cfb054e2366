//! The QUIC transport from outside: real sockets on loopback, real certificates, hostile and failing peers.
//!
//! One file per concern; `cluster` starts nodes and records what they receive, `rogue` is a client that
//! violates the protocol, `flood` is unknown senders by the thousand, `relay` is a network that can be cut.
//! Nothing sleeps: every wait is for a condition, and its time limit only turns a hang into a failure.
#![allow(clippy::unwrap_used)] // the functions that tests share are tests too

mod certificates;
mod cluster;
mod crowd;
mod delivery;
mod flood;
mod outages;
mod pressure;
mod relay;
mod rogue;
mod strangers;
mod versions;
