//! A view of a worker between two turns, for its driver's checks.
//!
//! Read-only, and costs nothing unless called.

use raftwerk_frame::{GroupId, Index, Term, Time};
use raftwerk_wal::{Disk, LaneStats};

use super::Worker;
use crate::api::state_machine::StateMachine;
use crate::worker::calls::waiting::Waiting;

/// One replica, borrowed from its worker.
pub struct ReplicaView<'a> {
    /// Its group.
    pub group: GroupId,
    /// The replica's core.
    pub core: &'a raftwerk_raft::Group,
    /// The last entry that its state machine has applied.
    pub applied: Index,
    /// The state machine; a witness has none, and neither has a replica in quarantine.
    pub machine: Option<&'a dyn StateMachine>,
    /// Its machine has panicked, and the next one has not applied as much yet.
    pub is_quarantined: bool,
    /// Proposals appended and not answered.
    pub pending: usize,
    /// Invariant: everything that was committed anywhere before then is in its state; `None`: unknown.
    pub reflects: Option<Time>,
    /// A part of its log was lost, in terms up to this one, and has not been replicated to it again.
    pub fence: Option<Term>,
    /// Bytes of its log: frames that are neither compacted nor replaced.
    pub log_bytes: u64,
}

/// What a worker holds, counted between two turns. Each field states what bounds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Batches on their way to the disk: bounded by the lane's queue.
    pub batches: usize,
    /// Messages held for them: a few for each group and batch.
    pub held_messages: usize,
    /// Reads not answered, wherever they wait: [`Settings::reads_max`](super::Settings).
    pub reads: usize,
    /// Bytes of their queries, and of answered ones that still lie among them: twice
    /// [`Settings::read_bytes_max`](super::Settings).
    pub read_bytes: usize,
    /// Read-index requests of followers that the next turn answers: 16,384.
    pub pending_read_index: usize,
    /// Proposals not answered, relaxed ones included: bounded until they are committed by
    /// [`Settings::uncommitted_bytes_max`](super::Settings) for each group, in which an empty one counts as
    /// four bytes.
    pub pending: usize,
    /// Support events that not every group has received: a few for each node that groups are shared with.
    pub support_events: usize,
    /// Bytes to be sent: queued after the turn's messages were sent.
    pub outbox_bytes: usize,
    /// Bytes in the inbox: 64 MiB of requests, as much of units, and one request and one unit more.
    pub inbox_bytes: usize,
    /// What the lane has done and holds.
    pub lane: LaneStats,
    /// Bytes of the lane's files.
    pub log_bytes: u64,
    /// The log has failed for good.
    pub is_poisoned: bool,
}

impl<D: Disk> Worker<D> {
    /// Its replicas, in no particular but a fixed order.
    pub(crate) fn replicas(&self) -> impl Iterator<Item = ReplicaView<'_>> {
        self.groups.iter().map(|replica| ReplicaView {
            group: replica.id,
            core: &replica.core,
            applied: replica.applied,
            machine: replica.machine.as_deref().filter(|_| !replica.is_quarantined()),
            is_quarantined: replica.is_quarantined(),
            pending: replica.proposals.pending(),
            reflects: replica.reads.reflects(),
            fence: self.lane.fence(replica.slot),
            log_bytes: self.lane.live_bytes(replica.slot),
        })
    }

    /// Whether there are support events that not all of its groups have received.
    pub(crate) fn has_pending_support_events(&self) -> bool {
        self.liveness.support_events() > 0
    }

    /// Whether entries wait until the next segment is made.
    pub(crate) fn awaits_segment(&self) -> bool {
        !self.upkeep.is_full() && self.lane.reserved_space() == 0
    }

    /// What the worker holds.
    pub(crate) fn load(&self) -> Load {
        let mut reads = Waiting::default();
        self.groups.iter().for_each(|replica| reads += replica.reads_held());
        Load {
            batches: self.log.batches_in_flight(),
            held_messages: self.log.held_messages(),
            reads: reads.reads,
            read_bytes: reads.bytes,
            pending_read_index: self.calls.pending_read_index(),
            pending: self.groups.iter().map(|replica| replica.proposals.len()).sum(),
            support_events: self.liveness.support_events(),
            outbox_bytes: self.outboxes.bytes(),
            inbox_bytes: self.env.inbox.waiting_bytes(),
            lane: self.lane.stats(),
            log_bytes: self.lane.log_bytes(),
            is_poisoned: self.is_poisoned,
        }
    }
}
