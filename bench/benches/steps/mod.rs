//! Single steps of the core, each with a replica that is about to take it. What is measured is the step alone, in a group of
//! three that has been busy for a while, so that nothing has to grow any more.
//!
//! What is not here: payloads, disks and wires; those are measured by `frame` and by the cluster command. Who measures:
//! `core` in time, `core_instructions` in instructions.

use std::time::Duration;

use raftwerk_frame::{Configuration, EntryId, GroupId, Index, Message, NodeId, Run, Term, Time};
use raftwerk_raft::{Append, Config, Effects, Group, Input, Opening, PRIORITY_MAX, Restored};

/// Bytes of a payload. The core only adds them up.
const PAYLOAD_BYTES: u64 = 16;
/// Rounds of proposals until queues have their size.
const ROUNDS: usize = 40;

/// A replica, and what it is about to take in.
pub(crate) struct Scene {
    group: Group,
    now: Time,
    inputs: Vec<Input<'static>>,
    letters: Vec<Letter>,
    ships: bool,
    effects: Effects,
}

struct Letter {
    from: usize,
    to: usize,
    message: Message,
    runs: Vec<Run>,
}

impl Letter {
    fn input(&self) -> Input<'_> {
        Input::Message { from: name(self.from), message: self.message, runs: &self.runs }
    }
}

