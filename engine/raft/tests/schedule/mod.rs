//! Random schedules: under loss, duplication, reordering, delay, crashes, restarts, cuts, compaction, and
//! syncs at any time, every rule holds after every step. And when the faults end, there is progress.
//!
//! The schedules are the same in every run. One that fails is printed at its shortest.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use raftwerk_frame::NodeId;
use raftwerk_raft::reconfig::Change;
use raftwerk_raft::{Admission, Opening, PRIORITY_MAX, Reconfigure, Transition};

use crate::cluster::{Cluster, ENTRY_BYTES, Options, Seen, T};

/// An event. Numbers choose among the nodes or packets that exist.
#[derive(Clone, Debug)]
enum Event {
    /// Milliseconds pass.
    Pass(u64),
    /// This many packets arrive, oldest first.
    Deliver(usize),
    /// One packet arrives before its turn.
    Overtake(usize),
    Drop(usize),
    Double(usize),
    /// The oldest packet goes to the end.
    Delay,
    Propose(u64, u32),
    /// To the leader: proposals that can succeed.
    ProposeLeader(u32),
    Read(u64),
    FollowerRead(u64),
    Sync(u64, usize),
    SyncAll,
    /// Often of the leader.
    Crash(u64),
    Restart(u64),
    /// Often of the leader.
    Isolate(u64),
    CutOneWay(u64, u64),
    Heal,
    Checkpoint(u64, bool),
    Campaign(u64),
    Unreachable(u64, u64),
    /// To the leader: a membership change.
    Reconfigure(Vec<(u8, u64)>, u8, u8),
    Transfer(u64),
    Priority(u64, u8),
    /// Delivers all packets, and those that follow from them.
    Calm,
}

fn event() -> impl Strategy<Value = Event> {
    let node = || 0..60u64;
    let at = || 0..1000usize;
    prop_oneof![
        12 => (1..T).prop_map(Event::Pass),
        30 => (1..20usize).prop_map(Event::Deliver),
        6 => at().prop_map(Event::Overtake),
        6 => at().prop_map(Event::Drop),
        4 => at().prop_map(Event::Double),
        3 => Just(Event::Delay),
        2 => (node(), 1..4u32).prop_map(|(node, count)| Event::Propose(node, count)),
        12 => (1..6u32).prop_map(Event::ProposeLeader),
        4 => node().prop_map(Event::Read),
        4 => node().prop_map(Event::FollowerRead),
        12 => (node(), 0..6usize).prop_map(|(node, count)| Event::Sync(node, count)),
        6 => Just(Event::SyncAll),
        3 => node().prop_map(Event::Crash),
        6 => node().prop_map(Event::Restart),
        2 => node().prop_map(Event::Isolate),
        1 => (node(), node()).prop_map(|(from, to)| Event::CutOneWay(from, to)),
        4 => Just(Event::Heal),
        9 => (node(), any::<bool>()).prop_map(|(node, compact)| Event::Checkpoint(node, compact)),
        4 => node().prop_map(Event::Campaign),
        1 => (node(), node()).prop_map(|(node, peer)| Event::Unreachable(node, peer)),
        7 => (prop::collection::vec((0..3u8, node()), 0..4), 0..6u8, 0..4u8)
            .prop_map(|(changes, route, newcomers)| Event::Reconfigure(changes, route, newcomers)),
        2 => node().prop_map(Event::Transfer),
        1 => (node(), 0..4u8).prop_map(|(node, priority)| Event::Priority(node, priority)),
        16 => Just(Event::Calm),
    ]
}

