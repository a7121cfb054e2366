//! What a group asks of whoever drives it.

use alloc::vec::Vec;

use raftwerk_frame::{Configuration, EntryId, HardState, Index, Message, NodeId, Term};

use crate::membership::Reconfigured;
use crate::transfer::Transfer;

/// What a step asks for. Reused from step to step, so that a step allocates nothing once the lists have grown.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// To be written before any later entry, and to be durable before any message leaves.
    pub hard_state: Option<HardState>,
    /// Entries for the log.
    pub append: Option<Append>,
    /// The log begins anew; the state machine is replaced by the snapshot's.
    pub install: Option<Install>,
    /// May leave at once.
    pub send: Vec<(NodeId, Message)>,
    /// May leave when all that was written so far is durable.
    pub send_durable: Vec<(NodeId, Message)>,
    /// The first and last entry that have become committed.
    pub commit: Option<(Index, Index)>,
    /// Reads that may be answered once this index is applied.
    pub reads: Vec<(u64, Index)>,
    /// Reads that this replica cannot answer.
    pub reads_rejected: Vec<u64>,
    /// The proposals of this step were not taken.
    pub rejected: Option<Rejected>,
    /// Peers that need a snapshot, which holds at least what is compacted now. Once each, until it arrives or fails. Of a witness
    /// ([`Group::has_for_witness`](crate::Group::has_for_witness)): the id at which the log begins, and the configuration there.
    pub snapshot_to: Vec<NodeId>,
    /// The role or the term is another.
    pub role_changed: bool,
    /// The leader is another.
    pub leader_changed: bool,
    /// The single entry of `append`, which is the leader's own, is this configuration.
    pub membership: Option<Configuration>,
    /// The log begins in this configuration, and has not said so: to be written where it begins.
    pub begins_in: Option<Configuration>,
    /// Another configuration is in force.
    pub configuration_changed: bool,
    /// What became of a wish for another configuration.
    pub reconfigured: Option<Reconfigured>,
    /// In a leader: a change is done. The configuration of this index is committed, and stays until somebody wants another.
    pub settled: Option<Index>,
    /// A transfer of the lead was refused, or given up.
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
    /// Of the frames that came with the message, those that reach into `from..=last`. They replace everything from
    /// `from` on.
    Accept {
        /// The first entry that is new.
        from: Index,
        /// The last.
        last: Index,
    },
}

/// A snapshot takes the place of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    /// The log begins after this entry.
    pub id: EntryId,
    /// The configuration there.
    pub configuration: Configuration,
    /// The log holds the entry: what follows it stays. Otherwise everything goes.
    pub keep_tail: bool,
}

/// Why proposals were not taken. Certain: they will never become entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// This replica does not lead.
    NotLeader {
        /// Who does, as far as it knows.
        leader: Option<NodeId>,
    },
    /// Too much is waiting for a quorum already, or the lead is being handed over.
    Busy,
}

/// What a peer should get next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shipment {
    /// The leader's term.
    pub term: Term,
    /// The entry just before `first`.
    pub prev: EntryId,
    /// The first entry to send …
    pub first: Index,
    /// … and the last that may be. Before `first`: the append goes without entries.
    pub last: Index,
    /// The leader's commit index.
    pub commit: Index,
    /// How many bytes of entries to send at most; one frame is always allowed.
    pub bytes_max: u64,
    /// The leader's account of the peer.
    pub account: u16,
    /// It is a witness: entries go without payloads, all but configurations.
    pub is_withheld: bool,
}

impl Effects {
    /// Empties it for the next step; keeps its memory.
    pub fn clear(&mut self) {
        let Self { send, send_durable, reads, reads_rejected, snapshot_to, .. } = self;
        send.clear();
        send_durable.clear();
        reads.clear();
        reads_rejected.clear();
        snapshot_to.clear();
        (self.hard_state, self.append, self.install) = (None, None, None);
        (self.commit, self.rejected) = (None, None);
        (self.role_changed, self.leader_changed, self.configuration_changed) = (false, false, false);
        (self.membership, self.begins_in, self.reconfigured) = (None, None, None);
        (self.settled, self.transfer) = (None, None);
    }
}
