//! Machines that panic: the effects on their replica, on its clients, and on the worker's other replicas.

use raftwerk_raft::PRIORITY_MAX;
use raftwerk_wal::OnDamage;

use super::*;
use crate::api::consistency::{Demand, Wanted};
use crate::api::error::{ReplicaError, ReviveError};
use crate::api::status::{Quarantine, ReadAnswer};
use crate::worker::guarded;
use crate::{CreateError, ReadError};

const OTHER: GroupId = GroupId(2);

impl Node {
    fn query(&mut self, group: GroupId, query: &'static [u8]) -> Result<ReadAnswer, ReadError> {
        let (reply, mut answer) = oneshot::channel();
        let demand = Demand { wanted: Wanted::Any, patience: None };
        let query = Bytes::from_static(query);
        assert!(self.inbox.request(Request::Read { group, query, demand, reply }).is_ok());
        self.settle();
        answer.try_recv().expect("every read ends")
    }

    fn count(&mut self) -> Result<u64, ReadError> {
        let answer = self.query(GROUP, b"")?;
        Ok(u64::from_le_bytes(answer.reply[..].try_into().unwrap()))
    }

    fn revive(&mut self) -> Result<(), ReviveError> {
        let mut answer = self.order(|reply| Order::Revive { group: GROUP, reply });
        self.settle();
        answer.try_recv().expect("every order ends")
    }

    fn quarantine(&mut self) -> Option<Quarantine> {
        self.status().unwrap().quarantine
    }

    fn quarantined(&self) -> u64 {
        self.worker.env.metrics.read().replicas_quarantined
    }
}

#[test]
fn a_panic_is_one_replicas_and_leaves_nobody_waiting() {
    let mut node = Node::alone(&MemoryFiles::new(), u64::MAX);
    let initial_members = Configuration::of_voters([NodeId(1)]);
    let made: oneshot::Receiver<Result<(), CreateError>> =
        node.order(|reply| Order::Bootstrap { group: OTHER, initial_members, reply });
    node.turn(2 * TIMEOUT);
    node.settle();
    drop(made);
    node.write(b"before").unwrap();
    let seen = node.status().unwrap().applied;

    let mut answers: Vec<_> = [&b"panic"[..], b"behind it"].map(|payload| node.propose(payload)).into();
    node.settle();
    for answer in &mut answers {
        assert_eq!(answer.try_recv().unwrap(), Err(ProposeError::Unknown));
    }
    let quarantine = node.quarantine().expect("it has no state");
    assert_eq!((quarantine.applied, quarantine.is_replaying), (seen, false));
    assert_eq!(quarantine.what, "as the test wants it");
    assert_eq!(node.quarantined(), 1);
    let what = String::from("as the test wants it");
    assert_eq!(node.conditions(), [Condition::Quarantined { group: GROUP, what }]);
    assert_eq!(node.write(b"more"), Err(ProposeError::Quarantined(GROUP)));
    assert_eq!(node.count(), Err(ReadError::Quarantined(GROUP)));
    let mut digest = node.order(|reply| Order::Digest { group: GROUP, reply });
    node.settle();
    assert_eq!(digest.try_recv(), Ok(Err(ReplicaError::NoState(GROUP))));

    // All other replicas go on.
    let (reply, mut other) = oneshot::channel();
    let request = Request::Propose { group: OTHER, payload: Bytes::from_static(b"as ever"), reply };
    assert!(node.inbox.request(request).is_ok());
    node.settle();
    assert!(other.try_recv().unwrap().is_ok());
    assert!(node.query(OTHER, b"").is_ok());

    let mut gone = node.order(|reply| Order::Remove { group: GROUP, reply });
    node.settle();
    assert_eq!(gone.try_recv(), Ok(Ok(())));
    assert_eq!((node.quarantined(), node.conditions()), (0, vec![]));
}

