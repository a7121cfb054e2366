//! Liveness by node (store liveness): which leader this replica fortifies, and groups that quiesce.
//!
//! Nodes support nodes. The driver exchanges one small message per pair of nodes and interval, and passes two
//! facts about a peer to the group: that this node *supports* it ([`Input::Supports`](crate::Input)), and
//! that it supports this node ([`Input::SupportedBy`](crate::Input)). While a node supports another, a
//! replica that follows a leader there *fortifies* this leader: it neither votes for others nor campaigns,
//! unless the leader itself replies that it does not lead any longer. This allows two things.
//!
//! - **Quiescence.** A leader offers to quiesce, by a heartbeat, when its followers hold everything and know
//!   that it is committed. When all supporting followers have agreed, no replica of the group has a deadline,
//!   or a message to send, until there is a request, or support ends. A node that is down does not prevent
//!   that. A leader without peers quiesces by itself.
//! - **Leases** (thesis, section 6.4.1). A quorum of fortifying replicas elects no other leader as long as
//!   their nodes' support lasts, so until then a leader may answer reads by itself:
//!   [`Group::lease`](crate::Group::lease).
//!
//! A leader is fortified in these steps: the follower's node supports the leader's, the follower receives a
//! message from the leader in this term, and the leader learns of that from the reply to a heartbeat that
//! left after it knew of the support *and* of the follower's having the configuration in force. Each end of
//! support ends the fortification on both sides, so a reply from before it does not count: `Support::since`. A
//! configuration ends it too: a follower keeps support only for the peers of its own configuration, so a
//! reply given under an earlier one does not count under this one.
//!
//! A follower that fortifies a leader and misses its heartbeats does not campaign but sends it a query
//! ([`LeaderQuery`](raftwerk_frame::Message::LeaderQuery)); a node that does not lead that term replies so
//! ([`NotLeader`](raftwerk_frame::Message::NotLeader)), and never leads it again. A quiescent follower misses no
//! heartbeats: it sends the query when it receives a proposal (a read sends a request to the leader anyway), a vote
//! request, or a query of a replica that knows of no leader and cannot campaign. A leader that is dropped sends the
//! not-leader reply by itself, once; queries repair its loss.
//!
//! What is not here: clocks and the duration of support, which are the driver's; without support, no leader
//! is fortified and no group quiesces, except a leader without peers.

pub(super) mod leader_query;
pub(super) mod quiescence;
pub(super) mod support;
