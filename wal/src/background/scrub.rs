//! Scrubbing part of a sealed segment: whether the device still returns the bytes written.
//!
//! It is read past the page cache, where possible, since the device is in question. A page that cannot be
//! read counts as one with wrong bytes. A mismatch is read once more, so that a transient error is not taken
//! for damage. Runs on the snapshot thread, a part at a time; never in a worker's turn.
//!
//! Not here: the choice of the next part, and the groups that damage hits (`lane::scrub`).

use std::io;

use crate::disk::files::{Access, Files};
use crate::format::batch::{ALIGN_BYTES, BATCH_HEADER_BYTES, BatchHeader, BatchPosition, Remains};
use crate::format::segment::{PAGE_BYTES, SegmentHeader, segment_path};
use crate::pool::{BufferPool, PooledBuffer};

const PAGE: u64 = PAGE_BYTES as u64;

/// The part to scrub.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScrubChunk {
    pub(crate) sequence: u64,
    pub(crate) incarnation: u64,
    /// The start: the file's start, or that of a batch.
    pub(crate) from: u64,
    /// The end of the segment's batches.
    pub(crate) end: u64,
    /// Approximate length: whole batches, at least one.
    pub(crate) bytes: u64,
}

/// The result of scrubbing part of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrubbed {
    /// The file, relative to the log directory.
    pub file: String,
    pub(crate) sequence: u64,
    /// Where the next part begins.
    pub(crate) next: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Damaged ranges, in order: first byte, byte after the last.
    pub damage: Vec<(u64, u64)>,
}

/// Scrubs a part. `None` if there is no such file: it was freed meanwhile.
///
/// # Errors
/// If the file cannot be opened.
pub(crate) fn scrub<F: Files>(files: &F, lane: u16, chunk: &ScrubChunk) -> io::Result<Option<Scrubbed>> {
    let path = segment_path(lane, chunk.sequence);
    let opened = files.open(&path, Access::Scan).or_else(|_| files.open(&path, Access::Plain));
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut seen = scrub_once(files, &file, lane, chunk);
    if !seen.damage.is_empty() {
        seen = scrub_once(files, &file, lane, chunk);
    }
    Ok(Some(seen))
}

fn scrub_once<F: Files>(files: &F, file: &F::File, lane: u16, chunk: &ScrubChunk) -> Scrubbed {
    assert!(chunk.from < chunk.end, "there is something to scrub");
    assert!(chunk.end <= u64::from(u32::MAX), "a segment is shorter than 4 GiB");
    assert!(chunk.bytes > 0, "a part has a length");
    let mut pool = BufferPool::new(0);
    // Reads whole pages; the first batch may begin within one, and the last may end within one.
    let mut from = chunk.from / PAGE * PAGE;
    let end = chunk.end.next_multiple_of(PAGE);
    let mut window = pool.take(chunk.bytes.min(end - from) as usize);
    let mut held = fill(files, file, &mut window, (from, end), chunk.bytes);
    let mut seen = Scrubbed {
        file: segment_path(lane, chunk.sequence),
        sequence: chunk.sequence,
        next: chunk.from,
        bytes: held,
        damage: Vec::new(),
    };
    if chunk.from == 0 {
        let header = SegmentHeader::parse(&window[..PAGE_BYTES]);
        let is_good = header.is_ok_and(|header| (header.lane, header.sequence) == (lane, chunk.sequence));
        if !is_good {
            seen.damage.push((0, PAGE));
        }
        seen.next = PAGE;
    }
    while seen.next < chunk.end && seen.next < from + held {
        assert!(from <= seen.next, "what is scrubbed lies in the window");
        let at = (seen.next - from) as usize;
        assert!(at + BATCH_HEADER_BYTES <= window.len(), "the window holds the batch's header");
        let position = BatchPosition { incarnation: chunk.incarnation, offset: seen.next as u32 };
        let header = BatchHeader::parse(&window[at..at + BATCH_HEADER_BYTES], position);
        let Some(header) = header.filter(|header| seen.next + header.padded_bytes() <= chunk.end) else {
            // The start of the next batch is unknown: search for it.
            add_damage(&mut seen.damage, seen.next, seen.next + ALIGN_BYTES as u64);
            seen.next += ALIGN_BYTES as u64;
            continue;
        };
        if seen.next + header.padded_bytes() > from + held {
            if seen.next > chunk.from {
                break; // left for the next part
            }
            from = seen.next / PAGE * PAGE;
            let bytes = (seen.next + header.padded_bytes()).next_multiple_of(PAGE) - from;
            window = pool.take(bytes as usize);
            held = fill(files, file, &mut window, (from, end), bytes);
            seen.bytes += held;
        }
        let at = (seen.next - from) as usize;
        assert!(seen.next + header.padded_bytes() <= from + held, "the window holds the batch");
        let batch = &window[at..at + header.padded_bytes() as usize];
        if !header.frames(batch, |_, _, _| ()) {
            broken_frames(&header, batch, seen.next, &mut seen.damage);
        }
        seen.next += header.padded_bytes();
    }
    assert!(seen.next > chunk.from, "each part moves the scrub forward");
    seen
}

/// Marks the bytes of a batch that are not whole; all of it, if its frame boundaries are unknown.
fn broken_frames(header: &BatchHeader, batch: &[u8], at: u64, damage: &mut Vec<(u64, u64)>) {
    let Some(remains) = header.remains(batch) else {
        return add_damage(damage, at, at + header.padded_bytes());
    };
    let mut from = at + BATCH_HEADER_BYTES as u64;
    for one in remains {
        match one {
            Remains::Frame { header, .. } => from += header.frame_bytes() as u64,
            Remains::Lost { bytes, .. } => {
                add_damage(damage, from, from + u64::from(bytes));
                from += u64::from(bytes);
            }
        }
    }
    assert!(from <= at + header.padded_bytes(), "a batch's frames lie in the batch");
}

/// Adds a range; adjacent ranges are merged.
fn add_damage(damage: &mut Vec<(u64, u64)>, from: u64, to: u64) {
    assert!(from < to, "a damaged range has a length");
    assert!(damage.last().is_none_or(|last| last.1 <= from), "damage is found in order");
    match damage.last_mut() {
        Some(last) if last.1 == from => last.1 = to,
        _ => damage.push((from, to)),
    }
}

/// Reads `bytes` bytes, at most up to `end`; page by page where the device refuses some: those become zeros.
fn fill<F: Files>(
    files: &F,
    file: &F::File,
    window: &mut PooledBuffer,
    (from, end): (u64, u64),
    bytes: u64,
) -> u64 {
    assert!(from < end, "there is something to read");
    let held = bytes.min(end - from).next_multiple_of(PAGE).min(window.len() as u64);
    assert!(held > 0 && held.is_multiple_of(PAGE), "whole pages are read");
    let window = &mut window[..held as usize];
    if files.read_at(file, from, window).is_ok_and(|read| read as u64 == held) {
        return held;
    }
    for (number, page) in window.chunks_mut(PAGE_BYTES).enumerate() {
        let read = files.read_at(file, from + number as u64 * PAGE, page);
        if read.map_or(0, |read| read) < page.len() {
            page.fill(0);
        }
    }
    held
}
