//! Membership changes: when a leader may make one, which configuration is in force, and what ends a change
//! (paper, section 6; thesis, chapter 4).
//!
//! A configuration is in force from the moment its entry is in the log, committed or not, until the entry is
//! replaced. So a replica keeps the earlier ones that it may have to fall back to, down to the one at its
//! log's beginning.
//!
//! A leader has at most one change under way: it begins none before an entry of its own term is committed (or
//! two leaders could take steps with majorities that do not overlap) and none before the last configuration is
//! committed. The leader leaves a joint configuration with `auto_leave` as soon as it is committed.
//!
//! What is not here: which configuration follows from which changes (`reconfig`), waiting for new members to
//! catch up (`admission`), leadership transfer (`transfer`).

pub(super) mod admission;
mod bootstrap;
pub(super) mod configurations;
mod identity;
pub(super) mod removal;

use raftwerk_frame::{Configuration, EntryId, Index, Membership, Message, NodeId, Term};
use smallvec::SmallVec;

use crate::contract::{Admission, Effects, ReceiverStanding, Reconfigure, Reconfigured, Refusal, Transition};
use crate::group::membership::configurations::{Configurations, Standing};
use crate::group::replication::leader::OwnEntries;
use crate::group::replication::progress::Progress;
use crate::group::replication::snapshot::Tail;
use crate::group::role::Leadership;
use crate::group::{Group, Role};
use crate::quorum::{self, VoteResult};
use crate::reconfig::{self, ChangeError};

impl Group {
    /// Processes a request for a membership change.
    pub(crate) fn on_reconfigure(&mut self, request: &Reconfigure<'_>, effects: &mut Effects) {
        let is_withdrawal = request.changes.is_empty() && !request.dry_run && self.role() == Role::Leader;
        if is_withdrawal && self.take_admission().is_some() {
            effects.reconfigured = Some(Reconfigured::Unchanged(self.configuration_index()));
            return;
        }
        let outcome = match self.plan(request) {
            Err(Refusal::NotCaughtUp(_)) if request.admission == Admission::Awaited => {
                self.begin_admission(request, effects)
            }
            Err(refusal) => Reconfigured::Refused(refusal),
            Ok(to) if to == *self.configuration() => Reconfigured::Unchanged(self.configuration_index()),
            Ok(to) if request.dry_run => Reconfigured::Planned(to),
            Ok(to) => Reconfigured::Started(self.append_configuration(to, effects)),
        };
        effects.reconfigured = Some(outcome);
    }

    /// The next configuration that a request leads to, if it may begin now.
    pub(crate) fn plan(&self, request: &Reconfigure<'_>) -> Result<Configuration, Refusal> {
        self.may_change(request.expected_index)?;
        let from = self.configuration();
        let to = match request.transition {
            _ if from.is_joint() && request.changes.is_empty() => return self.plan_leave(),
            _ if from.is_joint() => return Err(Refusal::InProgress(self.configuration_index())),
            Transition::Auto => match reconfig::simple(from, request.changes) {
                Err(ChangeError::ManyVoters) => {
                    reconfig::enter_joint(from, request.changes, reconfig::Leave::Automatically)
                }
                other => other,
            },
            Transition::Joint => reconfig::enter_joint(from, request.changes, reconfig::Leave::Automatically),
            Transition::JointHeld => reconfig::enter_joint(from, request.changes, reconfig::Leave::OnRequest),
        };
        let to = to.and_then(|to| reconfig::name(from, to, request.logs)).map_err(Refusal::Change)?;
        if request.admission != Admission::Unchecked {
            if let Some(node) =
                to.voters.iter().find(|node| !from.is_voter(**node) && !self.is_caught_up(**node))
            {
                return Err(Refusal::NotCaughtUp(*node));
            }
            self.keeps_quorum(&to)?;
        }
        Ok(to)
    }

