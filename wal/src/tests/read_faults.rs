//! A device that refuses reads: every read call fails once, every page is refused for good. The lane opens,
//! whole or fenced; a running one goes on; no read returns a wrong byte, and the process survives.
//!
//! The same with real files, where a map would end the process: `wal/tests/refused_reads.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::disk::simulated::{Call, Fate, Outcome};
use crate::format::segment::{PAGE_BYTES, segment_path};
use crate::{BackgroundOutput, LogError, OnDamage};

const PAGE: u64 = PAGE_BYTES as u64;

/// The reads to refuse. Counts the reads.
#[derive(Clone)]
pub(super) enum Refuses {
    /// The read of this number, from 0 on, and this many after it.
    Calls(u64, u64),
    /// Every read that touches this page of this file.
    Page(String, u64),
}

struct Refusing(Refuses, Arc<AtomicU64>);

impl Fate for Refusing {
    fn decide(&mut self, call: Call<'_>) -> Outcome {
        let Call::Read { path, offset, bytes } = call else { return Outcome::Done };
        let number = self.1.fetch_add(1, Ordering::Relaxed);
        let is_refused = match &self.0 {
            Refuses::Calls(from, more) => (*from..from.saturating_add(1 + more)).contains(&number),
            Refuses::Page(of, page) => {
                // The calls name a file by its first name.
                let first = of.replace("seg-", "new-").replace(".log", ".tmp").replace(".snap", ".tmp");
                let is_it = path == of || *path == *first;
                is_it && offset < (page + 1) * PAGE && page * PAGE < offset + bytes as u64
            }
        };
        if is_refused { Outcome::Fail(std::io::ErrorKind::Other) } else { Outcome::Done }
    }
}

/// Refuses from now on; returns the count of reads.
pub(super) fn refuse(files: &MemoryFiles, what: Refuses) -> Arc<AtomicU64> {
    let reads = Arc::default();
    files.decided_by(Some(Box::new(Refusing(what, Arc::clone(&reads)))));
    reads
}

fn options(on_damage: OnDamage) -> LaneOptions {
    let options = LaneOptions { recent_bytes: 0, log_bytes_max: u64::MAX, ..small() };
    LaneOptions { segment_bytes: 16 << 10, frame_bytes_max: 4 << 10, on_damage, ..options }
}

/// Three groups over some segments; the second one's metadata and entries lie in the first only.
fn written() -> (MemoryFiles, MemoryLane) {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, options(OnDamage::Fence)).unwrap();
    for turn in 0..9 {
        for group in 1..=3 {
            let slot = lane.attach(GroupId(group));
            if turn == 0 {
                lane.snapshot(slot, id(0, 0), &voters(3), Tail::Drop);
                lane.hard_state(slot, HardState { term: Term(1), vote: Some(NodeId(group)) }).unwrap();
            }
            if turn < 2 || group != 2 {
                let next = lane.last(slot).0 + 1;
                append(&mut lane, slot, id(next, 1), 2, 200 * group as usize);
            }
        }
        settle(&mut lane);
    }
    assert!(lane.stats().segments > 2);
    (files, lane)
}

/// Every page with nonzero content.
fn pages(files: &MemoryFiles) -> Vec<(String, u64)> {
    let of = |path: String| {
        let content = files.content(&path).unwrap();
        let pages = (0..content.len() as u64 / PAGE).filter(move |page| {
            content[(page * PAGE) as usize..][..PAGE_BYTES].iter().any(|byte| *byte != 0)
        });
        pages.map(|page| (path.clone(), page)).collect::<Vec<_>>()
    };
    files.paths().into_iter().filter(|path| path.contains("/seg-")).flat_map(of).collect()
}

#[test]
fn opening_reads_again_what_was_refused_once() {
    let (files, lane) = written();
    let said = stories(&lane);
    drop(lane);
    for on_damage in [OnDamage::Refuse, OnDamage::Fence] {
        for n in 0.. {
            let left = files.copy();
            let reads = refuse(&left, Refuses::Calls(n, 0));
            let (lane, _, report) = open_in(&left, options(on_damage)).unwrap();
            let in_opening = reads.load(Ordering::Relaxed);
            left.decided_by(None);
            assert_eq!((stories(&lane), report.damage.len()), (said.clone(), 0), "read {n}");
            if in_opening <= n {
                assert!(n > 5, "{n} reads");
                break;
            }
        }
    }
}

