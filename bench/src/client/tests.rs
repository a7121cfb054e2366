//! The client against a cluster that is a few vectors and a clock that is a number.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::mpsc;

use bytes::Bytes;
use raftwerk::{
    Applied, EntryId, GroupId, Index, NodeId, Outcome, ProposeError, ReadAnswer, ReadError, ReadOptions, Term,
};

use super::*;
use crate::hash_machine::{BUCKETS, SUMS_QUERY, bucket_of, payload_hash};
use crate::ledger::{MachineKind, Verdict};
use crate::port::Refused;
use crate::workload::WorkloadKind;

const GROUPS: u32 = 6;
const MS: u64 = 1_000_000;
/// From submission to completion.
const LATENCY: u64 = 500_000;

#[derive(Default)]
struct Cluster {
    now: u64,
    leader: Vec<usize>,
    up: Vec<bool>,
    applied: Vec<Vec<u64>>,
    /// Nothing completes between these times.
    stall: (u64, u64),
    sockets_close: bool,
}

struct FakePort {
    node: usize,
    cluster: Rc<RefCell<Cluster>>,
    queue: VecDeque<(u64, GroupId, u64, Option<Vec<u8>>)>,
    open: bool,
}

impl FakePort {
    fn queue(&mut self, group: GroupId, token: u64, payload: Option<&[u8]>) -> Result<(), Refused> {
        if !self.open {
            return Err(Refused::Closed);
        }
        let due = self.cluster.borrow().now + LATENCY;
        self.queue.push_back((due, group, token, payload.map(<[u8]>::to_vec)));
        Ok(())
    }
}

impl NodePort for FakePort {
    fn submit(&mut self, group: GroupId, token: u64, payload: &[u8]) -> Result<(), Refused> {
        self.queue(group, token, Some(payload))
    }

    fn read(
        &mut self,
        group: GroupId,
        token: u64,
        _query: &[u8],
        _options: ReadOptions<'_>,
    ) -> Result<(), Refused> {
        self.queue(group, token, None)
    }

    fn flush(&mut self) {}

    fn take(&mut self, out: &mut Vec<Completion>) -> usize {
        let mut cluster = self.cluster.borrow_mut();
        let before = out.len();
        if !cluster.up[self.node] {
            self.open = !cluster.sockets_close;
            return 0;
        }
        let stalled = (cluster.stall.0..cluster.stall.1).contains(&cluster.now);
        while let Some((_, group, token, payload)) =
            self.queue.pop_front_if(|(due, ..)| *due <= cluster.now && !stalled)
        {
            let group = group.0 as usize - 1;
            let hint = Some(NodeId(cluster.leader[group] as u64 + 1));
            let leads = cluster.leader[group] == self.node;
            let outcome = if let Some(payload) = payload {
                if !leads {
                    out.push(Completion {
                        token,
                        outcome: Outcome::Proposal(Err(ProposeError::NotLeader { hint })),
                    });
                    continue;
                }
                cluster.applied[group].push(payload_hash(&payload));
                let index = Index(cluster.applied[group].len() as u64);
                Outcome::Proposal(Ok(Applied { id: EntryId::new(Term(1), index), reply: Bytes::new() }))
            } else if leads {
                let count = cluster.applied[group].len() as u64;
                let reply = count.to_le_bytes().to_vec().into();
                Outcome::Read(Ok(ReadAnswer { reply, ..ReadAnswer::default() }))
            } else {
                Outcome::Read(Err(ReadError::NotLeader { hint }))
            };
            out.push(Completion { token, outcome });
        }
        out.len() - before
    }

    fn in_flight(&self) -> usize {
        self.queue.len()
    }

    fn is_open(&self) -> bool {
        self.open
    }

    fn wait_any(ports: &mut [Option<Self>], at_most: Duration) {
        if let Some(port) = ports.iter().flatten().next() {
            port.cluster.borrow_mut().now += (at_most.as_nanos() as u64).clamp(1, 50_000);
        }
    }
}

