//! The entry frame: framed once by the leader, then the same bytes in its log, on the wire and in every follower's log.
//!
//! ```text
//! offset  size  field
//!      0     4  header_crc   CRC32 of bytes 4..48
//!      4     4  body_crc     CRC32 of the body
//!      8     4  body_len     bytes that follow the header
//!     12     1  kind         which of `FrameKind`
//!     13     1  flags        1 relaxed: their proposer asked for no sync of these entries; only for entries
//!     14     2  zero
//!     16     8  group
//!     24     8  term         of every entry | of the hard state | of the id
//!     32     8  index        of the first entry | of the id
//!     40     4  count        entries in the body, or withheld; 0 for other kinds
//!     44     4  zero
//!     48        body
//! ```
//! All integers are little-endian. The body of an `entries` frame is `count` times {u32: length in the low 29
//! bits, [`EntryKind`] in the high 3; payload}. A frame is valid if and only if both checksums match, its
//! kind is known, and its entries fill the body exactly. The header has a checksum of its own so that a frame
//! can be distinguished from noise, and a header trusted, without its body. A `withheld` frame is such a
//! header alone: it names `count` entries of one term to a witness, without their payloads.

use crc32fast::hash as crc32;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{EntryId, GroupId, Index, Term};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 48;
/// Bytes that an entry adds to its payload.
pub const ENTRY_OVERHEAD_BYTES: usize = 4;
/// The longest payload the format can hold; the engine's configuration sets a lower limit.
pub const PAYLOAD_BYTES_MAX: usize = (1 << 29) - 1;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A run of entries of one group and term. In a log it replaces everything from its first index on.
    Entries = 1,
    /// Term and vote. Body: the vote, u64, 0 for none.
    HardState = 2,
    /// The log starts anew after this id; body: the configuration there. Also written when a replica is
    /// created.
    Snapshot = 3,
    /// Entries up to this id are no longer needed. Body: the configuration there.
    Compact = 4,
    /// The replica was removed from this node; its log, or an earlier one's here, reached up to this id. No
    /// body. Its term and vote are kept.
    Remove = 5,
    /// The log has lost some of what this replica once made durable, in terms up to this id's. Later frames
    /// follow what is left; until the log holds an entry of a later term, the replica neither votes nor
    /// campaigns. No body.
    Fence = 6,
    /// The replica joined its group, and is no initial member; the log of an earlier replica here reached up
    /// to this id. The body is empty, or one byte. 1: it is a witness. 2: it is a witness, and an initial
    /// member after all.
    Join = 7,
    /// A run of entries of one group and term, as a witness holds them: their ids, and no payloads. No body.
    /// In a log it replaces everything from its first index on.
    Withheld = 8,
}

impl FrameKind {
    const fn from_u8(kind: u8) -> Option<Self> {
        Some(match kind {
            1 => Self::Entries,
            2 => Self::HardState,
            3 => Self::Snapshot,
            4 => Self::Compact,
            5 => Self::Remove,
            6 => Self::Fence,
            7 => Self::Join,
            8 => Self::Withheld,
            _ => return None,
        })
    }

    /// Whether it is of entries, whole or withheld.
    #[must_use]
    pub const fn is_of_entries(self) -> bool {
        matches!(self, Self::Entries | Self::Withheld)
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A user's payload, for the state machine.
    Payload = 0,
    /// The empty entry with which a leader opens its term (paper, section 8).
    Noop = 1,
    /// A [`Configuration`](crate::Configuration).
    Membership = 2,
}

/// Why bytes are not a frame. Nothing is read beyond what has passed these checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes end inside the frame.
    #[error("the frame needs {need} bytes and there are {have}")]
    Short {
        /// The bytes that the frame needs.
        need: usize,
        /// The bytes that there are.
        have: usize,
    },
    /// The header's checksum does not match.
    #[error("the frame header's checksum does not match")]
    HeaderChecksum,
    /// The body's checksum does not match.
    #[error("the frame body's checksum does not match")]
    BodyChecksum,
    /// The kind is unknown to this version.
    #[error("frame kind {0} is unknown")]
    Kind(u8),
    /// The entries do not fill the body exactly, or one has an unknown kind.
    #[error("the frame's entries do not fit its body")]
    Entries,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    header_crc: U32,
    body_crc: U32,
    body_len: U32,
    kind: u8,
    flags: u8,
    zero_a: [u8; 2],
    group: U64,
    term: U64,
    index: U64,
    count: U32,
    zero_b: U32,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);

/// The flag of entries that were proposed without a request for a sync.
const RELAXED: u8 = 1;

