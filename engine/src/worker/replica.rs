//! One group's presence on this node: the core, the state machine, and those who wait for them.

use std::collections::VecDeque;
use std::time::Duration;

use raftwerk_frame::{Configuration, EntryId, GroupId, Index, Membership, NodeId, Time};
use raftwerk_raft as raft;
use raftwerk_wal::{GroupSlot, Lsn, SnapshotMeta};
use tokio::sync::oneshot;

use super::open::Settings;
use super::reads::Reading;
use super::relaxed::RelaxedWrites;
use crate::error::ProposeError;
use crate::group::Applied;
use crate::membership::{ReconfigureError, TransferError};
use crate::quarantine::Quarantine;
use crate::relaxed::Received;
use crate::state_machine::StateMachine;

/// Where a staged payload lies until the core has said whether it becomes an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Staged {
    /// An operation of one of the turn's submissions.
    Operation { submission: u32, operation: u32 },
    /// One of the turn's single proposals.
    Single { request: u32 },
}

/// Whether the latest term and vote are durable: before, this replica says nothing to anyone (paper, Figure 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Durable.
    Kept,
    /// In the batch being filled.
    InTurn,
    /// In this batch, on its way to the disk.
    InBatch(Lsn),
}

/// Who waits for a proposal's outcome.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// A pipeline, and its mark.
    Pipeline { number: u32, token: u64 },
    /// A single caller.
    Single(oneshot::Sender<Result<Applied, ProposeError>>),
    /// A pipeline, and its mark, for a receipt.
    RelaxedPipeline { number: u32, token: u64 },
    /// A single caller, for a receipt.
    RelaxedSingle(oneshot::Sender<Result<Received, ProposeError>>),
}

impl Waiter {
    /// Whether a receipt is enough.
    pub(crate) const fn is_relaxed(&self) -> bool {
        matches!(self, Self::RelaxedPipeline { .. } | Self::RelaxedSingle(_))
    }
}

/// An appended proposal whose caller awaits its outcome.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Its entry. The term matters: another leader's entry may take the index, and its outcome is not this caller's.
    pub(crate) id: EntryId,
    pub(crate) waiter: Waiter,
}

/// Somebody who waits for another configuration.
pub(crate) struct PendingChange {
    /// Where it stands in the log; `None` while newcomers are waited for.
    pub(crate) index: Option<Index>,
    pub(crate) reply: oneshot::Sender<Result<Membership, ReconfigureError>>,
}

/// Entries that are damaged in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Damage {
    pub(crate) first: Index,
    pub(crate) last: Index,
    /// Of their frames.
    pub(crate) bytes: u64,
}

