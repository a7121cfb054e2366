//! The effects that a group requests of its driver.

use alloc::vec::Vec;

use raftwerk_frame::{Configuration, EntryId, HardState, Index, Message, NodeId, Term};

use super::reconfigure::Reconfigured;
use super::transfer::Transfer;

/// The effects of a step. Reused from step to step, so that a step allocates nothing once the lists have
/// grown.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// Must be written before any later entry, and be durable before any message leaves.
    pub hard_state: Option<HardState>,
    /// Entries to write to the log.
    pub append: Option<Append>,
    /// The log begins anew; the state machine is replaced by the snapshot's.
    pub install: Option<Install>,
    /// May leave at once.
    pub send: Vec<(NodeId, Message)>,
    /// May leave when everything written so far is durable.
    pub send_durable: Vec<(NodeId, Message)>,
    /// The first and last entry that have become committed.
    pub commit: Option<(Index, Index)>,
    /// Reads that may be answered once this index is applied.
    pub reads: Vec<(u64, Index)>,
    /// Reads that this replica cannot answer.
    pub reads_rejected: Vec<u64>,
    /// The proposals of this step were rejected.
    pub rejected: Option<Rejected>,
    /// Peers that need a snapshot, which holds at least the entries that are compacted now. Each is listed
    /// once, until its snapshot arrives or fails. A witness
    /// ([`Group::has_for_witness`](crate::Group::has_for_witness)) is sent the id at which the log begins,
    /// and the configuration there.
    pub snapshot_to: Vec<NodeId>,
    /// The role or the term has changed.
    pub role_changed: bool,
    /// The leader has changed.
    pub leader_changed: bool,
    /// The single entry of `append`, which is the leader's own, is this configuration.
    pub membership: Option<Configuration>,
    /// The log begins in this configuration, and does not record it yet: to be written where the log begins.
    pub begins_in: Option<Configuration>,
    /// Another configuration is in force.
    pub configuration_changed: bool,
    /// The outcome of a membership change request.
    pub reconfigured: Option<Reconfigured>,
    /// In a leader: a membership change is complete. The configuration of this index is committed, and stays
    /// until the next request.
    pub settled: Option<Index>,
    /// A leadership transfer was refused, or given up.
    pub transfer: Option<Transfer>,
}

/// Entries for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Append {
    /// The leader's own: the no-op that opens its term (paper, section 8), or the step's proposals.
    Own {
        /// The first entry.
        id: EntryId,
        /// How many.
        count: u32,
        /// Whether it is the no-op.
        noop: bool,
    },
    /// Of the frames that came with the message, those that overlap `from..=last`. They replace everything
    /// from `from` on.
    Accept {
        /// The first entry that is new.
        from: Index,
        /// The last.
        last: Index,
    },
}

/// A snapshot replaces the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    /// The log begins after this entry.
    pub id: EntryId,
    /// The configuration there.
    pub configuration: Configuration,
    /// The log holds the entry: the entries after it stay. Otherwise the whole log is dropped.
    pub keep_tail: bool,
}

/// Why proposals were rejected. Final: they will never become entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// This replica does not lead.
    NotLeader {
        /// The leader, as far as this replica knows.
        leader: Option<NodeId>,
    },
    /// Too many bytes are uncommitted already, or a leadership transfer is under way.
    Busy,
}

/// An append plan: what a peer should be sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendPlan {
    /// The leader's term.
    pub term: Term,
    /// The entry just before `first`.
    pub prev: EntryId,
    /// The first entry to send …
    pub first: Index,
    /// … and the last that may be sent. Before `first`: the append goes without entries.
    pub last: Index,
    /// The leader's commit index.
    pub commit: Index,
    /// How many bytes of entries to send at most; one frame is always allowed.
    pub bytes_max: u64,
    /// The leader's progress epoch of the peer.
    pub progress_epoch: u16,
    /// The peer is a witness: entries go without payloads, all but configurations.
    pub is_withheld: bool,
}

impl Effects {
    /// Empties it for the next step; keeps its memory.
    pub fn clear(&mut self) {
        if self.has_configuration() {
            self.clear_configurations();
        }
        let Self { send, send_durable, reads, reads_rejected, snapshot_to, .. } = self;
        send.clear();
        send_durable.clear();
        reads.clear();
        reads_rejected.clear();
        snapshot_to.clear();
        (self.hard_state, self.append, self.commit) = (None, None, None);
        (self.rejected, self.settled, self.transfer) = (None, None, None);
        (self.role_changed, self.leader_changed, self.configuration_changed) = (false, false, false);
    }

    /// Whether there is any of those effects that own memory, and are rare.
    const fn has_configuration(&self) -> bool {
        self.install.is_some()
            || self.membership.is_some()
            || self.begins_in.is_some()
            || self.reconfigured.is_some()
    }

    #[cold]
    fn clear_configurations(&mut self) {
        (self.install, self.membership) = (None, None);
        (self.begins_in, self.reconfigured) = (None, None);
        assert!(!self.has_configuration(), "what has_configuration looks at is what is cleared");
    }
}
