//! Moving a log to another number of lanes: nothing is lost, whichever call was the last one of a run.

use std::io::ErrorKind;

use raftwerk_frame::LogId;
use raftwerk_frame::frame::{FrameHeader, withheld};

use super::*;
use crate::disk::simulated::SectorFate;
use crate::format::segment::SegmentHeader;
use crate::{BackgroundOutput, Files as _, OnDamage, PeerNote, PeerNotes, RelaneError, Relaned};

const LOG: u64 = 0x1_0917;
const GROUPS: u64 = 14;
/// From one number of lanes to another.
const MOVES: [(u16, u16); 5] = [(1, 2), (2, 1), (2, 3), (4, 1), (3, 2)];

fn options(lane: u16) -> LaneOptions {
    let options = LaneOptions { lane, on_damage: OnDamage::Fence, log_bytes_max: u64::MAX, ..small() };
    LaneOptions { segment_bytes: 16 << 10, frame_bytes_max: 4 << 10, ..options }
}

fn lane_of(group: GroupId, lanes: u16) -> Option<u16> {
    (group.0 != u64::MAX - 9).then(|| (group.0 * 5 % GROUPS * u64::from(lanes) / GROUPS) as u16)
}

fn relane(directory: &mut Directory<MemoryFiles>, lanes: u16) -> Result<Relaned, RelaneError> {
    directory.relane(lanes, &options(0), &lane_of)
}

