//! The world: time, events in order, and everything that lives in it. One thread, no clock but its own.
//!
//! An event is popped, something happens to one node, and every consequence becomes an event of a later time: a worker's
//! turn, a message's arrival, a disk's job, a client's call, a fault. The order depends on the seed alone, and a hash
//! over all events proves it. Next: `nodes` (life, turns, disks), `clients`, `readers`, `repeaters`, `faces`, `faults`,
//! `operator`, `ending` (heal and judge).

mod accepting;
mod arriving;
mod asides;
mod clients;
pub(crate) mod crowds;
mod delicate;
mod ending;
mod exclusion;
pub(crate) mod faces;
mod faults;
mod health;
mod hostile;
mod nodes;
mod operator;
mod ousting;
mod outgoing;
mod pace;
mod panicking;
mod preferring;
mod reaching;
mod readers;
pub(crate) mod receivers;
mod relaning;
mod relaxed;
mod repeaters;
mod resting;
mod returning;
mod shipping;
mod shrinking;
mod slipping;
mod stage;
mod standing;
mod vouching;
mod wire;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raftwerk::{GroupId, NodeId, StateMachines};
use raftwerk_net::{Channel, PeerId};
use rustc_hash::FxHashMap;

use self::asides::{Aside, Asides};
use self::clients::Client;
use self::faces::Faces;
use self::readers::Reader;
use self::repeaters::Repeater;
use self::returning::Returning;
use self::stage::Stage;
pub(crate) use self::stage::Told;
use crate::chance::Chance;
use crate::disk::{Queue, held};
use crate::fault::{FaultCounts, FaultKind};
use crate::ledger::{Audited, Ledger};
use crate::levels::Commits;
use crate::net::Links;
use crate::node::SimNode;
use crate::plan::{Options, Plan};
use crate::subject::{Seen, Subject};
use crate::watch::{Bounds, Checked, Violation, Watch};

/// The faults of a run end after so many events, if not before: many seeds find more than a few long ones.
const EVENTS_MAX: u64 = 300_000;

/// What a run has shown.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Events that happened.
    pub events: u64,
    /// The world's time that passed, in nanoseconds.
    pub simulated: u64,
    /// Over every event: equal for equal seeds, options and code.
    pub hash: u64,
    /// How often each kind of fault struck.
    pub faults: FaultCounts,
    /// Calls that were answered.
    pub answered: u64,
    /// Calls with an unknown outcome.
    pub unknown: u64,
    /// Entries applied, over all replicas.
    pub applied: u64,
    /// Nodes that refused to open a damaged log.
    pub loud_stops: u64,
    /// Snapshots installed.
    pub installed: u64,
    /// Strong reads that leaders answered by lease.
    pub leased_reads: u64,
    /// How many strikes the plan had: what `Options::strikes` chooses from.
    pub strikes: usize,
    /// The rule that did not hold, if one did not.
    pub violation: Option<Violation>,
}

impl Report {
    /// What is known of a run that ended in a panic.
    pub(crate) fn of_panic(seed: u64, violation: Violation) -> Self {
        Self {
            seed,
            events: 0,
            simulated: 0,
            hash: 0,
            faults: FaultCounts::default(),
            answered: 0,
            unknown: 0,
            applied: 0,
            loud_stops: 0,
            installed: 0,
            leased_reads: 0,
            strikes: 0,
            violation: Some(violation),
        }
    }
}

/// An event of the world.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A worker's turn is due.
    Turn { node: u16, worker: u16 },
    /// A message arrives.
    Arrival { unit: u32 },
    /// A disk's queue has finished its job.
    Disk { node: u16, worker: u16, queue: u8, life: u32 },
    /// A client acts.
    Client { client: u16 },
    /// A reader reads.
    Reader { reader: u16 },
    /// A client repeats itself.
    Repeater { repeater: u16 },
    /// A user of the engine's own faces calls.
    Face { user: u16 },
    /// The operator asks a node to shut down.
    Leave { node: u16 },
    /// A fault strikes …
    Strike { strike: u32 },
    /// … and what it began ends.
    Relief { strike: u32 },
    /// A node starts.
    Start { node: u16, life: u32 },
    /// A node with a failed log is started again, or one that has just come back dies with its machine.
    Doom { node: u16, life: u32, power: bool },
    /// A node learns that its connection to another is gone.
    Notice { node: u16, peer: u16, life: u32 },
    /// A node has a connection to a peer again.
    Reached { node: u16, peer: u16, life: u32 },
    /// The operator looks after a node that lost its disk.
    Operate { node: u16 },
    /// The world looks how far a replica that leaves and comes back is.
    Return,
    /// An event of one of the asides.
    Aside { what: Aside },
    /// A timer of a node's transport is due.
    Tend { node: u16, life: u32 },
}

