//! Bounds: appends on their way to a peer, proposals that wait for a quorum, and the memory of an idle
//! replica.

use raftwerk_frame::Index;
use raftwerk_raft::{PeerState, Rejected};

use crate::cluster::{Cluster, ENTRY_BYTES, Options, Packet, T};

/// A leader whose followers have caught up.
fn in_step(options: Options) -> Cluster {
    let mut cluster = Cluster::new(options);
    cluster.elect(1);
    cluster.propose(1, 1);
    cluster.settle();
    assert_eq!(cluster.progress(1, 2).state, PeerState::Replicate);
    cluster
}

#[test]
fn the_window_bounds_the_bytes_on_their_way() {
    let options = Options {
        window_bytes: 5 * ENTRY_BYTES,
        window_messages: 100,
        append_bytes_max: 2 * ENTRY_BYTES,
        ..Options::of(3)
    };
    let mut cluster = in_step(options);
    for _ in 0..20 {
        cluster.propose(1, 1);
        assert!(cluster.progress(1, 2).in_flight_bytes <= 5 * ENTRY_BYTES);
    }
    let sent: usize =
        cluster.network.iter().filter(|packet| packet.to == 2).map(|packet| packet.entries().len()).sum();
    assert_eq!(sent, 5);
    cluster.settle();
    assert_eq!((cluster.committed(), cluster.progress(1, 2).in_flight_bytes), (22, 0));
}

#[test]
fn the_window_bounds_the_messages_on_their_way_and_each_append() {
    let options = Options { window_messages: 3, append_bytes_max: 2 * ENTRY_BYTES, ..Options::of(3) };
    let mut cluster = in_step(options);
    cluster.propose(1, 20);
    assert_eq!(cluster.count_where(|packet| packet.to == 2 && packet.is_append()), 3);
    assert!(cluster.network.iter().all(|packet| packet.entries().len() <= 2));
    cluster.settle();
    assert_eq!(cluster.committed(), 22);
}

/// A follower that writes without a sync (the simulator's relaxed seed 268633067795) is sent more as it
/// writes; nothing is committed.
#[test]
fn what_is_written_opens_the_window_and_commits_nothing() {
    let mut cluster =
        in_step(Options { window_messages: 1, append_bytes_max: ENTRY_BYTES, ..Options::of(3) });
    cluster.propose(1, 20);
    let (term, committed) = (cluster.group(1).term(), cluster.committed());
    for index in 3..=10 {
        let is_sent = |packet: &Packet| packet.to == 2 && packet.is_append();
        assert_eq!(cluster.count_where(is_sent), index - 2, "as many as were written, and one");
        let matched = Index(index as u64);
        cluster.give(2, 1, raftwerk_frame::Message::AppendWritten { term, matched, progress_epoch: 0 });
    }
    assert_eq!((cluster.committed(), cluster.progress(1, 2).matched), (committed, Index(2)));
    cluster.settle();
    assert_eq!(cluster.committed(), 22);
}

/// An entry larger than the window still goes, alone.
#[test]
fn one_entry_always_fits() {
    let options = Options { window_bytes: 1, append_bytes_max: 1, ..Options::of(3) };
    let mut cluster = in_step(options);
    cluster.propose(1, 3);
    assert_eq!(cluster.count_where(|packet| packet.to == 2 && packet.is_append()), 1);
    cluster.settle();
    assert_eq!(cluster.committed(), 5);
}

/// A slow peer fills its own window and no other.
#[test]
fn a_slow_peer_does_not_hold_back_the_others() {
    let mut cluster = in_step(Options { window_messages: 2, ..Options::of(3) });
    for _ in 0..10 {
        cluster.propose(1, 1);
        cluster.deliver_where(|packet| packet.to != 3);
    }
    assert_eq!(cluster.committed(), 12);
    assert!(cluster.count_where(|packet| packet.to == 3 && packet.is_append()) <= 2);
    cluster.settle();
    cluster.run(T);
    assert_eq!(cluster.log(3), cluster.log(1));
}

