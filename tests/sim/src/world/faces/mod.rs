//! Users of the faces that a database embeds: [`Pipeline`], [`Store`], `kv::Client` and `Group`, over nodes that are turned by
//! hand. In every fourth run of the profiles with key-value machines there are some; each has many calls open, at any node.
//!
//! | rule | what |
//! |---|---|
//! | `a mark is answered once` | each operation of a pipeline has one completion, of its own kind, from the node that has it |
//! | `an answer is of its call` | a reply is one that this operation can have, on this key |
//! | `a version is of its entry` | what is found under a key was written by the entry at the version of the reply |
//! | `a scan misses nothing` | keys come in order, each once, and all that were there before the scan began |
//! | `a page is of one moment` | what was written together is read together |
//! | `reads see own writes` | in a session of the store |
//! | `repeated, and applied once`, `a client is remembered` | of several open numbers of one client (`world/repeaters.rs`) |
//! | `every call ends` | when a node has shut down, and when faults are over: by an answer or by an error |
//! | `closed is closed` | what is called after that is refused as such |
//!
//! The ledger judges what was acknowledged and refused; the history of keys is judged by the linearizability checker at the end.
//! What is not here: threads, and what blocks (`wait`), which `tests/tests` tries; levels of reads (`readers`).

mod calls;
mod founding;
mod leaving;
mod onces;
mod pipelines;
mod scans;
mod stores;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use raftwerk::kv::{Client, ShardMap, Store};
use raftwerk::{GroupId, Pipeline, Session};
use rustc_hash::FxHashMap;

use self::calls::Call;
use self::onces::Slot;
use self::pipelines::Mark;
use self::stores::Record;
use super::{Event, World, group_id};
use crate::chance::Chance;
use crate::linearizability::{KeyValue, Verdict, check};
use crate::plan::Profile;
use crate::watch::{Checked, Violation};

/// The most calls of one user that are open, besides what its pipelines hold.
const CALLS_MAX: usize = 24;
/// Steps of the check of a history, for each call in it. Most take about one; with many unknown outcomes on one key a history may
/// need a hundred thousand (`relaxed` 4000983: 7 s). Without a verdict a life counts as a violation.
const STEPS_PER_CALL: u64 = 2_000_000;
/// How long calls have to end when faults are over, in nanoseconds: a read may wait for some seconds.
const TO_END: u64 = 60_000_000_000;
/// All keys of users begin with this byte, but for those of pipelines, which no shard map knows.
const MARK: u8 = b'f';

/// How many users a run has.
pub(crate) fn planned(seed: u64, profile: Profile) -> usize {
    let mut chance = Chance::of(seed, "faces planned");
    let (has_some, count) = (chance.below(4) == 0, chance.from_to(1, 2) as usize);
    match profile {
        Profile::Leases | Profile::Quic => 0,
        _ if has_some => count,
        _ => 0,
    }
}

/// All users of a run, and what they know together.
pub(super) struct Faces {
    chance: Chance,
    map: ShardMap,
    users: Vec<User>,
    record: Record,
    /// By node: the workers that have not ended yet, where it was asked to shut down.
    leaving: Vec<u64>,
}

/// Rings when an answer has come.
#[derive(Default)]
struct Rung(AtomicBool);

impl Wake for Rung {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a user has of a node that is up.
struct Door {
    pipeline: Pipeline,
    store: Option<Store>,
}

/// One user.
#[derive(Default)]
struct User {
    /// Which node it takes for each group's leader.
    leaders: Vec<usize>,
    /// By node.
    doors: Vec<Option<Door>>,
    in_flight_max: usize,
    marks: FxHashMap<u64, Mark>,
    calls: Vec<Call>,
    rung: Arc<Rung>,
    session: Session,
    /// By group: the latest version that it was given.
    written: Vec<u64>,
    client: Client,
    registering: Vec<GroupId>,
    slots: Vec<Slot>,
    due: u64,
}

impl User {
    fn new(number: usize, groups: usize, nodes: usize, chance: &mut Chance) -> Self {
        Self {
            leaders: vec![0; groups],
            doors: (0..nodes).map(|_| None).collect(),
            in_flight_max: chance.one_of(&[3, 32, 256]) as usize,
            written: vec![0; groups],
            slots: onces::slots(number, groups, chance),
            ..Self::default()
        }
    }

    /// Whether anything at a node is still open.
    fn waits_at(&self, node: usize) -> Option<String> {
        let call = self.calls.iter().find(|call| call.node == node).map(|call| format!("{:?}", call.asked));
        let mark = self.marks.iter().find(|(_, mark)| mark.node == node);
        call.or_else(|| mark.map(|(token, mark)| format!("mark {token}: {mark:?}")))
    }
}

impl Faces {
    pub(super) fn new(seed: u64, users: usize, groups: usize, nodes: usize) -> Self {
        let mut chance = Chance::of(seed, "faces");
        let begins = (0..groups).map(|group| match group {
            0 => (Vec::new(), group_id(0)),
            _ => (vec![MARK, width_before(group, groups)], group_id(group)),
        });
        Self {
            map: ShardMap::new(begins).expect("few groups, in rising order"),
            users: (0..users).map(|number| User::new(number, groups, nodes, &mut chance)).collect(),
            record: Record::default(),
            leaving: vec![0; nodes],
            chance,
        }
    }
}

/// The second byte with which a group's keys begin.
const fn width_before(group: usize, groups: usize) -> u8 {
    (group * 256 / groups) as u8
}

impl World<'_> {
    pub(super) fn begin_faces(&mut self) {
        for user in 0..self.faces.users.len() {
            self.pause_face(user);
        }
        self.plan_leaving();
    }

