//! What must hold of members and voters: the rules `configuration in force`, `one change at a time`, `newcomers have caught
//! up`, `removed is removed` and `no vote, no entries`.
//!
//! Configurations are read off the disks, so that the core's own account of them is held against something. What is not
//! here: which majorities an election or a commit needs (the parent).

use raftwerk_frame::{Configuration, EntryId, GroupId, Index, LogId, NodeId, Term};
use raftwerk_raft::{Group, Role, reconfig};
use rustc_hash::FxHashMap;

use super::{Checked, GroupWatch, Violation, Watch, ensure};

impl Watch {
    /// A leader has another configuration: of its own making, if it is of its term.
    pub(super) fn check_newcomers(
        &self,
        id: GroupId,
        core: &Group,
        earlier: Option<&Configuration>,
        whose: &str,
    ) -> Checked {
        let is_own = core.term_at(core.configuration_index()) == Some(core.term());
        let Some(earlier) = earlier.filter(|_| is_own) else { return Ok(()) };
        for voter in core.configuration().voters.iter().filter(|voter| !earlier.is_voter(**voter)) {
            let watch = self.replicas.get(&(voter.0 as usize - 1, id.0));
            let has_answered = watch.is_some_and(|watch| watch.acknowledged.0 >= core.term());
            ensure!(
                has_answered || *voter == core.node(),
                "newcomers have caught up",
                "{whose}: makes {voter} a voter, which has acknowledged {:?}",
                watch.map(|watch| watch.acknowledged)
            );
        }
        Ok(())
    }

    /// A replica that has joined since its node began, and is served by leaders with it in their configuration,
    /// is not removed: also while its log comes by a configuration that is without what its node had been before.
    pub(super) fn check_served(&self, node: usize, id: GroupId, core: &Group, whose: &str) -> Checked {
        let Some(joined) = self.joined.get(&(node, id.0)).filter(|_| core.is_removed()) else {
            return Ok(());
        };
        let (me, at) = (core.node(), core.configuration_index().0);
        let is_of_before = core.last().index.0 > 0 && at <= *joined && core.leader().is_some();
        let Some(latest) = self.latest_configuration(id).filter(|_| is_of_before) else { return Ok(()) };
        // It may have been let in, taken out and let in again since, and have got a notice of that.
        let group = self.groups.get(&id.0);
        let mut since = group.into_iter().flat_map(|of| of.committed_configurations(*joined, u64::MAX));
        if since.any(|of| !of.contains(me)) {
            return Ok(());
        }
        ensure!(
            !latest.contains(me) || latest.log_of(me).is_none() || !self.is_meant(latest, me),
            "removed is removed",
            "{whose}: takes itself for removed by {at}, joined after {joined} were committed, and is in {latest:?}"
        );
        Ok(())
    }

    /// A notice of removal leaves a node: the configuration that it names is committed, and without the receiver.
    pub(super) fn check_notice(&self, to: NodeId, id: GroupId, named: EntryId, whose: usize) -> Checked {
        let Some(group) = self.groups.get(&id.0) else { return Ok(()) };
        let index = named.index.0;
        let term = index.checked_sub(1).and_then(|at| group.committed.get(at as usize));
        // The first configuration is no entry; of one that is compacted, the notice has no term.
        let is_committed = index == 0 || term.is_some_and(|term| *term == named.term || named.term.0 == 0);
        // After a restart a configuration counts as of the entry before the log's first.
        let latest = group.committed_configurations(0, index).next_back();
        ensure!(
            is_committed && latest.is_none_or(|latest| !latest.contains(to)),
            "removed is removed",
            "n{} {id}: tells {to} that {named} is without it, committed: {is_committed}, {latest:?}",
            whose + 1
        );
        Ok(())
    }
}

impl Watch {
    /// A replica's join is durable for the first time: it is not one that was written again elsewhere in the log.
    pub(super) fn note_joined(&mut self, node: usize, group: GroupId) {
        let committed = self.committed(group);
        self.joined.insert((node, group.0), committed);
    }

    /// A node begins anew. That a leader has its replicas for members, they knew in memory alone: late notices
    /// count again, until a leader is heard.
    pub(super) fn forget_joined(&mut self, node: usize) {
        self.joined.retain(|(of, _), _| *of != node);
    }

    /// The latest committed configuration of a group; `None`: the one that it began with.
    pub(crate) fn latest_configuration(&self, group: GroupId) -> Option<&Configuration> {
        self.groups.get(&group.0)?.committed_configurations(0, u64::MAX).next_back()
    }
}