/// A replica of a group, as its worker holds it.
pub(crate) struct Replica {
    pub(crate) id: GroupId,
    pub(crate) slot: GroupSlot,
    pub(crate) core: raft::Group,
    /// `None` for a witness, which has no state.
    pub(crate) machine: Option<Box<dyn StateMachine>>,
    /// Its machine has panicked, and is none.
    pub(crate) quarantine: Option<Box<Quarantine>>,
    /// The last entry that the state machine has seen; of a witness, that it knows to be committed.
    pub(crate) applied: Index,
    /// Payloads of this turn, in order.
    pub(crate) staged: Vec<Staged>,
    pub(crate) staged_bytes: u64,
    /// Proposals appended in this leadership, in order of their indices.
    pub(crate) pending: VecDeque<Pending>,
    /// The relaxed ones, while there are any that are not committed.
    pub(crate) relaxed: Option<Box<RelaxedWrites>>,
    /// Who waits for a change of the configuration …
    pub(crate) change: Option<PendingChange>,
    /// … or of the leader.
    pub(crate) transfer: Option<oneshot::Sender<Result<(), TransferError>>>,
    /// Reads that wait, if any do.
    pub(crate) reading: Option<Box<Reading>>,
    /// Everything that was committed anywhere before then is applied here.
    pub(crate) reflects: Option<Time>,
    /// The least bound of those who have read it since its leader was asked; zero for none.
    pub(crate) watched: Duration,
    /// The latest durable checkpoint.
    pub(crate) checkpoint: Option<SnapshotMeta>,
    /// Bytes of log that were applied since.
    pub(crate) bytes_since_checkpoint: u64,
    /// A checkpoint is being written.
    pub(crate) saving: bool,
    /// Entries of its log that cannot be read.
    pub(crate) damage: Option<Damage>,
    /// The latest hard state's way to the disk.
    pub(crate) promise: Promise,
    /// The timer entry that counts.
    pub(crate) timer_at: Time,
    /// On the list of groups to flush and ship at the end of the turn.
    pub(crate) is_dirty: bool,
    /// On the list of groups with new entries in this turn's batch.
    pub(crate) has_appended: bool,
    /// On the list of groups with something to apply.
    pub(crate) is_to_apply: bool,
    /// Counted among the groups that this node leads and that have a witness.
    pub(crate) is_led_with_witness: bool,
    /// On the list of groups that went to rest without one of their peers.
    pub(crate) has_left_out: bool,
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
            staged: Vec::new(),
            staged_bytes: 0,
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
            promise: Promise::Kept,
            timer_at: Time::NEVER,
            is_dirty: false,
            has_appended: false,
            is_to_apply: false,
            is_led_with_witness: false,
            has_left_out: false,
        }
    }

    /// Whether it takes a node for one of the first voters, whose log no configuration names: by what is committed or by what
    /// may be. One that was told that it is removed may forget that, and act upon the configuration that it has.
    pub(crate) fn has_for_founder(&self, node: NodeId) -> bool {
        let committed = self.core.configuration_up_to(self.core.commit());
        let is_unnamed = |configuration: &Configuration| {
            configuration.contains(node) && configuration.log_of(node).is_none()
        };
        is_unnamed(self.core.configuration())
            || committed.is_some_and(|(_, configuration)| is_unnamed(configuration))
    }

    /// Bytes of log after which it is to be checkpointed: the larger its state is, the more, so that checkpoints do not write much
    /// more than entries do; but never so much that the lane would be over its bound for one group's sake.
    pub(crate) fn checkpoint_due(&self, settings: &Settings) -> u64 {
        let state = self.checkpoint.as_ref().map_or(0, |meta| meta.bytes);
        let share = state.saturating_mul(u64::from(settings.checkpoint_state_percent)) / 100;
        settings.checkpoint_log_bytes.max(share.min(settings.lane_bytes_max / 4))
    }

    /// Whether term and vote are durable, so that messages may speak of them.
    pub(crate) fn may_speak(&mut self, durable: Lsn) -> bool {
        if let Promise::InBatch(lsn) = self.promise
            && lsn <= durable
        {
            self.promise = Promise::Kept;
        }
        self.promise == Promise::Kept
    }

    /// Up to where entries may be applied: committed, and durable on this node too, so that no state machine ever
    /// knows more than its own log.
    pub(crate) fn may_apply_to(&self) -> Index {
        if self.quarantine.as_ref().is_some_and(|quarantine| !quarantine.is_replaying) {
            return self.applied;
        }
        let to = self.core.commit().min(self.core.durable());
        match self.damage {
            // A witness reads nothing.
            Some(damage) if self.machine.is_some() && damage.first <= to && damage.last > self.applied => {
                damage.first.prev().max(self.applied)
            }
            _ => to,
        }
    }

    /// How many proposals wait for their outcome or receipt.
    pub(crate) fn proposals(&self) -> usize {
        let relaxed = self.relaxed.as_ref().map_or(0, |relaxed| relaxed.pending.len());
        self.staged.len() + self.pending.len() + relaxed
    }

    /// The id of the last applied entry.
    pub(crate) fn applied_id(&self) -> EntryId {
        let term = self.core.term_at(self.applied).expect("the log reaches back to the applied entry");
        EntryId::new(term, self.applied)
    }
}
