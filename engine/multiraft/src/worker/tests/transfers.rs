//! Snapshot transfers of many chunks: under load, interrupted, without room, and with peers that send
//! malformed units.

use super::*;
use crate::worker::storage::chunk::{REFUSAL, WINDOW_CHUNKS};
use crate::worker::storage::sending::{PATIENCE, RETRY};

const BEAT: Duration = Duration::from_millis(100);

/// A follower on node 3, with as much of the protocol as a transfer needs.
#[derive(Default)]
pub(super) struct Follower {
    /// The file being received.
    id: EntryId,
    total: u64,
    received: u64,
    /// Chunks that were taken, and those that were not.
    taken: usize,
    wasted: usize,
    /// How many files were begun.
    begun: usize,
    /// The last entry that is installed.
    pub(super) matched: Index,
}

impl Follower {
    /// Takes what was sent since the last call, at most so many chunks; returns the replies.
    pub(super) fn take(&mut self, node: &Node, chunks_max: usize) -> Vec<Head> {
        let sent: Vec<_> = node.wire.3.lock().unwrap().drain(..).collect();
        let (mut answers, mut chunks) = (Vec::new(), 0);
        for (head, bytes) in sent {
            assert_eq!(head.kind, CHUNK);
            if (self.id, self.total) != (head.id, head.total) {
                (self.id, self.total, self.received) = (head.id, head.total, 0);
                self.begun += 1;
            }
            let is_chunk = bytes > 0;
            chunks += usize::from(is_chunk);
            if is_chunk && chunks > chunks_max {
                continue; // lost
            }
            let is_next = is_chunk && head.offset == self.received;
            if is_next {
                self.received += bytes as u64;
                self.taken += 1;
            } else if is_chunk {
                self.wasted += 1;
            }
            let is_old = is_chunk && head.offset < self.received;
            let is_start = !is_next && !is_old && self.received < self.total;
            answers.push(Head { kind: ACK, is_start, offset: self.received, ..head });
        }
        answers
    }

    pub(super) fn is_whole(&self) -> bool {
        self.received == self.total && self.total > 0
    }
}

pub(super) fn say(node: &Node, head: &Head) {
    let mut unit = BytesMut::new();
    head.encode(&mut unit);
    node.hear_unit(3, UnitKind::Snapshot, 0, &unit);
}

/// Heartbeat replies of both followers, so that both are alive.
pub(super) fn beat(node: &mut Node, term: Term) {
    for from in [2, 3] {
        node.hear(from, Message::HeartbeatAck { term, round: 0, fortifies: false, quiesce: false });
    }
    node.turn(BEAT);
    node.settle();
}

/// A write that node 2 acknowledges.
pub(super) fn write(node: &mut Node, term: Term, bytes: usize) {
    let _answer = node.propose(&vec![1; bytes]);
    node.settle();
    let matched = node.status().unwrap().last.index;
    node.hear(2, Message::AppendAck { term, matched, progress_epoch: 0 });
    node.settle();
}

/// A leader with a log of at most 4 KiB and chunks of one byte; its third replica lacks everything.
pub(super) fn leader(change: impl FnOnce(&mut Settings, &mut LaneOptions)) -> (Node, Term) {
    let mut node = Node::open_with(&MemoryFiles::new(), 4096, |settings, options| {
        settings.limits.chunk_bytes = 1;
        change(settings, options);
    });
    let term = node.lead_with_one(8, 1024);
    assert!(node.status().unwrap().compacted.index.0 > 0);
    (node, term)
}

/// Passes heartbeat intervals until the offset is requested of the follower, which takes no earlier chunk.
pub(super) fn asked(node: &mut Node, term: Term) -> Follower {
    let mut follower = Follower::default();
    for _ in 0..20 {
        beat(node, term);
        let answers = follower.take(node, 0);
        if follower.begun > 0 {
            answers.iter().for_each(|answer| say(node, answer));
            return follower;
        }
    }
    panic!("the third replica is sent nothing");
}

pub(super) fn install(node: &mut Node, follower: &mut Follower, term: Term) {
    follower.matched = follower.id.index;
    node.hear(3, Message::AppendAck { term, matched: follower.id.index, progress_epoch: 0 });
    node.settle();
}

