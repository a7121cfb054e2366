//! The follower: checks that the logs agree, accepts entries, acknowledges what is durable (paper, 5.3).

use raftwerk_frame::{EntryId, Index, Membership, Message, NodeId, Run, Term};

use crate::contract::{Append, Effects};
use crate::group::{AppendContent, Group, NUMBER_MAX, Role};

/// What a leader's heartbeat contains besides its term.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heartbeat {
    pub(crate) commit: Index,
    pub(crate) round: u64,
    /// The leader offers to quiesce.
    pub(crate) quiesce: bool,
}

impl Group {
    /// Records that `from` leads this term. `false` if that cannot be, since this replica leads it.
    fn note_leader(&mut self, from: NodeId, effects: &mut Effects) -> bool {
        if self.role() == Role::Leader {
            return false;
        }
        if self.role() != Role::Follower || self.leader != Some(from) {
            self.renew_read_index();
            self.become_follower(self.hard_state.term, Some(from), effects);
        }
        assert!(self.role() == Role::Follower, "a replica with a leader follows it");
        assert!(self.leader == Some(from), "a term has one leader");
        self.note_leader_contact();
        self.fortify();
        self.rearm_election();
        true
    }

    pub(crate) fn on_heartbeat(&mut self, from: NodeId, heartbeat: Heartbeat, effects: &mut Effects) {
        let Heartbeat { commit, round, quiesce } = heartbeat;
        if self.note_leader(from, effects) {
            // The commit index covers only entries that we have acknowledged to the leader; an index beyond
            // our log is ignored.
            if commit <= self.log.last().index {
                self.commit_to(commit, effects);
            }
            let quiesce = quiesce && self.accept_quiescence(commit);
            let fortifies = self.is_fortifying();
            assert!(fortifies || !quiesce, "only a replica that fortifies its leader quiesces");
            assert!(self.commit <= self.log.last().index, "only what is in the log is committed");
            effects.send.push((
                from,
                Message::HeartbeatAck { term: self.hard_state.term, round, fortifies, quiesce },
            ));
            self.retry_read_index();
        }
    }

    /// AppendEntries at the receiver.
    pub(crate) fn on_append(
        &mut self,
        from: NodeId,
        prev: EntryId,
        (commit, progress_epoch): (Index, u16),
        content: AppendContent<'_>,
        effects: &mut Effects,
    ) {
        let (runs, memberships) = content;
        let term = self.hard_state.term;
        let Some(verified) = span_end(prev, runs, term) else { return };
        assert!(prev.index <= verified, "an append ends at or after what it follows");
        assert!(verified.0 <= NUMBER_MAX, "an index of a peer is checked on arrival");
        if !self.note_leader(from, effects) {
            return;
        }
        // Committed entries are in every later leader's log (leader completeness, paper section 5.4.3), so up to the
        // commit index there is nothing to compare, and no need to still have it.
        if prev.index >= self.commit && !self.log.holds(prev) {
            let hint = self.log.last_at_most(prev.index, prev.term);
            assert!(hint.index <= prev.index, "a leader goes back to a hint, not on");
            assert!(hint.term <= prev.term, "the logs may agree at a hint");
            let reject = Message::AppendReject { term, rejected: prev.index, hint };
            effects.send_durable.push((from, reject));
            return;
        }
        // There is one version of committed entries. An append with another term for our last committed entry
        // is not from a leader, and the entries that it brings after that cannot follow.
        if prev.index < self.commit
            && verified > self.commit
            && term_in(prev, runs, self.commit) != self.log.term_at(self.commit)
        {
            return;
        }
        if let Some(from) = self.accept_entries(prev.index, runs, verified, effects) {
            assert!(from > self.commit, "what is committed is never replaced");
            assert!(from <= verified, "what is new is among what was sent");
            assert!(self.log.last().index == verified, "the log ends with what is new");
            self.accept_memberships(memberships, from, verified, effects);
            assert!(self.configuration_index() <= verified, "a configuration in force is in the log");
            self.lift_fence();
        }
        // The entries after `verified` here are of this term, so the leader's own: where the logs differ, an
        // append brings the entry that replaces ours (a leader sends no append that ends before, see
        // `append_plan`).
        let matched = verified.max(self.commit);
        assert!(matched <= self.log.last().index, "only what is in the log is acknowledged");
        self.commit_to(commit.min(verified), effects);
        // Held until everything written so far is durable, so that the acknowledgement is true when it
        // leaves.
        effects.send_durable.push((from, Message::AppendAck { term, matched, progress_epoch }));
    }

    /// Follows the runs up to the first entry that is missing or of another term; from there on they replace
    /// ours. Entries that agree are left alone: an append that is late and short must not truncate
    /// acknowledged entries. Returns the index of the first new entry.
    fn accept_entries(
        &mut self,
        prev: Index,
        runs: &[Run],
        verified: Index,
        effects: &mut Effects,
    ) -> Option<Index> {
        let mut first = prev.next();
        let mut conflict = None;
        for run in runs {
            assert!(run.count > 0, "an empty run is refused on arrival");
            let end = first.plus(run.count - 1);
            let begin = first.max(self.commit.next());
            first = end.next();
            if begin > end {
                continue;
            }
            let from = match conflict {
                Some(_) => begin,
                None if self.log.term_at(begin) == Some(run.term) => {
                    let same_to = self.log.run_end(begin);
                    assert!(same_to >= begin, "an entry that agrees is in a run");
                    if same_to >= end {
                        continue;
                    }
                    same_to.next()
                }
                None => begin,
            };
            if conflict.is_none() {
                conflict = Some(from);
                if from <= self.log.last().index {
                    assert!(self.role() == Role::Follower, "a leader only appends");
                    self.log.replace_from(from);
                    self.roll_back(from, effects);
                }
            }
            assert!(from == self.log.last().index.next(), "a log has no gaps");
            assert!(from <= end, "a run that is appended has entries");
            self.log.append(run.term, end.0 + 1 - from.0);
        }
        if let Some(from) = conflict {
            effects.append = Some(Append::Accept { from, last: verified });
        }
        conflict
    }

    /// Configurations among the new entries are in force from now on (paper, section 6).
    fn accept_memberships(&mut self, all: &[Membership], from: Index, last: Index, effects: &mut Effects) {
        for membership in all {
            if (from..=last).contains(&membership.index) && membership.index > self.configuration_index() {
                self.put_in_force(membership.clone(), effects);
            }
        }
    }
}

/// The last index that an append covers; `None` if its runs cannot be a leader's: empty, of falling terms, of
/// a later term than its own, or of indices out of range.
fn span_end(prev: EntryId, runs: &[Run], term: Term) -> Option<Index> {
    let mut last = prev;
    for run in runs {
        if run.count == 0 || run.term < last.term || run.term > term {
            return None;
        }
        last = EntryId::new(run.term, Index(last.index.0.checked_add(run.count)?));
    }
    (last.index.0 <= NUMBER_MAX && prev.term <= term).then_some(last.index)
}

/// The term that an append gives the entry at `index`, which comes after `prev`.
fn term_in(prev: EntryId, runs: &[Run], index: Index) -> Option<Term> {
    let mut end = prev.index;
    assert!(index > prev.index, "an append has entries after the one that it follows");
    let run = runs.iter().find(|run| {
        end = end.plus(run.count);
        index <= end
    });
    run.map(|run| run.term)
}
