//! What callers hold: the handles of a node and of its groups, their settings, answers and errors.
//!
//! Start with [`engine`]. What is not here: the node behind a handle ([`crate::node`]), and the state machine
//! of keys and values (`raftwerk-kv`).

pub(crate) mod call;
pub(crate) mod config;
pub(crate) mod consistency;
pub(crate) mod engine;
pub(crate) mod error;
pub(crate) mod group;
pub(crate) mod membership;
pub(crate) mod pipeline;
pub(crate) mod session;
pub(crate) mod state_machine;
pub(crate) mod stats;
pub(crate) mod status;