#[test]
fn a_transfer_under_load_ends_and_the_log_behind_it_is_there() {
    let (mut node, term) = leader(|_, _| ());
    let mut follower = asked(&mut node, term);
    // Takes whole windows, while the log grows by a checkpoint's worth.
    let mut rounds = 0;
    while !follower.is_whole() {
        rounds += 1;
        assert!(rounds < 100, "{} of {} bytes, {} begun", follower.received, follower.total, follower.begun);
        write(&mut node, term, 4096);
        beat(&mut node, term);
        follower.take(&node, WINDOW_CHUNKS as usize).iter().for_each(|answer| say(&node, answer));
    }
    assert_eq!(follower.begun, 1, "of one checkpoint");
    assert!(rounds > 8, "far more was written than the log may hold: {rounds} rounds");

    // The follower installs the file, and the log still holds what follows it, though checkpoints are made
    // again.
    node.said();
    install(&mut node, &mut follower, term);
    let checkpoints = node.worker.env.metrics.read().checkpoints;
    while follower.matched < node.status().unwrap().last.index {
        rounds += 1;
        assert!(rounds < 1000, "it catches up");
        write(&mut node, term, 1024);
        let compacted = node.status().unwrap().compacted.index;
        assert!(compacted <= follower.matched, "{compacted:?} is gone, it has {:?}", follower.matched);
        follower.matched = Index(follower.matched.0 + 3).min(node.status().unwrap().last.index);
        node.hear(3, Message::AppendAck { term, matched: follower.matched, progress_epoch: 0 });
        beat(&mut node, term);
    }
    assert!(node.worker.env.metrics.read().checkpoints > checkpoints, "made while it catches up");
    for _ in 0..20 {
        let last = node.status().unwrap().last.index;
        node.hear(3, Message::AppendAck { term, matched: last, progress_epoch: 0 });
        write(&mut node, term, 1024);
        beat(&mut node, term);
    }
    assert!(node.status().unwrap().compacted.index > follower.matched, "nothing is kept any longer");
    assert_eq!(follower.take(&node, 0), [], "no other snapshot is sent");
    assert_eq!(node.worker.env.metrics.read().transfers_yielded, 0);
}

#[test]
fn a_window_of_chunks_is_on_its_way_before_the_first_is_acknowledged() {
    for chunk_bytes in [1, 5, 1 << 20] {
        let (mut node, term) = leader(|settings, _| settings.limits.chunk_bytes = chunk_bytes);
        let follower = asked(&mut node, term);
        node.settle();
        let sent: Vec<_> = node.wire.3.lock().unwrap().drain(..).collect();
        let chunks = follower.total.div_ceil(chunk_bytes).min(WINDOW_CHUNKS);
        assert_eq!(sent.len() as u64, chunks, "chunks of {chunk_bytes}");
        let mut at = 0;
        for (head, bytes) in sent {
            assert_eq!((head.kind, head.offset), (CHUNK, at));
            at += bytes as u64;
        }
        // One acknowledgement lets one more be sent.
        if at < follower.total {
            let head = node
                .worker
                .groups
                .find(GROUP)
                .and_then(|replica| replica.checkpointing.latest().cloned())
                .unwrap();
            let (group, id, total, crc) = (GROUP, head.id, head.bytes, head.crc);
            let ack = Head { kind: ACK, term, group, id, total, crc, offset: chunk_bytes, ..Head::default() };
            say(&node, &ack);
            node.settle();
            assert_eq!(node.wire.3.lock().unwrap().drain(..).map(|(head, _)| head.offset).next(), Some(at));
        }
    }
}

