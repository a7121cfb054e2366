//! Snapshot files: saved, sent, received, loaded; and never accepted as good when damaged.

use std::io::Write;

use bytes::Bytes;
use raftwerk_frame::LogId;

use super::*;
use crate::{BackgroundOutput, SnapshotError, SnapshotMeta, background::snapshots};

type Outcome = Result<BackgroundOutput, SnapshotError>;

fn done<D: Disk>(lane: &mut Lane<D>, token: u64) -> Outcome {
    loop {
        if let Some(done) = lane.poll_background() {
            assert_eq!((done.token, done.group), (token, GroupId(1)));
            return done.result;
        }
        std::thread::yield_now();
    }
}

fn body(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn save<D: Disk>(lane: &mut Lane<D>, at: EntryId, bytes: usize) -> SnapshotMeta {
    let source =
        move |out: &mut dyn Write| body(bytes).chunks(100_000).try_for_each(|part| out.write_all(part));
    lane.save_snapshot(1, GroupId(1), at, voters(3), Box::new(source));
    let Ok(BackgroundOutput::Saved(meta)) = done(lane, 1) else { panic!("not saved") };
    meta
}

fn load<D: Disk>(lane: &mut Lane<D>) -> Result<(SnapshotMeta, Vec<u8>), SnapshotError> {
    lane.load_snapshot(
        2,
        GroupId(1),
        Box::new(|body, _| {
            let mut bytes = Vec::new();
            body.read_to_end(&mut bytes)?;
            Ok(Box::new(bytes))
        }),
    );
    match done(lane, 2)? {
        BackgroundOutput::Loaded { meta, value } => Ok((meta, *value.downcast().unwrap())),
        other => panic!("{other:?}"),
    }
}

/// A replica drops its state for a damaged file: one transient error of the device must not look like damage.
#[test]
fn a_read_that_is_refused_or_wrong_once_does_not_make_a_file_a_damaged_one() {
    use super::read_faults::{Refuses, refuse};
    use crate::disk::simulated::{Call, Fate, Outcome};

    /// The next read has a bit flipped.
    struct Flips(bool);

    impl Fate for Flips {
        fn decide(&mut self, call: Call<'_>) -> Outcome {
            let is_it = matches!(call, Call::Read { .. }) && std::mem::replace(&mut self.0, false);
            if is_it { Outcome::Flipped(333) } else { Outcome::Done }
        }
    }

    let files = MemoryFiles::new();
    let (mut lane, ..) = open_in(&files, small()).unwrap();
    save(&mut lane, EntryId::new(Term(1), Index(1)), 3000);
    for n in 0.. {
        let reads = refuse(&files, Refuses::Calls(n, 0));
        match load(&mut lane) {
            Ok((_, bytes)) => assert_eq!(bytes, body(3000), "read {n}"),
            // The file has been verified by then; the reader gets the error.
            Err(error) => assert!(matches!(error, SnapshotError::Io(_)), "read {n}: {error}"),
        }
        if reads.load(std::sync::atomic::Ordering::Relaxed) <= n {
            break;
        }
    }
    files.decided_by(Some(Box::new(Flips(true))));
    assert_eq!(load(&mut lane).unwrap().1, body(3000));
}

/// Sends the newest snapshot of one lane to the other, in chunks; `spoil` may change them in transit.
fn send<D: Disk, E: Disk>(
    from: &mut Lane<D>,
    to: &mut Lane<E>,
    meta: &SnapshotMeta,
    spoil: &mut dyn FnMut(u64, &mut Vec<u8>),
) -> Outcome {
    let mut offset = 0;
    while offset < meta.bytes {
        from.read_snapshot_chunk(3, meta.group, meta.id, offset, 64 << 10);
        let Ok(BackgroundOutput::Chunk(chunk)) = done(from, 3) else { panic!("no chunk") };
        let mut chunk = chunk.to_vec();
        spoil(offset, &mut chunk);
        to.write_snapshot_chunk(4, meta.group, meta.id, offset, Bytes::from(chunk));
        let BackgroundOutput::Written { next_offset } = done(to, 4)? else { panic!("not written") };
        offset = next_offset;
    }
    to.finish_snapshot(5, meta.group, meta.id, meta.bytes);
    done(to, 5)
}

fn saved_sent_and_loaded<D: Disk>(mut from: Lane<D>, mut to: Lane<D>) {
    let first = save(&mut from, id(10, 2), 10);
    assert_eq!(from.latest_snapshot(GroupId(1)).unwrap(), Some(first));
    let meta = save(&mut from, id(20, 3), 1_000_003);
    assert_eq!(from.latest_snapshot(GroupId(1)).unwrap(), Some(meta.clone()));
    assert_eq!(load(&mut from).unwrap(), (meta.clone(), body(1_000_003)));
    from.read_snapshot_chunk(9, GroupId(1), id(10, 2), 0, 10);
    assert!(matches!(done(&mut from, 9), Err(SnapshotError::Missing)), "older ones are removed");
    let Ok(BackgroundOutput::Finished(received)) = send(&mut from, &mut to, &meta, &mut |_, _| ()) else {
        panic!("not finished")
    };
    assert_eq!(received, meta);
    assert_eq!(load(&mut to).unwrap(), (meta, body(1_000_003)));
    to.drop_snapshots(6, GroupId(1));
    assert!(matches!(done(&mut to, 6), Ok(BackgroundOutput::Dropped)));
    assert_eq!(to.latest_snapshot(GroupId(1)).unwrap(), None);
    assert!(matches!(load(&mut to), Err(SnapshotError::Missing)));
}

#[test]
fn a_snapshot_is_saved_sent_and_loaded_in_memory() {
    saved_sent_and_loaded(open(&MemoryFiles::new()).0, open(&MemoryFiles::new()).0);
}

#[test]
fn a_snapshot_is_saved_sent_and_loaded_in_files() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [from, to] = dirs.each_ref().map(|dir| open_os(dir.path(), AppendMode::Direct, small()).0);
    saved_sent_and_loaded(from, to);
}

