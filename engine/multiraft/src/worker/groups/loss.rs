//! What a fenced replica has lost, an operator's acceptance of that, and groups of which damage has left
//! nothing. Not here: how a replica is fenced (`open`, `scrub`).
//!
//! If lost frames belong to unknown groups, replicas may be gone without a trace, together with their votes
//! and acknowledgements. The lane records that for good: as a term, in a hard-state record under an id that
//! no group has. From then on the lane bootstraps no group, since it may have held a voter of it, until an
//! operator accepts the loss for that very group; that is recorded, too. A replica that joins a group there
//! is fenced from the beginning, as one would be of which damage left a trace: configurations may name it
//! with this log, though its votes and acknowledgements are lost.

use raftwerk_frame::{EntryId, GroupId, HardState, Index, Term};
use raftwerk_wal::{Disk, LogError, RecoveredGroup};
use tokio::sync::oneshot;

use crate::api::error::AcceptLossError;
use crate::api::status::Loss;
use crate::node::placement::{RESERVED, is_reserved};
use crate::worker::Worker;

/// What a lane has recorded of replicas that it may have held.
#[derive(Default)]
pub(in crate::worker) struct Unknown {
    /// They voted and acknowledged in no later term; `None` if nothing was lost.
    fence: Option<Term>,
}

impl<D: Disk> Worker<D> {
    fn unknown_id(&self) -> GroupId {
        GroupId(RESERVED.0 + u64::from(self.settings.worker))
    }

    /// State of unknown groups was lost: records that, in the batch that follows the loss.
    pub(in crate::worker) fn note_unknown(&mut self, fence: Term) -> Result<(), LogError> {
        let slot = self.lane.attach(self.unknown_id());
        let term = self.groups.unknown.fence.map_or(fence, |known| known.max(fence));
        self.groups.unknown.fence = Some(term);
        self.lane.hard_state(slot, HardState { term, vote: None })
    }

    /// Whether a recovered group is no replica but the lane's record of what it may have lost.
    pub(in crate::worker) fn recalls_unknown(&mut self, recovered: &RecoveredGroup) -> bool {
        let is_note = recovered.group == self.unknown_id();
        if is_note {
            // If damage took the record itself, its fence holds the term.
            let noted = Some(recovered.hard_state.term).max(recovered.fence);
            self.groups.unknown.fence = self.groups.unknown.fence.max(noted);
        }
        is_note
    }

    /// The term up to which a replica of a group that is not here may have voted or acknowledged without a
    /// complete record of that being left; `None` if nothing may be lost.
    pub(in crate::worker) fn may_have_lost(&self, group: GroupId) -> Option<Term> {
        let fence = self.groups.unknown.fence.max(self.lane.past_fence(group));
        fence.filter(|_| !self.lane.is_loss_accepted(group))
    }

    /// Whether a replica of the group was here and is gone, and its votes and acknowledgements are known
    /// completely.
    pub(in crate::worker) fn is_past_whole(&self, group: GroupId) -> bool {
        self.lane.has_past(group) && self.lane.past_fence(group).is_none()
    }

    pub(crate) fn loss(&self, group: GroupId) -> Option<Loss> {
        let Some(slot) = self.groups.slot_of(group) else {
            let is_foreign = !self.owns(group) || is_reserved(group) || self.is_past_whole(group);
            let fence = self.may_have_lost(group).filter(|_| !is_foreign)?;
            return Some(Loss { group, fence, last: EntryId::default(), applied: Index(0) });
        };
        let fence = self.lane.fence(slot);
        let replica = self.groups.find(group).filter(|replica| replica.core.is_fenced())?;
        Some(Loss { group, fence: fence?, last: replica.core.last(), applied: replica.applied })
    }

    /// An operator accepts a loss. If the group is not here, the caller is answered once the acceptance is
    /// durable.
    pub(in crate::worker) fn accept_loss(
        &mut self,
        claimed: &Loss,
        reply: oneshot::Sender<Result<(), AcceptLossError>>,
    ) {
        let answer = self.try_accept_loss(claimed);
        if answer.is_ok() && self.groups.slot_of(claimed.group).is_none() {
            return self.log.hold_accepted(reply);
        }
        let _caller_gone = reply.send(answer);
    }

    /// The replica votes and leads again, with what it has. Its log keeps the fence until it holds an entry
    /// of a later term: if the node stops before that, the loss must be accepted again.
    fn try_accept_loss(&mut self, claimed: &Loss) -> Result<(), AcceptLossError> {
        let found = self.loss(claimed.group).ok_or(AcceptLossError::None)?;
        if found != *claimed {
            return Err(AcceptLossError::Other(found));
        }
        if !self.settings.accept_losses {
            return Err(AcceptLossError::Forbidden);
        }
        let Some(slot) = self.groups.slot_of(claimed.group) else {
            tracing::error!(node = self.settings.node.0, loss = ?claimed, "an operator has accepted that a group may be lost");
            let slot = self.lane.attach(claimed.group);
            return self.lane.accept_loss(slot).map_err(|_| AcceptLossError::Poisoned);
        };
        let replica = self.groups.get_mut(slot).ok_or(AcceptLossError::None)?;
        tracing::error!(node = self.settings.node.0, loss = ?claimed, "an operator has accepted that this is lost");
        replica.core.accept_loss();
        self.groups.rearm(slot);
        Ok(())
    }
}
