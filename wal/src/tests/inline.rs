//! Short batches written by the submitting thread, beside long ones written by the append thread: over real
//! files.

use bytes::Bytes;

use super::*;
use crate::disk::execute::zero_page;
use crate::disk::{Access, AppendJob, Completion, Files, Job, SegmentFile};
use crate::error::LogError;

const BOUND: usize = 16 << 10;

fn disk_in(path: &std::path::Path, mode: AppendMode) -> OsDisk {
    let directory = Directory::open(OsFiles::new(path, mode).unwrap(), 1, 7).unwrap();
    let options = OsDiskOptions { inline_bytes_max: BOUND, ..OsDiskOptions::default() };
    OsDisk::open(&directory, &options, Waker::noop().clone()).unwrap()
}

#[test]
fn short_batches_are_durable_when_submit_returns_unless_a_long_one_is_under_way() {
    for mode in AppendMode::ALL {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let options = LaneOptions {
            segment_bytes: 256 << 10,
            batch_bytes_max: 64 << 10,
            frame_bytes_max: 64 << 10,
            log_bytes_max: u64::MAX, // or a short turn might relocate much
            ..small()
        };
        let (mut lane, ..) = Lane::open(disk_in(folder.path(), mode), options).unwrap();
        let slot = lane.attach(GroupId(1));
        lane.hard_state(slot, HardState::default()).unwrap();
        settle(&mut lane);
        let mut index = 0;
        for turn in 0..200u64 {
            let is_long = turn * 7 % 10 < 3;
            while lane.turn_budget() == 0 || lane.segments.current().append.is_none() {
                lane.poll().unwrap();
            }
            index += 1;
            append(&mut lane, slot, id(index, 1), 1, if is_long { 20_000 } else { 600 });
            let was_idle = lane.queue.is_idle();
            let last = lane.submit().unwrap().unwrap();
            // At the first poll: the inline write's completion is queued already.
            let progress = lane.poll().unwrap();
            if was_idle && !is_long && lane.segments.current().append.is_some() {
                assert_eq!(progress.durable, last, "turn {turn}");
            }
            if index % 5 == 0 {
                lane.compact(slot, id(index - 1, 1));
            }
            if turn % 4 == 0 {
                settle(&mut lane);
            }
        }
        settle(&mut lane);
        let told = stories(&lane);
        drop(lane);
        assert_eq!(stories(&open_os(folder.path(), mode, small()).0), told);
    }
}

/// After a failure, no further write by either thread is made or acknowledged.
#[test]
fn a_failed_write_ends_it_for_both() {
    for (first_pages, second_pages) in [(1, 8), (8, 1), (1, 1), (8, 8)] {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let mut disk = disk_in(folder.path(), AppendMode::Buffered);
        let files = disk.directory().files().clone();
        drop(files.create("it", 64 << 10).unwrap());
        let job = |access, lsn, pages: usize| {
            let open = |access| files.open("it", access).unwrap();
            let file = SegmentFile { append: open(access), read: open(Access::Plain), cached: open(access) };
            let mut bytes = zero_page().to_vec().repeat(pages);
            bytes.fill(1);
            let batch = Bytes::from(bytes);
            Job::Append(AppendJob { file, segment: 1, offset: 0, batch, lsn: Lsn(lsn), is_relaxed: false })
        };
        disk.submit(job(Access::Scan, 1, first_pages)); // not for writing
        let failed = std::iter::from_fn(|| {
            std::thread::yield_now();
            Some(disk.poll())
        });
        assert!(matches!(failed.flatten().next(), Some(Completion::AppendFailed { .. })));
        disk.submit(job(Access::Append, 2, second_pages));
        assert!(disk.poll().is_none());
        drop(disk); // lets the thread end
        assert_eq!(std::fs::read(folder.path().join("it")).unwrap(), vec![0; 64 << 10]);
    }
}

#[test]
fn a_probe_and_what_is_relaxed_are_told_of_in_order_too() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let options = LaneOptions { segment_bytes: 1 << 20, frame_bytes_max: 64 << 10, ..small() };
    let (mut lane, ..) = Lane::open(disk_in(folder.path(), AppendMode::Direct), options).unwrap();
    let slot = lane.attach(GroupId(1));
    let relaxed = |lane: &mut Lane<OsDisk>, index, bytes: usize| -> Result<Lsn, LogError> {
        let mut frame = lane.begin_frame(slot, id(index, 1), bytes + 100)?;
        frame.relax();
        assert!(frame.push(EntryKind::Payload, &payload(index, 1, bytes)) && frame.finish().is_some());
        Ok(lane.submit_relaxed()?.unwrap())
    };
    // Long batches by the thread, then short ones queued behind them or inline: a sync by either covers the
    // other's writes.
    for (at, bytes) in [600, 20_000, 600, 600, 20_000, 20_000, 600].into_iter().enumerate() {
        let lsn = relaxed(&mut lane, at as u64 + 1, bytes).unwrap();
        while lane.poll().unwrap().written < lsn {}
        assert!(lane.poll().unwrap().durable < lsn || !lane.has_unsynced());
    }
    let synced = lane.sync().unwrap().unwrap();
    while lane.poll().unwrap().durable < synced {}
    assert!(!lane.has_unsynced() && lane.probe().unwrap());
    while lane.is_probing() {
        lane.poll().unwrap();
    }
    append(&mut lane, slot, id(8, 1), 1, 20_000);
    settle(&mut lane);
    let told = stories(&lane);
    drop(lane);
    assert_eq!(stories(&open_os(folder.path(), AppendMode::Direct, small()).0), told);
}
