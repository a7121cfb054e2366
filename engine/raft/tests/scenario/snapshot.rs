//! Replicas that are too far behind for the log (paper, section 7).

use raftwerk_frame::{EntryId, Index, Message, NodeId, Term};
use raftwerk_raft::{Effects, Input, PeerState};

use crate::cluster::disk::Entry;
use crate::cluster::{Body, Cluster, Options, Packet, T};

/// Node 1 leads, node 3 is down, and the log that node 3 needs is compacted.
fn far_behind() -> Cluster {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.crash(3);
    cluster.propose(1, 9);
    cluster.run(T);
    cluster.checkpoint(1, true);
    cluster
}

/// Lets time pass until a snapshot for node 3 is under way, and nothing else is.
fn until_snapshot(cluster: &mut Cluster) {
    for _ in 0..5 * T {
        cluster.advance(1);
        cluster.deliver_where(|packet| !packet.is_snapshot());
        if cluster.count_where(Packet::is_snapshot) > 0 {
            return;
        }
    }
    panic!("no snapshot is sent");
}

#[test]
fn a_replica_that_is_far_behind_catches_up_by_snapshot_and_log() {
    let mut cluster = far_behind();
    cluster.propose(1, 4);
    cluster.restart(3);
    until_snapshot(&mut cluster);
    assert_eq!(cluster.progress(1, 3).state, PeerState::Snapshot);
    cluster.settle();
    assert_eq!((cluster.seen.installed, cluster.group(3).compacted().index), (1, Index(10)));
    assert_eq!(cluster.group(3).last(), cluster.group(1).last());
    assert_eq!(cluster.progress(1, 3).state, PeerState::Replicate);
    cluster.run(T);
    assert_eq!(cluster.group(3).commit(), Index(14));
    cluster.crash(3);
    cluster.restart(3);
    assert_eq!(cluster.group(3).applied(), Index(10), "it begins where its snapshot ends");
}

/// Nothing is left of the log: the snapshot ends exactly at the leader's last entry.
#[test]
fn a_snapshot_at_the_leaders_last_index_is_followed_by_new_entries() {
    let mut cluster = far_behind();
    assert_eq!(cluster.group(1).compacted(), cluster.group(1).last());
    cluster.restart(3);
    until_snapshot(&mut cluster);
    cluster.settle();
    assert_eq!(cluster.group(3).last(), cluster.group(1).last());
    cluster.propose(1, 2);
    cluster.settle();
    assert_eq!(cluster.log(3).len(), 2);
    assert_eq!((cluster.seen.installed, cluster.group(3).commit()), (1, Index(12)));
}

/// Its last entry is committed here: nothing is installed, and the acknowledgement carries this replica's
/// commit index.
#[test]
fn a_snapshot_older_than_the_commit_index_is_not_installed() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.propose(1, 5);
    cluster.run(T);
    let term = cluster.group(1).term();
    let (last, configuration) = (cluster.group(2).last(), cluster.group(2).configuration().clone());
    let id = EntryId::new(term, Index(3));
    cluster.input(
        2,
        Input::SnapshotReceived {
            from: NodeId(1),
            term,
            id,
            configuration: &configuration,
            progress_epoch: 0,
        },
    );
    cluster.finish(2);
    assert_eq!((cluster.seen.installed, cluster.group(2).last()), (0, last));
    assert_eq!(
        cluster.network.back().unwrap().message(),
        Some(Message::AppendAck { term, matched: Index(6), progress_epoch: 0 })
    );
}

/// Paper, section 7: "If instead the follower receives a snapshot that describes a prefix of its log … entries following
/// the snapshot are still valid and must be retained."
#[test]
fn a_snapshot_of_a_prefix_keeps_the_tail() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.isolate(3);
    cluster.propose(1, 5);
    cluster.settle();
    cluster.heal();
    cluster.cut_one_way(2, 1);
    // Node 3 holds everything, and has not received the commit index.
    let term = cluster.group(1).term();
    let entries = cluster.replica(1).disk.written.entries[1..].to_vec();
    cluster.say(
        1,
        3,
        Message::Append { term, prev: EntryId::new(term, Index(1)), commit: Index(1), progress_epoch: 0 },
        &entries,
    );
    cluster.drop_where(|_| true);
    assert_eq!((cluster.group(3).commit(), cluster.group(3).last().index), (Index(1), Index(6)));
    cluster.checkpoint(2, false);
    let snapshot = cluster.replica(2).disk.written.checkpoint;
    assert!(snapshot.id.index > Index(1));
    cluster.network.push_back(Packet {
        from: 1,
        to: 3,
        logs: None,
        body: Body::Snapshot { term, snapshot, progress_epoch: 0 },
    });
    cluster.settle();
    assert_eq!((cluster.seen.installed, cluster.seen.tails_kept), (1, 1));
    assert_eq!((cluster.group(3).compacted(), cluster.group(3).last().index), (snapshot.id, Index(6)));
}

