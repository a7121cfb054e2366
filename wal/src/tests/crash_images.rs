//! Short runs, with a power cut at every call, and every image that such a cut can leave: each unsynced
//! sector old, new or garbage, in every combination; each unsynced change of names lost or done, in every
//! combination. The same where the device refuses one sync of a directory, and the log goes on.
//!
//! A crash with k sectors in doubt has 3^k images; all of them are opened while that is at most
//! [`IMAGES_MAX`]. Above, the test opens every combination of old and new, and one sector of garbage at a
//! time among all old and among all new ones; it prints how many runs that affected. A sector in doubt is one
//! in which old and new differ, of a segment, a manifest or the like; files without valid content are garbage
//! throughout. Longer, random runs: `power_cut`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::disk::simulated::{Call, Fate, Outcome, SectorFate};
use crate::{LogError, Poisoned};

/// Up to this many images of one crash, all are opened.
const IMAGES_MAX: usize = 3usize.pow(8);
/// The most sectors in doubt: bounds even the combinations of old and new alone.
const SECTORS_MAX: usize = 14;
/// The most changes of names in doubt.
const NAMES_MAX: usize = 5;
/// A run is cut at each of this many calls after a refused sync: its consequences are repaired by then.
const CALLS_AFTER_REFUSAL: u64 = 12;
const GARBAGE: SectorFate = SectorFate::Garbage(0xA5);

fn tiny() -> LaneOptions {
    LaneOptions { segment_bytes: 16 << 10, frame_bytes_max: 4 << 10, spare_segments: 1, ..small() }
}

type Said = BTreeMap<Lsn, BTreeMap<GroupId, Story>>;

/// A run, up to the power cut.
struct Run {
    files: MemoryFiles,
    said: Said,
    durable: Lsn,
    written: Lsn,
    /// The number of batches written without a sync of their own.
    relaxed: u64,
    /// The call that was to be refused was made.
    is_refused: bool,
}

impl Run {
    /// One run of a lane on a copy of `base`, cut at changing call `cut` if it makes as many; `refused`: call
    /// of that number fails, if it syncs the lane's directory.
    fn of(base: &MemoryFiles, said: &Said, relaxed: u64, cut: u64, refused: Option<u64>) -> Self {
        let files = base.copy();
        files.fail_change(cut, u64::MAX - 1, std::io::ErrorKind::Other);
        let has_struck = Arc::new(AtomicBool::new(false));
        let refusal = |left| Box::new(Refusal { left, has_struck: Arc::clone(&has_struck) }) as Box<dyn Fate>;
        files.decided_by(refused.map(refusal));
        let last = said.keys().next_back().copied().unwrap();
        let mut run = Self {
            files: files.clone(),
            said: said.clone(),
            durable: last,
            written: last,
            relaxed,
            is_refused: false,
        };
        if let Ok((mut lane, ..)) = open_in(&files, tiny()) {
            let _cut = run.live(&mut lane); // by the power cut, wherever it was
        }
        files.heal();
        files.decided_by(None);
        run.is_refused = has_struck.load(Ordering::Relaxed);
        run
    }

    /// Batches that wait together, some unsynced, across the end of a segment; a vote, a replaced tail, a
    /// compaction.
    fn live(&mut self, lane: &mut MemoryLane) -> Result<(), LogError> {
        let (one, two) = (lane.attach(GroupId(1)), lane.attach(GroupId(2)));
        let (last_one, last_two) = (lane.last(one), lane.last(two));
        lane.disk_mut().runs_by_itself = false;
        append(lane, one, EntryId::new(Term(8), last_one.next()), 1, 300);
        self.submit(lane, false)?;
        append(lane, two, EntryId::new(Term(8), last_two.next()), 2, 20);
        lane.hard_state(two, HardState { term: Term(8), vote: Some(NodeId(2)) })?;
        self.submit(lane, false)?;
        self.settle(lane)?;
        for _ in 0..self.relaxed {
            let next = lane.last(one).next();
            let mut frame = lane.begin_frame(one, EntryId::new(Term(8), next), 400)?;
            frame.relax();
            assert!(frame.push(EntryKind::Payload, &payload(next.0, 8, 300)) && frame.finish().is_some());
            self.submit(lane, true)?;
            self.settle(lane)?;
        }
        append(lane, two, EntryId::new(Term(9), last_two.next()), 1, 20);
        lane.compact(one, EntryId::new(Term(8), last_one.next()));
        self.submit(lane, false)?;
        self.settle(lane)?;
        Ok(())
    }

