//! The calls that a disk makes for each job, over any [`Files`]: the same in production and in simulation.
//!
//! A crash may come between any two calls. Not here: threads and queues (`disk::linux`), snapshot jobs
//! (`background::snapshots`).

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::Bytes;

use crate::disk::files::{Access, Durability, Files};
use crate::disk::{AppendCost, AppendJob, Completion, SegmentFile, SegmentJob};
use crate::format::lsn::Lsn;
use crate::format::segment::{
    PAGE_BYTES, SegmentHeader, lane_dir, segment_path, spare_path, unfinished_path,
};

/// The most batches written by one call …
const PARTS_MAX: usize = 512;
/// … and the bytes after which no more are added to it, so that writers of its first batches need not wait
/// for the rest.
/// Longer writes gain little: see "How appends are written" in `engine/docs/log_format.md`.
const WRITE_BYTES_MAX: u64 = 2 << 20;
/// Page-aligned memory, as direct writes require.
#[repr(C, align(4096))]
struct Aligned<const BYTES: usize>([u8; BYTES]);

/// Zeros to fill a fresh segment with, repeatedly.
static ZEROS: Aligned<ZERO_BYTES> = Aligned([0; ZERO_BYTES]);
const ZERO_BYTES: usize = 64 << 10;
/// A page of zeros, aligned for appends.
pub(crate) fn zero_page() -> Bytes {
    Bytes::from_static(&ZEROS.0[..PAGE_BYTES])
}

/// How many of `ZEROS` are written by one call.
const FILL_PARTS: usize = 16;

const _: () = assert!(align_of::<Aligned<PAGE_BYTES>>() == PAGE_BYTES, "a direct write begins at a page");
const _: () = assert!(ZERO_BYTES.is_multiple_of(PAGE_BYTES), "zeros are written in whole pages");
const _: () = assert!(PARTS_MAX < 1024 && FILL_PARTS < 1024, "a call takes so many parts, and one of zeros");

/// Files with batches that were written and not synced. Owned by the runner of a lane's appends, as long as
/// the lane is open.
#[derive(Debug)]
pub struct Unsynced<File> {
    /// By segment, in order; nearly always at most one.
    files: Vec<(u64, File)>,
}

impl<File> Default for Unsynced<File> {
    fn default() -> Self {
        Self { files: Vec::new() }
    }
}

/// Writes all `queued` batches in order, adjacent ones by one call. Calls `done` after each write; after a
/// failed write the rest is dropped. A batch that need not be synced is written to the page cache only; the
/// next one that must be synced makes all of them durable, in whichever segments they lie.
///
/// `durability`: where each write is before it counts as done.
///
/// # Errors
/// None of its own: a failed write is a [`Completion::AppendFailed`], and the caller must write no more.
pub fn run_appends<F: Files>(
    files: &F,
    queued: &mut VecDeque<AppendJob<F::File>>,
    unsynced: &mut Unsynced<F::File>,
    durability: Durability,
    mut done: impl FnMut(Completion<F::File>),
) -> bool {
    let (durable, mut before) = (durability == Durability::Synced, Lsn(0));
    while !queued.is_empty() {
        let write = Write::of(queued);
        let (taken, last, is_relaxed) = (write.taken, write.last, write.is_relaxed && durable);
        assert!((1..=queued.len()).contains(&taken), "a write takes batches from the queue's front");
        assert!(before <= last, "batches are written in order");
        let cost = AppendCost { syncs: u64::from(!is_relaxed), bytes: write.bytes(), nanos: 0 };
        assert_eq!(cost.bytes, write.end - write.offset, "the parts fill what is written");
        let result = if is_relaxed {
            write.relaxed(files, unsynced)
        } else if durable && !(write.is_aligned && unsynced.files.is_empty()) {
            write.after_relaxed(files, unsynced)
        } else {
            files.write_at(write.file(), write.offset, &write.parts, durability)
        };
        drop(write);
        if let Err(error) = result {
            queued.clear();
            done(Completion::AppendFailed { error });
            return false;
        }
        assert!(is_relaxed || unsynced.files.is_empty(), "a synced write leaves nothing before it unsynced");
        queued.drain(..taken);
        before = last;
        done(if is_relaxed {
            Completion::Written { last, cost }
        } else {
            Completion::Appended { last, cost }
        });
    }
    true
}

