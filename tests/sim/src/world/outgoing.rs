//! Faults that are aimed at what leases rest on, and at what a leader still owes when it is replaced.
//!
//! - `resign`: a leader is asked to take itself out of its group, and for a strong read in the same turn. Just when its followers
//!   may have that, and it may not know, (a) nothing but signs of life passes between it and them; or (b) its messages stand still,
//!   and of theirs all but entries: what a successor has committed is the first that it receives of one.
//! - `lapse`: a leader's messages do not reach a follower for just about as long as a promise lasts, and it takes its time. Its own reach
//!   the leader; and the leader's reach as few others as can be. Soon after they arrive again, nothing but signs of life passes
//!   from it.
//! - `murmur` and `stall-channel`: the same between two nodes at any time.
//!
//! What is not here: how often this happens (`variety`), and what must not come of it (`vouching`, `exclusion`).

use raftwerk::{Change, Consistency, ReadOptions, Reconfiguration};
use raftwerk_net::Channel;

use super::{Event, World, group_id, node_id};
use crate::chance::Chance;
use crate::fault::{FaultKind, Strike};
use crate::subject::Operation;

/// So often a query is looked for; there are machines without any.
const READ_TRIES: usize = 32;
/// Most proposals that a leader gets when its messages arrive no longer.
const LAST_WORDS: u64 = 6;

