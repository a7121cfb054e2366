//! Handing over the lead (thesis, section 3.10): the leader stops taking proposals, waits until the chosen follower holds
//! its whole log, and tells it to campaign at once. If nothing comes of it within an election timeout, writes resume.
//!
//! A leader that is no voter of the committed configuration hands over, too, and does not wait (thesis, section 4.2.2).

use alloc::boxed::Box;

use raftwerk_frame::{Index, Message, NodeId, Time};

use crate::effects::Effects;
use crate::group::{Group, Role};
use crate::progress::{PeerState, Progress};

/// The lead on its way to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handover {
    to: NodeId,
    deadline: Time,
}

/// What became of a transfer that did not succeed. That it did is told by the change of leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// It was not begun.
    Refused(Unfit),
    /// The target has not taken over in time. It leads here again, unless the target still campaigns.
    Abandoned(NodeId),
}

/// Why the lead is not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// This replica does not lead.
    NotLeader {
        /// Who does, as far as it knows.
        leader: Option<NodeId>,
    },
    /// The target is this replica.
    LeadsAlready,
    /// The target is no voter of the configuration that is, or is coming to be.
    NotAVoter,
    /// The target was not heard lately.
    NotHeard,
    /// The target is so far behind that it is waiting for a snapshot.
    TooFarBehind,
    /// The lead is on its way to this node already.
    InProgress(NodeId),
}

impl Group {
    pub(crate) fn transfer(&mut self, to: NodeId, effects: &mut Effects) {
        if let Err(unfit) = self.fit_to_lead(to) {
            effects.transfer = Some(Transfer::Refused(unfit));
            return;
        }
        let deadline = self.now + self.config.election_timeout();
        self.handover = Some(Box::new(Handover { to, deadline }));
        self.hurry_handover(effects);
    }

    fn fit_to_lead(&self, to: NodeId) -> Result<(), Unfit> {
        if self.role != Role::Leader {
            return Err(Unfit::NotLeader { leader: self.leader });
        }
        if let Some(handover) = &self.handover {
            return Err(Unfit::InProgress(handover.to));
        }
        if to == self.config.node {
            return Err(Unfit::LeadsAlready);
        }
        if !self.configuration.voters.contains(&to) {
            return Err(Unfit::NotAVoter);
        }
        match self.peer(to) {
            Some(progress) if progress.state == PeerState::Snapshot => Err(Unfit::TooFarBehind),
            Some(progress) if progress.was_heard() => Ok(()),
            _ => Err(Unfit::NotHeard),
        }
    }

    /// Tells the target to campaign if it holds everything. Again with every heartbeat: the first time may have been lost.
    pub(crate) fn hurry_handover(&mut self, effects: &mut Effects) {
        let Some(handover) = &self.handover else { return };
        let (to, last) = (handover.to, self.log.last().index);
        if self.peer(to).is_some_and(|progress| progress.matched == last) {
            effects.send.push((to, Message::TimeoutNow { term: self.hard_state.term }));
        }
    }

    /// The target may now hold everything.
    pub(crate) fn hurry_handover_to(&mut self, node: NodeId, effects: &mut Effects) {
        if self.transfer_target() == Some(node) {
            self.hurry_handover(effects);
        }
    }

    /// Gives up a transfer whose time is over.
    pub(crate) fn give_up_handover(&mut self, effects: &mut Effects) {
        let over = self.handover.take_if(|handover| handover.deadline <= self.now);
        effects.transfer = over.map(|handover| Transfer::Abandoned(handover.to)).or(effects.transfer);
    }

    pub(crate) fn handover_deadline(&self) -> Time {
        self.handover.as_ref().map_or(Time::NEVER, |handover| handover.deadline)
    }

    /// To whom the lead is being handed over.
    #[must_use]
    pub fn transfer_target(&self) -> Option<NodeId> {
        self.handover.as_ref().map(|handover| handover.to)
    }

    /// The committed configuration does not let this leader vote: the voter with the longest log is told to campaign, and
    /// the lead is given up.
    pub(crate) fn retire(&mut self, effects: &mut Effects) {
        let matched = |node: &NodeId| self.peer(*node).map_or(Index(0), |progress| progress.matched);
        let heir = self.configuration.voters.iter().copied().max_by_key(matched);
        let term = self.hard_state.term;
        effects.send.extend(heir.map(|heir| (heir, Message::TimeoutNow { term })));
        self.follow(term, None, effects);
    }

    pub(crate) fn peer(&self, node: NodeId) -> Option<&Progress> {
        let at = self.peers.binary_search(&node).ok()?;
        self.progress.get(at)
    }
}