/// Adjacent batches, to be written by one call.
struct Write<'a, File> {
    segment: u64,
    files: &'a SegmentFile<File>,
    offset: u64,
    /// The offset of the first byte behind it.
    end: u64,
    parts: Vec<IoSlice<'a>>,
    /// The number of batches.
    taken: usize,
    /// The LSN of the last one.
    last: Lsn,
    /// No batch among them must be synced by itself.
    is_relaxed: bool,
    /// Each begins at a page boundary.
    is_aligned: bool,
}

impl<'a, File: Clone> Write<'a, File> {
    /// Takes a run from the front of `queued`, which is not empty.
    fn of(queued: &'a VecDeque<AppendJob<File>>) -> Self {
        let first = &queued[0];
        let (segment, offset, files) = (first.segment, first.offset, &first.file);
        let (mut parts, mut taken, mut last): (Vec<IoSlice<'a>>, usize, _) = (Vec::new(), 0, Lsn(0));
        let (mut is_relaxed, mut is_aligned) = (true, true);
        // Where the last batch ends, and up to where zeros must follow it.
        let (mut end, mut filled) = (offset, offset);
        for job in queued.iter().take(PARTS_MAX) {
            let follows = job.segment == segment && (offset..=end).contains(&job.offset);
            // A batch that shares its page with later batches must not become durable with those before it.
            let is_left_unsynced = job.is_relaxed && !is_relaxed;
            if !follows || is_left_unsynced || end - offset >= WRITE_BYTES_MAX {
                break;
            }
            if job.offset < end && taken > 0 {
                // It begins in the page that the batch before it ends in, in place of padding.
                let before = &queued[taken - 1];
                if job.offset <= before.offset {
                    break; // the one before is a probe: this batch begins at its page or before it
                }
                assert!(
                    end - job.offset <= PAGE_BYTES as u64,
                    "a batch begins at most in the page that the one before it ends in"
                );
                parts[taken - 1] = IoSlice::new(&before.batch[..(job.offset - before.offset) as usize]);
            }
            assert!(job.lsn >= last, "batches are queued in order");
            parts.push(IoSlice::new(&job.batch));
            end = job.offset + job.batch.len() as u64;
            filled = filled.max(end);
            (taken, last) = (taken + 1, job.lsn);
            is_relaxed &= job.is_relaxed;
            is_aligned &= job.offset.is_multiple_of(PAGE_BYTES as u64);
        }
        assert_eq!(parts.len(), taken, "there is one part for each batch");
        assert!(filled - end <= PAGE_BYTES as u64, "zeros fill at most a page");
        if filled > end {
            parts.push(IoSlice::new(&ZEROS.0[..(filled - end) as usize]));
        }
        assert!(
            !is_aligned || (filled - offset).is_multiple_of(PAGE_BYTES as u64),
            "batches on pages of their own are written in whole pages"
        );
        Self { segment, files, offset, end: filled, parts, taken, last, is_relaxed, is_aligned }
    }

    fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }

    const fn file(&self) -> &File {
        if self.is_aligned { &self.files.append } else { &self.files.cached }
    }

    /// Writes through the page cache, whatever the append mode: the next sync of the file makes the batches
    /// durable.
    fn relaxed<F: Files<File = File>>(&self, files: &F, unsynced: &mut Unsynced<File>) -> io::Result<()> {
        assert!(
            unsynced.files.last().is_none_or(|(segment, _)| *segment <= self.segment),
            "segments are written in their order"
        );
        files.write_at(&self.files.cached, self.offset, &self.parts, Durability::Buffered)?;
        if unsynced.files.last().is_none_or(|(segment, _)| *segment != self.segment) {
            unsynced.files.push((self.segment, self.files.cached.clone()));
        }
        Ok(())
    }

    /// Makes this write durable together with all earlier relaxed writes: the log that recovery finds must
    /// have no hole.
    fn after_relaxed<F: Files<File = File>>(
        &self,
        files: &F,
        unsynced: &mut Unsynced<File>,
    ) -> io::Result<()> {
        if self.is_aligned {
            // One sync covers both where they share a file; each other file needs its own.
            let shares = unsynced.files.last().is_some_and(|(segment, _)| *segment == self.segment);
            let durability = if shares { Durability::Buffered } else { Durability::Synced };
            files.write_at(&self.files.append, self.offset, &self.parts, durability)?;
        } else {
            self.relaxed(files, unsynced)?;
        }
        for (_, file) in &unsynced.files {
            files.sync(file)?;
        }
        unsynced.files.clear();
        Ok(())
    }
}

