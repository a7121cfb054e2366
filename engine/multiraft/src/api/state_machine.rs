//! The embedder's part: a deterministic [`StateMachine`], one per group and node.
//!
//! The engine owns the log and decides what is committed; the state machine interprets the entries. It is
//! never shared between threads: the worker that owns the group calls it. Next: `raftwerk-kv` has a
//! ready-made one.

use std::hash::Hasher;
use std::io::{self, Read, Write};

use bytes::Bytes;
use raftwerk_frame::{GroupId, Index};

/// Writes one consistent image; detached from the live state so that it can run concurrently with `apply`.
pub type Checkpoint = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// A deterministic state machine, driven by committed entries (paper, section 2).
///
/// Equal entries in equal order must give equal states and equal replies on every node: no clocks, no random numbers,
/// no iteration over unordered maps. `apply` and `query` run on the group's worker and must not block.
pub trait StateMachine: Send + 'static {
    /// Applies committed entries, in order, each exactly once in the lifetime of this object.
    ///
    /// An entry may be answered by [`Replies::push`]; one that is not has the empty reply.
    fn apply(&mut self, entries: Committed<'_>, replies: &mut Replies);

    /// Answers a query without changing anything. The meaning of the bytes, errors included, is defined by
    /// the machine.
    fn query(&self, query: &[u8]) -> Bytes;

    /// Takes a consistent image. Called between two applies; must be cheap (share, do not copy): the returned work
    /// is done on another thread.
    fn checkpoint(&self) -> Checkpoint;

    /// Replaces the state, which is that of a new machine, by an image that [`StateMachine::checkpoint`] wrote.
    ///
    /// # Errors
    /// Any error of the source, and `InvalidData` if it is not such an image.
    fn restore(&mut self, image: &mut dyn Read) -> io::Result<()>;

    /// The state as it is now, for queries that continue while the machine applies more: used by scans at
    /// [`ConsistentPrefix`](crate::Consistency::ConsistentPrefix). Must be cheap (share, do not copy).
    /// `None`, which is the default: this machine does not support it.
    fn freeze(&self) -> Option<Box<dyn Frozen>> {
        None
    }

    /// A hash of the whole state, for comparing replicas at equal applied indices. Costs a pass over the
    /// state unless the machine maintains one.
    fn digest(&self) -> u64 {
        let mut hashing = Hashing(rustc_hash::FxHasher::default());
        match self.checkpoint()(&mut hashing) {
            Ok(()) => hashing.0.finish(),
            Err(error) => unreachable!("writing to memory failed: {error}"),
        }
    }
}

/// A state machine's state at one index, immutable. Queried on the caller's own thread.
pub trait Frozen: Send + Sync {
    /// As [`StateMachine::query`].
    fn query(&self, query: &[u8]) -> Bytes;
}

/// Makes the state machines of a node's groups: at creation, at restart, and when a snapshot is installed.
pub trait StateMachines: Send + Sync + 'static {
    /// A new, empty machine for `group`.
    fn create(&self, group: GroupId) -> Box<dyn StateMachine>;
}

impl<F, M> StateMachines for F
where
    F: Fn(GroupId) -> M + Send + Sync + 'static,
    M: StateMachine,
{
    fn create(&self, group: GroupId) -> Box<dyn StateMachine> {
        Box::new(self(group))
    }
}

/// One committed entry, borrowed from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommittedEntry<'a> {
    /// Its index. Indices rise, with gaps: the protocol's own entries are omitted.
    pub index: Index,
    /// The proposed payload.
    pub payload: &'a [u8],
}

/// The entries to apply, in order; all of one frame.
#[derive(Clone, Debug)]
pub struct Committed<'a>(Source<'a>);

#[derive(Clone, Debug)]
enum Source<'a> {
    Frame { entries: raftwerk_frame::frame::Entries<'a>, from: Index, to: Index },
    One(Option<CommittedEntry<'a>>),
}

impl<'a> Committed<'a> {
    /// The payload entries of a frame with indices `from..=to`.
    pub(crate) const fn new(entries: raftwerk_frame::frame::Entries<'a>, from: Index, to: Index) -> Self {
        Self(Source::Frame { entries, from, to })
    }

    /// One entry: for a machine that wraps another, and for a machine's own tests.
    #[must_use]
    pub const fn one(entry: CommittedEntry<'a>) -> Self {
        Self(Source::One(Some(entry)))
    }
}

impl<'a> Iterator for Committed<'a> {
    type Item = CommittedEntry<'a>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (entries, from, to) = match &mut self.0 {
            Source::Frame { entries, from, to } => (entries, *from, *to),
            Source::One(entry) => return entry.take(),
        };
        loop {
            let entry = entries.next()?;
            if entry.id.index > to {
                return None;
            }
            if entry.id.index >= from && entry.kind == raftwerk_frame::frame::EntryKind::Payload {
                return Some(CommittedEntry { index: entry.id.index, payload: entry.payload });
            }
        }
    }
}

/// Whether a caller on this node waits for the replies to entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caller {
    /// One does.
    Waits,
    /// None does: replies are dropped, and making one is wasted work.
    #[default]
    Absent,
}

/// Collects the replies to entries. On replicas without a waiting caller they are dropped at once.
#[derive(Debug, Default)]
pub struct Replies {
    caller: Caller,
    given: Vec<(Index, Bytes)>,
}

impl Replies {
    /// For a machine's own tests, and machines that wrap another.
    #[must_use]
    pub const fn new(caller: Caller) -> Self {
        Self { caller, given: Vec::new() }
    }

    /// The reply to the entry at `index`; `None` if there was none, or no caller waits.
    #[must_use]
    pub fn to_entry(&self, index: Index) -> Option<&Bytes> {
        let at = self.given.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        Some(&self.given[at].1)
    }

    /// Empties it for the next frame; keeps its memory.
    pub(crate) fn reset(&mut self, caller: Caller) {
        self.caller = caller;
        self.given.clear();
    }

    /// The collected replies, in ascending order of indices.
    pub(crate) fn drain(&mut self) -> std::vec::Drain<'_, (Index, Bytes)> {
        self.given.drain(..)
    }

    /// Whether a caller on this node waits for replies; if not, building one is wasted work.
    #[must_use]
    pub const fn wanted(&self) -> bool {
        matches!(self.caller, Caller::Waits)
    }

    /// Whether a caller on this node waits for replies, for a machine that passes it on.
    #[must_use]
    pub const fn caller(&self) -> Caller {
        self.caller
    }

    /// Answers the entry at `index`. At most once per entry, in order; skipped entries have the empty reply.
    pub fn push(&mut self, index: Index, reply: impl Into<Bytes>) {
        if self.wanted() {
            debug_assert!(self.given.last().is_none_or(|(last, _)| *last < index), "replies go in order");
            self.given.push((index, reply.into()));
        }
    }
}

struct Hashing(rustc_hash::FxHasher);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
