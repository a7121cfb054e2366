//! Messages that make no sense: from unknown peers, and with numbers that no replica would send. They may be
//! ignored, answered or obeyed; they never make a replica panic, and its own rules (those of
//! `invariant::check`) hold.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use raftwerk_frame::{Configuration, EntryId, Index, Membership, Message, NodeId, Run, Term, Time};
use raftwerk_raft::reconfig::Change;
use raftwerk_raft::{Admission, Effects, Group, Input, Reconfigure, Transition, invariant};

use crate::cluster::disk::Entry;
use crate::cluster::{Cluster, MS, Options};

/// A node that is in no configuration known here may lead or campaign in a later one, so its requests are
/// accepted (paper, section 6). But unrequested replies do not count, and a live leader is not deposed.
#[test]
fn strangers_change_nothing_by_answers_nor_by_campaigns_while_a_leader_is_heard() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    let before: Vec<_> =
        cluster.nodes().map(|node| (cluster.group(node).hard_state(), cluster.group(node).last())).collect();
    let (term, last) = (Term(99), EntryId::new(Term(98), Index(99)));
    let messages = [
        Message::PreVote { term, last },
        Message::Vote { term, last, transfer: false },
        Message::PreVoteReply { term, granted: true },
        Message::VoteReply { term, granted: true },
        Message::AppendAck { term: Term(1), matched: Index(1), progress_epoch: 0 },
        Message::AppendAck { term, matched: Index(1), progress_epoch: 0 },
        Message::AppendReject { term, rejected: Index(1), hint: EntryId::default() },
        Message::HeartbeatAck { term, round: 1, fortifies: false, quiesce: false },
        Message::Append { term: Term(0), prev: EntryId::default(), commit: Index(1), progress_epoch: 0 },
        Message::Heartbeat { term: Term(0), commit: Index(1), round: 1, quiesce: false },
        Message::TimeoutNow { term: Term(1) },
    ];
    for node in cluster.nodes() {
        for message in messages {
            for stranger in [4, node] {
                cluster.give(stranger, node, message);
            }
        }
        for from in [NodeId(4), NodeId(node)] {
            let configuration = Configuration::of_voters([NodeId(4)]);
            let term = Term(u64::from(from.0 == node) * 99);
            let input = Input::SnapshotReceived {
                from,
                term,
                id: last,
                configuration: &configuration,
                progress_epoch: 0,
            };
            cluster.input(node, input);
            cluster.finish(node);
        }
    }
    let answers = cluster.network.iter().filter_map(|packet| packet.message());
    for answer in answers {
        let refuses = matches!(
            answer,
            Message::PreVoteReply { granted: false, .. } | Message::HeartbeatAck { round: 0, .. }
        );
        assert!(refuses, "{answer:?}");
    }
    cluster.network.clear();
    let after: Vec<_> =
        cluster.nodes().map(|node| (cluster.group(node).hard_state(), cluster.group(node).last())).collect();
    assert_eq!(before, after);
}

/// Runs that no leader would send are ignored.
#[test]
fn an_append_whose_terms_fall_or_come_from_the_future_is_ignored() {
    let mut cluster = Cluster::with_logs(Options::of(3), &[&[1, 2], &[1, 2], &[1, 2]], &[3; 3]);
    let prev = EntryId::new(Term(2), Index(2));
    let entry = |term| Entry { term: Term(term), payload: 0 };
    for terms in [&[1][..], &[3, 2], &[4]] {
        let entries: Vec<_> = terms.iter().map(|&term| entry(term)).collect();
        cluster.say(
            1,
            2,
            Message::Append { term: Term(3), prev, commit: Index(0), progress_epoch: 0 },
            &entries,
        );
        assert_eq!((cluster.log(2), cluster.network.len()), (vec![1, 2], 0), "{terms:?}");
    }
}

/// A number near one of the ends, near the replica's own numbers, or any.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..12u64, 1 => any::<u64>(), 1 => (0..4u64).prop_map(|below| u64::MAX - below), 1 => Just(1 << 62)]
}

fn id() -> impl Strategy<Value = EntryId> {
    (number(), number()).prop_map(|(term, index)| EntryId::new(Term(term), Index(index)))
}

fn message() -> impl Strategy<Value = Message> {
    (0..13u8, number(), id(), number(), any::<bool>()).prop_map(|(kind, term, id, number, flag)| {
        let (term, index) = (Term(term), Index(number));
        match kind {
            0 => Message::PreVote { term, last: id },
            1 => Message::PreVoteReply { term, granted: flag },
            2 => Message::Vote { term, last: id, transfer: flag },
            3 => Message::VoteReply { term, granted: flag },
            4 => Message::Append { term, prev: id, commit: index, progress_epoch: 0 },
            5 => Message::AppendAck { term, matched: index, progress_epoch: 0 },
            6 => Message::AppendReject { term, rejected: index, hint: id },
            7 => Message::Heartbeat { term, commit: index, round: number, quiesce: false },
            8 => Message::HeartbeatAck { term, round: number, fortifies: false, quiesce: false },
            9 => Message::Removed { term, configuration: id },
            10 => Message::ReadIndex { term, round: number },
            11 => Message::ReadIndexReply { term, round: number, index },
            _ => Message::TimeoutNow { term },
        }
    })
}