    fn pause_face(&mut self, user: usize) {
        let pause = self.faces.chance.heavy_tailed(2 * self.plan.think);
        self.faces.users[user].due = self.now + pause;
        self.at(self.now + pause, Event::Face { user: user as u16 });
    }

    /// A user's time has come: it calls something.
    pub(super) fn act_face(&mut self, at: usize) -> Checked {
        if self.is_ending || self.faces.users[at].due != self.now {
            return Ok(());
        }
        self.count(40, at as u64);
        let group = self.faces.chance.below(self.plan.groups as u64) as usize;
        let node = self.whom_to_call(at, group);
        if self.nodes[node].is_reachable() && self.places(group).contains(&node) {
            let mut user = std::mem::take(&mut self.faces.users[at]);
            let called = self.call_as(&mut user, group, node);
            self.faces.users[at] = user;
            called?;
            self.answer_bells(node);
            self.answer_faces(node)?;
        } else {
            let places = self.places(group);
            self.faces.users[at].leaders[group] = self.faces.chance.one_of(&places);
        }
        self.pause_face(at);
        Ok(())
    }

    fn whom_to_call(&mut self, at: usize, group: usize) -> usize {
        if self.faces.chance.below(self.plan.stray.max(4)) == 0 {
            let places = self.places(group);
            self.faces.users[at].leaders[group] = self.faces.chance.one_of(&places);
        }
        self.faces.users[at].leaders[group]
    }

    fn call_as(&mut self, user: &mut User, group: usize, node: usize) -> Checked {
        if !self.open_door(user, node) {
            return Ok(());
        }
        let drawn = self.faces.chance.below(12);
        if drawn < 4 {
            return self.submit(user, group, node);
        }
        if user.calls.len() >= CALLS_MAX {
            return Ok(());
        }
        let Some(store) = user.doors[node].as_ref().and_then(|door| door.store.clone()) else {
            return Ok(());
        };
        match drawn {
            4..7 => self.use_key(user, &store, group, node),
            7 => self.add_key(user, &store, group, node),
            8 => self.use_pair(user, &store, group, node),
            9 => self.begin_scan(user, &store, node),
            _ => self.use_once(user, group, node),
        }
    }

    /// Gives a user a way into a node that is up.
    fn open_door(&mut self, user: &mut User, node: usize) -> bool {
        let Some(body) = &self.nodes[node].body else { return false };
        let door = user.doors[node]
            .get_or_insert_with(|| Door { pipeline: body.pipeline(user.in_flight_max), store: None });
        if door.store.is_none() {
            // Some of its groups may not have been made there yet.
            let is_here = |group| body.replicas(body.worker_of(group)).any(|view| view.group == group);
            let map = &self.faces.map;
            let store = map.ranges().all(|shard| is_here(shard.group)).then(|| Store::new(body, map.clone()));
            door.store = store.map(|store| store.in_session(&user.session));
        }
        true
    }

    /// Hands out what a node has answered.
    pub(super) fn answer_faces(&mut self, node: usize) -> Checked {
        for at in 0..self.faces.users.len() {
            if self.faces.users[at].doors[node].is_none() {
                continue;
            }
            let mut user = std::mem::take(&mut self.faces.users[at]);
            let answered = self.take_completions(&mut user, node).and_then(|()| self.hear_calls(&mut user));
            self.faces.users[at] = user;
            answered?;
        }
        Ok(())
    }

    /// A node dies with everything that waits for it.
    pub(super) fn lose_faces(&mut self, node: usize) {
        self.faces.leaving[node] = 0;
        for at in 0..self.faces.users.len() {
            let mut user = std::mem::take(&mut self.faces.users[at]);
            user.doors[node] = None;
            let marks = user.marks.len();
            user.marks.retain(|_, mark| mark.node != node);
            self.unknown += (marks - user.marks.len()) as u64;
            for call in std::mem::take(&mut user.calls) {
                if call.node == node {
                    self.lose_call(&mut user, call);
                } else {
                    user.calls.push(call);
                }
            }
            self.faces.users[at] = user;
        }
    }

    /// When faults are over, everything that was called ends.
    pub(super) fn hear_faces_out(&mut self) -> Checked {
        self.hand_over();
        let open = |world: &mut Self| {
            let mut reached = (0..world.nodes.len()).filter(|node| world.nodes[*node].is_reachable());
            reached.find_map(|node| {
                let waiting = world.faces.users.iter().find_map(|user| user.waits_at(node));
                waiting.map(|what| format!("n{}: {what}", node + 1))
            })
        };
        let is_over = |world: &mut Self| {
            let is_over = open(world).is_none();
            if !is_over {
                world.hand_over();
            }
            is_over
        };
        if self.run_until(self.now + TO_END, is_over)? {
            return Ok(());
        }
        let what = open(self).unwrap_or_default();
        Err(Violation::new("every call ends", format!("still open when faults are long over: {what}")))
    }

    /// What pipelines have kept back, or a full inbox has refused, is handed over.
    fn hand_over(&mut self) {
        for user in &mut self.faces.users {
            user.doors.iter_mut().flatten().for_each(|door| door.pipeline.flush());
        }
        (0..self.nodes.len()).for_each(|node| self.answer_bells(node));
    }

    /// What users saw, key by key.
    pub(super) fn judge_faces(&self) -> Checked {
        let history = &self.faces.record.history;
        let fault = match check(&KeyValue::default(), history, STEPS_PER_CALL * history.len() as u64) {
            Verdict::Linearizable => return Ok(()),
            Verdict::Violation(violation) => violation.describe(history),
            Verdict::OutOfBudget => format!("no verdict on {} calls within the budget", history.len()),
        };
        Err(Violation::new("linearizable", format!("of the store: {fault}")))
    }
}