    /// Whether a change may begin at all.
    fn may_change(&self, expected_index: Option<Index>) -> Result<(), Refusal> {
        if self.role() != Role::Leader {
            return Err(Refusal::NotLeader { leader: self.leader });
        }
        if self.pending_transfer().is_some() {
            return Err(Refusal::Transferring);
        }
        if !self.has_committed_in_term() {
            return Err(Refusal::NotReady);
        }
        if self.configuration_index() > self.commit || self.admission().is_some() {
            return Err(Refusal::InProgress(self.configuration_index()));
        }
        let epochs_left = self.leadership().map_or(0, Leadership::progress_epochs_left);
        if epochs_left < Configuration::REPLICAS_MAX {
            return Err(Refusal::TermExhausted);
        }
        match expected_index {
            Some(expected) if expected < self.configuration_index() => {
                Err(Refusal::Stale(self.configuration_index()))
            }
            _ => Ok(()),
        }
    }

    fn plan_leave(&self) -> Result<Configuration, Refusal> {
        reconfig::leave_joint(self.configuration()).map_err(Refusal::Change)
    }

    /// Whether an entry of this leader's term is committed: before, the leader does not know what is
    /// committed, nor whether an earlier leader's configuration is.
    pub(crate) fn has_committed_in_term(&self) -> bool {
        self.log.term_at(self.commit) == Some(self.hard_state.term)
    }

    fn keeps_quorum(&self, to: &Configuration) -> Result<(), Refusal> {
        let heard = |node| {
            Some(node == self.config.node || self.peer(node).is_some_and(Progress::is_recently_active))
        };
        match quorum::vote_result(to, heard) {
            VoteResult::Won => Ok(()),
            VoteResult::Lost | VoteResult::Pending => Err(Refusal::QuorumAtRisk),
        }
    }

    /// Appends a configuration, which is in force from now on.
    pub(crate) fn append_configuration(&mut self, to: Configuration, effects: &mut Effects) -> Index {
        assert!(self.configuration_index() <= self.commit, "one configuration at a time is not committed");
        assert!(self.has_committed_in_term(), "a change begins when the leader knows what is committed");
        assert!(effects.membership.is_none(), "a step appends one configuration");
        self.append_own(OwnEntries::Payloads(1), effects);
        let index = self.log.last().index;
        effects.membership = Some(to.clone());
        self.put_in_force(Membership { index, configuration: to }, effects);
        assert!(self.configuration_index() == index, "a configuration is in force once it is in the log");
        index
    }

    /// A configuration is in the log: it is in force from now on.
    pub(crate) fn put_in_force(&mut self, next: Membership, effects: &mut Effects) {
        self.configurations.push(next);
        self.on_configuration_changed(effects);
    }

    /// The log begins in this configuration, and no other is known.
    pub(crate) fn begin_in(&mut self, configuration: &Configuration, effects: &mut Effects) {
        assert!(
            self.configuration().is_empty(),
            "no configuration is replaced but by an entry or a snapshot"
        );
        assert!(!self.is_leader(), "a leader has a configuration");
        self.configurations = Configurations::new(configuration.clone(), self.log.compacted().index);
        self.on_configuration_changed(effects);
    }

    /// The log is replaced from `from` on, and the configurations there with it.
    pub(crate) fn roll_back(&mut self, from: Index, effects: &mut Effects) {
        while self.configuration_index() >= from && self.configurations.pop() {
            self.on_configuration_changed(effects);
        }
        assert!(!self.is_leader(), "a leader only appends");
        assert!(self.configuration_index() < from, "the configuration in force is in the log");
    }

    /// A snapshot replaces the log up to `index`. Configurations in the rest of the log stay in force.
    pub(crate) fn rebase(
        &mut self,
        index: Index,
        tail: Tail,
        configuration: &Configuration,
        effects: &mut Effects,
    ) {
        assert!(!self.is_leader(), "a leader installs no snapshot");
        assert!(index == self.log.compacted().index, "the log begins after the snapshot");
        if tail == Tail::Kept && self.configuration_index() > index {
            self.configurations.rebase(index, configuration);
        } else {
            if self.configurations.restart(index, configuration) {
                self.on_configuration_changed(effects);
            }
            // A leader sends snapshots to members only, also if the configuration is the same as before: the
            // replica was added again.
            self.forget_removal();
        }
    }

