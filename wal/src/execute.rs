//! What a disk does for each job, call by call, over any [`Files`]: the same here and in simulation.
//!
//! A crash may come between any two calls. What is not here: threads and queues (`os_disk`), snapshot jobs
//! (`snapshot_file`).

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::Bytes;

use crate::disk::{Access, AppendCost, AppendJob, Completion, Files, Lsn, SegmentFile, SegmentJob};
use crate::segment::{PAGE_BYTES, SegmentHeader, lane_dir, segment_path, spare_path, unfinished_path};

/// The most batches, and bytes, of one write.
const PARTS_MAX: usize = 512;
const WRITE_BYTES_MAX: u64 = 16 << 20;
/// Memory aligned to a page, as direct writes want it.
#[repr(C, align(4096))]
struct Aligned<const BYTES: usize>([u8; BYTES]);

/// Zeros to fill a fresh segment with, over and over.
static ZEROS: Aligned<ZERO_BYTES> = Aligned([0; ZERO_BYTES]);
const ZERO_BYTES: usize = 64 << 10;
/// A page of them, aligned as appends must be.
pub(crate) fn zero_page() -> Bytes {
    Bytes::from_static(&ZEROS.0[..PAGE_BYTES])
}

/// So many of them by one call.
const FILL_PARTS: usize = 16;

/// Files with batches that were written and not synced. Belongs to whoever runs a lane's appends, for the lane's life.
#[derive(Debug)]
pub struct Unsynced<File> {
    /// By their segments, in order; nearly always at most one.
    files: Vec<(u64, File)>,
}

impl<File> Default for Unsynced<File> {
    fn default() -> Self {
        Self { files: Vec::new() }
    }
}

/// Writes all `queued` batches in order: those that lie side by side by one call. Calls `done` after each write; after
/// a failed one the rest is dropped. A batch that need not be synced is written as far as the system's memory; the next one
/// that must be makes all of them durable, in whichever segment they are.
///
/// `durable`: whether each write is on the device before it counts as done.
///
/// # Errors
/// None of its own: a failed write is a [`Completion::AppendFailed`], and the caller must write no more.
pub fn run_appends<F: Files>(
    files: &F,
    queued: &mut VecDeque<AppendJob<F::File>>,
    unsynced: &mut Unsynced<F::File>,
    durable: bool,
    mut done: impl FnMut(Completion<F::File>),
) -> bool {
    while let Some(first) = queued.front() {
        let (mut parts, mut bytes, mut last) = (Vec::new(), 0, Lsn(0));
        let mut is_relaxed = durable;
        for job in queued.iter().take(PARTS_MAX) {
            let follows = job.segment == first.segment && job.offset == first.offset + bytes;
            if !follows || bytes > WRITE_BYTES_MAX {
                break;
            }
            is_relaxed &= job.relaxed.is_some();
            parts.push(IoSlice::new(&job.batch));
            bytes += job.batch.len() as u64;
            last = job.lsn;
        }
        let taken = parts.len();
        let result = if is_relaxed {
            write_relaxed(files, first, &parts, unsynced)
        } else if durable && !unsynced.files.is_empty() {
            write_after_relaxed(files, first, &parts, unsynced)
        } else {
            files.write_at(&first.file, first.offset, &parts, durable)
        };
        drop(parts);
        if let Err(error) = result {
            queued.clear();
            done(Completion::AppendFailed { error });
            return false;
        }
        queued.drain(..taken);
        let cost = AppendCost { syncs: u64::from(!is_relaxed), bytes, nanos: 0 };
        done(if is_relaxed {
            Completion::Written { last, cost }
        } else {
            Completion::Appended { last, cost }
        });
    }
    true
}

/// Through the page cache, whatever the append mode: a copy, which the next sync of the file makes durable.
fn write_relaxed<F: Files>(
    files: &F,
    first: &AppendJob<F::File>,
    parts: &[IoSlice<'_>],
    unsynced: &mut Unsynced<F::File>,
) -> io::Result<()> {
    let file = first.relaxed.as_ref().unwrap_or(&first.file);
    files.write_at(file, first.offset, parts, false)?;
    if unsynced.files.last().is_none_or(|(segment, _)| *segment != first.segment) {
        unsynced.files.push((first.segment, file.clone()));
    }
    Ok(())
}

/// A write that must be durable is so only with all that was written before it: what recovery finds must have no hole.
fn write_after_relaxed<F: Files>(
    files: &F,
    first: &AppendJob<F::File>,
    parts: &[IoSlice<'_>],
    unsynced: &mut Unsynced<F::File>,
) -> io::Result<()> {
    // One sync covers both where they share a file; only another file's needs its own.
    let shares = unsynced.files.last().is_some_and(|(segment, _)| *segment == first.segment);
    files.write_at(&first.file, first.offset, parts, !shares)?;
    for (_, file) in &unsynced.files {
        files.sync(file)?;
    }
    unsynced.files.clear();
    Ok(())
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
            Completion::Retired { sequence, result: retire(files, lane, sequence, keep) }
        }
    }
}

/// The file gets a segment's name only when its first page, and every block's allocation, is durable.
fn prepare<F: Files>(
    files: &F,
    header: &SegmentHeader,
    spare: Option<&str>,
) -> io::Result<SegmentFile<F::File>> {
    let unfinished = unfinished_path(header.lane, header.sequence);
    let path = segment_path(header.lane, header.sequence);
    let from = spare.unwrap_or(&unfinished);
    if spare.is_none() {
        drop(files.create(&unfinished, header.bytes)?);
    }
    let filled = match spare {
        None => files.open(from, Access::Fill).and_then(|file| fill(files, &file, header.bytes)),
        Some(_) => Ok(()),
    };
    let named = filled.and_then(|()| {
        let append = files.open(from, Access::Append)?;
        let mut page = Box::new(Aligned([0; PAGE_BYTES]));
        header.encode(&mut page.0);
        files.write_at(&append, 0, &[IoSlice::new(&page.0)], false)?;
        files.sync(&append)?;
        files.rename(from, &path)?;
        files.sync_dir(&lane_dir(header.lane))?;
        Ok(append)
    });
    let append = match named {
        Ok(append) => append,
        Err(error) => {
            let _ = files.remove(&unfinished); // gives the space back; if it is not there, so much the better
            return Err(error);
        }
    };
    let read = files.open(&path, Access::Plain)?;
    Ok(SegmentFile { append, read })
}

/// Zeros in every block: an append then changes no metadata, which makes its sync cost one device write.
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
        files.write_at(file, at, &parts, false)?;
        at += step;
    }
    Ok(())
}

/// Durable before it returns: a later segment must not vanish before an earlier one. May be done again after it failed
/// half-way: a name that is gone already is no error.
fn retire<F: Files>(files: &F, lane: u16, sequence: u64, keep: bool) -> io::Result<Option<String>> {
    let path = segment_path(lane, sequence);
    let spare = keep.then(|| spare_path(lane, sequence));
    let taken = match &spare {
        Some(spare) => files.rename(&path, spare),
        None => files.remove(&path),
    };
    taken.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
    files.sync_dir(&lane_dir(lane))?;
    Ok(spare)
}
