//! The fuzz targets: frames, batches and whole segments, decoded from any bytes.
//!
//! Each function takes bytes and checks the invariants of whatever they decode to; none may panic otherwise,
//! or allocate memory that the bytes do not justify. Random bytes hardly ever pass a checksum, so each input
//! is used twice: unchanged, and with corrected checksums. The same functions run for a bounded time among
//! the ordinary tests (`wal/tests/decoding.rs`).
#![allow(clippy::unwrap_used, reason = "tests, whose shared functions the lint does not know as such")]

use std::sync::OnceLock;

use raftwerk_frame::frame::{self, ENTRY_OVERHEAD_BYTES, Entries, EntryKind, HEADER_BYTES};
use raftwerk_frame::{EntryId, GroupId, Index, Term};
use raftwerk_wal::simulated::{MemoryFiles, StepDisk};
use raftwerk_wal::{Directory, Lane, LaneOptions, OnDamage, OpenError, inspect};

const PAGE_BYTES: usize = 4096;
const BATCH_HEADER_BYTES: usize = 64;
const SEGMENT_BYTES: usize = 16 << 10;
const SEGMENT: &str = "lane-0/seg-0000000000000001.log";

/// A frame, from the bytes unchanged and with corrected checksums.
pub fn frame(bytes: &[u8]) {
    check_frame(bytes);
    let mut mended = bytes.to_vec();
    mend_frame(&mut mended);
    check_frame(&mended);
}

fn check_frame(bytes: &[u8]) {
    let Ok((header, body)) = frame::parse(bytes) else { return };
    assert!(header.frame_bytes() <= bytes.len() && body.len() == header.body_bytes as usize);
    assert_eq!(frame::parse(&bytes[..header.frame_bytes()]), Ok((header, body)), "it needs nothing after it");
    if header.kind == frame::FrameKind::Entries {
        let entries: Vec<_> = Entries::new(&header, body).collect();
        assert_eq!(entries.len(), header.count as usize);
        let payloads: usize = entries.iter().map(|entry| entry.payload.len() + ENTRY_OVERHEAD_BYTES).sum();
        assert_eq!(payloads, body.len());
        for (entry, index) in entries.iter().zip(header.index.0..) {
            assert_eq!(entry.id, EntryId::new(header.term, Index(index)));
        }
    }
}

/// Corrects both checksums, as far as there are a header and a body. Returns the frame's length.
fn mend_frame(bytes: &mut [u8]) -> Option<usize> {
    let bytes_of_body = u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?) as usize;
    let end = HEADER_BYTES.checked_add(bytes_of_body)?;
    let body_crc = crc32fast::hash(bytes.get(HEADER_BYTES..end).unwrap_or_default());
    bytes.get_mut(4..8)?.copy_from_slice(&body_crc.to_le_bytes());
    let header_crc = crc32fast::hash(bytes.get(4..HEADER_BYTES)?);
    bytes[..4].copy_from_slice(&header_crc.to_le_bytes());
    (end <= bytes.len()).then_some(end)
}

/// One batch in an otherwise valid segment: the first bytes choose the header's fields, the rest are its
/// frames. These are taken unchanged, and with all checksums corrected.
pub fn batch(bytes: &[u8]) {
    let Some((says, frames)) = bytes.split_first_chunk::<12>() else { return };
    let good = template().content(SEGMENT).unwrap();
    let incarnation = incarnation_of(&good);
    for is_mended in [false, true] {
        let mut batch = vec![0; BATCH_HEADER_BYTES];
        batch.extend_from_slice(&frames[..frames.len().min(2 * PAGE_BYTES)]);
        let (mut at, mut count, mut crcs) = (BATCH_HEADER_BYTES, 0u32, crc32fast::Hasher::new());
        while is_mended && let Some(bytes) = mend_frame(&mut batch[at..]) {
            crcs.update(&batch[at..at + 8]);
            (at, count) = (at + bytes, count + 1);
        }
        // The first byte selects which of the next fields are right: a header may have a wrong length under a
        // matching checksum.
        let or = |bit: u8, right: u32, wrong: &[u8]| {
            if says[0] & bit == 0 { right } else { u32::from_le_bytes(wrong.try_into().unwrap()) }
        };
        let fills = if is_mended { at } else { batch.len() } as u32;
        batch[..4].copy_from_slice(b"RWB1");
        batch[8..12].copy_from_slice(&or(1, fills, &says[4..8]).to_le_bytes());
        batch[12..16].copy_from_slice(&or(2, count, &says[8..12]).to_le_bytes());
        batch[16..24].copy_from_slice(&u64::from(says[1].max(1)).to_le_bytes());
        batch[24..32].copy_from_slice(&u64::from(says[2]).to_le_bytes());
        batch[32..40].copy_from_slice(&incarnation.to_le_bytes());
        batch[40..44].copy_from_slice(&crcs.finalize().to_le_bytes());
        batch[44..48]
            .copy_from_slice(&or(4, if says[0] & 8 == 0 { 4096 } else { 64 }, &says[4..8]).to_le_bytes());
        batch[48..56].copy_from_slice(&u64::from(says[3]).to_le_bytes());
        let mut segment = good.clone();
        for page in 1..3 {
            sum_batch(&mut batch, incarnation, (page * PAGE_BYTES) as u32);
            let to = (page * PAGE_BYTES + batch.len()).min(SEGMENT_BYTES);
            segment[page * PAGE_BYTES..to].copy_from_slice(&batch[..to - page * PAGE_BYTES]);
            open_both(&segment);
        }
    }
}

