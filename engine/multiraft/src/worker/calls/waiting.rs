//! Where reads wait: in batches of one turn, which share a buffer for their queries; or *parked*, each with
//! its own query, ordered by what will answer or refuse it. And how many may wait.
//!
//! A strong read waits in a batch, for one round trip, without an allocation of its own. A parked read waits
//! for entries or for a leader, up to its caller's patience: when it is answered, its memory is released at
//! once, whatever else waits, and no other read is examined.
//!
//! Not here: when a read is answered ([`super`]).

use std::collections::{BTreeMap, BTreeSet};

use raftwerk_frame::{Index, Time};
use tokio::sync::oneshot;

use crate::api::consistency::Wanted;
use crate::api::error::ReadError;
use crate::api::status::{FrozenState, ReadAnswer};

/// Where an answer goes.
pub(crate) enum ReadWaiter {
    /// A pipeline, and its token.
    Pipeline { number: u32, token: u64 },
    /// A single caller.
    Single(oneshot::Sender<Result<ReadAnswer, ReadError>>),
    /// A caller that wants a frozen copy of the state.
    Freezing(oneshot::Sender<Result<FrozenState, ReadError>>),
}

/// A number of reads that wait, and the bytes of their queries; or the bounds of both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) reads: usize,
    pub(crate) bytes: usize,
}

impl Waiting {
    /// Whether one more read may wait. `self` is what waits at the worker, `of_group` the part of that at the
    /// read's own group. A group may hold as much as it leaves free: alone half of the bound, and as one of k
    /// such groups a share of 1 in k + 1. So groups without a leader never take all of it.
    pub(super) fn admits(&self, of_group: Self, bytes: usize, max: Self) -> bool {
        let free = |max: usize, taken: usize| max.saturating_sub(taken);
        of_group.reads < free(max.reads, self.reads)
            && of_group.bytes.saturating_add(bytes) <= free(max.bytes, self.bytes)
    }

    pub(super) fn enter(&mut self, query: &[u8]) {
        (self.reads, self.bytes) = (self.reads + 1, self.bytes + query.len());
    }

    pub(super) fn leave(&mut self, query: &[u8]) {
        (self.reads, self.bytes) = (self.reads - 1, self.bytes - query.len());
    }
}

impl std::ops::AddAssign for Waiting {
    fn add_assign(&mut self, other: Self) {
        (self.reads, self.bytes) = (self.reads + other.reads, self.bytes + other.bytes);
    }
}

/// A read that waits.
pub(super) struct PendingRead {
    pub(super) wanted: Wanted,
    /// When the read is refused; `None`: when there is no leader any more.
    pub(super) until: Option<Time>,
    pub(super) waiter: ReadWaiter,
}

impl PendingRead {
    const fn is_bounded(&self) -> bool {
        matches!(self.wanted, Wanted::Within(_))
    }

    fn gives_up_at(&self) -> Time {
        self.until.unwrap_or(Time::NEVER)
    }
}

/// A read of a batch, and the place of its query.
struct Placed {
    start: usize,
    len: usize,
    read: PendingRead,
}

/// Reads of one group and turn, and the bytes of their queries.
pub(crate) struct ReadBatch {
    queries: Vec<u8>,
    reads: Vec<Placed>,
    /// Some of them may be answered by an earlier read-index request.
    has_bounded: bool,
    /// The earliest deadline of its reads.
    first_until: Time,
}

/// Batches that are kept for reuse of their memory.
pub(in crate::worker) const SPARE_BATCHES: usize = 16;
/// A batch with more bytes of queries than this is not kept for reuse …
const SPARE_BYTES: usize = 64 << 10;
/// … nor one of more reads than this.
const SPARE_READS: usize = 4 << 10;

impl Default for ReadBatch {
    fn default() -> Self {
        Self { queries: Vec::new(), reads: Vec::new(), has_bounded: false, first_until: Time::NEVER }
    }
}

