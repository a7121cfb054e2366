//! Appended data is read back: from memory, from the current segment, from a sealed one, after reopening.

use super::*;
use crate::LogError;

type Step<'a, D> = &'a dyn Fn(&mut Lane<D>, GroupSlot, GroupSlot);

/// A bit of everything, with a check after each step that reopening changes nothing.
fn everything<D: Disk>(open: &mut dyn FnMut() -> Opened<D>) {
    let (mut lane, groups, report) = open();
    assert_eq!((groups.len(), report.last), (0, Lsn(0)));
    let steps: [Step<D>; 9] = [
        &|lane, a, _| append(lane, a, id(1, 1), 20, 100),
        &|lane, a, b| {
            let vote = HardState { term: Term(2), vote: Some(NodeId(3)) };
            lane.hard_state(a, vote).unwrap();
            lane.snapshot(b, id(40, 2), &voters(3), Tail::Drop);
            append(lane, b, id(41, 2), 3, 700);
        },
        &|lane, a, _| append(lane, a, id(11, 2), 5, 10),
        &|lane, _, b| {
            let frame = frame_of(2, id(43, 3), &[membership(5), (EntryKind::Noop, vec![])]);
            let (header, _) = frame::parse(&frame).unwrap();
            lane.append_frame(b, &frame, &header).unwrap();
        },
        &|lane, a, _| lane.compact(a, id(7, 1)),
        &|lane, _, b| lane.compact(b, id(43, 3)),
        &|lane, a, _| append(lane, a, id(9, 4), 40, 150),
        &|lane, a, _| lane.snapshot(a, id(100, 4), &voters(4), Tail::Drop),
        &|lane, _, b| lane.snapshot(b, id(44, 3), &voters(1), Tail::Keep),
    ];
    for (at, step) in steps.into_iter().enumerate() {
        let (a, b) = (lane.attach(GroupId(1)), lane.attach(GroupId(2)));
        step(&mut lane, a, b);
        let unsubmitted = stories(&lane);
        settle(&mut lane);
        let before = stories(&lane);
        assert_eq!(before, unsubmitted, "step {at}");
        drop(lane);
        let (reopened, groups, report) = open();
        assert_eq!(report.torn, None);
        lane = reopened;
        lane.attach(GroupId(2));
        assert_eq!(stories(&lane), before, "step {at}");
        for group in groups {
            let slot = lane.attach(group.group);
            let story = &before[&group.group];
            assert_eq!((group.hard_state, group.compacted), (story.hard_state, story.base));
            assert_eq!((group.last, &group.configuration), (lane.last(slot), &story.configuration));
        }
    }
}

#[test]
fn in_memory() {
    let files = MemoryFiles::new();
    everything(&mut || open(&files));
}

#[test]
fn in_files_directly_and_through_the_page_cache() {
    for mode in AppendMode::ALL {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        everything(&mut || open_os(dir.path(), mode, small()));
    }
}

#[test]
fn a_file_system_that_may_refuse_direct_appends_still_takes_a_log() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    everything(&mut || open_os(dir.path(), AppendMode::Direct, small()));
}

#[test]
fn bytes_come_from_the_batch_then_from_the_file_and_stay_the_same() {
    for mode in AppendMode::ALL {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (mut lane, ..) = open_os(dir.path(), mode, LaneOptions { recent_bytes: 0, ..small() });
        let slot = lane.attach(GroupId(1));
        for first in 0..30 {
            append(&mut lane, slot, id(first * 10 + 1, 1), 10, 200);
            settle(&mut lane);
            lane.poll().unwrap();
        }
        assert!(lane.recent.is_empty() && lane.stats().segments > 3);
        let story = story(&lane, slot);
        assert_eq!(story.entries[&295], (1, payload(295, 1, 200)));
    }
}

#[test]
fn neighbouring_frames_of_a_batch_join_into_one_slice() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let (a, b) = (lane.attach(GroupId(1)), lane.attach(GroupId(2)));
    append(&mut lane, a, id(1, 1), 2, 10);
    append(&mut lane, b, id(1, 1), 2, 10);
    lane.submit().unwrap();
    append(&mut lane, a, id(3, 1), 2, 10);
    lane.submit().unwrap();
    let place = |slot, at| lane.read(slot, Index(at), Index(at), 1).unwrap()[0].place;
    let joined = place(a, 1).join(place(b, 1)).unwrap();
    let bytes = lane.bytes(joined).unwrap();
    let (first, _) = frame::parse(&bytes).unwrap();
    let (second, _) = frame::parse(&bytes[first.frame_bytes()..]).unwrap();
    assert_eq!((first.group, second.group), (GroupId(1), GroupId(2)));
    assert_eq!(place(b, 1).join(place(a, 3)), None);
}