/// The configuration that takes the most bytes: as many members as are accepted, each with its log, and each
/// a witness.
fn largest() -> Configuration {
    let nodes = || (1..=Configuration::REPLICAS_MAX as u64).map(NodeId);
    Configuration {
        auto_leave: true,
        logs: nodes().map(|node| (node, LogId(node.0))).collect(),
        witnesses: nodes().collect(),
        ..Configuration::of_voters(nodes())
    }
}

/// All of a header is read back, however large its configuration: otherwise a good file would look damaged,
/// and the replica would begin anew, fenced.
#[test]
fn a_snapshot_with_the_largest_configuration_is_saved_sent_received_and_found_by_the_next_life() {
    for bytes in [0, 10, 300_000] {
        let at_both = [MemoryFiles::new(), MemoryFiles::new()];
        let [mut from, mut to] = at_both.each_ref().map(|files| open(files).0);
        let slot = from.attach(GroupId(1));
        from.append_membership(slot, id(1, 1), &largest()).unwrap();
        let source = move |out: &mut dyn Write| out.write_all(&body(bytes));
        from.save_snapshot(1, GroupId(1), id(1, 1), largest(), Box::new(source));
        let saved = done(&mut from, 1);
        let Ok(BackgroundOutput::Saved(meta)) = saved else { panic!("not saved: {saved:?}") };
        from.compact(slot, id(1, 1));
        settle(&mut from);
        let sent = send(&mut from, &mut to, &meta, &mut |_, _| ());
        let Ok(BackgroundOutput::Finished(received)) = sent else { panic!("not finished: {sent:?}") };
        assert_eq!((&received, &meta.configuration), (&meta, &largest()));
        let slot = to.attach(GroupId(1));
        to.snapshot(slot, meta.id, &meta.configuration, Tail::Drop);
        settle(&mut to);
        drop((from, to));
        for files in &at_both {
            let (mut lane, groups, _) = open(files);
            assert_eq!((groups[0].compacted, &groups[0].configuration), (meta.id, &largest()));
            lane.drop_stray_snapshots().unwrap();
            assert_eq!(lane.latest_snapshot(GroupId(1)).unwrap(), Some(meta.clone()));
            assert_eq!(load(&mut lane).unwrap(), (meta.clone(), body(bytes)));
            let is_pass_over = || {
                lane.scrub_snapshots(7, 1 << 10);
                let done = std::iter::repeat_with(|| lane.poll_background()).flatten().next().unwrap();
                let Ok(BackgroundOutput::Checked(seen)) = done.result else { panic!("{done:?}") };
                assert!(seen.damaged.is_none(), "{seen:?}");
                lane.on_snapshots_scrubbed(&seen);
                seen.is_pass_over
            };
            assert!(std::iter::repeat_with(is_pass_over).take(10).any(|is_over| is_over));
        }
    }
}

