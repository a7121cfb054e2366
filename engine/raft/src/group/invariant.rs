//! The invariants, numbered. Docs, checkers and messages use the same numbers.

use alloc::format;
use alloc::string::String;

use raftwerk_frame::{EntryId, Index, NodeId, Term};

use crate::group::{Group, Role};
use crate::reconfig::may_follow;

/// A violated invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its number.
    pub rule: u32,
    /// The observed state.
    pub what: String,
}

macro_rules! rule {
    ($number:literal, $holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err(Violation { rule: $number, what: format!($($what)*) });
        }
    };
}

/// Checks the invariants of one replica. Cost: a walk over its peers and term runs.
///
/// 1. `compacted ≤ applied ≤ commit ≤ last`.
/// 2. `durable ≤ last`, and what is compacted is durable.
/// 3. Terms in the log rise from run to run, begin after the compacted entry, and never pass the replica's term.
/// 4. Only a leader has progress of its peers, of every one, and it names itself as leader.
/// 5. For every follower: `matched < next ≤ last + 1`.
/// 6. A candidate has voted for itself.
/// 14. A candidate or leader has got back all that it held before it was removed and joined again.
/// 15. A witness is a follower.
/// 16. In every configuration of the log, more voters hold payloads than do not, and at least two if there is
///     a witness.
/// 17. A leader's progress marks as witnesses exactly the members that are witnesses in its configuration, and
///     the leader is none itself.
/// 11. Configurations are in the log in rising order, none after its end, the first at or before its
///     beginning.
///
/// # Errors
/// The first rule that does not hold.
pub fn check(group: &Group) -> Result<(), Violation> {
    let in_brief = check_in_brief(group);
    assert!(holds_in_brief(group) == in_brief.is_ok(), "both forms of the rules agree: {in_brief:?}");
    in_brief?;
    let (compacted, last) = (group.compacted(), group.last());
    let mut before = (compacted.term, compacted.index);
    for run in group.runs() {
        let rises = run.term >= before.0 && run.first > before.1 && run.first <= last.index;
        rule!(3, rises && run.term <= group.term(), "run {run:?} after {before:?} in term {}", group.term());
        before = (run.term, run.first);
    }
    for (peer, progress) in group.peers.iter().zip(group.all_progress()) {
        let (matched, next) = (progress.matched(), progress.next());
        rule!(
            5,
            matched < next && next <= last.index.next(),
            "{peer}: matched {matched}, next {next}, last {last}"
        );
        let (configuration, is_witness) = (group.configuration(), progress.is_witness());
        rule!(
            17,
            !configuration.contains(*peer) || configuration.is_witness(*peer) == is_witness,
            "{peer}: taken for a witness: {is_witness}, in {configuration:?}"
        );
    }
    check_memberships(group)
}

/// Whether [`check_in_brief`] finds nothing: the same rules, as comparisons alone. Checked after every input, in
/// every build.
#[inline]
pub(super) fn holds_in_brief(group: &Group) -> bool {
    let (compacted, last) = (group.compacted().index, group.last().index);
    let (applied, commit, durable) = (group.applied(), group.commit(), group.durable());
    let is_ordered = compacted <= applied
        && applied <= commit
        && commit <= last
        && compacted <= durable
        && durable <= last;
    let names_itself = group.leader().is_some_and(|leader| leader == group.node());
    is_ordered
        && match group.leadership() {
            Some(leadership) => {
                names_itself && leadership.progress().len() == group.peers.len() && may_lead(group)
            }
            None => !names_itself && (group.role() == Role::Follower || may_campaign(group)),
        }
}

/// The rules that bind leaders only, besides those for candidates.
fn may_lead(group: &Group) -> bool {
    !group.configuration().is_witness(group.node()) && is_fit(group)
}

/// The rules that bind candidates, in both rounds.
fn may_campaign(group: &Group) -> bool {
    let votes_for_itself = group.hard_state().vote.is_some_and(|vote| vote == group.node());
    (group.role() != Role::Candidate || votes_for_itself) && is_fit(group)
}

/// The rules that bind candidates and leaders.
fn is_fit(group: &Group) -> bool {
    !group.is_witness() && group.has_reached_floor()
}

/// Of the invariants of one replica, those that cost a few comparisons, whatever its log and its peers are. Rules
/// 1, 2, 4 (by count), 6, 14, 15, and of 17 the leader's part.
///
/// # Errors
/// The first rule that does not hold.
#[cold]
pub(super) fn check_in_brief(group: &Group) -> Result<(), Violation> {
    let (compacted, last) = (group.compacted(), group.last());
    let (applied, commit, durable) = (group.applied(), group.commit(), group.durable());
    rule!(
        1,
        compacted.index <= applied && applied <= commit && commit <= last.index,
        "compacted {compacted}, applied {applied}, commit {commit}, last {last}"
    );
    rule!(2, compacted.index <= durable && durable <= last.index, "durable {durable} of {compacted}..{last}");
    let leads = group.role() == Role::Leader;
    let named = group.leader() == Some(group.node());
    rule!(
        4,
        leads == named && group.all_progress().len() == if leads { group.peers.len() } else { 0 },
        "{:?} names {:?}",
        group.role(),
        group.leader()
    );
    let is_fit = group.role() == Role::Follower || !group.is_witness();
    rule!(15, is_fit, "a witness is {:?}", group.role());
    rule!(17, !leads || !group.configuration().is_witness(group.node()), "a witness leads");
    let voted = group.hard_state().vote == Some(group.node());
    let floor = group.origin().floor();
    rule!(
        14,
        group.role() == Role::Follower || last >= floor,
        "{:?} with {last}, and held {floor}",
        group.role()
    );
    rule!(6, group.role() != Role::Candidate || voted, "a candidate voted for {:?}", group.hard_state().vote);
    Ok(())
}

