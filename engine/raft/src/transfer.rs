//! Handing over the lead (thesis, section 3.10): the leader stops taking proposals, waits until the chosen follower holds
//! its whole log, and tells it to campaign at once. If nothing comes of it within an election timeout, writes resume.
//!
//! A leader that is no voter of the committed configuration hands over, too, to whoever is fit; and when its time is over it
//! goes, whether anybody took over or not (thesis, section 4.2.2).

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
    /// This leader is going, whoever follows: then, or as soon after as somebody knows.
    goes_after: Option<Time>,
    /// When the target was told last.
    hurried: Option<Time>,
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
    /// The target is a witness: it holds nothing that it could lead with.
    Witness,
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
        self.wake();
        self.handover = Some(Box::new(Handover { to, deadline, goes_after: None, hurried: None }));
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
        if !self.configuration.may_lead(to) {
            return Err(Unfit::Witness);
        }
        match self.peer(to) {
            Some(progress) if progress.state == PeerState::Snapshot => Err(Unfit::TooFarBehind),
            Some(progress) if progress.was_heard() => Ok(()),
            _ => Err(Unfit::NotHeard),
        }
    }

    /// Tells the target to campaign if it holds everything. Again with every heartbeat: the first time may have been lost.
    pub(crate) fn hurry_handover(&mut self, effects: &mut Effects) {
        let Some(to) = self.transfer_target().filter(|to| self.holds_all(*to)) else { return };
        self.ties.has_hurried = true;
        effects.send.push((to, Message::TimeoutNow { term: self.hard_state.term }));
        let now = self.now;
        self.handover.iter_mut().for_each(|handover| handover.hurried = Some(now));
    }

    /// A node holds more than before: the target may hold everything now; or this one may be the heir.
    pub(crate) fn hurry_handover_to(&mut self, node: NodeId, effects: &mut Effects) {
        let Some(to) = self.transfer_target() else { return };
        let may_inherit = self.configuration.may_lead(node) && self.holds_all(node);
        if self.is_retiring() && may_inherit && !self.holds_all(to) {
            self.set_heir(node);
        }
        if self.handover.as_ref().is_some_and(|handover| handover.to == node && handover.hurried.is_none()) {
            self.hurry_handover(effects);
        }
    }

    /// A heartbeat later the target still does not lead. Of a retiring leader, the next voter that holds everything is the
    /// heir, unless the last one has just been told: two at once would be rivals.
    pub(crate) fn hurry_again(&mut self, effects: &mut Effects) {
        let interval = self.config.heartbeat_interval();
        if let Some(handover) = self.handover.as_ref().filter(|handover| handover.goes_after.is_some()) {
            if handover.hurried.is_some_and(|hurried| self.now < hurried + interval) {
                return;
            }
            let to = handover.to;
            let is_fit =
                |node: &NodeId| self.holds_all(*node) && self.peer(*node).is_some_and(Progress::was_heard);
            let fit = || self.heirs().filter(is_fit);
            let next = fit().filter(|node| *node > to).min().or_else(|| fit().min());
            next.into_iter().for_each(|next| self.set_heir(next));
        }
        self.hurry_handover(effects);
    }

    /// The voters that hold payloads.
    fn heirs(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.configuration.voters.iter().copied().filter(|node| self.configuration.may_lead(*node))
    }

    fn holds_all(&self, node: NodeId) -> bool {
        self.peer(node).is_some_and(|progress| progress.matched == self.log.last().index)
    }

    fn set_heir(&mut self, node: NodeId) {
        self.handover.iter_mut().for_each(|handover| (handover.to, handover.hurried) = (node, None));
    }

    /// Gives up a transfer whose time is over. `true`: and the lead with it.
    pub(crate) fn give_up_handover(&mut self, effects: &mut Effects) -> bool {
        let Some(over) = self.handover.take_if(|handover| handover.deadline <= self.now) else {
            return false;
        };
        if over.goes_after.is_none() {
            effects.transfer = Some(Transfer::Abandoned(over.to));
        }
        over.goes_after.is_some()
    }

    pub(crate) fn handover_deadline(&self) -> Time {
        self.handover.as_ref().map_or(Time::NEVER, |handover| handover.deadline)
    }

    /// To whom the lead is being handed over.
    #[must_use]
    pub fn transfer_target(&self) -> Option<NodeId> {
        self.handover.as_ref().map(|handover| handover.to)
    }

    /// Whether this replica leads without a vote in the committed configuration, and only until another takes over.
    #[must_use]
    pub fn is_retiring(&self) -> bool {
        self.handover.as_ref().is_some_and(|handover| handover.goes_after.is_some())
    }

    /// The committed configuration does not let this leader vote. It leads on, without taking proposals, until the voter with
    /// the longest log has taken over from it; that one is told to, as soon as it holds everything.
    pub(crate) fn retire(&mut self, effects: &mut Effects) {
        if self.is_retiring() {
            return;
        }
        let rank = |node: &NodeId| self.peer(*node).map(|progress| (progress.was_heard(), progress.matched));
        let Some(heir) = self.heirs().max_by_key(rank) else {
            return self.follow(self.hard_state.term, None, effects);
        };
        // A voter that somebody chose goes first.
        let chosen = self.transfer_target().filter(|chosen| self.configuration.may_lead(*chosen));
        let deadline = self.now + self.config.election_timeout();
        let goes_after = Some(self.now + self.config.retirement());
        self.admission = None;
        self.handover =
            Some(Box::new(Handover { to: chosen.unwrap_or(heir), deadline, goes_after, hurried: None }));
        self.hurry_handover(effects);
    }

    /// A peer is being sent the commit index. Of a leader that goes, the successors know now that it may.
    pub(crate) fn note_told(&mut self, to: NodeId, commit: Index) {
        let now = self.now;
        if let Some(handover) = &mut self.handover
            && let Some(goes_after) = handover.goes_after
            && commit >= self.configuration_at
            && self.configuration.may_lead(to)
        {
            handover.deadline = handover.deadline.min(now.max(goes_after));
        }
    }

    pub(crate) fn peer(&self, node: NodeId) -> Option<&Progress> {
        let at = self.peers.binary_search(&node).ok()?;
        self.progress.get(at)
    }
}
