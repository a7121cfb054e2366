//! Snapshots from a leader: complete and not installed, older than the present one.

use super::*;
use crate::api::consistency::Wanted;

#[test]
fn a_snapshot_that_arrived_whole_and_was_never_installed_is_sent_again() {
    let mut node = Node::open(&MemoryFiles::new(), 4096);
    let term = node.lead_with_one(8, 1024);
    assert!(node.status().unwrap().compacted.index.0 > 0);

    let beat = |node: &mut Node| {
        node.hear(2, Message::HeartbeatAck { term, round: 0, fortifies: false, quiesce: false });
        node.hear(3, Message::HeartbeatAck { term, round: 0, fortifies: false, quiesce: false });
        node.turn(TIMEOUT / 5);
        node.settle();
    };
    // An empty chunk behind the last one is a request of the offset.
    let is_piece = |head: &Head| head.offset < head.total;
    let pieces = |node: &Node| -> Vec<Head> { node.wire.1.lock().unwrap().drain(..).collect() };
    let sent = |node: &mut Node, beats: u32| {
        (0..beats).find_map(|_| {
            beat(node);
            pieces(node).into_iter().find(is_piece)
        })
    };
    let piece = sent(&mut node, 20).expect("the third needs a snapshot");
    assert_eq!((piece.kind, piece.offset), (CHUNK, 0));

    // The receiver takes the whole file, and then fails to verify or install it.
    let mut ack = BytesMut::new();
    Head { kind: ACK, offset: piece.total, ..piece }.encode(&mut ack);
    node.hear_unit(3, UnitKind::Snapshot, 0, &ack);
    let patience = (INSTALL_MAX.as_millis() / (TIMEOUT / 5).as_millis()) as u32;
    assert_eq!(sent(&mut node, patience / 2), None, "it is given time");
    let again = sent(&mut node, patience).expect("and then another try");
    assert_eq!((again.kind, again.offset), (CHUNK, 0));

    // It takes all of it again, fails again, and this time reports that when asked (simulator, seed 451).
    node.hear_unit(3, UnitKind::Snapshot, 0, &ack);
    assert_eq!(sent(&mut node, 20), None, "nothing was said yet");
    let mut nothing = BytesMut::new();
    Head { kind: ACK, is_start: true, offset: 0, ..piece }.encode(&mut nothing);
    node.hear_unit(3, UnitKind::Snapshot, 0, &nothing);
    let again = sent(&mut node, 2).expect("whoever holds nothing is sent it at once");
    assert_eq!((again.kind, again.offset), (CHUNK, 0));
}

/// Checkpoints of a group of one, the earlier first: the files, and their entries' ids.
pub(super) fn checkpoints() -> Vec<(Bytes, EntryId)> {
    let files = MemoryFiles::new();
    let mut node = Node::alone(&files, 4096);
    let mut taken = Vec::new();
    for _ in 0..40 {
        node.write(&[1; 1024]).unwrap();
        let id = node.worker.groups.find(GROUP).and_then(|replica| Some(replica.checkpointing.latest()?.id));
        let Some(id) = id.filter(|id| taken.last().is_none_or(|(_, last)| last != id)) else { continue };
        let path = files.paths().into_iter().find(|path| path.ends_with(".snap")).unwrap();
        taken.push((files.content(&path).unwrap().into(), id));
    }
    taken
}

/// A whole checkpoint in one chunk.
fn piece(file: &Bytes, id: EntryId, term: u64) -> BytesMut {
    let mut unit = BytesMut::new();
    let total = file.len() as u64;
    let head = Head {
        kind: CHUNK,
        is_named: false,
        names_itself: false,
        to_witness: false,
        is_start: false,
        crc: 7,
        progress_epoch: 0,
        group: GROUP,
        term: Term(term),
        id,
        offset: 0,
        total,
    };
    head.encode(&mut unit);
    unit.extend_from_slice(file);
    unit
}