/// What a leader appends must fit into its followers' frames, too.
#[test]
fn the_shortest_frames_that_the_options_allow_hold_the_largest_configuration() {
    let mut payload = Vec::new();
    largest().encode(&mut payload);
    let frame = frame_of(1, id(1, 1), &[(EntryKind::Membership, payload)]);
    let (header, _) = frame::parse(&frame).unwrap();
    let files = MemoryFiles::new();
    let shorter = LaneOptions { frame_bytes_max: frame.len() - 1, ..small() };
    assert!(matches!(open_in(&files, shorter), Err(OpenError::Options(_))));
    let (segment_bytes, frame_bytes_max) = (16 << 10, frame.len());
    let (mut lane, ..) = open_in(&files, LaneOptions { segment_bytes, frame_bytes_max, ..small() }).unwrap();
    let slot = lane.attach(GroupId(1));
    lane.append_frame(slot, &frame, &header).unwrap();
    settle(&mut lane);
    assert_eq!(lane.configuration_at(slot, Index(1)), &largest());
}

#[test]
fn a_spoiled_transfer_is_refused_and_the_old_snapshot_stays() {
    let (mut from, mut to) = (open(&MemoryFiles::new()).0, open(&MemoryFiles::new()).0);
    let old = save(&mut to, id(5, 1), 77);
    let meta = save(&mut from, id(20, 3), 200_000);
    for spoiled in [0, 9, 60, 100, 199_000] {
        let outcome = send(&mut from, &mut to, &meta, &mut |offset, chunk| {
            if let Some(byte) = (spoiled as u64).checked_sub(offset).and_then(|at| chunk.get_mut(at as usize))
            {
                *byte ^= 1;
            }
        });
        assert!(matches!(outcome, Err(SnapshotError::Corrupt { .. })), "byte {spoiled}: {outcome:?}");
        assert_eq!(load(&mut to).unwrap(), (old.clone(), body(77)));
    }
    from.read_snapshot_chunk(7, GroupId(1), meta.id, 0, 1 << 20);
    let Ok(BackgroundOutput::Chunk(whole)) = done(&mut from, 7) else { panic!("no chunk") };
    to.write_snapshot_chunk(7, GroupId(1), meta.id, 0, whole);
    done(&mut to, 7).unwrap();
    to.finish_snapshot(7, GroupId(1), meta.id, meta.bytes + 1);
    assert!(matches!(done(&mut to, 7), Err(SnapshotError::Unexpected)));
}

#[test]
fn a_broken_transfer_goes_on_where_it_stopped_or_anew() {
    let mut lane = open(&MemoryFiles::new()).0;
    let mut write = |offset, chunk: &'static [u8]| {
        lane.write_snapshot_chunk(1, GroupId(1), id(9, 1), offset, Bytes::from_static(chunk));
        done(&mut lane, 1)
    };
    assert!(matches!(write(3, b"x"), Err(SnapshotError::Offset { expected: 0 })));
    assert!(matches!(write(0, b"abc"), Ok(BackgroundOutput::Written { next_offset: 3 })));
    assert!(matches!(write(5, b"x"), Err(SnapshotError::Offset { expected: 3 })));
    assert!(matches!(write(3, b"def"), Ok(BackgroundOutput::Written { next_offset: 6 })));
    assert!(matches!(write(0, b"zz"), Ok(BackgroundOutput::Written { next_offset: 2 })));
}

#[test]
fn a_snapshot_damaged_on_the_disk_is_not_loaded() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let meta = save(&mut lane, id(5, 1), 50);
    let path = files.paths().into_iter().find(|path| path.ends_with(".snap")).unwrap();
    let good = files.content(&path).unwrap();
    assert_eq!(good.len() as u64, meta.bytes);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 4;
        files.put(&path, bad);
        assert!(matches!(load(&mut lane), Err(SnapshotError::Corrupt { .. })), "byte {at}");
        files.put(&path, good[..at].to_vec());
        assert!(matches!(load(&mut lane), Err(SnapshotError::Corrupt { .. })), "cut at {at}");
    }
}

#[test]
fn a_source_that_fails_or_panics_leaves_the_old_snapshot() {
    let (mut lane, ..) = open(&MemoryFiles::new());
    let old = save(&mut lane, id(5, 1), 50);
    lane.save_snapshot(
        1,
        GroupId(1),
        id(6, 1),
        voters(3),
        Box::new(|out| {
            out.write_all(b"half")?;
            Err(std::io::ErrorKind::Other.into())
        }),
    );
    assert!(matches!(done(&mut lane, 1), Err(SnapshotError::Io(_))));
    lane.save_snapshot(1, GroupId(1), id(6, 1), voters(3), Box::new(|_| panic!("as planned")));
    assert!(matches!(done(&mut lane, 1), Err(SnapshotError::Panicked)));
    assert_eq!(load(&mut lane).unwrap().0, old);
}

