//! Bounds: the last value that still fits and the first that does not, and impossible numbers. Next to
//! `edges`, which tests moments in time.

use std::time::Duration;

use raftwerk_frame::{Configuration, EntryId, Index, Message, NodeId, Run, Time};
use raftwerk_raft::{Config, Effects, Group, Input, PeerState, Rejected, Restored};

use super::edges::config_of;
use crate::cluster::{Cluster, ENTRY_BYTES, MS, Options, Packet, T};

/// The bound of waiting follower reads in a leader; a leader's own reads are rejected from twice this number
/// on.
const WAITING_MAX: u64 = 64 * 1024;

/// Proposals beyond the limit are refused; those that fill it are taken.
#[test]
fn proposals_that_fill_the_limit_to_the_last_byte_are_taken() {
    let mut cluster = Cluster::new(Options { uncommitted_bytes_max: 3 * ENTRY_BYTES, ..Options::of(3) });
    cluster.elect(1);
    let last = cluster.group(1).last().index;
    cluster.propose(1, 1);
    cluster.propose(1, 2);
    assert_eq!((cluster.replica(1).rejected, cluster.group(1).last().index), (None, last.plus(3)));
    cluster.propose(1, 1);
    assert_eq!(cluster.replica(1).rejected, Some(Rejected::Busy));
    // A commit frees the whole budget again.
    cluster.settle();
    cluster.propose(1, 3);
    assert_eq!(cluster.group(1).last().index, last.plus(6));
}

/// A follower that lost an append rejects the next one, and its hint is what it holds: the leader does not
/// send that again.
#[test]
fn a_rejection_in_the_pipeline_goes_back_to_what_the_follower_holds_and_no_further() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    let matched = cluster.progress(1, 2).matched;
    for _ in 0..3 {
        cluster.propose(1, 2);
    }
    let appends = |packet: &Packet| packet.is_append() && packet.to == 2;
    assert_eq!(cluster.count_where(appends), 3);
    // The first arrives, and its acknowledgement does not; the second does not arrive; the third is rejected.
    let mut at = 0;
    for is_lost in [false, true, false] {
        at += cluster.network.iter().skip(at).position(appends).unwrap();
        if is_lost {
            cluster.drop_packet(at)
        } else {
            cluster.deliver(at)
        }
        cluster.drop_where(Packet::is_ack);
    }
    cluster.deliver_where(Packet::is_reject);
    let progress = cluster.progress(1, 2);
    assert_eq!((progress.matched, progress.next), (matched, matched.plus(3)));
    cluster.settle();
    assert_eq!(cluster.progress(1, 2).matched, cluster.group(1).last().index);
}

/// An acknowledgement of written entries beyond the leader's log is ignored: receipts rely on it.
#[test]
fn nobody_has_written_more_than_the_leader_has() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    let (term, last) = (cluster.group(1).term(), cluster.group(1).last());
    for matched in [last.index.next(), Index(u64::MAX)] {
        for node in [2, 3] {
            cluster.say(node, 1, Message::AppendWritten { term, matched, progress_epoch: 0 }, &[]);
        }
        assert_eq!(cluster.group(1).written_by_quorum(last), last.index, "{matched}");
    }
}

/// Up to where a leader keeps its log for its followers: only live ones that need no snapshot count.
#[test]
fn the_log_is_kept_for_followers_that_live_and_need_no_snapshot() {
    let mut cluster = Cluster::new(Options { check_quorum: true, ..Options::of(3) });
    cluster.elect(1);
    cluster.run(T / 5);
    assert_eq!(cluster.group(1).slowest_live_match(), Some(cluster.group(1).last().index));
    cluster.isolate(3);
    cluster.propose(1, 3);
    cluster.settle();
    let behind = cluster.progress(1, 3).matched;
    assert_eq!(cluster.group(1).slowest_live_match(), Some(behind), "it was heard in this period");
    cluster.run(3 * T);
    assert_eq!(cluster.group(1).slowest_live_match(), Some(cluster.group(1).last().index));
    cluster.checkpoint(1, true);
    cluster.propose(1, 2);
    cluster.unreachable(1, 3);
    cluster.heal();
    let is_snapshot = |packet: &Packet| packet.is_snapshot();
    for _ in 0..T {
        cluster.advance(1);
        cluster.deliver_where(|packet| !is_snapshot(packet));
    }
    assert_eq!((cluster.count_where(is_snapshot), cluster.progress(1, 3).state), (1, PeerState::Snapshot));
    assert!(cluster.progress(1, 3).is_active, "it answers heartbeats");
    assert_eq!(cluster.group(1).slowest_live_match(), Some(cluster.group(1).last().index));
}

/// No log gets there by counting: an append with such indices is no leader's.
#[test]
fn an_append_that_leads_beyond_every_log_is_not_taken() {
    let mut group = leader_of_two();
    let last = group.last();
    let term = group.term().next();
    let message = Message::Append { term, prev: last, commit: Index(0), progress_epoch: 0 };
    let runs = &[Run { term, count: u64::MAX >> 1 }];
    group.step(Time(MS), Input::Message { from: NodeId(2), message, runs }, &mut Effects::default());
    assert_eq!(group.last(), last);
}

/// Most replicas that led once will not lead again soon.
#[test]
fn a_leader_that_is_deposed_keeps_no_memory_for_reads() {
    let mut group = leader_of_two();
    let mut effects = Effects::default();
    for token in 0..1000 {
        group.step(Time(MS), Input::Read { token }, &mut effects);
    }
    let message =
        Message::Heartbeat { term: group.term().next(), commit: Index(0), round: 0, quiesce: false };
    group.step(Time(MS), Input::Message { from: NodeId(2), message, runs: &[] }, &mut effects);
    assert_eq!((effects.reads_rejected.len(), group.leading_bytes()), (1000, 0));
}

/// Waiting reads are bounded, and exactly so: a leader's own reads by twice the bound of follower reads.
#[test]
fn reads_are_taken_up_to_their_bound_and_not_beyond() {
    let mut group = leader_of_two();
    let mut effects = Effects::default();
    for round in 1..=WAITING_MAX + 1 {
        let term = group.term();
        let question = Message::ReadIndex { term, round };
        let input = Input::Message { from: NodeId(2), message: question, runs: &[] };
        group.step(Time(MS), input, &mut effects);
    }
    // The one beyond the bound was dropped: this many own reads fit, and no more.
    for token in 0..=WAITING_MAX {
        group.step(Time(MS), Input::Read { token }, &mut effects);
    }
    assert_eq!(effects.reads_rejected, [WAITING_MAX]);
}

/// A leader of two; the other has sent no reply to it since.
fn leader_of_two() -> Group {
    let config = Config { pre_vote: false, ..config_of(1, Duration::ZERO) };
    let restored = Restored {
        configuration: Configuration::of_voters([NodeId(1), NodeId(2)]),
        last: Index(0),
        compacted: EntryId::default(),
        ..Restored::default()
    };
    let mut group = Group::new(config, restored, Time(MS));
    group.step(Time(MS), Input::Campaign, &mut Effects::default());
    let message = Message::VoteReply { term: group.term(), granted: true };
    let input = Input::Message { from: NodeId(2), message, runs: &[] };
    group.step(Time(MS), input, &mut Effects::default());
    assert!(group.is_leader());
    group
}