/// The incarnation in a segment's first page.
fn incarnation_of(segment: &[u8]) -> u64 {
    u64::from_le_bytes(segment[24..32].try_into().unwrap())
}

/// The seeded checksum of a batch's header at its place.
fn sum_batch(batch: &mut [u8], incarnation: u64, offset: u32) {
    let mut sum =
        crc32fast::Hasher::new_with_initial(incarnation as u32 ^ (incarnation >> 32) as u32 ^ offset);
    sum.update(&batch[8..BATCH_HEADER_BYTES]);
    batch[4..8].copy_from_slice(&sum.finalize().to_le_bytes());
}

/// A whole segment: a valid one, in which each group of four bytes copies, overwrites or repairs something.
pub fn segment(bytes: &[u8]) {
    let mut segment = template().content(SEGMENT).unwrap();
    let incarnation = incarnation_of(&segment);
    for &[what, a, b, c] in bytes.as_chunks::<4>().0.iter().take(64) {
        let at = (usize::from(a) << 8 | usize::from(b)) % SEGMENT_BYTES;
        let page = at / PAGE_BYTES * PAGE_BYTES;
        match what % 6 {
            0 => segment[at] ^= c.max(1),
            1 => segment[at] = c,
            2 => {
                let (from, bytes) =
                    (usize::from(c) * 64, 512.min(SEGMENT_BYTES - at.max(usize::from(c) * 64)));
                segment.copy_within(from..from + bytes, at);
            }
            3 if page > 0 => {
                sum_batch(&mut segment[page..page + BATCH_HEADER_BYTES], incarnation, page as u32)
            }
            4 => drop(mend_frame(&mut segment[at..])),
            // The first page's own checksum.
            _ => {
                let sum = crc32fast::hash(&segment[..76]);
                segment[76..80].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }
    open_both(&segment);
    if let Some(cut) = bytes.first().map(|first| usize::from(*first) * 64) {
        open_both(&segment[..cut]);
    }
}

fn options(on_damage: OnDamage) -> LaneOptions {
    LaneOptions {
        segment_bytes: SEGMENT_BYTES as u64,
        frame_bytes_max: 4 << 10,
        ready_segments: 1,
        spare_segments: 1,
        recent_bytes: 64 << 10,
        on_damage,
        ..LaneOptions::default()
    }
}

fn open(files: &MemoryFiles, on_damage: OnDamage) -> Result<Lane<StepDisk<MemoryFiles>>, OpenError> {
    let directory = Directory::open(files.clone(), 1, 7)?;
    Ok(Lane::open(StepDisk::new(directory), options(on_damage))?.0)
}

/// A small valid log, created once.
fn template() -> &'static MemoryFiles {
    static TEMPLATE: OnceLock<MemoryFiles> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let files = MemoryFiles::new();
        let mut lane = open(&files, OnDamage::Refuse).unwrap();
        for index in 1..=3 {
            for group in 1..=2 {
                let slot = lane.attach(GroupId(group));
                let mut frame = lane.begin_frame(slot, EntryId::new(Term(1), Index(index)), 500).unwrap();
                assert!(frame.push(EntryKind::Payload, &[index as u8; 200]) && frame.finish().is_some());
            }
            let last = lane.submit().unwrap().unwrap();
            while lane.poll().unwrap().durable < last {}
        }
        drop(lane);
        files
    })
}

/// Opens the log with this as its first segment, with both settings, and reads it. A log that opens once
/// opens again, the same.
fn open_both(segment: &[u8]) {
    let files = template().copy();
    files.put(SEGMENT, segment.to_vec());
    let _seen = inspect::inspect(&files);
    for on_damage in [OnDamage::Refuse, OnDamage::Fence] {
        let files = files.copy();
        let Ok(mut lane) = open(&files, on_damage) else { continue };
        if let Some(last) = lane.submit().unwrap() {
            while lane.poll().unwrap().durable < last {}
        }
        let slots = [1, 2].map(|group| lane.attach(GroupId(group)));
        let ends = slots.map(|slot| (lane.compacted(slot), lane.last(slot), lane.latest_hard_state(slot)));
        for slot in slots {
            let (first, last) = (lane.first(slot), lane.last(slot));
            for found in lane.read(slot, first, last, 1 << 20).unwrap_or_default() {
                let bytes = lane.bytes(found.place).unwrap();
                assert!(frame::parse(&bytes).is_ok(), "only whole frames are given out");
            }
        }
        drop(lane);
        let mut lane = open(&files, on_damage).unwrap();
        let slots = [1, 2].map(|group| lane.attach(GroupId(group)));
        assert_eq!(
            slots.map(|slot| (lane.compacted(slot), lane.last(slot), lane.latest_hard_state(slot))),
            ends
        );
    }
}
