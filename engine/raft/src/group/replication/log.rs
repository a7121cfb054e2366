//! The log as the core sees it: its ends and its terms. The entries belong to the driver.

use alloc::vec::Vec;

use raftwerk_frame::{EntryId, Index, Term};

use crate::contract::TermRun;

/// The ends and terms of a log. A handful of runs, whatever its length.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    compacted: EntryId,
    runs: Vec<TermRun>,
    last: Index,
    durable: Index,
}

impl Log {
    pub(crate) fn new(compacted: EntryId, runs: Vec<TermRun>, last: Index) -> Self {
        let last = last.max(compacted.index);
        Self { compacted, runs, last, durable: last }
    }

    pub(crate) const fn compacted(&self) -> EntryId {
        self.compacted
    }

    pub(crate) const fn durable(&self) -> Index {
        self.durable
    }

    pub(crate) fn runs(&self) -> &[TermRun] {
        &self.runs
    }

    pub(crate) fn last(&self) -> EntryId {
        let term = self.runs.last().map_or(self.compacted.term, |run| run.term);
        EntryId::new(term, self.last)
    }

    /// The term of the entry at `index`; known from the last compacted entry on.
    #[inline]
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index > self.last {
            return None;
        }
        // Most lookups are near the end.
        match self.runs.last() {
            Some(run) if run.first <= index => Some(run.term),
            _ => self.earlier_term_at(index),
        }
    }

    /// The same, of an entry before the last run.
    fn earlier_term_at(&self, index: Index) -> Option<Term> {
        if index <= self.compacted.index {
            return (index == self.compacted.index).then_some(self.compacted.term);
        }
        let run = self.runs.iter().rfind(|run| run.first <= index);
        run.map(|run| run.term)
    }

    #[inline]
    pub(crate) fn holds(&self, id: EntryId) -> bool {
        self.term_at(id.index) == Some(id.term)
    }

    /// The last index of the run that `index` is in.
    pub(crate) fn run_end(&self, index: Index) -> Index {
        assert!(index <= self.last, "only what is in the log is in a run");
        let next = self.runs.iter().find(|run| run.first > index);
        let end = next.map_or(self.last, |run| run.first.prev());
        assert!(end >= index, "a run ends at or after each of its entries");
        end
    }

    /// The last entry at or before `from` whose term is at most `term`: the most that two logs may have in
    /// common.
    pub(crate) fn last_at_most(&self, from: Index, term: Term) -> EntryId {
        let mut index = from.min(self.last);
        loop {
            match self.term_at(index) {
                Some(here) if here <= term => return EntryId::new(here, index),
                Some(_) if index > self.compacted.index => {
                    let run = self.runs.iter().rfind(|run| run.first <= index);
                    index = run.map_or(self.compacted.index, |run| run.first.prev());
                }
                _ => return EntryId::new(Term(0), index.min(self.compacted.index)),
            }
        }
    }

    pub(crate) fn append(&mut self, term: Term, count: u64) {
        assert!(count > 0, "a run has entries");
        assert!(self.last.0.checked_add(count).is_some(), "an index is counted, or checked on arrival");
        if self.runs.last().is_none_or(|run| run.term != term) {
            self.begin_run(term);
        }
        self.last = self.last.plus(count);
        self.assert_order();
    }

    /// The next entry is the first of a term.
    #[cold]
    fn begin_run(&mut self, term: Term) {
        assert!(self.runs.last().is_none_or(|run| run.first <= self.last), "a run has entries");
        self.runs.push(TermRun { term, first: self.last.next() });
    }

    /// Drops everything from `from` on.
    pub(crate) fn replace_from(&mut self, from: Index) {
        assert!(from > self.compacted.index, "what is compacted is committed, and stays");
        assert!(from <= self.last, "what is replaced is in the log");
        self.last = from.prev();
        self.durable = self.durable.min(self.last);
        while self.runs.last().is_some_and(|run| run.first >= from) {
            self.runs.pop();
        }
        self.assert_order();
    }

    /// Records that the log is durable up to `id`, unless that entry has been replaced since it was written.
    pub(crate) fn set_durable(&mut self, id: EntryId) -> bool {
        let news = id.index > self.durable && self.holds(id);
        if news {
            self.durable = id.index;
        }
        assert!(self.durable <= self.last, "only what is in the log is durable");
        news
    }

    /// Drops the prefix up to `to`, which must be held.
    pub(crate) fn compact(&mut self, to: Index) {
        let Some(term) = self.term_at(to) else { return };
        assert!(to >= self.compacted.index, "what is compacted does not come back");
        self.compacted = EntryId::new(term, to);
        let keep = self.runs.iter().rposition(|run| run.first <= to.next()).unwrap_or(0);
        self.runs.drain(..keep);
        if let Some(first) = self.runs.first_mut() {
            first.first = first.first.max(to.next());
        }
        if self.last == to {
            self.runs.clear();
        }
        self.durable = self.durable.max(to);
        let first = self.runs.first();
        assert!(first.is_none_or(|run| run.first > to), "a run begins after what is compacted");
        assert!(self.durable >= self.compacted.index, "what is compacted is durable");
        self.assert_order();
    }

    /// After every change of an end.
    fn assert_order(&self) {
        assert!(self.compacted.index <= self.last, "what is compacted is in the log");
        assert!(self.durable <= self.last, "only what is in the log is durable");
        assert!(self.runs.last().is_none_or(|run| run.first <= self.last), "a run has entries");
    }

    /// Starts anew after `id`.
    pub(crate) fn reset(&mut self, id: EntryId) {
        assert!(id.index > self.compacted.index, "what is compacted does not come back");
        self.runs.clear();
        (self.compacted, self.last, self.durable) = (id, id.index, id.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64, term: u64) -> EntryId {
        EntryId::new(Term(term), Index(index))
    }

    /// 1@1 2@1 3@1 | 4@2 | 5@5 6@5
    fn log() -> Log {
        let mut log = Log::new(EntryId::default(), Vec::new(), Index(0));
        log.append(Term(1), 3);
        log.append(Term(2), 1);
        log.append(Term(5), 2);
        log
    }

    #[test]
    fn terms_are_known_from_the_compacted_entry_to_the_last() {
        let mut log = log();
        assert_eq!([3, 4, 6].map(|at| log.term_at(Index(at))), [Some(Term(1)), Some(Term(2)), Some(Term(5))]);
        assert_eq!(log.term_at(Index(7)), None);
        log.compact(Index(4));
        assert_eq!((log.compacted(), log.last()), (id(4, 2), id(6, 5)));
        assert_eq!([3, 4, 5].map(|at| log.term_at(Index(at))), [None, Some(Term(2)), Some(Term(5))]);
        log.compact(Index(6));
        assert_eq!((log.last(), log.runs().len()), (id(6, 5), 0));
        log.append(Term(5), 1);
        assert_eq!(log.last(), id(7, 5));
    }

    #[test]
    fn compaction_inside_a_run_keeps_its_tail() {
        let mut log = log();
        log.compact(Index(2));
        assert_eq!(log.runs()[0], TermRun { term: Term(1), first: Index(3) });
        assert_eq!(log.run_end(Index(3)), Index(3));
    }

    #[test]
    fn a_search_for_common_ground_skips_whole_terms() {
        let log = log();
        assert_eq!(log.last_at_most(Index(6), Term(4)), id(4, 2));
        assert_eq!(log.last_at_most(Index(9), Term(5)), id(6, 5));
        assert_eq!(log.last_at_most(Index(6), Term(0)), id(0, 0));
    }

    #[test]
    fn a_durable_notice_for_a_replaced_entry_counts_for_nothing() {
        let mut log = log();
        log.replace_from(Index(5));
        assert_eq!((log.last(), log.durable()), (id(4, 2), Index(0)));
        log.append(Term(7), 2);
        assert!(!log.set_durable(id(6, 5)));
        assert!(log.set_durable(id(6, 7)));
        assert!(!log.set_durable(id(5, 7)), "never back");
        let mut restored = Log::new(id(3, 1), Vec::new(), Index(3));
        assert_eq!(restored.durable(), Index(3), "what was read back is durable");
        assert!(!restored.set_durable(id(3, 1)));
    }
}
