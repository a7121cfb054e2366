//! Floor 1 of Raftwerk: one Raft group, pure.
//!
//! A [`Group`] is the protocol and nothing else (Ongaro & Ousterhout's paper; Ongaro's thesis). Inputs go in
//! through [`Group::step`], effects come out, time is a number. The core never sees a payload: of the log it
//! holds the terms, as a handful of runs. So it is small, it cannot block or fail, and a simulator can drive
//! thousands of groups.
//!
//! # Example
//! Three replicas in memory, with disks that are durable at once and a network without delay: the first one is
//! elected, and commits an entry.
//! ```
//! use std::{collections::VecDeque, time::Duration};
//!
//! use raftwerk_frame::{Configuration, GroupId, Index, LogId, Message, NodeId, Run, Time};
//! use raftwerk_raft::{AppendPlan, Config, Effects, Group, Input, Opening, Restored, Role};
//!
//! fn replica(node: u64) -> Group {
//!     let config = Config {
//!         node: NodeId(node),
//!         log: LogId(0),
//!         group: GroupId(1),
//!         seed: 1,
//!         election_timeout: Duration::from_millis(500),
//!         heartbeat_interval: Duration::from_millis(100),
//!         first_timeout: None,
//!         window_bytes: 1 << 20,
//!         window_messages: 64,
//!         append_bytes_max: 1 << 18,
//!         uncommitted_bytes_max: 1 << 24,
//!         commit_delay: Duration::ZERO,
//!         opening: Opening::Core,
//!         pre_vote: true,
//!         retirement: Duration::from_millis(500),
//!         abstention: Duration::ZERO,
//!         check_quorum: true,
//!     };
//!     let configuration = Configuration::of_voters([1, 2, 3].map(NodeId));
//!     Group::new(config, Restored { configuration, ..Restored::default() }, Time(1))
//! }
//!
//! /// From, to, and a message with the entries that go with it.
//! type Sent = (NodeId, NodeId, Message, Vec<Run>);
//!
//! /// Steps one input, and carries out the effects.
//! fn step(group: &mut Group, input: Input<'_>, sent: &mut VecDeque<Sent>) {
//!     let (from, mut effects) = (group.node(), Effects::default());
//!     group.step(Time(1), input, &mut effects);
//!     group.flush(Time(1), &mut effects);
//!     if effects.append.is_some() {
//!         step(group, Input::Durable { id: group.last() }, sent);
//!     }
//!     let messages = effects.send.into_iter().chain(effects.send_durable);
//!     sent.extend(messages.map(|(to, message)| (from, to, message, Vec::new())));
//!     for to in group.peers().collect::<Vec<_>>() {
//!         while let Some(plan) = group.next_append(to) {
//!             let AppendPlan { term, prev, first, last, commit, progress_epoch, .. } = plan;
//!             let count = last.0 + 1 - first.0; // all are of this term here
//!             let runs = if count > 0 { vec![Run { term, count }] } else { vec![] };
//!             sent.push_back((from, to, Message::Append { term, prev, commit, progress_epoch }, runs));
//!             group.note_sent(to, last, 100 * count);
//!         }
//!     }
//! }
//!
//! fn deliver(groups: &mut [Group], sent: &mut VecDeque<Sent>) {
//!     while let Some((from, to, message, runs)) = sent.pop_front() {
//!         step(&mut groups[to.0 as usize - 1], Input::Message { from, message, runs: &runs }, sent);
//!     }
//! }
//!
//! let (mut groups, mut sent) = ([1, 2, 3].map(replica), VecDeque::new());
//! step(&mut groups[0], Input::Campaign, &mut sent);
//! deliver(&mut groups, &mut sent);
//! assert_eq!(groups[0].role(), Role::Leader);
//! assert_eq!(groups[2].leader(), Some(NodeId(1)));
//!
//! step(&mut groups[0], Input::Propose { count: 1, bytes: 100 }, &mut sent);
//! deliver(&mut groups, &mut sent);
//! assert_eq!(groups[0].commit(), Index(2)); // after the empty entry that opens the term
//! ```
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
    Admission, Append, AppendPlan, Config, Effects, Input, Install, MessageKind, MessageSender, Opening,
    Origin, ReceiverStanding, Recipient, Reconfigure, Reconfigured, Refusal, Rejected, Restored, TermRun,
    Transfer, TransferRefusal, Transition,
};
pub use group::{Group, NewMemberStatus, PRIORITY_MAX, PeerState, PeerStatus, Role, invariant};
