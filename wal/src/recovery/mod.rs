//! Opening a lane: which batches are part of the log, what the groups' logs are, and when opening must fail.
//!
//! Batches are accepted in order of sequence and LSN. Where the next one, L, is not found, there are two
//! harmless cases:
//! 1. The next segment begins with L: an earlier recovery ended the log here, and continued there.
//! 2. No later record claims that L was durable: the log ends before L. A claim is a later batch header, or a
//!    later segment's first page, whose durable LSN is at least L.
//!
//! Otherwise, or if a segment is not the one that the next names as its predecessor, durable data is damaged
//! or gone, and opening fails: nothing is cut off. (firm) Or, with [`OnDamage::Fence`], the lane opens with
//! what is left, and every group that may have lost something is fenced in the log (`salvage`).
//!
//! A log never continues where it ended: a torn batch stays behind in a segment that gets no more batches, so
//! that no later write can make it whole again. Segments after the end become spares before anything new is
//! written.
//!
//! Not here: reading a file (`scan`, `survey`), the meaning of frames (`replay`).

pub(crate) mod loss;
pub(crate) mod relane;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod salvage;
pub(crate) mod scan;
pub(crate) mod survey;

use std::collections::VecDeque;
use std::sync::{Mutex, OnceLock};

use raftwerk_frame::frame::FrameHeader;
use raftwerk_frame::{GroupId, Term};

use crate::directory::Directory;
use crate::disk::files::{Access, Files};
use crate::error::OpenError;
use crate::format::batch::BatchHeader;
use crate::format::lsn::Lsn;
use crate::format::segment::{self, PAGE_BYTES, lane_dir, segment_path, spare_path};
use crate::index::groups::Groups;
use crate::index::pins::Pins;
use crate::lane::options::{LaneOptions, OnDamage};
use crate::lane::state::segments::InUse;
use crate::recovery::loss::Loss;
use crate::recovery::replay::Replay;
use crate::recovery::report::{RecoveredGroup, RecoveryReport, TornTail};
use crate::recovery::salvage::salvage;
use crate::recovery::scan::{Scan, ScanTarget, Source};
use crate::recovery::survey::Survey;

pub(crate) struct Recovered<File> {
    pub(crate) groups: Groups,
    pub(crate) pins: Pins,
    pub(crate) segments: VecDeque<InUse<File>>,
    pub(crate) spares: Vec<String>,
    pub(crate) next_sequence: u64,
    pub(crate) last: Lsn,
    /// Invariant: no frame that was ever durable is of a later term.
    pub(crate) terms: Term,
    pub(crate) recovered: Vec<RecoveredGroup>,
    /// Removed groups of which this opening found that part of their vote, floor or fence was lost.
    pub(crate) hit_and_gone: Vec<GroupId>,
    /// The losses, if the log does not contain a list of them yet.
    pub(crate) unlisted_losses: Option<Vec<Loss>>,
    pub(crate) report: RecoveryReport,
}

/// The end of a segment's batches.
struct End {
    offset: u64,
    batches: u64,
    /// Whether an unfinished batch begins there.
    is_torn: bool,
}

impl Default for End {
    fn default() -> Self {
        Self { offset: PAGE_BYTES as u64, batches: 0, is_torn: false }
    }
}

pub(crate) struct Names {
    pub(crate) segments: Vec<u64>,
    pub(crate) spares: Vec<u64>,
    pub(crate) unfinished: Vec<String>,
    next_sequence: u64,
}

