//! What state machines were fed, and what callers were answered: the record outside the engine that nothing may contradict.
//!
//! Every machine of every node is wrapped into an [`Audited`] one, which reports each entry that it is given to the ledger, and
//! now and then its state.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raftwerk::{Applied, Checkpoint, Committed, Frozen, GroupId, Index, Replies, StateMachine};
use raftwerk_frame::Term;
use rustc_hash::{FxHashMap, FxHashSet, FxHasher};

use crate::disk::held;

/// How a payload that a client of `raftwerk::exactly_once` has numbered begins.
const NUMBERED: [u8; 2] = [0xEE, 2];

/// A hash of a payload.
pub(crate) fn hash_of(bytes: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(bytes);
    hasher.finish()
}

/// The record of one group.
#[derive(Debug, Default)]
struct GroupLedger {
    /// The payload's hash of every applied index, by index.
    applied: FxHashMap<u64, u64>,
    /// Where each payload was applied.
    places: FxHashMap<u64, u64>,
    /// States at indices, and how they were reached.
    digests: FxHashMap<u64, u64>,
    /// Payloads that may be applied more than once, because what they mean is not.
    repeated: FxHashSet<u64>,
    /// Payloads of refused calls: they certainly never will be applied.
    refused: FxHashSet<u64>,
    /// Payloads of calls with a receipt, by index: those that nothing that has happened can have taken away.
    receipts: BTreeMap<u64, u64>,
    /// Receipts up to this index may be for something that a machine has lost, unless it is committed.
    excused: u64,
    /// The highest index that was applied anywhere.
    last: u64,
    /// The indices in `applied`, in rising order.
    order: Vec<u64>,
    /// What machines have replied to entries of waiting calls, by index.
    replies: FxHashMap<u64, u64>,
    /// What was answered, by the last entry that the state had seen and the query: one answer, whichever replica was asked.
    answers: FxHashMap<(u64, u64), u64>,
}

/// The record of a run. What contradicts it is kept until the world asks.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    groups: FxHashMap<u64, GroupLedger>,
    contradiction: Option<(&'static str, String)>,
    /// Entries applied, over all replicas.
    pub(crate) applied: u64,
    /// Receipts given for relaxed proposals.
    pub(crate) receipts: u64,
    /// By group: a lit fuse makes the next machine that applies something panic; `None` once one has.
    pub(crate) fuses: FxHashMap<u64, Option<Fuse>>,
}

impl Ledger {
    /// The first contradiction since it was asked for: the rule's name, and what was seen.
    pub(crate) const fn contradiction(&mut self) -> Option<(&'static str, String)> {
        self.contradiction.take()
    }

    /// The highest index of a group that any machine has seen.
    pub(crate) fn last_applied(&self, group: GroupId) -> u64 {
        self.groups.get(&group.0).map_or(0, |of| of.last)
    }

    fn contradict(&mut self, rule: &'static str, what: String) {
        self.contradiction.get_or_insert((rule, what));
    }

    /// A machine was given an entry. `is_numbered`: it may come again.
    fn apply(&mut self, group: GroupId, index: u64, payload: u64, is_numbered: bool) {
        self.applied += 1;
        let of = self.groups.entry(group.0).or_default();
        of.last = of.last.max(index);
        if let Err(at) = of.order.binary_search(&index) {
            of.order.insert(at, index);
        }
        let first = *of.applied.entry(index).or_insert(payload);
        let place = *of.places.entry(payload).or_insert(index);
        let is_refused = of.refused.contains(&payload);
        let is_repeated = is_numbered || of.repeated.contains(&payload);
        let is_kept = of.receipts.get(&index).is_none_or(|received| *received == payload);
        if !is_kept {
            let what = format!("{group}: {index} is another's, and was received");
            self.contradict("a receipt is kept", what);
        }
        if first != payload {
            self.contradict("one payload per index", format!("{group}: two payloads applied at {index}"));
        }
        if place != index && !is_repeated {
            self.contradict("applied once", format!("{group}: one payload applied at {place} and {index}"));
        }
        if is_refused {
            let what = format!("{group}: {index} was applied, and its caller was told it never would be");
            self.contradict("refused is refused", what);
        }
    }

    fn state(&mut self, group: GroupId, index: u64, digest: u64) {
        let of = self.groups.entry(group.0).or_default();
        if *of.digests.entry(index).or_insert(digest) != digest {
            self.contradict("equal states", format!("{group}: two states at {index}"));
        }
    }

    /// A machine has replied to an entry.
    fn replied(&mut self, group: GroupId, index: u64, reply: u64) {
        let of = self.groups.entry(group.0).or_default();
        if *of.replies.entry(index).or_insert(reply) != reply {
            self.contradict("equal states", format!("{group}: two replies to {index}"));
        }
    }

    /// A payload may come again: the machine, and not the log, sees to it that it counts once.
    pub(crate) fn may_repeat(&mut self, group: GroupId, payload: u64) {
        self.groups.entry(group.0).or_default().repeated.insert(payload);
    }