type Script = Vec<(u64, Box<dyn FnOnce(&mut Cluster) -> Order<FakePort>>)>;

fn cluster() -> Rc<RefCell<Cluster>> {
    let leader = (0..GROUPS as usize).map(|group| (group + 1) % 3).collect();
    let applied = vec![Vec::new(); GROUPS as usize];
    Rc::new(RefCell::new(Cluster { leader, up: vec![true; 3], applied, ..Cluster::default() }))
}

fn port(cluster: &Rc<RefCell<Cluster>>, node: usize) -> FakePort {
    FakePort { node, cluster: Rc::clone(cluster), queue: VecDeque::new(), open: true }
}

/// Runs a client with orders, and accidents of the cluster, that come from a script by the time.
fn run(
    cluster: &Rc<RefCell<Cluster>>,
    load: Load,
    reads_percent: u32,
    mut script: Script,
) -> (Tally, Subject) {
    let (orders, obeyed) = mpsc::channel();
    let shared = Rc::clone(cluster);
    let clock = move || {
        let mut cluster = shared.borrow_mut();
        cluster.now += 1_000;
        if script.first().is_some_and(|(at, _)| *at <= cluster.now) {
            let (_, act) = script.remove(0);
            let order = act(&mut cluster);
            orders.send(order).unwrap();
        }
        cluster.now
    };
    let ports = (0..3).map(|node| port(cluster, node)).collect();
    let subject = Subject::new(MachineKind::Hash, GROUPS, 1000, 16);
    let workload = Workload::new(WorkloadKind::Uniform, 1000, reads_percent, 1);
    let progress = Arc::new(Progress::new(3));
    let mut client = Client::new(ports, clock, GROUPS, subject, workload, load, obeyed, progress);
    assert!(client.barrier(0..GROUPS, Duration::from_secs(1)));
    client.run(Duration::from_secs(2));
    client.into_results()
}

fn verdict(cluster: &Cluster, subject: &mut Subject) -> Verdict {
    let mut ask = |group: u32, query: &[u8]| {
        assert_eq!(query, SUMS_QUERY);
        let mut words = vec![0u64; 2 + BUCKETS];
        for &hash in &cluster.applied[group as usize] {
            words[0] += 1;
            words[2 + bucket_of(hash)] = words[2 + bucket_of(hash)].wrapping_add(hash);
        }
        Ok(words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>().into())
    };
    subject.verify(&mut ask).unwrap()
}

fn measure_from_to(from: u64, to: u64) -> Script {
    vec![(from, Box::new(|_| Order::Measure)), (to, Box::new(|_| Order::Finish))]
}

#[test]
fn a_closed_loop_keeps_its_operations_under_way_and_accounts_for_each() {
    let cluster = cluster();
    let (tally, mut subject) =
        run(&cluster, Load::Closed { in_flight: 30 }, 0, measure_from_to(20 * MS, 120 * MS));
    let per_operation = tally.measured_nanos as f64 * 30.0 / tally.writes as f64;
    assert!((0.9..1.6).contains(&(per_operation / LATENCY as f64)), "{per_operation}");
    assert_eq!((tally.unknown, tally.unfinished, tally.stale_reads), (0, 0, 0));
    let cluster = cluster.borrow();
    assert_eq!(tally.acknowledged, cluster.applied.iter().map(|group| group.len() as u64).sum::<u64>());
    assert!(tally.acknowledged > tally.writes && tally.writes > 0);
    assert_eq!(verdict(&cluster, &mut subject), Verdict::default());
}

#[test]
fn an_open_loop_times_a_stall_from_when_operations_should_have_started() {
    let cluster = cluster();
    cluster.borrow_mut().stall = (100 * MS, 150 * MS);
    let load = Load::Open { per_second: 20_000.0, in_flight_max: 100 };
    let (tally, _) = run(&cluster, load, 0, measure_from_to(20 * MS, 220 * MS));
    let latency = tally.write_latencies.summary().unwrap();
    assert!((3_900..=4_100).contains(&tally.writes), "{}", tally.writes);
    assert!(latency.p50 < 2_000.0, "{latency:?}");
    // A quarter of the operations fell into the 50 ms, and waited 25 ms on average, though only 100 fitted in flight.
    assert!(latency.p90 > 25_000.0 && latency.max > 49_000.0, "{latency:?}");
    assert_eq!(tally.shortfall, 0);
}