/// `witnesses`: their maximum; one of them may be a new member.
fn options(voters: u64, witnesses: impl Strategy<Value = u64>) -> impl Strategy<Value = Options> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (any::<u64>(), flags, 1..6u64, 1..4u32, 1..4u64, (0..2u64, 0..3u64, witnesses)).prop_map(
        move |(seed, (pre_vote, check_quorum, syncs_at_once), window, messages, append, others)| Options {
            learners: others.0,
            newcomers: others.1,
            // Fewer than the voters with payloads: one of three, up to two of five.
            witnesses: others.2.min(voters.saturating_sub(1) / 2),
            witness_newcomers: others.1.min(others.2 % 2),
            seed,
            pre_vote,
            check_quorum,
            window_bytes: window * ENTRY_BYTES,
            window_messages: messages,
            append_bytes_max: append * ENTRY_BYTES,
            uncommitted_bytes_max: 20 * ENTRY_BYTES,
            syncs_at_once,
            ..Options::of(voters)
        },
    )
}

fn happen(cluster: &mut Cluster, event: Event) {
    let pick = |number: u64| number % cluster.options.replicas() + 1;
    let waiting = cluster.network.len();
    let often_leader = |node: u64| cluster.leader().filter(|_| node.is_multiple_of(2)).unwrap_or(pick(node));
    let up = |node: u64| cluster.is_up(node).then_some(node);
    match event {
        Event::Pass(ms) => cluster.advance(ms),
        Event::Deliver(count) => {
            for _ in 0..count.min(waiting) {
                if !cluster.network.is_empty() {
                    cluster.deliver(0);
                }
            }
        }
        Event::Overtake(at) if waiting > 0 => cluster.deliver(at % waiting),
        Event::Drop(at) if waiting > 0 => cluster.drop_packet(at % waiting),
        Event::Double(at) if waiting > 0 => cluster.duplicate(at % waiting),
        Event::Delay if waiting > 0 => cluster.network.rotate_left(1),
        Event::Overtake(_) | Event::Drop(_) | Event::Double(_) | Event::Delay => {}
        Event::Propose(node, count) => {
            if let Some(node) = up(pick(node)) {
                cluster.propose(node, count);
            }
        }
        Event::ProposeLeader(count) => {
            if let Some(node) = cluster.leader() {
                cluster.propose(node, count);
            }
        }
        Event::Read(node) => {
            let node = if node.is_multiple_of(2) { cluster.leader() } else { up(pick(node)) };
            if let Some(node) = node {
                cluster.read(node, 1 + node % 3);
            }
        }
        Event::FollowerRead(node) => {
            if let Some(node) = up(pick(node)) {
                cluster.on_follower_read(node, 1 + node % 3);
            }
        }
        Event::Sync(node, count) => {
            let node = pick(node);
            let count = count.min(cluster.replica(node).disk.pending());
            cluster.sync_some(node, count);
        }
        Event::SyncAll => cluster.nodes().for_each(|node| cluster.sync(node)),
        Event::Crash(node) => cluster.crash(often_leader(node)),
        Event::Restart(node) => {
            let node = pick(node);
            if !cluster.is_up(node) {
                cluster.restart(node);
            }
        }
        Event::Isolate(node) => cluster.isolate(often_leader(node)),
        Event::CutOneWay(from, to) => cluster.cut_one_way(pick(from), pick(to)),
        Event::Heal => cluster.heal(),
        Event::Checkpoint(node, compact) => {
            if let Some(node) = up(pick(node)) {
                cluster.checkpoint(node, compact);
            }
        }
        Event::Campaign(node) => {
            if let Some(node) = up(pick(node)) {
                cluster.campaign(node);
            }
        }
        Event::Reconfigure(changes, route, newcomers) => {
            if let Some(leader) = cluster.leader() {
                let options = &cluster.options;
                let change = |&(kind, node): &(u8, u64)| match (kind, options.is_witness(pick(node))) {
                    (0, false) => Change::Voter(NodeId(pick(node))),
                    (1, false) => Change::Learner(NodeId(pick(node))),
                    (0, true) => Change::Witness(NodeId(pick(node))),
                    (1, true) => Change::WitnessLearner(NodeId(pick(node))),
                    _ => Change::Remove(NodeId(pick(node))),
                };
                let changes: Vec<Change> = changes.iter().map(change).collect();
                let transition = [
                    Transition::Auto,
                    Transition::Auto,
                    Transition::Auto,
                    Transition::Joint,
                    Transition::Joint,
                    Transition::JointHeld,
                ][usize::from(route)];
                let admission =
                    [Admission::Unchecked, Admission::Unchecked, Admission::Checked, Admission::Awaited]
                        [usize::from(newcomers)];
                let wish = Reconfigure {
                    changes: &changes,
                    expected_index: None,
                    transition,
                    admission,
                    dry_run: false,
                    logs: &[],
                };
                cluster.reconfigure(leader, wish);
            }
        }
        Event::Transfer(to) => {
            if let Some(leader) = cluster.leader() {
                cluster.transfer(leader, pick(to));
            }
        }
        Event::Priority(node, priority) => {
            let node = pick(node);
            if let Some(group) = cluster.replica_mut(node).group.as_mut() {
                group.set_priority(priority);
            }
        }
        Event::Calm => cluster.settle(),
        Event::Unreachable(node, peer) => {
            if let Some(node) = up(pick(node)) {
                let peer = pick(peer);
                cluster.unreachable(node, peer);
            }
        }
    }
}