#[test]
fn too_much_that_waits_for_a_quorum_is_busy_and_nothing_happened() {
    let mut cluster = in_step(Options { uncommitted_bytes_max: 4 * ENTRY_BYTES, ..Options::of(3) });
    cluster.isolate(1);
    cluster.propose(1, 3);
    let last = cluster.group(1).last();
    cluster.propose(1, 2);
    assert_eq!(cluster.replica(1).rejected, Some(Rejected::Busy));
    assert_eq!(cluster.group(1).last(), last);
    cluster.replica_mut(1).rejected = None;
    cluster.propose(1, 1);
    assert_eq!(cluster.replica(1).rejected, None, "what fits is taken");
    // Appends were lost; when the leader has detected that, everything commits, and the budget is free again.
    cluster.drop_where(|_| true);
    cluster.heal();
    cluster.run(T);
    assert_eq!(cluster.committed(), 6);
    cluster.propose(1, 4);
    assert_eq!(cluster.replica(1).rejected, None);
}

/// Proposals that waited when the leadership was lost do not count when it is won again.
#[test]
fn a_leader_of_a_new_term_begins_with_an_empty_measure() {
    let mut cluster = in_step(Options { uncommitted_bytes_max: 4 * ENTRY_BYTES, ..Options::of(3) });
    cluster.isolate(1);
    cluster.propose(1, 4);
    cluster.run(3 * T);
    assert!(!cluster.group(1).is_leader());
    cluster.heal();
    cluster.run(T);
    for node in [2, 3] {
        cluster.crash(node);
        cluster.restart(node);
    }
    // Its log is as fresh as theirs once it has followed the leader in between.
    cluster.run_to_leader();
    cluster.run(T);
    let leader = cluster.leader().unwrap();
    if leader != 1 {
        cluster.give(leader, 1, raftwerk_frame::Message::TimeoutNow { term: cluster.group(1).term() });
        cluster.settle();
    }
    assert_eq!(cluster.leader(), Some(1));
    cluster.replica_mut(1).rejected = None;
    cluster.isolate(1);
    cluster.propose(1, 2);
    cluster.propose(1, 2);
    assert_eq!(cluster.replica(1).rejected, None);
}

#[test]
fn one_proposal_is_always_let_in_however_large() {
    let mut cluster = in_step(Options { uncommitted_bytes_max: 4 * ENTRY_BYTES, ..Options::of(3) });
    cluster.propose(1, 50);
    assert_eq!(cluster.replica(1).rejected, None);
    cluster.propose(1, 1);
    assert_eq!(cluster.replica(1).rejected, Some(Rejected::Busy));
    cluster.settle();
    assert_eq!(cluster.committed(), 52);
}

/// Payloads without bytes are entries all the same: waiting ones are bounded, too.
#[test]
fn empty_payloads_count_against_the_bound() {
    let mut cluster = in_step(Options { uncommitted_bytes_max: 100, ..Options::of(3) });
    cluster.isolate(1);
    let taken = (0..500).filter(|_| {
        cluster.replica_mut(1).rejected = None;
        cluster.input(1, raftwerk_raft::Input::Propose { count: 1, bytes: 0 });
        cluster.finish(1);
        cluster.replica(1).rejected.is_none()
    });
    assert_eq!(taken.count(), 100);
}

/// A follower takes no proposals, and names the leader.
#[test]
fn a_follower_names_the_leader() {
    let mut cluster = in_step(Options::of(3));
    cluster.propose(2, 1);
    assert_eq!(cluster.replica(2).rejected, Some(Rejected::NotLeader { leader: cluster.group(2).leader() }));
    assert_eq!(cluster.group(2).leader(), Some(raftwerk_frame::NodeId(1)));
}

/// For a follower that is gone, a leader keeps a bounded number of unanswered appends.
#[test]
fn what_a_dead_peer_has_not_answered_is_bounded() {
    let mut cluster = in_step(Options::of(3));
    cluster.crash(3);
    for _ in 0..200 {
        cluster.propose(1, 1);
        cluster.deliver_where(Packet::is_append);
        cluster.deliver_where(Packet::is_ack);
    }
    let progress = cluster.progress(1, 3);
    assert!(progress.in_flight_bytes <= cluster.options.window_bytes);
    assert_eq!(cluster.group(1).commit(), Index(202));
}
