//! What happens at the end of the memory budget, and how the shortage ends.

use super::*;

fn bounded(files: &MemoryFiles, memory_bytes: u64) -> Node {
    Node::open_with(files, u64::MAX, |_, options| {
        (options.memory_bytes, options.recent_bytes) = (memory_bytes, 0);
    })
}

impl Node {
    /// One proposal in a turn of its own.
    fn push(&mut self) -> Option<ProposeError> {
        let mut answer = self.propose(b"little");
        for _ in 0..2 {
            self.turn(Duration::from_micros(10));
            let mut disk = self.disk.inner.lock().unwrap();
            while disk.run_background() || disk.run_appends() {}
        }
        answer.try_recv().ok()?.err()
    }

    pub(super) fn lead_alone(&mut self) {
        self.create(&[1]);
        self.turn(2 * TIMEOUT);
        self.settle();
    }
}

#[test]
fn proposals_are_busy_at_the_end_of_the_budget_and_a_compaction_makes_room() {
    let files = MemoryFiles::new();
    let mut node = bounded(&files, 1 << 20);
    node.lead_alone();
    // No memory can be released for the moment.
    let slot = node.worker.groups.slot_of(GROUP).unwrap();
    node.worker.groups.get_mut(slot).unwrap().checkpointing.begin_saving();
    let refused = (0..20_000).find_map(|_| node.push());
    assert_eq!(refused, Some(ProposeError::Busy));
    assert_eq!(node.write(b"more"), Err(ProposeError::Busy), "and it stays so");
    let stats = node.worker.env.metrics.read();
    assert!(stats.index_bytes > 512 << 10 && stats.index_bytes < 1 << 20, "{stats:?}");
    assert!((20.0..200.0).contains(&stats.index_bytes_per_entry()), "{}", stats.index_bytes_per_entry());
    // Elections go on: the node leads the next term, too.
    let term = node.status().unwrap().term;
    node.hear(9, Message::Vote { term: Term(term.0 + 5), last: EntryId::default(), transfer: true });
    for _ in 0..8 {
        node.turn(TIMEOUT);
        node.settle();
    }
    assert_eq!(node.status().unwrap().role, Role::Leader);
    node.worker.groups.get_mut(slot).unwrap().checkpointing.end_saving();
    let healed = (0..10).any(|_| {
        node.turn(TIMEOUT / 10);
        node.settle();
        node.write(b"again").is_ok()
    });
    assert!(healed, "by itself: {:?}", node.worker.env.metrics.read());
}

#[test]
fn groups_with_much_in_the_index_are_checkpointed_before_it_is_full() {
    let files = MemoryFiles::new();
    let mut node = bounded(&files, 5 << 20);
    node.lead_alone();
    let mut most = 0;
    for _ in 0..60_000 {
        let refused = node.push();
        assert_eq!(refused, None);
        most = most.max(node.worker.env.metrics.read().index_bytes);
        if node.worker.env.metrics.read().checkpoints > 0 {
            break;
        }
    }
    node.settle();
    assert!(most > 2 << 20 && most <= 3 << 20, "{most}");
    assert!(node.status().unwrap().compacted.index > Index(10_000));
    node.write(b"again").unwrap();
    assert!(node.worker.env.metrics.read().index_bytes < 1 << 20);
}

#[test]
fn a_follower_that_is_behind_waits_while_readers_hold_too_much() {
    let files = MemoryFiles::new();
    let mut node = bounded(&files, 4 << 20);
    let term = node.lead_with_one(200, 8000);
    let slot = node.worker.groups.slot_of(GROUP).unwrap();
    let mut held = Vec::new();
    for index in 2.. {
        if node.worker.lane.must_readers_wait() {
            break;
        }
        let place = node.worker.lane.read(slot, Index(index), Index(index), 1).unwrap()[0].place;
        held.push(node.worker.lane.bytes(place).unwrap());
    }
    assert!(node.inbox.arrive(Arrival::Disconnected(NodeId(3))));
    let reaches_third = |node: &mut Node| {
        node.wire.0.lock().unwrap().clear();
        for _ in 0..10 {
            for peer in [2, 3] {
                node.hear(peer, Message::HeartbeatAck { term, round: 0, fortifies: false, quiesce: false });
            }
            node.turn(TIMEOUT / 10);
            node.settle();
        }
        let said = node.wire.0.lock().unwrap();
        said.iter().any(|(to, record)| *to == PeerId(3) && record.body_bytes > 0)
    };
    assert!(!reaches_third(&mut node), "nothing is read for it");
    for _ in 0..4 {
        node.hear(3, Message::HeartbeatAck { term, round: 0, fortifies: false, quiesce: false });
        node.turn(TIMEOUT / 10);
        assert!(node.worker.shortage_due() > node.now, "it is looked at again, and not all the time");
    }
    assert_eq!(node.status().unwrap().role, Role::Leader);
    drop(held);
    assert!(reaches_third(&mut node));
}

#[test]
fn a_worker_is_short_of_memory_where_a_unit_might_not_fit() {
    assert!(bounded(&MemoryFiles::new(), 1 << 20).worker.is_short_of_memory());
    assert!(!bounded(&MemoryFiles::new(), 8 << 20).worker.is_short_of_memory());
}
