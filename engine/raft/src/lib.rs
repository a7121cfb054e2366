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
//! What is not here: payloads, I/O, clocks. Where to go next: `contract` has what a driver exchanges with a group;
//! `group` has the state and the dispatch of inputs, and below it `election` (with `transfer`), `replication`,
//! `reads`, `membership` and `liveness`. [`reconfig`] and [`quorum`] are pure functions on configurations. The rules
//! that must always hold are numbered in [`invariant`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod contract;
mod group;
pub mod quorum;
pub mod reconfig;
mod rng;
mod thin_vec;

pub use contract::{
    Admission, Append, AppendPlan, Config, Effects, Input, Install, MessageSender, Opening, Origin,
    Recipient, Reconfigure, Reconfigured, Refusal, Rejected, Restored, TermRun, Transfer, Transition, Unfit,
    is_request,
};
pub use group::{Group, NewcomerStatus, PRIORITY_MAX, PeerState, PeerStatus, Role, invariant};