#[test]
fn a_power_cut_at_any_call_of_a_save_leaves_the_old_snapshot_or_the_new() {
    for n in 1..12 {
        let files = MemoryFiles::new();
        let (mut lane, ..) = open(&files);
        while lane.disk_mut().run_background() {}
        let old = save(&mut lane, id(5, 1), 50);
        files.fail_change(n, u64::MAX, std::io::ErrorKind::Other);
        lane.save_snapshot(1, GroupId(1), id(9, 1), voters(3), Box::new(|out| out.write_all(&body(9000))));
        let saved = done(&mut lane, 1).is_ok();
        let files = files.after_power_cut(|_, _| crate::disk::simulated::SectorFate::Old);
        drop(lane);
        let (mut lane, ..) = open(&files);
        let (meta, bytes) = load(&mut lane).unwrap();
        if meta != old {
            assert_eq!((meta.id, bytes), (id(9, 1), body(9000)));
        }
        assert!(!saved || meta != old, "call {n}");
    }
}

/// A run may rely on the files it finds: if the name of a snapshot that it loads, and compacts by, were lost
/// in a power cut, the log's beginning would be gone. Found by the simulator, seed 920168893012.
#[test]
fn a_snapshot_that_a_new_life_finds_is_durable_before_it_is_relied_on() {
    for n in 1..12 {
        let files = MemoryFiles::new();
        let (mut lane, ..) = open(&files);
        while lane.disk_mut().run_background() {}
        let slot = lane.attach(GroupId(1));
        append(&mut lane, slot, crate::tests::id(1, 1), 9, 20);
        settle(&mut lane);
        save(&mut lane, id(5, 1), 50);
        // The process ends in the middle of the next save; the machine does not.
        files.fail_change(n, u64::MAX, std::io::ErrorKind::Other);
        lane.save_snapshot(1, GroupId(1), id(9, 1), voters(3), Box::new(|out| out.write_all(&body(9000))));
        let _died = done(&mut lane, 1);
        drop(lane);
        files.heal();
        let (mut lane, ..) = open(&files);
        lane.drop_stray_snapshots().unwrap();
        let (found, _) = load(&mut lane).unwrap();
        let slot = lane.attach(GroupId(1));
        lane.compact(slot, found.id);
        settle(&mut lane);
        let files = files.after_power_cut(|_, _| crate::disk::simulated::SectorFate::Old);
        drop(lane);
        let (mut lane, ..) = open(&files);
        let (left, _) = load(&mut lane).expect("the log begins where it ends");
        assert_eq!(left.id, found.id, "call {n}");
    }
}

#[test]
fn a_group_has_one_unfinished_snapshot_at_a_time_and_none_when_it_is_dropped() {
    let files = MemoryFiles::new();
    let (mut lane, ..) = open(&files);
    let kept = save(&mut lane, id(5, 1), 50);
    let parts = || files.paths().iter().filter(|path| path.ends_with(".part")).count();
    for index in [9, 12] {
        lane.write_snapshot_chunk(1, GroupId(1), id(index, 1), 0, Bytes::from_static(b"abc"));
        done(&mut lane, 1).unwrap();
        assert_eq!(parts(), 1, "the file of the transfer before is gone");
    }
    // Of another group, with a number that begins alike.
    lane.write_snapshot_chunk(2, GroupId(16), id(9, 1), 0, Bytes::from_static(b"abc"));
    while lane.poll_background().is_none() {}
    lane.drop_incoming_snapshot(3, GroupId(1));
    assert!(matches!(done(&mut lane, 3), Ok(BackgroundOutput::Dropped)));
    assert_eq!(parts(), 1);
    assert_eq!(load(&mut lane).unwrap().0, kept);
}

/// A save of a large state takes long; meanwhile other groups' jobs run, and its own group's wait.
#[test]
fn a_save_is_overtaken_by_other_groups_jobs_and_never_by_its_own_or_by_another_save() {
    use std::sync::mpsc::channel;

    let folder = tempfile::tempdir().unwrap();
    let (mut lane, _, _) = open_os(folder.path(), AppendMode::Buffered, small());
    let ((begun, has_begun), (go, may_go)) = (channel(), channel());
    let step = vec![7; snapshots::STEP_BYTES];
    lane.save_snapshot(
        1,
        GroupId(1),
        id(1, 1),
        voters(3),
        Box::new(move |out| {
            out.write_all(&step)?;
            begun.send(()).unwrap();
            may_go.recv().unwrap();
            (0..3).try_for_each(|_| out.write_all(&step))
        }),
    );
    has_begun.recv().unwrap();
    let source = |out: &mut dyn Write| out.write_all(b"short");
    lane.drop_snapshots(2, GroupId(1)); // of the group that is being saved: after it
    lane.save_snapshot(3, GroupId(2), id(1, 1), voters(3), Box::new(source)); // a save: after it
    lane.drop_incoming_snapshot(4, GroupId(2)); // behind a job of its own group
    lane.drop_incoming_snapshot(5, GroupId(3)); // no earlier job of its own group
    go.send(()).unwrap();
    let mut order = Vec::new();
    while order.len() < 5 {
        match lane.poll_background() {
            Some(done) => {
                assert!(done.result.is_ok(), "{done:?}");
                order.push(done.token);
            }
            None => std::thread::yield_now(),
        }
    }
    assert_eq!(order, [5, 1, 2, 3, 4]);
    assert!(
        matches!(load(&mut lane), Err(SnapshotError::Missing)),
        "what was dropped after its save came back"
    );
}

