//! Opening a damaged lane with what is left of it, so that it can be repaired from its peers.
//!
//! The lost frames are unknown; the votes and acknowledgements in them must still be honoured. So recovery
//! reports two things of every group that may have lost something: its log, as far as it is certain, and a
//! *fence*, a term that is at least that of every lost frame. That term is known because every batch, and
//! every segment's first page, contains the highest term of the lane so far, and damage differs from the
//! log's end only by a later record that claims the lost batch was durable.
//!
//! Rules. Batches with valid headers are taken in order of segment and place, with consecutive LSNs:
//! 1. Where the next one is missing or not whole, and a later segment begins with its LSN, an earlier opening
//!    ended the log here and continued there.
//! 2. Where it is missing, and a later record claims that it was durable, everything up to the next batch
//!    found is lost, of unknown groups: every group is hit.
//! 3. Where it is there but not whole, and a later record claims that it was durable: if the headers of all
//!    its frames are valid, the groups of the damaged frames are hit, and the other frames count; otherwise
//!    every group is hit.
//! 4. Where no later record claims that it was durable, the log ends. But a segment that the next one names
//!    as its predecessor, and that is gone, held durable data, even without a claim: everything up to the
//!    next batch found is lost. The same is assumed of the missing end of a segment that is cut short. If no
//!    later batch is found, nothing bounds the terms of the lost frames: opening fails.
//! 5. Of a group that was hit, later frames count only if they do not depend on what was lost: hard states;
//!    records that set a base; entries from the base on. A record that only repeats the base leaves the
//!    group's entries in place.
//! 6. When all groups that were hit are fenced, a list of the losses follows in the log. It answers for them,
//!    unless an earlier loss exists now that is not on the list: one found later, of older data.
//!
//! 7. Where the end of the log is lost, perhaps only the first pages of later segments claim it. They stay in
//!    the log, since the process may end before the list of losses is durable; and the next batch is numbered
//!    after all that was claimed, so that every later opening finds the same loss.
//! 8. Where the first base record of a group in the log is a compaction, the base record it replaced may have
//!    been freed since the loss was first found. Its base is assumed to have been the same, so that rule 5
//!    accepts the same entries as then.
//!
//! Where no batch at all is left, nothing is known of any group: opening fails.
//!
//! The segments are read twice: once to collect the claims, once to replay. Not here: the usual case
//! (`recovery`).

use std::sync::OnceLock;

use raftwerk_frame::{EntryId, GroupId};
use rustc_hash::FxHashSet;

use crate::disk::files::Files;
use crate::error::OpenError;
use crate::format::lsn::Lsn;
use crate::format::segment::PAGE_BYTES;
use crate::recovery::loss::LossVictims;
use crate::recovery::report::Damage;
use crate::recovery::scan::{CUT_SHORT, Scan, ScanTarget};
use crate::recovery::survey::{BatchState, Extra, FrameContent, Survey, SurveyedBatch, SurveyedFrame};
use crate::recovery::{SURVEYS_MAX, Walk};

const GONE: &str = "a batch that was durable is damaged or missing";
const HIT: &str = "frames that were durable are damaged";

/// The action at a batch.
enum Step {
    /// The batch is accepted, as far as it is whole.
    Accept { offset: u64 },
    /// Batches `from` up to `to` are lost; `to` is the next one found, or to be written.
    Gap { offset: u64, from: Lsn, to: Lsn },
}

/// The outline of a segment.
struct Outline {
    floor: Lsn,
    /// The segment before it is missing.
    is_after_gap: bool,
    /// Its end, with any batches there, is missing.
    is_cut: bool,
    batches: Vec<SurveyedBatch>,
    beginnings: Vec<Beginning>,
}

/// A record that restarts a group's log or moves its base: its offset, its group, and for a compaction its
/// base.
struct Beginning {
    offset: u64,
    group: GroupId,
    compacts_to: Option<EntryId>,
}

