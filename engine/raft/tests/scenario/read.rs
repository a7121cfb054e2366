//! Linearizable reads by read index (thesis, section 6.4). For every read of every test, the cluster checks
//! that the read index is not below what was committed anywhere when the read arrived.

use raftwerk_frame::{Index, Message};

use crate::cluster::{Cluster, Options, Packet, T};

/// Thesis, section 6.4, step 1: a new leader does not know what is committed before an entry of its own term
/// is.
#[test]
fn a_read_waits_for_an_entry_of_the_leaders_own_term() {
    let mut cluster = Cluster::with_one_log(Options::of(3), &[1, 1, 1]);
    cluster.campaign(1);
    cluster.deliver_where(|packet| packet.is_vote() || packet.is_pre_vote());
    assert!(cluster.group(1).is_leader());
    let token = cluster.read(1, 1);
    cluster.deliver_where(Packet::is_heartbeat);
    assert_eq!(cluster.replica(1).reads, [], "a quorum has answered, and yet");
    cluster.settle();
    assert_eq!(cluster.group(1).commit(), Index(4));
    assert_eq!(cluster.replica(1).reads, [(token, Index(4))]);
}

/// Step 2: a leader that does not reach a quorum may have been replaced.
#[test]
fn a_read_needs_a_quorum_that_answers_after_it_came() {
    let mut cluster = Cluster::new(Options::of(5));
    cluster.elect(1);
    cluster.run(T);
    let token = cluster.read(1, 1);
    assert_eq!(cluster.replica(1).reads, []);
    let acks = |packet: &Packet| matches!(packet.message(), Some(Message::HeartbeatAck { .. }));
    cluster.deliver_where(|packet| packet.is_heartbeat() && !acks(packet));
    cluster.deliver_where(|packet| acks(packet) && packet.from == 2);
    assert_eq!(cluster.replica(1).reads, [], "two of five");
    cluster.deliver_where(|packet| acks(packet) && packet.from == 3);
    assert_eq!(cluster.replica(1).reads, [(token, cluster.group(1).commit())], "three of five");
}

/// A reply to an older round does not confirm the leader now.
#[test]
fn an_answer_to_an_older_round_does_not_count() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.read(1, 1);
    let at = cluster.network.iter().position(|packet| packet.to == 2 && packet.is_heartbeat()).unwrap();
    cluster.deliver(at);
    let late = cluster.network.back().unwrap().clone();
    cluster.settle();
    cluster.read(1, 1);
    cluster.drop_where(|_| true);
    cluster.network.push_back(late);
    cluster.settle();
    assert_eq!(cluster.replica(1).reads.len(), 1);
    // The next heartbeats repeat the round.
    cluster.run(T / 5);
    assert_eq!(cluster.replica(1).reads.len(), 2);
}

/// Section 6.4: "one round of heartbeats for any number of reads".
#[test]
fn the_reads_of_a_turn_share_one_round() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    let first = cluster.read(1, 100);
    assert_eq!(cluster.count_where(Packet::is_heartbeat), 2, "one for each follower");
    cluster.settle();
    let answered: Vec<u64> = cluster.replica(1).reads.iter().map(|(token, _)| *token).collect();
    assert_eq!(answered, (first..first + 100).collect::<Vec<_>>());
}

#[test]
fn a_leader_that_steps_down_rejects_the_reads_that_wait() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.isolate(1);
    let first = cluster.read(1, 3);
    cluster.run(3 * T);
    assert!(!cluster.group(1).is_leader());
    assert_eq!(
        (&cluster.replica(1).reads[..], &cluster.replica(1).reads_rejected[..]),
        (&[][..], &[first, first + 1, first + 2][..])
    );
}

/// The stale leader of a partition answers no read: the others may have moved on.
#[test]
fn a_deposed_leader_that_does_not_know_it_answers_no_read() {
    let mut cluster = Cluster::new(Options { check_quorum: false, ..Options::of(3) });
    cluster.elect(1);
    cluster.isolate(1);
    cluster.elect(2);
    cluster.propose(2, 3);
    cluster.settle();
    assert!(cluster.group(1).is_leader());
    let token = cluster.read(1, 1);
    cluster.run(3 * T);
    assert_eq!(cluster.replica(1).reads, []);
    cluster.heal();
    cluster.run(T);
    assert_eq!(
        (&cluster.replica(1).reads[..], &cluster.replica(1).reads_rejected[..]),
        (&[][..], &[token][..])
    );
}