/// The faults end: within a bounded time there is a leader, proposals commit everywhere, and all replicas are
/// equal.
fn recover(cluster: &mut Cluster) {
    cluster.heal();
    cluster.options.syncs_at_once = true;
    for node in cluster.nodes() {
        if !cluster.is_up(node) {
            cluster.restart(node);
        }
        cluster.sync(node);
        let group = cluster.replica_mut(node).group.as_mut().expect("it is up");
        group.set_priority(PRIORITY_MAX);
    }
    let before = cluster.committed();
    // It may take this long to detect lost messages; candidates may collide.
    open_terms(cluster);
    let leader = cluster.run_to_leader();
    cluster.propose(leader, 2);
    cluster.read(leader, 2);
    let serves = |node: &u64| !cluster.options.is_witness(*node);
    let others: Vec<u64> = cluster.group(leader).peers().map(|peer| peer.0).filter(serves).collect();
    for node in others {
        let token = cluster.on_follower_read(node, 1);
        cluster.run(2 * T);
        assert!(cluster.replica(node).reads.iter().any(|(read, _)| *read == token), "a read at {node}");
    }
    open_terms(cluster);
    assert!(cluster.committed() >= before + 2, "no progress after {before}");
    let leader = cluster.leader().expect("who led goes on leading");
    let configuration = cluster.group(leader).configuration().clone();
    assert!(!configuration.is_joint() || !configuration.auto_leave, "{configuration:?} is never left");
    for node in cluster.nodes() {
        let group = cluster.group(node);
        if !configuration.contains(NodeId(node)) {
            cluster.seen.removed += u64::from(group.is_removed());
            continue;
        }
        let known = cluster.group(leader).progress(NodeId(node));
        assert_eq!(group.last(), cluster.group(leader).last(), "node {node}: {known:?}");
        assert_eq!(group.commit().0, cluster.committed(), "node {node}");
    }
}

/// Five election timeouts pass. Where terms begin with a proposal, there is one in each, until a leader has
/// all of its log committed: a leader that removes itself is followed by another, which needs a proposal for
/// its term, too.
fn open_terms(cluster: &mut Cluster) {
    let is_due = cluster.options.opening == Opening::Driver;
    for round in 0..50 {
        let leader = cluster.leader();
        let is_open =
            leader.map(|node| cluster.group(node)).is_some_and(|group| group.commit() == group.last().index);
        if round >= 5 && (is_open || !is_due) {
            return;
        }
        if let Some(leader) = leader.filter(|_| is_due) {
            cluster.propose(leader, 1);
        }
        cluster.run(T);
    }
}

fn run_schedules(voters: u64, witnesses: impl Strategy<Value = u64>, cases: u32) -> Seen {
    run_schedules_of(Opening::Core, options(voters, witnesses), cases)
}

