//! The batch: the frames of one turn (or a part of it), made durable by one sync, numbered by its LSN.
//!
//! ```text
//! offset  size  field
//!      0     4  magic "RWB1"
//!      4     4  crc          CRC32 of bytes 8..64, seeded with the segment's incarnation and the batch's offset
//!      8     4  length       bytes of header and frames, without padding
//!     12     4  count        of frames
//!     16     8  lsn
//!     24     8  durable      every batch up to this LSN was durable when this one was sealed
//!     32     8  incarnation  of the segment
//!     40     4  frames_crc   CRC32 over the first 8 bytes of every frame, its two checksums
//!     44     4  align        the next batch begins at the next multiple of this: 4096, or 64 where it may share a page
//!     48     8  terms        the highest term in this lane so far, this batch included
//!     56     8  zero
//!     64        frames, back to back; then zeros up to where the next batch begins
//! ```
//! A batch that need not be synced by itself may share its last page with the batches after it, so that small
//! ones take only their own bytes; the first one that is synced ends the page. So nothing is ever written to
//! a page that holds durable data.
//!
//! A batch is valid if and only if its header's checksum matches under the segment's incarnation and the
//! batch's offset, its frames fill its length exactly, each frame is valid by its own checksums, and
//! `frames_crc` is the checksum of those. So a batch that a device has misplaced within its segment is
//! invalid there, and a frame left over from an earlier incarnation cannot stand in for one that was not
//! written.

use std::mem::offset_of;

use bytes::Bytes;
use crc32fast::Hasher;
use raftwerk_frame::frame::{self, FrameHeader};
use raftwerk_frame::{GroupId, Term};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::format::lsn::Lsn;
use crate::format::segment::PAGE_BYTES;
use crate::pool::PooledBuffer;

/// Bytes before the first frame.
pub(crate) const BATCH_HEADER_BYTES: usize = 64;
const MAGIC: [u8; 4] = *b"RWB1";
/// Batches begin at multiples of this.
pub(crate) const ALIGN_BYTES: usize = ALIGN_SHARED as usize;
const ALIGN_SHARED: u32 = 64;

const _: () = assert!(PAGE_BYTES.is_multiple_of(ALIGN_BYTES), "a page begins where a batch may begin");
const _: () = assert!(BATCH_HEADER_BYTES.is_multiple_of(ALIGN_BYTES), "an empty batch is whole units");
const _: () = assert!(MAGIC[0] != 0, "a probe begins with a zero, and no batch does");

/// Bytes from a batch's start at `offset` to the start of the next one.
const fn padded(bytes: u64, align: u32, offset: u32) -> u64 {
    assert!(align == ALIGN_SHARED || align as usize == PAGE_BYTES, "a batch ends at a unit or at a page");
    (offset as u64 + bytes).next_multiple_of(align as u64) - offset as u64
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 4],
    crc: U32,
    length: U32,
    count: U32,
    lsn: U64,
    durable: U64,
    incarnation: U64,
    frames_crc: U32,
    align: U32,
    terms: U64,
    zero_b: [u8; 8],
}

const _: () = assert!(size_of::<Raw>() == BATCH_HEADER_BYTES);
const _: () = assert!(offset_of!(Raw, length) == 8, "`AppendJob::frames` reads the length here");
const _: () = assert!(offset_of!(Raw, durable) == 24, "`AppendJob::claim` reads the claim here");

impl Raw {
    fn seeded_crc(&self, offset: u32) -> u32 {
        let incarnation = self.incarnation.get();
        let mut hasher = Hasher::new_with_initial(incarnation as u32 ^ (incarnation >> 32) as u32 ^ offset);
        hasher.update(&self.as_bytes()[8..]);
        hasher.finalize()
    }
}

/// The position of a batch: seeds its checksum, so that its bytes are valid nowhere else. Segment incarnation
/// and file offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchPosition {
    pub(crate) incarnation: u64,
    /// In bytes from the start of the file.
    pub(crate) offset: u32,
}