pub(crate) fn recover<F: Files>(
    directory: &Directory<F>,
    options: &LaneOptions,
) -> Result<Recovered<F::File>, OpenError> {
    let files = directory.files();
    let names = list(files, options.lane)?;
    let (mut scans, walk) = read_durable(files, options, &names.segments, directory.log_id())?;
    let Walk { mut replay, mut report, accepted, terms, ends, claimed, .. } = walk;
    assert!(terms >= replay.terms, "the lane's term is at least that of every frame");
    assert!(ends.len() >= accepted, "each accepted segment has an end");
    report.refused_pages = scans.iter().map(Scan::refused).sum();
    report.segments = accepted;
    report.discarded_segments = scans.len() - accepted;
    report.frames = replay.frames;
    report.lost_unknown = replay.is_any_hit().then_some(terms);
    let discarded: Vec<(u64, u64)> =
        scans[accepted..].iter().map(|scan| (scan.header.sequence, scan.header.bytes)).collect();
    let spares = clear_away(files, options, &names, &discarded)?;
    scans.truncate(accepted);
    let segments = scans
        .into_iter()
        .zip(ends)
        .map(|(scan, end)| InUse::recovered(scan.header.sequence, scan.header.bytes, scan.file, end));
    replay.forget_blank();
    let logs = replay.groups.logs().filter(|log| !log.is_removed);
    let recovered = logs
        .map(|log| RecoveredGroup { is_hit: replay.is_hit(log.group), ..RecoveredGroup::of(log) })
        .collect();
    Ok(Recovered {
        segments: segments.collect(),
        spares,
        next_sequence: names.next_sequence,
        last: report.last.max(claimed),
        terms,
        recovered,
        hit_and_gone: replay.hit_and_gone(),
        unlisted_losses: replay.unlisted_losses(),
        groups: replay.groups,
        pins: replay.pins,
        report,
    })
}

/// Reads the lane's segments, syncs the accepted ones, and verifies that the device has them.
///
/// A sync that failed in an earlier run leaves pages that are in the page cache, marked clean, but not on the
/// device. A sync now has nothing to do for them, and succeeds. So the end of the log, for which no later
/// batch shows that a sync succeeded, is read again from the device; what is not there is dropped. It is not
/// rewritten: an acknowledged batch may lie in the same page.
pub(crate) fn read_durable<'a, F: Files>(
    files: &'a F,
    options: &LaneOptions,
    sequences: &[u64],
    log_id: u64,
) -> Result<(Vec<Scan<'a, F>>, Walk), OpenError> {
    for source in [Source::Cached, Source::Device] {
        let (scans, walk) = read(files, options, sequences, log_id, source)?;
        assert_eq!(scans.len(), sequences.len(), "there is one scan for each segment");
        assert!(walk.accepted <= scans.len(), "only scanned segments are accepted");
        for scan in &scans[..walk.accepted] {
            files.sync(&scan.file).map_err(OpenError::io(&scan.path))?;
        }
        if walk.is_on_device(&scans)? {
            return Ok((scans, walk));
        }
    }
    let (dir, what) = (lane_dir(options.lane), "the log's end is not the same each time that it is read");
    Err(OpenError::corrupt(&dir, 0, what))
}

/// Reads the lane's segments, strictly; or, with `OnDamage::Fence` and damage, as `salvage` does.
pub(crate) fn read<'a, F: Files>(
    files: &'a F,
    options: &LaneOptions,
    sequences: &[u64],
    log_id: u64,
    source: Source,
) -> Result<(Vec<Scan<'a, F>>, Walk), OpenError> {
    let (lane, on_damage) = (options.lane, options.on_damage);
    let target = |sequence: u64| ScanTarget { lane, sequence, log_id, on_damage, source };
    let strictly = || {
        let open = |sequence: &u64| Scan::open(files, target(*sequence));
        let scans: Vec<_> = sequences.iter().map(open).collect::<Result<_, _>>()?;
        let mut walk = Walk::default();
        walk.all(files, &scans)?;
        Ok((scans, walk))
    };
    match strictly() {
        Err(refusal @ OpenError::Corrupt { .. }) if options.on_damage == OnDamage::Fence => {
            salvage(files, sequences, target, refusal)
        }
        read => read,
    }
}

