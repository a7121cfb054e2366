//! Leadership transfer (thesis, section 3.10): the leader stops taking proposals, waits until the target
//! holds its whole log, and requests that it campaigns at once. If the target has not taken over within an
//! election timeout, proposals resume.
//!
//! A leader that is no voter of the committed configuration retires: it transfers the leadership, too, to any
//! suitable voter; and when its time is over it steps down, whether a successor took over or not (thesis,
//! section 4.2.2).

use raftwerk_frame::{Index, Message, NodeId, Time};

use crate::contract::{Effects, Transfer, TransferRefusal};
use crate::group::replication::progress::{PeerState, Progress};
use crate::group::{Group, Role};

/// A leadership transfer under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingTransfer {
    to: NodeId,
    deadline: Time,
    /// Of a retiring leader: the earliest time at which it steps down, once a possible successor has been sent
    /// the commit of the configuration; `deadline` at the latest.
    step_down_after: Option<Time>,
    /// When the target was last sent the request to campaign.
    timeout_now_at: Option<Time>,
}

impl PendingTransfer {
    /// When the transfer is given up, or a retiring leader steps down.
    pub(crate) const fn deadline(&self) -> Time {
        self.deadline
    }
}

impl Group {
    pub(crate) fn on_transfer(&mut self, to: NodeId, effects: &mut Effects) {
        if let Err(refusal) = self.fit_to_lead(to) {
            effects.transfer = Some(Transfer::Refused(refusal));
            return;
        }
        assert!(self.pending_transfer().is_none(), "one transfer is under way at a time");
        assert!(self.configuration().may_lead(to), "the target may lead");
        let deadline = self.now + self.config.election_timeout();
        self.unquiesce();
        self.set_pending_transfer(PendingTransfer {
            to,
            deadline,
            step_down_after: None,
            timeout_now_at: None,
        });
        self.send_timeout_now(effects);
    }

    fn fit_to_lead(&self, to: NodeId) -> Result<(), TransferRefusal> {
        if self.role() != Role::Leader {
            return Err(TransferRefusal::NotLeader { leader: self.leader });
        }
        if let Some(transfer) = self.pending_transfer() {
            return Err(TransferRefusal::InProgress(transfer.to));
        }
        if to == self.config.node {
            return Err(TransferRefusal::LeadsAlready);
        }
        if !self.configuration().voters.contains(&to) {
            return Err(TransferRefusal::NotAVoter);
        }
        if !self.configuration().may_lead(to) {
            return Err(TransferRefusal::Witness);
        }
        match self.peer(to) {
            Some(progress) if progress.state() == PeerState::Snapshot => Err(TransferRefusal::TooFarBehind),
            Some(progress) if progress.is_recently_active() => Ok(()),
            _ => Err(TransferRefusal::Inactive),
        }
    }

    /// Requests that the target campaigns, if it holds everything. Repeated with every heartbeat: the first
    /// request may be lost.
    pub(crate) fn send_timeout_now(&mut self, effects: &mut Effects) {
        let Some(to) = self.transfer_target().filter(|to| self.holds_all(*to)) else { return };
        assert!(self.is_leader(), "only a leader requests that another campaigns");
        self.support.note_timeout_now_sent();
        effects.send.push((to, Message::TimeoutNow { term: self.hard_state.term }));
        let now = self.now;
        self.pending_transfer_mut().into_iter().for_each(|transfer| transfer.timeout_now_at = Some(now));
    }

    /// A node holds more than before: the target may hold everything now; or this node may be the successor.
    pub(crate) fn consider_target(&mut self, node: NodeId, effects: &mut Effects) {
        let Some(to) = self.transfer_target() else { return };
        assert!(self.is_leader(), "only a leader has a transfer under way");
        let may_succeed = self.configuration().may_lead(node) && self.holds_all(node);
        if self.is_retiring() && may_succeed && !self.holds_all(to) {
            self.set_target(node);
        }
        if self
            .pending_transfer()
            .is_some_and(|transfer| transfer.to == node && transfer.timeout_now_at.is_none())
        {
            self.send_timeout_now(effects);
        }
    }