#[derive(Clone, Debug)]
enum Noise {
    Message {
        from: u64,
        message: Message,
        runs: Vec<(u64, u64)>,
    },
    /// The same, with configurations at these indices.
    Memberships {
        from: u64,
        message: Message,
        runs: Vec<(u64, u64)>,
        at: Vec<(u64, Vec<u64>)>,
    },
    Reconfigure(Vec<(u8, u64)>, u8, u8),
    Transfer(u64),
    FollowerRead,
    Snapshot {
        from: u64,
        term: u64,
        id: EntryId,
    },
    Durable(EntryId),
    Applied(u64),
    Compacted(u64),
    Propose(u32, u64),
    Read,
    Campaign,
    Pass(u64),
    SnapshotFailed(u64),
    Unreachable(u64),
}

fn append() -> impl Strategy<Value = Message> {
    (number(), id(), number()).prop_map(|(term, prev, commit)| Message::Append {
        term: Term(term),
        prev,
        commit: Index(commit),
        progress_epoch: (term ^ commit) as u16 & 1,
    })
}

/// Lists of voters, sensible or not, at any indices, in any order.
fn memberships() -> impl Strategy<Value = Vec<(u64, Vec<u64>)>> {
    prop::collection::vec((number(), prop::collection::vec(0..6u64, 0..5)), 0..4)
}

fn noise() -> impl Strategy<Value = Noise> {
    let runs = prop::collection::vec((number(), number()), 0..4);
    prop_oneof![
        12 => (1..5u64, message(), runs).prop_map(|(from, message, runs)| Noise::Message { from, message, runs }),
        4 => (1..5u64, append(), prop::collection::vec((number(), number()), 0..4), memberships())
            .prop_map(|(from, message, runs, at)| Noise::Memberships { from, message, runs, at }),
        2 => (prop::collection::vec((0..3u8, 0..6u64), 0..4), 0..3u8, 0..3u8)
            .prop_map(|(changes, route, newcomers)| Noise::Reconfigure(changes, route, newcomers)),
        1 => (0..6u64).prop_map(Noise::Transfer),
        1 => Just(Noise::FollowerRead),
        1 => (1..5u64, number(), id()).prop_map(|(from, term, id)| Noise::Snapshot { from, term, id }),
        2 => id().prop_map(Noise::Durable),
        1 => number().prop_map(Noise::Applied),
        1 => number().prop_map(Noise::Compacted),
        2 => (0..4u32, 0..100u64).prop_map(|(count, bytes)| Noise::Propose(count, bytes)),
        1 => Just(Noise::Read),
        1 => Just(Noise::Campaign),
        2 => (0..300u64).prop_map(Noise::Pass),
        1 => (1..5u64).prop_map(Noise::SnapshotFailed),
        1 => (1..5u64).prop_map(Noise::Unreachable),
    ]
}

/// One turn; the rules of one replica hold after it.
fn turn(group: &mut Group, now: &mut Time, noise: &Noise, effects: &mut Effects) {
    let configuration = group.configuration().clone();
    let of_run = |&(term, count): &(u64, u64)| Run { term: Term(term), count };
    let mut given = Vec::new();
    let mut placed = Vec::new();
    let mut changes = Vec::new();
    let input = match noise {
        Noise::Memberships { from, message, runs, at } => {
            given.extend(runs.iter().map(of_run));
            placed.extend(at.iter().map(|(index, voters)| {
                let voters = voters.iter().copied().map(NodeId).collect();
                let configuration = Configuration { voters, ..Configuration::default() };
                Membership { index: Index(*index), configuration }
            }));
            let (from, message) = (NodeId(*from), *message);
            Input::Memberships { from, message, runs: &given, memberships: &placed }
        }
        Noise::Reconfigure(wanted, route, newcomers) => {
            changes.extend(wanted.iter().map(|&(kind, node)| match kind {
                0 => Change::Voter(NodeId(node)),
                1 => Change::Learner(NodeId(node)),
                _ => Change::Remove(NodeId(node)),
            }));
            Input::Reconfigure(Reconfigure {
                changes: &changes,
                logs: &[],
                expected_index: None,
                transition: [Transition::Auto, Transition::Joint, Transition::JointHeld][usize::from(*route)],
                admission: [Admission::Unchecked, Admission::Checked, Admission::Awaited]
                    [usize::from(*newcomers)],
                dry_run: false,
            })
        }
        Noise::Transfer(to) => Input::Transfer { to: NodeId(*to) },
        Noise::FollowerRead => Input::FollowerRead { token: 1 },
        Noise::Message { from, message, runs } => {
            given.extend(runs.iter().map(of_run));
            Input::Message { from: NodeId(*from), message: *message, runs: &given }
        }
        Noise::Snapshot { from, term, id } => {
            let term = Term(*term);
            Input::SnapshotReceived {
                from: NodeId(*from),
                term,
                id: *id,
                configuration: &configuration,
                progress_epoch: 0,
            }
        }
        Noise::Durable(id) => Input::Durable { id: *id },
        Noise::Applied(index) => Input::Applied { index: Index(*index) },
        Noise::Compacted(to) => Input::Compacted { to: Index(*to) },
        Noise::Propose(count, bytes) => Input::Propose { count: *count, bytes: *bytes },
        Noise::Read => Input::Read { token: 1 },
        Noise::Campaign => Input::Campaign,
        Noise::Pass(ms) => {
            now.0 += ms * MS;
            Input::Timeout
        }
        Noise::SnapshotFailed(to) => Input::SnapshotFailed { to: NodeId(*to) },
        Noise::Unreachable(node) => Input::Unreachable { node: NodeId(*node) },
    };
    group.step(*now, input, effects);
    effects.clear();
    group.flush(*now, effects);
    effects.clear();
    for peer in 1..5 {
        for _ in 0..20 {
            let Some(append_plan) = group.next_append(NodeId(peer)) else { break };
            let last =
                append_plan.first.0.saturating_add(3).min(append_plan.last.0).max(append_plan.prev.index.0);
            group.note_sent(NodeId(peer), Index(last), 10);
        }
    }
    assert_eq!(invariant::check(group), Ok(()));
}