impl World<'_> {
    /// Of some channels of a link nothing passes until then.
    fn stall(&mut self, from: usize, to: usize, until: u64, is_stalled: impl Fn(Channel) -> bool) {
        for channel in Channel::ALL.into_iter().filter(|channel| is_stalled(*channel)) {
            self.links.link(from, to).stall(channel.slot().unwrap_or_default(), until);
        }
    }

    /// A channel of a link stands still: control, the entries of some groups, or snapshots; or all but control.
    pub(super) fn stall_channel(&mut self, strike: &Strike) {
        let until = self.now + strike.span;
        let chosen = strike.salt % (Channel::COUNT as u64 + 2);
        self.stall(strike.node, strike.other, until, |channel| {
            match chosen.checked_sub(Channel::COUNT as u64) {
                None => channel.slot() == Some(chosen as usize),
                Some(0) => channel == Channel::Control,
                Some(_) => channel != Channel::Control,
            }
        });
    }

    /// Nothing but signs of life passes from one node to another, or that is over.
    pub(super) fn murmur(&mut self, strike: &Strike, by: i32) {
        let link = self.links.link(strike.node, strike.other);
        link.murmurs = link.murmurs.saturating_add_signed(by);
    }

    /// A strike that belongs to another, and ends with it.
    fn then(&mut self, of: Strike, at: u64, kind: FaultKind, (node, other): (usize, usize)) {
        let span = (of.at + of.span).saturating_sub(at);
        self.later(Strike { at, kind, node, other, span, salt: of.salt });
    }

    fn later(&mut self, strike: Strike) {
        self.at(strike.at, Event::Strike { strike: self.plan.strikes.len() as u32 });
        self.plan.strikes.push(strike);
    }

    pub(super) fn resign(&mut self, strike: &Strike) {
        let mut chance = Chance::of(strike.salt, "resigning");
        let group = chance.below(self.plan.groups as u64) as usize;
        let is_busy = |at: usize| self.nodes[at].farewell || self.nodes[at].is_wiped;
        // A group that lacks one that was dropped can spare no other.
        let is_short = self.asides.slip.is_some() || self.asides.shrinking.is_some();
        if is_short || (0..self.nodes.len()).any(is_busy) {
            return;
        }
        let Some((leader, now, _)) = self.led_by(group_id(group)) else { return };
        let Some(body) = self.nodes[leader].body.as_ref() else { return };
        let change = if chance.below(2) == 0 { Change::Remove } else { Change::Learner };
        drop(body.group(group_id(group)).reconfigure(Reconfiguration::of([change(node_id(leader))])));
        let query = (0..READ_TRIES).find_map(|_| match self.subject.operation(&mut chance, strike.salt) {
            Operation::Read(query) => Some(query),
            Operation::Write(_) => None,
        });
        if let Some(query) = query {
            let options = ReadOptions::new(Consistency::Strong);
            drop(body.group(group_id(group)).query(query, options));
        }
        self.answer_bells(leader);
        // A message's way, and perhaps what a disk takes.
        let way = self.plan.net.delay + self.plan.net.jitter;
        let then = self.now + way + chance.below(2 * way + self.plan.disk.sync);
        let others = now.replicas().into_iter().map(|node| node.0 as usize - 1).filter(|at| *at != leader);
        let others: Vec<usize> = others.filter(|at| *at < self.nodes.len()).collect();
        let murmurs = chance.below(2) == 0;
        for other in others {
            if murmurs {
                self.then(*strike, then, FaultKind::Murmur, (leader, other));
                self.then(*strike, then, FaultKind::Murmur, (other, leader));
                continue;
            }
            self.then(*strike, then, FaultKind::Clog, (leader, other));
            // Control, by its number among all choices.
            let salt = Channel::COUNT as u64;
            let at = then;
            let span = (strike.at + strike.span).saturating_sub(at);
            let kind = FaultKind::StallChannel;
            self.later(Strike { at, kind, node: other, other: leader, span, salt });
        }
        if !murmurs {
            // They reach the leader when nothing that it sends reaches another node.
            let at = then + 1 + chance.below(way + 1);
            let salt = chance.from_to(1, LAST_WORDS) << 32 | group as u64;
            self.later(Strike { at, kind: FaultKind::Resign, node: leader, other: leader, span: 0, salt });
        }
    }

    /// What a leader is asked for when its messages arrive no longer.
    pub(super) fn last_words(&mut self, strike: &Strike) {
        let (group, count) = ((strike.salt & u64::from(u32::MAX)) as usize, strike.salt >> 32);
        self.propose_unheard(group, strike.node, count);
        for client in 0..self.plan.clients {
            self.hold_on(client, group, strike.node);
        }
    }

    pub(super) fn lapse(&mut self, strike: &Strike) {
        let mut chance = Chance::of(strike.salt, "lapsing");
        let group = chance.below(self.plan.groups as u64) as usize;
        let Some(leader) = self.leading(group_id(group)) else { return };
        let mut others = self.places(group);
        others.retain(|place| *place != leader);
        if others.is_empty() {
            return;
        }
        let follower = others.swap_remove(chance.below(others.len() as u64) as usize);
        // The leader and its follower stay a quorum if all of these are there, but for as many others.
        let friends = (others.len() / 2).min(others.len().saturating_sub(1));
        others.truncate(others.len() - friends);
        // A promise counts from the last sign of life, which is up to an interval old. The follower reaches the leader all the time:
        // its first word asks for another promise.
        let (timeout, way) = (self.nodes[follower].timeout, self.plan.net.delay + self.plan.net.jitter);
        let interval = self.plan.settings.heartbeat_interval.as_nanos() as u64;
        let apart = timeout - interval.min(timeout) + chance.below(2 * interval);
        let cut = Strike { at: self.now, kind: FaultKind::OneWay, node: leader, other: follower, ..*strike };
        self.later(Strike { span: apart, salt: 1, ..cut });
        for third in others {
            self.later(Strike { kind: FaultKind::Part, other: third, ..cut });
        }
        let slow = Strike { kind: FaultKind::SlowTurns, node: follower, salt: chance.below(3), ..*strike };
        self.later(Strike { at: self.now + timeout / 2, ..slow });
        let then = self.now + apart + way + chance.below(3 * interval);
        self.say(|| {
            let limits =
                self.plan.variety.settings(&self.plan.settings, follower, self.nodes[follower].life).limits;
            let (leader, follower, ms) = (leader + 1, follower + 1, apart / 1_000_000);
            format!("n{follower}  does not hear n{leader} for {ms} ms; tells {} a turn", limits.notifications)
        });
        self.then(*strike, then, FaultKind::Murmur, (leader, follower));
    }
}
