//! A frame of entries as the index knows it: where its bytes lie, its entries, its configurations.

use raftwerk_frame::frame::{Entries, EntryKind, FrameHeader};
use raftwerk_frame::{Configuration, Index, Term};
use smallvec::SmallVec;

/// A range of bytes in one segment: a frame, or adjacent frames of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The segment's sequence number.
    pub segment: u64,
    /// The offset of the first byte in the segment.
    pub offset: u32,
    /// The number of bytes.
    pub bytes: u32,
}

impl Place {
    /// This place and `next` as one, if they are adjacent.
    #[must_use]
    pub fn join(self, next: Self) -> Option<Self> {
        let touches = self.segment == next.segment && self.end() == u64::from(next.offset);
        Some(Self { bytes: self.bytes.checked_add(next.bytes)?, ..self }).filter(|_| touches)
    }

    /// The offset of the first byte after it.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.offset as u64 + self.bytes as u64
    }
}

/// A frame of entries in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRef {
    /// The index of its first entry; may lie at or below the compacted index.
    pub first: Index,
    /// The index of its last entry that is still valid.
    pub last: Index,
    /// The index of the last entry in its bytes; above `last` if a later frame replaced its tail. Such a
    /// frame must not be forwarded as a whole.
    pub frame_last: Index,
    /// The term of all its entries.
    pub term: Term,
    /// Where its bytes lie, header included.
    pub place: Place,
}

/// Some frames of a group, in order.
pub type Frames = SmallVec<[FrameRef; 4]>;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) first: Index,
    pub(crate) term: Term,
    pub(crate) count: u32,
    /// Its payloads are withheld (witness log).
    pub(crate) is_withheld: bool,
    pub(crate) place: Place,
}

impl Frame {
    /// Whether its bytes lie behind those of `other`.
    pub(crate) const fn is_behind(&self, other: &Self) -> bool {
        let (place, before) = (self.place, other.place);
        place.segment > before.segment
            || place.segment == before.segment && place.offset as u64 >= before.end()
    }

    pub(crate) const fn last(&self) -> Index {
        assert!(self.count > 0, "a frame of entries has one");
        Index(self.first.0 + self.count as u64 - 1)
    }
}

/// The configurations in a frame, by index. Passed along with every frame and nearly always empty, so a small
/// type.
pub(crate) type Memberships = Vec<(Index, Configuration)>;

/// The configurations among a frame's entries; `None` if one is malformed.
pub(crate) fn memberships(header: &FrameHeader, body: &[u8]) -> Option<Memberships> {
    let entries = Entries::new(header, body).filter(|entry| entry.kind == EntryKind::Membership);
    entries.map(|entry| Some((entry.id.index, Configuration::decode(entry.payload).ok()?))).collect()
}
