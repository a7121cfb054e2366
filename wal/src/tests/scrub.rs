//! Scrubbing while the lane runs: all damage is found, nothing else is, the affected groups are reported, and
//! data still in memory is rewritten.

use super::*;
use crate::disk::simulated::{Call, Fate, Outcome};
use crate::format::segment::segment_path;
use crate::{BackgroundOutput, DamagedEntries, OnDamage, Place};

fn options() -> LaneOptions {
    // Nothing is kept in memory, and nothing is relocated.
    LaneOptions { recent_bytes: 0, log_bytes_max: u64::MAX, on_damage: OnDamage::Fence, ..small() }
}

/// Three groups over a few segments, with a vote each in the first.
fn written(files: &MemoryFiles) -> MemoryLane {
    let (mut lane, ..) = open_in(files, options()).unwrap();
    for turn in 0..18 {
        for group in 1..4 {
            let slot = lane.attach(GroupId(group));
            if turn == 0 {
                lane.snapshot(slot, id(0, 0), &voters(3), Tail::Drop);
                lane.hard_state(slot, HardState { term: Term(1), vote: Some(NodeId(group)) }).unwrap();
            }
            let next = lane.last(slot).0 + 1;
            append(&mut lane, slot, id(next, 1), 2, 300 * group as usize);
        }
        settle(&mut lane);
    }
    assert!(lane.stats().segments > 2);
    lane
}

/// Scrubs all sealed segments, in parts of `bytes` bytes.
fn pass<D: Disk>(lane: &mut Lane<D>, bytes: u64) -> Vec<Place> {
    let mut found = Vec::new();
    while lane.scrub(7, bytes) {
        let done = loop {
            match lane.poll_background() {
                Some(done) => break done,
                None => std::thread::yield_now(),
            }
        };
        match done.result.unwrap() {
            BackgroundOutput::Scrubbed(Some(seen)) => found.extend(lane.on_scrubbed(&seen)),
            other => panic!("{other:?}"),
        }
    }
    found
}

fn hit(lane: &MemoryLane, place: Place) -> Vec<(u64, u64, u64)> {
    lane.damaged_entries(place).iter().map(|hit| (hit.group.0, hit.first.0, hit.last.0)).collect()
}

#[test]
fn every_flip_in_a_sealed_segment_is_found_and_told_of_the_group_that_it_hits() {
    let files = MemoryFiles::new();
    let mut lane = written(&files);
    assert_eq!(pass(&mut lane, 1 << 20), []);
    let sealed = lane.segments.in_use.iter().filter_map(|segment| Some((segment.sequence, segment.end?)));
    let frames: Vec<DamagedEntries> = lane.damaged_entries(Place { segment: 1, offset: 0, bytes: u32::MAX });
    assert_eq!(frames.len(), 3, "all groups have entries there");
    for (sequence, end) in sealed.collect::<Vec<_>>() {
        let path = segment_path(0, sequence);
        for at in (0..end).step_by(53) {
            lane.scrubbing = crate::lane::scrub::Scrubbing::default();
            assert!(files.rot(&path, at, 1));
            let found = pass(&mut lane, 64 << 10);
            let is_in = |place: &Place| {
                place.segment == sequence && (u64::from(place.offset)..place.end()).contains(&at)
            };
            let byte = files.content(&path).unwrap()[at as usize];
            // Padding, and the rest of a first page, are unused.
            let counts = byte != 1 || !found.is_empty();
            assert!(found.len() <= 1 && found.iter().all(is_in), "{at} of {sequence}: {found:?}");
            let owners: Vec<_> = (1..4)
                .filter(|group| {
                    let slot = lane.groups.slot_of(GroupId(*group)).unwrap();
                    let all = lane.read(slot, lane.first(slot), lane.last(slot), u64::MAX).unwrap();
                    all.iter().any(|frame| frame.place.segment == sequence && is_in_place(frame.place, at))
                })
                .collect();
            for group in &owners {
                assert!(
                    counts && found.iter().any(|place| hit(&lane, *place).iter().any(|hit| hit.0 == *group)),
                    "{at}"
                );
            }
            if let ([place], [owner]) = (&found[..], &owners[..])
                && place.bytes < 4096
            {
                let groups: Vec<u64> = hit(&lane, *place).iter().map(|hit| hit.0).collect();
                assert_eq!(groups, [*owner], "{at}: nobody else");
            }
            assert_eq!(lane.stats().damaged_bytes > 0, !found.is_empty());
            assert!(files.rot(&path, at, 1));
        }
    }
    lane.scrubbing = crate::lane::scrub::Scrubbing::default();
    assert_eq!(pass(&mut lane, 1), []);
}

