//! Damage found while the worker runs: what a checkpoint replaces, what must come from peers, and that all
//! other replicas of the worker are unaffected.

use raftwerk_wal::OnDamage;

use super::*;

const RATE: u64 = 64 << 20;

fn watchful(files: &MemoryFiles, rate: u64) -> Node {
    Node::open_with(files, u64::MAX, |settings, options| {
        settings.scrub_bytes_per_second = rate;
        (options.on_damage, options.recent_bytes) = (OnDamage::Fence, 0);
    })
}

fn first_segment(files: &MemoryFiles) -> String {
    files.paths().into_iter().find(|path| path.contains("/seg-")).unwrap()
}

impl Node {
    /// Runs turns over so much time, with a disk that works.
    fn pass(&mut self, time: Duration) {
        for _ in 0..20 {
            self.turn(time / 20);
            self.settle();
        }
    }

    fn grants(&mut self, term: u64) -> bool {
        let last = EntryId::new(Term(term - 1), Index(1000));
        self.said();
        self.hear(3, Message::Vote { term: Term(term), last, transfer: true });
        self.settle();
        self.said().iter().any(|said| matches!(said, Message::VoteReply { granted: true, .. }))
    }
}

#[test]
fn a_checkpoint_that_rots_is_written_again_from_the_state() {
    let files = MemoryFiles::new();
    let mut node = Node::open_with(&files, 4096, |settings, options| {
        settings.scrub_bytes_per_second = RATE;
        options.on_damage = OnDamage::Fence;
    });
    node.create(&[1]);
    node.turn(2 * TIMEOUT);
    node.settle();
    for _ in 0..10 {
        node.write(&[1; 1024]).unwrap();
    }
    let is_checkpoint = |path: &String| path.ends_with(".snap");
    let path = files.paths().into_iter().find(is_checkpoint).expect("there is one");
    let whole = files.content(&path).unwrap();
    // In the state: a count, at the end of the file.
    assert!(files.rot(&path, whole.len() as u64 - 3, 1));
    node.pass(8 * TIMEOUT);
    let stats = node.worker.env.metrics.read();
    assert_eq!(stats.checkpoints_damaged, 1, "it is found once, and then it is whole");
    let status = node.status().unwrap();
    drop(node);
    let mut node = Node::open(&files, 4096);
    assert_eq!(node.status().unwrap().applied, status.compacted.index);
    assert_eq!(node.worker.loss(GROUP), None);
}

#[test]
fn a_checkpoint_takes_the_place_of_applied_entries_that_rot() {
    let files = MemoryFiles::new();
    let mut node = watchful(&files, RATE);
    node.create(&[1]);
    node.turn(2 * TIMEOUT);
    node.settle();
    for _ in 0..40 {
        node.write(&[1; 4096]).unwrap();
    }
    node.pass(TIMEOUT);
    let looked_at = node.worker.env.metrics.read().scrubbed_bytes;
    assert!(looked_at >= 64 << 10, "{looked_at}");
    let (path, before) = (first_segment(&files), node.status().unwrap());
    assert_eq!(before.compacted.index, Index(0));
    assert!(files.rot(&path, 40 << 10, 1));
    node.pass(8 * TIMEOUT);
    let stats = node.worker.env.metrics.read();
    let status = node.status().unwrap();
    assert_eq!((status.role, status.term), (before.role, before.term), "nobody had to be asked");
    assert_eq!(status.compacted.index, before.last.index);
    assert_eq!((stats.at_risk_bytes, stats.replicas_fenced, stats.is_poisoned), (0, 0, false));
    node.write(b"and goes on").unwrap();
}

#[test]
fn a_log_is_not_looked_through_where_that_is_switched_off() {
    let mut node = watchful(&MemoryFiles::new(), 0);
    node.create(&[1]);
    node.turn(2 * TIMEOUT);
    node.settle();
    for _ in 0..40 {
        node.write(&[1; 4096]).unwrap();
    }
    node.pass(8 * TIMEOUT);
    assert_eq!(node.worker.env.metrics.read().scrubbed_bytes, 0);
}

