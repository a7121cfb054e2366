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

/// Writes all `queued` batches in order: those that lie side by side by one call. Calls `done` after each write; after
/// a failed one the rest is dropped.
///
/// `durable`: whether each write is on the device before it counts as done.
///
/// # Errors
/// None of its own: a failed write is a [`Completion::AppendFailed`], and the caller must write no more.
pub fn run_appends<F: Files>(
    files: &F,
    queued: &mut VecDeque<AppendJob<F::File>>,
    durable: bool,
    mut done: impl FnMut(Completion<F::File>),
) -> bool {
    while let Some(first) = queued.front() {
        let (mut parts, mut bytes, mut last) = (Vec::new(), 0, Lsn(0));
        for job in queued.iter().take(PARTS_MAX) {
            let follows = job.segment == first.segment && job.offset == first.offset + bytes;
            if !follows || bytes > WRITE_BYTES_MAX {
                break;
            }
            parts.push(IoSlice::new(&job.batch));
            bytes += job.batch.len() as u64;
            last = job.lsn;
        }
        let taken = parts.len();
        let result = files.write_at(&first.file, first.offset, &parts, durable);
        drop(parts);
        if let Err(error) = result {
            queued.clear();
            done(Completion::AppendFailed { error });
            return false;
        }
        queued.drain(..taken);
        done(Completion::Appended { last, cost: AppendCost { syncs: 1, bytes, nanos: 0 } });
    }
    true
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
    let append = files.open(from, Access::Append)?;
    let filled = if spare.is_none() { fill(files, &append, header.bytes) } else { Ok(()) };
    let named = filled.and_then(|()| {
        let mut page = Box::new(Aligned([0; PAGE_BYTES]));
        header.encode(&mut page.0);
        files.write_at(&append, 0, &[IoSlice::new(&page.0)], false)?;
        files.sync(&append)?;
        files.rename(from, &path)?;
        files.sync_dir(&lane_dir(header.lane))
    });
    if let Err(error) = named {
        let _ = files.remove(&unfinished); // gives the space back; if it is not there, so much the better
        return Err(error);
    }
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