    fn submit(&mut self, lane: &mut MemoryLane, is_relaxed: bool) -> Result<(), LogError> {
        let (told, before) = (stories(lane), lane.marks.sealed().0);
        if is_relaxed {
            lane.submit_relaxed()?
        } else {
            lane.submit()?
        };
        self.said.extend((before + 1..=lane.marks.sealed().0).map(|lsn| (Lsn(lsn), told.clone())));
        Ok(())
    }

    /// Runs the disk's waiting jobs, one after the other. A segment that cannot be made is requested again
    /// and again.
    fn settle(&mut self, lane: &mut MemoryLane) -> Result<(), Poisoned> {
        for _ in 0..12 {
            let _is_busy = lane.disk_mut().run_background() || lane.disk_mut().run_appends();
            let progress = lane.poll()?;
            (self.durable, self.written) = (progress.durable, progress.written);
        }
        Ok(())
    }

    /// The image after the power cut; the bits of `names` select the unsynced changes of names that were
    /// done.
    fn image(&self, mut names: usize, fate: impl FnMut(&str, usize) -> SectorFate) -> MemoryFiles {
        let is_there = || {
            let is_set = names & 1 == 1;
            names >>= 1;
            is_set
        };
        self.files.after_power_cut_with_names(is_there, fate)
    }

    /// The unsynced sectors in which old and new differ, of files with valid content.
    fn in_doubt(&self, names: usize) -> Vec<(String, usize)> {
        let mut asked = Vec::new();
        let old = self.image(names, |path, sector| {
            if !is_scratch(path) {
                asked.push((path.to_owned(), sector));
            }
            SectorFate::Old
        });
        let new = self.image(names, |_, _| SectorFate::New);
        let sector_of = |files: &MemoryFiles, (path, sector): &(String, usize)| {
            let bytes = files.content(path).unwrap_or_default();
            bytes.chunks(crate::disk::simulated::SECTOR_BYTES).nth(*sector).map(<[u8]>::to_vec)
        };
        asked.retain(|at| sector_of(&old, at) != sector_of(&new, at));
        asked
    }

    fn check(&self, image: &MemoryFiles, least: Lsn, context: &str) -> Lsn {
        let (lane, _, report) = match open_in(image, tiny()) {
            Ok(opened) => opened,
            Err(error) => panic!("{context}: an honest crash looks like damage: {error}"),
        };
        assert!(report.last >= least, "{context}: {} of {least} is left", report.last);
        let mut expected = self.said[&report.last].clone();
        let mut found = stories(&lane);
        for all in [&mut expected, &mut found] {
            all.retain(|_, story| *story != Story::default());
        }
        assert_eq!(found, expected, "{context}");
        report.last
    }
}

/// Fails one call, if it syncs the lane's directory.
struct Refusal {
    /// The number of changing calls until then.
    left: u64,
    has_struck: Arc<AtomicBool>,
}

impl Fate for Refusal {
    fn decide(&mut self, call: Call<'_>) -> Outcome {
        if matches!(call, Call::Read { .. }) {
            return Outcome::Done;
        }
        self.left = self.left.wrapping_sub(1);
        let is_refused = self.left == 0 && call == Call::SyncDir("lane-0");
        self.has_struck.fetch_or(is_refused, Ordering::Relaxed);
        if is_refused { Outcome::Fail(std::io::ErrorKind::Other) } else { Outcome::Done }
    }
}

/// Whether the file is a spare or unfinished one.
fn is_scratch(path: &str) -> bool {
    path.ends_with(".tmp") || path.ends_with(".old")
}

#[derive(Debug, Default)]
struct Seen {
    crashes: u64,
    images: u64,
    /// Crashes of which not every image was opened.
    bounded: u64,
    /// Images with unacknowledged batches left, and images that end exactly at the last durable batch.
    longer: u64,
    exact: u64,
    /// Images of crashes with more than one change of names in doubt.
    names: u64,
}

/// The fates of `count` sectors, one combination after the other.
fn mixes(count: usize) -> (Box<dyn Iterator<Item = Vec<SectorFate>>>, bool) {
    let all = |of: &'static [SectorFate], count: usize| {
        let total = of.len().pow(count as u32);
        (0..total).map(move |mix| {
            (0..count).map(|at| of[mix / of.len().pow(at as u32) % of.len()]).collect::<Vec<_>>()
        })
    };
    if 3usize.checked_pow(count as u32).is_some_and(|images| images <= IMAGES_MAX) {
        return (Box::new(all(&[SectorFate::Old, SectorFate::New, GARBAGE], count)), true);
    }
    assert!(count <= SECTORS_MAX, "{count} sectors are in doubt: the run is not short");
    let one_of_garbage = (0..2 * count).map(move |at| {
        let mut fates = vec![if at % 2 == 0 { SectorFate::Old } else { SectorFate::New }; count];
        fates[at / 2] = GARBAGE;
        fates
    });
    (Box::new(all(&[SectorFate::Old, SectorFate::New], count).chain(one_of_garbage)), false)
}