#[test]
fn few_entries_are_written_again_where_a_copy_is_whole() {
    let files = MemoryFiles::new();
    let mut node = watchful(&files, 0);
    node.create(&[1]);
    node.turn(2 * TIMEOUT);
    node.settle();
    let path = first_segment(&files);
    // A second group fills the segment; the first has little in it, which is in the cache.
    node.write(b"little").unwrap();
    let initial_members = Configuration::of_voters([NodeId(1)]);
    let _made = node.order(|reply| Order::Bootstrap { group: GroupId(2), initial_members, reply });
    node.turn(2 * TIMEOUT);
    node.settle();
    for _ in 0..20 {
        let (reply, _answer) = oneshot::channel();
        let payload = Bytes::from(vec![1; 8000]);
        assert!(node.inbox.request(Request::Propose { group: GroupId(2), payload, reply }).is_ok());
        node.settle();
    }
    let slot = node.worker.groups.slot_of(GROUP).unwrap();
    let last = node.worker.lane.last(slot);
    let place = node.worker.lane.read(slot, last, last, 1).unwrap()[0].place;
    assert!(node.worker.lane.bytes(place).is_ok());
    assert!(files.rot_below_cache(&path, u64::from(place.offset) + 50, 1));
    node.worker.settings.scrub_bytes_per_second = RATE;
    node.pass(8 * TIMEOUT);
    let moved = node.worker.lane.read(slot, last, last, 1).unwrap()[0].place;
    assert!(moved.segment > place.segment, "{moved:?}");
    assert!(node.worker.env.metrics.read().damaged_bytes > 0);
    assert_eq!(node.status().unwrap().compacted.index, Index(0));
}

#[test]
fn entries_that_were_not_applied_are_lost_and_the_replica_is_fenced_until_a_later_leader_brings_them() {
    for is_met_by_reading in [false, true] {
        let files = MemoryFiles::new();
        let mut node = watchful(&files, if is_met_by_reading { 0 } else { RATE });
        node.create(&[1, 2, 3]);
        // Of sixty entries ten are committed.
        node.hear_append(4, EntryId::default(), 10, 1500, 10);
        node.settle();
        for from in (10..60).step_by(5) {
            node.hear_append(4, EntryId::new(Term(4), Index(from)), 5, 3000, 10);
            node.settle();
        }
        let before = node.status().unwrap();
        assert_eq!((before.applied, before.last.index), (Index(10), Index(60)));
        let slot = node.worker.groups.slot_of(GROUP).unwrap();
        let place = node.worker.lane.read(slot, Index(16), Index(16), 1).unwrap()[0].place;
        let path = first_segment(&files);
        assert!(files.rot(&path, u64::from(place.offset) + 70, 1));
        if is_met_by_reading {
            // All are committed, and to be applied.
            node.hear(2, Message::Heartbeat { term: Term(4), commit: Index(60), round: 0, quiesce: false });
        }
        node.pass(8 * TIMEOUT);
        let status = node.status().unwrap();
        let applied = if is_met_by_reading { Index(15) } else { Index(10) };
        assert_eq!((status.applied, status.last.index), (applied, Index(15)), "{is_met_by_reading}");
        assert!(status.term > Term(4));
        let stats = node.worker.env.metrics.read();
        assert_eq!((stats.replicas_fenced, stats.is_poisoned, stats.at_risk_bytes), (1, false, 0));

        // Entries that it acknowledged are lost: so it grants no vote, also after a restart.
        let term = status.term.0;
        assert!(!node.grants(term + 1));
        let files = files.after_power_cut(|_, _| SectorFate::Old);
        let mut node = watchful(&files, 0);
        node.settle();
        assert!(!node.grants(term + 5));
        let last = node.status().unwrap().last;
        assert_eq!(last.index, Index(15));

        // A leader of a later term sends it everything, and it may vote again.
        let term = node.status().unwrap().term.0 + 2;
        node.hear_append(term, last, 15, 1000, 30);
        node.settle();
        let status = node.status().unwrap();
        assert_eq!((status.last.index, status.applied), (Index(30), Index(30)));
        node.pass(2 * TIMEOUT);
        let term = node.status().unwrap().term.0;
        assert!(node.grants(term + 3));
    }
}

