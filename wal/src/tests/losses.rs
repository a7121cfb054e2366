//! Losses that only whole clusters had shown: claims for a segment that is gone, and the losses an old fence
//! answers for. And that the bytes are the same in every append mode.

use proptest::prelude::*;

use super::*;
use crate::{Files, OnDamage};

fn fencing() -> LaneOptions {
    LaneOptions { segment_bytes: 16 << 10, frame_bytes_max: 4 << 10, on_damage: OnDamage::Fence, ..small() }
}

fn segments(files: &MemoryFiles) -> Vec<String> {
    files.paths().into_iter().filter(|path| path.contains("/seg-")).collect()
}

/// The simulator's swarm seeds 48, 124, 300 and 350.
#[test]
fn a_missing_segment_that_nobody_claims_is_not_passed_over() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, LaneOptions { ready_segments: 3, ..fencing() }).unwrap();
    let slot = lane.attach(GroupId(1));
    for _ in 0..20 {
        lane.poll().unwrap(); // segments are made ahead
    }
    lane.disk_mut().runs_by_itself = false;
    for index in 1..=8 {
        append(&mut lane, slot, id(index, 1), 1, 900);
        lane.submit().unwrap();
    }
    while lane.disk_mut().run_appends() {}
    lane.poll().unwrap();
    assert_eq!((lane.marks.durable(), lane.segments.in_use.len()), (lane.marks.submitted(), 3));
    drop(lane);
    let gone = segments(&files)[1].clone();
    files.remove(&gone).unwrap();
    let strict = LaneOptions { on_damage: OnDamage::Refuse, ..fencing() };
    assert!(matches!(open_in(&files.copy(), strict), Err(OpenError::Corrupt { .. })));
    let (_, groups, report) = open_in(&files, fencing()).unwrap();
    assert!(!report.damage.is_empty());
    assert_eq!(
        groups.iter().map(|group| (group.group, group.is_hit)).collect::<Vec<_>>(),
        [(GroupId(1), true)]
    );
}

/// The simulator's hostile seed 22.
#[test]
fn a_fence_answers_for_no_loss_that_was_found_after_it() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, fencing()).unwrap();
    for index in 1..=4 {
        for group in 1..=2 {
            let slot = lane.attach(GroupId(group));
            append(&mut lane, slot, id(index, 1), 1, 400);
        }
        settle(&mut lane);
    }
    drop(lane);
    let hit = |groups: &[RecoveredGroup]| -> Vec<u64> {
        groups.iter().filter(|group| group.is_hit).map(|group| group.group.0).collect()
    };
    let path = &segments(&files)[0];
    let (first, second) = (4096 + 64 + 48 + 20, 2 * 4096 + 64 + 48 + 20);
    // In the second batch, the first group's frame; a fence answers for it.
    assert!(files.rot(path, second, 1));
    let (mut lane, groups, _) = open_in(&files, fencing()).unwrap();
    assert_eq!(hit(&groups), [1]);
    settle(&mut lane);
    drop(lane);
    let (lane, groups, _) = open_in(&files, fencing()).unwrap();
    assert_eq!(hit(&groups), [0; 0], "answered for");
    drop(lane);
    // Then in the first batch, the second group's.
    assert!(files.rot(path, first + 48 + 404, 1));
    let (_, groups, report) = open_in(&files, fencing()).unwrap();
    assert_eq!(report.damage.len(), 2);
    assert!(hit(&groups).contains(&2), "a loss of later, of something older");
}