impl ReadBatch {
    pub(super) fn push(&mut self, query: &[u8], read: PendingRead) {
        let start = self.queries.len();
        self.queries.extend_from_slice(query);
        self.has_bounded |= read.is_bounded();
        self.first_until = self.first_until.min(read.gives_up_at());
        self.reads.push(Placed { start, len: query.len(), read });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    pub(super) const fn has_bounded(&self) -> bool {
        self.has_bounded
    }

    pub(super) const fn first_until(&self) -> Time {
        self.first_until
    }

    /// What it holds, including bytes of queries that have been answered and not released.
    pub(super) fn held(&self) -> Waiting {
        Waiting { reads: self.reads.len(), bytes: self.queries.len() }
    }

    /// Removes the reads that satisfy `is_so`, and passes each with its query to `then`.
    pub(super) fn extract(
        &mut self,
        mut is_so: impl FnMut(&PendingRead) -> bool,
        mut then: impl FnMut(&[u8], PendingRead),
    ) {
        let before = self.reads.len();
        for Placed { start, len, read } in self.reads.extract_if(.., |placed| is_so(&placed.read)) {
            then(&self.queries[start..][..len], read);
        }
        if self.reads.len() < before {
            self.compact();
        }
    }

    /// Removes all reads.
    pub(super) fn drain(&mut self, mut then: impl FnMut(&[u8], PendingRead)) {
        for Placed { start, len, read } in self.reads.drain(..) {
            then(&self.queries[start..][..len], read);
        }
        self.compact();
    }

    /// After reads were removed: makes the summary fields true of the others, and keeps the bytes of answered
    /// queries at no more than half of the buffer. Costs no more than the search for the removed reads.
    fn compact(&mut self) {
        (self.has_bounded, self.first_until) = (false, Time::NEVER);
        let mut live = 0;
        for Placed { len, read, .. } in &self.reads {
            live += len;
            self.has_bounded |= read.is_bounded();
            self.first_until = self.first_until.min(read.gives_up_at());
        }
        if self.reads.is_empty() {
            return self.queries.clear();
        }
        if live >= self.queries.len() / 2 {
            return;
        }
        let mut end = 0;
        for Placed { start, len, .. } in &mut self.reads {
            self.queries.copy_within(*start..*start + *len, end);
            (*start, end) = (end, end + *len);
        }
        self.queries.truncate(end);
        self.queries.shrink_to_fit();
        self.reads.shrink_to_fit();
    }

    /// Whether its memory is worth keeping for reuse.
    pub(in crate::worker) fn is_spare(&self) -> bool {
        let (reads, bytes) = (self.reads.capacity(), self.queries.capacity());
        self.is_empty() && reads > 0 && reads <= SPARE_READS && bytes <= SPARE_BYTES
    }
}

/// What a parked read waits for. Entries are ordered by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The entry is applied.
    Entry(Index),
    /// The group has a leader.
    Leader,
}

struct Parked {
    query: Box<[u8]>,
    read: PendingRead,
}

/// Reads that may wait for long, ordered by what they wait for and by deadline.
#[derive(Default)]
pub(super) struct ParkedReads {
    reads: BTreeMap<(Event, u64), Parked>,
    deadlines: BTreeSet<(Time, Event, u64)>,
    parked: u64,
}