fn is_in_place(place: Place, at: u64) -> bool {
    (u64::from(place.offset)..place.end()).contains(&at)
}

#[test]
fn what_is_known_already_is_not_told_again_and_is_forgotten_with_its_segment() {
    let files = MemoryFiles::new();
    let mut lane = written(&files);
    assert!(files.rot(&segment_path(0, 1), 8192 + 70, 1));
    assert_eq!((pass(&mut lane, 1 << 20).len(), pass(&mut lane, 1 << 20).len()), (1, 0));
    assert!(lane.stats().damaged_bytes > 0);
    for group in 1..4 {
        let slot = lane.attach(GroupId(group));
        lane.compact(slot, id(lane.last(slot).0, 1));
    }
    for _ in 0..4 {
        settle(&mut lane);
        let slot = lane.attach(GroupId(1));
        let next = lane.last(slot).0 + 1;
        append(&mut lane, slot, id(next, 1), 1, 10);
    }
    assert!(lane.segments.find(1).is_none(), "its facts were written again, too");
    assert_eq!(lane.stats().damaged_bytes, 0);
}

#[test]
fn facts_leave_a_damaged_segment_and_few_entries_too() {
    let files = MemoryFiles::new();
    let mut lane = written(&files);
    let before = stories(&lane);
    // The vote of group 2, in the first batch.
    assert!(files.rot(&segment_path(0, 1), 4096 + 64 + 200, 1));
    let found = pass(&mut lane, 1 << 20);
    assert_eq!(found.len(), 1);
    settle(&mut lane);
    let logs = || lane.groups.logs();
    assert!(logs().all(|log| log.hard_state_segment != Some(1) && log.base_segment != Some(1)));
    drop(lane);
    // Opening finds the damage, too: but the affected frames have newer copies.
    let (lane, groups, report) = open_in(&files, options()).unwrap();
    assert_eq!(report.damage.len(), 1);
    for group in &groups {
        let was = &before[&group.group];
        assert_eq!(group.hard_state, was.hard_state, "no vote was lost");
    }
    drop(lane);
}