impl Beginning {
    fn of(frame: &SurveyedFrame, extras: &[Option<Extra>]) -> Option<Self> {
        let compacts_to = match frame.content {
            FrameContent::Extra(at) => match extras.get(at as usize)? {
                Some(Extra::Compact(_)) => Some(frame.id),
                Some(Extra::Snapshot(_)) => None,
                _ => return None,
            },
            FrameContent::Remove | FrameContent::Join { .. } => None,
            _ => return None,
        };
        Some(Self { offset: u64::from(frame.offset), group: frame.group, compacts_to })
    }
}

/// Recovers what is left. See the head of this file.
pub(crate) fn salvage<'a, F: Files>(
    files: &'a F,
    sequences: &[u64],
    target: impl Fn(u64) -> ScanTarget,
    refusal: OpenError,
) -> Result<(Vec<Scan<'a, F>>, Walk), OpenError> {
    let mut walk = Walk::default();
    let (mut scans, mut cut) = (Vec::new(), Vec::new());
    for sequence in sequences {
        let (scan, damage) = Scan::open_damaged(files, target(*sequence))?;
        cut.push(damage.as_ref().is_some_and(|damage| damage.what == CUT_SHORT));
        walk.report.damage.extend(damage);
        walk.terms = walk.terms.max(scan.header.terms);
        scans.push(scan);
    }
    let mut outlines: Vec<Outline> = Vec::new();
    in_order(files, &scans, |scan, survey| {
        let before = outlines.len().checked_sub(1).map(|before| sequences[before]);
        let names = scan.header.previous;
        let is_after_gap = before.is_some_and(|before| names != 0 && names != before);
        let (floor, is_cut) = (scan.header.floor, cut[outlines.len()]);
        let beginnings =
            survey.frames.iter().filter_map(|frame| Beginning::of(frame, &survey.extras)).collect();
        outlines.push(Outline { floor, is_after_gap, is_cut, batches: survey.batches, beginnings });
    })?;
    assert_eq!(outlines.len(), scans.len(), "there is one outline for each segment");
    let is_found = |from: usize| outlines[from..].iter().any(|outline| !outline.batches.is_empty());
    let is_unbounded =
        |at: usize| outlines[at].is_after_gap && !is_found(at) || outlines[at].is_cut && !is_found(at + 1);
    if (0..outlines.len()).any(is_unbounded) {
        return Err(refusal);
    }
    for batch in outlines.iter().flat_map(|outline| &outline.batches) {
        walk.terms = walk.terms.max(batch.header.terms);
    }
    let planned = Plan::new(&outlines).steps();
    let plan = planned.steps;
    assert_eq!(plan.len(), scans.len(), "there is one list of steps for each segment");
    walk.accepted = plan.iter().rposition(|steps| accepts_any(steps)).map_or(0, |last| last + 1);
    if walk.accepted == 0 {
        return Err(refusal); // nothing is left from which the groups could be known
    }
    let vouching = outlines.iter().rposition(|outline| outline.floor >= planned.missing); // rule 7
    walk.accepted = walk.accepted.max(vouching.map_or(0, |last| last + 1));
    assert!(walk.accepted <= scans.len(), "what is accepted was scanned");
    walk.claimed = planned.claimed;
    walk.expect_bases(&outlines, &plan);
    let mut plan = plan.into_iter();
    in_order(files, &scans[..walk.accepted], |scan, survey| {
        walk.follow(scan, survey, plan.next().unwrap_or_default());
    })?;
    // Losses at the end, after everything that is accepted.
    for (scan, steps) in scans[walk.accepted..].iter().zip(plan) {
        walk.follow(scan, Survey::default(), steps);
    }
    assert_eq!(walk.ends.len(), scans.len(), "each segment was followed");
    walk.terms = walk.terms.max(walk.replay.terms);
    let holes = walk.replay.fill_holes();
    if !holes.is_empty() {
        let (file, what) = (scans[0].path.clone(), "the start of a group's log is missing");
        walk.report.damage.push(Damage { file, offset: PAGE_BYTES as u64, what, groups: holes });
    }
    Ok((scans, walk))
}

fn accepts_any(steps: &[Step]) -> bool {
    steps.iter().any(|step| matches!(step, Step::Accept { .. }))
}