/// Where the batch after this one may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextBatch {
    /// In the page that this one ends in.
    InSamePage,
    /// On a page of its own. Always where this one is synced: nothing is written to a page that holds durable
    /// data.
    OnNextPage,
}

/// A batch's header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) bytes: u32,
    /// Bytes up to the start of the next batch.
    padded_bytes: u64,
    pub(crate) count: u32,
    pub(crate) lsn: Lsn,
    pub(crate) durable: Lsn,
    pub(crate) frames_crc: u32,
    /// Invariant: no frame of this lane, up to the end of this batch, is of a later term.
    pub(crate) terms: Term,
}

impl BatchHeader {
    /// Parses a batch header at this position; `None` if there is no valid one. Does not check the frames.
    pub(crate) fn parse(bytes: &[u8], position: BatchPosition) -> Option<Self> {
        let (raw, _) = Raw::ref_from_prefix(bytes).ok()?;
        let good = raw.magic == MAGIC
            && raw.incarnation.get() == position.incarnation
            && raw.crc.get() == raw.seeded_crc(position.offset)
            && raw.length.get() as usize >= BATCH_HEADER_BYTES
            && [ALIGN_SHARED, PAGE_BYTES as u32].contains(&raw.align.get());
        good.then(|| Self {
            bytes: raw.length.get(),
            padded_bytes: padded(raw.length.get().into(), raw.align.get(), position.offset),
            count: raw.count.get(),
            lsn: Lsn(raw.lsn.get()),
            durable: Lsn(raw.durable.get()),
            frames_crc: raw.frames_crc.get(),
            terms: Term(raw.terms.get()),
        })
    }

    /// Bytes the batch takes in its segment.
    pub(crate) const fn padded_bytes(&self) -> u64 {
        self.padded_bytes
    }

    /// Checks all frames of the batch and calls `see` with each frame's offset in the batch, header and body.
    /// `see` runs before it is known whether all frames are good.
    pub(crate) fn frames(&self, batch: &[u8], mut see: impl FnMut(u32, FrameHeader, &[u8])) -> bool {
        let Some(mut rest) = batch.get(BATCH_HEADER_BYTES..self.bytes as usize) else { return false };
        let (mut at, mut count, mut crcs) = (BATCH_HEADER_BYTES, 0, Hasher::new());
        while !rest.is_empty() {
            let Ok((header, body)) = frame::parse(rest) else { return false };
            crcs.update(&rest[..8]);
            assert!(at < self.bytes as usize, "a frame begins within its batch");
            see(at as u32, header, body);
            at += header.frame_bytes();
            rest = &rest[header.frame_bytes()..];
            count += 1;
        }
        assert!(at == self.bytes as usize, "frames that were all read fill their batch");
        count == self.count && crcs.finalize() == self.frames_crc
    }

    /// For a batch that is not whole: the frames that are valid by their own checksums, and the groups of the
    /// others. `None` if the frame boundaries cannot be established.
    pub(crate) fn remains<'a>(&self, batch: &'a [u8]) -> Option<Vec<Remains<'a>>> {
        let mut rest = batch.get(BATCH_HEADER_BYTES..self.bytes as usize)?;
        let (mut at, mut found, mut crcs) = (BATCH_HEADER_BYTES as u32, Vec::new(), Hasher::new());
        while !rest.is_empty() {
            let header = FrameHeader::parse(rest).ok()?;
            crcs.update(&rest[..8]);
            let bytes = header.frame_bytes();
            let after = rest.get(bytes..)?;
            let frame_bytes = u32::try_from(bytes).expect("the frame lies in a batch");
            found.push(match frame::parse(rest) {
                Ok((header, body)) => Remains::Frame { at, header, body },
                Err(_) => Remains::Lost { group: header.group, bytes: frame_bytes },
            });
            rest = after;
            at += frame_bytes;
            assert!(at <= self.bytes, "a frame ends within its batch");
        }
        (found.len() == self.count as usize && crcs.finalize() == self.frames_crc).then_some(found)
    }
}

/// A frame of a damaged batch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Remains<'a> {
    /// A valid frame: its offset in the batch, header and body.
    Frame { at: u32, header: FrameHeader, body: &'a [u8] },
    /// A damaged frame: its group and length.
    Lost { group: GroupId, bytes: u32 },
}