/// The simulator's hostile seed 1256: all batches after one were gone, and only the first page of a later
/// segment claimed that there had been more. Opening turned that segment into a spare, and the process ended
/// before any fence was durable.
#[test]
fn who_vouches_for_what_is_lost_stays_in_the_log_until_the_loss_is_noted() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, fencing()).unwrap();
    let slot = lane.attach(GroupId(1));
    for index in 1..=9 {
        append(&mut lane, slot, id(index, 1), 1, 900);
        settle(&mut lane);
    }
    drop(lane);
    for (at, path) in segments(&files).iter().enumerate() {
        let from = if at == 0 { 8 << 10 } else { 4 << 10 };
        files.overwrite(path, from, &vec![0; (16 << 10) - from as usize]);
    }
    for life in 0..3 {
        let (lane, groups, report) = open_in(&files, fencing()).unwrap();
        let group = &groups[0];
        assert!(group.fence.is_some() && group.is_hit, "life {life}: {group:?} {report:?}");
        assert_eq!(group.last, Index(1));
        drop(lane);
    }
    let (mut lane, ..) = open_in(&files, fencing()).unwrap();
    settle(&mut lane);
    drop(lane);
    let (mut lane, groups, report) = open_in(&files, fencing()).unwrap();
    assert!(groups[0].fence.is_some() && !groups[0].is_hit, "noted: {groups:?} {report:?}");
    for life in 0..3 {
        let slot = lane.attach(GroupId(1));
        append(&mut lane, slot, id(2 + life, 2), 1, 900);
        settle(&mut lane);
        drop(lane);
        let (again, groups, report) = open_in(&files, fencing()).unwrap();
        assert!(groups[0].fence.is_none() && !groups[0].is_hit, "life {life}: {groups:?} {report:?}");
        assert_eq!(groups[0].last, Index(2 + life));
        lane = again;
    }
}

/// Each damaged batch is a loss of its own, and a segment holds the names of some 500 only.
#[test]
fn more_losses_than_a_frame_can_list_are_all_answered_for() {
    const TURNS: u64 = 600;
    let files = MemoryFiles::new();
    let options = || LaneOptions { log_bytes_max: u64::MAX, ..fencing() };
    let (mut lane, ..) = open_in(&files, options()).unwrap();
    for index in 1..=TURNS {
        for group in [index % 7 + 1, 9] {
            let slot = lane.attach(GroupId(group));
            let next = lane.last(slot).next().0;
            append(&mut lane, slot, id(next, 1), 1, 20);
        }
        settle(&mut lane);
    }
    drop(lane);
    let hit = |groups: &[RecoveredGroup]| -> Vec<u64> {
        let hit = groups.iter().filter(|group| group.is_hit).map(|group| group.group.0);
        hit.collect::<std::collections::BTreeSet<u64>>().into_iter().collect()
    };
    for path in segments(&files) {
        for page in 1..4 {
            let at = page * 4096;
            let is_begun = files.content(&path).unwrap()[at as usize..].starts_with(b"RWB1");
            assert!(!is_begun || files.rot(&path, at + 64 + 48 + 20, 1));
        }
    }
    let before = files.copy();
    let (mut lane, groups, report) = open_in(&files, options()).unwrap();
    assert!(report.damage.len() > 550, "{}", report.damage.len());
    assert_eq!(hit(&groups), [1, 2, 3, 4, 5, 6, 7]);
    settle(&mut lane);
    drop(lane);
    let (mut lane, groups, report) = open_in(&files, options()).unwrap();
    assert_eq!((hit(&groups), report.lost_unknown), (vec![], None), "answered for");
    assert!(groups.iter().all(|group| group.fence.is_some() == (group.group.0 < 8)));
    // Another loss, of older data, is not on the list.
    settle(&mut lane);
    drop(lane);
    let first = segments(&files)[0].clone();
    assert!(files.rot(&first, 4096 + 64 + 48 + 24 + 48 + 20, 1));
    let (mut lane, groups, _) = open_in(&files, options()).unwrap();
    assert!(hit(&groups).contains(&9), "{:?}", hit(&groups));
    settle(&mut lane);
    drop(lane);
    let (_, groups, _) = open_in(&files, options()).unwrap();
    assert_eq!(hit(&groups), [0; 0], "answered for, too");

    // A process that ends before all of the list is durable has answered for nothing.
    let mut is_answered = Vec::new();
    for n in 1..=24 {
        let files = before.copy();
        let (mut lane, ..) = open_in(&files, options()).unwrap();
        files.fail_change(n, u64::MAX, std::io::ErrorKind::Other);
        let _ended = lane.submit();
        for _ in 0..40 {
            let _ended = lane.poll();
        }
        drop(lane);
        files.heal();
        let (mut lane, groups, _) = open_in(&files, options()).unwrap();
        assert!([&[][..], &[1, 2, 3, 4, 5, 6, 7]].contains(&&hit(&groups)[..]), "{n}: {:?}", hit(&groups));
        is_answered.push(hit(&groups).is_empty());
        settle(&mut lane);
        drop(lane);
        assert_eq!(hit(&open_in(&files, options()).unwrap().1), [0; 0], "change {n}");
    }
    assert!(is_answered.is_sorted() && !is_answered[0] && is_answered[23], "{is_answered:?}");
}