#[test]
fn a_broken_transfer_goes_on_where_it_stopped() {
    let (mut node, term) = leader(|_, _| ());
    let mut follower = asked(&mut node, term);
    let step = |node: &mut Node, follower: &mut Follower, chunks_max| {
        beat(node, term);
        follower.take(node, chunks_max).iter().for_each(|answer| say(node, answer));
    };
    for _ in 0..3 {
        step(&mut node, &mut follower, 8);
    }
    // The connection breaks; what was in flight is lost.
    assert!(node.inbox.arrive(Arrival::Disconnected(NodeId(3))));
    step(&mut node, &mut follower, 0);
    let had = follower.received;
    assert!(had >= 16, "{had}");
    // No reply arrives for so long that the sender gives up.
    let mut passed = Duration::ZERO;
    while passed < 12 * RETRY {
        node.hear(2, Message::HeartbeatAck { term, round: 0, fortifies: false, quiesce: false });
        node.turn(BEAT);
        node.settle();
        passed += BEAT;
    }
    drop(node.wire.3.lock().unwrap().drain(..));
    let (taken, wasted) = (follower.taken, follower.wasted);
    for _ in 0..200 {
        if follower.is_whole() {
            break;
        }
        step(&mut node, &mut follower, 8);
    }
    assert!(follower.is_whole(), "{} of {}", follower.received, follower.total);
    assert_eq!((follower.begun, follower.wasted), (1, wasted), "nothing was sent twice");
    assert_eq!((follower.taken - taken) as u64, follower.total - had);
    assert!(node.worker.env.metrics.read().transfers_resumed >= 1);
}

#[test]
fn lost_chunks_are_sent_again_from_the_gap_on() {
    let (mut node, term) = leader(|_, _| ());
    let mut follower = asked(&mut node, term);
    for round in 0..400 {
        if follower.is_whole() {
            break;
        }
        beat(&mut node, term);
        // Now and then most of a window, or all of it, is lost; and now and then the replies.
        let answers = follower.take(&node, if round % 3 == 0 { round % 5 } else { 8 });
        if round % 7 != 0 {
            answers.iter().for_each(|answer| say(&node, answer));
        }
    }
    assert!(follower.is_whole(), "{} of {}", follower.received, follower.total);
    assert_eq!(follower.begun, 1);
}

#[test]
fn what_is_kept_yields_to_a_lane_that_is_too_large_and_the_follower_gets_there_later() {
    let (mut node, term) = leader(|settings, options| {
        settings.lane_bytes_max = 256 << 10;
        options.log_bytes_max = settings.lane_bytes_max;
    });
    let mut follower = asked(&mut node, term);
    let mut most = 0;
    for _ in 0..200 {
        write(&mut node, term, 8000);
        beat(&mut node, term);
        follower.take(&node, 1).iter().for_each(|answer| say(&node, answer));
        most = most.max(node.worker.lane.log_bytes());
    }
    assert!(node.worker.env.metrics.read().transfers_yielded > 0);
    assert!(follower.begun > 1, "a later checkpoint is sent");
    assert!(most <= 2 * (256 << 10), "{most}");
    for _ in 0..400 {
        if follower.is_whole() {
            break;
        }
        beat(&mut node, term);
        follower.take(&node, 8).iter().for_each(|answer| say(&node, answer));
    }
    assert!(follower.is_whole(), "the load is gone: {} of {}", follower.received, follower.total);
}

#[test]
fn what_is_kept_yields_on_a_full_disk() {
    let (mut node, term) = leader(|_, _| ());
    let mut follower = asked(&mut node, term);
    let files = node.files.clone();
    for _ in 0..8 {
        write(&mut node, term, 8000);
        beat(&mut node, term);
        follower.take(&node, 1).iter().for_each(|answer| say(&node, answer));
    }
    let before = node.status().unwrap().compacted;
    leave_room(&files, 4 << 10); // enough for a checkpoint, not for a segment
    for _ in 0..40 {
        write(&mut node, term, 8000);
        beat(&mut node, term);
        node.turn(TIMEOUT);
    }
    assert!(node.status().unwrap().compacted.index > before.index, "the log was cut");
    assert!(node.worker.env.metrics.read().transfers_yielded > 0);
}

