//! The files beside the log: manifest, peer notes, snapshot files. No flipped bit, cut, missing name or
//! refused page of one file keeps a lane from opening, unless opening would have to invent content; and
//! damage to a group's snapshot affects only that group.

use std::time::Duration;

use raftwerk_frame::LogId;

use super::read_faults::{Refuses, refuse};
use super::*;
use crate::disk::simulated::SectorFate;
use crate::{BackgroundOutput, Files as _, OnDamage, PeerNote, PeerNotes, SnapshotError};

const LANES: u16 = 2;
const LOG: u64 = 0x1_0917;
const GROUPS: u64 = 3;

fn options(lane: u16) -> LaneOptions {
    let options = LaneOptions { lane, on_damage: OnDamage::Fence, log_bytes_max: u64::MAX, ..small() };
    LaneOptions { segment_bytes: 16 << 10, frame_bytes_max: 4 << 10, ..options }
}

fn notes() -> PeerNotes {
    let peers =
        vec![PeerNote { node: NodeId(2), log: LogId(77) }, PeerNote { node: NodeId(3), log: LogId(9) }];
    PeerNotes { peers, support: Duration::from_millis(700) }
}

fn directory(files: &MemoryFiles) -> Result<Directory<MemoryFiles>, OpenError> {
    Directory::open(files.clone(), LANES, LOG)
}

fn done<D: Disk>(lane: &mut Lane<D>) -> Result<BackgroundOutput, SnapshotError> {
    loop {
        if let Some(done) = lane.poll_background() {
            return done.result;
        }
        std::thread::yield_now();
    }
}

fn body(group: u64) -> Vec<u8> {
    format!("group {group} ").repeat(20 + group as usize).into_bytes()
}

fn save<D: Disk>(lane: &mut Lane<D>, group: u64, index: u64) {
    let source = move |out: &mut dyn std::io::Write| out.write_all(&body(group));
    lane.save_snapshot(1, GroupId(group), id(index, 1), voters(3), Box::new(source));
    done(lane).unwrap();
}

fn load(lane: &MemoryLane, group: u64) -> Result<Option<Vec<u8>>, SnapshotError> {
    let reader = |body: &mut dyn std::io::Read, _: &crate::SnapshotMeta| {
        let mut bytes = Vec::new();
        body.read_to_end(&mut bytes)?;
        Ok(Box::new(bytes) as Box<dyn std::any::Any + Send>)
    };
    let loaded = lane.load_latest(GroupId(group), Box::new(reader))?;
    Ok(loaded.map(|(_, bytes)| *bytes.downcast().unwrap()))
}

/// A data directory with every kind of content.
fn sample() -> MemoryFiles {
    let files = MemoryFiles::new();
    let directory = directory(&files).unwrap();
    for number in 0..LANES {
        let (mut lane, ..) = Lane::open(StepDisk::new(directory.clone()), options(number)).unwrap();
        for group in 1..=GROUPS {
            let slot = lane.attach(GroupId(group));
            lane.snapshot(slot, id(0, 0), &voters(3), Tail::Drop);
            lane.hard_state(slot, HardState { term: Term(1), vote: Some(NodeId(group)) }).unwrap();
            for at in 0..4 {
                append(&mut lane, slot, id(at * 2 + 1, 1), 2, 300);
                settle(&mut lane);
            }
            save(&mut lane, group, 4);
            lane.compact(slot, id(4, 1));
        }
        settle(&mut lane);
        if number == 0 {
            lane.note(1, notes());
            done(&mut lane).unwrap();
        }
    }
    files
}

