//! Offline inspection of a log: its content, and whether it is whole. Never writes, never repairs, takes no
//! lock.
//!
//! It reads with the code that opens a log, so its verdict is that of opening. A log that is open in an
//! engine may be inspected; its end may then look torn, and segments may be freed during the inspection.
//!
//! Not here: opening (`recovery`), the consequences of damage (`salvage`), a command line
//! (`raftwerk-bench log`).

use std::collections::BTreeSet;

use raftwerk_frame::{EntryId, GroupId, HardState, Index, Term};

use crate::directory::{self, Manifest};
use crate::disk::files::Files;
use crate::error::OpenError;
use crate::format::FORMAT_VERSION;
use crate::format::lsn::Lsn;
use crate::index::{FRAME_BYTES, GROUP_BYTES};
use crate::lane::options::{LaneOptions, OnDamage};
use crate::recovery::report::{Damage, TornTail};
use crate::recovery::salvage::in_order;
use crate::recovery::scan::{Scan, ScanTarget, Source};
use crate::recovery::survey::{BatchState, Survey};
use crate::recovery::{self, Walk};

/// The content of a log's files.
#[derive(Debug)]
pub struct Inspection {
    /// The format version.
    pub version: u32,
    /// The log's id.
    pub log_id: u64,
    /// Its lanes, in order.
    pub lanes: Vec<LaneInspection>,
}

/// A lane of it.
#[derive(Debug)]
pub struct LaneInspection {
    /// Its number on the disk.
    pub lane: u16,
    /// Whether it is whole.
    pub verdict: Verdict,
    /// The last valid batch.
    pub last: Lsn,
    /// Its segments, oldest first.
    pub segments: Vec<SegmentInspection>,
    /// Spare files, waiting for reuse.
    pub spares: usize,
    /// Files left by interrupted preparations.
    pub unfinished: usize,
    /// Approximate memory of its index when it is open.
    pub index_bytes: u64,
    /// Valid entries.
    pub entries: u64,
    /// Its groups, in ascending order, as opening would recover them. Empty if the lane cannot be opened at
    /// all.
    pub groups: Vec<GroupInspection>,
}

/// Whether a lane is whole.
#[derive(Debug)]
pub enum Verdict {
    /// It ends where its last batch ends.
    Clean,
    /// It ends in a batch that was never reported as durable: usual after a crash; opening drops it.
    Torn(TornTail),
    /// Durable data is damaged or gone; opening with [`OnDamage::Fence`] keeps the rest.
    Damaged(Vec<Damage>),
    /// It cannot be opened, not even with losses.
    Unreadable(OpenError),
}

impl Verdict {
    /// Whether everything that was ever durable is there.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        matches!(self, Self::Clean | Self::Torn(_))
    }
}

/// A segment file.
#[derive(Debug, Default)]
pub struct SegmentInspection {
    /// Its path below the log's directory.
    pub file: String,
    /// Its sequence number in the lane.
    pub sequence: u64,
    /// Its length.
    pub bytes: u64,
    /// The first and the last batch in it.
    pub batches: Option<(Lsn, Lsn)>,
    /// How many batches have valid headers …
    pub batch_count: usize,
    /// … and how many of those are not whole. One at the end of the log may never have been finished.
    pub broken: usize,
    /// Whole frames in them.
    pub frames: usize,
    /// Bytes of those frames.
    pub frame_bytes: u64,
    /// The number of distinct groups in them.
    pub groups: usize,
}

/// A group, as recovered from the lane's frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupInspection {
    /// The group.
    pub group: GroupId,
    /// Its latest term and vote.
    pub hard_state: HardState,
    /// The entry after which its log begins.
    pub compacted: EntryId,
    /// Its last entry.
    pub last: Index,
    /// Bytes of its live frames.
    pub live_bytes: u64,
    /// It has lost entries or metadata; see [`RecoveredGroup::fence`](crate::RecoveredGroup::fence).
    pub fence: Option<Term>,
}

