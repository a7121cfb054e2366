//! A node of a scenario: a group, its log, and what it has to send. Its disk is as fast as its memory.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use raftwerk_frame::{
    Configuration, EntryId, GroupId, HardState, Index, Membership, Message, NodeId, Run, Term, Time,
};
use raftwerk_raft::quorum::{self, VoteResult};
use raftwerk_raft::reconfig::Change;
use raftwerk_raft::{
    Admission, Append, Config, Effects, Group, Input, Opening, Reconfigure, Reconfigured, Refusal, Restored,
    Role, Transition,
};

/// What CCF's driver sets.
pub(super) const ELECTION_TIMEOUT: Duration = Duration::from_millis(100);
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(10);

/// What an entry is to a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Opens a term, or leaves a joint configuration by itself: CCF has no such entry.
    Uncounted,
    Payload(String),
    Signature,
    /// These are the voters from here on; others are retired.
    Change {
        voters: Vec<NodeId>,
    },
    /// The retirement of these is over.
    Cleanup {
        nodes: Vec<NodeId>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: EntryId,
    pub(super) kind: Kind,
    configuration: Option<Configuration>,
}

/// A message with what travels beside it.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) to: NodeId,
    message: Message,
    entries: Vec<Entry>,
    /// What counts as committed where it comes from.
    signed: Index,
}

pub(super) struct Node {
    pub(super) group: Group,
    now: Time,
    /// Since the election timer was last set.
    elapsed: Duration,
    deadline: Time,
    /// Index 1 is first.
    log: Vec<Entry>,
    /// A leader's entries that are not signed yet, or that wait for those before them.
    waiting: VecDeque<Kind>,
    pub(super) outbox: VecDeque<Letter>,
    signed: Index,
    /// Since when it leads, and when it last heard each of the others.
    led_since: Time,
    heard: BTreeMap<NodeId, Time>,
    /// The term in which it campaigned and was refused by too many.
    lost: Option<Term>,
}

impl Node {
    pub(super) fn new(node: NodeId, configuration: Configuration) -> Self {
        let config = Config {
            node,
            log: raftwerk_frame::LogId(0),
            group: GroupId(1),
            seed: node.0,
            election_timeout: ELECTION_TIMEOUT,
            heartbeat_interval: HEARTBEAT_INTERVAL,
            first_timeout: None,
            window_bytes: u64::MAX >> 1,
            window_messages: u32::MAX,
            append_bytes_max: u64::MAX >> 1,
            uncommitted_bytes_max: u64::MAX >> 1,
            commit_delay: Duration::ZERO,
            // CCF's leaders go when their retirement is committed.
            retirement: Duration::ZERO,
            abstention: Duration::ZERO,
            opening: Opening::Driver,
            pre_vote: false,
            check_quorum: true,
        };
        // CCF's first term is 2, and the first node comes to lead it without ado.
        let term = Term(u64::from(!configuration.is_empty()));
        let restored =
            Restored { hard_state: HardState { term, vote: None }, configuration, ..Restored::default() };
        let now = Time(0) + ELECTION_TIMEOUT * 100;
        let group = Group::new(config, restored, now);
        Self {
            deadline: group.next_deadline(),
            group,
            now,
            elapsed: Duration::ZERO,
            log: Vec::new(),
            waiting: VecDeque::new(),
            outbox: VecDeque::new(),
            signed: Index(0),
            led_since: now,
            heard: BTreeMap::new(),
            lost: None,
        }
    }

    pub(super) fn campaign(&mut self) -> Result<(), String> {
        self.turn(Input::Campaign, &[], &Kind::Uncounted).map(|_| ())
    }

