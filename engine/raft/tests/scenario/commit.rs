//! When an entry is committed, and which replicas count as holding it (paper, sections 5.3 and 5.4.2; thesis,
//! section 10.2.1).

use raftwerk_frame::{EntryId, Index, Message, Term};
use raftwerk_raft::{Input, Opening};

use crate::cluster::disk::Entry;
use crate::cluster::{Cluster, ENTRY_BYTES, Options, Packet, T};

/// Paper, Figure 8: S1's entry of term 2 is on a majority at (c), and yet S5 may overwrite it at (d). The
/// returned cluster is in the state of (c).
fn figure_8_c() -> Cluster {
    let options = Options { pre_vote: false, append_bytes_max: ENTRY_BYTES, ..Options::of(5) };
    let mut cluster = Cluster::with_one_log(options, &[1]);
    // (a) S1 leads term 2; its entry reaches S2 only.
    cluster.campaign(1);
    cluster.deliver_where(Packet::is_vote);
    assert_eq!((cluster.leader(), cluster.group(1).term()), (Some(1), Term(2)));
    cluster.deliver_where(|packet| packet.to == 2 && packet.is_append());
    cluster.drop_where(|_| true);
    assert_eq!(cluster.log(2), [1, 2]);
    // (b) S1 crashes; S5 leads term 3 by the votes of S3, S4 and its own, and takes in an entry of its own.
    cluster.crash(1);
    cluster.campaign(5);
    cluster.deliver_where(Packet::is_vote);
    assert_eq!((cluster.leader(), cluster.group(5).term()), (Some(5), Term(3)));
    cluster.drop_where(|_| true);
    // (c) S5 crashes; S1 restarts, leads term 4, and goes on: its entry of term 2 reaches a majority.
    cluster.crash(5);
    cluster.restart(1);
    for _ in 0..2 {
        cluster.campaign(1);
        cluster.deliver_where(Packet::is_vote);
    }
    assert_eq!((cluster.leader(), cluster.group(1).term()), (Some(1), Term(4)));
    for follower in [3, 4] {
        cluster.deliver_where(|packet| {
            packet.to == follower && packet.is_append() && packet.entries()[0].term == Term(4)
        });
        cluster.deliver_where(|packet| packet.from == follower && packet.is_reject());
        cluster.deliver_where(|packet| packet.to == follower && packet.is_append());
    }
    cluster.deliver_where(Packet::is_ack);
    cluster
}

#[test]
fn figure_8_d_an_entry_of_an_older_term_on_a_majority_is_not_committed_and_may_go() {
    let mut cluster = figure_8_c();
    for node in 1..=4 {
        assert_eq!(cluster.log(node)[..2], [1, 2]);
    }
    assert_eq!((cluster.progress(1, 3).matched, cluster.progress(1, 4).matched), (Index(2), Index(2)));
    assert_eq!((cluster.group(1).commit(), cluster.committed()), (Index(0), 0));
    // (d) S1 crashes; S5 leads term 5 and overwrites.
    cluster.drop_where(|_| true);
    cluster.crash(1);
    cluster.restart(5);
    for node in 2..=4 {
        cluster.crash(node);
        cluster.restart(node);
    }
    for _ in 0..2 {
        cluster.campaign(5);
        cluster.deliver_where(Packet::is_vote);
    }
    assert_eq!((cluster.leader(), cluster.group(5).term()), (Some(5), Term(5)));
    cluster.settle();
    for node in 2..=5 {
        assert_eq!(cluster.log(node), [1, 3, 5]);
    }
    assert_eq!(cluster.committed(), 3);
}

#[test]
fn figure_8_e_an_entry_of_its_own_term_commits_those_before_it_and_s5_cannot_win() {
    let mut cluster = figure_8_c();
    cluster.settle();
    assert_eq!((cluster.log(3), cluster.committed()), (vec![1, 2, 4], 3));
    cluster.crash(1);
    cluster.restart(5);
    for node in 2..=4 {
        cluster.crash(node);
        cluster.restart(node);
    }
    for _ in 0..5 {
        cluster.campaign(5);
        cluster.settle();
        assert!(!cluster.group(5).is_leader());
    }
    let leader = cluster.run_to_leader();
    assert_ne!(leader, 5);
    cluster.run(T);
    assert_eq!(cluster.log(5)[..3], [1, 2, 4]);
}

/// Thesis, section 10.2.1: a leader writes in parallel, and counts itself only when its write is durable.
#[test]
fn a_leader_counts_itself_only_when_its_entry_is_durable() {
    let mut cluster = Cluster::new(Options { syncs_at_once: false, ..Options::of(3) });
    cluster.campaign(1);
    // Pre-votes, its vote, the other's vote, its no-op, the other's copy of it.
    for node in [1, 2, 1, 2] {
        cluster.settle();
        cluster.sync(node);
    }
    cluster.settle();
    assert_eq!(
        (cluster.leader(), cluster.group(1).last().index, cluster.committed()),
        (Some(1), Index(1), 1)
    );
    // The entry is on its way before it is durable here; one follower has it, and that is no majority.
    cluster.propose(1, 1);
    cluster.deliver_where(|packet| packet.to == 2);
    cluster.sync(2);
    cluster.settle();
    assert_eq!((cluster.progress(1, 2).matched, cluster.committed()), (Index(2), 1));
    cluster.sync(1);
    assert_eq!(cluster.committed(), 2);
    // Two followers are a majority, even while the leader's own disk hangs.
    cluster.propose(1, 1);
    cluster.settle();
    for follower in [2, 3, 3] {
        cluster.sync(follower);
        cluster.settle();
    }
    assert_eq!((cluster.group(1).durable(), cluster.committed()), (Index(2), 3));
}