#[test]
fn a_replica_is_revived_from_its_log_and_shows_no_older_state_meanwhile() {
    for checkpoint_log_bytes in [u64::MAX, 4096] {
        let mut node = Node::open_with(&MemoryFiles::new(), checkpoint_log_bytes, |settings, _| {
            settings.limits.apply_bytes = 1; // a frame each turn
        });
        node.create(&[1]);
        node.turn(2 * TIMEOUT);
        node.settle();
        for _ in 0..10 {
            node.write(&[1; 1024]).unwrap();
        }
        let has_checkpoint = node.status().unwrap().compacted.index > Index(0);
        assert_eq!(has_checkpoint, checkpoint_log_bytes == 4096);
        let _lost = node.propose(b"panic");
        node.settle();
        assert!(node.quarantine().is_some());

        // The same entry and the same code: the same panic.
        assert_eq!(node.revive(), Ok(()));
        for _ in 0..4 {
            node.settle();
        }
        let quarantine = node.quarantine().expect("it has panicked again");
        assert!(!quarantine.is_replaying);
        assert_eq!(quarantine.applied, node.status().unwrap().applied, "it had caught up first");

        ARE_MENDED.set(true);
        let mut revived = node.order(|reply| Order::Revive { group: GROUP, reply });
        let mut shown = Vec::new();
        for _ in 0..40 {
            node.turn(Duration::ZERO);
            let mut disk = node.disk.inner.lock().unwrap();
            while disk.run_background() || disk.run_appends() {}
            drop(disk);
            let (reply, mut answer) = oneshot::channel();
            let demand = Demand { wanted: Wanted::Any, patience: None };
            let request = Request::Read { group: GROUP, query: Bytes::new(), demand, reply };
            assert!(node.inbox.request(request).is_ok());
            node.turn(Duration::ZERO);
            shown.extend(answer.try_recv().unwrap());
        }
        assert_eq!(revived.try_recv().unwrap(), Ok(()));
        assert!(!shown.is_empty() && shown.len() < 40, "it was refused at first: {}", shown.len());
        let counts: Vec<u64> =
            shown.iter().map(|shown| u64::from_le_bytes(shown.reply[..].try_into().unwrap())).collect();
        assert!(counts.iter().all(|count| *count >= 10), "{counts:?}");
        assert_eq!(counts.last(), Some(&11), "the entry that it panicked at is applied");
        assert_eq!((node.quarantine(), node.quarantined(), node.conditions()), (None, 0, vec![]));
        node.write(b"as ever").unwrap();
        assert_eq!(node.count(), Ok(12));
        assert_eq!(node.revive(), Err(ReviveError::None));
        ARE_MENDED.set(false);
    }
}

#[test]
fn an_entry_that_machines_panic_at_leaves_a_node_that_opens() {
    let files = MemoryFiles::new();
    let mut node = Node::alone(&files, u64::MAX);
    node.write(b"before").unwrap();
    let _lost = node.propose(b"panic");
    node.settle();
    drop(node);
    let mut node = Node::open(&files, u64::MAX);
    node.turn(2 * TIMEOUT);
    node.settle();
    assert!(node.quarantine().is_some(), "it meets the entry again");
    drop(node);
    ARE_MENDED.set(true);
    let mut node = Node::open(&files, u64::MAX);
    node.turn(2 * TIMEOUT);
    node.settle();
    assert_eq!((node.quarantine(), node.count()), (None, Ok(2)));
    ARE_MENDED.set(false);
}

#[test]
fn a_machine_that_does_not_take_its_checkpoint_is_one_replicas_loss() {
    let files = MemoryFiles::new();
    let mut node = Node::alone(&files, 4096);
    for _ in 0..10 {
        node.write(&[1; 1024]).unwrap();
    }
    assert!(node.status().unwrap().compacted.index > Index(0));
    drop(node);
    REFUSE_IMAGES.set(true);
    let mut node = Node::open(&files, 4096);
    node.turn(2 * TIMEOUT);
    node.settle();
    let what = node.quarantine().expect("the node opens, without that state").what;
    assert_eq!(what, "as the test wants it");
    assert!(matches!(node.revive(), Err(ReviveError::Machine(_))));
    REFUSE_IMAGES.set(false);
    assert_eq!(node.revive(), Ok(()));
    node.turn(2 * TIMEOUT);
    node.settle();
    assert_eq!((node.quarantine(), node.count()), (None, Ok(10)));
}

#[test]
fn a_query_that_panics_is_its_readers_alone() {
    let mut node = Node::alone(&MemoryFiles::new(), u64::MAX);
    node.write(b"before").unwrap();
    let panicked = ReadError::Panicked("as the test wants it".to_owned());
    assert_eq!(node.query(GROUP, b"panic").err(), Some(panicked));
    assert_eq!(node.count(), Ok(1));
    assert_eq!(node.quarantine(), None);
}