#[test]
fn a_follower_that_takes_nothing_keeps_nothing_for_long() {
    let (mut node, term) = leader(|_, _| ());
    let _follower = asked(&mut node, term);
    let checkpoints = |node: &Node| node.worker.env.metrics.read().checkpoints;
    let made = checkpoints(&node);
    let mut rounds = 0;
    // The follower is alive, receives request after request, and does not reply.
    while checkpoints(&node) == made {
        write(&mut node, term, 2048);
        beat(&mut node, term);
        rounds += 1;
        assert!(BEAT * rounds < 2 * PATIENCE, "still kept");
    }
    assert!(BEAT * rounds > PATIENCE / 2, "it was given time: {rounds} beats");
    // Neither does another attempt.
    let made = checkpoints(&node);
    for _ in 0..40 {
        write(&mut node, term, 2048);
        beat(&mut node, term);
    }
    assert!(checkpoints(&node) >= made + 10, "{} and {made}", checkpoints(&node));
}

#[test]
fn a_transfer_that_begins_while_a_checkpoint_is_written_sends_that_one() {
    let (mut node, term) = leader(|_, _| ());
    let slot = node.worker.groups.slot_of(GROUP).unwrap();
    write(&mut node, term, 100);
    node.worker.checkpoint(slot);
    node.worker.start_transfer(slot, NodeId(3));
    node.turn(BEAT);
    assert!(node.wire.3.lock().unwrap().is_empty(), "the file that is there will be gone");
    let before =
        node.worker.groups.find(GROUP).and_then(|replica| replica.checkpointing.latest().cloned()).unwrap();
    let follower = asked(&mut node, term);
    assert!(follower.id.index > before.id.index);
}

/// The follower takes the whole file that it is being sent; returns its last reply.
pub(super) fn take_all(node: &mut Node, term: Term, follower: &mut Follower) -> Head {
    let mut last = Head::default();
    while !follower.is_whole() {
        beat(node, term);
        for answer in follower.take(node, 8) {
            say(node, &answer);
            last = answer;
        }
    }
    node.settle();
    last
}

#[test]
fn a_checkpoint_that_a_follower_refuses_as_a_whole_is_made_again() {
    let (mut node, term) = leader(|_, _| ());
    let mut follower = asked(&mut node, term);
    let path = node.files.paths().into_iter().find(|path| path.ends_with(".snap")).unwrap();
    let good = node.files.content(&path).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    node.files.put(&path, bad);
    let last = take_all(&mut node, term, &mut follower);
    say(&node, &Head { kind: REFUSAL, offset: 0, ..last });
    node.settle();
    let path = node.files.paths().into_iter().find(|path| path.ends_with(".snap")).unwrap();
    let made = node.files.content(&path).unwrap();
    assert!(
        made == good || !path.contains(&format!("{:016x}", last.id.index.0)),
        "as it was, or a later one"
    );
    // Another refusal at once is taken for the follower's own fault.
    let made = node.worker.env.metrics.read().checkpoints;
    for _ in 0..10 {
        say(&node, &Head { kind: REFUSAL, offset: 0, ..last });
        beat(&mut node, term);
    }
    assert_eq!(node.worker.env.metrics.read().checkpoints, made);
}

/// Receives a chunk of a file, from a node in a term.
fn chunk(node: &Node, from: u64, head: &Head, bytes: &[u8]) {
    let mut unit = BytesMut::new();
    head.encode(&mut unit);
    unit.extend_from_slice(bytes);
    node.hear_unit(from, UnitKind::Snapshot, 0, &unit);
}

fn answers(node: &mut Node) -> Vec<(bool, u64)> {
    node.settle();
    node.wire.3.lock().unwrap().drain(..).map(|(head, _)| (head.is_start, head.offset)).collect()
}

/// A follower that is to be sent a file, and the header of that file's units, in which only the offset
/// varies.
fn receiver() -> (MemoryFiles, Node, Bytes, Head) {
    let (file, id) = super::snapshots::checkpoints().remove(0);
    let files = MemoryFiles::new();
    let mut node = Node::open(&files, u64::MAX);
    node.create(&[1, 2, 3]);
    drop(node.wire.3.lock().unwrap().drain(..));
    let total = file.len() as u64;
    let head = Head { kind: CHUNK, crc: 7, group: GROUP, term: Term(5), id, total, ..Head::default() };
    (files, node, file, head)
}