    /// The log begins after `to`: of the configurations up to there, the latest suffices.
    pub(crate) fn on_compacted(&mut self, to: Index) {
        assert!(to == self.log.compacted().index, "the log begins after what is compacted");
        assert!(to <= self.commit, "only what is committed is compacted");
        if self.is_removed() {
            self.standing.known = Standing::Removed;
        }
        self.configurations.compact(to);
    }

    /// Another configuration is in force, perhaps with other peers.
    fn on_configuration_changed(&mut self, effects: &mut Effects) {
        effects.configuration_changed = true;
        self.forget_removal();
        let before: SmallVec<[NodeId; 4]> = core::mem::take(&mut self.peers);
        self.update_peers();
        if self.role() == Role::Leader {
            self.place_peers(before, effects);
        }
    }

    /// Another configuration is in force: an earlier removal notice no longer counts.
    fn forget_removal(&mut self) {
        if self.standing.known == Standing::Removed {
            self.standing.known = Standing::Unknown;
        }
    }

    /// The commit index has passed `before` in a leader: a configuration may have become committed, and need
    /// a next step.
    pub(crate) fn on_commit_advanced(&mut self, before: Index, effects: &mut Effects) {
        assert!(self.is_leader(), "a leader takes the next step of a change");
        assert!(self.commit > before, "a step follows a commit");
        self.start_removal_deadlines();
        if self.configuration_index() > self.commit {
            return;
        }
        if self.configuration().is_joint() {
            if !self.configuration().auto_leave {
                effects.settled = Some(self.configuration_index()).filter(|at| *at > before);
            } else if effects.append.is_none()
                && let Ok(to) = self.plan_leave()
            {
                self.append_configuration(to, effects);
            }
            return;
        }
        if self.configuration_index() > before {
            effects.settled = Some(self.configuration_index());
        }
        if !self.is_voter_of(self.configuration()) {
            return self.retire(effects);
        }
        self.continue_admission(effects);
    }

    /// A node that is no member requests votes with a log that is no newer than ours: it was removed, and has
    /// not received its removal.
    pub(crate) fn reply_removed(&self, from: NodeId, last: EntryId, effects: &mut Effects) -> bool {
        let is_gone = self.configuration_index() <= self.commit
            && !self.configuration().is_empty()
            && !self.configuration().contains(from)
            && last <= self.log.last();
        if is_gone {
            let (term, configuration) = (self.hard_state.term, self.configuration_id());
            effects.send_durable.push((from, Message::Removed { term, configuration }));
        }
        is_gone
    }

    /// Processes a removal notice. The replica is removed unless it has a later configuration.
    pub(crate) fn on_removal_notice(&mut self, configuration: EntryId, effects: &mut Effects) {
        let is_later = if self.configuration_index() <= self.commit {
            configuration.index > self.configuration_index()
        } else {
            // It is also new that the one in force here is committed.
            let known = self.configuration_id();
            configuration > known || configuration == known && !self.is_named_in(self.configuration())
        };
        // A live leader that has this replica as a member overrides a notice that may be late.
        if is_later
            && self.standing.known != Standing::Member
            && self.role() != Role::Leader
            && !self.configuration().is_empty()
        {
            if self.role() != Role::Follower {
                self.become_follower(self.hard_state.term, None, effects);
            }
            assert!(self.role() == Role::Follower, "a removed replica campaigns no longer");
            self.standing.known = Standing::Removed;
            self.timers.stop();
            assert!(self.is_removed() && !self.may_campaign(), "a removal notice ends the membership");
        }
    }