/// Inspects a whole log. Cost: each segment is read twice, those of a damaged lane four times.
///
/// # Errors
/// If there is no log, its manifest is damaged or of an unknown version, or a system call fails. Damage in a
/// lane is no error: see [`Verdict`].
pub fn inspect<F: Files>(files: &F) -> Result<Inspection, OpenError> {
    let Some(Manifest { set, .. }) = directory::read_manifest(files)? else {
        let source = std::io::ErrorKind::NotFound.into();
        return Err(OpenError::Io { file: "manifest".to_owned(), source });
    };
    let log_id = set.log_id;
    let lanes = set.numbers().map(|lane| inspect_lane(files, lane, log_id)).collect::<Result<_, _>>()?;
    Ok(Inspection { version: FORMAT_VERSION, log_id, lanes })
}

fn inspect_lane<F: Files>(files: &F, lane: u16, log_id: u64) -> Result<LaneInspection, OpenError> {
    let names = recovery::list(files, lane)?;
    let (on_damage, source) = (OnDamage::Fence, Source::Cached);
    let target = |sequence: u64| ScanTarget { lane, sequence, log_id, on_damage, source };
    let open = |sequence: &u64| Scan::open_damaged(files, target(*sequence)).map(|(scan, _)| scan);
    let scans: Vec<_> = names.segments.iter().map(open).collect::<Result<_, _>>()?;
    let mut segments = Vec::new();
    in_order(files, &scans, |scan, survey| segments.push(inspect_segment(scan, &survey)))?;
    assert!(segments.len() == names.segments.len(), "every segment is inspected once");
    let options = LaneOptions { lane, on_damage, ..LaneOptions::default() };
    let (verdict, walk) = match recovery::read(files, &options, &names.segments, log_id, source) {
        Ok((_, mut walk)) if !walk.report.damage.is_empty() => {
            (Verdict::Damaged(std::mem::take(&mut walk.report.damage)), walk)
        }
        Ok((_, mut walk)) => (walk.report.torn.take().map_or(Verdict::Clean, Verdict::Torn), walk),
        Err(error) => (Verdict::Unreadable(error), Walk::default()),
    };
    let slots = walk.replay.groups.slots() as u64;
    let index_bytes = slots * GROUP_BYTES + walk.replay.pins.frames() * FRAME_BYTES;
    let entries = walk.replay.pins.entries();
    let logs = walk.replay.groups.logs();
    let mut groups: Vec<GroupInspection> = logs
        .map(|log| GroupInspection {
            group: log.group,
            hard_state: log.hard_state,
            compacted: log.base,
            last: log.last,
            live_bytes: log.live_bytes,
            fence: log.fence_term().or_else(|| walk.replay.is_hit(log.group).then_some(walk.terms)),
        })
        .collect();
    assert!(groups.len() as u64 <= slots, "every group has a slot");
    groups.sort_unstable_by_key(|group| group.group);
    let (spares, unfinished) = (names.spares.len(), names.unfinished.len());
    let last = walk.report.last;
    Ok(LaneInspection { lane, verdict, last, segments, spares, unfinished, index_bytes, entries, groups })
}

fn inspect_segment<F: Files>(scan: &Scan<'_, F>, survey: &Survey) -> SegmentInspection {
    let ends = survey.batches.first().zip(survey.batches.last());
    let groups: BTreeSet<GroupId> = survey.frames.iter().map(|frame| frame.group).collect();
    SegmentInspection {
        file: scan.path.clone(),
        sequence: scan.header.sequence,
        bytes: scan.header.bytes,
        batches: ends.map(|(first, last)| (first.header.lsn, last.header.lsn)),
        batch_count: survey.batches.len(),
        broken: survey.batches.iter().filter(|batch| batch.state != BatchState::Whole).count(),
        frames: survey.frames.len(),
        frame_bytes: survey.frames.iter().map(|frame| u64::from(frame.bytes)).sum(),
        groups: groups.len(),
    }
}
