//! The state that a replica has in one role only.

use alloc::boxed::Box;
use alloc::vec::Vec;

use raftwerk_frame::{Index, NodeId, Time};
use smallvec::SmallVec;

use crate::group::Group;
use crate::group::election::transfer::PendingTransfer;
use crate::group::membership::admission::PendingAdmission;
use crate::group::membership::removal::Removal;
use crate::group::replication::progress::Progress;
use crate::group::replication::uncommitted::Uncommitted;
use crate::thin_vec::ThinVec;

/// The role of a replica (paper, section 5.1; thesis, section 9.6 for the pre-candidate).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Has requested pre-votes.
    PreCandidate,
    /// Campaigns.
    Candidate,
    /// Leads.
    Leader,
}

/// The role, with the state that exists in it only.
#[derive(Clone, Debug)]
pub(crate) enum RoleState {
    Follower,
    PreCandidate(Votes),
    Candidate(Votes),
    Leader(Box<Leadership>),
}

/// A voter's answer to a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ballot {
    Granted,
    Rejected,
}

/// How a replica campaigns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Campaign {
    /// It asks for pre-votes first: nothing changes, here or elsewhere (thesis, section 9.6).
    PreVote,
    /// It asks for votes.
    Vote,
    /// It asks for votes on the leader's request: live leaders do not matter (thesis, section 3.10).
    Transfer,
}

/// The votes, or pre-votes, of one campaign. Invariant: at most one for each voter; the first counts.
#[derive(Clone, Debug)]
pub(crate) struct Votes(ThinVec<(NodeId, Ballot)>);

impl Votes {
    /// As many fit without growth.
    const USUAL: usize = 4;

    /// A campaign begins: the candidate votes for itself.
    pub(crate) fn of_candidate(node: NodeId) -> Self {
        let mut votes = ThinVec::with_capacity(Self::USUAL);
        votes.push((node, Ballot::Granted));
        Self(votes)
    }

    pub(crate) fn note(&mut self, node: NodeId, ballot: Ballot) {
        if self.of(node).is_none() {
            self.0.push((node, ballot));
        }
    }

    pub(crate) fn of(&self, node: NodeId) -> Option<Ballot> {
        self.0.iter().find(|(voter, _)| *voter == node).map(|(_, ballot)| *ballot)
    }

    /// The voters that have rejected the candidate.
    pub(crate) fn rejecting(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.iter().filter(|(_, ballot)| *ballot == Ballot::Rejected).map(|(node, _)| *node)
    }
}

/// The state of a leader, from its election to the end of its leadership.
#[derive(Clone, Debug)]
pub(crate) struct Leadership {
    /// Invariant: as long as the group's `peers`, and in their order.
    progress: Vec<Progress>,
    /// How many peers were added in this term.
    last_progress_epoch: u16,
    uncommitted: Uncommitted,
    /// A membership change that waits for new members.
    admission: Option<Box<PendingAdmission>>,
    /// The removed peers that are still served.
    removals: ThinVec<Removal>,
    /// A leadership transfer under way.
    transfer: Option<Box<PendingTransfer>>,
    /// When to check next that messages were received from a quorum; never, while quiescent or without
    /// check-quorum.
    quorum_deadline: Time,
    /// When followers are sent a new commit index even without an entry; never, if there is none to send.
    commit_push_at: Time,
    /// The low half of last index + read round at the last quorum check. If unchanged since, the group was
    /// idle for a period, and its queues give their memory back.
    activity_mark: u32,
}

impl Leadership {
    /// A leader's state at its election, with the progress of its peers in their order.
    pub(crate) fn new(progress: Vec<Progress>) -> Self {
        Self {
            progress,
            last_progress_epoch: 0,
            uncommitted: Uncommitted::default(),
            admission: None,
            removals: ThinVec::new(),
            transfer: None,
            quorum_deadline: Time::NEVER,
            commit_push_at: Time::NEVER,
            activity_mark: 0,
        }
    }

    pub(crate) fn progress(&self) -> &[Progress] {
        &self.progress
    }

    /// The progress of all peers, and the removed peers among them.
    pub(crate) fn progress_and_removals(&mut self) -> (&mut [Progress], &[Removal]) {
        (&mut self.progress, &self.removals)
    }