impl GroupWatch {
    /// The configurations after one entry, and up to another, that are committed; in order.
    fn committed_configurations(
        &self,
        after: u64,
        up_to: u64,
    ) -> impl DoubleEndedIterator<Item = &Configuration> {
        let is_committed =
            |(index, term): &(u64, Term)| self.committed.get((*index as usize).wrapping_sub(1)) == Some(term);
        let between = self.configurations.range((after, Term(u64::MAX))..=(up_to, Term(u64::MAX)));
        between.filter(move |(id, _)| is_committed(id)).map(|(_, configuration)| configuration)
    }
}

/// Whether a replica leads, and has no vote in the committed configuration.
pub(super) fn is_voteless(core: &Group) -> bool {
    let configuration = core.configuration();
    core.role() == Role::Leader
        && core.configuration_index() <= core.commit()
        && !configuration.is_joint()
        && !configuration.is_voter(core.node())
}

/// A replica that takes itself for removed is: the last configuration that it knows to be committed is without it, or a later one.
pub(super) fn check_removed(group: &GroupWatch, core: &Group, whose: &str) -> Checked {
    let me = core.node();
    let known = core.configuration_up_to(core.commit()).filter(|_| core.is_removed());
    let Some((at, known)) = known.filter(|(_, known)| known.contains(me)) else { return Ok(()) };
    let mut later = group.committed_configurations(at.0, u64::MAX);
    ensure!(
        later.any(|configuration| !configuration.contains(me)),
        "removed is removed",
        "{whose}: takes itself for removed, and nothing that is committed after {known:?} at {at} is without it"
    );
    Ok(())
}

/// A replica goes by the latest configuration of its log; where the log has none, by the latest before it.
pub(super) fn check_in_force(group: &GroupWatch, core: &Group, whose: &str) -> Checked {
    if group.configurations.is_empty() {
        return Ok(());
    }
    let (at, compacted) = (core.configuration_index().0, core.compacted().index.0);
    let (after, end) = ((at.max(compacted) + 1, Term(0)), (core.last().index.0, Term(u64::MAX)));
    let is_held = |(index, term): &(u64, Term)| core.term_at(Index(*index)) == Some(*term);
    let mut later = (after <= end).then(|| group.configurations.range(after..=end)).into_iter().flatten();
    let later = later.find(|(id, _)| is_held(id));
    ensure!(
        later.is_none(),
        "configuration in force",
        "{whose}: goes by the one of {at}, and has {later:?} in its log"
    );
    let expected = if at > compacted {
        core.term_at(Index(at)).and_then(|term| group.configurations.get(&(at, term)))
    } else {
        let is_committed =
            |(index, term): &(u64, Term)| group.committed.get(*index as usize - 1) == Some(term);
        let up_to = group.configurations.range(..=(compacted, Term(u64::MAX))).rev();
        up_to.into_iter().find(|(id, _)| is_committed(id)).map(|(_, configuration)| configuration)
    };
    ensure!(
        expected.is_none_or(|expected| expected == core.configuration()),
        "configuration in force",
        "{whose}: goes by {:?} of {at}, its log begins after {compacted}, and it is {expected:?}",
        core.configuration()
    );
    Ok(())
}

/// A replica has another configuration than before.
pub(super) fn check_changes(group: &GroupWatch, core: &Group, whose: &str) -> Checked {
    let is_open = |index: Index| {
        index > core.compacted().index
            && core.term_at(index) != group.committed.get((index.0 as usize).wrapping_sub(1)).copied()
    };
    let open = core.memberships().filter(|(index, _)| is_open(*index)).count();
    ensure!(open <= 1, "one change at a time", "{whose}: {open} configurations are not committed");
    for ((_, from), (index, to)) in core.memberships().zip(core.memberships().skip(1)) {
        ensure!(
            from.is_empty() || reconfig::may_follow(from, to),
            "one change at a time",
            "{whose}: {to:?} at {index} after {from:?}"
        );
    }
    let (index, term) = (core.configuration_index(), core.term());
    ensure!(
        core.role() != Role::Leader
            || core.term_at(index) != Some(term)
            || core.term_at(core.commit()) == Some(term),
        "one change at a time",
        "{whose}: changes its configuration at {index}, and commits {} of {:?}",
        core.commit(),
        core.term_at(core.commit())
    );
    Ok(())
}

/// Whether a configuration that names a node means the log that it has now.
pub(super) fn is_meant(
    reborn: &FxHashMap<NodeId, LogId>,
    configuration: &Configuration,
    node: NodeId,
) -> bool {
    reborn.get(&node).is_none_or(|log| configuration.log_of(node) == Some(*log))
}

/// Whether a majority of each half holds something.
pub(super) fn is_quorum(configuration: &Configuration, holds: impl Fn(&NodeId) -> bool) -> bool {
    let majority = |voters: &[NodeId]| {
        voters.is_empty() || voters.iter().filter(|node| holds(node)).count() > voters.len() / 2
    };
    majority(&configuration.voters) && majority(&configuration.outgoing)
}