impl ParkedReads {
    pub(super) fn push(&mut self, query: &[u8], read: PendingRead) {
        let event =
            if let Wanted::AtLeast(index) = read.wanted { Event::Entry(index) } else { Event::Leader };
        self.parked += 1;
        if let Some(until) = read.until {
            self.deadlines.insert((until, event, self.parked));
        }
        self.reads.insert((event, self.parked), Parked { query: query.into(), read });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    /// What is parked.
    pub(super) fn held(&self) -> Waiting {
        let bytes = self.reads.values().map(|parked| parked.query.len()).sum();
        Waiting { reads: self.reads.len(), bytes }
    }

    /// The earliest deadline.
    pub(super) fn first_until(&self) -> Time {
        self.deadlines.first().map_or(Time::NEVER, |(until, ..)| *until)
    }

    /// Whether the first entry that a read waits for is applied.
    pub(super) fn has_answerable(&self, applied: Index) -> bool {
        self.reads.first_key_value().is_some_and(|((event, _), _)| *event <= Event::Entry(applied))
    }

    /// Whether a read waits for a leader.
    pub(super) fn wants_leader(&self) -> bool {
        self.reads.last_key_value().is_some_and(|((event, _), _)| *event == Event::Leader)
    }

    /// Removes the reads that wait for an entry up to `applied`.
    pub(super) fn drain_applied(&mut self, applied: Index, mut then: impl FnMut(&[u8], PendingRead)) {
        while let Some(first) = self.reads.first_entry()
            && first.key().0 <= Event::Entry(applied)
        {
            let ((event, number), Parked { query, read }) = first.remove_entry();
            self.forget(read.until, event, number);
            then(&query, read);
        }
    }

    /// Removes the reads that wait for a leader, in order of arrival.
    pub(super) fn drain_asking(&mut self, mut then: impl FnMut(&[u8], PendingRead)) {
        for ((event, number), Parked { query, read }) in self.reads.split_off(&(Event::Leader, 0)) {
            self.forget(read.until, event, number);
            then(&query, read);
        }
    }

    /// Removes the reads past their deadline.
    pub(super) fn drain_due(&mut self, now: Time, mut then: impl FnMut(&[u8], PendingRead)) {
        while let Some(&(until, event, number)) = self.deadlines.first()
            && until <= now
        {
            self.deadlines.pop_first();
            if let Some(Parked { query, read }) = self.reads.remove(&(event, number)) {
                then(&query, read);
            }
        }
    }

    /// Removes all reads.
    pub(super) fn drain(&mut self, mut then: impl FnMut(&[u8], PendingRead)) {
        self.deadlines.clear();
        for Parked { query, read } in std::mem::take(&mut self.reads).into_values() {
            then(&query, read);
        }
    }

    fn forget(&mut self, until: Option<Time>, event: Event, number: u64) {
        if let Some(until) = until {
            self.deadlines.remove(&(until, event, number));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(wanted: Wanted, until: u64) -> PendingRead {
        PendingRead {
            wanted,
            until: Some(Time(until)),
            waiter: ReadWaiter::Pipeline { number: 0, token: until },
        }
    }

    fn query(number: u64) -> Vec<u8> {
        vec![number as u8; 10 + number as usize % 7]
    }

    #[test]
    fn a_batch_gives_every_read_its_own_query_and_holds_at_most_as_much_again() {
        let mut batch = ReadBatch::default();
        let mut live = 0;
        for number in 0..200 {
            batch.push(&query(number), read(Wanted::Latest, number));
            live += query(number).len();
        }
        let mut seen = 0;
        for at in 0..200_u64 {
            // From the middle, from the end, from the front.
            let number = if at % 2 == 0 { (at * 37) % 200 } else { at };
            batch.extract(
                |read| read.until == Some(Time(number)),
                |bytes, read| {
                    assert_eq!(bytes, query(read.until.unwrap().0));
                    (seen, live) = (seen + 1, live - bytes.len());
                },
            );
            assert!(batch.held().bytes <= 2 * live + 1, "{} of {live}", batch.held().bytes);
        }
        batch.drain(|bytes, read| {
            assert_eq!(bytes, query(read.until.unwrap().0));
            seen += 1;
        });
        assert_eq!((seen, batch.held()), (200, Waiting::default()));
    }

    #[test]
    fn a_batch_knows_when_the_first_of_those_that_are_left_gives_up() {
        let mut batch = ReadBatch::default();
        batch.push(b"a", read(Wanted::Within(Duration::ZERO), 5));
        batch.push(b"b", read(Wanted::Latest, 7));
        assert_eq!((batch.first_until(), batch.has_bounded()), (Time(5), true));
        batch.extract(|read| read.until == Some(Time(5)), |_, _| ());
        assert_eq!((batch.first_until(), batch.has_bounded()), (Time(7), false));
        batch.drain(|_, _| ());
        assert_eq!((batch.first_until(), batch.is_spare()), (Time::NEVER, true));
    }

    #[test]
    fn an_entry_that_no_log_can_hold_is_not_taken_for_a_leader() {
        let mut parked = ParkedReads::default();
        parked.push(b"forged", read(Wanted::AtLeast(Index(u64::MAX)), 1));
        assert!(!parked.wants_leader() && !parked.has_answerable(Index(u64::MAX - 1)));
        parked.push(b"strong", read(Wanted::Latest, 2));
        let mut asking = Vec::new();
        parked.drain_asking(|query, _| asking.push(query.to_vec()));
        assert_eq!((asking, parked.held().reads), (vec![b"strong".to_vec()], 1));
        assert_eq!(parked.first_until(), Time(1));
        parked.drain_due(Time(1), |query, _| assert_eq!(query, b"forged"));
        assert!(parked.is_empty() && parked.first_until() == Time::NEVER);
    }

    #[test]
    fn a_group_may_hold_as_much_as_it_leaves_free() {
        let max = Waiting { reads: 10, bytes: 100 };
        let waiting = |reads, bytes| Waiting { reads, bytes };
        assert!(
            waiting(0, 0).admits(waiting(0, 0), 100, max) && !waiting(0, 0).admits(waiting(0, 0), 101, max)
        );
        assert!(waiting(4, 0).admits(waiting(4, 0), 0, max) && !waiting(5, 0).admits(waiting(5, 0), 0, max));
        assert!(
            waiting(9, 90).admits(waiting(0, 0), 10, max) && !waiting(10, 0).admits(waiting(0, 0), 0, max)
        );
    }
}