#[test]
fn entries_are_written_again_where_a_copy_is_whole_and_lost_where_there_is_none() {
    let files = MemoryFiles::new();
    let mut lane = written(&files);
    let slot = lane.attach(GroupId(1));
    lane.compact(slot, id(14, 1)); // the rest is small enough to be rewritten
    settle(&mut lane);
    let frame = lane.read(slot, Index(19), Index(19), 1).unwrap()[0];
    // The cache has a copy that is unaffected by rot on the device.
    assert!(lane.bytes(frame.place).is_ok());
    let path = segment_path(0, frame.place.segment);
    assert!(files.rot_below_cache(&path, u64::from(frame.place.offset) + 60, 1));
    let found = pass(&mut lane, 1 << 20);
    assert_eq!(found.iter().flat_map(|place| hit(&lane, *place)).collect::<Vec<_>>(), [(1, 19, 20)]);
    assert!(lane.rewrite(slot));
    settle(&mut lane);
    let moved = lane.read(slot, Index(19), Index(19), 1).unwrap()[0].place;
    assert!(moved.segment > frame.place.segment && lane.bytes(moved).is_ok());
    assert_eq!(hit(&lane, found[0]), []);

    // Now without any copy left.
    let path = segment_path(0, moved.segment);
    assert!(files.rot(&path, u64::from(moved.offset) + 60, 1));
    let hits = lane.unreadable_entries(moved);
    assert_eq!((hits.len(), hits[0].first), (1, Index(19)));
    assert!(!lane.rewrite(slot));
    assert_eq!(lane.take_unreadable(), [moved]);
    let told = lane.lose(slot, Index(19)).unwrap();
    assert_eq!((told.last, told.fence, told.is_hit), (Index(18), Some(Term(1)), true));
    assert!(lane.lose(slot, Index(19)).is_none(), "there is nothing left to lose");
    settle(&mut lane);
    assert_eq!(story(&lane, slot).entries.len(), 4);
    // A leader of a later term replicates it again, and it stays.
    append(&mut lane, slot, id(19, 2), 5, 100);
    settle(&mut lane);
    assert_eq!((lane.fence(slot), story(&lane, slot).entries.len()), (None, 9));
    drop(lane);
    let (mut lane, groups, _) = open_in(&files, options()).unwrap();
    let again = groups.iter().find(|group| group.group == GroupId(1)).unwrap();
    // Opening cannot know of the repair: the group is fenced anew, which costs an election, and never an
    // entry.
    assert!(again.fence.is_some() && again.last <= Index(23), "{again:?}");
    let slot = lane.attach(GroupId(1));
    assert!(story(&lane, slot).entries.len() <= 9);
}

/// A frame whose tail was replaced holds more entries than are in force; once those that replaced it are
/// lost, nothing cuts it any more.
#[test]
fn entries_that_were_replaced_do_not_come_back_when_what_replaced_them_is_lost() {
    for relaxed in [false, true] {
        let files = MemoryFiles::new();
        let (mut lane, ..) = open_in(&files, options()).unwrap();
        let slot = lane.attach(GroupId(1));
        if relaxed {
            let mut frame = lane.begin_frame(slot, id(1, 1), 1000).unwrap();
            frame.relax();
            assert!((1..=10).all(|index| frame.push(EntryKind::Payload, &payload(index, 1, 20))));
            assert!(frame.finish().is_some());
        } else {
            append(&mut lane, slot, id(1, 1), 10, 20);
        }
        settle(&mut lane);
        append(&mut lane, slot, id(6, 2), 2, 20);
        settle(&mut lane);
        assert_eq!(lane.lose(slot, Index(6)).unwrap().last, Index(5));
        settle(&mut lane);
        let left = story(&lane, slot);
        assert_eq!(left.entries.len(), 5);
        assert!(lane.rewrite(slot));
        settle(&mut lane);
        assert_eq!((lane.last(slot), story(&lane, slot)), (Index(5), left.clone()));
        let frames = lane.read(slot, Index(1), Index(5), u64::MAX).unwrap();
        let bytes = lane.bytes(frames[0].place).unwrap();
        assert_eq!(frame::parse(&bytes).unwrap().0.is_relaxed, relaxed);
        drop((bytes, lane));
        let (mut lane, groups, _) = open_in(&files, options()).unwrap();
        assert_eq!((groups[0].last, groups[0].fence), (Index(5), Some(Term(2))));
        assert_eq!(story(&lane, slot), left);
        append(&mut lane, slot, id(6, 3), 1, 20);
        settle(&mut lane);
        assert_eq!(lane.fence(slot), None);
    }
}

