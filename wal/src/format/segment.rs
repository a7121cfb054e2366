//! A segment's first page and its name.
//!
//! ```text
//! offset  size  field
//!      0     8  magic "RWSEG\0\0\1"
//!      8     4  version
//!     12     4  lane
//!     16     8  sequence      of the lane's segments; never reused
//!     24     8  incarnation   derived from log id, lane and sequence: seeds the checksums of the batches
//!     32     8  log id
//!     40     8  bytes         of the whole file
//!     48     8  floor         every batch up to this LSN was durable when the page was written
//!     56     8  previous      the sequence number of the segment before; 0 for none
//!     64     8  terms         the highest term in the lane when the page was written
//!     72     4  zero
//!     76     4  CRC32 of the 76 bytes before
//!   4096        batches, see `batch`
//! ```
//! The rest of a recycled file keeps its old bytes: no batch of an earlier incarnation can validate. A page
//! is durable before its file gets a segment's name, so a bad one is damage, never an interrupted write.

use std::mem::offset_of;

use raftwerk_frame::Term;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::format::FORMAT_VERSION;
use crate::format::lsn::Lsn;

/// The page length: the alignment of synced batches, and the length of a segment's header.
pub(crate) const PAGE_BYTES: usize = 4096;
const MAGIC: [u8; 8] = *b"RWSEG\0\0\x01";

/// A segment's first page, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The lane it belongs to.
    pub lane: u16,
    /// Its sequence number in the lane.
    pub sequence: u64,
    /// The log it belongs to.
    pub log_id: u64,
    /// The length of the file.
    pub bytes: u64,
    /// Every batch up to this one was durable when the page was written.
    pub floor: Lsn,
    /// The sequence number of the segment before it in the lane when the page was written; 0 for none.
    pub previous: u64,
    /// The highest term of any frame of the lane when the page was written.
    pub terms: Term,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    lane: U32,
    sequence: U64,
    incarnation: U64,
    log_id: U64,
    bytes: U64,
    floor: U64,
    previous: U64,
    terms: U64,
    zero: U32,
    crc: U32,
}

const RAW_BYTES: usize = size_of::<Raw>();
const _: () = assert!(RAW_BYTES == 80);
const _: () = assert!(RAW_BYTES <= PAGE_BYTES, "the header lies in the first page");
const _: () = assert!(offset_of!(Raw, crc) == RAW_BYTES - 4, "the checksum covers all that is before it");

/// Why a first page is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Version(u32),
    Damaged(&'static str),
}

impl SegmentHeader {
    /// The incarnation of the file: differs for each use of it as a segment.
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        let of_lane = mix(self.log_id ^ mix(self.lane as u64 + 1));
        mix(of_lane ^ mix(self.sequence))
    }

    pub(crate) fn encode(&self, page: &mut [u8]) {
        assert!(page.len() == PAGE_BYTES, "a segment's header is a page");
        assert!(self.previous < self.sequence, "a segment follows an earlier one");
        assert!(self.bytes.is_multiple_of(PAGE_BYTES as u64), "a segment is whole pages");
        let mut raw = Raw {
            magic: MAGIC,
            version: FORMAT_VERSION.into(),
            lane: u32::from(self.lane).into(),
            sequence: self.sequence.into(),
            incarnation: self.incarnation().into(),
            log_id: self.log_id.into(),
            bytes: self.bytes.into(),
            floor: self.floor.0.into(),
            previous: self.previous.into(),
            terms: self.terms.0.into(),
            zero: U32::ZERO,
            crc: U32::ZERO,
        };
        raw.crc = crc32fast::hash(&raw.as_bytes()[..RAW_BYTES - 4]).into();
        page.fill(0);
        page[..RAW_BYTES].copy_from_slice(raw.as_bytes());
    }

    pub(crate) fn parse(page: &[u8]) -> Result<Self, BadHeader> {
        let (raw, _) =
            Raw::ref_from_prefix(page).map_err(|_| BadHeader::Damaged("the segment is cut short"))?;
        if raw.magic != MAGIC {
            return Err(BadHeader::Damaged("it does not begin like a segment"));
        }
        if raw.crc.get() != crc32fast::hash(&page[..RAW_BYTES - 4]) {
            return Err(BadHeader::Damaged("the segment header's checksum does not match"));
        }
        if raw.version.get() != FORMAT_VERSION {
            return Err(BadHeader::Version(raw.version.get()));
        }
        let lane = u16::try_from(raw.lane.get()).map_err(|_| BadHeader::Damaged("no such lane"))?;
        let header = Self {
            lane,
            sequence: raw.sequence.get(),
            log_id: raw.log_id.get(),
            bytes: raw.bytes.get(),
            floor: Lsn(raw.floor.get()),
            previous: raw.previous.get(),
            terms: Term(raw.terms.get()),
        };
        if raw.incarnation.get() != header.incarnation() {
            return Err(BadHeader::Damaged("the segment's incarnation does not match"));
        }
        Ok(header)
    }
}

/// The finaliser of splitmix64: every input bit reaches every output bit.
const fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

pub(crate) fn lane_dir(lane: u16) -> String {
    format!("lane-{lane}")
}

pub(crate) fn segment_path(lane: u16, sequence: u64) -> String {
    format!("lane-{lane}/seg-{sequence:016x}.log")
}

pub(crate) fn spare_path(lane: u16, sequence: u64) -> String {
    format!("lane-{lane}/spare-{sequence:016x}.old")
}

pub(crate) fn unfinished_path(lane: u16, sequence: u64) -> String {
    format!("lane-{lane}/new-{sequence:016x}.tmp")
}

fn hex(name: &str, before: &str, after: &str) -> Option<u64> {
    let digits = name.strip_prefix(before)?.strip_suffix(after)?;
    if digits.len() != 16 {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

/// The sequence number in a segment's file name.
pub(crate) fn sequence_of(name: &str) -> Option<u64> {
    hex(name, "seg-", ".log")
}

/// The sequence number of the segment that a spare file was.
pub(crate) fn spare_sequence_of(name: &str) -> Option<u64> {
    hex(name, "spare-", ".old")
}

/// The sequence number of an interrupted preparation.
pub(crate) fn unfinished_sequence_of(name: &str) -> Option<u64> {
    hex(name, "new-", ".tmp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flip_anywhere_in_a_first_page_is_noticed() {
        let header = SegmentHeader {
            lane: 3,
            sequence: 17,
            log_id: 0xFEED,
            bytes: 1 << 20,
            floor: Lsn(5),
            previous: 9,
            terms: Term(4),
        };
        let mut page = vec![0xAA; PAGE_BYTES];
        header.encode(&mut page);
        assert_eq!(SegmentHeader::parse(&page), Ok(header));
        for at in 0..RAW_BYTES {
            let mut bad = page.clone();
            bad[at] ^= 0x10;
            assert!(SegmentHeader::parse(&bad).is_err(), "byte {at}");
            assert!(SegmentHeader::parse(&page[..at]).is_err());
        }
        let next = SegmentHeader { sequence: 18, ..header };
        assert_ne!(next.incarnation(), header.incarnation());
    }

    #[test]
    fn names_carry_the_sequence() {
        let name = segment_path(2, 0xAB);
        assert_eq!(sequence_of(name.strip_prefix("lane-2/").unwrap()), Some(0xAB));
        assert_eq!(sequence_of("seg-ab.log"), None);
        assert_eq!(spare_sequence_of("spare-00000000000000ff.old"), Some(255));
    }
}