/// Opens everything. All content is as written, or reported as lost. Returns the damaged or missing
/// snapshots.
fn check(files: &MemoryFiles, context: &str) -> Vec<(u16, u64)> {
    let directory = directory(files).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!((directory.log_id(), directory.lanes()), (LOG, LANES), "{context}");
    assert_eq!((directory.peers(), directory.support()), (&notes().peers[..], notes().support), "{context}");
    let mut lost = Vec::new();
    for number in 0..LANES {
        let opened = Lane::open(StepDisk::new(directory.clone()), options(number));
        let (lane, groups, report) = opened.unwrap_or_else(|error| panic!("{context}: {error}"));
        lane.drop_stray_snapshots().unwrap();
        for group in 1..=GROUPS {
            let told = groups.iter().find(|told| told.group == GroupId(group));
            let is_whole = told.is_some_and(|told| told.last == Index(8) && told.hard_state.term == Term(1));
            let is_fenced = told.is_some_and(|told| told.fence.is_some()) || report.lost_unknown.is_some();
            assert!(is_whole || is_fenced || report.torn.is_some(), "{context}: {told:?}, {report:?}");
            match load(&lane, group) {
                Ok(Some(bytes)) => assert_eq!(bytes, body(group), "{context}"),
                Ok(None) | Err(SnapshotError::Corrupt { .. }) => lost.push((number, group)),
                Err(other) => panic!("{context}: {other}"),
            }
        }
    }
    lost
}

fn is_segment(path: &str) -> bool {
    path.contains("/seg-") || path.contains("/spare-")
}

/// The lane and the group of a snapshot file.
fn owner(path: &str) -> Option<(u16, u64)> {
    let (lane, name) = path.strip_prefix("lane-")?.split_once("/snapshots/")?;
    Some((lane.parse().ok()?, u64::from_str_radix(name.split('-').next()?, 16).ok()?))
}