#[test]
fn opening_judges_a_refused_page_like_one_of_wrong_bytes() {
    let (files, lane) = written();
    let said = stories(&lane);
    drop(lane);
    let (mut fenced, pages) = (0, pages(&files));
    for (path, page) in &pages {
        let (left, zeroed) = (files.copy(), files.copy());
        let mut bytes = files.content(path).unwrap();
        bytes[(page * PAGE) as usize..][..PAGE_BYTES].fill(0);
        zeroed.put(path, bytes);
        refuse(&left, Refuses::Page(path.clone(), *page));
        let (lane, groups, report) = open_in(&left, options(OnDamage::Fence)).unwrap();
        let (_, of_zeros, report_of_zeros) = open_in(&zeroed, options(OnDamage::Fence)).unwrap();
        assert_eq!(groups, of_zeros, "page {page} of {path}");
        assert_eq!(report.damage.len(), report_of_zeros.damage.len());
        assert_eq!(report.torn, report_of_zeros.torn);
        assert!(report.refused_pages > 0 && report_of_zeros.refused_pages == 0);
        // Every group with a loss is fenced; no group has entries that were never written. Except for the end
        // of the log, which no later record claims.
        left.decided_by(None);
        for (group, story) in stories(&lane) {
            let was = &said[&group];
            let told = groups.iter().find(|told| told.group == group);
            let is_fenced = told.is_some_and(|told| told.fence.is_some());
            fenced += u32::from(is_fenced);
            assert!(story.entries.iter().all(|(index, entry)| was.entries.get(index) == Some(entry)));
            assert!(
                is_fenced || story == *was || report.damage.is_empty(),
                "{group:?}: page {page} of {path}"
            );
        }
        // Fencing was requested; with `OnDamage::Refuse` opening fails, with the error of the failed call.
        let left = files.copy();
        refuse(&left, Refuses::Page(path.clone(), *page));
        let strict = open_in(&left, options(OnDamage::Refuse)).map(|_| ());
        assert!(matches!(strict, Err(OpenError::Io { .. } | OpenError::Corrupt { .. })), "{strict:?}");
    }
    assert!(pages.len() > 8 && fenced > 8, "{} pages, {fenced} fences", pages.len());
}

/// Reads everything in the lane. Bytes returned are as written; other places are damaged. Returns how many
/// are.
fn read_all(lane: &MemoryLane, said: &BTreeMap<GroupId, Story>) -> usize {
    let mut damaged = 0;
    for (group, was) in said {
        let slot = lane.groups.slot_of(*group).unwrap();
        for found in lane.read(slot, lane.first(slot), lane.last(slot), u64::MAX).unwrap() {
            match lane.bytes(found.place) {
                Ok(bytes) => {
                    let (header, body) = frame::parse(&bytes).unwrap();
                    for entry in Entries::new(&header, body) {
                        assert_eq!(was.entries[&entry.id.index.0].1, entry.payload);
                    }
                }
                Err(LogError::Damaged { place, .. }) => {
                    assert_eq!(place, found.place);
                    damaged += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
    damaged
}

#[test]
fn a_running_lane_calls_a_refused_place_damaged_and_goes_on() {
    let (files, lane) = written();
    let said = stories(&lane);
    // Sealed segments, and the current one.
    for (path, page) in pages(&files).into_iter().filter(|(_, page)| *page > 0) {
        refuse(&files, Refuses::Page(path.clone(), page));
        assert!(read_all(&lane, &said) > 0, "page {page} of {path}");
        files.decided_by(None);
        assert_eq!(read_all(&lane, &said), 0);
    }
    // The n-th read fails, once: then nothing is damaged; or it and all after it fail.
    let reads = refuse(&files, Refuses::Calls(u64::MAX, 0));
    read_all(&lane, &said);
    let all = reads.load(Ordering::Relaxed);
    for n in 0..all {
        refuse(&files, Refuses::Calls(n, 0));
        assert_eq!(read_all(&lane, &said), 0, "read {n}");
        refuse(&files, Refuses::Calls(n, u64::MAX - n - 1));
        assert_eq!(read_all(&lane, &said) as u64, all - n);
    }
    let mut lane = lane;
    assert!(lane.poll().is_ok() && lane.turn_budget() > 0);
    let slot = lane.attach(GroupId(1));
    let next = lane.last(slot).0 + 1;
    append(&mut lane, slot, id(next, 1), 1, 100);
    settle(&mut lane);
}

#[test]
fn a_refused_page_is_found_by_looking_and_what_it_hits_is_lost_or_mended() {
    let (files, lane) = written();
    let said = stories(&lane);
    drop(lane);
    let current = pages(&files).last().unwrap().0.clone();
    for (path, page) in pages(&files).into_iter().filter(|(path, _)| *path != current) {
        let left = files.copy();
        let (mut lane, ..) = open_in(&left, options(OnDamage::Fence)).unwrap();
        refuse(&left, Refuses::Page(path.clone(), page));
        let mut found = Vec::new();
        while lane.scrub(1, 64 << 10) {
            let done = lane.poll_background().unwrap();
            let Ok(BackgroundOutput::Scrubbed(Some(seen))) = done.result else { panic!("not looked at") };
            found.extend(lane.on_scrubbed(&seen));
        }
        let is_there = |place: &crate::Place| segment_path(0, place.segment) == path;
        assert!(!found.is_empty() && found.iter().all(is_there), "page {page} of {path}: {found:?}");
        // The engine's next steps for each place.
        for place in found {
            for only_unreadable in [true, false] {
                let hits = if only_unreadable {
                    lane.unreadable_entries(place)
                } else {
                    lane.damaged_entries(place)
                };
                for hit in hits {
                    if !lane.rewrite(hit.slot) && only_unreadable {
                        let told = lane.lose(hit.slot, hit.first).unwrap();
                        assert!(told.fence.is_some());
                    }
                }
            }
        }
        settle(&mut lane);
        for (group, was) in &said {
            let slot = lane.groups.slot_of(*group).unwrap();
            assert_eq!(lane.latest_hard_state(slot), was.hard_state, "no vote was lost");
        }
        lane.poll().unwrap();
    }
}
