//! Writing a whole lane at once, without concurrent readers: no queue, no index, one batch in memory.
//!
//! Each segment is synced before the next one is made; the last batch, without frames, claims that all before
//! it are durable. So such a lane gives the guarantees of one written in turns: no durable batch can be lost
//! unnoticed, since a later one claims it.
//!
//! Not here: the content, and its purpose (`relane`).

use std::io::IoSlice;

use raftwerk_frame::frame::{FrameKind, HEADER_BYTES, write_fact};
use raftwerk_frame::{Configuration, EntryId, GroupId, Index, Term};

use crate::disk::SegmentFile;
use crate::disk::execute;
use crate::disk::files::{Durability, Files};
use crate::error::OpenError;
use crate::format::batch::{BATCH_HEADER_BYTES, BatchInProgress, BatchPosition, NextBatch};
use crate::format::lsn::Lsn;
use crate::format::segment::{PAGE_BYTES, SegmentHeader, lane_dir};
use crate::index::GroupLog;
use crate::lane::options::LaneOptions;
use crate::pool::BufferPool;

/// Bytes of a batch, unless a frame is longer.
const WRITTEN_BYTES: usize = 256 << 10;

/// A lane under construction.
pub(crate) struct LaneWriter<'a, F: Files> {
    files: &'a F,
    /// The first page of the current segment, or of the first one to be made.
    header: SegmentHeader,
    segment: Option<SegmentFile<F::File>>,
    pool: BufferPool,
    batch: Option<BatchInProgress>,
    /// The batch's offset in the segment.
    offset: u64,
    /// The last batch written, and the last one durable.
    last: Lsn,
    durable: Lsn,
    bytes: u64,
}

impl<'a, F: Files> LaneWriter<'a, F> {
    /// A writer for a lane that has a directory, but no files.
    pub(crate) fn new(files: &'a F, number: u16, log_id: u64, options: &LaneOptions) -> Self {
        assert!(options.segment_bytes.is_multiple_of(PAGE_BYTES as u64), "a segment is of whole pages");
        let header = SegmentHeader {
            lane: number,
            sequence: 1,
            log_id,
            bytes: options.segment_bytes,
            floor: Lsn(0),
            previous: 0,
            terms: Term(0),
        };
        let (segment, batch) = (None, None);
        let (last, durable, offset) = (Lsn(0), Lsn(0), PAGE_BYTES as u64);
        Self { files, header, segment, pool: BufferPool::new(0), batch, offset, last, durable, bytes: 0 }
    }

    /// Raises `terms` to that of an old lane: no vote or acknowledgement there was of a later term, though no
    /// frame may show it.
    pub(crate) fn raise(&mut self, terms: Term) {
        self.header.terms = self.header.terms.max(terms);
    }

    /// Writes a group's metadata, in the order in which it is relocated (`lane::retention`).
    pub(crate) fn facts(&mut self, log: &GroupLog) -> Result<(), OpenError> {
        let (group, floor) = (log.group, log.floor.unwrap_or_default());
        let join = |body: &'static [u8]| Some((FrameKind::Join, body));
        let origin = match (log.floor, log.is_witness()) {
            _ if log.is_loss_accepted => Some((FrameKind::Join, &[3][..])),
            _ if log.is_removed => Some((FrameKind::Remove, &[][..])),
            (None, true) => join(&[2]),
            (Some(_), true) => join(&[1]),
            (Some(_), false) => join(&[]),
            (None, false) => None,
        };
        if let Some((kind, body)) = origin {
            let id = if log.is_loss_accepted { EntryId::default() } else { floor };
            self.fact(kind, group, id, body)?;
        }
        if log.hard_state_segment.is_some() {
            let vote = log.hard_state.vote.map_or(0, |node| node.0).to_le_bytes();
            self.fact(FrameKind::HardState, group, EntryId::new(log.hard_state.term, Index(0)), &vote)?;
        }
        if let Some(fence) = log.fence_term() {
            self.fact(FrameKind::Fence, group, EntryId::new(fence, Index(0)), &[])?;
        }
        if log.base_segment.is_some() {
            let mut body = Vec::new();
            if log.base_configuration != Configuration::default() {
                log.base_configuration.encode(&mut body);
            }
            self.fact(FrameKind::Compact, group, log.base, &body)?;
        }
        Ok(())
    }

    fn fact(&mut self, kind: FrameKind, group: GroupId, id: EntryId, body: &[u8]) -> Result<(), OpenError> {
        self.write(HEADER_BYTES + body.len(), |out| {
            let written = write_fact(out, kind, group, id, body);
            assert!(written == Some(out.len()), "a fact fills the room made for it");
        })
    }