/// A frame's header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame holds.
    pub kind: FrameKind,
    /// The group it belongs to.
    pub group: GroupId,
    /// The term of every entry, of the hard state, or of the id.
    pub term: Term,
    /// The first entry's index, or the id's.
    pub index: Index,
    /// How many entries there are.
    pub count: u32,
    /// Bytes of the body.
    pub body_bytes: u32,
    /// CRC32 of the body.
    pub body_crc: u32,
    /// The proposer of these entries asked for no sync: a log may write them at once and make them durable
    /// later.
    pub is_relaxed: bool,
}

impl FrameHeader {
    /// Reads a header and checks its own checksum and fields. The body is neither needed nor checked.
    ///
    /// # Errors
    /// [`FrameError`] unless the bytes begin with a valid header.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        let short = FrameError::Short { need: HEADER_BYTES, have: bytes.len() };
        let (raw, _) = RawHeader::ref_from_prefix(bytes).map_err(|_| short)?;
        if crc32(&bytes[4..HEADER_BYTES]) != raw.header_crc.get() {
            return Err(FrameError::HeaderChecksum);
        }
        let kind = FrameKind::from_u8(raw.kind).ok_or(FrameError::Kind(raw.kind))?;
        let (count, body_bytes) = (raw.count.get(), raw.body_len.get());
        let is_span =
            count > 0 && raw.index.get() > 0 && raw.index.get().checked_add(u64::from(count)).is_some();
        let fits = match kind {
            FrameKind::Entries => {
                is_span && u64::from(count) * ENTRY_OVERHEAD_BYTES as u64 <= u64::from(body_bytes)
            }
            FrameKind::Withheld => is_span && body_bytes == 0,
            _ => count == 0,
        };
        if !fits {
            return Err(FrameError::Entries);
        }
        Ok(Self {
            kind,
            group: GroupId(raw.group.get()),
            term: Term(raw.term.get()),
            index: Index(raw.index.get()),
            count,
            body_bytes,
            body_crc: raw.body_crc.get(),
            is_relaxed: kind == FrameKind::Entries && raw.flags & RELAXED != 0,
        })
    }

    /// Bytes of header and body together.
    #[must_use]
    pub const fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.body_bytes as usize
    }

    /// The index of the last entry. Only for frames of entries, whole or withheld.
    #[must_use]
    pub const fn last_index(&self) -> Index {
        Index(self.index.0 + self.count as u64 - 1)
    }

    /// The id that a frame without entries names.
    #[must_use]
    pub const fn id(&self) -> EntryId {
        EntryId::new(self.term, self.index)
    }
}

/// Reads the frame that `bytes` begin with and checks all of it: both checksums and, for entries, their fit.
///
/// Cost: one CRC pass over the body (25 GB/s when hot) and a walk over entry lengths.
///
/// # Errors
/// [`FrameError`] unless the bytes begin with a valid frame.
pub fn parse(bytes: &[u8]) -> Result<(FrameHeader, &[u8]), FrameError> {
    let header = FrameHeader::parse(bytes)?;
    let need = header.frame_bytes();
    let body = bytes.get(HEADER_BYTES..need).ok_or(FrameError::Short { need, have: bytes.len() })?;
    if crc32(body) != header.body_crc {
        return Err(FrameError::BodyChecksum);
    }
    if header.kind == FrameKind::Entries {
        let mut entries = Entries::new(&header, body);
        let walked = entries.by_ref().count();
        if walked != header.count as usize || !entries.is_exhausted() {
            return Err(FrameError::Entries);
        }
    }
    Ok((header, body))
}

/// One entry, borrowed from a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its id.
    pub id: EntryId,
    /// What it is.
    pub kind: EntryKind,
    /// The user's bytes.
    pub payload: &'a [u8],
}

/// The entries of a frame, in order. Ends early, and never panics, on a body that does not fit its header.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
    next: EntryId,
    left: u32,
}

impl<'a> Entries<'a> {
    /// Iterates over `body` as its `header` describes it.
    #[must_use]
    pub const fn new(header: &FrameHeader, body: &'a [u8]) -> Self {
        Self { rest: body, next: EntryId::new(header.term, header.index), left: header.count }
    }

    /// Whether all entries were read and no byte is left.
    #[must_use]
    pub const fn is_exhausted(&self) -> bool {
        self.left == 0 && self.rest.is_empty()
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    #[inline]
    fn next(&mut self) -> Option<Entry<'a>> {
        if self.left == 0 {
            return None;
        }
        let (prefix, rest) = self.rest.split_first_chunk::<4>()?;
        let prefix = u32::from_le_bytes(*prefix);
        let (payload, rest) = rest.split_at_checked((prefix & PAYLOAD_BYTES_MAX as u32) as usize)?;
        let kind = match prefix >> 29 {
            0 => EntryKind::Payload,
            1 => EntryKind::Noop,
            2 => EntryKind::Membership,
            _ => return None,
        };
        let id = self.next;
        self.rest = rest;
        self.left -= 1;
        self.next.index = id.index.next();
        Some(Entry { id, kind, payload })
    }
}