#[test]
fn what_does_not_belong_is_refused_and_leaves_no_trace() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    append(&mut lane, slot, id(1, 1), 3, 10);
    let gap = lane.begin_frame(slot, id(5, 1), 10);
    assert!(matches!(gap, Err(LogError::Gap { last: Index(3), .. })));
    let other = frame_of(2, id(4, 1), &[(EntryKind::Noop, vec![])]);
    let header = frame::parse(&other).unwrap().0;
    assert!(matches!(lane.append_frame(slot, &other, &header), Err(LogError::Frame)));
    let bad = frame_of(1, id(4, 1), &[(EntryKind::Membership, vec![1, 2, 3])]);
    let header = frame::parse(&bad).unwrap().0;
    assert!(matches!(lane.append_frame(slot, &bad, &header), Err(LogError::Frame)));
    let long = frame_of(1, id(4, 1), &[(EntryKind::Payload, vec![0; 9 << 10])]);
    let header = frame::parse(&long).unwrap().0;
    assert!(matches!(lane.append_frame(slot, &long, &header), Err(LogError::TooLarge { .. })));
    drop(lane.begin_frame(slot, id(4, 1), 10).unwrap());
    lane.compact(slot, id(2, 1));
    assert!(matches!(lane.read(slot, Index(2), Index(3), 1), Err(LogError::Compacted { .. })));
    assert!(matches!(lane.begin_frame(slot, id(2, 1), 10), Err(LogError::Compacted { .. })));
    settle(&mut lane);
    assert_eq!(story(&lane, slot).entries.len(), 1);
}

#[test]
fn a_configuration_appended_alone_is_in_force_and_recovered() {
    let files = MemoryFiles::new();
    {
        let (mut lane, ..) = open(&files);
        let slot = lane.attach(GroupId(1));
        lane.snapshot(slot, EntryId::default(), &voters(3), Tail::Drop);
        lane.append_noop(slot, id(1, 1)).unwrap();
        lane.append_membership(slot, id(2, 1), &voters(4)).unwrap();
        assert_eq!(lane.configuration_at(slot, Index(1)), &voters(3));
        assert_eq!(lane.configuration_at(slot, Index(2)), &voters(4));
        assert!(matches!(lane.append_membership(slot, id(9, 1), &voters(4)), Err(LogError::Gap { .. })));
        settle(&mut lane);
    }
    let (_, recovered, _) = open(&files);
    assert_eq!(recovered[0].configurations, [(Index(0), voters(3)), (Index(2), voters(4))]);
    assert_eq!((&recovered[0].configuration, recovered[0].last), (&voters(4), Index(2)));
}

#[test]
fn a_removed_group_stays_removed_and_its_slot_is_free_again() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let (a, b) = (lane.attach(GroupId(1)), lane.attach(GroupId(2)));
    append(&mut lane, a, id(1, 1), 3, 10);
    append(&mut lane, b, id(1, 1), 3, 10);
    settle(&mut lane);
    lane.remove(a);
    settle(&mut lane);
    drop(lane);
    let (mut lane, groups, _) = open(&files);
    assert_eq!(groups.iter().map(|group| group.group).collect::<Vec<_>>(), [GroupId(2)]);
    let again = lane.attach(GroupId(1));
    assert_eq!((lane.last(again), lane.pins.has_frames(1)), (Index(0), true));
    append(&mut lane, again, id(1, 9), 1, 10);
    settle(&mut lane);
    drop(lane);
    let (lane, groups, _) = open(&files);
    assert_eq!((groups.len(), stories(&lane)[&GroupId(1)].entries.len()), (2, 1));
}

