//! A damaged lane opens with what is left: nothing is invented, every loss is fenced, and an entry of a later
//! term lifts the fence.

use super::*;
use crate::inspect::{Verdict, inspect};
use crate::{Files, OnDamage};

fn tiny() -> LaneOptions {
    LaneOptions {
        segment_bytes: 16 << 10,
        frame_bytes_max: 4 << 10,
        on_damage: OnDamage::Fence,
        ready_segments: 1,
        ..small()
    }
}

type Said = BTreeMap<Lsn, BTreeMap<GroupId, Story>>;

/// Three groups, votes, replaced tails and a compaction, over several segments; and the log's content after
/// each batch.
fn sample() -> (MemoryFiles, Said) {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, tiny()).unwrap();
    let mut said = Said::new();
    for turn in 0..9u64 {
        for group in 1..4 {
            let slot = lane.attach(GroupId(group));
            let term = 1 + turn / 3;
            if turn == 0 {
                lane.snapshot(slot, id(0, 0), &voters(3), Tail::Drop);
            }
            if turn % 3 == group % 3 {
                lane.hard_state(slot, HardState { term: Term(term), vote: Some(NodeId(group)) }).unwrap();
            }
            // Every third turn replaces the last entry.
            let last = lane.last(slot).0;
            let first = if turn % 3 == 0 { last.max(1) } else { last + 1 };
            append(&mut lane, slot, id(first, term), 2, 40 * group as usize);
            if turn == 5 && group == 2 {
                lane.compact(slot, id(3, 1));
            }
        }
        said.insert(settle(&mut lane), stories(&lane));
    }
    (files, said)
}

fn segments(files: &MemoryFiles) -> Vec<String> {
    files.paths().into_iter().filter(|path| path.contains("/seg-")).collect()
}

/// Every recovered entry existed at its index, and after the entry that precedes it now.
fn is_of_one_history(story: &Story, group: GroupId, said: &Said) -> bool {
    let entries: Vec<_> = story.entries.iter().collect();
    let holds = |told: &Story, entry: &(&u64, &(u64, Vec<u8>))| told.entries.get(entry.0) == Some(entry.1);
    let together = |pair: &[(&u64, &(u64, Vec<u8>))]| {
        said.values().filter_map(|told| told.get(&group)).any(|told| pair.iter().all(|one| holds(told, one)))
    };
    entries.chunks(1).all(together) && entries.windows(2).all(together)
}

/// Opens a damaged log, and checks everything that must hold then. Returns whether anything was fenced.
fn check(files: &MemoryFiles, said: &Said, context: &str) -> bool {
    let before: Vec<_> = files.paths().into_iter().map(|path| (files.content(&path), path)).collect();
    let seen = inspect(files).map(|seen| seen.lanes.into_iter().next().unwrap());
    for (content, path) in before {
        assert_eq!(files.content(&path), content, "{context}: looking has changed {path}");
    }
    let (mut lane, groups, report) = match open_in(files, tiny()) {
        Ok(opened) => opened,
        Err(OpenError::Corrupt { .. }) => {
            let is_refused = matches!(seen.map(|lane| lane.verdict), Err(_) | Ok(Verdict::Unreadable(_)));
            assert!(is_refused, "{context}: refused, and looked well");
            return true;
        }
        Err(other) => panic!("{context}: {other}"),
    };
    let seen = seen.unwrap();
    assert_eq!(seen.verdict.is_whole(), report.damage.is_empty(), "{context}: {:?}", seen.verdict);
    let fenced: BTreeMap<_, _> =
        groups.iter().filter_map(|group| Some((group.group, group.fence?))).collect();
    let seen_fenced = seen.groups.iter().filter_map(|group| Some((group.group, group.fence?)));
    assert_eq!(fenced, seen_fenced.collect(), "{context}");
    let now = stories(&lane);
    let truth = &said[&report.last];
    for (group, story) in truth {
        let Some(fence) = fenced.get(group) else {
            assert_eq!(now.get(group), Some(story), "{context}: {group} is not fenced");
            continue;
        };
        let told = now.get(group).unwrap_or_else(|| panic!("{context}: {group} is gone"));
        assert!(is_of_one_history(told, *group, said), "{context}: {group} {told:?}");
        let acknowledged = said.range(..=report.last).flat_map(|(_, all)| all.values());
        let entries = acknowledged.flat_map(|told| told.entries.values().map(|entry| Term(entry.0)));
        assert!(entries.max() <= Some(*fence), "{context}: {group} at {fence}");
    }
    settle(&mut lane);
    let after = stories(&lane);
    drop(lane);

    // The second opening finds the same, and no new loss.
    let (mut lane, groups, report) = open_in(files, tiny()).unwrap();
    assert_eq!(stories(&lane), after, "{context}, again");
    let again: Vec<_> = groups.iter().filter(|group| group.is_hit).collect();
    assert!(again.is_empty(), "{context}: hit again: {again:?} {report:?}");
    let still: BTreeMap<_, _> = groups.iter().filter_map(|group| Some((group.group, group.fence?))).collect();
    assert_eq!(still, fenced, "{context}, again");

    // A leader of a later term replicates what is missing; a group created since was never hit.
    for (group, fence) in &fenced {
        let slot = lane.attach(*group);
        let next = lane.last(slot).next();
        append(&mut lane, slot, EntryId::new(Term(fence.0 + 1), next), 1, 10);
    }
    let fresh = lane.attach(GroupId(77));
    lane.snapshot(fresh, id(0, 0), &voters(1), Tail::Drop);
    settle(&mut lane);
    drop(lane);
    let (.., groups, _) = open_in(files, tiny()).unwrap();
    assert!(groups.iter().all(|group| group.fence.is_none() && !group.is_hit), "{context}: not repaired");
    !fenced.is_empty()
}