#[test]
fn an_older_snapshot_after_one_that_was_not_installed_brings_the_state_that_its_log_begins_with() {
    let taken = checkpoints();
    let [(older, older_id), .., (newer, newer_id)] = &taken[..] else { panic!("two at least") };
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    node.create(&[1, 2, 3]);
    // The newer one is complete on the disk when its sender is deposed.
    node.hear_unit(2, UnitKind::Snapshot, 0, &piece(newer, *newer_id, 5));
    for _written_then_verified in 0..2 {
        node.turn(Duration::ZERO);
        assert!(node.disk.inner.lock().unwrap().run_background());
    }
    node.turn(Duration::ZERO);
    node.hear(3, Message::Heartbeat { term: Term(6), commit: Index(0), round: 0, quiesce: false });
    node.settle();
    assert_eq!(node.status().unwrap().applied, Index(0));

    // The next leader's is older (simulator, seed 508 of churn).
    node.hear_unit(3, UnitKind::Snapshot, 0, &piece(older, *older_id, 6));
    node.settle();
    let status = node.status().unwrap();
    let state = node.worker.groups.find(GROUP).unwrap().machine.as_ref().unwrap().query(&[]);
    assert_eq!((status.applied, status.compacted), (newer_id.index, *newer_id), "it is here already");
    let counted = u64::from_le_bytes(state[..].try_into().unwrap());
    assert_eq!(counted, newer_id.index.0 - 1, "all but the entry that opened the term");
}

/// The simulator's hostile seed 221462797823.
#[test]
fn a_read_whose_patience_ends_as_a_snapshot_comes_in_is_answered_from_it() {
    let (file, id) = checkpoints().remove(0);
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    node.create(&[1, 2, 3]);
    let patience = Duration::from_millis(30);
    let mut answer = node.read(Wanted::AtLeast(id.index), Some(patience));
    node.hear_unit(2, UnitKind::Snapshot, 0, &piece(&file, id, 5));
    for _written_then_verified_then_named in 0..3 {
        node.turn(Duration::ZERO);
        assert!(node.disk.inner.lock().unwrap().run_background());
    }
    assert!(answer.try_recv().is_err(), "it waits");
    node.turn(patience);
    assert_eq!(answer.try_recv().unwrap().map(|answer| answer.index), Ok(id.index));
}

/// The snapshot ends with the entry that opened a term: the log has that entry, and what follows it.
#[test]
fn a_file_of_an_entry_that_the_log_has_takes_nothing_from_it() {
    let files = MemoryFiles::new();
    let mut leader = Node::alone(&files, u64::MAX);
    for _ in 0..3 {
        leader.write(b"x").unwrap();
    }
    let before = leader.status().unwrap().last;
    drop(leader);
    let mut leader = Node::open(&files, u64::MAX);
    leader.turn(2 * TIMEOUT);
    leader.settle();
    let id = leader.status().unwrap().last;
    assert!(id.index == before.index.next() && id.term > before.term, "{id:?}");
    let slot = leader.worker.groups.slot_of(GROUP).unwrap();
    leader.worker.checkpoint(slot);
    leader.settle();
    let path = leader.files.paths().into_iter().find(|path| path.ends_with(".snap")).unwrap();
    let file = Bytes::from(leader.files.content(&path).unwrap());

    let files = MemoryFiles::new();
    let mut node = Node::open(&files, u64::MAX);
    node.create(&[1, 2, 3]);
    node.hear_append(before.term.0, EntryId::default(), before.index.0, 8, 0);
    node.settle();
    node.hear_append(id.term.0, before, 3, 8, 0);
    node.settle();
    let last = node.status().unwrap().last;
    assert_eq!(last, EntryId::new(id.term, Index(id.index.0 + 2)));
    node.hear_unit(2, UnitKind::Snapshot, 0, &piece(&file, id, id.term.0));
    for _written_then_verified in 0..2 {
        node.turn(Duration::ZERO);
        assert!(node.disk.inner.lock().unwrap().run_background());
    }
    let files = files.copy();
    let mut node = Node::open(&files, u64::MAX);
    assert!(files.paths().iter().any(|path| path.ends_with(".snap")));
    assert_eq!(node.status().unwrap().last, last);
}
