//! The survey of one segment: the whole batches that lie in it back to back, and the content of their frames.
//!
//! All expensive work of recovery is here (reading, checksums, decoding), and is independent of other
//! segments. So the segments are surveyed in parallel, and `recovery` only has to join the surveys in order.
//! Not here: which batches are accepted.

use raftwerk_frame::frame::{FrameHeader, FrameKind};
use raftwerk_frame::{Configuration, EntryId, GroupId, HardState, Index, NodeId, Term};
use rustc_hash::FxHashMap;

use crate::disk::files::Files;
use crate::error::OpenError;
use crate::format::batch::{ALIGN_BYTES, BatchHeader, Remains};
use crate::format::segment::PAGE_BYTES;
use crate::index::frame::Memberships;
use crate::index::frame::memberships;
use crate::recovery::loss::{EVERY_GROUP, Loss};
use crate::recovery::scan::{Reader, Scan};

/// A batch with a valid header.
#[derive(Clone, Debug)]
pub(crate) struct SurveyedBatch {
    pub(crate) offset: u64,
    pub(crate) header: BatchHeader,
    pub(crate) state: BatchState,
    /// How many of its frames are in the survey.
    pub(crate) frames: u32,
}

/// Whether a batch is as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BatchState {
    Whole,
    /// Some frames are damaged, all of them of these groups.
    Hit(Vec<GroupId>),
    /// Its frames are unknown.
    Lost,
}

/// A frame's content, without its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SurveyedFrame {
    pub(crate) group: GroupId,
    /// The id of the first entry, or of the metadata record.
    pub(crate) id: EntryId,
    /// Its offset in the segment, and its length.
    pub(crate) offset: u32,
    pub(crate) bytes: u32,
    /// The number of entries.
    pub(crate) count: u32,
    pub(crate) content: FrameContent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameContent {
    /// Entries without configurations among them.
    Entries,
    /// Entries without payloads (witness log).
    Withheld,
    HardState(Option<NodeId>),
    Remove,
    Join {
        as_witness: bool,
    },
    BootstrapAsWitness,
    LossAccepted,
    Fence,
    /// Content too large for this type: the index into the survey's `extras`.
    Extra(u32),
}

/// The content of rare frames.
#[derive(Debug)]
pub(crate) enum Extra {
    Memberships(Memberships),
    Snapshot(Configuration),
    Compact(Configuration),
    /// Losses answered for, or a part of them: all groups that they hit have been fenced.
    Losses(Vec<Loss>),
    /// The checksums match, but the content is invalid.
    Malformed(&'static str),
}

/// Each is taken once.
pub(crate) type Extras = Vec<Option<Extra>>;

/// The content of a segment.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) batches: Vec<SurveyedBatch>,
    /// Of all batches. Those of a group are in order; [`Survey::of`] also puts each group's frames together.
    pub(crate) frames: Vec<SurveyedFrame>,
    pub(super) extras: Extras,
    /// Where the whole batches end.
    pub(super) end: u64,
    /// Whether an unfinished batch begins there.
    pub(super) is_torn: bool,
}

impl Survey {
    /// Reads a segment up to the first place without a whole batch. The frames of each group are put
    /// together.
    pub(crate) fn of<F: Files>(scan: &Scan<'_, F>) -> Result<Self, OpenError> {
        let mut survey = Self { end: PAGE_BYTES as u64, ..Self::default() };
        let mut reader = scan.reader();
        while let Some(header) = reader.batch_header(survey.end)? {
            if !survey.add_batch(&mut reader, header)? {
                survey.is_torn = true;
                break;
            }
        }
        assert!(survey.end <= scan.header.bytes, "whole batches end in their segment");
        survey.gather();
        Ok(survey)
    }

    /// Puts the frames of each group together, in their order, and the groups in the order in which they are
    /// met. Replay then loads a group into the CPU cache once, instead of once for each frame: half of the
    /// time that a log of many groups takes.
    fn gather(&mut self) {
        let mut numbers: FxHashMap<GroupId, u32> = FxHashMap::default();
        // For each group, first its number of frames; then, where the next of them goes.
        let mut places: Vec<u32> = Vec::new();
        let mut count = |frame: &SurveyedFrame| {
            let number = *numbers.entry(frame.group).or_insert(places.len() as u32);
            match places.get_mut(number as usize) {
                Some(count) => *count += 1,
                None => places.push(1),
            }
            number
        };
        let of_frames: Vec<u32> = self.frames.iter().map(&mut count).collect();
        let mut start = 0;
        for place in &mut places {
            start += std::mem::replace(place, start);
        }
        assert_eq!(start as usize, self.frames.len(), "there is one place for each frame");
        let mut gathered = self.frames.clone();
        for (frame, number) in self.frames.iter().zip(of_frames) {
            let place = &mut places[number as usize];
            gathered[*place as usize] = *frame;
            *place += 1;
        }
        self.frames = gathered;
    }

    /// Checks a whole batch and adds it. Returns `false`, and adds nothing, if it is not whole.
    fn add_batch<F: Files>(
        &mut self,
        reader: &mut Reader<'_, '_, F>,
        header: BatchHeader,
    ) -> Result<bool, OpenError> {
        let (offset, frames, extras) = (self.end, self.frames.len(), self.extras.len());
        assert!(offset <= u64::from(u32::MAX), "a segment is shorter than 4 GiB");
        assert!(header.padded_bytes() > 0, "each batch moves the survey forward");
        let batch = reader.batch(offset, &header)?;
        if !header.frames(batch, |at, frame, body| self.frame(offset as u32 + at, &frame, body)) {
            self.frames.truncate(frames);
            self.extras.truncate(extras);
            return Ok(false);
        }
        self.note(offset, header, BatchState::Whole, frames);
        self.end += header.padded_bytes();
        Ok(true)
    }