/// A leader whose machine has just panicked, and that transfers its leadership to node 2.
fn leader_in_quarantine() -> (Node, Term) {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    let term = node.lead_with_one(1, 8);
    let _lost = node.propose(b"panic");
    node.settle();
    let matched = node.status().unwrap().last.index;
    node.said();
    node.hear(2, Message::AppendAck { term, matched, progress_epoch: 0 });
    node.settle();
    assert_eq!(node.status().unwrap().transfer_to, Some(NodeId(2)));
    (node, term)
}

/// A leader in quarantine transfers its leadership to the voter with most of its log, which has a state, and
/// does not campaign.
#[test]
fn a_leader_in_quarantine_hands_over_and_tries_less_and_less_often() {
    let (mut node, term) = leader_in_quarantine();
    assert!(node.quarantine().is_some());
    assert!(node.said().contains(&Message::TimeoutNow { term }));

    // No transfer succeeds: it tries again, but not all the time.
    let (mut tries, mut was_trying) = (0, true);
    for _ in 0..400 {
        node.hear(2, Message::HeartbeatAck { term, round: 0, fortifies: true, quiesce: false });
        node.hear(3, Message::HeartbeatAck { term, round: 0, fortifies: true, quiesce: false });
        node.turn(TIMEOUT / 5);
        node.settle();
        let is_trying = node.status().unwrap().transfer_to.is_some();
        tries += u32::from(is_trying && !was_trying);
        was_trying = is_trying;
    }
    assert!((2..=7).contains(&tries), "{tries} tries in eighty timeouts");
}

#[test]
fn what_a_replica_in_quarantine_keeps_of_its_log_is_bounded() {
    let mut node = Node::open(&MemoryFiles::new(), 4096);
    node.create(&[1, 2, 3]);
    let mut last = EntryId::default();
    let mut say = |node: &mut Node, count: u64, bytes: usize| {
        node.hear_append(1, last, count, bytes, last.index.0 + count);
        node.settle();
        let after = node.status().unwrap().last;
        let is_taken = after != last;
        last = after;
        is_taken
    };
    assert!(say(&mut node, 1, 100));
    // Node 2 leads, and sends a frame of one entry with a payload that makes the machine panic.
    let mut frames = vec![0; 128];
    let first = EntryId::new(Term(1), Index(2));
    let mut writer = FrameWriter::new(&mut frames, GROUP, first).unwrap();
    assert!(writer.push(EntryKind::Payload, b"panic"));
    let length = writer.finish().unwrap().frame_bytes();
    let message = Message::Append {
        term: Term(1),
        prev: EntryId::new(Term(1), Index(1)),
        commit: Index(2),
        progress_epoch: 0,
    };
    let record = Record { body_bytes: length as u32, ..record_of(message) };
    node.hear_unit(2, UnitKind::Groups, 1, &[&record.encode()[..], &frames[..length]].concat());
    node.settle();
    assert!(node.quarantine().is_some());
    last = node.status().unwrap().last;
    let mut say = |node: &mut Node| {
        node.hear_append(1, last, 1, 1000, last.index.0 + 1);
        node.settle();
        let after = node.status().unwrap().last;
        std::mem::replace(&mut last, after) != after
    };
    let taken = (0..100).filter(|_| say(&mut node)).count();
    assert!((4..=20).contains(&taken), "it acknowledges for a while: {taken}");
    assert!(node.status().unwrap().log_bytes < 5 * 4096);
    assert!(node.worker.env.metrics.read().no_room > 0);

    // The machine before had applied an entry that the log has lost: only the leader can bring it.
    let slot = node.worker.groups.slot_of(GROUP).unwrap();
    let lost = node.status().unwrap().last.index.next();
    node.worker.groups.get_mut(slot).unwrap().quarantine.as_mut().unwrap().applied = lost;
    ARE_MENDED.set(true);
    node.revive().unwrap();
    assert!(node.quarantine().unwrap().is_replaying);
    assert!(say(&mut node), "it is taken, however much there is");
    assert_eq!(node.quarantine(), None);
    assert_eq!(node.status().unwrap().applied, lost);
}

#[test]
fn a_machine_that_cannot_be_dropped_is_left() {
    struct Stubborn;
    impl Drop for Stubborn {
        fn drop(&mut self) {
            panic!("it stays");
        }
    }
    crate::worker::give_up(Stubborn);
    let said = guarded(|| std::panic::panic_any(Stubborn));
    assert_eq!(said, Err("a panic without words".to_owned()));
}