#[test]
fn no_numbers_make_a_replica_panic_or_break_its_own_rules() {
    let led = Cell::new(0);
    let config = Config { cases: 3000, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let start = (any::<bool>(), prop::collection::vec(noise(), 1..60));
    let result = TestRunner::new_with_rng(config, rng).run(&start, |(leads, noises)| {
        let mut cluster = Cluster::with_logs(Options::of(3), &[&[1, 1, 2], &[1, 1, 2], &[1, 1]], &[3; 3]);
        if leads {
            cluster.elect(1);
        }
        let (mut group, mut now, mut effects) = (cluster.group(1).clone(), cluster.now, Effects::default());
        for noise in &noises {
            turn(&mut group, &mut now, noise, &mut effects);
            led.set(led.get() + u64::from(group.is_leader()));
        }
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    assert!(led.get() > 1000, "leaders were among them: {}", led.get());
}

/// Terms rise by elections. A number far beyond is no replica's, and a group that adopted one near the end of
/// its range could not elect leaders any more, not even after restarts.
/// A replica may come to lead a later term than its own, so it must not deny that it does.
#[test]
fn a_replica_denies_leading_no_term_later_than_its_own() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    let own = cluster.group(2).term();
    for (term, denied) in [(own.next(), 0), (own, 1), (Term(own.0 - 1), 1)] {
        for question in [Message::ReadIndex { term, round: 7 }, Message::LeaderQuery { term, follows: true }]
        {
            cluster.give(3, 2, question);
            let sent: Vec<_> = cluster.network.drain(..).filter_map(|packet| packet.message()).collect();
            assert_eq!(sent, vec![Message::NotLeader { term }; denied], "{question:?} in {own:?}");
        }
    }
}

#[test]
fn a_term_that_no_election_can_have_reached_is_ignored() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    let term = cluster.group(1).term();
    let far = [Term((u64::MAX >> 1) - 1), Term(u64::MAX >> 1), Term(u64::MAX), Term(term.0 + (1 << 32) + 1)];
    for far in far {
        let last = EntryId::new(far, Index(9));
        let messages = [
            Message::HeartbeatAck { term: far, round: 0, fortifies: false, quiesce: false },
            Message::AppendAck { term: far, matched: Index(1), progress_epoch: 0 },
            Message::Heartbeat { term: far, commit: Index(0), round: 1, quiesce: false },
            Message::Append { term: far, prev: EntryId::default(), commit: Index(0), progress_epoch: 0 },
            Message::Vote { term: far, last, transfer: true },
            Message::VoteReply { term: far, granted: false },
            Message::PreVoteReply { term: far, granted: false },
        ];
        for message in messages {
            cluster.give(2, 1, message);
            cluster.give(1, 2, message);
        }
        let configuration = Configuration::of_voters([1, 2, 3].map(NodeId));
        let (from, id) = (NodeId(1), EntryId::new(term, Index(1)));
        let input =
            Input::SnapshotReceived { from, term: far, id, configuration: &configuration, progress_epoch: 0 };
        let mut effects = Effects::default();
        let mut group = cluster.group(2).clone();
        group.step(cluster.now, input, &mut effects);
        assert_eq!((group.term(), effects.hard_state), (term, None));
    }
    assert_eq!((cluster.leader(), cluster.group(2).term()), (Some(1), term));
    for node in cluster.nodes() {
        cluster.crash(node);
        cluster.restart(node);
    }
    let leader = cluster.run_to_leader();
    assert!(cluster.group(leader).term().0 < 100);
    // A term that elections can reach is accepted.
    let near = Term(cluster.group(leader).term().0 + (1 << 32));
    cluster.give(
        leader % 3 + 1,
        leader,
        Message::HeartbeatAck { term: near, round: 0, fortifies: false, quiesce: false },
    );
    assert_eq!(cluster.group(leader).term(), near);
}
