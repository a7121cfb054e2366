//! Logs made equal (paper, section 5.3): divergence, back-tracking, and appends that come late, twice or out of order.

use raftwerk_frame::{EntryId, Index, Message, NodeId, Term};
use raftwerk_raft::{Effects, Input, PeerState};

use crate::cluster::disk::Entry;
use crate::cluster::{Cluster, Options, Packet, T};

/// Paper, Figure 7: the leader for term 8, and followers (a) to (f) that lack entries, have too many, or both.
const FIGURE_7: [&[u64]; 7] = [
    &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6],
    &[1, 1, 1, 4, 4, 5, 5, 6, 6],
    &[1, 1, 1, 4],
    &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    &[1, 1, 1, 4, 4, 4, 4],
    &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
];

/// How many conflicting terms `log` has after its common prefix with the leader's log.
fn conflicting_terms(log: &[u64], leader: &[u64]) -> usize {
    let common = log.iter().zip(leader).take_while(|(mine, theirs)| mine == theirs).count();
    let mut terms = log[common..].to_vec();
    terms.dedup();
    terms.len()
}

#[test]
fn figure_7_every_divergent_log_converges_on_the_leaders() {
    let mut cluster = Cluster::with_logs(Options::of(7), &FIGURE_7, &[7; 7]);
    cluster.elect(1);
    let log: Vec<u64> = [FIGURE_7[0], &[8]].concat();
    for node in cluster.nodes() {
        assert_eq!(cluster.log(node), log, "node {node}");
    }
    assert_eq!(cluster.committed(), 11);
}

/// Paper, section 5.3, last paragraphs: "one AppendEntries RPC will be required for each term with conflicting entries".
#[test]
fn figure_7_a_follower_rejects_at_most_once_for_each_conflicting_term_and_once_for_length() {
    let mut cluster = Cluster::with_logs(Options::of(7), &FIGURE_7, &[7; 7]);
    cluster.campaign(1);
    let mut rejects = [0; 8];
    while !cluster.network.is_empty() {
        if cluster.network[0].is_reject() {
            rejects[cluster.network[0].from as usize] += 1;
        }
        cluster.deliver(0);
    }
    for node in 2..=7 {
        let bound = 1 + conflicting_terms(FIGURE_7[node - 1], FIGURE_7[0]);
        assert!(rejects[node] <= bound, "node {node}: {} rejects, at most {bound}", rejects[node]);
    }
    assert_eq!(cluster.committed(), 11);
}

/// A thousand entries of one term apart, and still one or two round trips.
#[test]
fn long_divergence_is_skipped_a_term_at_a_time() {
    let leader = [vec![1; 500], vec![5; 1]].concat();
    let cases = [
        vec![1; 3],
        [vec![1; 10], vec![2; 1000]].concat(),
        [vec![1; 300], vec![3; 100], vec![4; 600]].concat(),
    ];
    for follower in cases {
        let options = Options { append_bytes_max: 10_000, window_bytes: 100_000, ..Options::of(3) };
        let mut cluster = Cluster::with_logs(options, &[&leader, &leader, &follower], &[5, 5, 5]);
        cluster.campaign(1);
        let mut rejects = 0;
        while !cluster.network.is_empty() {
            rejects += usize::from(cluster.network[0].is_reject());
            cluster.deliver(0);
        }
        assert!(rejects <= 1 + conflicting_terms(&follower, &leader), "{rejects}");
        assert_eq!(cluster.log(3), cluster.log(1));
    }
}

/// Many small terms on both sides, interleaved so that neither side's hint alone would do.
#[test]
fn interleaved_terms_converge_and_the_rejects_stay_within_their_bound() {
    let odd: Vec<u64> = (0..40).map(|at| if at < 4 { 1 } else { at / 4 * 2 + 1 }).collect();
    let even: Vec<u64> = (0..37).map(|at| if at < 4 { 1 } else { at / 4 * 2 }).collect();
    let mut cluster = Cluster::with_logs(Options::of(3), &[&odd, &odd, &even], &[30; 3]);
    cluster.campaign(1);
    let mut rejects = 0;
    while !cluster.network.is_empty() {
        rejects += usize::from(cluster.network[0].is_reject());
        cluster.deliver(0);
    }
    assert!(rejects <= 1 + conflicting_terms(&even, &odd), "{rejects}");
    assert_eq!(cluster.log(3), cluster.log(1));
}