/// Surveys all of every segment, some in parallel, and passes the surveys to `take` in order.
pub(crate) fn in_order<F: Files>(
    files: &F,
    scans: &[Scan<'_, F>],
    mut take: impl FnMut(&Scan<'_, F>, Survey),
) -> Result<(), OpenError> {
    for chunk in scans.chunks(SURVEYS_MAX) {
        let surveys: Vec<OnceLock<Result<Survey, OpenError>>> =
            chunk.iter().map(|_| OnceLock::new()).collect();
        files.spread(chunk.len(), &|at| drop(surveys[at].set(Survey::through(&chunk[at]))));
        for (scan, survey) in chunk.iter().zip(surveys) {
            take(scan, survey.into_inner().expect("every task was run")?);
        }
    }
    Ok(())
}

/// The plan: the steps of each segment.
struct Planned {
    steps: Vec<Vec<Step>>,
    /// The LSN after the last accepted batch …
    missing: Lsn,
    /// … and the highest LSN that any record claims was durable.
    claimed: Lsn,
}

/// Rules 1 to 4.
struct Plan<'o> {
    outlines: &'o [Outline],
    /// The highest LSN that any record claims was durable.
    claimed: Lsn,
    /// The next LSN; `None` before the first accepted batch.
    expected: Option<Lsn>,
    /// The loss before the next batch has been recorded.
    is_reported: bool,
    /// A segment before the next batch is missing.
    is_gone: bool,
    is_over: bool,
}

impl<'o> Plan<'o> {
    fn new(outlines: &'o [Outline]) -> Self {
        let claims = |outline: &Outline| {
            let of_batches = outline.batches.iter().map(|batch| batch.header.durable);
            of_batches.max().unwrap_or_default().max(outline.floor)
        };
        let claimed = outlines.iter().map(claims).max().unwrap_or_default();
        Self { outlines, claimed, expected: None, is_reported: false, is_gone: false, is_over: false }
    }

    fn steps(mut self) -> Planned {
        let steps = (0..self.outlines.len()).map(|at| self.of_segment(at)).collect();
        assert!(self.expected.is_none_or(|expected| expected > Lsn(0)), "batches are numbered from 1");
        Planned { steps, missing: self.expected.unwrap_or(Lsn(1)), claimed: self.claimed }
    }

    fn of_segment(&mut self, at: usize) -> Vec<Step> {
        let (mut steps, mut end) = (Vec::new(), PAGE_BYTES as u64);
        let outlines = self.outlines;
        self.is_gone |= outlines[at].is_after_gap;
        for batch in &outlines[at].batches {
            let lsn = batch.header.lsn;
            // A log begins with a durable batch, at the start of its first segment.
            let (missing, expected) = (self.expected.unwrap_or(Lsn(1)), self.expected.unwrap_or(lsn));
            if self.is_over || lsn < expected {
                continue;
            }
            let is_next = lsn == expected && batch.offset == end;
            if !(is_next && batch.state == BatchState::Whole) {
                if self.expected.is_some() && self.continues_after(at, expected) {
                    return steps; // rule 1
                }
                if missing > self.claimed && !self.is_gone {
                    self.is_over = true; // rule 4
                    return steps;
                }
                if !is_next && !self.is_reported {
                    steps.push(Step::Gap { offset: end, from: missing, to: lsn }); // rule 2
                }
            }
            assert!(lsn >= expected, "accepted batches rise");
            assert!(batch.offset >= end, "accepted batches lie one after another");
            steps.push(Step::Accept { offset: batch.offset });
            (self.expected, self.is_reported, self.is_gone) = (Some(lsn.next()), false, false);
            end = batch.offset + batch.header.padded_bytes();
        }
        self.is_gone |= outlines[at].is_cut;
        // Batches may be missing at the end, with no sign of that in this segment.
        let expected = self.expected.unwrap_or(Lsn(1));
        let is_lost = expected <= self.claimed && !self.continues_after(at, expected);
        if is_lost && !self.is_over && !self.is_reported {
            self.is_reported = true;
            let to = self.first_after(at, expected);
            assert!(to > expected, "a loss ends after it begins");
            steps.push(Step::Gap { offset: end, from: expected, to });
        }
        steps
    }

    fn first_after(&self, at: usize, lsn: Lsn) -> Lsn {
        assert!(at < self.outlines.len(), "a segment of the plan has an outline");
        let batches = self.outlines[at + 1..].iter().flat_map(|outline| &outline.batches);
        let found = batches.map(|batch| batch.header.lsn).find(|found| *found > lsn);
        found.unwrap_or(self.claimed.next())
    }

    /// Whether a later segment begins with this LSN, or a missing one may have.
    fn continues_after(&self, at: usize, lsn: Lsn) -> bool {
        self.outlines[at + 1..].iter().any(|outline| {
            let first = outline.batches.first();
            let begins = |first: &SurveyedBatch| first.header.lsn == lsn && first.offset == PAGE_BYTES as u64;
            outline.is_after_gap || first.is_some_and(begins)
        })
    }
}

impl Walk {
    /// Rule 8.
    fn expect_bases(&mut self, outlines: &[Outline], plan: &[Vec<Step>]) {
        let mut met = FxHashSet::default();
        assert_eq!(outlines.len(), plan.len(), "there is one list of steps for each outline");
        for (outline, steps) in outlines.iter().zip(plan) {
            let take = |step: &Step| if let Step::Accept { offset } = step { Some(*offset) } else { None };
            let taken: Vec<u64> = steps.iter().filter_map(take).collect();
            let counts = |offset: u64| {
                let within = outline.batches.partition_point(|batch| batch.offset <= offset);
                within
                    .checked_sub(1)
                    .is_some_and(|at| taken.binary_search(&outline.batches[at].offset).is_ok())
            };
            for beginning in outline.beginnings.iter().filter(|beginning| counts(beginning.offset)) {
                if met.insert(beginning.group)
                    && let Some(id) = beginning.compacts_to
                {
                    self.replay.expect_base(beginning.group, id);
                }
            }
        }
    }

    /// Replays the accepted batches of a segment.
    fn follow<F: Files>(&mut self, scan: &Scan<'_, F>, survey: Survey, steps: Vec<Step>) {
        let Survey { batches, frames, mut extras, .. } = survey;
        let (mut batches, mut frames) = (batches.iter(), frames.iter());
        let (damage, mut end) = (self.report.damage.len(), None);
        for step in steps {
            let offset = match step {
                Step::Gap { offset, from, to } => {
                    self.lose(scan, offset, (from, to), GONE, LossVictims::Any);
                    continue;
                }
                Step::Accept { offset } => offset,
            };
            for batch in batches.by_ref() {
                let is_accepted = batch.offset == offset;
                let span = (batch.header.lsn, batch.header.lsn.next());
                if is_accepted {
                    end = Some(offset + batch.header.padded_bytes());
                    match &batch.state {
                        BatchState::Whole => {}
                        BatchState::Hit(of) => {
                            self.lose(scan, offset, span, HIT, LossVictims::Of(of.clone()))
                        }
                        BatchState::Lost => self.lose(scan, offset, span, GONE, LossVictims::Any),
                    }
                    self.count(scan.header.sequence, offset, &batch.header);
                }
                for frame in frames.by_ref().take(batch.frames as usize).filter(|_| is_accepted) {
                    if let Err(what) = self.replay.frame(scan.header.sequence, frame, &mut extras) {
                        self.lose(scan, offset, span, what, LossVictims::Of(vec![frame.group]));
                    }
                }
                if is_accepted {
                    break;
                }
            }
        }
        self.ends.push(end.filter(|_| self.report.damage.len() == damage));
    }

    fn lose<F: Files>(
        &mut self,
        scan: &Scan<'_, F>,
        offset: u64,
        (from, to): (Lsn, Lsn),
        what: &'static str,
        lost: LossVictims,
    ) {
        let groups = if let LossVictims::Of(groups) = &lost { groups.clone() } else { Vec::new() };
        let named: Vec<u8> = groups.iter().flat_map(|group| group.0.to_le_bytes()).collect();
        self.replay.lose([from.0, to.0, u64::from(crc32fast::hash(&named))], &lost);
        self.report.damage.push(Damage { file: scan.path.clone(), offset, what, groups });
    }
}