/// Builds one frame of entries in place: the leader copies a payload only here.
///
/// Cost per entry: a length check, a 4-byte store, a copy of the payload; per frame: one CRC over the body while it
/// is still in cache.
#[derive(Debug)]
pub struct FrameWriter<'a> {
    out: &'a mut [u8],
    at: usize,
    count: u32,
    group: GroupId,
    first: EntryId,
    is_relaxed: bool,
}

impl<'a> FrameWriter<'a> {
    /// Begins a frame at the start of `out`, with `first` as its first entry. `None` if not even a header
    /// fits.
    #[must_use]
    pub const fn new(out: &'a mut [u8], group: GroupId, first: EntryId) -> Option<Self> {
        if out.len() < HEADER_BYTES {
            return None;
        }
        Some(Self { out, at: HEADER_BYTES, count: 0, group, first, is_relaxed: false })
    }

    /// Marks the frame as relaxed: the proposer of its entries asked for no sync.
    pub const fn relax(&mut self) {
        self.is_relaxed = true;
    }

    /// Appends an entry. `false`, and nothing written, if it does not fit.
    #[inline]
    #[must_use]
    pub fn push(&mut self, kind: EntryKind, payload: &[u8]) -> bool {
        let end = self.at + ENTRY_OVERHEAD_BYTES + payload.len();
        if payload.len() > PAYLOAD_BYTES_MAX || end > self.out.len() || end - HEADER_BYTES > u32::MAX as usize
        {
            return false;
        }
        let prefix = (kind as u32) << 29 | payload.len() as u32;
        let (head, tail) = self.out[self.at..end].split_at_mut(ENTRY_OVERHEAD_BYTES);
        head.copy_from_slice(&prefix.to_le_bytes());
        tail.copy_from_slice(payload);
        self.at = end;
        self.count += 1;
        true
    }

    /// How many entries were pushed.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of the frame so far, header included.
    #[must_use]
    pub const fn frame_bytes(&self) -> usize {
        self.at
    }

    /// Writes the header. `None` for a frame without entries: then nothing valid was written.
    #[must_use]
    pub fn finish(self) -> Option<FrameHeader> {
        if self.count == 0 {
            return None;
        }
        let (head, body) = self.out[..self.at].split_at_mut(HEADER_BYTES);
        Some(write_header(
            head,
            FrameKind::Entries,
            self.group,
            self.first,
            (self.count, self.is_relaxed),
            body,
        ))
    }
}

/// Writes a frame of any kind but entries at the start of `out`, and returns its length. `None` if it does
/// not fit.
#[must_use]
pub fn write_fact(
    out: &mut [u8],
    kind: FrameKind,
    group: GroupId,
    id: EntryId,
    body: &[u8],
) -> Option<usize> {
    debug_assert!(!kind.is_of_entries());
    let end = HEADER_BYTES + body.len();
    let (head, place) = out.get_mut(..end)?.split_at_mut(HEADER_BYTES);
    place.copy_from_slice(body);
    write_header(head, kind, group, id, (0, false), body);
    Some(end)
}

/// A frame that names `count` entries from `first` on, all of its term, without payloads. `None` if `count`
/// or the first index is 0, or an index would overflow.
#[must_use]
pub fn withheld(group: GroupId, first: EntryId, count: u32) -> Option<[u8; HEADER_BYTES]> {
    if count == 0 || first.index.0 == 0 || first.index.0.checked_add(u64::from(count)).is_none() {
        return None;
    }
    let mut out = [0; HEADER_BYTES];
    write_header(&mut out, FrameKind::Withheld, group, first, (count, false), &[]);
    Some(out)
}