/// Paper, section 5.3: a follower acknowledges entries when they are on stable storage.
#[test]
fn an_acknowledgement_leaves_only_when_the_entries_are_durable() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.options.syncs_at_once = false;
    cluster.propose(1, 2);
    cluster.sync(1);
    cluster.settle();
    assert_eq!((cluster.group(2).last().index, cluster.committed()), (Index(3), 1));
    cluster.crash(2);
    cluster.restart(2);
    assert_eq!(
        cluster.group(2).last().index,
        Index(1),
        "what was not durable is gone, and nobody was told of it"
    );
    cluster.sync(3);
    cluster.settle();
    assert_eq!(cluster.committed(), 3);
}

/// The race of asynchronous appends: the notice that an entry is durable comes after the entry was replaced.
#[test]
fn a_notice_about_a_replaced_entry_counts_for_nothing() {
    let mut cluster = Cluster::with_one_log(Options { pre_vote: false, ..Options::of(3) }, &[1]);
    cluster.options.syncs_at_once = false;
    // Node 1 writes 2@2, its no-op, and receives no notice that it became durable.
    cluster.campaign(1);
    for node in [1, 2] {
        cluster.sync(node);
        cluster.deliver_where(Packet::is_vote);
    }
    assert!(cluster.group(1).is_leader());
    cluster.drop_where(|_| true);
    let pending = cluster.replica(1).disk.pending();
    let late = cluster.make_durable(1, pending).unwrap();
    assert_eq!(late, EntryId::new(Term(2), Index(2)));
    // A leader of term 3 replaces it by its own 2@3.
    let entry = Entry { term: Term(3), payload: 3_000_001 };
    let prev = EntryId::new(Term(1), Index(1));
    cluster.say(3, 1, Message::Append { term: Term(3), prev, commit: Index(0), progress_epoch: 0 }, &[entry]);
    assert_eq!((cluster.log(1), cluster.group(1).durable()), (vec![1, 3], Index(1)));
    cluster.input(1, Input::Durable { id: late });
    cluster.finish(1);
    assert_eq!(cluster.group(1).durable(), Index(1), "2@2 is durable, and 2@3 is not");
    assert_eq!(cluster.count_where(Packet::is_ack), 0);
    cluster.sync(1);
    assert_eq!(cluster.group(1).durable(), Index(2));
    assert_eq!(cluster.count_where(Packet::is_ack), 1);
}

/// The same race for a leader: its no-op replaces an entry of an older term.
#[test]
fn a_leader_does_not_count_itself_for_an_entry_that_a_late_notice_names() {
    let mut cluster = Cluster::with_one_log(Options { pre_vote: false, ..Options::of(3) }, &[1]);
    cluster.options.syncs_at_once = false;
    let old = [1, 2].map(|at| Entry { term: Term(2), payload: 2_000_000 + at });
    let prev = EntryId::new(Term(1), Index(1));
    cluster.say(2, 1, Message::Append { term: Term(2), prev, commit: Index(0), progress_epoch: 0 }, &old);
    let late = EntryId::new(Term(2), Index(3));
    let new = Entry { term: Term(3), payload: 3_000_001 };
    cluster.say(3, 1, Message::Append { term: Term(3), prev, commit: Index(0), progress_epoch: 0 }, &[new]);
    cluster.drop_where(|_| true);
    cluster.campaign(1);
    for node in [1, 2] {
        cluster.sync(node);
        cluster.deliver_where(Packet::is_vote);
    }
    assert_eq!((cluster.group(1).is_leader(), cluster.log(1)), (true, vec![1, 3, 4]));
    let durable = cluster.group(1).durable();
    cluster.input(1, Input::Durable { id: late });
    cluster.finish(1);
    assert_eq!(cluster.group(1).durable(), durable, "3@2 was durable once; 3@4 is not");
    cluster.settle();
    cluster.sync(2);
    cluster.settle();
    assert_eq!(cluster.committed(), 0);
    cluster.sync(1);
    assert_eq!(cluster.committed(), 3);
}

/// Paper, section 5.3: followers learn the commit index, also when nothing more is proposed.
#[test]
fn followers_learn_of_a_commit_without_waiting_for_a_heartbeat() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.propose(1, 4);
    cluster.settle();
    for node in cluster.nodes() {
        assert_eq!(cluster.group(node).commit(), Index(5));
    }
}

/// A term that the driver opens: an old entry is not committed by counting before that, and no read is answered.
#[test]
fn a_term_that_the_driver_opens_begins_with_its_first_proposal() {
    let mut cluster = Cluster::new(Options { opening: Opening::Driver, ..Options::of(3) });
    cluster.elect(1);
    assert_eq!((cluster.group(1).last().index, cluster.committed()), (Index(0), 0), "nothing was written");
    cluster.propose(1, 1);
    cluster.drop_where(|packet| packet.to == 3 || packet.from == 3);
    cluster.deliver_where(Packet::is_append);
    cluster.crash(1);
    cluster.drop_where(|_| true);
    cluster.elect_among(2);
    let token = cluster.read(2, 1);
    cluster.run(T / 2);
    assert_eq!(cluster.log(3), cluster.log(2), "all that live hold it");
    assert_eq!(cluster.committed(), 0, "and yet it is another term's");
    assert!(cluster.replica(2).reads.is_empty());
    cluster.propose(2, 1);
    cluster.run(T / 2);
    assert_eq!(cluster.committed(), 2);
    assert_eq!(cluster.replica(2).reads.first().map(|(read, _)| *read), Some(token));
}
