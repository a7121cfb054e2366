//! Floor 1 of Raftwerk: one Raft group, pure.
//!
//! A [`Group`] is the protocol and nothing else (Ongaro & Ousterhout's paper; Ongaro's thesis). Inputs go in
//! through [`Group::step`], effects come out, time is a number. The core never sees a payload: of the log it
//! holds the terms, as a handful of runs. So it is small, it cannot block or fail, and a simulator can drive
//! thousands of groups.
//!
//! # The contract with the driver
//! 1. One [`Group::step`] per input, then the effects, in this order: `hard_state`, `append`, `install`; then `send`;
//!    `send_durable` only when everything written so far for this group is durable.
//! 2. A driver that has written a hard state holds back all the group's messages, appends too, until that is
//!    durable.
//! 3. [`Group::flush`] once after the inputs of a turn; then, from a leader, [`Group::next_append`] for every peer
//!    until it has no more, each answered by [`Group::note_sent`].
//! 4. [`Input::Durable`] when the log is durable up to an entry; [`Input::Applied`] when the state machine has it. A
//!    notice of durability may come late, after its entry was replaced, but notices come in the order of the writes.
//! 5. [`Input::Timeout`] when [`Group::next_deadline`] has come.
//!
//! Messages may be lost, delayed, duplicated and reordered. No number from a peer can make this code panic.
//!
//! The core reads the content of one kind of entry only, the configuration: [`Effects::membership`] on the
//! way out, [`Input::Memberships`] and [`Group::restore`] on the way in.
//!
//! What is not here: payloads, I/O, clocks. Where to go next: `election`, `leader`, `follower`, `snapshot`,
//! `read_index`; for membership changes `membership`, with [`reconfig`] below, `admission` and `removal` beside
//! it; `transfer`; replica identity, where nodes come back with other logs, `identity`; initial members that
//! lost the record of the first configuration, `bootstrap`. The rules that must always hold are numbered in
//! [`invariant`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod admission;
mod bootstrap;
mod config;
mod effects;
mod election;
mod follower;
mod follower_read;
mod group;
mod identity;
mod input;
pub mod invariant;
mod leader;
mod log;
mod membership;
mod progress;
mod quiescence;
pub mod quorum;
mod read_index;
pub mod reconfig;
mod removal;
mod rng;
mod snapshot;
mod thin_vec;
mod transfer;

pub use admission::NewcomerStatus;
pub use config::{Config, Opening, Origin, Restored};
pub use effects::{Append, AppendPlan, Effects, Install, Rejected};
pub use group::{Group, PRIORITY_MAX, Role};
pub use identity::{MessageSender, Recipient, is_request};
pub use input::Input;
pub use log::TermRun;
pub use membership::{Admission, Reconfigure, Reconfigured, Refusal, Transition};
pub use progress::{PeerState, PeerStatus};
pub use transfer::{Transfer, Unfit};