impl Seen {
    /// Opens every image that a crash may leave.
    fn open_images(&mut self, run: &Run, context: &str) {
        self.crashes += 1;
        // Only the process ends.
        run.check(&run.files.copy(), run.written, &format!("{context}: the process ends"));
        let changes = run.files.names_in_doubt();
        assert!(
            changes <= NAMES_MAX,
            "{context}: {changes} changes of names are in doubt: the run is not short"
        );
        for names in 0..1_usize << changes {
            let in_doubt = run.in_doubt(names);
            let (mixes, is_all) = mixes(in_doubt.len());
            self.bounded += u64::from(!is_all);
            for fates in mixes {
                let of: BTreeMap<&(String, usize), SectorFate> = in_doubt.iter().zip(fates).collect();
                let image = run.image(names, |path, sector| {
                    let other = if is_scratch(path) { GARBAGE } else { SectorFate::New };
                    of.get(&(path.to_owned(), sector)).copied().unwrap_or(other)
                });
                let last = run.check(&image, run.durable, &format!("{context}: names {names:b}, {of:?}"));
                self.images += 1;
                self.longer += u64::from(last > run.durable);
                self.exact += u64::from(last == run.durable);
                self.names += u64::from(changes > 1);
            }
        }
    }
}

fn every_image(base: &MemoryFiles, said: &Said, relaxed: u64) -> Seen {
    let mut seen = Seen::default();
    let calls = {
        let run = Run::of(base, said, relaxed, u64::MAX / 2, None);
        assert_eq!(run.durable, *run.said.keys().next_back().unwrap(), "the run comes to its end");
        run.files.changes()
    };
    for cut in 1..=calls + 1 {
        let run = Run::of(base, said, relaxed, cut, None);
        seen.open_images(&run, &format!("call {cut}"));
    }
    eprintln!("{seen:?}");
    assert!(seen.images > 200 && seen.longer > 50 && seen.exact > 50, "{seen:?}");
    seen
}

/// The same run, with one sync of the directory refused, and a power cut soon after.
fn every_image_after_a_refusal(base: &MemoryFiles, said: &Said, relaxed: u64) -> Seen {
    let mut seen = Seen::default();
    let calls = Run::of(base, said, relaxed, u64::MAX / 2, None).files.changes();
    for refused in 1..=calls {
        for cut in refused + 1..=refused + CALLS_AFTER_REFUSAL {
            let run = Run::of(base, said, relaxed, cut, Some(refused));
            if !run.is_refused {
                break; // the call is no directory sync
            }
            seen.open_images(&run, &format!("call {refused} is refused, call {cut}"));
        }
    }
    eprintln!("{seen:?}");
    seen
}

#[test]
fn every_crash_image_of_a_short_first_life() {
    let seen = every_image(&MemoryFiles::new(), &Said::from([(Lsn(0), BTreeMap::new())]), 4);
    assert_eq!(seen.bounded, 0, "every image was opened");
}

/// A log in reused files, and its expected content.
fn used() -> (MemoryFiles, Said) {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, tiny()).unwrap();
    let slots = [1, 2].map(|group| lane.attach(GroupId(group)));
    for turn in 0..14 {
        for slot in slots {
            append(&mut lane, slot, id(turn * 2 + 1, 1), 2, 400);
            lane.compact(slot, id(turn * 2, 1));
        }
        settle(&mut lane);
        lane.poll().unwrap();
    }
    assert!(lane.stats().recycled >= 2);
    let said = Said::from([(lane.marks.durable(), stories(&lane))]);
    drop(lane);
    (files, said)
}

/// In reused files, the old content of a sector is from an earlier incarnation.
#[test]
fn every_crash_image_of_a_short_life_in_used_files() {
    let (files, said) = used();
    let seen = every_image(&files, &said, 1);
    assert!(seen.bounded == 0 && seen.images > 5_000, "every image was opened: {seen:?}");
}

/// After an unsynced rename it is unknown which of two names a file has: it must not be written to before one
/// of them is certain.
#[test]
fn every_crash_image_of_a_life_that_was_refused_a_sync_of_its_directory() {
    let (files, said) = used();
    let seen = every_image_after_a_refusal(&files, &said, 1);
    assert!(seen.bounded == 0 && seen.images > 5_000 && seen.names > 0, "every image was opened: {seen:?}");
}