pub(crate) fn list<F: Files>(files: &F, lane: u16) -> Result<Names, OpenError> {
    let dir = lane_dir(lane);
    let found = files.list(&dir).map_err(OpenError::io(&dir))?;
    let mut names = Names { segments: vec![], spares: vec![], unfinished: vec![], next_sequence: 1 };
    for name in found {
        let sequence = if let Some(sequence) = segment::sequence_of(&name) {
            names.segments.push(sequence);
            sequence
        } else if let Some(sequence) = segment::spare_sequence_of(&name) {
            names.spares.push(sequence);
            sequence
        } else if let Some(sequence) = segment::unfinished_sequence_of(&name) {
            names.unfinished.push(format!("{dir}/{name}"));
            sequence
        } else {
            continue; // an unknown file
        };
        let after =
            sequence.checked_add(1).ok_or(OpenError::Options("a segment's number is out of range"))?;
        names.next_sequence = names.next_sequence.max(after);
    }
    names.segments.sort_unstable();
    names.spares.sort_unstable();
    assert!(
        names.segments.last().is_none_or(|last| *last < names.next_sequence),
        "the next segment's number is above every segment's"
    );
    assert!(
        names.spares.last().is_none_or(|last| *last < names.next_sequence),
        "the next segment's number is above every spare's"
    );
    Ok(names)
}

/// Turns discarded segments into spares, durably, before anything new is written; removes files that cannot
/// be spares.
fn clear_away<F: Files>(
    files: &F,
    options: &LaneOptions,
    names: &Names,
    discarded: &[(u64, u64)],
) -> Result<Vec<String>, OpenError> {
    let lane = options.lane;
    let mut spares = Vec::new();
    let remove = |path: &str| files.remove(path).map_err(OpenError::io(path));
    for path in &names.unfinished {
        remove(path)?;
    }
    for sequence in &names.spares {
        let path = spare_path(lane, *sequence);
        // A file that cannot even be opened is no loss: nothing in it is part of the log.
        let bytes = files.open(&path, Access::Plain).and_then(|file| files.len(&file)).unwrap_or(0);
        if bytes == options.segment_bytes && spares.len() < options.spare_segments {
            spares.push(path);
        } else {
            remove(&path)?;
        }
    }
    assert!(spares.len() <= options.spare_segments, "surplus spares are removed");
    assert!(
        discarded.first().map(|(first, _)| first) <= discarded.last().map(|(last, _)| last),
        "segments are listed in their order"
    );
    // The newest first, and each durably: what is left after a crash in between is a chain without a gap.
    let dir = lane_dir(lane);
    let sync_dir = || files.sync_dir(&dir).map_err(OpenError::io(&dir));
    for (sequence, bytes) in discarded.iter().rev() {
        let path = segment_path(lane, *sequence);
        if *bytes == options.segment_bytes {
            let spare = spare_path(lane, *sequence);
            files.rename(&path, &spare).map_err(OpenError::io(&path))?;
            spares.push(spare);
        } else {
            remove(&path)?;
        }
        sync_dir()?;
    }
    sync_dir()?;
    Ok(spares)
}

/// A pass over all segments, in order.
#[derive(Default)]
pub(crate) struct Walk {
    pub(crate) replay: Replay,
    pub(crate) report: RecoveryReport,
    pub(crate) terms: Term,
    /// Of a damaged log: the highest LSN that any record claims was durable.
    claimed: Lsn,
    /// The LSN of the next batch; `None` before the first.
    expected: Option<Lsn>,
    /// Accepted batches that no later record claims to have been durable: segment, offset and header.
    unvouched: VecDeque<(u64, u64, BatchHeader)>,
    /// The number of segments, from the first on, with accepted batches.
    accepted: usize,
    /// Where the log ends: in the last of those segments, or at the start of the first one.
    end: End,
    is_over: bool,
    /// Where the batches of each of those segments end; `None` where it is damaged.
    ends: Vec<Option<u64>>,
}

/// How many segments are surveyed in parallel; their surveys are in memory until they are joined.
pub(crate) const SURVEYS_MAX: usize = 8;

type Surveyed = OnceLock<Result<Survey, OpenError>>;