#[test]
fn a_receiver_takes_chunks_in_order_and_loses_nothing_to_nonsense() {
    let (_files, mut node, file, head) = receiver();
    let (id, total) = (head.id, head.total);
    let at = |offset: u64| Head { offset, ..head };
    let part = |from: usize, to: usize| &file[from..to];

    chunk(&node, 2, &at(8), part(8, 16));
    assert_eq!(answers(&mut node), [(true, 0)], "a gap before anything");
    chunk(&node, 2, &at(0), &[]);
    assert_eq!(answers(&mut node), [(true, 0)], "a question");
    // Several chunks before the disk has written the first.
    for from in [0, 8, 16] {
        chunk(&node, 2, &at(from), part(from as usize, from as usize + 8));
    }
    assert_eq!(answers(&mut node), [(false, 8), (false, 16), (false, 24)]);

    // An overlap, a gap, an empty chunk, an end beyond all numbers, another length, the checksum of another
    // file.
    chunk(&node, 2, &at(20), part(20, 32));
    chunk(&node, 2, &at(32), part(32, 40));
    chunk(&node, 2, &at(total), &[]);
    assert_eq!(answers(&mut node), [(false, 24), (true, 24), (true, 24)]);
    chunk(&node, 2, &Head { offset: u64::MAX, total: u64::MAX, ..head }, &[]);
    chunk(&node, 2, &Head { offset: 24, total: u64::MAX, ..head }, part(24, 32));
    chunk(&node, 2, &Head { offset: 24, crc: 8, ..head }, part(24, 32));
    assert_eq!(answers(&mut node), [(true, 0); 3]);
    let bad = node.worker.env.metrics.read().bad_units;
    chunk(&node, 2, &Head { offset: u64::MAX, ..head }, part(24, 32));
    chunk(&node, 2, &at(total), part(24, 32));
    chunk(&node, 2, &at(24), &vec![0; 257 << 10]);
    assert_eq!((answers(&mut node), node.worker.env.metrics.read().bad_units), (vec![], bad + 3));
    // From an older leader: ignored. From another node in this term: none of its bytes are among these.
    chunk(&node, 3, &Head { term: Term(4), ..at(0) }, part(0, 8));
    chunk(&node, 3, &at(24), part(24, 32));
    assert_eq!(answers(&mut node), [(true, 0)]);

    let mut offset = 24;
    while offset < total {
        let end = (offset + 8).min(total);
        chunk(&node, 2, &at(offset), part(offset as usize, end as usize));
        offset = end;
    }
    node.settle();
    assert_eq!(node.status().unwrap().applied, id.index, "installed");
}

#[test]
fn another_leader_begins_the_file_anew_and_work_of_the_one_before_counts_for_nothing() {
    let (files, mut node, file, head) = receiver();
    let id = head.id;
    // The same entry, length and checksum with other bytes; not written when the next leader begins.
    chunk(&node, 2, &head, &[9; 40]);
    node.turn(Duration::ZERO);
    let next = Head { term: Term(6), ..head };
    chunk(&node, 3, &next, &file[..8]);
    assert_eq!(answers(&mut node), [(false, 8)], "only the later one's");
    chunk(&node, 2, &Head { offset: 40, ..head }, &[9; 8]);
    assert_eq!(answers(&mut node), [], "its term is over");
    chunk(&node, 3, &Head { offset: 8, ..next }, &file[8..]);
    node.settle();
    assert_eq!(node.status().unwrap().applied, id.index);
    assert!(!files.paths().iter().any(|path| path.ends_with(".part")), "{:?}", files.paths());
}

#[test]
fn what_is_all_here_says_so_while_it_is_verified_and_a_full_disk_leaves_no_half() {
    let (files, mut node, file, head) = receiver();
    let (id, total) = (head.id, head.total);
    leave_room(&files, 16);
    chunk(&node, 2, &head, &file[..16]);
    chunk(&node, 2, &Head { offset: 16, ..head }, &file[16..]);
    node.settle();
    let said: Vec<u8> = node.wire.3.lock().unwrap().drain(..).map(|(head, _)| head.kind).collect();
    assert_eq!(said, [ACK, REFUSAL]);
    assert!(!files.paths().iter().any(|path| path.ends_with(".part")), "{:?}", files.paths());
    files.limit(None);

    chunk(&node, 2, &head, &file);
    node.turn(Duration::ZERO);
    assert!(node.disk.inner.lock().unwrap().run_background());
    node.turn(Duration::ZERO);
    drop(node.wire.3.lock().unwrap().drain(..));
    chunk(&node, 2, &Head { offset: total, ..head }, &[]);
    node.turn(Duration::ZERO);
    let said: Vec<(Head, usize)> = node.wire.3.lock().unwrap().drain(..).collect();
    assert_eq!(
        said.iter().map(|(head, _)| (head.kind, head.is_start, head.offset)).collect::<Vec<_>>(),
        [(ACK, false, total)]
    );
    node.settle();
    assert_eq!(node.status().unwrap().applied, id.index);
}

