//! What a fenced replica has lost, and the order to live with that. What is not here: how it was fenced (`open`, `scrub`).

use raftwerk_frame::GroupId;
use raftwerk_wal::Disk;

use super::Worker;
use crate::loss::{AcceptLossError, Loss};

impl<D: Disk> Worker<D> {
    pub(super) fn loss(&self, group: GroupId) -> Option<Loss> {
        let replica = self.replica(group).filter(|replica| replica.core.is_fenced())?;
        let fence = self.lane.fence(replica.slot)?;
        Some(Loss { group, fence, last: replica.core.last(), applied: replica.applied })
    }

    /// The replica votes and leads again, with what it has. Its log says that it is fenced until it holds an entry of a later term:
    /// a node that stops before that has to be told again.
    pub(super) fn accept_loss(&mut self, said: &Loss) -> Result<(), AcceptLossError> {
        let found = self.loss(said.group).ok_or(AcceptLossError::None)?;
        if found != *said {
            return Err(AcceptLossError::Other(found));
        }
        if !self.settings.accept_losses {
            return Err(AcceptLossError::Forbidden);
        }
        let slot = self.slot_of(said.group).ok_or(AcceptLossError::None)?;
        let replica = self.replicas[slot.0 as usize].as_mut().ok_or(AcceptLossError::None)?;
        tracing::error!(node = self.settings.node.0, loss = ?said, "an operator has accepted that this is lost");
        replica.core.accept_loss();
        replica.timer_at = raftwerk_frame::Time::NEVER;
        Self::arm(&mut self.timers, replica);
        Ok(())
    }
}