#[test]
fn a_rate_that_cannot_be_kept_shows_as_a_shortfall() {
    let load = Load::Open { per_second: 100_000.0, in_flight_max: 10 };
    let (tally, _) = run(&cluster(), load, 0, measure_from_to(20 * MS, 120 * MS));
    assert!(tally.shortfall > 5_000, "{}", tally.shortfall);
    assert!(tally.writes < 3_000);
}

#[test]
fn reads_are_answered_and_one_that_misses_a_write_is_stale() {
    let cluster = cluster();
    let (tally, _) = run(&cluster, Load::Closed { in_flight: 10 }, 50, measure_from_to(20 * MS, 60 * MS));
    assert!(tally.reads > 100 && tally.writes > 100);
    assert_eq!(tally.stale_reads, 0);

    let forgetful: Script = vec![
        (20 * MS, Box::new(|_| Order::Measure)),
        (
            30 * MS,
            Box::new(|cluster: &mut Cluster| {
                cluster.applied.iter_mut().for_each(|group| group.truncate(1));
                Order::Measure
            }),
        ),
        (60 * MS, Box::new(|_| Order::Finish)),
    ];
    let cluster = self::cluster();
    let (tally, mut subject) = run(&cluster, Load::Closed { in_flight: 10 }, 50, forgetful);
    assert!(tally.stale_reads > 0);
    assert!(verdict(&cluster.borrow(), &mut subject).lost > 0);
}

/// Node 1 dies at 40 ms with what it holds; others lead its groups from 60 ms on; it is back at 80 ms.
fn death(sockets_close: bool) -> (Tally, Verdict) {
    let cluster = cluster();
    cluster.borrow_mut().sockets_close = sockets_close;
    let back = port(&cluster, 1);
    let script: Script = vec![
        (20 * MS, Box::new(|_| Order::Measure)),
        (40 * MS + LATENCY / 3, Box::new(|_| Order::Killing(1, mpsc::channel().0))),
        (
            40 * MS + LATENCY / 3,
            Box::new(|cluster: &mut Cluster| {
                cluster.up[1] = false;
                Order::Gone(1)
            }),
        ),
        (
            60 * MS,
            Box::new(|cluster: &mut Cluster| {
                cluster.leader.iter_mut().filter(|leader| **leader == 1).for_each(|leader| *leader = 2);
                Order::Gone(1)
            }),
        ),
        (
            80 * MS,
            Box::new(|cluster: &mut Cluster| {
                cluster.up[1] = true;
                Order::Back(1, back)
            }),
        ),
        (120 * MS, Box::new(|_| Order::Finish)),
    ];
    let (tally, mut subject) = run(&cluster, Load::Closed { in_flight: 60 }, 20, script);
    let verdict = verdict(&cluster.borrow(), &mut subject);
    (tally, verdict)
}

#[test]
fn the_death_of_a_leader_is_timed_and_its_unanswered_writes_are_unknown() {
    for sockets_close in [false, true] {
        let (tally, verdict) = death(sockets_close);
        assert_eq!(tally.failovers.len(), 1);
        let failover = &tally.failovers[0];
        assert_eq!((failover.node, failover.groups), (1, 2));
        let out = failover.unavailable_nanos.unwrap();
        assert!((19 * MS..32 * MS).contains(&out), "{out}");
        assert!(tally.unknown > 0 && tally.retries > 0, "{} {}", tally.unknown, tally.retries);
        assert_eq!((tally.unfinished, tally.stale_reads), (0, 0));
        assert_eq!(verdict, Verdict::default());
    }
}