/// Makes or retires a segment file.
pub fn run_segment_job<F: Files>(files: &F, job: SegmentJob) -> Completion<F::File> {
    match job {
        SegmentJob::Prepare { header, spare } => {
            let reused = spare.is_some();
            let result = prepare(files, &header, spare.as_deref());
            Completion::Prepared { sequence: header.sequence, reused, result }
        }
        SegmentJob::Retire { lane, sequence, keep } => {
            let spare = keep.then(|| spare_path(lane, sequence));
            Completion::Retired { sequence, result: retire(files, lane, sequence, spare) }
        }
    }
}

/// Prepares a segment file. It is renamed to a segment's name only when its first page and the allocation of
/// every block are durable.
pub(crate) fn prepare<F: Files>(
    files: &F,
    header: &SegmentHeader,
    spare: Option<&str>,
) -> io::Result<SegmentFile<F::File>> {
    assert!(header.bytes.is_multiple_of(PAGE_BYTES as u64), "a segment is of whole pages");
    assert!(header.bytes > PAGE_BYTES as u64, "a segment has space for batches");
    assert!(header.previous < header.sequence, "a segment's number is above its predecessor's");
    let unfinished = unfinished_path(header.lane, header.sequence);
    let path = segment_path(header.lane, header.sequence);
    let from = match spare {
        Some(spare) => {
            take_name_back(files, header.lane, spare, &path)?;
            spare
        }
        None => {
            drop(files.create(&unfinished, header.bytes)?);
            &unfinished
        }
    };
    let filled = match spare {
        None => files.open(from, Access::Fill).and_then(|file| fill(files, &file, header.bytes)),
        Some(_) => Ok(()),
    };
    let named = filled.and_then(|()| {
        let append = files.open(from, Access::Append)?;
        let mut page = Box::new(Aligned([0; PAGE_BYTES]));
        header.encode(&mut page.0);
        files.write_at(&append, 0, &[IoSlice::new(&page.0)], Durability::Buffered)?;
        files.sync(&append)?;
        // Drop large folios from the page cache (reads leave them there): small writes into them cost many
        // times the usual.
        files.forget_cached(&append);
        files.rename(from, &path)?;
        files.sync_dir(&lane_dir(header.lane))?;
        Ok(append)
    });
    let append = match named {
        Ok(append) => append,
        Err(error) => {
            let _ = files.remove(&unfinished); // frees the space; the file may not exist
            return Err(error);
        }
    };
    let read = files.open(&path, Access::Plain)?;
    let cached = if files.appends_through_cache() { append.clone() } else { read.clone() };
    Ok(SegmentFile { append, cached, read })
}

/// Renames a segment file back to its spare's name, if an earlier try failed after the rename. Syncs the
/// directory before anything is written, also if an earlier try began that: the first page of a file with a
/// segment's name is never in doubt.
fn take_name_back<F: Files>(files: &F, lane: u16, spare: &str, path: &str) -> io::Result<()> {
    assert_ne!(spare, path, "a spare's name is no segment's");
    match files.open(spare, Access::Plain) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => files.rename(path, spare)?,
        opened => drop(opened?),
    }
    files.sync_dir(&lane_dir(lane))
}

/// Writes zeros to every block: appends then change no metadata, so that a sync costs one device write.
fn fill<F: Files>(files: &F, file: &F::File, bytes: u64) -> io::Result<()> {
    let mut at = 0;
    while at < bytes {
        let mut parts = Vec::with_capacity(FILL_PARTS);
        let mut step = 0;
        while parts.len() < FILL_PARTS && at + step < bytes {
            let part = (bytes - at - step).min(ZERO_BYTES as u64);
            parts.push(IoSlice::new(&ZEROS.0[..part as usize]));
            step += part;
        }
        assert!(step > 0 && at + step <= bytes, "zeros are written up to the file's end");
        files.write_at(file, at, &parts, Durability::Buffered)?;
        at += step;
    }
    assert_eq!(at, bytes, "every block is written");
    Ok(())
}

/// Durable before it returns: a later segment must not vanish before an earlier one. May be repeated after a
/// failure half-way: a missing source file is no error.
fn retire<F: Files>(
    files: &F,
    lane: u16,
    sequence: u64,
    spare: Option<String>,
) -> io::Result<Option<String>> {
    let path = segment_path(lane, sequence);
    let taken = match &spare {
        Some(spare) => files.rename(&path, spare),
        None => files.remove(&path),
    };
    taken.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
    files.sync_dir(&lane_dir(lane))?;
    Ok(spare)
}