/// A batch under construction.
#[derive(Debug)]
pub(crate) struct BatchInProgress {
    buffer: PooledBuffer,
    bytes_max: usize,
    end: BatchEnd,
    /// Frames before this offset are included in `crcs`.
    summed: usize,
    crcs: Hasher,
}

/// The end of a batch under construction; advanced when a frame written into its unused part is finished.
#[derive(Debug)]
pub(crate) struct BatchEnd {
    used: usize,
    count: u32,
}

impl BatchEnd {
    /// Records a frame written at the start of the unused part.
    pub(crate) const fn record(&mut self, frame_bytes: usize) {
        assert!(frame_bytes >= frame::HEADER_BYTES, "a frame has a header");
        self.used += frame_bytes;
        self.count += 1;
    }
}

impl BatchInProgress {
    /// An empty batch that begins at `offset` and is at most `bytes_max` long, padding included.
    pub(crate) fn new(buffer: PooledBuffer, bytes_max: u64, offset: u64) -> Self {
        assert!(offset.is_multiple_of(ALIGN_BYTES as u64), "a batch begins at a multiple of 64");
        assert!(offset >= PAGE_BYTES as u64, "a batch lies behind its segment's first page");
        // It must also fit into the buffer up to the end of its last page.
        let fits = buffer.len() - (offset % PAGE_BYTES as u64) as usize;
        let bytes_max = fits.min(usize::try_from(bytes_max).unwrap_or(usize::MAX));
        assert!(bytes_max >= BATCH_HEADER_BYTES, "a batch has space for its header");
        let end = BatchEnd { used: BATCH_HEADER_BYTES, count: 0 };
        Self { buffer, bytes_max, end, summed: BATCH_HEADER_BYTES, crcs: Hasher::new() }
    }

    pub(crate) const fn bytes_left(&self) -> usize {
        assert!(self.end.used <= self.bytes_max, "a batch's frames lie within its bound");
        self.bytes_max - self.end.used
    }

    pub(crate) const fn used(&self) -> usize {
        self.end.used
    }

    pub(crate) const fn count(&self) -> u32 {
        self.end.count
    }

    /// Bytes of memory that its buffer takes.
    pub(crate) fn buffer_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The bytes so far, without a valid header.
    pub(crate) fn written(&self) -> &[u8] {
        &self.buffer[..self.end.used]
    }

    /// The unused part, where the next frame is written, and the batch's end, which records the frame when it
    /// is finished.
    pub(crate) fn spare(&mut self) -> (&mut [u8], &mut BatchEnd) {
        self.sum();
        (&mut self.buffer[self.end.used..self.bytes_max], &mut self.end)
    }

    /// Adds the checksums of frames recorded since the last call to `crcs`, while they are in cache.
    fn sum(&mut self) {
        while self.summed < self.end.used {
            let header = &self.buffer[self.summed..];
            self.crcs.update(&header[..8]);
            let body_bytes = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
            self.summed += frame::HEADER_BYTES + body_bytes as usize;
        }
        assert!(self.summed == self.end.used, "frames lie back to back");
    }