    /// A heartbeat later the target still does not lead. Of a retiring leader, the next voter that holds
    /// everything becomes the target, unless the last one was sent its request less than an interval ago: two
    /// at once would be rivals.
    pub(crate) fn retry_timeout_now(&mut self, effects: &mut Effects) {
        let interval = self.config.heartbeat_interval();
        if let Some(transfer) = self.pending_transfer().filter(|transfer| transfer.step_down_after.is_some())
        {
            if transfer.timeout_now_at.is_some_and(|timeout_now_at| self.now < timeout_now_at + interval) {
                return;
            }
            let to = transfer.to;
            let is_fit = |node: &NodeId| {
                self.holds_all(*node) && self.peer(*node).is_some_and(Progress::is_recently_active)
            };
            let fit = || self.successors().filter(is_fit);
            let next = fit().filter(|node| *node > to).min().or_else(|| fit().min());
            next.into_iter().for_each(|next| self.set_target(next));
        }
        self.send_timeout_now(effects);
    }

    /// The voters that hold payloads.
    fn successors(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.configuration().voters.iter().copied().filter(|node| self.configuration().may_lead(*node))
    }

    fn holds_all(&self, node: NodeId) -> bool {
        self.peer(node).is_some_and(|progress| progress.matched() == self.log.last().index)
    }

    fn set_target(&mut self, node: NodeId) {
        assert!(self.is_retiring(), "only a retiring leader looks for another target");
        self.pending_transfer_mut()
            .into_iter()
            .for_each(|transfer| (transfer.to, transfer.timeout_now_at) = (node, None));
    }

    /// Gives up a transfer that has reached its deadline. `true` if the leader must step down, too.
    pub(crate) fn give_up_transfer(&mut self, effects: &mut Effects) -> bool {
        let now = self.now;
        let Some(over) = self.leadership_mut().and_then(|leadership| leadership.take_due_transfer(now))
        else {
            return false;
        };
        assert!(self.pending_transfer().is_none(), "and is under way no longer");
        if over.step_down_after.is_none() {
            effects.transfer = Some(Transfer::Abandoned(over.to));
        }
        over.step_down_after.is_some()
    }

    fn set_pending_transfer(&mut self, transfer: PendingTransfer) {
        assert!(self.is_leader(), "only a leader transfers its leadership");
        assert!(transfer.deadline >= self.now, "a transfer has time");
        assert!(transfer.timeout_now_at.is_none(), "a transfer begins before its first request");
        if let Some(leadership) = self.leadership_mut() {
            leadership.set_transfer(transfer);
        }
    }

    /// The target of the transfer that is under way.
    #[must_use]
    pub fn transfer_target(&self) -> Option<NodeId> {
        self.pending_transfer().map(|transfer| transfer.to)
    }

    /// Whether this replica leads without a vote in the committed configuration, and only until another takes
    /// over.
    #[must_use]
    pub fn is_retiring(&self) -> bool {
        self.pending_transfer().is_some_and(|transfer| transfer.step_down_after.is_some())
    }

    /// The committed configuration gives this leader no vote. It continues to lead, without taking proposals,
    /// until the voter with the longest log has taken over; that voter is sent the request to campaign as
    /// soon as it holds everything.
    pub(crate) fn retire(&mut self, effects: &mut Effects) {
        if self.is_retiring() {
            return;
        }
        assert!(self.is_leader(), "only a leader retires");
        assert!(self.configuration_index() <= self.commit, "a leader retires by a committed configuration");
        let rank = |node: &NodeId| {
            self.peer(*node).map(|progress| (progress.is_recently_active(), progress.matched()))
        };
        let Some(successor) = self.successors().max_by_key(rank) else {
            return self.become_follower(self.hard_state.term, None, effects);
        };
        // A target that a client chose goes first.
        let chosen = self.transfer_target().filter(|chosen| self.configuration().may_lead(*chosen));
        let deadline = self.now + self.config.election_timeout();
        let step_down_after = Some(self.now + self.config.retirement());
        let _given_up = self.take_admission();
        let to = chosen.unwrap_or(successor);
        self.set_pending_transfer(PendingTransfer { to, deadline, step_down_after, timeout_now_at: None });
        self.send_timeout_now(effects);
    }

    /// A peer is being sent the commit index. If it may succeed a retiring leader, the leader need wait for
    /// no more than `step_down_after`.
    pub(crate) fn note_commit_sent(&mut self, to: NodeId, commit: Index) {
        if !self.is_retiring() || commit < self.configuration_index() || !self.configuration().may_lead(to) {
            return;
        }
        let now = self.now;
        if let Some(transfer) = self.pending_transfer_mut()
            && let Some(step_down_after) = transfer.step_down_after
        {
            let before = transfer.deadline;
            transfer.deadline = before.min(now.max(step_down_after));
            assert!(transfer.deadline <= before, "a leader that retires gets no more time");
        }
    }

    pub(crate) fn peer(&self, node: NodeId) -> Option<&Progress> {
        let at = self.peer_at(node)?;
        self.all_progress().get(at)
    }
}