    /// Time passes. A leader ships what is new, and what may have been lost.
    pub(super) fn periodic(&mut self, by: Duration) -> Result<(), String> {
        self.now = self.now + by;
        if !self.group.is_leader() {
            self.elapsed += by;
            if self.elapsed >= ELECTION_TIMEOUT {
                self.elapsed = Duration::ZERO;
                self.campaign()?;
            }
            return Ok(());
        }
        if !self.hears_quorum() {
            // The core looks back at the end of each of its periods, and this one may have begun well: two are enough.
            for _ in 0..2 {
                self.now = self.now + ELECTION_TIMEOUT;
                self.turn(Input::Timeout, &[], &Kind::Uncounted)?;
                if !self.group.is_leader() {
                    return Ok(());
                }
            }
            return Err("the leader has heard no quorum for three election timeouts".to_owned());
        }
        let before = self.outbox.len();
        self.turn(Input::Timeout, &[], &Kind::Uncounted)?;
        for node in self.group.peers().collect::<Vec<_>>() {
            self.turn(Input::Unreachable { node }, &[], &Kind::Uncounted)?;
        }
        let heartbeats: Vec<Letter> = self.outbox.split_off(before).into();
        self.ship();
        // One message a follower: an append says what a heartbeat does.
        let told: Vec<NodeId> = self.outbox.range(before..).map(|letter| letter.to).collect();
        self.outbox.extend(heartbeats.into_iter().filter(|letter| {
            !matches!(letter.message, Message::Heartbeat { .. }) || !told.contains(&letter.to)
        }));
        Ok(())
    }

    fn hears_quorum(&self) -> bool {
        let me = self.group.node();
        let is_heard = |node: NodeId| {
            let last = self.heard.get(&node).copied().unwrap_or_default().max(self.led_since);
            Some(node == me || self.now.since(last) < ELECTION_TIMEOUT)
        };
        quorum::vote_result(self.group.configuration(), is_heard) == VoteResult::Won
    }

    pub(super) fn receive(&mut self, from: NodeId, letter: Letter) -> Result<(), String> {
        let Letter { message, ref entries, signed, .. } = letter;
        let (mut runs, mut memberships) = (Vec::<Run>::new(), Vec::new());
        for entry in entries {
            match runs.last_mut() {
                Some(run) if run.term == entry.id.term => run.count += 1,
                _ => runs.push(Run { term: entry.id.term, count: 1 }),
            }
            let membership = |configuration: &Configuration| Membership {
                index: entry.id.index,
                configuration: configuration.clone(),
            };
            memberships.extend(entry.configuration.as_ref().map(membership));
        }
        let input = Input::Memberships { from, message, runs: &runs, memberships: &memberships };
        self.turn(input, entries, &Kind::Uncounted)?;
        self.heard.insert(from, self.now);
        if matches!(message, Message::Append { .. } | Message::Heartbeat { .. }) {
            self.signed = self.signed.max(signed.min(self.group.commit()));
        }
        if matches!(message, Message::AppendReject { .. } | Message::HeartbeatAck { .. }) {
            self.ship();
        }
        Ok(())
    }

    /// Whether it campaigned in this term, was refused by too many, and has heard of nobody else. The core goes back to being
    /// a follower then; CCF's nodes stay candidates.
    pub(super) fn has_lost(&self) -> bool {
        self.lost == Some(self.group.term())
            && self.group.leader().is_none()
            && self.group.role() == Role::Follower
    }

    /// A leader's entry. It goes into the log with the signature that follows it.
    pub(super) fn replicate(&mut self, kind: Kind) -> Result<(), String> {
        self.waiting.push_back(kind);
        self.append_signed()
    }

    /// Appends what is signed, as far as the core takes it.
    fn append_signed(&mut self) -> Result<(), String> {
        if !self.group.is_leader() {
            self.waiting.clear();
        }
        while self.waiting.contains(&Kind::Signature)
            && let Some(kind) = self.waiting.pop_front()
        {
            let is_taken = match &kind {
                Kind::Change { voters } => {
                    let changes = self.changes_to(voters);
                    // Who is removed has to agree, too.
                    let removes = changes.iter().any(|change| matches!(change, Change::Remove(_)));
                    let is_joint = self.group.configuration().is_joint();
                    (!is_joint || self.reconfigure(&[], Transition::Auto, &Kind::Uncounted)?)
                        && self.reconfigure(
                            &changes,
                            if removes { Transition::JointHeld } else { Transition::Auto },
                            &kind,
                        )?
                }
                Kind::Cleanup { .. } if self.group.configuration().is_joint() => {
                    self.reconfigure(&[], Transition::Auto, &kind)?
                }
                _ => {
                    self.turn(Input::Propose { count: 1, bytes: 1 }, &[], &kind)?;
                    true
                }
            };
            if !is_taken {
                self.waiting.push_front(kind);
                break;
            }
            if !self.group.is_leader() {
                self.waiting.clear();
            }
        }
        Ok(())
    }