/// Across freed and new segments, and reopenings of the lane.
#[test]
fn what_a_removed_replica_promised_outlives_its_log_for_good() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let gone = lane.attach(GroupId(1));
    let voted = HardState { term: Term(7), vote: Some(NodeId(3)) };
    lane.snapshot(gone, EntryId::default(), &voters(3), Tail::Drop);
    lane.hard_state(gone, voted).unwrap();
    append(&mut lane, gone, id(1, 6), 4, 10);
    assert_eq!(lane.past(gone), None);
    lane.remove(gone);
    for life in 0..3 {
        let (before, busy) = (lane.segments.current().sequence, lane.attach(GroupId(2)));
        for at in 0..60 {
            let last = lane.last(busy).0;
            append(&mut lane, busy, id(last + 1, 1), 5, 1000);
            lane.compact(busy, id(lane.last(busy).0, 1));
            settle(&mut lane);
            lane.poll().unwrap();
            assert!(at < 59 || lane.segments.in_use.front().unwrap().sequence > before);
        }
        drop(lane);
        let (reopened, groups, _) = open(&files);
        lane = reopened;
        let mut told: Vec<_> = groups.iter().map(|group| (group.group, group.floor)).collect();
        told.sort_unstable();
        let slot = lane.attach(GroupId(1));
        if life == 0 {
            assert_eq!(told, [(GroupId(2), None)]);
            assert_eq!(lane.past(slot), Some((voted, id(4, 6))));
            lane.join(slot, LogKind::Full);
            settle(&mut lane);
        } else {
            assert_eq!(told, [(GroupId(1), Some(id(4, 6))), (GroupId(2), None)]);
        }
        assert_eq!((lane.past(slot), lane.latest_hard_state(slot)), (None, voted));
    }
    let slot = lane.attach(GroupId(1));
    append(&mut lane, slot, id(1, 6), 2, 10);
    lane.remove(slot);
    assert_eq!(lane.past(slot), Some((voted, id(4, 6))), "a shorter log takes nothing back");
    let fresh = lane.attach(GroupId(3));
    lane.join(fresh, LogKind::Full);
    lane.remove(fresh);
    assert_eq!(lane.groups.len(), 2, "who promised nothing leaves nothing behind");
}

/// A replica that joined has fewer obligations than an initial member: a restart must not change which one it
/// is.
#[test]
fn who_joined_has_joined_for_good_though_nobody_was_here_before() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    lane.join(slot, LogKind::Full);
    settle(&mut lane);
    let busy = lane.attach(GroupId(2));
    for life in 0..2 {
        for _ in 0..30 {
            let last = lane.last(busy).0;
            append(&mut lane, busy, id(last + 1, 1), 5, 1000);
            lane.compact(busy, id(lane.last(busy).0, 1));
            settle(&mut lane);
            lane.poll().unwrap();
        }
        drop(lane);
        let (reopened, groups, _) = open(&files);
        lane = reopened;
        let floor_of = |id: u64| groups.iter().find(|group| group.group == GroupId(id)).unwrap().floor;
        assert_eq!((floor_of(1), floor_of(2)), (Some(EntryId::default()), None), "life {life}");
    }
}

#[test]
fn a_turn_of_many_groups_costs_one_sync_per_lane() {
    let files = MemoryFiles::new();
    let directory = Directory::open(files, 2, 1).unwrap();
    let mut lanes: Vec<MemoryLane> = (0..2)
        .map(|lane| Lane::open(StepDisk::new(directory.clone()), LaneOptions { lane, ..small() }).unwrap().0)
        .collect();
    for lane in &mut lanes {
        for group in 0..50 {
            let slot = lane.attach(GroupId(group));
            append(lane, slot, id(1, 1), 1, 16);
        }
        settle(lane);
        assert_eq!((lane.stats().syncs, lane.stats().frames), (1, 50));
    }
}

#[test]
fn batches_queued_behind_a_sync_share_the_next_one() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let slot = lane.attach(GroupId(1));
    append(&mut lane, slot, id(1, 1), 1, 16);
    settle(&mut lane);
    lane.disk_mut().runs_by_itself = false;
    for at in 2..6 {
        append(&mut lane, slot, id(at, 1), 1, 16);
        lane.submit().unwrap();
    }
    assert_eq!(lane.poll().unwrap().durable, Lsn(1));
    assert!(lane.disk_mut().run_appends());
    assert_eq!((lane.poll().unwrap().durable, lane.stats().syncs), (Lsn(5), 2));
}

#[test]
fn a_directory_belongs_to_one_engine_and_keeps_its_lane_count() {
    let dir = tempfile::tempdir().unwrap();
    let files = || OsFiles::new(dir.path(), AppendMode::Buffered).unwrap();
    let held = Directory::open(files(), 2, 1).unwrap();
    assert!(matches!(Directory::open(files(), 2, 1), Err(OpenError::InUse)));
    drop(held);
    let other = Directory::open(files(), 3, 1);
    assert!(matches!(other, Err(OpenError::LaneCount { on_disk: 2, wanted: 3 })));
    assert_eq!(Directory::open(files(), 2, 99).unwrap().log_id(), 1);
}

#[test]
fn a_newer_format_is_refused_by_its_number() {
    let files = MemoryFiles::new();
    drop(open(&files));
    for copy in ["manifest", "manifest.2"] {
        let mut manifest = files.content(copy).unwrap();
        manifest[8] = 9;
        files.put(copy, manifest);
    }
    assert!(matches!(open_in(&files, small()), Err(OpenError::Version { found: 9, known: 4, .. })));
}