#[test]
fn an_unfinished_file_is_removed_when_nothing_is_heard_of_it_or_its_replica_goes() {
    let (files, mut node, file, head) = receiver();
    let has_part = || files.paths().iter().any(|path| path.ends_with(".part"));
    chunk(&node, 2, &head, &file[..16]);
    node.settle();
    assert!(has_part());
    node.turn(Duration::from_secs(601));
    node.settle();
    assert!(!has_part());

    chunk(&node, 2, &head, &file[..16]);
    chunk(&node, 2, &Head { offset: 16, ..head }, &file[16..]);
    node.turn(Duration::ZERO);
    let mut gone = node.order(|reply| Order::Remove { group: GROUP, reply });
    node.settle();
    assert_eq!(gone.try_recv(), Ok(Ok(())));
    assert!(!files.paths().iter().any(|path| path.contains("/snapshots/")), "{:?}", files.paths());
}

/// A replica without a state receives one from its leader, which ends its quarantine.
#[test]
fn a_leaders_snapshot_ends_a_quarantine() {
    let (_files, mut node, file, head) = receiver();
    node.hear_entries(5, EntryId::default(), &[b"panic".to_vec()], 1);
    node.settle();
    assert!(
        matches!(node.conditions()[..], [Condition::Quarantined { group: GROUP, .. }]),
        "{:?}",
        node.conditions()
    );
    assert!(node.status().unwrap().quarantine.is_some());
    assert!(head.id.index > Index(1));
    chunk(&node, 2, &head, &file);
    node.settle();
    let status = node.status().unwrap();
    assert_eq!((status.applied, status.quarantine, node.conditions()), (head.id.index, None, vec![]));
}

#[test]
fn a_file_of_an_older_term_or_of_what_is_here_is_answered_and_not_taken() {
    let (files, mut node, file, head) = receiver();
    node.hear_append(5, EntryId::default(), 3, 8, 3);
    node.settle();
    node.said();
    let known = EntryId::new(Term(5), Index(3));
    for stale in [Head { term: Term(4), ..head }, Head { id: known, ..head }] {
        chunk(&node, 2, &stale, &file[..8]);
        assert_eq!(answers(&mut node), []);
        assert_eq!(node.said().len(), 1, "{stale:?}");
    }
    assert!(!files.paths().iter().any(|path| path.ends_with(".part")), "{:?}", files.paths());
}

#[test]
fn a_group_that_is_made_again_knows_nothing_of_a_file_that_was_on_its_way() {
    let (_files, mut node, file, head) = receiver();
    chunk(&node, 2, &head, &file[..8]);
    assert_eq!(answers(&mut node), [(false, 8)]);
    let mut gone = node.order(|reply| Order::Remove { group: GROUP, reply });
    node.settle();
    assert_eq!(gone.try_recv(), Ok(Ok(())));
    node.create(&[]);
    assert!(!node.worker.transfers.is_leaving(GROUP));
    assert_eq!(node.worker.transfers.next_deadline(), Time::NEVER, "nothing is expected");
}

#[test]
fn a_read_that_waits_for_the_last_entry_of_a_snapshot_is_answered_by_its_installation() {
    let (_files, mut node, file, head) = receiver();
    let wanted = crate::api::consistency::Wanted::AtLeast(head.id.index);
    let mut answer = node.read(wanted, Some(Duration::from_secs(60)));
    node.turn(Duration::ZERO);
    assert!(answer.try_recv().is_err());
    chunk(&node, 2, &head, &file);
    node.settle();
    assert!(answer.try_recv().unwrap().is_ok());
}