impl Walk {
    /// Accepts batches until the log ends; counts the segments that hold them in `accepted`.
    fn all<F: Files>(&mut self, files: &F, scans: &[Scan<'_, F>]) -> Result<(), OpenError> {
        refuse_missing(scans)?;
        let mut at = 0;
        let mut surveyed: Vec<Surveyed> = Vec::new();
        // One chunk of surveys is joined while the next is made.
        while !self.is_over && (at < scans.len() || !surveyed.is_empty()) {
            assert!(surveyed.len() <= at, "what is joined lies before what is surveyed next");
            let next = &scans[at..scans.len().min(at + SURVEYS_MAX)];
            let surveys: Vec<Surveyed> = next.iter().map(|_| OnceLock::new()).collect();
            let before = &scans[at - surveyed.len()..at];
            let join = Mutex::new(Some((&mut *self, std::mem::take(&mut surveyed))));
            let joined = OnceLock::new();
            files.spread(1 + next.len(), &|task| {
                if let Some(task) = task.checked_sub(1) {
                    drop(surveys[task].set(Survey::of(&next[task])));
                } else if let Some((walk, surveyed)) = join.lock().expect("taken once").take() {
                    drop(joined.set(walk.join(before, surveyed)));
                }
            });
            joined.into_inner().expect("the first task was run")?;
            at += next.len();
            surveyed = surveys;
        }
        assert!(self.accepted <= at, "an accepted segment was surveyed");
        assert_eq!(self.ends.len(), self.accepted, "there is one end for each accepted segment");
        let from = self.accepted.saturating_sub(1);
        self.refuse_lost(scans, from)?;
        self.terms = self.terms.max(self.replay.terms);
        let holes = self.replay.holes();
        if !holes.is_empty() {
            let (file, what) = (scans[0].path.clone(), "the start of a group's log is missing");
            return Err(OpenError::Corrupt { file, offset: PAGE_BYTES as u64, what, groups: holes });
        }
        Ok(())
    }

    /// Accepts the batches of some segments, in order, until the log ends.
    fn join<F: Files>(&mut self, scans: &[Scan<'_, F>], surveyed: Vec<Surveyed>) -> Result<(), OpenError> {
        assert_eq!(scans.len(), surveyed.len(), "there is one survey for each segment");
        for (scan, survey) in scans.iter().zip(surveyed) {
            if self.is_over {
                break;
            }
            let here = self.segment(scan, survey.into_inner().expect("every task was run")?)?;
            if here.is_torn {
                self.report.torn = Some(TornTail { file: scan.path.clone(), offset: here.offset });
            }
            if here.batches == 0 {
                if self.accepted == 0 {
                    self.end = here;
                }
                self.is_over = true;
                break;
            }
            if !here.is_torn {
                self.report.torn = None; // an earlier recovery ended the log before, and continued here
            }
            self.accepted += 1;
            self.ends.push(Some(here.offset));
            self.end = here;
        }
        Ok(())
    }

    /// Accepts batches from the segment's start on.
    fn segment<F: Files>(&mut self, scan: &Scan<'_, F>, survey: Survey) -> Result<End, OpenError> {
        let Survey { batches, frames, mut extras, end, is_torn } = survey;
        let mut end = End { offset: end, batches: batches.len() as u64, is_torn };
        for (count, batch) in batches.iter().enumerate() {
            let header = &batch.header;
            let follows = self.expected.is_none_or(|expected| expected == header.lsn) && header.lsn.0 > 0;
            if !follows {
                end = End { offset: batch.offset, batches: count as u64, is_torn: true };
                break;
            }
            self.count(scan.header.sequence, batch.offset, header);
        }
        assert!(
            (PAGE_BYTES as u64..=scan.header.bytes).contains(&end.offset),
            "a segment's batches end in the segment, behind its first page"
        );
        for frame in frames.iter().filter(|frame| u64::from(frame.offset) < end.offset) {
            if let Err(what) = self.replay.frame(scan.header.sequence, frame, &mut extras) {
                let within = batches.partition_point(|batch| batch.offset <= u64::from(frame.offset));
                assert!(within > 0, "a surveyed frame lies in a surveyed batch");
                let (file, offset) = (scan.path.clone(), batches[within - 1].offset);
                return Err(OpenError::Corrupt { file, offset, what, groups: vec![frame.group] });
            }
        }
        Ok(end)
    }

    /// Accepts a batch.
    pub(crate) fn count(&mut self, sequence: u64, offset: u64, header: &BatchHeader) {
        assert!(self.expected.is_none_or(|expected| expected <= header.lsn), "accepted batches rise");
        assert!(
            self.unvouched.back().is_none_or(|(before, at, _)| (*before, *at) < (sequence, offset)),
            "batches are accepted in the order of their places"
        );
        while self.unvouched.pop_front_if(|(_, _, before)| before.lsn <= header.durable).is_some() {}
        self.unvouched.push_back((sequence, offset, *header));
        self.terms = self.terms.max(header.terms);
        self.report.batches += 1;
        self.report.bytes += header.padded_bytes();
        self.report.last = header.lsn;
        self.expected = Some(header.lsn.next());
    }

    /// Whether the device has the batches that no later record claims to have been durable. Cost: they are
    /// read again, past the page cache; usually only the last one.
    fn is_on_device<F: Files>(&self, scans: &[Scan<'_, F>]) -> Result<bool, OpenError> {
        let floor = scans.iter().map(|scan| scan.header.floor).max().unwrap_or_default().max(self.claimed);
        let mut batches = self.unvouched.iter().filter(|(_, _, header)| header.lsn > floor).peekable();
        for scan in &scans[..self.accepted] {
            let mut reader = None;
            while let Some((_, offset, header)) =
                batches.next_if(|(sequence, _, _)| *sequence == scan.header.sequence)
            {
                let reader = reader.get_or_insert_with(|| scan.reader_past_cache());
                let found = reader.batch_header(*offset)?;
                if found.is_none_or(|found| found != *header)
                    || !header.frames(reader.batch(*offset, header)?, |_, _, _| ())
                {
                    return Ok(false);
                }
            }
        }
        assert!(batches.next().is_none(), "every batch that nothing vouches for was read again");
        Ok(true)
    }

    /// The log ends at `end` of the segment at `from`. Fails if a later record claims that there was more.
    fn refuse_lost<F: Files>(&self, scans: &[Scan<'_, F>], from: usize) -> Result<(), OpenError> {
        let end = &self.end;
        let missing = self.expected.unwrap_or(Lsn(1));
        for at in from..scans.len() {
            let start = if at == from { end.offset } else { PAGE_BYTES as u64 };
            let floor = (scans[at].header.floor >= missing).then_some(0);
            let claim = floor.map_or_else(|| scans[at].reader().claim(start, missing), |at| Ok(Some(at)));
            let Some(claim) = claim? else { continue };
            assert!(claim == 0 || claim >= start, "a claim lies behind the log's end");
            // The gap lies before the claim: at the start of its segment if a batch would fit there, else
            // where the log ended.
            let is_here = at > from && claim > PAGE_BYTES as u64 && !end.is_torn;
            let (place, offset) = if is_here { (at, PAGE_BYTES as u64) } else { (from, end.offset) };
            let groups = groups_in(&scans[place], offset)?;
            let (file, what) = (scans[place].path.clone(), "a batch that was durable is damaged or missing");
            return Err(OpenError::Corrupt { file, offset, what, groups });
        }
        Ok(())
    }
}

/// Every segment but the oldest names the one before it.
fn refuse_missing<F: Files>(scans: &[Scan<'_, F>]) -> Result<(), OpenError> {
    for pair in scans.windows(2) {
        let (before, header) = (pair[0].header.sequence, &pair[1].header);
        if header.previous != before {
            let path = segment_path(header.lane, header.previous);
            return Err(OpenError::corrupt(&path, 0, "the segment is missing"));
        }
    }
    Ok(())
}

/// The groups with frames still identifiable in a damaged batch.
fn groups_in<F: Files>(scan: &Scan<'_, F>, offset: u64) -> Result<Vec<GroupId>, OpenError> {
    let mut groups = Vec::new();
    let mut reader = scan.reader();
    let Some(header) = reader.batch_header(offset)? else { return Ok(groups) };
    let batch = reader.batch(offset, &header)?;
    let mut rest = batch.get(crate::format::batch::BATCH_HEADER_BYTES..).unwrap_or_default();
    while let Ok(frame) = FrameHeader::parse(rest) {
        groups.push(frame.group);
        rest = rest.get(frame.frame_bytes()..).unwrap_or_default();
    }
    groups.sort_unstable();
    groups.dedup();
    Ok(groups)
}