/// A message on its way.
struct Unit {
    from: usize,
    to: usize,
    channel: Channel,
    bytes: Bytes,
    sent: u64,
    /// It has arrived once, long ago.
    is_late: bool,
}

#[derive(Clone, Copy)]
struct Scheduled {
    at: u64,
    number: u64,
    event: Event,
}

impl Scheduled {
    /// By time, then in the order in which they were scheduled.
    fn key(&self) -> u128 {
        u128::from(self.at) << 64 | u128::from(self.number)
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }

    fn lt(&self, other: &Self) -> bool {
        self.key() < other.key()
    }

    fn le(&self, other: &Self) -> bool {
        self.key() <= other.key()
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// Streams of chance, by concern.
struct Chances {
    turns: Chance,
    disks: Chance,
    clients: Chance,
    readers: Chance,
    repeaters: Chance,
    faults: Chance,
    segments: Chance,
    delicate: Chance,
    connections: Chance,
    priorities: Chance,
    pace: Chance,
    names: Chance,
}

/// A whole cluster, its world and its checkers.
pub struct World<'a> {
    seed: u64,
    plan: Plan,
    subject: &'a dyn Subject,
    machines: Arc<dyn StateMachines>,
    now: u64,
    number: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    nodes: Vec<SimNode>,
    links: Links,
    units: Vec<Option<Unit>>,
    free_units: Vec<u32>,
    clients: Vec<Client>,
    readers: Vec<Reader>,
    repeaters: Vec<Repeater>,
    faces: Faces,
    /// By node: what its files have of each group, for the rules about relaxed proposals.
    written: Vec<relaxed::Reach>,
    returning: Option<Returning>,
    asides: Asides,
    /// How many registrations of clients were answered.
    registered: u64,
    /// By group.
    commits: Vec<Commits>,
    history: Vec<Vec<Seen>>,
    unique: u64,
    watch: Watch,
    ledger: Arc<Mutex<Ledger>>,
    chances: Chances,
    faults: FaultCounts,
    events: u64,
    hash: u64,
    answered: u64,
    unknown: u64,
    loud_stops: u64,
    installed: u64,
    leased_reads: u64,
    /// By node: the latest term in which its replica of a group was seen to lead.
    latest_led: Vec<FxHashMap<GroupId, u64>>,
    /// By group: the latest term in which any replica was seen to lead.
    newest_led: Vec<u64>,
    /// A node needs an operator that this run does not have: the run ends there.
    is_given_up: bool,
    /// Whether clocks leap, or stand still.
    clocks_leap: bool,
    /// By node, the groups that it led when they came to rest: term and last index.
    rested: Vec<FxHashMap<GroupId, (u64, u64)>>,
    is_ending: bool,
    sent: Vec<(PeerId, Channel, Bytes)>,
    trace: Option<fn(&str)>,
    /// A director is at work: nothing falls or rises but by its commands.
    stage: Option<Box<Stage>>,
}

/// Makes the subject's machines, each wrapped for the ledger. The engine wants it to be `'static`, so it shares the subject.
struct Machines<S> {
    subject: S,
    ledger: Arc<Mutex<Ledger>>,
    ballast: u64,
}

impl<S: Fn(GroupId) -> Box<dyn raftwerk::StateMachine> + Send + Sync + 'static> StateMachines
    for Machines<S>
{
    fn create(&self, group: GroupId) -> Box<dyn raftwerk::StateMachine> {
        Box::new(Audited::new((self.subject)(group), group, Arc::clone(&self.ledger), self.ballast))
    }
}

impl<'a> World<'a> {
    /// A world as the seed draws it; nothing has happened yet.
    #[must_use]
    pub fn new(seed: u64, options: &Options, subject: &'a Arc<dyn Subject>) -> Self {
        Self::of_plan(seed, Plan::draw(seed, options), options.trace, subject)
    }

