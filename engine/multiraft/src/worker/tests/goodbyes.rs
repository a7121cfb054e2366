//! What clients are answered when a replica is removed, rebuilt, or leads no longer; and what of it remains.

use raftwerk_raft::{Reconfigured, Refusal};
use raftwerk_wal::OnDamage;

use super::*;
use crate::{Admission, Change, Reconfiguration, ReconfigureError, TransferError};

#[test]
fn proposals_of_a_group_that_is_removed_end_with_an_outcome_that_is_unknown() {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    node.lead_with_one(1, 8);
    let mut pending = node.propose(b"appended, and acknowledged by none");
    node.settle();
    assert!(pending.try_recv().is_err());
    let mut gone = node.order(|reply| Order::Remove { group: GROUP, reply });
    node.settle();
    assert_eq!(gone.try_recv(), Ok(Ok(())));
    assert_eq!(pending.try_recv().unwrap(), Err(ProposeError::Unknown));
}

#[test]
fn a_change_ends_with_an_outcome_that_is_unknown_when_the_leader_steps_down() {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    let term = node.lead_with_one(1, 8);
    let wish = Reconfiguration {
        admission: Admission::Unchecked,
        ..Reconfiguration::of([Change::Remove(NodeId(3))])
    };
    let mut changed = node.order(|reply| Order::Reconfigure { group: GROUP, wish, reply });
    node.settle();
    assert!(changed.try_recv().is_err(), "it is not committed");
    node.hear(3, Message::Heartbeat { term: term.next(), commit: Index(0), round: 0, quiesce: false });
    node.settle();
    assert_eq!(node.status().unwrap().role, Role::Follower);
    assert_eq!(changed.try_recv().unwrap(), Err(ReconfigureError::Unknown));
}

/// The machine has panicked before the log was damaged: the entries that the log receives again do not bring
/// a state back.
#[test]
fn a_replica_in_quarantine_that_loses_entries_stays_in_quarantine() {
    let files = MemoryFiles::new();
    let mut node = Node::open_with(&files, u64::MAX, |settings, options| {
        settings.scrub_bytes_per_second = 0;
        (options.on_damage, options.recent_bytes) = (OnDamage::Fence, 0);
    });
    node.create(&[1, 2, 3]);
    node.hear_entries(4, EntryId::default(), &[b"panic".to_vec()], 1);
    node.settle();
    assert!(node.status().unwrap().quarantine.is_some());
    for from in (1..61).step_by(5) {
        node.hear_append(4, EntryId::new(Term(4), Index(from)), 5, 3000, 1);
        node.settle();
    }
    let slot = node.worker.groups.slot_of(GROUP).unwrap();
    let place = node.worker.lane.read(slot, Index(16), Index(16), 1).unwrap()[0].place;
    let path = files.paths().into_iter().find(|path| path.contains("/seg-")).unwrap();
    assert!(files.rot(&path, u64::from(place.offset) + 70, 1));
    node.worker.settings.scrub_bytes_per_second = 64 << 20;
    for _ in 0..40 {
        node.turn(TIMEOUT / 5);
        node.settle();
    }
    assert_eq!(node.worker.env.metrics.read().replicas_fenced, 1);
    assert!(node.status().unwrap().quarantine.is_some());

    // A leader of a later term sends the entries again, and then nothing: a replica without a state does not
    // campaign.
    let status = node.status().unwrap();
    let (term, last) = (status.term.0 + 2, status.last);
    node.hear_append(term, last, 15, 1000, last.index.0 + 15);
    node.settle();
    assert_eq!(node.status().unwrap().last.index.0, last.index.0 + 15);
    node.said();
    for _ in 0..40 {
        node.turn(TIMEOUT / 5);
        node.settle();
    }
    let stands = |said: &Message| matches!(said, Message::PreVote { .. } | Message::Vote { .. });
    assert!(!node.said().iter().any(stands));
}

#[test]
fn a_replica_that_follows_refuses_to_hand_over_a_lead() {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    node.create(&[1, 2, 3]);
    let mut told = node.order(|reply| Order::Transfer { group: GROUP, to: NodeId(2), reply });
    node.turn(Duration::ZERO);
    assert!(matches!(told.try_recv().unwrap(), Err(TransferError::Refused(_))));
}

/// The log may fail in the middle of a turn: a proposal that is queued by then, and has no entry, is refused.
#[test]
fn a_proposal_that_the_log_does_not_take_is_refused() {
    let mut node = Node::alone(&MemoryFiles::new(), u64::MAX);
    let mut before = node.propose(b"on its way");
    node.turn(Duration::ZERO);
    let mut queued = node.propose(b"staged");
    node.worker.count_requests();
    node.worker.accept_requests();
    node.files.fail_change(node.files.changes() + 1, u64::MAX, io::ErrorKind::Other);
    node.files.fail_change(1, u64::MAX, io::ErrorKind::Other);
    while node.disk.inner.lock().unwrap().run_appends() {}
    assert!(node.worker.lane.poll().is_err());
    node.worker.flush_groups();
    assert_eq!(before.try_recv().unwrap(), Err(ProposeError::Unknown), "it has an entry");
    assert_eq!(queued.try_recv().unwrap(), Err(ProposeError::Poisoned));
}

#[test]
fn a_peer_that_every_worker_was_asked_about_is_noted_by_the_one_that_asked_last() {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    let (reply, mut told) = oneshot::channel();
    let peer = PeerNote { node: NodeId(2), log: LogId(9) };
    node.worker.replace_peer(peer, 1, reply);
    assert!(!node.inbox.has_orders(), "there is no other worker to ask");
    node.settle();
    assert_eq!(told.try_recv().unwrap(), Ok(()));
}

/// A lane is over its bound when it holds more than that, not when it holds exactly as much.
#[test]
fn a_lane_at_its_bound_asks_no_group_for_a_checkpoint() {
    let mut node = Node::alone(&MemoryFiles::new(), u64::MAX);
    for _ in 0..40 {
        node.write(&[1; 4096]).unwrap();
    }
    let checkpoints = |node: &Node| node.worker.env.metrics.read().checkpoints;
    node.worker.settings.lane_bytes_max = node.worker.lane.log_bytes();
    node.settle();
    assert_eq!(checkpoints(&node), 0);
    node.worker.settings.lane_bytes_max -= 1;
    node.settle();
    assert_eq!(checkpoints(&node), 1);
}

#[test]
fn a_change_that_comes_to_nothing_while_newcomers_are_waited_for_is_refused() {
    let mut node = Node::alone(&MemoryFiles::new(), u64::MAX);
    node.receive(4, 5, 0, None);
    node.settle();
    let wish = Reconfiguration::of([Change::Voter(NodeId(4))]);
    let mut told = node.order(|reply| Order::Reconfigure { group: GROUP, wish, reply });
    node.settle();
    assert!(told.try_recv().is_err(), "it waits for the newcomer");
    let refusal = Refusal::QuorumAtRisk;
    let reconfigured = Some(Reconfigured::Abandoned(refusal));
    let slot = node.worker.groups.slot_of(GROUP).unwrap();
    let replica = node.worker.groups.get_mut(slot).unwrap();
    node.worker.calls.clients().answer_changes(replica, reconfigured, None, None);
    assert_eq!(told.try_recv().unwrap(), Err(ReconfigureError::Refused(refusal)));
}