    /// Writes a whole frame unchanged.
    pub(crate) fn frame(&mut self, frame: &[u8]) -> Result<(), OpenError> {
        assert!(frame.len() >= HEADER_BYTES, "a whole frame has its header");
        self.write(frame.len(), |out| out.copy_from_slice(frame))
    }

    fn write(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Result<(), OpenError> {
        if self.batch.as_ref().is_none_or(|batch| batch.bytes_left() < bytes) {
            self.seal()?;
            self.begin(BATCH_HEADER_BYTES + bytes)?;
        }
        let batch = self.batch.as_mut().expect("begun just now");
        assert!(bytes <= batch.bytes_left(), "the batch has space for the frame");
        let (out, end) = batch.spare();
        fill(&mut out[..bytes]);
        end.record(bytes);
        Ok(())
    }

    /// Begins a batch with space for `need` bytes, header included; in a new segment if this one is too full.
    fn begin(&mut self, need: usize) -> Result<(), OpenError> {
        assert!(self.batch.is_none(), "the batch before this one is written");
        if PAGE_BYTES as u64 + need as u64 > self.header.bytes {
            return Err(OpenError::Options("a frame of the log does not fit into a segment"));
        }
        if self.segment.is_some() && self.offset + need as u64 > self.header.bytes {
            self.end_segment()?;
        }
        if self.segment.is_none() {
            let prepared = execute::prepare(self.files, &self.header, None);
            self.segment = Some(prepared.map_err(OpenError::io(&lane_dir(self.header.lane)))?);
            self.offset = PAGE_BYTES as u64;
        }
        assert!(self.offset.is_multiple_of(PAGE_BYTES as u64), "a batch begins on a page of its own");
        assert!(self.offset + need as u64 <= self.header.bytes, "the segment has space for the batch");
        let bytes_left = self.header.bytes - self.offset;
        let buffer = self.pool.take(WRITTEN_BYTES.min(bytes_left as usize).max(need));
        self.batch = Some(BatchInProgress::new(buffer, bytes_left, self.offset));
        Ok(())
    }

    /// Writes the batch, if it has frames. It becomes durable with its segment.
    fn seal(&mut self) -> Result<(), OpenError> {
        if self.batch.as_ref().is_some_and(|batch| batch.count() > 0) {
            self.put(Durability::Buffered)
        } else {
            Ok(())
        }
    }

    fn put(&mut self, durability: Durability) -> Result<(), OpenError> {
        let (Some(batch), Some(segment)) = (self.batch.take(), &self.segment) else { return Ok(()) };
        assert!(self.offset <= u64::from(u32::MAX), "a segment is shorter than 4 GiB");
        let position = BatchPosition { incarnation: self.header.incarnation(), offset: self.offset as u32 };
        let lsn = self.last.next();
        let (bytes, takes) =
            batch.seal(lsn, self.durable, self.header.terms, position, NextBatch::OnNextPage);
        assert_eq!(bytes.len() as u64, takes, "all that a batch takes is written");
        assert!(self.offset + takes <= self.header.bytes, "a batch ends in its segment");
        let written = self.files.write_at(&segment.append, self.offset, &[IoSlice::new(&bytes)], durability);
        written.map_err(OpenError::io(&lane_dir(self.header.lane)))?;
        self.offset += takes;
        self.bytes += takes;
        self.last = lsn;
        Ok(())
    }

    /// Syncs the segment.
    fn sync(&mut self) -> Result<(), OpenError> {
        if let Some(segment) = &self.segment {
            self.files.sync(&segment.append).map_err(OpenError::io(&lane_dir(self.header.lane)))?;
            self.durable = self.last;
        }
        Ok(())
    }

    fn end_segment(&mut self) -> Result<(), OpenError> {
        assert!(self.batch.is_none(), "a segment ends after its last batch");
        self.sync()?;
        assert_eq!(self.durable, self.last, "a segment that ended is durable");
        self.segment = None;
        self.header.previous = self.header.sequence;
        self.header.sequence += 1;
        self.header.floor = self.durable;
        Ok(())
    }

    /// Syncs everything, and ends with a batch that claims it as durable. Returns the bytes written.
    pub(crate) fn finish(mut self) -> Result<u64, OpenError> {
        self.seal()?;
        self.sync()?;
        self.begin(BATCH_HEADER_BYTES)?;
        self.put(Durability::Synced)?;
        assert_eq!(self.last, self.durable.next(), "the last batch claims all before it");
        Ok(self.bytes)
    }
}