    /// A world as the plan has it; nothing has happened yet.
    pub(crate) fn of_plan(
        seed: u64,
        plan: Plan,
        trace: Option<fn(&str)>,
        subject: &'a Arc<dyn Subject>,
    ) -> Self {
        let ledger: Arc<Mutex<Ledger>> = Arc::default();
        let of_subject = Arc::clone(subject);
        let machines = Machines {
            subject: move |group| of_subject.machine(group),
            ledger: Arc::clone(&ledger),
            ballast: plan.ballast,
        };
        let nodes = plan.nodes;
        let links = Links::new(seed, plan.net.clone(), nodes);
        let mut watch = Watch::new(nodes);
        watch.bounds = Bounds {
            queue_bytes: 2 * plan.lane.queue_bytes_max as u64 + plan.lane.segment_bytes,
            query_bytes: plan.settings.payload_bytes_max,
            reads: plan.settings.reads_max,
            read_bytes: plan.settings.read_bytes_max,
        };
        let mut world = Self {
            seed,
            subject: &**subject,
            machines: Arc::new(machines),
            now: 0,
            number: 0,
            queue: BinaryHeap::new(),
            nodes: (0..nodes).map(|at| SimNode::new(at, plan.workers[at])).collect(),
            links,
            units: Vec::new(),
            free_units: Vec::new(),
            clients: (0..plan.clients).map(|_| Client::new(plan.groups)).collect(),
            repeaters: repeaters(&plan, &**subject),
            faces: Faces::new(seed, faces(&plan, &**subject), plan.groups, nodes),
            written: vec![relaxed::Reach::default(); nodes],
            returning: None,
            asides: Asides::default(),
            registered: 0,
            readers: (0..plan.readers).map(|_| Reader::new(plan.groups)).collect(),
            commits: (0..plan.groups).map(|_| Commits::default()).collect(),
            history: vec![Vec::new(); plan.groups],
            unique: 0,
            watch,
            ledger,
            chances: Chances {
                turns: Chance::of(seed, "turns"),
                disks: Chance::of(seed, "disks"),
                clients: Chance::of(seed, "clients"),
                readers: Chance::of(seed, "readers"),
                repeaters: Chance::of(seed, "repeaters"),
                faults: Chance::of(seed, "faults"),
                segments: Chance::of(seed, "segments"),
                delicate: Chance::of(seed, "delicate"),
                connections: Chance::of(seed, "connections"),
                priorities: Chance::of(seed, "priorities again"),
                pace: Chance::of(seed, "pace"),
                names: Chance::of(seed, "names"),
            },
            faults: FaultCounts::default(),
            events: 0,
            hash: seed,
            answered: 0,
            unknown: 0,
            loud_stops: 0,
            installed: 0,
            leased_reads: 0,
            latest_led: vec![FxHashMap::default(); nodes],
            newest_led: vec![0; plan.groups],
            is_given_up: false,
            clocks_leap: plan.clocks_stop
                || plan.strikes.iter().any(|strike| strike.kind == FaultKind::ClockLeap),
            rested: vec![FxHashMap::default(); nodes],
            is_ending: false,
            sent: Vec::new(),
            trace,
            stage: None,
            plan,
        };
        world.begin();
        world
    }

    /// Schedules the events that the plan has from the beginning.
    fn begin(&mut self) {
        for node in 0..self.plan.nodes {
            self.nodes[node].to_create = self.first_groups(node);
            self.at(node as u64, Event::Start { node: node as u16, life: 0 });
        }
        for client in 0..self.clients.len() {
            let first = self.chances.clients.below(self.plan.think * 4);
            self.expect(client, first);
        }
        for reader in 0..self.readers.len() {
            self.pause_reader(reader);
        }
        for repeater in 0..self.repeaters.len() {
            self.pause_repeater(repeater);
        }
        self.begin_asides();
        self.begin_faces();
        for strike in 0..self.plan.strikes.len() {
            self.at(self.plan.strikes[strike].at, Event::Strike { strike: strike as u32 });
        }
    }

    /// The groups that a node makes when its disk is empty.
    fn first_groups(&self, node: usize) -> Vec<GroupId> {
        let of_node = |group: &usize| self.plan.is_churning || self.plan.voters[*group].contains(&node);
        (0..self.plan.groups).filter(of_node).map(group_id).collect()
    }

    /// The whole run: faults, then peace, then judgement.
    #[must_use]
    pub fn run(mut self) -> Report {
        let outcome = self.live();
        self.report(outcome)
    }

    fn report(self, outcome: Checked) -> Report {
        let (violation, installed) = (outcome.err(), self.installed());
        let alive = self.nodes.iter().filter_map(|node| node.body.as_ref());
        let leased_reads = self.leased_reads + alive.map(|body| body.stats().leased_reads).sum::<u64>();
        if let (Some(violation), Some(trace)) = (&violation, self.trace) {
            trace(&format!("{}  VIOLATION {}: {}", self.clock(), violation.invariant, violation.what));
        }
        Report {
            seed: self.seed,
            events: self.events,
            simulated: self.now,
            hash: self.hash,
            faults: self.faults,
            answered: self.answered,
            unknown: self.unknown,
            applied: held(&self.ledger).applied,
            loud_stops: self.loud_stops,
            installed,
            leased_reads,
            strikes: self.plan.strikes.len(),
            violation,
        }
    }

    /// Snapshots installed so far.
    fn installed(&self) -> u64 {
        let alive = self.nodes.iter().filter_map(|node| node.body.as_ref());
        self.installed + alive.map(|body| body.stats().installs).sum::<u64>()
    }