    fn note(&mut self, offset: u64, header: BatchHeader, state: BatchState, frames_before: usize) {
        assert!(self.frames.len() >= frames_before, "a batch only adds frames");
        let frames = u32::try_from(self.frames.len() - frames_before).expect("a batch counts in 32 bits");
        assert!(state != BatchState::Whole || frames == header.count, "all frames of a whole batch are kept");
        assert!(
            self.batches.last().is_none_or(|last| last.offset + last.header.padded_bytes() <= offset),
            "batches lie one after another"
        );
        self.batches.push(SurveyedBatch { offset, header, state, frames });
    }

    /// Reads all of a segment: every batch with a valid header, wherever it lies, with what is left of it.
    /// The bytes between them are damaged, or were never written in this incarnation.
    pub(crate) fn through<F: Files>(scan: &Scan<'_, F>) -> Result<Self, OpenError> {
        let mut survey = Self { end: PAGE_BYTES as u64, ..Self::default() };
        let mut reader = scan.reader();
        while survey.end < scan.header.bytes {
            match reader.batch_header(survey.end)? {
                None => survey.end += ALIGN_BYTES as u64,
                Some(header) if survey.add_batch(&mut reader, header)? => {}
                Some(header) => {
                    survey.add_remains(&mut reader, header)?;
                    survey.end += header.padded_bytes();
                }
            }
        }
        Ok(survey)
    }

    fn add_remains<F: Files>(
        &mut self,
        reader: &mut Reader<'_, '_, F>,
        header: BatchHeader,
    ) -> Result<(), OpenError> {
        let (offset, before) = (self.end, self.frames.len());
        assert!(offset <= u64::from(u32::MAX), "a segment is shorter than 4 GiB");
        let Some(remains) = header.remains(reader.batch(offset, &header)?) else {
            self.note(offset, header, BatchState::Lost, before);
            return Ok(());
        };
        let mut hit = Vec::new();
        for one in remains {
            match one {
                Remains::Frame { at, header, body } => self.frame(offset as u32 + at, &header, body),
                Remains::Lost { group, .. } => hit.push(group),
            }
        }
        assert!(!hit.is_empty(), "a batch that is not whole has a damaged frame");
        hit.sort_unstable();
        hit.dedup();
        self.note(offset, header, BatchState::Hit(hit), before);
        Ok(())
    }

    #[inline]
    fn frame(&mut self, offset: u32, header: &FrameHeader, body: &[u8]) {
        let content = match header.kind {
            FrameKind::Entries => match memberships(header, body) {
                Some(found) if found.is_empty() => FrameContent::Entries,
                Some(found) => self.extra(Extra::Memberships(found)),
                None => self.extra(Extra::Malformed("a membership entry holds no configuration")),
            },
            FrameKind::HardState => match <[u8; 8]>::try_from(body) {
                Ok(vote) => {
                    FrameContent::HardState(Some(NodeId(u64::from_le_bytes(vote))).filter(|node| node.0 != 0))
                }
                Err(_) => self.extra(Extra::Malformed("a hard state has the wrong length")),
            },
            FrameKind::Snapshot => self.base(body, Extra::Snapshot),
            FrameKind::Compact => self.base(body, Extra::Compact),
            FrameKind::Remove => FrameContent::Remove,
            FrameKind::Join => match body {
                [] => FrameContent::Join { as_witness: false },
                [1] => FrameContent::Join { as_witness: true },
                [2] => FrameContent::BootstrapAsWitness,
                [3] => FrameContent::LossAccepted,
                _ => self.extra(Extra::Malformed("a join record says what nobody knows")),
            },
            FrameKind::Withheld => FrameContent::Withheld,
            FrameKind::Fence if header.group == EVERY_GROUP => {
                let (words, rest) = body.as_chunks::<8>();
                let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
                let (losses, odd) = words.as_chunks::<3>();
                if rest.is_empty() && odd.is_empty() {
                    self.extra(Extra::Losses(losses.to_vec()))
                } else {
                    self.extra(Extra::Malformed("a list of losses has the wrong length"))
                }
            }
            FrameKind::Fence => FrameContent::Fence,
        };
        assert!(offset as usize >= PAGE_BYTES, "a frame lies behind the segment's first page");
        assert!(header.frame_bytes() <= u32::MAX as usize, "a frame is shorter than its segment");
        let (group, id, bytes) = (header.group, header.id(), header.frame_bytes() as u32);
        self.frames.push(SurveyedFrame { group, id, offset, bytes, count: header.count, content });
    }

    fn base(&mut self, body: &[u8], extra: impl FnOnce(Configuration) -> Extra) -> FrameContent {
        let configuration = if body.is_empty() {
            Ok(Configuration::default())
        } else {
            Configuration::decode(body).map_err(|_| "a record's configuration cannot be read")
        };
        self.extra(configuration.map_or_else(Extra::Malformed, extra))
    }

    fn extra(&mut self, extra: Extra) -> FrameContent {
        assert!(self.extras.len() < u32::MAX as usize, "rare frames count in 32 bits");
        self.extras.push(Some(extra));
        FrameContent::Extra(self.extras.len() as u32 - 1)
    }
}

impl SurveyedFrame {
    /// The hard state in the frame.
    pub(crate) const fn hard_state(&self, vote: Option<NodeId>) -> HardState {
        HardState { term: self.id.term, vote }
    }

    pub(crate) const fn first(&self) -> Index {
        self.id.index
    }

    pub(crate) const fn term(&self) -> Term {
        self.id.term
    }
}