fn write_header(
    head: &mut [u8],
    kind: FrameKind,
    group: GroupId,
    id: EntryId,
    (count, is_relaxed): (u32, bool),
    body: &[u8],
) -> FrameHeader {
    let header = FrameHeader {
        kind,
        group,
        term: id.term,
        index: id.index,
        count,
        body_bytes: body.len() as u32,
        body_crc: crc32(body),
        is_relaxed,
    };
    let mut raw = RawHeader {
        header_crc: U32::ZERO,
        body_crc: header.body_crc.into(),
        body_len: header.body_bytes.into(),
        kind: kind as u8,
        flags: if is_relaxed { RELAXED } else { 0 },
        zero_a: [0; 2],
        group: group.0.into(),
        term: id.term.0.into(),
        index: id.index.0.into(),
        count: count.into(),
        zero_b: U32::ZERO,
    };
    raw.header_crc = crc32(&raw.as_bytes()[4..]).into();
    head.copy_from_slice(raw.as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn written(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut out = vec![0xAA; 64 * 1024];
        let mut writer = FrameWriter::new(&mut out, GroupId(9), EntryId::new(Term(3), Index(7))).unwrap();
        for payload in payloads {
            assert!(writer.push(EntryKind::Payload, payload));
        }
        let bytes = writer.finish().unwrap().frame_bytes();
        out.truncate(bytes);
        out
    }

    proptest! {
        #[test]
        fn what_was_framed_is_read_back(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 1..40)) {
            let bytes = written(&payloads);
            let (header, body) = parse(&bytes).unwrap();
            let read: Vec<Vec<u8>> = Entries::new(&header, body).map(|entry| entry.payload.to_vec()).collect();
            prop_assert_eq!(read, payloads);
            let last = Entries::new(&header, body).last().unwrap().id;
            prop_assert_eq!(last.index, header.last_index());
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let header = FrameHeader { kind: FrameKind::Entries, group: GroupId(1), term: Term(1), index: Index(1),
                count: 7, body_bytes: bytes.len() as u32, body_crc: 0, is_relaxed: false };
            let _ = Entries::new(&header, &bytes).count();
        }
    }

    #[test]
    fn a_flip_of_any_bit_and_a_cut_at_any_byte_is_noticed() {
        let good = written(&[b"first".to_vec(), b"".to_vec(), b"the third".to_vec()]);
        for at in 0..good.len() {
            assert!(parse(&good[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(parse(&bad).is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn a_frame_that_does_not_fit_is_refused_before_it_is_written() {
        let mut out = [0; HEADER_BYTES + 10];
        let mut writer = FrameWriter::new(&mut out, GroupId(1), EntryId::new(Term(1), Index(1))).unwrap();
        assert!(!writer.push(EntryKind::Payload, &[7; 7]));
        assert!(writer.push(EntryKind::Payload, &[7; 6]));
        assert!(!writer.push(EntryKind::Noop, &[]));
        assert_eq!(writer.finish().unwrap().count, 1);
        assert!(parse(&out).is_ok());
        assert!(FrameWriter::new(&mut out[..9], GroupId(1), EntryId::default()).is_none());
    }

    #[test]
    fn a_relaxed_frame_says_so() {
        for is_relaxed in [false, true] {
            let mut out = [0; 64];
            let mut writer = FrameWriter::new(&mut out, GroupId(1), EntryId::new(Term(1), Index(1))).unwrap();
            if is_relaxed {
                writer.relax();
            }
            assert!(writer.push(EntryKind::Payload, b"x"));
            let header = writer.finish().unwrap();
            assert_eq!((header.is_relaxed, parse(&out).unwrap().0), (is_relaxed, header));
        }
    }

    #[test]
    fn a_withheld_frame_counts_entries_and_has_none() {
        let first = EntryId::new(Term(3), Index(7));
        let bytes = withheld(GroupId(9), first, 1000).unwrap();
        let (header, body) = parse(&bytes).unwrap();
        assert_eq!(
            (header.kind, header.id(), header.last_index()),
            (FrameKind::Withheld, first, Index(1006))
        );
        assert!(body.is_empty() && Entries::new(&header, body).next().is_none());
        for at in 0..bytes.len() {
            assert!(parse(&bytes[..at]).is_err(), "cut at {at}");
            let mut bad = bytes;
            bad[at] ^= 0x10;
            assert!(parse(&bad).is_err(), "byte {at}");
        }
        assert_eq!(withheld(GroupId(9), first, 0), None);
        assert_eq!(withheld(GroupId(9), EntryId::new(Term(3), Index(u64::MAX)), 1), None);
        assert_eq!(withheld(GroupId(9), EntryId::new(Term(3), Index(0)), 1), None);
        let mut forged = [0; HEADER_BYTES + 4];
        write_header(
            &mut forged[..HEADER_BYTES],
            FrameKind::Withheld,
            GroupId(9),
            first,
            (1, false),
            &[0; 4],
        );
        assert_eq!(parse(&forged), Err(FrameError::Entries), "a body where there is none");
    }

    #[test]
    fn facts_carry_an_id_and_a_body() {
        let mut out = [0; 64];
        let vote = 5u64.to_le_bytes();
        let id = EntryId::new(Term(4), Index(0));
        let bytes = write_fact(&mut out, FrameKind::HardState, GroupId(2), id, &vote).unwrap();
        let (header, body) = parse(&out[..bytes]).unwrap();
        assert_eq!((header.kind, header.id(), body), (FrameKind::HardState, id, &vote[..]));
        assert_eq!(write_fact(&mut out[..50], FrameKind::HardState, GroupId(2), id, &vote), None);
    }
}
