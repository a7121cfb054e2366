//! The network between simulated nodes: what a worker sends is collected, and the links say when, and whether, it
//! arrives.
//!
//! A channel keeps its order unless a fault breaks it. What is not here: what cuts links (`world::faults`).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raftwerk_net::{Channel, Parts, PeerId, QuicTransport, SendError, Transport};

use crate::chance::Chance;
use crate::disk::held;
use crate::fault::{FaultCounts, FaultKind};
use crate::plan::NetPlan;

/// A node's end of the network.
#[derive(Default)]
pub(crate) struct SimTransport {
    sent: Mutex<Vec<(PeerId, Channel, Bytes)>>,
    /// The real transport, where there is one: it carries what is sent, and here is only a copy of it to be judged.
    pub(crate) quic: Mutex<Option<Arc<QuicTransport>>>,
    /// Peers, by bit, with a connection that is known to be gone.
    pub(crate) closed: AtomicU64,
}

impl SimTransport {
    /// Swaps what was sent since the last call for `into`, an empty list.
    pub(crate) fn take_sent(&self, into: &mut Vec<(PeerId, Channel, Bytes)>) {
        std::mem::swap(&mut *held(&self.sent), into);
    }
}

impl Transport for SimTransport {
    fn send(&self, to: PeerId, channel: Channel, parts: Parts) -> Result<(), SendError> {
        if self.closed.load(Ordering::Relaxed) & 1 << (to.0 % 64) != 0 {
            return Err(SendError::Closed);
        }
        let message = match parts.as_slice() {
            [whole] => whole.clone(),
            pieces => pieces.concat().into(),
        };
        if let Some(quic) = &*held(&self.quic) {
            quic.send(to, channel, parts)?;
        }
        held(&self.sent).push((to, channel, message));
        Ok(())
    }

    fn flush(&self) {
        if let Some(quic) = &*held(&self.quic) {
            quic.flush();
        }
    }

    fn add_peer(&self, _: PeerId, _: SocketAddr) {}

    fn set_address(&self, _: PeerId, _: SocketAddr) {}
}

/// One direction between two nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    /// How many faults cut it now.
    pub(crate) cuts: u32,
    /// How many faults let only signs of life pass.
    pub(crate) murmurs: u32,
    /// Messages wait until then.
    pub(crate) clogged_until: u64,
    /// Delays are longer by a factor until then.
    pub(crate) slow_until: u64,
    /// The time of its latest connection: what was sent before does not arrive.
    pub(crate) made_at: u64,
    latest: [u64; Channel::COUNT],
    /// By channel: messages wait until then.
    stalled_until: [u64; Channel::COUNT],
}

impl Link {
    /// Holds up a channel until then.
    pub(crate) fn stall(&mut self, slot: usize, until: u64) {
        let stalled = &mut self.stalled_until[slot % Channel::COUNT];
        *stalled = until.max(*stalled);
    }
}

/// The fate of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Lost,
    /// Arrives at this time, and perhaps once more.
    Arrives(u64, Option<u64>),
    /// Arrives at the first time, and once more at the second, by which everything may have changed.
    Haunts(u64, u64),
}

/// All links, and their chance.
pub(crate) struct Links {
    plan: NetPlan,
    nodes: usize,
    links: Vec<Link>,
    chance: Chance,
    /// Faults have ended: messages only take their time.
    pub(crate) is_healed: bool,
}

/// How much slower a slow link is.
const SLOW_TIMES: u64 = 50;
/// The longest delay that a heavy tail adds: a channel that keeps its order stands still for so long.
const DELAY_MAX: u64 = 3_000_000_000;

impl Links {
    pub(crate) fn new(seed: u64, plan: NetPlan, nodes: usize) -> Self {
        let links = vec![Link::default(); nodes * nodes];
        Self { plan, nodes, links, chance: Chance::of(seed, "net"), is_healed: false }
    }

    pub(crate) fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }

    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.links[from * self.nodes + to].cuts > 0
    }

    /// Whether nothing holds back what is sent, but for what may befall any message: what was sent last is there `soon`.
    pub(crate) fn is_clear(&self, now: u64, from: usize, to: usize, soon: u64) -> bool {
        let link = &self.links[from * self.nodes + to];
        link.cuts == 0
            && link.latest.iter().all(|at| *at <= now + soon)
            && link.murmurs == 0
            && link.clogged_until <= now
            && link.slow_until <= now
    }

    /// Ends all cuts, clogs and stalls.
    pub(crate) fn heal(&mut self) {
        self.is_healed = true;
        self.links.fill(Link::default());
    }

    /// The connection between two nodes is made anew: its channels wait for nothing that was sent before.
    pub(crate) fn remake(&mut self, now: u64, one: usize, other: usize) {
        for (from, to) in [(one, other), (other, one)] {
            let link = self.link(from, to);
            (link.made_at, link.latest) = (now, [0; Channel::COUNT]);
        }
    }

    /// How long after a break the ends learn of it.
    pub(crate) const fn notice(&self) -> u64 {
        self.plan.notice
    }

    /// Decides about one message, and counts what it does to it.
    pub(crate) fn way(
        &mut self,
        now: u64,
        from: usize,
        to: usize,
        order: Option<Channel>,
        faults: &mut FaultCounts,
    ) -> Way {
        let mut delay = self.plan.delay + self.chance.below(self.plan.jitter);
        let is_cut = self.is_cut(from, to);
        let mut struck = |chance: &mut Chance, ppm: u32, kind: FaultKind| {
            let hits = !self.is_healed && chance.hits(ppm);
            if hits {
                faults.add(kind);
            }
            hits
        };
        if is_cut || struck(&mut self.chance, self.plan.drop_ppm, FaultKind::Drop) {
            return Way::Lost;
        }
        if struck(&mut self.chance, self.plan.refuse_ppm, FaultKind::Refuse) {
            return Way::Lost;
        }
        if struck(&mut self.chance, self.plan.tail_ppm, FaultKind::Delay) {
            delay += self.chance.heavy_tailed(self.plan.tail).min(DELAY_MAX);
        }
        let is_doubled = struck(&mut self.chance, self.plan.duplicate_ppm, FaultKind::Duplicate);
        let is_free = struck(&mut self.chance, self.plan.reorder_ppm, FaultKind::Reorder);
        let link = &mut self.links[from * self.nodes + to];
        if now < link.slow_until {
            delay *= SLOW_TIMES;
        }
        let mut at = (now + delay).max(link.clogged_until);
        if let Some(slot) = order.and_then(Channel::slot) {
            at = at.max(link.stalled_until[slot]);
        }
        match order.filter(|_| !is_free) {
            Some(channel) => {
                let latest = &mut link.latest[channel.slot().unwrap_or_default()];
                at = at.max(*latest + 1);
                *latest = at;
            }
            None if is_free => at += self.chance.heavy_tailed(self.plan.delay),
            None => {}
        }
        if struck(&mut self.chance, self.plan.late_ppm, FaultKind::Late) {
            return Way::Haunts(at, at + self.chance.below(self.plan.late));
        }
        let again = is_doubled.then(|| at + self.chance.heavy_tailed(self.plan.delay));
        Way::Arrives(at, again)
    }
}