    /// Whether this replica is a member no longer: it has received a removal notice, or its log holds a
    /// committed configuration without it after one that named it. It does not campaign, and its driver may
    /// drop it. A replica that has yet to receive the entry that adds it is not removed; nor is one that
    /// catches up through the configurations of an earlier membership, while the leader has it as a member. A
    /// removal that only the log has shown is forgotten with a restart after the log's compaction.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        let is_without = self.configuration_index() <= self.commit && !self.is_named_in(self.configuration());
        let was_named = || self.configurations.earlier().any(|before| self.is_named_in(before));
        match self.standing.known {
            Standing::Removed => true,
            Standing::Member => false,
            Standing::Unknown => is_without && was_named(),
        }
    }

    /// Must be called before an append (with its progress epoch) or heartbeat (without) of `term` is stepped.
    /// The leader's configuration is in force before this replica has it, so it overrides what
    /// the log shows so far, and a late removal notice, for as long as the leader is alive. A late append of
    /// an earlier membership is recognised by its progress epoch. So a replica that was removed and added
    /// again learns this before it has the entry that adds it, which would end its removal, too.
    pub fn note_standing(&mut self, term: Term, progress_epoch: Option<u16>, standing: ReceiverStanding) {
        if term < self.hard_state.term || !self.is_plausible_term(term) {
            return;
        }
        if term > self.hard_state.term {
            self.standing.epoch = 0;
        }
        let is_member = standing == ReceiverStanding::Member;
        // Progress epochs rise by one with each added peer; a difference of more than half the range means
        // that one is behind.
        let behind = |progress_epoch: u16| self.standing.epoch.wrapping_sub(progress_epoch as u8);
        let is_late =
            progress_epoch.map_or(!is_member, |progress_epoch| (1..128).contains(&behind(progress_epoch)));
        if is_late {
            return;
        }
        self.standing.epoch =
            progress_epoch.map_or(self.standing.epoch, |progress_epoch| progress_epoch as u8);
        if is_member {
            self.standing.known = Standing::Member;
        } else if self.standing.known == Standing::Member {
            self.standing.known = Standing::Unknown;
        }
    }

    /// Whether this replica may campaign: a voter of the configuration in force; or of the one before, while
    /// its removal is not committed, since then the others may still need it (thesis, section 4.2.2). A
    /// replica that has joined again and has yet to get back what it once held does not campaign: it would
    /// not vote for itself. A witness cannot lead: it would have nothing to send, and nothing to apply.
    pub(crate) fn may_campaign(&self) -> bool {
        let was_voter = || self.configurations.previous().is_some_and(|before| self.is_voter_of(before));
        self.standing.known != Standing::Removed
            && !self.is_fenced()
            && !self.is_witness
            && self.has_reached_floor()
            && (self.is_voter_of(self.configuration())
                || self.configuration_index() > self.commit && was_voter())
    }

    /// Whether this replica is a member in a configuration: it names the node, and either its log; or no log,
    /// and the replica is an initial member.
    pub(crate) fn is_named_in(&self, configuration: &Configuration) -> bool {
        configuration.contains(self.config.node) && self.has_log_in(configuration)
    }

    /// Whether a configuration that has this node means this replica's log.
    fn has_log_in(&self, configuration: &Configuration) -> bool {
        match configuration.log_of(self.config.node) {
            Some(log) => log == self.config.own_log,
            None => self.joined.is_none(),
        }
    }

    fn is_voter_of(&self, configuration: &Configuration) -> bool {
        configuration.is_voter(self.config.node) && self.has_log_in(configuration)
    }

    /// The configuration in force.
    #[must_use]
    pub const fn configuration(&self) -> &Configuration {
        self.configurations.current()
    }

    /// The index of the configuration in force. After a restart, a configuration that is older than the log
    /// has the index of the entry before the log's first.
    #[must_use]
    pub const fn configuration_index(&self) -> Index {
        self.configurations.index()
    }

    /// The configuration in force at `index` of the log, and its index; `None` before the log's beginning. A
    /// snapshot of the state at `index` must carry it.
    #[must_use]
    pub fn configuration_up_to(&self, index: Index) -> Option<(Index, &Configuration)> {
        self.configurations.up_to(index)
    }

    /// Every configuration of the log, oldest first, the last one in force. The first is at or before the
    /// log's beginning.
    pub fn memberships(&self) -> impl Iterator<Item = (Index, &Configuration)> + '_ {
        self.configurations.all()
    }
}