const fn name(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

impl Scene {
    /// Takes the inputs in, and ends the turn as a driver does. Gives itself back, so that its end is not measured.
    pub(crate) fn run(mut self) -> Self {
        let inputs = self.inputs.iter().copied().chain(self.letters.iter().map(Letter::input));
        for input in inputs {
            self.effects.clear();
            self.group.step(self.now, input, &mut self.effects);
        }
        if self.ships {
            self.effects.clear();
            self.group.flush(self.now, &mut self.effects);
            for to in [2, 3].map(NodeId) {
                while let Some(append_plan) = self.group.next_append(to) {
                    let last = append_plan.last.max(append_plan.prev.index);
                    let bytes = (last.0 - append_plan.prev.index.0) * PAYLOAD_BYTES;
                    self.group.note_sent(to, last, bytes);
                }
            }
        }
        self
    }

    /// Whether the step did what its name says.
    pub(crate) fn assert(&self, what: impl Fn(&Group, &Effects) -> bool) {
        assert!(what(&self.group, &self.effects), "the step did something else");
    }
}

/// Node 1 leads.
struct Trio {
    groups: [Group; 3],
    effects: Effects,
    now: Time,
    letters: Vec<Letter>,
}

impl Trio {
    fn busy() -> Self {
        let mut trio = Self {
            groups: [1, 2, 3].map(replica),
            effects: Effects::default(),
            now: Time(0),
            letters: Vec::new(),
        };
        trio.step(0, Input::Campaign);
        trio.settle();
        assert!(trio.groups[0].is_leader());
        for _ in 0..ROUNDS {
            trio.now = trio.now + Duration::from_millis(1);
            for _ in 0..4 {
                trio.step(0, Input::Propose { count: 64, bytes: 64 * PAYLOAD_BYTES });
                trio.ship();
            }
            trio.settle();
            for at in 0..3 {
                let to = Index(trio.groups[at].applied().0.saturating_sub(100));
                trio.step(at, Input::Compacted { to });
            }
        }
        trio
    }

    fn step(&mut self, at: usize, input: Input<'_>) {
        self.effects.clear();
        self.groups[at].step(self.now, input, &mut self.effects);
        let sent = self.effects.send.iter().chain(&self.effects.send_durable);
        let letter = |(to, message): &(NodeId, Message)| Letter {
            from: at,
            to: to.0 as usize - 1,
            message: *message,
            runs: Vec::new(),
        };
        self.letters.extend(sent.map(letter));
        let (append, commit) = (self.effects.append, self.effects.commit);
        if let Some((_, index)) = commit {
            self.step(at, Input::Applied { index });
        }
        if append.is_some() {
            let id = self.groups[at].last();
            self.step(at, Input::Durable { id });
        }
    }

    fn ship(&mut self) {
        self.effects.clear();
        self.groups[0].flush(self.now, &mut self.effects);
        for to in [1, 2] {
            while let Some(append_plan) = self.groups[0].next_append(NodeId(to as u64 + 1)) {
                let last = append_plan.last.max(append_plan.prev.index);
                let count = last.0 - append_plan.prev.index.0;
                self.groups[0].note_sent(NodeId(to as u64 + 1), last, count * PAYLOAD_BYTES);
                let (term, prev, commit) = (append_plan.term, append_plan.prev, append_plan.commit);
                let runs = if count > 0 { vec![Run { term, count }] } else { Vec::new() };
                self.letters.push(Letter {
                    from: 0,
                    to,
                    message: Message::Append { term, prev, commit, progress_epoch: 0 },
                    runs,
                });
            }
        }
    }

    fn settle(&mut self) {
        while !self.letters.is_empty() {
            for letter in std::mem::take(&mut self.letters) {
                self.step(letter.to, letter.input());
            }
            if self.groups[0].is_leader() {
                self.ship();
            }
        }
    }

    fn scene(self, at: usize, inputs: Vec<Input<'static>>) -> Scene {
        let Self { groups, effects, now, .. } = self;
        let group = groups.into_iter().nth(at).expect("there are three");
        Scene { group, now, inputs, letters: Vec::new(), ships: at == 0, effects }
    }

    /// A replica that is about to hear from another.
    fn hears(self, to: usize, from: usize, message: Message, runs: Vec<Run>) -> Scene {
        Scene { letters: vec![Letter { from, to, message, runs }], ..self.scene(to, Vec::new()) }
    }
}

fn replica(node: u64) -> Group {
    let config = Config {
        node: NodeId(node),
        log: raftwerk_frame::LogId(0),
        group: GroupId(1),
        seed: 1,
        election_timeout: Duration::from_secs(1),
        heartbeat_interval: Duration::from_millis(100),
        first_timeout: None,
        window_bytes: 1 << 20,
        window_messages: 64,
        append_bytes_max: 1 << 16,
        uncommitted_bytes_max: 1 << 20,
        commit_delay: Duration::ZERO,
        retirement: Duration::from_secs(1),
        abstention: Duration::ZERO,
        opening: Opening::Core,
        pre_vote: true,
        check_quorum: true,
    };
    let configuration = Configuration::of_voters([1, 2, 3].map(NodeId));
    let mut group = Group::new(config, Restored { configuration, ..Restored::default() }, Time(0));
    group.set_priority(PRIORITY_MAX);
    group
}

/// A leader's clock: it is time for heartbeats.
pub(crate) fn heartbeats_at_the_leader() -> Scene {
    let mut trio = Trio::busy();
    trio.now = trio.groups[0].next_deadline();
    trio.scene(0, vec![Input::Timeout])
}

/// A follower hears a heartbeat.
pub(crate) fn heartbeat_at_a_follower() -> Scene {
    let trio = Trio::busy();
    let (term, commit) = (trio.groups[0].term(), trio.groups[1].commit());
    trio.hears(1, 0, Message::Heartbeat { term, commit, round: 0, quiesce: false }, Vec::new())
}

/// A leader takes proposals, and ships them to both followers.
pub(crate) fn append_at_the_leader(count: u32) -> Scene {
    Trio::busy().scene(0, vec![Input::Propose { count, bytes: u64::from(count) * PAYLOAD_BYTES }])
}

/// A follower takes entries in.
pub(crate) fn append_at_a_follower(count: u64) -> Scene {
    let trio = Trio::busy();
    let (term, prev, commit) = (trio.groups[0].term(), trio.groups[1].last(), trio.groups[1].commit());
    trio.hears(1, 0, Message::Append { term, prev, commit, progress_epoch: 0 }, vec![Run { term, count }])
}

/// A leader hears of the second replica that holds an entry: it is committed.
pub(crate) fn acknowledgement_that_commits() -> Scene {
    let mut trio = Trio::busy();
    trio.step(0, Input::Propose { count: 1, bytes: PAYLOAD_BYTES });
    trio.ship();
    let (term, matched) = (trio.groups[0].term(), trio.groups[0].last().index);
    trio.hears(0, 1, Message::AppendAck { term, matched, progress_epoch: 0 }, Vec::new())
}

/// A follower asks, campaigns, wins and opens its term.
pub(crate) fn election() -> Scene {
    let mut trio = Trio::busy();
    trio.now = trio.now + Duration::from_secs(10);
    let term = Term(trio.groups[1].term().0 + 1);
    let mut scene = trio.scene(1, vec![Input::Timeout]);
    for message in [Message::PreVoteReply { term, granted: true }, Message::VoteReply { term, granted: true }]
    {
        scene.letters.push(Letter { from: 2, to: 1, message, runs: Vec::new() });
    }
    scene
}

/// How a scene is made.
pub(crate) type Make = fn() -> Scene;

/// Every scene by name.
pub(crate) const SCENES: [(&str, Make); 8] = [
    ("heartbeats at the leader", heartbeats_at_the_leader),
    ("heartbeat at a follower", heartbeat_at_a_follower),
    ("append 1 at the leader", || append_at_the_leader(1)),
    ("append 64 at the leader", || append_at_the_leader(64)),
    ("append 1 at a follower", || append_at_a_follower(1)),
    ("append 64 at a follower", || append_at_a_follower(64)),
    ("acknowledgement that commits", acknowledgement_that_commits),
    ("election", election),
];

/// That the scenes are what they are called.
pub(crate) fn assert_scenes() {
    let is_sent = |effects: &Effects| !effects.send.is_empty() || !effects.send_durable.is_empty();
    let before = Trio::busy();
    let (last, commit) = (before.groups[0].last().index, before.groups[0].commit());
    let grew = |group: &Group, by: u64| group.last().index == Index(last.0 + by);
    heartbeat_at_a_follower().run().assert(|group, effects| is_sent(effects) && grew(group, 0));
    heartbeats_at_the_leader()
        .run()
        .assert(|group, _| group.is_leader() && group.next_deadline() > before.now);
    for count in [1, 64] {
        append_at_the_leader(count).run().assert(|group, _| {
            let sent = group.progress(NodeId(2)).is_some_and(|peer| peer.next == group.last().index.next());
            grew(group, u64::from(count)) && sent
        });
        append_at_a_follower(u64::from(count)).run().assert(|group, effects| {
            let accepted = Append::Accept { from: last.next(), last: Index(last.0 + u64::from(count)) };
            grew(group, u64::from(count)) && effects.append == Some(accepted)
        });
    }
    acknowledgement_that_commits().run().assert(|group, _| group.commit() == commit.next());
    election().run().assert(|group, effects| {
        let opened = EntryId::new(group.term(), last.next());
        group.is_leader() && effects.append == Some(Append::Own { id: opened, count: 1, noop: true })
    });
}