/// The proofs over bytes in memory, flip by flip and cut by cut, hold for each append mode, because the bytes
/// are the same.
#[test]
fn every_append_mode_writes_the_same_bytes() {
    let written: Vec<Vec<u8>> = AppendMode::ALL
        .into_iter()
        .map(|mode| {
            let dir = tempfile::tempdir().unwrap();
            let (mut lane, ..) = open_os(dir.path(), mode, fencing());
            let slot = lane.attach(GroupId(1));
            lane.hard_state(slot, HardState { term: Term(1), vote: Some(NodeId(2)) }).unwrap();
            settle(&mut lane);
            append(&mut lane, slot, id(1, 1), 3, 700);
            settle(&mut lane);
            drop(lane);
            // The first page contains the durable LSN at its preparation, which may vary.
            std::fs::read(dir.path().join("lane-0/seg-0000000000000001.log")).unwrap().split_off(4096)
        })
        .collect();
    assert!(written[0].starts_with(b"RWB1"));
    assert!(written.iter().all(|bytes| *bytes == written[0]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Parts of one run's log copied to other places, and noise: no bytes on disk make opening panic, and a
    /// log that opens twice is the same both times.
    #[test]
    fn no_bytes_of_a_segment_make_opening_panic(
        splices in prop::collection::vec((any::<u16>(), any::<u16>(), 0..700usize, any::<Option<u8>>()), 1..6),
        fences in any::<bool>(),
    ) {
        let files = MemoryFiles::new();
        let (mut lane, ..) = open_in(&files, fencing()).unwrap();
        let slot = lane.attach(GroupId(1));
        for index in 1..=6 {
            append(&mut lane, slot, id(index, 1), 1, 500);
            settle(&mut lane);
        }
        drop(lane);
        let path = segments(&files)[0].clone();
        let mut bytes = files.content(&path).unwrap();
        for (from, to, count, noise) in splices {
            let (from, to) = (usize::from(from) % bytes.len(), usize::from(to) % bytes.len());
            let count = count.min(bytes.len() - from.max(to));
            match noise {
                Some(noise) => bytes[to..to + count].fill(noise),
                None => bytes.copy_within(from..from + count, to),
            }
        }
        files.put(&path, bytes);
        let on_damage = if fences { OnDamage::Fence } else { OnDamage::Refuse };
        let options = LaneOptions { on_damage, ..fencing() };
        match open_in(&files, options.clone()) {
            Ok((mut lane, ..)) => {
                settle(&mut lane);
                let told = stories(&lane);
                drop(lane);
                prop_assert_eq!(stories(&open_in(&files, options).unwrap().0), told);
            }
            Err(error) => {
                let is_refusal = matches!(error, OpenError::Corrupt { .. } | OpenError::Version { .. });
                prop_assert!(is_refusal, "{}", error);
            }
        }
    }
}
