//! What a fenced replica has lost, and the order to live with that; and groups of which damage has left nothing. What is not here:
//! how a replica was fenced (`open`, `scrub`).
//!
//! Where frames were lost and nobody can tell whose they were, there may have been replicas that are gone without a trace, with
//! all that they had promised. A lane remembers that for good: as a term, in a record of the kind that holds a term for a group,
//! under an id that no group has. From then on it founds no group, since it may have been a voter of it, until an operator says
//! of that very group that it lives with the loss; which is noted, too. And who joins a group there is fenced from the beginning,
//! as a replica would be of which damage had left a trace: it may be named with this log, and have forgotten what it promised.

use raftwerk_frame::{EntryId, GroupId, HardState, Index, Term};
use raftwerk_wal::{Disk, LogError, RecoveredGroup};
use tokio::sync::oneshot;

use super::Worker;
use crate::loss::{AcceptLossError, Loss};

/// No group has this id, or a higher one: each lane has one of them, under which it notes up to which term it has lost what nobody
/// can name. The highest is the log's.
const RESERVED: GroupId = GroupId(u64::MAX - 1 - u16::MAX as u64);

/// What a lane knows of replicas that it may have had.
#[derive(Default)]
pub(super) struct Unknown {
    /// No promise of theirs was of a later term; `None` if there were none.
    fence: Option<Term>,
}

/// Whether an id is the log's own.
pub(crate) const fn is_reserved(group: GroupId) -> bool {
    group.0 >= RESERVED.0
}

impl<D: Disk> Worker<D> {
    fn unknown_id(&self) -> GroupId {
        GroupId(RESERVED.0 + u64::from(self.settings.worker))
    }

    /// Something was lost of groups that nobody can name: the log says so, in the batch that answers for the loss.
    pub(super) fn note_unknown(&mut self, fence: Term) -> Result<(), LogError> {
        let slot = self.lane.attach(self.unknown_id());
        let term = self.unknown.fence.map_or(fence, |known| known.max(fence));
        self.unknown.fence = Some(term);
        self.lane.hard_state(slot, HardState { term, vote: None })
    }

    /// Whether this is no replica, but what the lane has noted of those that it may have lost.
    pub(super) fn recalls_unknown(&mut self, recovered: &RecoveredGroup) -> bool {
        let is_note = recovered.group == self.unknown_id();
        if is_note {
            // Where damage took the note itself, its fence says up to which term.
            let noted = Some(recovered.hard_state.term).max(recovered.fence);
            self.unknown.fence = self.unknown.fence.max(noted);
        }
        is_note
    }

    /// Whether a group that is not here may have been, and promised something, in terms up to this one, of which nothing is left, or
    /// not all.
    pub(super) fn may_have_lost(&self, group: GroupId) -> Option<Term> {
        let fence = self.unknown.fence.max(self.lane.past_fence(group));
        fence.filter(|_| !self.lane.is_loss_accepted(group))
    }

    /// Whether a replica of the group was here and is gone, and all that it has promised is known.
    pub(super) fn is_past_whole(&self, group: GroupId) -> bool {
        self.lane.has_past(group) && self.lane.past_fence(group).is_none()
    }

    pub(crate) fn loss(&self, group: GroupId) -> Option<Loss> {
        let Some(slot) = self.slot_of(group) else {
            let is_foreign = !self.owns(group) || is_reserved(group) || self.is_past_whole(group);
            let fence = self.may_have_lost(group).filter(|_| !is_foreign)?;
            return Some(Loss { group, fence, last: EntryId::default(), applied: Index(0) });
        };
        let fence = self.lane.fence(slot);
        let replica = self.replica(group).filter(|replica| replica.core.is_fenced())?;
        Some(Loss { group, fence: fence?, last: replica.core.last(), applied: replica.applied })
    }

    /// An operator lives with a loss. Of a group that is not here, whoever said so is told when the log says so durably.
    pub(super) fn accept_loss(&mut self, said: &Loss, reply: oneshot::Sender<Result<(), AcceptLossError>>) {
        let answer = self.try_accept_loss(said);
        if answer.is_ok() && self.slot_of(said.group).is_none() {
            return self.filling.accepted.push(reply);
        }
        let _caller_gone = reply.send(answer);
    }

    /// The replica votes and leads again, with what it has. Its log says that it is fenced until it holds an entry of a later term:
    /// a node that stops before that has to be told again.
    fn try_accept_loss(&mut self, said: &Loss) -> Result<(), AcceptLossError> {
        let found = self.loss(said.group).ok_or(AcceptLossError::None)?;
        if found != *said {
            return Err(AcceptLossError::Other(found));
        }
        if !self.settings.accept_losses {
            return Err(AcceptLossError::Forbidden);
        }
        let Some(slot) = self.slot_of(said.group) else {
            tracing::error!(node = self.settings.node.0, loss = ?said, "an operator has accepted that a group may be lost");
            let slot = self.lane.attach(said.group);
            return self.lane.accept_loss(slot).map_err(|_| AcceptLossError::Poisoned);
        };
        let replica = self.replicas[slot.0 as usize].as_mut().ok_or(AcceptLossError::None)?;
        tracing::error!(node = self.settings.node.0, loss = ?said, "an operator has accepted that this is lost");
        replica.core.accept_loss();
        replica.timer_at = raftwerk_frame::Time::NEVER;
        Self::arm(&mut self.timers, replica);
        Ok(())
    }
}