    fn changes_to(&self, voters: &[NodeId]) -> Vec<Change> {
        let now = &self.group.configuration().voters;
        let gone = now.iter().filter(|node| !voters.contains(node)).map(|node| Change::Remove(*node));
        let come = voters.iter().filter(|node| !now.contains(node)).map(|node| Change::Voter(*node));
        gone.chain(come).collect()
    }

    /// Wants a change. `false`: it has to wait.
    fn reconfigure(
        &mut self,
        changes: &[Change],
        transition: Transition,
        own: &Kind,
    ) -> Result<bool, String> {
        let wish = Reconfigure {
            changes,
            logs: &[],
            expected_index: None,
            transition,
            admission: Admission::Unchecked,
            dry_run: false,
        };
        match self.turn(Input::Reconfigure(wish), &[], own)? {
            Some(Reconfigured::Started(_)) => Ok(true),
            Some(Reconfigured::Unchanged(_)) => {
                self.turn(Input::Propose { count: 1, bytes: 1 }, &[], own)?;
                Ok(true)
            }
            Some(Reconfigured::Refused(Refusal::NotReady)) if self.group.last().term < self.group.term() => {
                // CCF's leaders may begin with a change, ours with something that is committed.
                self.turn(Input::Propose { count: 1, bytes: 1 }, &[], &Kind::Uncounted)?;
                self.reconfigure(changes, transition, own)
            }
            Some(Reconfigured::Refused(Refusal::NotReady | Refusal::InProgress(_))) => Ok(false),
            other => Err(format!("the core answers {other:?} to a change")),
        }
    }

    /// Steps an input and does at once what comes of it. `own` is what an entry is that the leader makes of it.
    fn turn(
        &mut self,
        input: Input<'_>,
        brought: &[Entry],
        own: &Kind,
    ) -> Result<Option<Reconfigured>, String> {
        let before = (self.group.role(), self.group.term());
        let led = self.group.is_leader().then(|| self.group.term());
        let mut effects = Effects::default();
        self.group.step(self.now, input, &mut effects);
        let reconfigured = effects.reconfigured.take();
        if effects.rejected.is_some() {
            return Err("the core refuses an entry".to_owned());
        }
        let mut is_written = self.collect(&effects, brought, own)?;
        // What the disk and the state machine answer may bring forth more.
        loop {
            let input = if std::mem::take(&mut is_written) {
                Input::Durable { id: self.group.last() }
            } else if self.group.applied() < self.group.commit() {
                Input::Applied { index: self.group.commit() }
            } else {
                break;
            };
            effects.clear();
            self.group.step(self.now, input, &mut effects);
            is_written = self.collect(&effects, &[], &Kind::Uncounted)?;
        }
        effects.clear();
        self.group.flush(self.now, &mut effects);
        self.collect(&effects, &[], &Kind::Uncounted)?;
        if led.is_some_and(|term| term == self.group.term()) || self.group.is_leader() {
            let (commit, term) = (self.group.commit(), self.group.term());
            let is_signature = |entry: &&Entry| {
                entry.kind == Kind::Signature && entry.id.index <= commit && entry.id.term == term
            };
            let latest = self.log.iter().rev().find(is_signature).map(|entry| entry.id.index);
            self.signed = self.signed.max(latest.unwrap_or_default());
        }
        let after = (self.group.role(), self.group.term());
        if before == (Role::Candidate, after.1) && after.0 == Role::Follower {
            self.lost = Some(after.1);
        }
        if before.0 != Role::Leader && after.0 == Role::Leader {
            self.led_since = self.now;
        }
        if std::mem::replace(&mut self.deadline, self.group.next_deadline()) != self.deadline {
            self.elapsed = Duration::ZERO;
        }
        if self.group.is_retiring() {
            self.ship();
            if self.group.next_deadline() <= self.now {
                self.turn(Input::Timeout, &[], &Kind::Uncounted)?;
            }
        }
        Ok(reconfigured)
    }