/// The frame that the log begins in holds entries at or below its base, too: once the others are lost, no
/// entry of it counts.
#[test]
fn the_frame_that_the_log_begins_in_can_be_lost() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, options()).unwrap();
    let slot = lane.attach(GroupId(1));
    append(&mut lane, slot, id(1, 1), 10, 20);
    lane.compact(slot, id(5, 1));
    settle(&mut lane);
    let place = lane.read(slot, Index(6), Index(6), 1).unwrap()[0].place;
    assert_eq!(hit(&lane, place), [(1, 6, 10)]);
    assert_eq!(lane.lose(slot, Index(6)).unwrap().last, Index(5));
    assert_eq!(hit(&lane, place), []);
    assert!(lane.unreadable_entries(place).is_empty() && lane.rewrite(slot));
    append(&mut lane, slot, id(6, 2), 1, 20);
    settle(&mut lane);
    assert_eq!(story(&lane, slot).entries.len(), 1);
}

/// A witness's frame has no bytes of its entries: their number alone is cut.
#[test]
fn a_witness_does_not_get_back_entries_that_were_replaced() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, options()).unwrap();
    let slot = lane.attach(GroupId(1));
    lane.bootstrap(slot, &voters(3), LogKind::Witness);
    for (first, count) in [(id(1, 1), 10), (id(6, 2), 2)] {
        let bytes = frame::withheld(GroupId(1), first, count).unwrap();
        let (header, _) = frame::parse(&bytes).unwrap();
        lane.append_frame(slot, &bytes, &header).unwrap();
        settle(&mut lane);
    }
    assert_eq!(lane.lose(slot, Index(6)).unwrap().last, Index(5));
    assert!(lane.rewrite(slot));
    settle(&mut lane);
    assert_eq!(lane.last(slot), Index(5));
    drop(lane);
    let (lane, groups, _) = open_in(&files, options()).unwrap();
    assert_eq!((groups[0].last, groups[0].is_witness, lane.last(slot)), (Index(5), true, Index(5)));
}

/// The first reads of a sealed file return a flipped bit, or fail.
struct Slips(u32, Outcome);

impl Fate for Slips {
    fn decide(&mut self, call: Call<'_>) -> Outcome {
        match call {
            Call::Read { .. } if self.0 > 0 => {
                self.0 -= 1;
                self.1
            }
            _ => Outcome::Done,
        }
    }
}

#[test]
fn a_slip_on_the_way_is_no_damage_and_a_page_that_cannot_be_read_is() {
    let files = MemoryFiles::new();
    let mut lane = written(&files);
    files.decided_by(Some(Box::new(Slips(1, Outcome::Flipped(8 * 5000)))));
    assert_eq!(pass(&mut lane, 1 << 20), []);
    files.decided_by(Some(Box::new(Slips(u32::MAX, Outcome::Fail(std::io::ErrorKind::Other)))));
    let found = pass(&mut lane, 1 << 20);
    let sealed = lane.segments.in_use.iter().filter(|segment| segment.end.is_some()).count();
    assert_eq!(found.len(), sealed, "{found:?}");
    assert!(found.iter().all(|place| place.offset == 0 && place.bytes > 16 << 10));
    files.decided_by(None);
}

#[test]
fn real_files_are_looked_at_past_the_cache() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let (mut lane, ..) = open_os(dir.path(), AppendMode::Direct, options());
    let slot = lane.attach(GroupId(1));
    for at in 0..30 {
        append(&mut lane, slot, id(at + 1, 1), 1, 3000);
        settle(&mut lane);
    }
    assert_eq!(pass(&mut lane, 64 << 10), []);
    let looked_at = lane.stats().scrubbed_bytes;
    assert!(looked_at >= 64 << 10, "{looked_at}");
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(dir.path().join(segment_path(0, 1))).unwrap();
    file.write_all_at(&[9], 4096 + 64 + 100).unwrap();
    file.sync_all().unwrap();
    let found = pass(&mut lane, 64 << 10);
    assert_eq!(lane.damaged_entries(found[0]).iter().map(|hit| hit.last.0).collect::<Vec<_>>(), [1]);
}