/// A leader, and a follower 2 that has accepted and acknowledged four entries.
fn settled() -> Cluster {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.propose(1, 3);
    cluster.settle();
    cluster
}

/// Paper, section 5.3: only a conflict truncates the log. A late, short append has none.
#[test]
fn a_stale_shorter_append_does_not_cut_off_what_was_acknowledged() {
    let mut cluster = Cluster::new(Options { check_quorum: false, ..Options::of(3) });
    cluster.elect(1);
    cluster.isolate(3);
    cluster.propose(1, 1);
    let at = cluster.network.iter().position(|packet| packet.to == 2 && packet.is_append()).unwrap();
    let late = cluster.network[at].clone();
    cluster.deliver_where(|packet| packet.to == 2);
    // Acknowledged, and all of it beyond the follower's commit index.
    cluster.propose(1, 3);
    cluster.deliver_where(|packet| packet.to == 2);
    let last = cluster.group(2).last();
    assert_eq!((cluster.group(2).commit(), last.index, late.entries().len()), (Index(1), Index(5), 1));
    cluster.network.push_back(late);
    cluster.deliver_where(|packet| packet.to == 2);
    assert_eq!(cluster.group(2).last(), last);
    cluster.settle();
    assert_eq!(cluster.committed(), 5);
}

/// Paper, Figure 2: "min(leaderCommit, index of last new entry)". Entries beyond that were never compared.
#[test]
fn an_empty_append_with_a_high_commit_commits_nothing_that_was_not_compared() {
    // Node 2 has 3@1 and 4@1, which the append of the leader of term 3 does not cover.
    let cluster = Cluster::with_one_log(Options::of(3), &[1, 1, 1, 1]);
    let (mut group, mut effects) = (cluster.group(2).clone(), Effects::default());
    let (leader, prev, term) = (NodeId(3), EntryId::new(Term(1), Index(2)), Term(3));
    let message = Message::Append { term, prev, commit: Index(4), progress_epoch: 0 };
    group.step(cluster.now, Input::Message { from: leader, message, runs: &[] }, &mut effects);
    assert_eq!((group.commit(), effects.commit), (Index(2), Some((Index(1), Index(2)))));
    let ack = Message::AppendAck { term, matched: Index(2), progress_epoch: 0 };
    assert_eq!(effects.send_durable, [(leader, ack)], "nor is it acknowledged");
    // The same for a heartbeat whose commit is beyond the log.
    effects.clear();
    let message = Message::Heartbeat { term, commit: Index(9), round: 0, quiesce: false };
    group.step(cluster.now, Input::Message { from: leader, message, runs: &[] }, &mut effects);
    assert_eq!((group.commit(), effects.commit), (Index(2), None));
}

/// A heartbeat's commit never passes what the follower has acknowledged.
#[test]
fn a_heartbeat_does_not_tell_a_follower_to_commit_what_it_has_not_acknowledged() {
    let mut cluster = settled();
    cluster.isolate(3);
    cluster.propose(1, 4);
    cluster.settle();
    assert_eq!(cluster.group(1).commit(), Index(8));
    cluster.heal();
    cluster.advance(T / 10);
    let heard = |packet: &Packet| match packet.message() {
        Some(Message::Heartbeat { commit, .. }) => Some((packet.to, commit)),
        _ => None,
    };
    let told: Vec<_> = cluster.network.iter().filter_map(heard).collect();
    assert_eq!(told, [(2, Index(8)), (3, Index(4))]);
}

#[test]
fn doubled_and_reordered_answers_do_no_harm() {
    let mut cluster = Cluster::with_logs(Options::of(3), &[&[1, 1, 3], &[1, 1, 3], &[1, 2, 2, 2]], &[3; 3]);
    cluster.campaign(1);
    let mut answers = Vec::new();
    for _ in 0..30 {
        while !cluster.network.is_empty() {
            let packet = cluster.network[0].clone();
            if packet.is_ack() || packet.is_reject() || packet.is_heartbeat() {
                answers.push(packet);
            }
            cluster.deliver(0);
        }
        cluster.propose(1, 1);
    }
    // All replies again, last first.
    cluster.settle();
    for packet in answers.into_iter().rev() {
        cluster.network.push_front(packet);
        cluster.deliver(0);
        for peer in [2, 3] {
            let progress = cluster.progress(1, peer);
            assert!(progress.matched < progress.next);
        }
    }
    cluster.settle();
    assert_eq!((cluster.committed(), cluster.log(3)), (34, cluster.log(1)));
}