#[test]
fn a_follower_rejects_a_read_at_once() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    let token = cluster.read(2, 1);
    assert_eq!(cluster.replica(2).reads_rejected, [token]);
}

/// A group of one is its own quorum; but it too must have committed an entry of its term.
#[test]
fn a_group_of_one_answers_without_asking() {
    let mut cluster = Cluster::new(Options { syncs_at_once: false, ..Options::of(1) });
    cluster.campaign(1);
    let token = cluster.read(1, 1);
    assert_eq!(cluster.replica(1).reads, []);
    cluster.sync(1);
    assert_eq!(cluster.replica(1).reads, [(token, Index(1))]);
    cluster.read(1, 1);
    assert_eq!(cluster.replica(1).reads.len(), 2, "in the same turn");
}

/// Thesis, section 6.4: any replica can serve reads, with one message to its leader and back for all reads of
/// a turn.
#[test]
fn a_follower_answers_many_reads_with_one_question() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.propose(1, 2);
    cluster.settle();
    let first = cluster.on_follower_read(2, 5);
    let questions = |cluster: &Cluster| {
        cluster.count_where(|packet| matches!(packet.message(), Some(Message::ReadIndex { .. })))
    };
    assert_eq!(questions(&cluster), 1);
    cluster.settle();
    let read = &cluster.replica(2).reads;
    assert_eq!(
        read.iter().map(|(token, _)| *token).collect::<Vec<_>>(),
        (first..first + 5).collect::<Vec<_>>()
    );
    assert!(read.iter().all(|(_, index)| *index == cluster.group(1).commit()));
    assert!(cluster.replica(1).reads.is_empty(), "the leader was only asked");
}

/// A deposed leader cannot confirm itself: the read waits for the next leader, and reflects what that one has
/// committed.
#[test]
fn a_followers_read_is_asked_again_of_the_next_leader() {
    let mut cluster = Cluster::new(Options::of(5));
    cluster.elect(1);
    cluster.run(T / 2);
    // Node 2 exchanges messages with node 1 only, and node 1 with node 2 only.
    for (one, other) in [(1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5)] {
        cluster.cut_one_way(one, other);
        cluster.cut_one_way(other, one);
    }
    let token = cluster.on_follower_read(2, 1);
    cluster.settle();
    cluster.crash(3);
    cluster.restart(3);
    cluster.crash(4);
    cluster.restart(4);
    cluster.crash(5);
    cluster.restart(5);
    cluster.campaign(3);
    cluster.deliver_where(|packet| packet.from > 2 && packet.to > 2);
    cluster.propose(3, 1);
    cluster.deliver_where(|packet| packet.from > 2 && packet.to > 2);
    let committed = cluster.committed();
    assert_eq!(cluster.leader(), Some(3));
    assert!(cluster.replica(2).reads.is_empty(), "node 1 has no quorum to confirm it");
    cluster.heal();
    cluster.run(T / 2);
    let answer = cluster.replica(2).reads.iter().find(|(read, _)| *read == token);
    assert!(answer.is_some_and(|(_, index)| index.0 >= committed), "{answer:?}");
}

/// The request, or the reply, is lost: it is sent again after the next heartbeat.
#[test]
fn a_lost_question_is_asked_again() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.run(T / 2);
    let token = cluster.on_follower_read(2, 1);
    cluster.drop_where(|packet| matches!(packet.message(), Some(Message::ReadIndex { .. })));
    cluster.run(T / 2);
    assert_eq!(cluster.replica(2).reads.iter().filter(|(read, _)| *read == token).count(), 1);
}

/// Without a leader there is no node to send requests to, and waiting reads are rejected.
#[test]
fn a_followers_read_ends_with_its_patience() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.run(T / 2);
    cluster.isolate(2);
    let token = cluster.on_follower_read(2, 1);
    cluster.run(3 * T);
    assert_eq!(cluster.replica(2).reads_rejected, [token]);
    let token = cluster.on_follower_read(2, 1);
    assert_eq!(
        cluster.replica(2).reads_rejected.last(),
        Some(&token),
        "and at once, while it knows no leader"
    );
}