#[test]
fn a_leader_sends_no_damaged_entry_and_a_follower_that_lacks_it_gets_a_snapshot() {
    let files = MemoryFiles::new();
    let mut node = watchful(&files, 0);
    let term = node.lead_with_one(40, 4096);
    let before = node.status().unwrap();
    assert_eq!((before.applied, before.compacted.index), (before.last.index, Index(0)));
    // In the segment being written, which is not mapped.
    let slot = node.worker.groups.slot_of(GROUP).unwrap();
    let place = node.worker.lane.read(slot, before.last.index, before.last.index, 1).unwrap()[0].place;
    let path = format!("lane-0/seg-{:016x}.log", place.segment);
    assert!(files.rot(&path, u64::from(place.offset) + 70, 1));
    // The third replica was lost, with all that was on its way: it is to be sent the log from its beginning.
    assert!(node.inbox.arrive(Arrival::Disconnected(NodeId(3))));
    let pieces =
        |node: &Node| node.wire.1.lock().unwrap().drain(..).filter(|head| head.offset < head.total).count();
    assert_eq!(pieces(&node), 0);
    for _ in 0..40 {
        node.hear(2, Message::HeartbeatAck { term, round: 0, fortifies: false, quiesce: false });
        node.hear(3, Message::HeartbeatAck { term, round: 0, fortifies: false, quiesce: false });
        node.turn(TIMEOUT / 5);
        node.settle();
    }
    let (status, stats) = (node.status().unwrap(), node.worker.env.metrics.read());
    assert_eq!((status.role, stats.is_poisoned), (Role::Leader, false));
    assert!(stats.damaged_bytes > 0, "the read has met it");
    assert_eq!(status.compacted.index, before.last.index, "a checkpoint has taken its place");
    assert!(pieces(&node) > 0);
}

#[test]
fn a_lane_that_is_not_to_live_with_damage_stops() {
    let files = MemoryFiles::new();
    let mut node = Node::open_with(&files, u64::MAX, |settings, _| settings.scrub_bytes_per_second = RATE);
    node.create(&[1]);
    node.turn(2 * TIMEOUT);
    node.settle();
    for _ in 0..40 {
        node.write(&[1; 4096]).unwrap();
    }
    assert!(files.rot(&first_segment(&files), 40 << 10, 1));
    node.pass(TIMEOUT);
    assert_eq!(node.write(b"more"), Err(ProposeError::Poisoned));
}

/// A leader that loses entries before it has applied them is rebuilt as a fenced follower. Its own followers
/// may be quiescent, and fortify this node.
#[test]
fn a_leader_that_is_made_anew_renounces() {
    let files = MemoryFiles::new();
    let mut node = watchful(&files, 0);
    let term = node.lead_with_one(10, 4096);
    for _ in 0..30 {
        drop(node.propose(&[1; 4096]));
        node.settle();
    }
    let before = node.status().unwrap();
    assert_eq!((before.role, before.last.index.0 - before.applied.0), (Role::Leader, 30));
    let slot = node.worker.groups.slot_of(GROUP).unwrap();
    let at = before.last.index.prev();
    let place = node.worker.lane.read(slot, at, at, 1).unwrap()[0].place;
    let path = format!("lane-0/seg-{:016x}.log", place.segment);
    assert!(files.rot(&path, u64::from(place.offset) + 70, 1));
    node.said();
    // Node 3 is to be sent the log from its beginning, and reading that meets the damage.
    node.hear(3, Message::AppendAck { term, matched: before.last.index.prev().prev(), progress_epoch: 0 });
    assert!(node.inbox.arrive(Arrival::Disconnected(NodeId(3))));
    for _ in 0..40 {
        for follower in [2, 3] {
            node.hear(follower, Message::HeartbeatAck { term, round: 0, fortifies: false, quiesce: false });
        }
        node.turn(TIMEOUT / 5);
        node.settle();
    }
    let after = node.status().unwrap();
    assert_eq!(
        (after.role, node.worker.env.metrics.read().replicas_fenced),
        (Role::Follower, 1),
        "{after:?}"
    );
    let renounced = node.said().iter().filter(|said| **said == Message::NotLeader { term }).count();
    assert_eq!(renounced, 2);
}
