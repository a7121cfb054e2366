//! What must hold of who takes part: the rules `configuration in force`, `one change at a time` and `newcomers have caught
//! up`.
//!
//! Configurations are read off the disks, so that the core's own account of them is held against something. What is not
//! here: which majorities an election or a commit needs (the parent).

use raftwerk_frame::{Configuration, GroupId, Index, Term};
use raftwerk_raft::{Group, Role, reconfig};

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