    /// Removes the progress of all peers, to be placed anew by [`Leadership::set_progress`].
    pub(crate) fn take_progress(&mut self) -> Vec<Progress> {
        core::mem::take(&mut self.progress)
    }

    /// The peers have changed: the progress of each, in their order.
    pub(crate) fn set_progress(&mut self, progress: Vec<Progress>) {
        assert!(self.progress.is_empty(), "progress is placed anew after it was taken");
        self.progress = progress;
    }

    /// A new number for the progress of a peer that is added now.
    pub(crate) fn next_progress_epoch(&mut self) -> u16 {
        assert!(self.progress_epochs_left() > 0, "a change begins only with epochs left for its peers");
        self.last_progress_epoch += 1;
        self.last_progress_epoch
    }

    /// How many peers may still be added in this term.
    pub(crate) const fn progress_epochs_left(&self) -> usize {
        (u16::MAX - self.last_progress_epoch) as usize
    }

    /// A peer is removed, and served until it has received its removal.
    pub(crate) fn add_removal(&mut self, removal: Removal) {
        self.removals.push(removal);
    }

    /// The service of a removed peer ends.
    pub(crate) fn take_removal(&mut self, at: usize) -> Removal {
        assert!(at < self.removals.len(), "only a peer that is served is served no longer");
        self.removals.remove(at)
    }

    pub(crate) fn retain_removals(&mut self, keep: impl FnMut(&Removal) -> bool) {
        self.removals.retain(keep);
    }

    /// The peer at `at` is gone.
    pub(crate) fn remove_progress(&mut self, at: usize) {
        assert!(at < self.progress.len(), "every peer of a leader has progress");
        self.progress.remove(at);
    }

    /// Bytes of proposals that are not committed.
    pub(crate) const fn uncommitted_bytes(&self) -> u64 {
        self.uncommitted.bytes()
    }

    /// Proposals were appended, up to `last`.
    pub(crate) fn note_proposed(&mut self, last: Index, bytes: u64) {
        self.uncommitted.push(last, bytes);
    }

    /// The log is committed up to `index`, which followers are to be sent by `push_at`. Returns whether that is
    /// the first such commit index since the last was sent.
    pub(crate) fn note_committed(&mut self, index: Index, push_at: Time) -> bool {
        self.uncommitted.commit_to(index);
        let is_first = self.commit_push_at == Time::NEVER;
        if is_first {
            self.commit_push_at = push_at;
        }
        assert!(self.commit_push_at <= push_at, "a later commit index does not delay an earlier one");
        is_first
    }

    /// Whether a new commit index is to be sent now, even without an entry: reported once.
    pub(crate) fn take_commit_push(&mut self, now: Time) -> bool {
        let is_due = now >= self.commit_push_at;
        if is_due {
            self.commit_push_at = Time::NEVER;
        }
        is_due
    }

    /// Whether a new commit index waits to be sent.
    pub(crate) fn has_commit_to_push(&self) -> bool {
        self.commit_push_at != Time::NEVER
    }

    pub(crate) const fn set_quorum_deadline(&mut self, deadline: Time) {
        self.quorum_deadline = deadline;
    }

    pub(crate) fn is_quorum_check_due(&self, now: Time) -> bool {
        now >= self.quorum_deadline
    }

    /// At a quorum check: whether the group was idle since the last one.
    pub(crate) const fn was_idle(&mut self, activity_mark: u32) -> bool {
        core::mem::replace(&mut self.activity_mark, activity_mark) == activity_mark
    }

    pub(crate) const fn take_admission(&mut self) -> Option<Box<PendingAdmission>> {
        self.admission.take()
    }

    pub(crate) fn set_admission(&mut self, admission: Box<PendingAdmission>) {
        assert!(self.admission.is_none(), "one change waits for new members at a time");
        self.admission = Some(admission);
    }

    pub(crate) fn set_transfer(&mut self, transfer: PendingTransfer) {
        self.transfer = Some(Box::new(transfer));
    }

    /// The transfer that is given up now, if it is time.
    pub(crate) fn take_due_transfer(&mut self, now: Time) -> Option<Box<PendingTransfer>> {
        self.transfer.take_if(|transfer| transfer.deadline() <= now)
    }

