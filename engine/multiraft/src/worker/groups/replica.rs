//! A group's replica on this node: the core, the state machine, and the clients that wait for an outcome.

use std::collections::VecDeque;
use std::time::Duration;

use raftwerk_frame::{Configuration, EntryId, GroupId, Index, NodeId, Time};
use raftwerk_raft as raft;
use raftwerk_wal::{GroupSlot, Lsn, SnapshotMeta};
use tokio::sync::oneshot;

use crate::api::error::TransferError;
use crate::api::state_machine::StateMachine;
use crate::api::status::{Quarantine, ReplicaKind};
use crate::worker::calls::reading::Reading;
use crate::worker::calls::waiters::{Pending, PendingChange, QueuedProposal, RelaxedWrites};
use crate::worker::settings::Settings;

/// Durability of the latest term and vote. Until they are durable, the replica sends no message (paper,
/// Figure 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HardStateDurability {
    /// Term and vote are durable.
    Durable,
    /// The hard state is in the batch being filled.
    InThisBatch,
    /// The hard state is in this batch, on its way to the disk.
    InFlight(Lsn),
}

/// Entries that are damaged in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Damage {
    pub(crate) first: Index,
    pub(crate) last: Index,
    /// Bytes of the entries' frames.
    pub(crate) bytes: u64,
}

/// The lists of [`super::table`] that a replica is on. Only that file changes them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Listed {
    pub(super) is_dirty: bool,
    pub(super) has_appended: bool,
    pub(super) is_to_apply: bool,
    pub(super) is_quiescent_without_peer: bool,
}

/// A replica of a group, as its worker keeps it.
pub(crate) struct Replica {
    pub(crate) id: GroupId,
    pub(crate) slot: GroupSlot,
    pub(crate) core: raft::Group,
    /// `None` for a witness, which has no state.
    pub(crate) machine: Option<Box<dyn StateMachine>>,
    /// Set while its machine, which has panicked, is not to be used.
    pub(crate) quarantine: Option<Box<Quarantine>>,
    /// The last entry that the state machine has applied; of a witness, the last one known to be committed.
    pub(crate) applied: Index,
    /// Payloads of this turn, in order.
    pub(crate) queued: Vec<QueuedProposal>,
    pub(crate) queued_bytes: u64,
    /// Proposals appended in this leadership, in order of their indices.
    pub(crate) pending: VecDeque<Pending>,
    /// The relaxed proposals, while there are any that are not committed.
    pub(crate) relaxed: Option<Box<RelaxedWrites>>,
    /// The client that waits for a membership change …
    pub(crate) change: Option<PendingChange>,
    /// … and the one that waits for a leadership transfer.
    pub(crate) transfer: Option<oneshot::Sender<Result<(), TransferError>>>,
    /// Reads that wait, if there are any.
    pub(crate) reading: Option<Box<Reading>>,
    /// Invariant: everything that was committed anywhere before this time is applied here.
    pub(crate) reflects: Option<Time>,
    /// The least staleness bound of the reads since the last read-index request; zero for none.
    pub(crate) watched: Duration,
    /// The latest durable checkpoint.
    pub(crate) checkpoint: Option<SnapshotMeta>,
    /// Bytes of log applied since that checkpoint.
    pub(crate) bytes_since_checkpoint: u64,
    /// A checkpoint is being written.
    pub(crate) saving: bool,
    /// Entries of its log that cannot be read.
    pub(crate) damage: Option<Damage>,
    /// Durability of the latest hard state.
    pub(super) hard_state_durability: HardStateDurability,
    /// Deadline of its valid entry in the timers; other entries are stale.
    pub(super) timer_at: Time,
    /// The worker's lists that it is on.
    pub(super) listed: Listed,
    /// Counted among the groups that this node leads and that have a witness.
    pub(crate) is_led_with_witness: bool,
}

impl Replica {
    pub(crate) fn new(
        id: GroupId,
        slot: GroupSlot,
        core: raft::Group,
        machine: Option<Box<dyn StateMachine>>,
        checkpoint: Option<SnapshotMeta>,
    ) -> Self {
        let applied = core.applied();
        Self {
            id,
            slot,
            core,
            machine,
            quarantine: None,
            applied,
            queued: Vec::new(),
            queued_bytes: 0,
            pending: VecDeque::new(),
            relaxed: None,
            change: None,
            transfer: None,
            reading: None,
            reflects: None,
            watched: Duration::ZERO,
            checkpoint,
            bytes_since_checkpoint: 0,
            saving: false,
            damage: None,
            hard_state_durability: HardStateDurability::Durable,
            timer_at: Time::NEVER,
            listed: Listed::default(),
            is_led_with_witness: false,
        }
    }

    /// What it holds.
    pub(crate) const fn kind(&self) -> ReplicaKind {
        if self.core.is_witness() { ReplicaKind::Witness } else { ReplicaKind::Full }
    }

    /// Whether a configuration, committed or not, has the node for an initial member, without naming its log.
    /// That holds for a removed replica, too: its removal notice may be lost with a restart, after which it
    /// acts on the configuration that it has.
    pub(crate) fn is_initial_member(&self, node: NodeId) -> bool {
        let committed = self.core.configuration_up_to(self.core.commit());
        let is_unnamed = |configuration: &Configuration| {
            configuration.contains(node) && configuration.log_of(node).is_none()
        };
        is_unnamed(self.core.configuration())
            || committed.is_some_and(|(_, configuration)| is_unnamed(configuration))
    }

    /// Bytes of log after which it is to be checkpointed. They grow with its state, so that checkpoints do
    /// not write much more than entries do, up to a quarter of the lane's bound, so that no single group puts
    /// the lane over it.
    pub(crate) fn checkpoint_due(&self, settings: &Settings) -> u64 {
        let state = self.checkpoint.as_ref().map_or(0, |meta| meta.bytes);
        let share = state.saturating_mul(u64::from(settings.checkpoint_state_percent)) / 100;
        settings.checkpoint_log_bytes.max(share.min(settings.lane_bytes_max / 4))
    }

    /// Whether term and vote are durable, so that messages may depend on them.
    pub(crate) fn may_send(&mut self, durable: Lsn) -> bool {
        if let HardStateDurability::InFlight(lsn) = self.hard_state_durability
            && lsn <= durable
        {
            self.hard_state_durability = HardStateDurability::Durable;
        }
        self.hard_state_durability == HardStateDurability::Durable
    }

    /// Up to where entries may be applied: committed, and durable on this node too, so that no state machine
    /// is ever ahead of its own log.
    pub(crate) fn may_apply_to(&self) -> Index {
        if self.quarantine.as_ref().is_some_and(|quarantine| !quarantine.is_replaying) {
            return self.applied;
        }
        let to = self.core.commit().min(self.core.durable());
        match self.damage {
            // A witness reads no entries.
            Some(damage) if self.machine.is_some() && damage.first <= to && damage.last > self.applied => {
                damage.first.prev().max(self.applied)
            }
            _ => to,
        }
    }

    /// How many proposals wait for their outcome or receipt.
    pub(crate) fn proposals(&self) -> usize {
        let relaxed = self.relaxed.as_ref().map_or(0, |relaxed| relaxed.pending.len());
        self.queued.len() + self.pending.len() + relaxed
    }

    /// The id of the last applied entry.
    pub(crate) fn applied_id(&self) -> EntryId {
        let term = self.core.term_at(self.applied).expect("the log reaches back to the applied entry");
        EntryId::new(term, self.applied)
    }
}