    /// Takes in effects; whether something was written.
    fn collect(&mut self, effects: &Effects, brought: &[Entry], own: &Kind) -> Result<bool, String> {
        if effects.install.is_some() || !effects.snapshot_to.is_empty() {
            return Err("nothing is ever compacted, and yet there is a snapshot".to_owned());
        }
        match effects.append {
            Some(Append::Own { id, noop, .. }) => {
                let kind = if noop { Kind::Uncounted } else { own.clone() };
                self.log.truncate(id.index.prev().0 as usize);
                self.log.push(Entry { id, kind, configuration: effects.membership.clone() });
            }
            Some(Append::Accept { from, last }) => {
                self.log.truncate(from.prev().0 as usize);
                let new = brought.iter().filter(|entry| (from..=last).contains(&entry.id.index));
                self.log.extend(new.cloned());
            }
            None => {}
        }
        for (to, message) in effects.send.iter().chain(&effects.send_durable) {
            let message = match *message {
                Message::Heartbeat { .. } if self.group.is_leaving(*to) => continue,
                // CCF's voters listen to whoever asks.
                Message::Vote { term, last, .. } => Message::Vote { term, last, transfer: true },
                other => other,
            };
            self.outbox.push_back(Letter { to: *to, message, entries: Vec::new(), signed: self.signed });
        }
        Ok(effects.append.is_some())
    }

    /// CCF's leaders send nothing to those that the configuration in force is without: to them, it is as if it was lost.
    fn ship(&mut self) {
        let peers: Vec<NodeId> = self.group.peers().filter(|peer| !self.group.is_leaving(*peer)).collect();
        for to in peers {
            while let Some(append_plan) = self.group.next_append(to) {
                let range = append_plan.prev.index.0 as usize
                    ..append_plan.last.0.max(append_plan.prev.index.0) as usize;
                let entries = self.log[range].to_vec();
                let last = entries.last().map_or(append_plan.prev.index, |entry| entry.id.index);
                self.group.note_sent(to, last, entries.len() as u64);
                let message = Message::Append {
                    term: append_plan.term,
                    prev: append_plan.prev,
                    commit: append_plan.commit,
                    progress_epoch: append_plan.progress_epoch,
                };
                self.outbox.push_back(Letter { to, message, entries, signed: self.signed });
            }
        }
    }

    /// Tries what waits once more.
    pub(super) fn go_on(&mut self) -> Result<(), String> {
        if self.waiting.is_empty() { Ok(()) } else { self.append_signed() }
    }

    /// The entries that CCF has, too, up to `to`.
    pub(super) fn counted(&self, to: Index) -> Vec<(Term, &Kind)> {
        let log = self.log.iter().filter(|entry| entry.kind != Kind::Uncounted && entry.id.index <= to);
        log.map(|entry| (entry.id.term, &entry.kind)).collect()
    }

    /// What counts as committed.
    pub(super) const fn signed(&self) -> Index {
        self.signed
    }

    /// How far this node's retirement has come, in CCF's words; `None` if it was not asked to retire.
    pub(super) fn retirement(&self) -> Option<&'static str> {
        let me = self.group.node();
        let log = || self.log.iter().map(|entry| (entry.id.index, &entry.kind));
        let waiting = self.waiting.iter().map(|kind| (Index(u64::MAX), kind));
        let mut changes = log().chain(waiting).filter_map(|(at, kind)| match kind {
            Kind::Change { voters } => Some((at, voters)),
            _ => None,
        });
        let (at, voters) = changes.next_back()?;
        if voters.contains(&me) || !self.has_taken_part() {
            return None;
        }
        let is_over = |(at, kind): (Index, &Kind)| {
            matches!(kind, Kind::Cleanup { nodes } if nodes.contains(&me)) && at <= self.signed
        };
        Some(if log().any(is_over) {
            "RetiredCommitted"
        } else if at <= self.signed {
            "Completed"
        } else if log().any(|(signature, kind)| *kind == Kind::Signature && signature > at) {
            "Signed"
        } else {
            "Ordered"
        })
    }

    fn has_taken_part(&self) -> bool {
        let me = self.group.node();
        self.group.memberships().any(|(_, configuration)| configuration.contains(me))
            || self
                .log
                .iter()
                .any(|entry| matches!(&entry.kind, Kind::Change { voters } if voters.contains(&me)))
    }
}