/// Appends that overtake each other: the later one is rejected, and both arrive in the end.
#[test]
fn appends_out_of_order_are_sent_again() {
    let mut cluster = settled();
    cluster.isolate(3);
    cluster.propose(1, 1);
    cluster.propose(1, 1);
    let order: Vec<usize> = (0..cluster.network.len()).filter(|&at| cluster.network[at].to == 2).collect();
    assert_eq!(order.len(), 2);
    cluster.deliver(order[1]);
    assert_eq!(cluster.group(2).last().index, Index(4), "a gap is not taken in");
    cluster.settle();
    assert_eq!(cluster.committed(), 6);
}

/// The reply to a heartbeat makes the leader find lost appends.
#[test]
fn a_lost_append_is_found_by_the_answer_to_a_heartbeat() {
    let mut cluster = settled();
    cluster.propose(1, 2);
    cluster.drop_where(Packet::is_append);
    cluster.run(T);
    assert_eq!(cluster.committed(), 6);
    assert!(cluster.nodes().all(|node| cluster.group(node).commit() == Index(6)));
}

/// The same when it is the acknowledgement that is lost, or a probe.
#[test]
fn a_lost_acknowledgement_or_probe_is_found_too() {
    let mut cluster = settled();
    cluster.propose(1, 2);
    cluster.deliver_where(Packet::is_append);
    cluster.drop_where(Packet::is_ack);
    cluster.run(T);
    assert_eq!(cluster.committed(), 6);
    cluster.unreachable(1, 2);
    cluster.unreachable(1, 3);
    assert_eq!(cluster.progress(1, 2).state, PeerState::Probe);
    cluster.drop_where(Packet::is_append);
    cluster.propose(1, 1);
    assert_eq!(cluster.count_where(Packet::is_append), 0, "one probe at a time");
    cluster.run(T);
    assert_eq!(cluster.committed(), 7);
    assert_eq!(cluster.progress(1, 2).state, PeerState::Replicate);
}

/// A broken connection is not waited for.
#[test]
fn a_broken_connection_starts_a_probe_at_once() {
    let mut cluster = settled();
    cluster.propose(1, 2);
    cluster.drop_where(Packet::is_append);
    for peer in [2, 3] {
        cluster.unreachable(1, peer);
    }
    cluster.settle();
    assert_eq!(cluster.committed(), 6);
}

/// A follower that lost entries which it had not acknowledged rejects the next append, and is sent them
/// again.
#[test]
fn a_follower_that_forgot_undurable_entries_is_sent_them_again() {
    let mut cluster = settled();
    cluster.options.syncs_at_once = false;
    cluster.propose(1, 3);
    cluster.settle();
    cluster.crash(2);
    cluster.restart(2);
    cluster.options.syncs_at_once = true;
    for node in [1, 3] {
        cluster.sync(node);
    }
    cluster.propose(1, 1);
    cluster.run(T);
    assert_eq!((cluster.committed(), cluster.group(2).last().index), (8, Index(8)));
}

/// An append that starts below the commit index needs no comparison, and its new entries are accepted.
#[test]
fn an_append_from_before_the_commit_index_brings_its_new_entries() {
    let mut cluster = settled();
    cluster.isolate(3);
    let term = cluster.group(1).term();
    cluster.checkpoint(2, true);
    cluster.propose(1, 2);
    cluster.drop_where(|_| true);
    let written = cluster.replica(1).disk.written.clone();
    let entries: Vec<Entry> = written.entries[1..].to_vec();
    let prev = EntryId::new(term, Index(1));
    cluster.say(1, 2, Message::Append { term, prev, commit: Index(4), progress_epoch: 0 }, &entries);
    assert_eq!(cluster.group(2).last().index, Index(6));
    assert_eq!(
        cluster.network.back().unwrap().message(),
        Some(Message::AppendAck { term, matched: Index(6), progress_epoch: 0 })
    );
}