#[test]
fn a_flip_at_any_byte_is_fenced_or_changes_nothing() {
    let (files, said) = sample();
    let mut fenced = 0;
    for path in segments(&files) {
        let good = files.content(&path).unwrap();
        for at in 0..good.len() {
            // Every byte of headers and of the first frames; of the rest, and of the padding, a sample.
            let within = at % 4096;
            if within > 220 && at % 17 != 0 || within > 1100 && at % 289 != 0 {
                continue;
            }
            let damaged = files.copy();
            damaged.rot(&path, at as u64, 0x20);
            fenced += usize::from(check(&damaged, &said, &format!("{path} byte {at}")));
        }
    }
    assert!(fenced > 300, "{fenced}");
}

#[test]
fn a_page_that_is_zeroed_or_stale_is_fenced_or_changes_nothing() {
    let (files, said) = sample();
    let mut fenced = 0;
    for path in segments(&files) {
        let good = files.content(&path).unwrap();
        let pages = good.len() / 4096;
        for page in 0..pages {
            for other in 0..=pages {
                let damaged = files.copy();
                let bytes = if other < pages { &good[other * 4096..][..4096] } else { &[0; 4096][..] };
                damaged.overwrite(&path, page as u64 * 4096, bytes);
                fenced += usize::from(check(&damaged, &said, &format!("{path}: {other} in page {page}")));
            }
        }
    }
    assert!(fenced > 10, "{fenced}");
}

#[test]
fn a_segment_cut_or_gone_is_fenced_or_changes_nothing() {
    let (files, said) = sample();
    let paths = segments(&files);
    // The first may have been freed, and so may the last.
    for path in &paths[1..paths.len() - 1] {
        let damaged = files.copy();
        damaged.remove(path).unwrap();
        let next = paths.iter().position(|other| other == path).unwrap() + 1;
        let is_empty = next + 1 >= paths.len();
        assert!(check(&damaged, &said, path) || is_empty);
        let good = files.content(path).unwrap();
        for cut in (0..good.len()).step_by(4096) {
            let damaged = files.copy();
            damaged.put(path, good[..cut].to_vec());
            check(&damaged, &said, &format!("{path} cut at {cut}"));
        }
    }
}

#[test]
fn damage_in_the_body_of_a_frame_hits_its_group_alone() {
    let (files, _) = sample();
    let path = &segments(&files)[0];
    files.rot(path, 4096 + 64 + 48 + 20 + 48 + 30, 1); // the first group's snapshot, then its entries
    let (_, groups, report) = open_in(&files, tiny()).unwrap();
    assert_eq!(report.damage.len(), 1);
    assert_eq!((&report.damage[0].file, report.damage[0].offset), (path, 4096));
    assert_eq!(report.damage[0].groups, [GroupId(1)]);
    let hit: Vec<_> = groups.iter().filter(|group| group.is_hit).map(|group| group.group).collect();
    assert_eq!(hit, [GroupId(1)]);
}

#[test]
fn a_fence_outlives_the_segment_it_was_written_in() {
    let (files, _) = sample();
    let path = &segments(&files)[0];
    files.rot(path, 4096 + 8, 1);
    let (mut lane, groups, _) = open_in(&files, tiny()).unwrap();
    let fence = groups[0].fence;
    assert!(fence.is_some());
    let busy = lane.attach(GroupId(2));
    let written = lane.stats().preparations.created + lane.stats().recycled;
    let higher = Term(fence.unwrap().0 + 1);
    while lane.stats().preparations.created + lane.stats().recycled < written + 12 {
        let last = lane.last(busy);
        append(&mut lane, busy, EntryId::new(higher, last.next()), 1, 900);
        lane.compact(busy, EntryId::new(higher, last.next()));
        for group in [1, 3] {
            let slot = lane.attach(GroupId(group));
            let (last, term) = (lane.last(slot), fence.unwrap());
            lane.compact(slot, EntryId::new(term, last));
        }
        settle(&mut lane);
        lane.poll().unwrap();
    }
    assert!(!files.paths().contains(path), "the damaged segment is still there");
    drop(lane);
    let (_, groups, report) = open_in(&files, tiny()).unwrap();
    assert_eq!(report.damage, []);
    let mut told: Vec<_> = groups.iter().map(|group| (group.group.0, group.fence)).collect();
    told.sort_unstable_by_key(|(group, _)| *group);
    assert_eq!(told, [(1, fence), (2, None), (3, fence)]);
}

#[test]
fn looking_at_a_log_tells_what_is_in_it() {
    let (files, said) = sample();
    let seen = inspect(&files).unwrap();
    assert_eq!((seen.version, seen.log_id, seen.lanes.len()), (crate::format::FORMAT_VERSION, 0x1_0917, 1));
    let lane = &seen.lanes[0];
    let last = *said.keys().next_back().unwrap();
    assert!(matches!(lane.verdict, Verdict::Clean), "{:?}", lane.verdict);
    assert_eq!((lane.last, lane.segments.len()), (last, segments(&files).len()));
    assert_eq!(lane.segments.iter().map(|segment| segment.batch_count as u64).sum::<u64>(), last.0);
    for (group, story) in lane.groups.iter().zip(said[&last].values()) {
        let end = story.entries.keys().next_back().copied().unwrap_or(story.base.index.0);
        assert_eq!(
            (group.hard_state, group.compacted, group.last),
            (story.hard_state, story.base, Index(end))
        );
    }
    assert_eq!(lane.groups.len(), 3);
    assert!(inspect(&MemoryFiles::new()).is_err());
}