    /// A machine that had seen the entries up to one was asked.
    fn answered(&mut self, group: GroupId, last: u64, query: u64, reply: u64) {
        let of = self.groups.entry(group.0).or_default();
        if *of.answers.entry((last, query)).or_insert(reply) != reply {
            self.contradict(
                "an answer is of its index",
                format!("{group}: two answers of the state at {last}"),
            );
        }
    }

    /// Whether a state after the entries up to an index, and no others, has given that answer.
    pub(crate) fn has_answered(&self, group: GroupId, index: Index, query: u64, reply: u64) -> bool {
        let Some(of) = self.groups.get(&group.0) else { return false };
        let seen = of.order.partition_point(|at| *at <= index.0);
        let last = seen.checked_sub(1).map_or(0, |at| of.order[at]);
        of.answers.get(&(last, query)) == Some(&reply)
    }

    /// A call was answered that its payload is applied, and what the reply is. `committed`: the term that is committed there,
    /// as far as that is known.
    pub(crate) fn told(&mut self, group: GroupId, applied: &Applied, payload: u64, committed: Option<Term>) {
        let id = applied.id;
        self.acknowledged(group, id.index, payload);
        if committed.is_none_or(|term| term != id.term) {
            let what = format!("{group}: acknowledged as {id}, and {committed:?} is committed there");
            self.contradict("acknowledged is applied", what);
        }
        let given = self.groups.get(&group.0).and_then(|of| of.replies.get(&id.index.0));
        if given.is_some_and(|given| *given != hash_of(&applied.reply)) {
            let what = format!("{group}: the caller of {id} is given the reply to something else");
            self.contradict("acknowledged is applied", what);
        }
    }

    /// The hash of the payload that was applied at an index.
    pub(crate) fn applied_at(&self, group: GroupId, index: Index) -> Option<u64> {
        self.groups.get(&group.0)?.applied.get(&index.0).copied()
    }

    /// A call was answered that its payload is applied at an index.
    pub(crate) fn acknowledged(&mut self, group: GroupId, index: Index, payload: u64) {
        let of = self.groups.entry(group.0).or_default();
        if of.applied.get(&index.0) != Some(&payload) {
            let place = of.places.get(&payload);
            let what = format!("{group}: acknowledged at {index}, and applied at {place:?}");
            self.contradict("acknowledged is applied", what);
        }
    }

    /// A call was answered that a quorum has written its payload.
    pub(crate) fn received(&mut self, group: GroupId, index: Index, payload: u64) {
        let of = self.groups.entry(group.0).or_default();
        self.receipts += 1;
        if index.0 > of.excused {
            of.receipts.insert(index.0, payload);
            if of.applied.get(&index.0).is_some_and(|applied| *applied != payload) {
                let what = format!("{group}: received at {index}, which is another's");
                self.contradict("a receipt is kept", what);
            }
        }
    }

    /// A machine has lost what it had not synced: what is not committed, and in a log, may be lost.
    pub(crate) fn excuse(&mut self, group: GroupId, committed: u64, last: u64) {
        let of = self.groups.entry(group.0).or_default();
        of.receipts.retain(|index, _| *index <= committed);
        of.excused = of.excused.max(last);
    }

    /// An operator has accepted that what came after an index is lost.
    pub(crate) fn accept_loss(&mut self, group: GroupId, kept: Index) {
        let of = self.groups.entry(group.0).or_default();
        of.applied.retain(|index, _| *index <= kept.0);
        of.places.retain(|_, index| *index <= kept.0);
        of.digests.retain(|index, _| *index <= kept.0);
        of.receipts.retain(|index, _| *index <= kept.0);
        of.answers.retain(|(last, _), _| *last <= kept.0);
        of.replies.retain(|index, _| *index <= kept.0);
        of.order.retain(|index| *index <= kept.0);
        of.last = of.last.min(kept.0);
    }

    /// At the end, everything that was received is applied.
    pub(crate) fn keeps_receipts(&self, group: GroupId) -> Result<(), String> {
        let Some(of) = self.groups.get(&group.0) else { return Ok(()) };
        let lost = of.receipts.iter().find(|(index, payload)| of.applied.get(index) != Some(payload));
        lost.map_or(Ok(()), |(index, _)| Err(format!("{group}: {index} was received, and is lost")))
    }

    /// A read was answered by a machine that had not seen what was committed when the read was called.
    pub(crate) fn stale_read(&mut self, group: GroupId, applied: Index, committed: u64) {
        let what = format!("{group}: read at {applied}, and {committed} were committed before");
        self.contradict("reads see what is committed", what);
    }

    /// A call was answered that its payload never will be applied.
    pub(crate) fn refused(&mut self, group: GroupId, payload: u64) {
        let of = self.groups.entry(group.0).or_default();
        if of.repeated.contains(&payload) {
            return; // another attempt may have been taken in
        }
        of.refused.insert(payload);
        if let Some(index) = of.places.get(&payload) {
            let what = format!("{group}: refused to its caller, yet applied at {index}");
            self.contradict("refused is refused", what);
        }
    }
}

/// How queries begin that ask for nothing but proof that they were read: no machine sees them.
pub(crate) const ECHO: &[u8] = b"\xffecho\xff";

