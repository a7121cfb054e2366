//! The QUIC transport from outside: real sockets on loopback, real certificates, hostile and dying peers.
//!
//! One file per concern; `cluster` starts nodes and records what they hear, `rogue` is a client that does not play
//! by the rules, `flood` is strangers by the thousand, `relay` is a network that can be cut. Nothing sleeps: every wait is for a fact, and its time limit
//! only turns a hang into a failure.
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