#[test]
fn every_bit_of_every_small_file_is_lived_without() {
    let files = sample();
    let whole = files.copy();
    assert_eq!(check(&whole, "as it was"), []);
    let paths: Vec<String> = files.paths().into_iter().filter(|path| !is_segment(path)).collect();
    assert_eq!(paths.len(), 2 + 2 + usize::from(LANES) * GROUPS as usize, "{paths:?}");
    for path in paths {
        let good = files.content(&path).unwrap();
        let damage = |context: &str, bad: Option<Vec<u8>>| {
            let left = files.copy();
            match bad {
                Some(bad) => left.put(&path, bad),
                None => left.remove(&path).unwrap(),
            }
            let lost = check(&left, &format!("{path}, {context}"));
            assert_eq!(lost, owner(&path).into_iter().collect::<Vec<_>>(), "{path}, {context}");
            if owner(&path).is_none() {
                assert_eq!(left.content(&path), Some(good.clone()), "{path}, {context}: it is mended");
            }
        };
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                damage(&format!("bit {bit} of byte {at}"), Some(bad));
            }
            damage(&format!("cut at {at}"), Some(good[..at].to_vec()));
        }
        damage("longer", Some([&good[..], &[0; 9]].concat()));
        damage("gone", None);
        let left = files.copy();
        refuse(&left, Refuses::Page(path.clone(), 0));
        assert_eq!(check(&left, &format!("{path} refused")), owner(&path).into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_manifest_of_which_both_copies_are_lost_is_made_from_the_segments() {
    let files = sample();
    for (bad, lose) in [("gone", None), ("flipped", Some(20)), ("of another length", Some(usize::MAX))] {
        let left = files.copy();
        for copy in ["manifest", "manifest.2"] {
            let mut bytes = files.content(copy).unwrap();
            match lose {
                None => left.remove(copy).unwrap(),
                Some(usize::MAX) => left.put(copy, bytes[..9].to_vec()),
                Some(at) => {
                    bytes[at] ^= 1;
                    left.put(copy, bytes);
                }
            }
        }
        assert_eq!(check(&left, bad), []);
        assert_eq!(left.content("manifest"), files.content("manifest"));
    }
    // Where nothing is left that contains the log's id, or the remains disagree, opening fails.
    for of_another in [false, true] {
        let left = files.copy();
        left.remove("manifest").unwrap();
        left.remove("manifest.2").unwrap();
        for path in files.paths().into_iter().filter(|path| path.contains("/seg-")) {
            let mut bytes = files.content(&path).unwrap();
            if of_another && path.contains("lane-1") {
                let header =
                    crate::SegmentHeader { log_id: 5, ..crate::SegmentHeader::parse(&bytes).unwrap() };
                header.encode(&mut bytes[..4096]);
            } else if !of_another {
                bytes[20] ^= 1;
            }
            left.put(&path, bytes);
        }
        assert!(matches!(directory(&left), Err(OpenError::Corrupt { .. })));
    }
    // So it does where both copies of the peer notes are lost: the support given to other nodes is never
    // invented.
    let left = files.copy();
    for copy in ["peers", "peers.2"] {
        left.put(copy, vec![1; 40]);
    }
    assert!(matches!(directory(&left), Err(OpenError::Corrupt { .. })));
}

#[test]
fn a_power_cut_at_any_call_leaves_the_old_notes_or_the_new() {
    for n in 1..20 {
        let files = sample();
        let directory = directory(&files).unwrap();
        let (mut lane, ..) = Lane::open(StepDisk::new(directory.clone()), options(0)).unwrap();
        while lane.disk_mut().run_background() {}
        let fewer = PeerNotes { peers: notes().peers[..1].to_vec(), ..notes() };
        files.fail_change(n, u64::MAX, std::io::ErrorKind::Other);
        lane.note(1, fewer.clone());
        let is_done = done(&mut lane).is_ok();
        let left = files.after_power_cut(|_, _| SectorFate::Old);
        let found = self::directory(&left).unwrap();
        let peers = found.peers();
        assert!(peers == fewer.peers || !is_done && peers == notes().peers, "call {n}: {peers:?}");
    }
}

#[test]
fn a_group_without_its_snapshot_begins_bare_and_bound_by_what_it_promised() {
    let files = sample();
    let path = files.paths().into_iter().find(|path| owner(path) == Some((0, 2))).unwrap();
    let mut bytes = files.content(&path).unwrap();
    bytes[100] ^= 1;
    files.put(&path, bytes.clone());
    for life in 0..2 {
        let (mut lane, groups, _) =
            Lane::open(StepDisk::new(directory(&files).unwrap()), options(0)).unwrap();
        let slot = lane.attach(GroupId(2));
        if life == 0 {
            assert!(matches!(load(&lane, 2), Err(SnapshotError::Corrupt { .. })));
            let told = lane.recreate_empty(slot).unwrap();
            settle(&mut lane);
            assert_eq!(
                (told.compacted, told.last, told.fence),
                (EntryId::default(), Index(0), Some(Term(1)))
            );
            assert_eq!((told.floor, told.hard_state.vote), (Some(id(8, 1)), Some(NodeId(2))));
            assert!(told.is_hit && told.runs.is_empty());
        } else {
            // The next run finds the same, and no snapshot: the damaged one is kept for inspection.
            let told = groups.iter().find(|told| told.group == GroupId(2)).unwrap();
            assert_eq!(
                (told.compacted, told.last, told.fence),
                (EntryId::default(), Index(0), Some(Term(1)))
            );
            assert_eq!((told.floor, told.hard_state.vote), (Some(id(8, 1)), Some(NodeId(2))));
            lane.drop_stray_snapshots().unwrap();
            assert_eq!(load(&lane, 2).unwrap(), None);
            assert_eq!(files.content(&path.replace(".snap", ".damaged")), Some(bytes.clone()));
            save(&mut lane, 2, 20);
            assert!(!files.paths().iter().any(|path| path.ends_with(".damaged")));
            assert_eq!(load(&lane, 2).unwrap(), Some(body(2)));
        }
        // No other group is affected.
        for group in [1, 3] {
            let slot = lane.attach(GroupId(group));
            assert_eq!((lane.last(slot), lane.fence(slot)), (Index(8), None));
            assert_eq!(load(&lane, group).unwrap(), Some(body(group)));
        }
    }
}

/// Scrubs all snapshot files, `bytes` bytes a job. Returns the damaged ones, and the number of jobs.
fn pass(lane: &mut MemoryLane, bytes: u64) -> (Vec<u64>, u32) {
    let (mut damaged, mut jobs) = (Vec::new(), 0);
    loop {
        lane.scrub_snapshots(1, bytes);
        let Ok(BackgroundOutput::Checked(seen)) = done(lane) else { panic!("not looked at") };
        lane.on_snapshots_scrubbed(&seen);
        damaged.extend(seen.damaged.map(|damaged| damaged.group.0));
        jobs += 1;
        if seen.is_pass_over {
            return (damaged, jobs);
        }
    }
}

#[test]
fn snapshot_files_are_looked_at_and_each_damaged_one_is_told() {
    let files = sample();
    let (mut lane, ..) = Lane::open(StepDisk::new(directory(&files).unwrap()), options(0)).unwrap();
    // A file that is read in parts.
    let long = move |out: &mut dyn std::io::Write| out.write_all(&[7; 700_000]);
    lane.save_snapshot(1, GroupId(3), id(9, 1), voters(3), Box::new(long));
    done(&mut lane).unwrap();
    assert_eq!(pass(&mut lane, 1 << 30), (vec![], 1));
    let (damaged, jobs) = pass(&mut lane, 1);
    assert!(damaged.is_empty() && jobs >= 6, "{jobs}: at a bounded rate");
    for path in files.paths().into_iter().filter(|path| path.starts_with("lane-0/snapshots/")) {
        let good = files.content(&path).unwrap();
        let group = owner(&path).unwrap().1;
        for at in (0..good.len()).step_by(1 + good.len() / 40) {
            assert!(files.rot(&path, at as u64, 4));
            assert_eq!(pass(&mut lane, 1 << 20).0, [group], "byte {at} of {path}");
            assert!(files.rot(&path, at as u64, 4));
        }
        refuse(&files, Refuses::Page(path.clone(), 0));
        assert!(group == 3 || pass(&mut lane, 1 << 20).0 == [group], "{path}");
        files.decided_by(None);
        files.put(&path, good[..good.len() - 1].to_vec());
        assert_eq!(pass(&mut lane, 1 << 20).0, [group], "{path} cut");
        files.put(&path, good);
    }
    assert_eq!(pass(&mut lane, 1 << 20).0, []);
}

/// The snapshot directory holds a file for each group: listing it for each group would take quadratic time.
#[test]
fn the_directory_of_snapshots_is_listed_once_a_lane() {
    let files = sample();
    let (mut lane, ..) = Lane::open(StepDisk::new(directory(&files).unwrap()), options(0)).unwrap();
    let before = files.listings();
    lane.drop_stray_snapshots().unwrap();
    for group in 1..=GROUPS {
        assert_eq!(load(&lane, group).unwrap(), Some(body(group)));
        assert!(lane.latest_snapshot(GroupId(group)).unwrap().is_some());
    }
    for index in 10..15 {
        save(&mut lane, 1, index);
        save(&mut lane, 40 + index, index);
    }
    lane.write_snapshot_chunk(1, GroupId(2), id(9, 1), 0, bytes::Bytes::from_static(b"abc"));
    done(&mut lane).unwrap();
    lane.drop_snapshots(1, GroupId(2));
    done(&mut lane).unwrap();
    assert_eq!(load(&lane, 2).unwrap(), None);
    assert_eq!(files.listings(), before + 1);
    let of_first = files.paths().into_iter().filter(|path| owner(path) == Some((0, 1))).count();
    assert_eq!(of_first, 1, "older ones are removed");
}

/// A failed sync leaves pages in the cache that the device does not have: a later attempt must not use them.
#[test]
fn a_received_snapshot_whose_sync_failed_is_received_anew() {
    let files = sample();
    let (mut lane, ..) = Lane::open(StepDisk::new(directory(&files).unwrap()), options(0)).unwrap();
    while lane.disk_mut().run_background() {}
    let path = files.paths().into_iter().find(|path| owner(path) == Some((0, 1))).unwrap();
    let whole = files.content(&path).unwrap();
    let part = |lane: &mut MemoryLane| {
        lane.write_snapshot_chunk(1, GroupId(1), id(4, 1), 0, bytes::Bytes::from(whole.clone()));
        done(lane).unwrap();
        lane.finish_snapshot(1, GroupId(1), id(4, 1), whole.len() as u64);
        done(lane)
    };
    files.fail_change(3, 0, std::io::ErrorKind::Other); // create, write, sync
    assert!(part(&mut lane).is_err());
    lane.finish_snapshot(1, GroupId(1), id(4, 1), whole.len() as u64);
    assert!(matches!(done(&mut lane), Err(SnapshotError::Missing)), "nothing of it is left to be finished");
    assert!(part(&mut lane).is_ok());
}