/// The answer to such a query: a hash of it.
pub(crate) fn echo(query: &[u8]) -> Option<Bytes> {
    query.starts_with(ECHO).then(|| Bytes::copy_from_slice(&hash_of(query).to_le_bytes()))
}

/// So many bytes that no image at another entry has.
fn ballast_of(last: u64, bytes: u64) -> Vec<u8> {
    let word = |at: u64| (last ^ at << 32).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
    (0..bytes.div_ceil(8)).flat_map(word).take(bytes as usize).collect()
}

/// A machine that reports what it is given to the ledger.
pub(crate) struct Audited {
    inner: Box<dyn StateMachine>,
    group: GroupId,
    ledger: Arc<Mutex<Ledger>>,
    last: u64,
    /// Bytes that its images have besides, so that they take many chunks.
    ballast: u64,
}

impl Audited {
    pub(crate) fn new(
        inner: Box<dyn StateMachine>,
        group: GroupId,
        ledger: Arc<Mutex<Ledger>>,
        ballast: u64,
    ) -> Self {
        Self { inner, group, ledger, last: 0, ballast }
    }
}

/// The next machine of a group that applies something panics: with it applied, or before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fuse {
    pub(crate) in_between: bool,
}

/// No fault of the machine: so no hook reports the panic on the way.
fn panics() -> ! {
    std::panic::resume_unwind(Box::new("as the seed wants it"))
}

/// About so many of all states are compared: a hash may cost a pass over the state.
const STATES_COMPARED: u64 = 8;

impl StateMachine for Audited {
    fn apply(&mut self, entries: Committed<'_>, replies: &mut Replies) {
        let mut ledger = held(&self.ledger);
        let blows = ledger.fuses.get_mut(&self.group.0).and_then(Option::take);
        if let Some(Fuse { in_between: false }) = blows {
            drop(ledger);
            panics();
        }
        let before = self.last;
        for entry in entries.clone() {
            if entry.index.0 <= self.last {
                let what = format!("{}: {} was applied after {}", self.group, entry.index, self.last);
                ledger.contradict("applied in order", what);
            }
            self.last = entry.index.0;
            // What a client numbers is applied once by the machine, and not by the log.
            let is_numbered = entry.payload.starts_with(&NUMBERED);
            ledger.apply(self.group, entry.index.0, hash_of(entry.payload), is_numbered);
        }
        self.inner.apply(entries.clone(), replies);
        if blows.is_some() {
            drop(ledger);
            panics();
        }
        if replies.wanted() {
            for entry in entries {
                let reply = replies.to_entry(entry.index).map_or(hash_of(&[]), |reply| hash_of(reply));
                ledger.replied(self.group, entry.index.0, reply);
            }
        }
        if self.last > before && self.last.is_multiple_of(STATES_COMPARED) {
            ledger.state(self.group, self.last, self.inner.digest());
        }
    }

    fn query(&self, query: &[u8]) -> Bytes {
        if let Some(echo) = echo(query) {
            return echo;
        }
        let reply = self.inner.query(query);
        held(&self.ledger).answered(self.group, self.last, hash_of(query), hash_of(&reply));
        reply
    }

    /// The last entry that it has seen, ballast that only that entry has, and the inner machine's image.
    fn checkpoint(&self) -> Checkpoint {
        let (last, ballast, inner) = (self.last, self.ballast, self.inner.checkpoint());
        Box::new(move |out| {
            out.write_all(&last.to_le_bytes())?;
            out.write_all(&ballast.to_le_bytes())?;
            out.write_all(&ballast_of(last, ballast))?;
            inner(out)
        })
    }

    fn restore(&mut self, image: &mut dyn Read) -> io::Result<()> {
        let (mut last, mut ballast) = ([0; 8], [0; 8]);
        image.read_exact(&mut last)?;
        image.read_exact(&mut ballast)?;
        let (last, ballast) = (u64::from_le_bytes(last), u64::from_le_bytes(ballast));
        let mut bytes = Vec::new();
        Read::take(&mut *image, ballast).read_to_end(&mut bytes)?;
        if bytes != ballast_of(last, ballast) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "put together of several images"));
        }
        self.inner.restore(image)?;
        self.last = last;
        Ok(())
    }

    fn freeze(&self) -> Option<Box<dyn Frozen>> {
        let state = self.inner.freeze()?;
        let ledger = Arc::clone(&self.ledger);
        Some(Box::new(AuditedState { state, group: self.group, last: self.last, ledger }))
    }

    fn digest(&self) -> u64 {
        self.inner.digest()
    }
}

/// A frozen state of such a machine.
struct AuditedState {
    state: Box<dyn Frozen>,
    group: GroupId,
    last: u64,
    ledger: Arc<Mutex<Ledger>>,
}

impl Frozen for AuditedState {
    fn query(&self, query: &[u8]) -> Bytes {
        if let Some(echo) = echo(query) {
            return echo;
        }
        let reply = self.state.query(query);
        held(&self.ledger).answered(self.group, self.last, hash_of(query), hash_of(&reply));
        reply
    }
}