    /// The earliest of its deadlines, except for heartbeats.
    fn next_deadline(&self) -> Time {
        let transfer = self.transfer.as_ref().map_or(Time::NEVER, |transfer| transfer.deadline());
        self.quorum_deadline.min(self.commit_push_at).min(transfer)
    }

    /// Bytes of memory beyond the group itself.
    fn bytes(&self) -> usize {
        let peers = self.progress.capacity() * size_of::<Progress>();
        let in_flight: usize = self.progress.iter().map(Progress::in_flight_capacity_bytes).sum();
        size_of::<Self>() + peers + in_flight + self.uncommitted.capacity_bytes() + self.removals.bytes()
    }

    /// Returns the memory of empty queues.
    pub(crate) fn shrink(&mut self) {
        self.progress.iter_mut().for_each(Progress::shrink);
        self.uncommitted.shrink();
    }
}

impl Group {
    /// The role of the replica.
    #[must_use]
    pub const fn role(&self) -> Role {
        match self.role {
            RoleState::Follower => Role::Follower,
            RoleState::PreCandidate(_) => Role::PreCandidate,
            RoleState::Candidate(_) => Role::Candidate,
            RoleState::Leader(_) => Role::Leader,
        }
    }

    /// Whether it leads.
    #[must_use]
    pub const fn is_leader(&self) -> bool {
        matches!(self.role, RoleState::Leader(_))
    }

    pub(crate) fn leadership(&self) -> Option<&Leadership> {
        if let RoleState::Leader(leadership) = &self.role { Some(leadership) } else { None }
    }

    pub(crate) fn leadership_mut(&mut self) -> Option<&mut Leadership> {
        if let RoleState::Leader(leadership) = &mut self.role { Some(leadership) } else { None }
    }

    /// A leader's peers and its state, to be changed together.
    pub(crate) fn peers_and_leadership(&mut self) -> Option<(&mut SmallVec<[NodeId; 4]>, &mut Leadership)> {
        let Self { peers, role, .. } = self;
        if let RoleState::Leader(leadership) = role { Some((peers, leadership)) } else { None }
    }

    pub(crate) fn votes_mut(&mut self) -> Option<&mut Votes> {
        match &mut self.role {
            RoleState::PreCandidate(votes) | RoleState::Candidate(votes) => Some(votes),
            RoleState::Follower | RoleState::Leader(_) => None,
        }
    }

    /// A leader's progress of all its peers, in the order of `peers`; empty in other roles.
    pub(crate) fn all_progress(&self) -> &[Progress] {
        self.leadership().map_or(&[], |leadership| &leadership.progress)
    }

    pub(crate) fn all_progress_mut(&mut self) -> &mut [Progress] {
        self.leadership_mut().map_or(&mut [], |leadership| &mut leadership.progress)
    }

    /// The removed peers that a leader still serves.
    pub(crate) fn removals(&self) -> &[Removal] {
        self.leadership().map_or(&[], |leadership| &leadership.removals)
    }

    pub(crate) fn removals_mut(&mut self) -> &mut [Removal] {
        self.leadership_mut().map_or(&mut [], |leadership| &mut leadership.removals)
    }

    pub(crate) fn pending_transfer(&self) -> Option<&PendingTransfer> {
        self.leadership()?.transfer.as_deref()
    }

    pub(crate) fn pending_transfer_mut(&mut self) -> Option<&mut PendingTransfer> {
        self.leadership_mut()?.transfer.as_deref_mut()
    }

    pub(crate) fn admission(&self) -> Option<&PendingAdmission> {
        self.leadership()?.admission.as_deref()
    }

    /// When [`Input::Timeout`](crate::Input::Timeout) is due.
    #[must_use]
    pub fn next_deadline(&self) -> Time {
        self.timers.deadline().min(self.leadership().map_or(Time::NEVER, Leadership::next_deadline))
    }

    /// Bytes of memory that a leader holds for its peers and its queues, beyond the group itself: none in a
    /// follower, little in a leader that has been idle for a while.
    #[must_use]
    pub fn leading_bytes(&self) -> usize {
        let configurations = self.configurations.bytes();
        self.leadership().map_or(0, Leadership::bytes) + self.reads.capacity_bytes() + configurations
    }
}