    fn live(&mut self) -> Checked {
        self.run_until(self.plan.end, |world| world.events >= EVENTS_MAX || world.is_given_up)?;
        self.end()
    }

    /// Runs events until `done` or the deadline; whether it was done.
    pub(crate) fn run_until(
        &mut self,
        deadline: u64,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<bool, Violation> {
        loop {
            let next = self.queue.peek().map_or(u64::MAX, |next| next.0.at);
            if next > deadline {
                self.now = deadline;
                return Ok(done(self));
            }
            let Some(Reverse(Scheduled { at, event, .. })) = self.queue.pop() else { return Ok(false) };
            self.now = at;
            self.happen(event)?;
            if done(self) {
                return Ok(true);
            }
        }
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::Turn { node, worker } => self.turn(node.into(), worker.into())?,
            Event::Arrival { unit } => self.arrive(unit),
            Event::Disk { node, worker, queue, life } => {
                self.work(node.into(), worker.into(), Queue::ALL[usize::from(queue)], life)?;
            }
            Event::Client { client } => self.act(client.into()),
            Event::Reader { reader } => self.read(reader.into())?,
            Event::Repeater { repeater } => self.repeat(repeater.into())?,
            Event::Face { user } => self.act_face(user.into())?,
            Event::Leave { node } => self.leave(node.into())?,
            Event::Strike { strike } => self.strike(strike as usize)?,
            Event::Relief { strike } => self.relieve(strike as usize),
            Event::Start { node, life } => self.start(node.into(), life)?,
            Event::Doom { node, life, power } => self.doom(node.into(), life, power)?,
            Event::Notice { node, peer, life } => self.notice(node.into(), peer.into(), life),
            Event::Reached { node, peer, life } => self.reached(node.into(), peer.into(), life),
            Event::Operate { node } => self.operate(node.into())?,
            Event::Return => self.follow_return(),
            Event::Aside { what } => self.go_aside(what)?,
            Event::Tend { node, life } => self.tend_in_time(node.into(), life),
        }
        match held(&self.ledger).contradiction() {
            Some((rule, what)) => Err(Violation::new(rule, what)),
            None => Ok(()),
        }
    }

    /// Schedules an event.
    fn at(&mut self, at: u64, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Scheduled { at: at.max(self.now), number: self.number, event }));
    }

    /// Counts an event, and adds it to the hash.
    fn count(&mut self, kind: u64, what: u64) {
        self.events += 1;
        let mixed = (self.hash ^ self.now).rotate_left(23).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.hash = (mixed ^ what).rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9) ^ kind;
    }

    /// The nodes that may have a replica of a group, as positions.
    fn places(&self, group: usize) -> Vec<usize> {
        if self.plan.is_churning { (0..self.plan.nodes).collect() } else { self.plan.voters[group].clone() }
    }

    /// The nodes that take part in a group now: by its latest leader's configuration, or else as it began.
    fn members(&self, group: usize) -> Vec<usize> {
        let id = group_id(group);
        let leaders = self.nodes.iter().filter_map(|node| {
            let body = node.body.as_ref().filter(|_| node.is_reachable())?;
            let view = body.replicas(body.worker_of(id)).find(|view| view.group == id)?;
            view.core.is_leader().then(|| (view.core.term(), view.core.configuration()))
        });
        match leaders.max_by_key(|(term, _)| *term) {
            Some((_, members)) if self.plan.is_churning => {
                let places = members.replicas().into_iter().map(|node| node.0 as usize - 1);
                // A replica with a log that is gone, or that takes part without knowing it, is not waited for.
                places.filter(|at| self.is_meant(*at, id, members)).collect()
            }
            _ => self.plan.voters[group].clone(),
        }
    }

    /// Writes a line, if there is a trace.
    fn say(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = self.trace {
            trace(&format!("{}  {}", self.clock(), line()));
        }
    }

    fn clock(&self) -> String {
        format!("{:>6}.{:06}", self.now / 1_000_000_000, self.now / 1_000 % 1_000_000)
    }
}

/// Clients that repeat themselves, where the machines remember them: in one group after the other.
fn repeaters(plan: &Plan, subject: &dyn Subject) -> Vec<Repeater> {
    let count = if subject.remembers_clients() { plan.repeaters } else { 0 };
    (0..count).map(|at| Repeater::new(at % plan.groups, plan.open_numbers)).collect()
}

/// Users of the engine's own faces, where the machines are those of the store.
fn faces(plan: &Plan, subject: &dyn Subject) -> usize {
    if subject.remembers_clients() { plan.faces } else { 0 }
}

/// The id of the node at a position.
pub(crate) const fn node_id(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

/// The id of the group at a position.
pub(crate) const fn group_id(at: usize) -> GroupId {
    GroupId(at as u64 + 1)
}