fn run_schedules_of(opening: Opening, options: impl Strategy<Value = Options>, cases: u32) -> Seen {
    let total = Cell::new(Seen::default());
    // PROPTEST_MAX_SHRINK_ITERS sets fewer iterations, where no short schedule is needed.
    let max_shrink_iters = Config::default().max_shrink_iters.min(5_000);
    let config = Config { cases, failure_persistence: None, max_shrink_iters, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let schedule = (options, prop::collection::vec(event(), 400));
    let result = TestRunner::new_with_rng(config, rng).run(&schedule, |(options, events)| {
        let mut cluster = Cluster::new(Options { opening, ..options });
        for event in events {
            happen(&mut cluster, event);
        }
        recover(&mut cluster);
        total.set(total.get() + cluster.seen);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    total.get()
}

/// A schedule without events proves nothing.
fn assert_eventful(seen: &Seen, cases: u64) {
    let floors = [
        ("leaders", seen.leaders, 2 * cases),
        ("committed", seen.committed, 8 * cases),
        ("replaced", seen.replaced, cases / 4),
        ("installed", seen.installed, cases / 8),
        ("tails kept", seen.tails_kept, 1),
        ("reads", seen.reads, 2 * cases),
        ("reads rejected", seen.reads_rejected, 5 * cases),
        ("lost writes", seen.lost_writes, cases),
        ("changes begun", seen.changes, cases),
        ("changes done", seen.settled, cases / 2),
        ("configurations rolled back", seen.rolled_back, cases / 20),
        ("leaders of joint configurations", seen.joint_leaders, cases / 10),
        ("transfers", seen.transfers, cases / 2),
        ("removed and told", seen.removed, cases / 10),
    ];
    assert_floors(seen, &floors);
}

fn assert_floors(seen: &Seen, floors: &[(&str, u64, u64)]) {
    for &(what, count, floor) in floors {
        assert!(count >= floor, "{what}: {count}, expected {floor}: {seen:?}");
    }
}

#[test]
fn random_schedules_on_three_voters_keep_every_rule() {
    assert_eventful(&run_schedules(3, Just(0), 500), 500);
}

#[test]
fn random_schedules_on_five_voters_keep_every_rule() {
    assert_eventful(&run_schedules(5, Just(0), 500), 500);
}

/// Leaders write no entries of their own, and commit nothing, before there is a proposal.
#[test]
fn random_schedules_of_terms_that_drivers_open_keep_every_rule() {
    let cases = 200;
    let seen = run_schedules_of(Opening::Driver, options(3, Just(0)), cases)
        + run_schedules_of(Opening::Driver, options(5, 0..2u64), cases);
    let cases = 2 * u64::from(cases);
    let floors = [
        ("leaders", seen.leaders, 2 * cases),
        ("committed", seen.committed, 8 * cases),
        ("replaced", seen.replaced, cases / 8),
        ("reads", seen.reads, cases),
        ("changes done", seen.settled, cases / 4),
        ("transfers", seen.transfers, cases / 4),
    ];
    assert_floors(&seen, &floors);
}

/// Some of the voters are witnesses, or are added as witnesses.
#[test]
fn random_schedules_with_witnesses_keep_every_rule() {
    let cases = 200;
    let seen = run_schedules(3, 1..3u64, cases) + run_schedules(5, 1..3u64, cases);
    let cases = 2 * u64::from(cases);
    let floors = [
        ("leaders", seen.leaders, 2 * cases),
        ("committed", seen.committed, 8 * cases),
        ("withheld", seen.withheld, 10 * cases),
        ("installed", seen.installed, cases / 8),
        ("lost writes", seen.lost_writes, cases),
        ("changes done", seen.settled, cases / 2),
        ("leaders of joint configurations", seen.joint_leaders, cases / 10),
        ("transfers", seen.transfers, cases / 4),
    ];
    assert_floors(&seen, &floors);
}