/// Opens the directory with its current number of lanes.
fn directory(files: &MemoryFiles) -> Directory<MemoryFiles> {
    match Directory::open(files.clone(), 200, LOG) {
        Err(OpenError::LaneCount { on_disk, .. }) => Directory::open(files.clone(), on_disk, LOG).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn done(lane: &mut MemoryLane) -> BackgroundOutput {
    loop {
        if let Some(done) = lane.poll_background() {
            return done.result.unwrap();
        }
    }
}

fn save(lane: &mut MemoryLane, group: u64, index: u64) {
    let source = move |out: &mut dyn std::io::Write| out.write_all(&[group as u8; 3_000]);
    lane.save_snapshot(1, GroupId(group), id(index, 2), voters(3), Box::new(source));
    done(lane);
}

/// Entries in frames of their own, some replaced by others; a configuration; a compacted start with a
/// snapshot.
fn ordinary(lane: &mut MemoryLane, slot: GroupSlot, group: u64) {
    lane.snapshot(slot, id(0, 0), &voters(3), Tail::Drop);
    lane.hard_state(slot, HardState { term: Term(1), vote: Some(NodeId(1 + group % 3)) }).unwrap();
    for at in 0..6 {
        append(lane, slot, id(at * 3 + 1, 2), 3, 60 + 40 * group as usize);
        settle(lane);
    }
    append(lane, slot, id(17, 3), 2, 100); // in the middle of a frame
    lane.append_membership(slot, id(19, 3), &voters(1 + group % 5)).unwrap();
    lane.hard_state(slot, HardState { term: Term(3 + group), vote: None }).unwrap();
    append_relaxed(lane, slot, id(20, 3), 30);
    if group.is_multiple_of(2) {
        save(lane, group, 4);
        lane.compact(slot, id(5, 2));
    }
    settle(lane);
}

/// A group of every kind, each in its lane, and peer notes.
fn sample(lanes: u16) -> MemoryFiles {
    let files = MemoryFiles::new();
    let directory = Directory::open(files.clone(), lanes, LOG).unwrap();
    for number in 0..lanes {
        let (mut lane, ..) = Lane::open(StepDisk::new(directory.clone()), options(number)).unwrap();
        for group in (1..=GROUPS).filter(|group| lane_of(GroupId(*group), lanes) == Some(number)) {
            let slot = lane.attach(GroupId(group));
            match group {
                1 => {
                    lane.join(slot, LogKind::Witness);
                    for (index, term, count) in [(1, 1, 100), (90, 2, 4)] {
                        let hollow = withheld(GroupId(1), id(index, term), count).unwrap();
                        lane.append_frame(slot, &hollow, &FrameHeader::parse(&hollow).unwrap()).unwrap();
                    }
                }
                2 => lane.bootstrap(slot, &voters(5), LogKind::Witness),
                // Removed, and created again.
                3 | 4 => {
                    ordinary(&mut lane, slot, group);
                    lane.remove(slot);
                    if group == 4 {
                        lane.join(slot, LogKind::Full);
                        append(&mut lane, slot, id(1, 9), 2, 50);
                    }
                }
                5 => {
                    ordinary(&mut lane, slot, group);
                    lane.set_fence(slot, Term(40));
                }
                6 => lane.accept_loss(slot).unwrap(),
                7 => {
                    let hard_state = HardState { term: Term(12), vote: Some(NodeId(2)) };
                    lane.join_fenced(slot, LogKind::Full, Term(11), hard_state).unwrap();
                }
                8 => {
                    // Removed, and fenced: part of its vote and acknowledgements is unknown.
                    ordinary(&mut lane, slot, group);
                    lane.remove(slot);
                    lane.set_fence(slot, Term(50));
                }
                9 => {
                    lane.bootstrap(slot, &voters(1), LogKind::Full);
                    lane.remove(slot); // without a trace
                }
                _ => ordinary(&mut lane, slot, group),
            }
            settle(&mut lane);
        }
        if number == 0 {
            let peers = vec![PeerNote { node: NodeId(2), log: LogId(77) }];
            lane.note(1, PeerNotes { peers, support: std::time::Duration::from_millis(700) });
            done(&mut lane);
        }
    }
    drop(directory);
    files
}

/// Everything that the lanes record of a group, except its place.
#[derive(Clone, Debug, PartialEq)]
struct Said {
    told: Option<RecoveredGroup>,
    past: Option<(HardState, EntryId)>,
    past_fence: Option<Term>,
    is_loss_accepted: bool,
    frames: Vec<Vec<u8>>,
    snapshot: Option<(EntryId, Vec<u8>)>,
}

fn snapshot(lane: &MemoryLane, group: GroupId) -> Option<(EntryId, Vec<u8>)> {
    let reader = |body: &mut dyn std::io::Read, _: &crate::SnapshotMeta| {
        let mut bytes = Vec::new();
        body.read_to_end(&mut bytes)?;
        Ok(Box::new(bytes) as Box<dyn std::any::Any + Send>)
    };
    let loaded = lane.load_latest(group, Box::new(reader)).unwrap();
    loaded.map(|(meta, bytes)| (meta.id, *bytes.downcast().unwrap()))
}

/// Opens all lanes as a node does.
fn said(directory: &Directory<MemoryFiles>) -> BTreeMap<GroupId, Said> {
    let mut all = BTreeMap::new();
    for number in 0..directory.lanes() {
        let (lane, groups, report) = Lane::open(StepDisk::new(directory.clone()), options(number)).unwrap();
        assert_eq!((report.damage.len(), report.lost_unknown), (0, None));
        lane.drop_stray_snapshots().unwrap();
        for (slot, log) in lane.groups.by_slot() {
            let group = &log.group;
            assert_eq!(lane_of(*group, directory.lanes()), Some(number), "{group} is in its lane");
            let of_group = Said {
                told: groups.iter().find(|told| told.group == *group).cloned(),
                past: lane.past(slot),
                past_fence: lane.past_fence(*group),
                is_loss_accepted: lane.is_loss_accepted(*group),
                frames: log.live().map(|frame| lane.bytes(frame.place).unwrap().to_vec()).collect(),
                snapshot: snapshot(&lane, *group),
            };
            assert!(all.insert(*group, of_group).is_none(), "{group} is in one lane");
        }
    }
    assert_eq!((directory.log_id(), directory.peers().len(), directory.support().as_millis()), (LOG, 1, 700));
    all
}

fn check(files: &MemoryFiles, expected: &BTreeMap<GroupId, Said>, lanes: &[u16], context: &str) {
    let directory = directory(files);
    assert!(lanes.contains(&directory.lanes()), "{context}: {} lanes", directory.lanes());
    let found = said(&directory);
    for (group, of_group) in expected {
        assert_eq!(found.get(group), Some(of_group), "{context}: {group}");
    }
    assert_eq!(found.len(), expected.len(), "{context}");
    // Nothing is left of other lanes.
    let of_lanes = |path: &String| {
        let number = path.strip_prefix("lane-")?.split('/').next()?.parse::<u16>().ok()?;
        (!directory.lane_numbers().contains(&number)).then(|| path.clone())
    };
    assert_eq!(files.paths().iter().find_map(of_lanes), None, "{context}");
}

#[test]
fn everything_is_there_in_other_lanes_and_in_others_again() {
    for (from, to) in MOVES {
        let files = sample(from);
        let expected = said(&directory(&files));
        assert_eq!(expected.len() as u64, GROUPS - 1);
        let kinds = expected.values().map(|said| (said.told.is_some(), said.snapshot.is_some()));
        assert!(kinds.filter(|kind| *kind == (true, true)).count() >= 2, "some have snapshots");
        for lanes in [to, from, 5, to] {
            let mut directory = directory(&files);
            let before = directory.lanes();
            let moved = relane(&mut directory, lanes).unwrap();
            assert_eq!((moved.from, moved.to, directory.lanes()), (before, lanes, lanes));
            assert!(before == lanes || moved.frames > 50 && moved.groups == GROUPS - 1, "{moved:?}");
            drop(directory);
            check(&files, &expected, &[lanes], &format!("{from} to {to}, {lanes} now"));
        }
    }
}

/// Whichever call was the last one of a run, with a power cut or without: the log has the old lanes or the
/// new ones, with the same content. A move reported as done is done.
#[test]
fn a_life_that_ends_at_any_call_leaves_the_old_lanes_or_the_new() {
    for (from, to) in MOVES {
        let whole = sample(from);
        let expected = said(&directory(&whole));
        let (mut cuts, mut were_old, mut were_new) = (0, 0, 0);
        for call in 1.. {
            let files = whole.copy();
            let mut lanes = directory(&files);
            files.fail_change(call, u64::MAX, ErrorKind::Other);
            let moved = relane(&mut lanes, to);
            let is_over = lanes.lanes() == to && files.paths_not_durable().is_empty() && {
                let left = files.list_dirs("").unwrap();
                left.len() == usize::from(to)
            };
            drop(lanes);
            files.heal();
            let garbage = |_: &str, sector: usize| match (sector + call as usize) % 3 {
                0 => SectorFate::Old,
                1 => SectorFate::New,
                _ => SectorFate::Garbage(7),
            };
            let images = [
                ("the process", files.clone()),
                ("the machine", files.after_power_cut(|_, _| SectorFate::Old)),
                ("the machine, all names", files.after_power_cut_with_all_names(|_, _| SectorFate::New)),
                ("the machine, garbage", files.after_power_cut(garbage)),
            ];
            let possible = if moved.is_ok() { vec![to] } else { vec![from, to] };
            for (what, image) in images {
                let context = format!("{from} to {to}, call {call}, {what}: {moved:?}");
                check(&image, &expected, &possible, &context);
                let mut lanes = directory(&image);
                let count = if lanes.lanes() == to { &mut were_new } else { &mut were_old };
                *count += 1;
                relane(&mut lanes, to).unwrap();
                drop(lanes);
                check(&image, &expected, &[to], &format!("{context}, once more"));
                cuts += 1;
            }
            if is_over {
                break;
            }
        }
        assert!(cuts > 200 && were_old > 100 && were_new > 20, "{cuts}: {were_old}, {were_new}");
    }
}

/// One call fails, and none after it: the log keeps its lanes, unless the outcome is undecided.
#[test]
fn a_call_that_fails_leaves_the_lanes_as_they_are_and_another_try_succeeds() {
    for kind in [ErrorKind::StorageFull, ErrorKind::Other] {
        let whole = sample(2);
        let expected = said(&directory(&whole));
        let mut refused = 0;
        for call in 1.. {
            let files = whole.copy();
            let mut lanes = directory(&files);
            files.fail_change(call, 0, kind);
            let before = files.changes();
            match relane(&mut lanes, 3) {
                Ok(moved) => assert_eq!((moved.to, lanes.lanes()), (3, 3)),
                Err(error) if error.is_undecided() => {
                    panic!("call {call}: one failure can be undone: {error}")
                }
                Err(error) => {
                    let is_full = matches!(error, RelaneError::NoRoom(_));
                    assert_eq!(is_full, kind == ErrorKind::StorageFull, "call {call}: {error}");
                    assert_eq!(lanes.lanes(), 2, "call {call}");
                    assert_eq!(said(&lanes), expected, "call {call}: it goes on with what it has");
                    refused += 1;
                }
            }
            let is_over = files.changes() < before + call;
            files.heal();
            drop(lanes);
            let mut lanes = directory(&files);
            relane(&mut lanes, 3).unwrap();
            drop(lanes);
            check(&files, &expected, &[3], &format!("call {call}"));
            if is_over {
                break;
            }
        }
        assert!(refused > 60, "{refused}");
    }
}

#[test]
fn a_disk_without_room_keeps_its_lanes_and_loses_none_of_its_room() {
    let files = sample(1);
    let expected = said(&directory(&files));
    let used = files.used();
    let mut refused = 0;
    for more in (0..).map(|step| step * 3_000) {
        files.limit(Some(used + more));
        let mut lanes = directory(&files);
        match relane(&mut lanes, 2) {
            Ok(_) => break,
            Err(error) => {
                assert!(matches!(error, RelaneError::NoRoom(_)), "{error}");
                assert_eq!((lanes.lanes(), files.used()), (1, used));
                refused += 1;
            }
        }
    }
    assert!(refused > 10, "{refused}");
    files.limit(None);
    check(&files, &expected, &[2], "with room");
}

#[test]
fn where_a_lane_is_damaged_nothing_is_moved_and_its_groups_get_the_verdict_that_they_would_have_got() {
    let verdicts = |directory: &Directory<MemoryFiles>| -> Vec<_> {
        let open = |number| Lane::open(StepDisk::new(directory.clone()), options(number)).unwrap();
        (0..directory.lanes()).map(open).map(|(_, groups, report)| (groups, report)).collect()
    };
    let whole = sample(2);
    let segments: Vec<String> = whole.paths().into_iter().filter(|path| path.contains("/seg-")).collect();
    let mut refused = 0;
    for path in &segments[..3] {
        for at in (0..whole.content(path).unwrap().len()).step_by(701) {
            let files = whole.copy();
            assert!(files.rot(path, at as u64, 4));
            let damaged = verdicts(&directory(&files.copy()));
            let is_damaged = damaged.iter().any(|(_, report)| !report.damage.is_empty());
            let mut lanes = directory(&files);
            let moved = relane(&mut lanes, 3);
            assert_eq!(moved.is_err(), is_damaged, "{path}, byte {at}: {moved:?}");
            if is_damaged {
                assert!(matches!(moved, Err(RelaneError::Damaged(_))), "{moved:?}");
                assert_eq!(verdicts(&lanes), damaged, "{path}, byte {at}");
                refused += 1;
            }
        }
    }
    assert!(refused > 10, "{refused}");
}

#[test]
fn a_group_that_must_stay_keeps_all_lanes() {
    let files = sample(2);
    let lanes = directory(&files);
    let (mut lane, ..) = Lane::open(StepDisk::new(lanes.clone()), options(1)).unwrap();
    let slot = lane.attach(GroupId(u64::MAX - 9));
    lane.hard_state(slot, HardState { term: Term(4), vote: None }).unwrap();
    settle(&mut lane);
    drop((lane, lanes));
    let mut lanes = directory(&files);
    let also = lanes.clone();
    assert!(matches!(relane(&mut lanes, 3), Err(RelaneError::InUse)));
    drop(also);
    let held = relane(&mut lanes, 3);
    assert!(matches!(held, Err(RelaneError::Held { group }) if group.0 == u64::MAX - 9), "{held:?}");
    assert_eq!(lanes.lanes(), 2);
}

/// During the switch: the first copy of the manifest names the old lanes, the second one the new ones.
#[test]
fn whichever_bit_of_a_manifest_is_lost_at_the_switch_some_lanes_count_and_they_are_whole() {
    let whole = sample(2);
    let expected = said(&directory(&whole));
    let old = whole.content("manifest").unwrap();
    let moved = |files: &MemoryFiles| {
        // The state before the last rename: both sets of lanes are complete.
        for call in 1.. {
            let files = files.copy();
            let mut lanes = directory(&files);
            files.fail_change(call, u64::MAX, ErrorKind::Other);
            let _ended = relane(&mut lanes, 3);
            drop(lanes);
            files.heal();
            let left = files.after_power_cut(|_, _| SectorFate::Old);
            let copies = ["manifest", "manifest.2"].map(|name| left.content(name).unwrap());
            if copies[0] == old && copies[1] != old {
                return left;
            }
        }
        unreachable!("a switch goes through this")
    };
    let undecided = moved(&whole);
    // Once an opening has found that the old lanes are valid, no copy names the others, which are removed.
    let settled = undecided.copy();
    check(&settled, &expected, &[2], "undamaged");
    settled.remove("manifest").unwrap();
    check(&settled, &expected, &[2], "the first copy is lost later");
    for name in ["manifest", "manifest.2"] {
        let good = undecided.content(name).unwrap();
        let lanes = if name == "manifest" { 3 } else { 2 };
        for bit in 0..good.len() * 8 {
            let files = undecided.copy();
            assert!(files.rot(name, bit as u64 / 8, 1 << (bit % 8)));
            let is_known = Directory::open(files.clone(), 200, LOG);
            // A flipped version cannot be told from a real one.
            if (64..96).contains(&bit) && matches!(is_known, Err(OpenError::Version { .. })) {
                continue;
            }
            check(&files, &expected, &[lanes], &format!("bit {bit} of {name}"));
        }
    }
    // Without either copy there are two sets of lanes, and it is unknown which is valid.
    for name in ["manifest", "manifest.2"] {
        undecided.remove(name).unwrap();
    }
    assert!(matches!(Directory::open(undecided, 2, LOG), Err(OpenError::Corrupt { .. })));
    // Where the old lanes are gone, the new lanes' files identify the set.
    let files = whole.copy();
    relane(&mut directory(&files), 3).unwrap();
    let manifest = files.content("manifest");
    for name in ["manifest", "manifest.2"] {
        files.remove(name).unwrap();
    }
    check(&files, &expected, &[3], "both copies are gone");
    assert_eq!(files.content("manifest"), manifest);
}

/// Later writes belong to the new lanes only, independent of the old ones.
/// Without a manifest the lanes are told by their numbers: those of a stray directory must not make opening
/// panic, nor pass for the log's.
#[test]
fn stray_lanes_with_the_last_numbers_are_refused_where_the_manifest_is_lost() {
    let whole = sample(1);
    let segment = whole.paths().into_iter().find(|path| path.contains("lane-0/seg-")).unwrap();
    let bytes = whole.content(&segment).unwrap();
    let reopened =
        |files: &MemoryFiles| Directory::open(files.clone(), 1, LOG).map(|directory| directory.lanes());
    for strays in [&[65_535][..], &[65_534], &[65_534, 65_535], &[65_533, 65_535]] {
        for is_alone in [false, true] {
            let files = whole.copy();
            for name in ["manifest", "manifest.2"] {
                files.remove(name).unwrap();
            }
            for stray in strays {
                files.create_dir(&format!("lane-{stray}")).unwrap();
                let mut bytes = bytes.clone();
                let header = SegmentHeader::parse(&bytes[..4096]).unwrap();
                SegmentHeader { lane: *stray, ..header }.encode(&mut bytes[..4096]);
                files.put(&segment.replace("lane-0", &format!("lane-{stray}")), bytes);
            }
            if is_alone {
                let own = files.paths().into_iter().filter(|path| path.starts_with("lane-0/seg-"));
                own.for_each(|path| files.remove(&path).unwrap());
            }
            let opened = reopened(&files);
            if is_alone && strays == [65_534] {
                assert_eq!(opened.unwrap(), 1, "the last number that a lane can have");
            } else {
                let is_refused = matches!(opened, Err(OpenError::Corrupt { .. }));
                assert!(is_refused, "{strays:?}, {is_alone}: {opened:?}");
            }
        }
    }
    // With nothing in it, it is no lane of a log.
    whole.create_dir("lane-65535").unwrap();
    for name in ["manifest", "manifest.2"] {
        whole.remove(name).unwrap();
    }
    assert_eq!(reopened(&whole).unwrap(), 1);
}

#[test]
fn lanes_that_took_the_place_of_others_live_on() {
    let files = sample(2);
    relane(&mut directory(&files), 3).unwrap();
    let before = said(&directory(&files));
    let group = GroupId(10);
    let lanes = directory(&files);
    let number = lane_of(group, 3).unwrap();
    let (mut lane, ..) = Lane::open(StepDisk::new(lanes.clone()), options(number)).unwrap();
    let slot = lane.attach(group);
    for index in 21..200 {
        append(&mut lane, slot, id(index, 13), 1, 900);
        settle(&mut lane);
        if index % 20 == 0 {
            lane.compact(slot, id(index - 10, if index == 20 { 3 } else { 13 }));
        }
    }
    settle(&mut lane);
    assert!(lane.log_bytes() > 10 * lane.options.segment_bytes);
    drop((lane, lanes));
    let files = files.after_power_cut(|_, _| SectorFate::Old);
    let after = said(&directory(&files));
    assert_eq!(after[&group].told.as_ref().unwrap().last, Index(199));
    assert!(before.iter().all(|(other, said)| *other == group || after[other] == *said));
    // Rot in the new lanes is damage, even if nothing was written since the move; and the fence that the
    // groups get is no lower than the term of any vote or acknowledgement in the old lanes.
    for rotten in 0..3 {
        let files = sample(2);
        relane(&mut directory(&files), 3).unwrap();
        let lanes = directory(&files);
        let dir = format!("lane-{}/seg-", lanes.lane_numbers().start + rotten);
        let last = files.paths().into_iter().rfind(|path| path.starts_with(&dir)).unwrap();
        assert!(files.rot(&last, 4096 + 70, 1));
        let (_, groups, report) = Lane::open(StepDisk::new(lanes), options(rotten)).unwrap();
        assert!(!report.damage.is_empty(), "{report:?}");
        let mut hit = groups.iter().filter(|told| told.is_hit).map(|told| told.fence).peekable();
        assert!(hit.peek().is_some() || report.lost_unknown.is_some());
        assert!(
            hit.chain([report.lost_unknown].into_iter().filter(Option::is_some))
                .all(|fence| fence == Some(Term(50)))
        );
    }
}

#[test]
fn real_files_are_moved_in_every_mode() {
    for mode in AppendMode::ALL {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let files = || OsFiles::new(dir.path(), mode).unwrap();
            match Directory::open(files(), 1, LOG) {
                Err(OpenError::LaneCount { on_disk, .. }) => Directory::open(files(), on_disk, LOG).unwrap(),
                opened => opened.unwrap(),
            }
        };
        let lane_in = |directory: &Directory<OsFiles>, lane| {
            let disk = OsDisk::open(directory, &OsDiskOptions::default(), Waker::noop().clone()).unwrap();
            Lane::open(disk, options(lane)).unwrap()
        };
        let stories_in = |directory: &Directory<OsFiles>| {
            (0..directory.lanes())
                .flat_map(|lane| stories(&lane_in(directory, lane).0))
                .collect::<BTreeMap<_, _>>()
        };
        let directory = open();
        let (mut lane, ..) = lane_in(&directory, 0);
        for group in 1..=GROUPS {
            let slot = lane.attach(GroupId(group));
            lane.bootstrap(slot, &voters(3), LogKind::Full);
            lane.hard_state(slot, HardState { term: Term(group), vote: Some(NodeId(1)) }).unwrap();
            for at in 0..5 {
                append(&mut lane, slot, id(at * 2 + 1, 1), 2, 300);
                settle(&mut lane);
            }
            let source = move |out: &mut dyn std::io::Write| out.write_all(&[group as u8; 70_000]);
            lane.save_snapshot(1, GroupId(group), id(6, 1), voters(3), Box::new(source));
            while lane.poll_background().is_none() {
                std::thread::yield_now();
            }
            lane.compact(slot, id(6, 1));
        }
        settle(&mut lane);
        drop((lane, directory));
        let before = stories_in(&open());
        for lanes in [3, 2, 1] {
            let mut directory = open();
            let moved = directory.relane(lanes, &options(0), &lane_of).unwrap();
            assert_eq!((moved.groups, moved.snapshots, moved.to), (GROUPS, GROUPS, lanes));
            drop(directory);
            let directory = open();
            assert_eq!((stories_in(&directory), directory.lanes()), (before.clone(), lanes), "{mode:?}");
            let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
            let left = names.filter(|name| name.to_string_lossy().starts_with("lane-")).count();
            assert_eq!(left, usize::from(lanes), "the others are gone, directories and all");
            for group in 1..=GROUPS {
                let number = lane_of(GroupId(group), lanes).unwrap();
                let meta = lane_in(&directory, number).0.latest_snapshot(GroupId(group)).unwrap().unwrap();
                assert_eq!((meta.id, meta.bytes > 70_000), (id(6, 1), true));
            }
        }
    }
}
