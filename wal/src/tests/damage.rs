//! Damage of whole ranges, rot while the log is open, and failing calls: refused with file and offset, never
//! silently less. Single wrong bytes at every offset: `every_byte`.

use std::sync::{Arc, Mutex};

use super::*;
use crate::LogError;
use crate::disk::simulated::{Call, Fate, Outcome};
use crate::format::segment::segment_path;

/// Options for logs small enough to damage byte by byte.
fn tiny() -> LaneOptions {
    LaneOptions { segment_bytes: 16 << 10, frame_bytes_max: 4 << 10, ..small() }
}

/// A log of several segments and turns, with its expected content as of each batch.
fn sample() -> (MemoryFiles, BTreeMap<Lsn, BTreeMap<GroupId, Story>>) {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, tiny()).unwrap();
    let mut said = BTreeMap::from([(Lsn(0), BTreeMap::new())]);
    for turn in 0..5 {
        for group in 1..3 {
            let slot = lane.attach(GroupId(group));
            append(&mut lane, slot, id(turn * 2 + 1, 1), 2, 30);
        }
        said.insert(settle(&mut lane), stories(&lane));
    }
    (files, said)
}

fn segments(files: &MemoryFiles) -> Vec<String> {
    files.paths().into_iter().filter(|path| path.contains("/seg-")).collect()
}

#[test]
fn a_segment_that_is_gone_is_noticed() {
    let (files, _) = sample();
    let paths = segments(&files);
    for path in &paths[..2] {
        let damaged = files.copy();
        crate::Files::remove(&damaged, path).unwrap();
        assert!(matches!(open_in(&damaged, tiny()), Err(OpenError::Corrupt { .. })), "{path}");
    }
}

#[test]
fn damage_names_the_groups_it_can_make_out() {
    let (files, _) = sample();
    let path = &segments(&files)[0];
    let mut bytes = files.content(path).unwrap();
    bytes[4096 + 64 + 50] ^= 1; // in the first frame's body
    files.put(path, bytes);
    let Err(OpenError::Corrupt { file, offset, groups, .. }) = open_in(&files, tiny()) else {
        panic!("opened")
    };
    assert_eq!((&file, offset, groups), (path, 4096, vec![GroupId(1), GroupId(2)]));
}

#[test]
fn after_the_first_failed_write_nothing_is_durable_any_more() {
    for n in 1..4 {
        let files = MemoryFiles::new();
        let (mut lane, ..) = open(&files);
        let slot = lane.attach(GroupId(1));
        append(&mut lane, slot, id(1, 1), 1, 16);
        settle(&mut lane);
        lane.poll().unwrap();
        files.fail_change(n, 0, std::io::ErrorKind::Other);
        let mut durable = Lsn(1);
        let poisoned = (2..20).find_map(|at| {
            append(&mut lane, slot, id(at, 1), 1, 16);
            lane.submit().unwrap();
            match lane.poll() {
                Ok(progress) => durable = progress.durable,
                Err(poisoned) => return Some(poisoned),
            }
            None
        });
        assert!(poisoned.is_some(), "the failed write went unnoticed");
        assert_eq!(durable, Lsn(n), "what was written before the failure");
        assert!(matches!(lane.submit(), Err(LogError::Poisoned(_))));
        assert!(matches!(lane.begin_frame(slot, id(30, 1), 1).err(), Some(LogError::Poisoned(_))));
        assert!(lane.hard_state(slot, HardState::default()).is_err());
        assert!(lane.poll().is_err() && lane.turn_budget() == 0);
        drop(lane);
        let (.., report) = open(&files);
        assert!(report.last >= durable);
    }
}

/// A lane with its early entries in files only: some in a sealed segment, some in the current one.
fn cold() -> (MemoryFiles, MemoryLane, GroupSlot) {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, LaneOptions { recent_bytes: 0, ..small() }).unwrap();
    let slot = lane.attach(GroupId(1));
    for index in 1..=40 {
        append(&mut lane, slot, id(index, 1), 1, 900);
        settle(&mut lane);
    }
    (files, lane, slot)
}

/// Flips the given bit of the next read, if there is one.
struct Flips(Arc<Mutex<Option<u64>>>);

impl Fate for Flips {
    fn decide(&mut self, call: Call<'_>) -> Outcome {
        match call {
            Call::Read { .. } => self.0.lock().unwrap().take().map_or(Outcome::Done, Outcome::Flipped),
            _ => Outcome::Done,
        }
    }
}

#[test]
fn a_read_that_slips_once_is_made_again() {
    let (files, lane, slot) = cold();
    let flip = Arc::new(Mutex::new(None));
    files.decided_by(Some(Box::new(Flips(Arc::clone(&flip)))));
    let current = lane.segments.current().sequence;
    let (mut in_current, mut in_sealed) = (0, 0);
    for index in 1..=40 {
        let frame = lane.read(slot, Index(index), Index(index), 1).unwrap()[0];
        *flip.lock().unwrap() = Some(8 * 100);
        let bytes = lane.bytes(frame.place).unwrap();
        assert!(frame::parse(&bytes).is_ok(), "entry {index}");
        if frame.place.segment == current { in_current += 1 } else { in_sealed += 1 }
    }
    assert!(in_current > 0 && in_sealed > 0, "{in_current} and {in_sealed}");
}

#[test]
fn what_has_rotted_since_opening_is_never_given_out() {
    let (files, lane, slot) = cold();
    for index in [1, 40] {
        let place = lane.read(slot, Index(index), Index(index), 1).unwrap()[0].place;
        let path = segment_path(0, place.segment);
        assert!(files.rot(&path, u64::from(place.offset) + 100, 4));
        let offset = u64::from(place.offset);
        match lane.bytes(place) {
            Err(LogError::Damaged { file, offset: at, .. }) => assert_eq!((file, at), (path, offset)),
            other => panic!("entry {index}: {other:?}"),
        }
    }
}

/// A device that misdirects a batch to the place of another one of the same segment, as with the simulator's
/// seed 81: the batches between them must not be skipped.
#[test]
fn a_batch_in_the_place_of_another_is_noticed() {
    let (files, said) = sample();
    let paths = segments(&files);
    let (path, good) = (&paths[0], files.content(&paths[0]).unwrap());
    let pages = good.len() / 4096;
    for (from, to) in (1..pages).flat_map(|from| (1..pages).map(move |to| (from, to))).filter(|(a, b)| a != b)
    {
        let mut bad = good.clone();
        bad.copy_within(from * 4096..(from + 1) * 4096, to * 4096);
        let damaged = files.copy();
        damaged.put(path, bad);
        // The oldest segments may have been freed: the log that is left must not begin later because of the
        // damage.
        let last = said.keys().next_back().copied().unwrap();
        match open_in(&damaged, tiny()) {
            Ok((lane, _, report)) => {
                assert_eq!(report.last, last);
                assert_eq!(stories(&lane), said[&last], "{from} in the place of {to}");
            }
            Err(OpenError::Corrupt { file, .. }) => assert_eq!(&file, path),
            Err(other) => panic!("{other}"),
        }
    }
}