/// A source that ignores what its writes return: the failed sync in the middle is the last that reports the
/// lost pages, so what it had written since must not become the group's snapshot.
#[test]
fn a_source_that_ignores_a_failed_step_saves_nothing() {
    use crate::disk::simulated::{Call, Fate, Outcome};

    /// The first sync or write of a snapshot's body after the first step fails.
    struct FailsOnce {
        at_sync: bool,
        is_over: bool,
        writes: u32,
    }

    impl Fate for FailsOnce {
        fn decide(&mut self, call: Call<'_>) -> Outcome {
            let is_it = match call {
                Call::Sync(path) => self.at_sync && path.contains("/snapshots/"),
                Call::Write { path, .. } if path.contains("/snapshots/") => {
                    self.writes += 1;
                    !self.at_sync && self.writes == 2
                }
                _ => false,
            };
            if is_it && !std::mem::replace(&mut self.is_over, true) {
                return Outcome::FailStale(std::io::ErrorKind::Other);
            }
            Outcome::Done
        }
    }

    for at_sync in [true, false] {
        let files = MemoryFiles::new();
        let (mut lane, _, _) = open(&files);
        files.decided_by(Some(Box::new(FailsOnce { at_sync, is_over: false, writes: 0 })));
        let source = move |out: &mut dyn Write| {
            for part in body(3 * snapshots::STEP_BYTES).chunks(snapshots::STEP_BYTES) {
                let _ignored = out.write_all(part);
            }
            let _ignored = out.flush();
            Ok(())
        };
        lane.save_snapshot(1, GroupId(1), id(1, 1), voters(3), Box::new(source));
        assert!(matches!(done(&mut lane, 1), Err(SnapshotError::Io(_))), "at a sync: {at_sync}");
        assert!(!files.paths().iter().any(|path| path.contains("/snapshots/")), "{:?}", files.paths());
    }
}

/// A large file reaches the device in steps. A failed sync in the middle of it ends the job: the page cache
/// marks the lost pages clean.
#[test]
fn a_sync_that_fails_in_the_midst_of_a_file_ends_the_save_and_the_transfer() {
    use crate::disk::simulated::{Call, Fate, Outcome};

    /// The sync with this number fails.
    struct Fails(u32);

    impl Fate for Fails {
        fn decide(&mut self, call: Call<'_>) -> Outcome {
            if matches!(call, Call::Sync(path) if path.contains("/snapshots/")) {
                self.0 = self.0.wrapping_sub(1);
                if self.0 == 0 {
                    return Outcome::FailStale(std::io::ErrorKind::Other);
                }
            }
            Outcome::Done
        }
    }

    let files = MemoryFiles::new();
    let (mut lane, _, _) = open(&files);
    let bytes = 2 * snapshots::STEP_BYTES;
    files.decided_by(Some(Box::new(Fails(1))));
    let source = move |out: &mut dyn Write| out.write_all(&body(bytes));
    lane.save_snapshot(1, GroupId(1), id(1, 1), voters(3), Box::new(source));
    assert!(matches!(done(&mut lane, 1), Err(SnapshotError::Io(_))));
    assert!(!files.paths().iter().any(|path| path.contains("/snapshots/")), "{:?}", files.paths());
    files.decided_by(None);

    let chunk = Bytes::from(vec![1; 1 << 20]);
    files.decided_by(Some(Box::new(Fails(1))));
    lane.write_snapshot_chunk(2, GroupId(1), id(1, 1), 0, chunk.clone());
    assert!(matches!(done(&mut lane, 2), Err(SnapshotError::Io(_))));
    files.decided_by(None);
    lane.write_snapshot_chunk(3, GroupId(1), id(1, 1), 1 << 20, chunk);
    assert!(matches!(done(&mut lane, 3), Err(SnapshotError::Offset { expected: 0 })));
}