#[test]
fn a_replica_that_has_left_quarantine_wants_to_lead_again() {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    let term = node.lead_with_one(1, 8);
    let _lost = node.propose(b"panic");
    node.settle();
    let matched = node.status().unwrap().last.index;
    node.hear(2, Message::AppendAck { term, matched, progress_epoch: 0 });
    node.settle();
    assert!(node.quarantine().is_some());
    let later = Term(term.0 + 1);
    let last = EntryId::new(term, matched);
    node.hear(2, Message::Vote { term: later, last, transfer: true });
    node.settle();
    node.said();
    node.turn(20 * TIMEOUT);
    node.settle();
    assert!(!asks_for_votes(&node), "in quarantine it does not");
    ARE_MENDED.set(true);
    assert_eq!(node.revive(), Ok(()));
    for _ in 0..3 {
        node.turn(3 * TIMEOUT);
        node.settle();
    }
    assert!(asks_for_votes(&node));
    ARE_MENDED.set(false);
    assert_eq!(PRIORITY_MAX, node.worker.settings.priority);
}

fn asks_for_votes(node: &Node) -> bool {
    node.said().iter().any(|said| matches!(said, Message::PreVote { .. } | Message::Vote { .. }))
}

#[test]
fn a_machine_that_panics_on_its_way_back_has_to_see_as_much_as_the_one_before() {
    let mut node = Node::alone(&MemoryFiles::new(), u64::MAX);
    ARE_MENDED.set(true);
    node.write(b"panic when it is replayed").unwrap();
    node.write(b"behind it").unwrap();
    ARE_MENDED.set(false);
    let seen = node.status().unwrap().applied;
    assert_eq!(node.write(b"panic"), Err(ProposeError::Unknown));
    assert_eq!(node.quarantine().unwrap().applied, seen);
    // The next machine panics at the first of the two.
    node.revive().unwrap();
    node.settle();
    let quarantine = node.quarantine().unwrap();
    assert_eq!((quarantine.applied, quarantine.is_replaying), (seen, false));
    ARE_MENDED.set(true);
    node.revive().unwrap();
    node.settle();
    ARE_MENDED.set(false);
    assert_eq!(node.quarantine(), None);
}

/// A read fails once while a new machine catches up, and no other input comes that would have it go on.
#[test]
fn a_read_that_fails_once_does_not_keep_a_machine_from_catching_up() {
    let files = MemoryFiles::new();
    let mut node = Node::open_with(&files, u64::MAX, |settings, options| {
        settings.scrub_bytes_per_second = 0;
        (options.on_damage, options.recent_bytes) = (OnDamage::Fence, 0);
    });
    node.create(&[1]);
    node.turn(2 * TIMEOUT);
    node.settle();
    let written = node.write(b"before").unwrap().id.index;
    drop(node.propose(b"panic"));
    node.settle();
    assert!(node.quarantine().is_some());

    let slot = node.worker.groups.slot_of(GROUP).unwrap();
    let place = node.worker.lane.read(slot, written, written, 1).unwrap()[0].place;
    let path = files.paths().into_iter().find(|path| path.contains("/seg-")).unwrap();
    let spoil = || assert!(files.rot(&path, u64::from(place.offset) + 50, 1));
    spoil();
    ARE_MENDED.set(true);
    let _answer = node.order(|reply| Order::Revive { group: GROUP, reply });
    node.turn(Duration::from_millis(1));
    assert!(node.worker.groups.get(slot).unwrap().applied < written, "it cannot be read");
    spoil(); // and is as it was
    node.turn(Duration::from_secs(1));
    assert_eq!(node.quarantine(), None);
    assert!(node.status().unwrap().applied > written);
}

#[test]
fn a_leader_whose_quarantine_is_over_keeps_its_lead() {
    let (mut node, term) = leader_in_quarantine();
    ARE_MENDED.set(true);
    node.revive().unwrap();
    node.settle();
    ARE_MENDED.set(false);
    assert_eq!(node.quarantine(), None);
    let beat = |node: &mut Node| {
        for from in [2, 3] {
            node.hear(from, Message::HeartbeatAck { term, round: 0, fortifies: true, quiesce: false });
        }
        node.turn(TIMEOUT / 5);
        node.settle();
    };
    // The transfer under way fails, and no other one is started.
    (0..20).for_each(|_| beat(&mut node));
    for _ in 0..400 {
        beat(&mut node);
        assert_eq!(node.status().unwrap().transfer_to, None);
    }
}