    /// Writes header and padding; the bytes are immutable from here on. Returns the bytes to write, and how
    /// many of them the batch occupies: fewer, where the next batch begins in the page that this one ends in.
    pub(crate) fn seal(
        mut self,
        lsn: Lsn,
        durable: Lsn,
        terms: Term,
        position: BatchPosition,
        next: NextBatch,
    ) -> (Bytes, u64) {
        self.sum();
        assert!(position.offset.is_multiple_of(ALIGN_SHARED), "a batch begins at a multiple of 64");
        assert!(
            self.end.count > 0 || next == NextBatch::OnNextPage,
            "a batch without frames is there to be synced"
        );
        assert!(durable < lsn, "a batch claims only earlier ones to be durable");
        let align = match next {
            NextBatch::InSamePage => ALIGN_SHARED,
            NextBatch::OnNextPage => PAGE_BYTES as u32,
        };
        let takes = padded(self.end.used as u64, align, position.offset);
        let to_page_end = padded(takes, PAGE_BYTES as u32, position.offset);
        // A page not yet written to in this incarnation is written whole: a partial write would make the
        // system read the rest of the page first. A page already written to has zeros there.
        let is_in_begun_page = !position.offset.is_multiple_of(PAGE_BYTES as u32)
            && u64::from(position.offset) % PAGE_BYTES as u64 + takes <= PAGE_BYTES as u64;
        let written = if is_in_begun_page { takes } else { to_page_end };
        assert!(takes <= written, "what a batch occupies is written");
        assert!(self.end.used <= self.bytes_max, "a batch's frames lie within its bound");
        let length = u32::try_from(self.end.used).expect("a batch fits into a segment of at most 1 GiB");
        self.buffer[self.end.used..written as usize].fill(0);
        let mut raw = Raw {
            magic: MAGIC,
            crc: U32::ZERO,
            length: length.into(),
            count: self.end.count.into(),
            lsn: lsn.0.into(),
            durable: durable.0.into(),
            incarnation: position.incarnation.into(),
            frames_crc: self.crcs.finalize().into(),
            align: align.into(),
            terms: terms.0.into(),
            zero_b: [0; 8],
        };
        raw.crc = raw.seeded_crc(position.offset).into();
        self.buffer[..BATCH_HEADER_BYTES].copy_from_slice(raw.as_bytes());
        (Bytes::from_owner(self.buffer).slice(..written as usize), takes)
    }
}

#[cfg(test)]
mod tests {
    use raftwerk_frame::EntryId;
    use raftwerk_frame::frame::FrameKind;

    use super::*;
    use crate::pool::BufferPool;

    const PLACE: u32 = 8192;

    fn sealed(incarnation: u64) -> Bytes {
        let mut batch = BatchInProgress::new(BufferPool::new(1 << 20).take(1), 1 << 20, u64::from(PLACE));
        for group in 1..4 {
            let id = EntryId::default();
            let (out, end) = batch.spare();
            let bytes = frame::write_fact(out, FrameKind::HardState, GroupId(group), id, &[1; 8]).unwrap();
            end.record(bytes);
        }
        batch
            .seal(
                Lsn(7),
                Lsn(5),
                Term(9),
                BatchPosition { incarnation, offset: PLACE },
                NextBatch::OnNextPage,
            )
            .0
    }

    fn is_valid(bytes: &[u8], incarnation: u64) -> bool {
        let header = BatchHeader::parse(bytes, BatchPosition { incarnation, offset: PLACE });
        header.is_some_and(|header| header.frames(bytes, |_, _, _| ()))
    }

    #[test]
    fn a_flip_anywhere_but_in_the_padding_is_noticed() {
        let good = sealed(9);
        let header = BatchHeader::parse(&good, BatchPosition { incarnation: 9, offset: PLACE }).unwrap();
        assert_eq!((header.lsn, header.durable, header.count, header.terms), (Lsn(7), Lsn(5), 3, Term(9)));
        for at in 0..header.bytes as usize {
            let mut bad = good.to_vec();
            bad[at] ^= 0x40;
            assert!(!is_valid(&bad, 9), "byte {at}");
            assert!(!is_valid(&good[..at], 9), "cut at {at}");
        }
        assert!(is_valid(&good, 9));
    }

    #[test]
    fn a_batch_that_lies_elsewhere_is_not_valid_there() {
        let elsewhere = BatchPosition { incarnation: 9, offset: PLACE + 4096 };
        assert!(BatchHeader::parse(&sealed(9), elsewhere).is_none());
    }

    #[test]
    fn a_batch_of_another_incarnation_is_not_valid_nor_are_its_frames_under_a_new_header() {
        let (old, new) = (sealed(8), sealed(9));
        assert!(!is_valid(&old, 9));
        let mut grafted = new.to_vec();
        let frame = frame::HEADER_BYTES + 8;
        grafted.copy_within(BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + frame, BATCH_HEADER_BYTES + frame);
        assert!(!is_valid(&grafted, 9));
    }
}
