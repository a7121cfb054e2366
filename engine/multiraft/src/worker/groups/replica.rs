//! A group's replica on this node: the core, the state machine, and the clients that wait for an outcome.

use raftwerk_frame::{Configuration, EntryId, GroupId, Index, NodeId, Time};
use raftwerk_raft as raft;
use raftwerk_wal::{GroupSlot, Lsn};

use crate::api::state_machine::StateMachine;
use crate::api::status::{Quarantine, ReplicaKind};
use crate::worker::calls::proposals::Proposals;
use crate::worker::calls::reading::Reads;
use crate::worker::calls::waiters::PendingChanges;
use crate::worker::storage::checkpointing::Checkpointing;

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
    /// Proposals that wait for their outcome.
    pub(in crate::worker) proposals: Proposals,
    /// Clients that wait for a membership change or a leadership transfer.
    pub(in crate::worker) changes: PendingChanges,
    /// Reads that wait, and the age of the state that they may get.
    pub(in crate::worker) reads: Reads,
    pub(in crate::worker) checkpointing: Checkpointing,
    /// Entries of its log that cannot be read.
    pub(crate) damage: Option<Box<Damage>>,
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
    pub(in crate::worker) fn new(
        id: GroupId,
        slot: GroupSlot,
        core: raft::Group,
        machine: Option<Box<dyn StateMachine>>,
        checkpointing: Checkpointing,
    ) -> Self {
        let applied = core.applied();
        Self {
            id,
            slot,
            core,
            machine,
            quarantine: None,
            applied,
            proposals: Proposals::default(),
            changes: PendingChanges::default(),
            reads: Reads::default(),
            checkpointing,
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
        match self.damage.as_deref() {
            // A witness reads no entries.
            Some(damage) if self.machine.is_some() && damage.first <= to && damage.last > self.applied => {
                damage.first.prev().max(self.applied)
            }
            _ => to,
        }
    }

    /// The id of the last applied entry.
    pub(crate) fn applied_id(&self) -> EntryId {
        let term = self.core.term_at(self.applied).expect("the log reaches back to the applied entry");
        EntryId::new(term, self.applied)
    }
}