fn check_memberships(group: &Group) -> Result<(), Violation> {
    let mut before = None;
    for (index, configuration) in group.memberships() {
        rule!(16, configuration.holds_enough(), "{configuration:?} at {index}");
        let rises = before.is_none_or(|before| before < index) && index <= group.last().index;
        let reaches_back = before.is_some() || index <= group.compacted().index;
        rule!(11, rises && reaches_back, "a configuration at {index} after {before:?}");
        before = Some(index);
    }
    Ok(())
}

/// Checks the invariants between the replicas of one group, over the whole run of a test or simulation.
///
/// 7. At most one leader per term (election safety, paper section 5.2).
/// 8. Logs that agree on an entry agree on all before it (log matching, section 5.3): checked on the terms.
/// 9. What is committed anywhere is the same everywhere (state machine safety, section 5.4.3).
/// 10. A leader's log holds everything that is committed (leader completeness, section 5.4.3).
/// 12. At most one configuration of a log is not committed (section 6; thesis, section 4.1).
/// 13. Every configuration of a log may follow the one before it: one voter more or less, or through a joint one.
#[derive(Clone, Debug, Default)]
pub struct ClusterChecker {
    leaders: alloc::collections::BTreeMap<Term, NodeId>,
    committed: alloc::vec::Vec<Term>,
}

impl ClusterChecker {
    /// Checks all replicas. Cost: linear in the length of their logs.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check<'a>(&mut self, groups: impl Iterator<Item = &'a Group> + Clone) -> Result<(), Violation> {
        for group in groups.clone() {
            check(group)?;
            self.check_leader(group)?;
            self.check_committed(group)?;
        }
        for group in groups.clone() {
            self.check_changes(group)?;
        }
        for group in groups.clone().filter(|group| group.is_leader()) {
            // A deposed leader that has not received the later term yet may lack entries; only the latest
            // term's must have everything.
            if self.leaders.last_key_value() == Some((&group.term(), &group.node())) {
                self.check_complete(group)?;
            }
        }
        for one in groups.clone() {
            for other in groups.clone() {
                check_matching(one, other)?;
            }
        }
        Ok(())
    }

    fn check_changes(&self, group: &Group) -> Result<(), Violation> {
        let is_open = |index: Index| {
            let committed = self.committed.get((index.0 as usize).wrapping_sub(1)).copied();
            index > group.compacted().index && group.term_at(index) != committed
        };
        let open = group.memberships().filter(|(index, _)| is_open(*index)).count();
        rule!(12, open <= 1, "{} has {open} configurations that are not committed", group.node());
        for ((_, from), (at, to)) in group.memberships().zip(group.memberships().skip(1)) {
            let follows = from.is_empty() || may_follow(from, to);
            rule!(13, follows, "{}: {to:?} at {at} after {from:?}", group.node());
        }
        Ok(())
    }

    fn check_leader(&mut self, group: &Group) -> Result<(), Violation> {
        if group.is_leader() {
            let first = *self.leaders.entry(group.term()).or_insert(group.node());
            rule!(7, first == group.node(), "{} and {first} lead {}", group.node(), group.term());
        }
        Ok(())
    }

    fn check_complete(&self, group: &Group) -> Result<(), Violation> {
        let compacted = group.compacted().index.0 as usize;
        for (at, term) in self.committed.iter().enumerate().skip(compacted) {
            let id = EntryId::new(*term, Index(at as u64 + 1));
            rule!(
                10,
                group.term_at(id.index) == Some(id.term),
                "leader {} lacks {id}, which is committed",
                group.node()
            );
        }
        Ok(())
    }

    fn check_committed(&mut self, group: &Group) -> Result<(), Violation> {
        let from = group.compacted().index.0.max(1);
        for at in from..=group.commit().0 {
            let Some(term) = group.term_at(Index(at)) else { continue };
            match self.committed.get(at as usize - 1) {
                Some(known) => {
                    rule!(
                        9,
                        *known == term,
                        "{} has {at}@{} committed, not {at}@{}",
                        group.node(),
                        term.0,
                        known.0
                    );
                }
                None if self.committed.len() as u64 + 1 == at => self.committed.push(term),
                None => {}
            }
        }
        Ok(())
    }
}

fn check_matching(one: &Group, other: &Group) -> Result<(), Violation> {
    let from = one.compacted().index.max(other.compacted().index);
    let mut agreed = false;
    let mut at = one.last().index.min(other.last().index);
    while at > from {
        let terms = (one.term_at(at), other.term_at(at));
        let id = EntryId::new(terms.0.unwrap_or_default(), at);
        rule!(
            8,
            !agreed || terms.0 == terms.1,
            "{} and {} differ at {id}, below an entry they share",
            one.node(),
            other.node()
        );
        agreed |= terms.0 == terms.1;
        at = at.prev();
    }
    Ok(())
}