/// A snapshot from a leader of an older term is refused, and the sender learns the term.
#[test]
fn a_snapshot_of_a_stale_term_is_refused() {
    let mut cluster = far_behind();
    cluster.restart(3);
    until_snapshot(&mut cluster);
    let late = cluster.network.iter().position(Packet::is_snapshot).unwrap();
    let late = cluster.network.remove(late).unwrap();
    cluster.isolate(1);
    cluster.run(10 * T);
    let new = cluster.leader().unwrap();
    assert_eq!(new, 2);
    let term = cluster.group(3).term();
    cluster.heal();
    let installed = cluster.seen.installed;
    cluster.network.push_front(late);
    cluster.deliver(0);
    assert_eq!(cluster.seen.installed, installed);
    let answer = Message::HeartbeatAck { term, round: 0, fortifies: false, quiesce: false };
    assert_eq!(cluster.network.back().unwrap().message(), Some(answer));
    cluster.run(2 * T);
    assert_eq!(cluster.log(3), cluster.log(2));
}

/// A leader does not install a snapshot of a sender that claims to lead its term.
#[test]
fn a_leader_ignores_a_snapshot_of_its_own_term() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    let (term, configuration) = (cluster.group(1).term(), cluster.group(1).configuration().clone());
    let id = EntryId::new(term, Index(50));
    cluster.input(
        1,
        Input::SnapshotReceived {
            from: NodeId(2),
            term,
            id,
            configuration: &configuration,
            progress_epoch: 0,
        },
    );
    cluster.finish(1);
    assert_eq!((cluster.leader(), cluster.group(1).last().index), (Some(1), Index(1)));
}

/// An unreachable peer is not sent one snapshot after another.
#[test]
fn a_failed_snapshot_is_tried_again_only_when_the_peer_is_heard() {
    let mut cluster = far_behind();
    cluster.restart(3);
    until_snapshot(&mut cluster);
    cluster.isolate(3);
    let is_snapshot = Packet::is_snapshot;
    cluster.drop_where(is_snapshot);
    for _ in 0..10 {
        cluster.run(T);
        assert_eq!(cluster.progress(1, 3).state, PeerState::Probe);
        assert_eq!(cluster.count_where(is_snapshot), 0);
    }
    cluster.heal();
    cluster.run(T);
    assert_eq!((cluster.seen.installed, cluster.group(3).commit()), (1, Index(10)));
}

/// Listed once; not again while it is on its way, however long that takes.
#[test]
fn one_snapshot_is_on_its_way_to_a_peer_at_a_time() {
    let mut cluster = far_behind();
    cluster.restart(3);
    until_snapshot(&mut cluster);
    for _ in 0..10 * T {
        cluster.advance(1);
        cluster.deliver_where(|packet| !packet.is_snapshot());
        assert_eq!(cluster.count_where(Packet::is_snapshot), 1);
    }
    cluster.settle();
    assert_eq!(cluster.group(3).commit(), Index(10));
}

/// While a snapshot travels the leader compacts further: on arrival the peer is still behind, and gets the next.
#[test]
fn a_leader_that_compacts_beyond_a_travelling_snapshot_sends_another() {
    let mut cluster = far_behind();
    cluster.restart(3);
    until_snapshot(&mut cluster);
    cluster.propose(1, 5);
    cluster.deliver_where(|packet| !packet.is_snapshot());
    cluster.checkpoint(1, true);
    assert_eq!(cluster.group(1).compacted().index, Index(15));
    cluster.run(2 * T);
    assert_eq!((cluster.seen.installed, cluster.group(3).commit()), (2, Index(15)));
}

/// The snapshot arrived, and the acknowledgement was lost.
#[test]
fn a_lost_answer_to_a_snapshot_does_not_leave_the_peer_behind() {
    for compacts_again in [false, true] {
        let mut cluster = far_behind();
        cluster.restart(3);
        until_snapshot(&mut cluster);
        cluster.deliver_where(Packet::is_snapshot);
        cluster.drop_where(Packet::is_ack);
        assert_eq!((cluster.seen.installed, cluster.group(3).commit()), (1, Index(10)));
        cluster.propose(1, 2);
        cluster.settle();
        if compacts_again {
            cluster.checkpoint(1, true);
        }
        cluster.run(2 * T);
        assert_eq!(cluster.group(3).commit(), Index(12), "compacts again: {compacts_again}");
        assert_eq!(cluster.progress(1, 3).state, PeerState::Replicate);
    }
}

/// An uncommitted tail that conflicts is dropped when the snapshot is installed, durable or not.
#[test]
fn a_conflicting_tail_gives_way_to_the_snapshot() {
    let mut cluster = Cluster::new(Options { syncs_at_once: false, pre_vote: false, ..Options::of(3) });
    let old = [1, 2].map(|at| Entry { term: Term(1), payload: at });
    cluster.say(
        2,
        3,
        Message::Append { term: Term(1), prev: EntryId::default(), commit: Index(0), progress_epoch: 0 },
        &old,
    );
    cluster.drop_where(|_| true);
    let configuration = cluster.group(3).configuration().clone();
    let id = EntryId::new(Term(2), Index(1));
    let mut group = cluster.group(3).clone();
    let mut effects = Effects::default();
    let input = Input::SnapshotReceived {
        from: NodeId(1),
        term: Term(2),
        id,
        configuration: &configuration,
        progress_epoch: 0,
    };
    group.step(cluster.now, input, &mut effects);
    let install = effects.install.clone().unwrap();
    assert_eq!((install.id, install.keep_tail, group.last()), (id, false, id));
    // Durability notices of the dropped entries do not count.
    group.step(cluster.now, Input::Durable { id: EntryId::new(Term(1), Index(2)) }, &mut effects);
    assert_eq!(group.durable(), Index(1));
}
