//! What a worker answers: the outcome of a proposal, the state of a replica, and what a replica has lost.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raftwerk_frame::{Configuration, EntryId, GroupId, Index, NodeId, Term};
use raftwerk_raft::{NewMemberStatus, PeerStatus, Role};

use crate::api::state_machine::Frozen;

/// What a replica holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplicaKind {
    /// Payloads, and a state.
    Full,
    /// Headers of entries only: it votes, and has no state.
    Witness,
}

/// The outcome of an acknowledged proposal: it is durable on a quorum and applied here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Its position in the group's log.
    pub id: EntryId,
    /// The reply of the state machine.
    pub reply: Bytes,
}

/// The receipt of a relaxed proposal: a quorum of the group has written it to its logs, and it need not be
/// durable on any of them. Unlike [`Applied`] it does not cover the state machine: the entry
/// is applied when it is durable on a quorum, like every other, at most about
/// [`Config::relaxed_sync_interval`] later; a read before that need not show it.
///
/// It survives the end of any number of processes. It may be lost if a machine of that quorum loses its
/// memory (by a power failure, or a kernel crash), or its device fails to sync the entry, before the entry is
/// synced, and the other replicas cannot make up for it. A write that was acknowledged as
/// [`Applied`] is not affected by that, in this group or any other.
///
/// The levels side by side: `engine/docs/durability.md`.
///
/// [`Config::relaxed_sync_interval`]: crate::Config::relaxed_sync_interval
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Its position in the group's log, if it is not lost.
    pub id: EntryId,
}

/// An answer, and the state that it was read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadAnswer {
    /// The reply of the state machine.
    pub reply: Bytes,
    /// The last entry applied to that state.
    pub index: Index,
    /// The answering state reflects everything that was committed anywhere this long before the query, or
    /// longer; `None`: this replica has no bound.
    pub staleness: Option<Duration>,
}

/// The status of a replica, as of the worker's turn that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Follower, candidate, leader …
    pub role: Role,
    /// Its current term.
    pub term: Term,
    /// The leader of that term, if known.
    pub leader: Option<NodeId>,
    /// The last compacted entry: its log starts after this one.
    pub compacted: EntryId,
    /// The last entry of its log.
    pub last: EntryId,
    /// Durable on a quorum up to here.
    pub commit: Index,
    /// In the state machine up to here.
    pub applied: Index,
    /// The members.
    pub configuration: Configuration,
    /// The index of that configuration. It is committed if `commit` has reached it. To be given as
    /// [`Reconfiguration::expected_index`](crate::Reconfiguration).
    pub configuration_index: Index,
    /// On a leader: the progress of every other replica.
    pub peers: Vec<(NodeId, PeerStatus)>,
    /// On a leader: new members that are to become voters.
    pub new_members: Vec<NewMemberStatus>,
    /// On a leader: the target of a leadership transfer.
    pub transfer_to: Option<NodeId>,
    /// Whether this replica is no longer a member, and may be deleted:
    /// [`Engine::remove_group`](crate::NodeHandle::remove_group).
    pub is_removed: bool,
    /// Whether this replica is a witness: it votes, and has no state.
    pub is_witness: bool,
    /// Whether the group is quiescent here: the replica sends nothing and has no timer until there is work.
    pub is_quiescent: bool,
    /// Set if its state machine has panicked, and the replica has no state.
    pub quarantine: Option<Quarantine>,
    /// Bytes of its entries in the log.
    pub log_bytes: u64,
}

/// A replica without a state: its machine panicked while it applied an entry, or while it was made. The
/// replica still votes and keeps its log; it leads only until another voter can, and it answers neither reads
/// nor proposals. Other groups of its node are not affected.
///
/// It recovers with a new state: by a snapshot of its leader, which is sent when its log has grown to four
/// times [`Config::checkpoint_log_bytes`](crate::Config), by [`Engine::revive`](crate::NodeHandle::revive), or by
/// another opening of the node. The latter two apply the same entries again, so they help where the entry was
/// not the cause, or where the machine's code has changed since. An entry that makes every machine panic
/// stops its group on every node, until the code is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quarantine {
    /// The last entry that the machine had applied.
    pub applied: Index,
    /// The panic message.
    pub what: String,
    /// It is recovering: the entries applied before are being applied to a new machine.
    pub is_replaying: bool,
}

/// What a replica has lost, as far as it is known.
///
/// A replica with a damaged log is fenced: it grants no vote until a leader that was elected without it has
/// brought it everything (`engine/docs/log_format.md`). Where no such leader is possible, as when the only
/// voter or most of them were damaged, the group stands still for good. Only an operator can establish that
/// what is lost will not return from elsewhere; so an operator confirms it, for one replica and one loss, on
/// a node that was opened for that ([`Config::accept_losses`](crate::Config)).
///
/// Damage may leave no trace of a group at all. Then it is no longer on this node, and where that may have
/// happened, none is created here ([`CreateError::Lost`](crate::CreateError)) before an operator confirms the
/// same for it.
///
/// Its log is intact up to `last`. It may have held more: entries after that, of terms up to `fence`, which
/// it had acknowledged, and which may have been committed and answered. It may also have granted votes in
/// those terms that it has no record of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The group.
    pub group: GroupId,
    /// Upper bound: no lost hard state or entry had a later term.
    pub fence: Term,
    /// The last entry that is left here; the loss came after it.
    pub last: EntryId,
    /// The last index applied by the state machine.
    pub applied: Index,
}

/// A group's state at one index. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct FrozenState {
    state: Arc<dyn Frozen>,
    index: Index,
    staleness: Option<Duration>,
}

impl FrozenState {
    pub(crate) fn new(state: Box<dyn Frozen>, index: Index, staleness: Option<Duration>) -> Self {
        Self { state: state.into(), index, staleness }
    }

    /// Queries it, on this thread.
    #[must_use]
    pub fn query(&self, query: &[u8]) -> ReadAnswer {
        ReadAnswer { reply: self.state.query(query), index: self.index, staleness: self.staleness }
    }

    /// The last entry applied to it.
    #[must_use]
    pub const fn index(&self) -> Index {
        self.index
    }

    /// Its maximum age when it was frozen: see [`ReadAnswer::staleness`].
    #[must_use]
    pub const fn staleness(&self) -> Option<Duration> {
        self.staleness
    }
}

impl std::fmt::Debug for FrozenState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrozenState").field("index", &self.index).finish_non_exhaustive()
    }
}
