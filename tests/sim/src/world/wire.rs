//! The network between nodes: what a worker sends passes the links, as a message or, with real transports, as datagrams.

use bytes::Bytes;
use raftwerk::NodeId;
use raftwerk_frame::wire::{UNIT_HEADER_BYTES, UnitHeader, UnitKind, records};
use raftwerk_net::{Channel, PeerId};

use super::{Event, Unit, World, node_id};
use crate::disk::held;
use crate::fault::FaultKind;
use crate::net::Way;
use crate::node::State;
use crate::quic::{Heard, QuicEnd};
use crate::watch::Checked;

impl World<'_> {
    /// A message was sent: the network decides.
    pub(super) fn post(&mut self, from: usize, to: PeerId, channel: Channel, bytes: Bytes) -> Checked {
        if self.nodes[from].is_fenced {
            return Ok(()); // no message of it arrives, and what it has on its disk is no longer noted
        }
        let at = to.0 as usize - 1;
        if self.nodes.get(at).is_none_or(|node| node.is_fenced) {
            return Ok(());
        }
        if !self.nodes[from].is_wiped {
            self.watch.leaving(from, NodeId(to.0), &bytes)?;
            self.check_written(from, &bytes)?;
            self.note_shipped(from, at, &bytes)?;
        }
        if self.links.link(from, at).murmurs > 0
            && UnitHeader::parse(&bytes).is_ok_and(|(header, ..)| header.kind != UnitKind::NodeHeartbeat)
        {
            return Ok(());
        }
        if self.plan.quic.is_some() {
            return Ok(()); // on its way already, or waiting where it cannot be seen from here
        }
        self.overhear(from, at, channel, &bytes);
        let bytes = self.forged(from, at, bytes);
        let late = self.stage.as_mut().map_or(0, |stage| stage.posted(&bytes, self.links.is_healed));
        let to = at;
        let unit = Unit { from, to, channel, bytes, sent: self.now, is_late: false };
        self.send_off(unit, Some(channel), late, |_, bytes| bytes);
        Ok(())
    }

    /// Decides about one message or datagram, and lets it go. `struck`: what may befall its bytes, but not those of a copy.
    fn send_off(
        &mut self,
        unit: Unit,
        order: Option<Channel>,
        late: u64,
        struck: impl FnOnce(&mut Self, Bytes) -> Bytes,
    ) {
        let (at, again, is_late) = match self.links.way(self.now, unit.from, unit.to, order, &mut self.faults)
        {
            Way::Lost => return,
            Way::Arrives(at, again) => (at + late, again, false),
            Way::Haunts(at, again) => (at + late, Some(again), true),
        };
        if let Some(again) = again {
            self.carry(again, Unit { bytes: unit.bytes.clone(), is_late, ..unit });
        }
        let bytes = struck(self, unit.bytes);
        self.carry(at, Unit { bytes, ..unit });
    }

    pub(super) fn carry(&mut self, at: u64, unit: Unit) {
        let slot = self.free_units.pop().unwrap_or_else(|| {
            self.units.push(None);
            self.units.len() as u32 - 1
        });
        self.units[slot as usize] = Some(unit);
        self.at(at, Event::Arrival { unit: slot });
    }

    pub(super) fn arrive(&mut self, slot: u32) {
        let Some(unit) = self.units[slot as usize].take() else { return };
        let Unit { from, to, channel, bytes, sent, is_late } = unit;
        self.free_units.push(slot);
        let is_gone = if is_late { self.links.is_healed } else { sent < self.links.link(from, to).made_at };
        if is_gone {
            return;
        }
        if self.stage.is_some() && self.links.is_cut(from, to) {
            return; // a cut takes what was on its way, so that a scenario knows what has passed
        }
        if self.plan.quic.is_some() {
            return self.catch(from, to, bytes);
        }
        self.receive(from, to, channel, bytes);
        self.answer_bells(to);
    }

    /// A message has come to a node.
    fn receive(&mut self, from: usize, to: usize, channel: Channel, bytes: Bytes) {
        let sum = crc32fast::hash(&bytes);
        self.count(2, u64::from(sum) << 16 | (from as u64) << 8 | to as u64);
        self.note_heard(from, to, &bytes);
        if self.trace.is_some() {
            self.say_unit(from, to, &bytes);
        }
        if self.nodes[to].is_reachable()
            && let Some(body) = &self.nodes[to].body
        {
            body.receive(node_id(from), channel, bytes);
        }
    }

    fn say_unit(&self, from: usize, to: usize, bytes: &[u8]) {
        let Ok((header, heads, _)) = UnitHeader::parse(bytes) else { return };
        if header.kind == UnitKind::Snapshot {
            return self.say(|| {
                let word = |at: usize| bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes);
                let (kind, head) = (bytes.get(UNIT_HEADER_BYTES), UNIT_HEADER_BYTES);
                let (group, index, offset, total) = (word(head + 8), word(head + 32), word(head + 40), word(head + 48));
                let (from, to, bytes) = (from + 1, to + 1, bytes.len());
                format!("n{from}>n{to}  g{group} snapshot unit {kind:?} of {index}: {offset} of {total}, {bytes} B")
            });
        }
        for record in records(heads).flatten() {
            self.say(|| {
                let body =
                    if record.body_bytes > 0 { format!(" + {} B", record.body_bytes) } else { String::new() };
                format!("n{}>n{}  {} {:?}{body}", from + 1, to + 1, record.group, record.message)
            });
        }
    }

    // With real transports.

    /// A node that starts gets a transport, where the plan wants a real one.
    pub(super) fn plug_in(&mut self, at: usize) {
        let Some(plan) = &self.plan.quic else { return };
        let node = &mut self.nodes[at];
        let now = node.local(self.now);
        let seed = self.seed ^ u64::from(node.life) << 32 ^ at as u64;
        let end = QuicEnd::start(plan, at, self.plan.nodes, seed, now);
        *held(&node.transport.quic) = Some(end.transport.clone());
        node.quic = Some(end);
    }

    /// A node that dies takes its transport with it, without a word to the others.
    pub(super) fn unplug(&mut self, at: usize) {
        *held(&self.nodes[at].transport.quic) = None;
        self.nodes[at].quic = None;
    }

    /// The real transport of a node does what there is to do: sends datagrams, hands up messages.
    pub(super) fn tend(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        let Some(end) = node.quic.as_mut().filter(|_| node.state == State::Up) else { return };
        let mut next = node.frozen_until;
        if next <= now {
            node.latest = node.latest.max(node.clock.local(now));
            next = node.clock.world(end.run(node.latest)).max(now + 1);
        }
        if next < end.looked_after_at {
            end.looked_after_at = next;
            let (node, life) = (at as u16, node.life);
            self.at(next, Event::Tend { node, life });
        }
        let Some(end) = &self.nodes[at].quic else { return };
        let (sent, heard) = (end.take_sent(), end.take_heard());
        for (to, datagram) in sent {
            self.throw(at, to, datagram);
        }
        for word in heard {
            self.hear(at, word);
        }
        self.answer_bells(at);
    }

    /// A timer of a real transport is due.
    pub(super) fn tend_in_time(&mut self, at: usize, life: u32) {
        let node = &mut self.nodes[at];
        if let Some(end) =
            node.quic.as_mut().filter(|end| node.life == life && end.looked_after_at <= self.now)
        {
            end.looked_after_at = u64::MAX;
            self.tend(at);
        }
    }

    /// A datagram is sent: the network decides.
    fn throw(&mut self, from: usize, to: usize, datagram: Bytes) {
        let Some(plan) = &self.plan.quic else { return };
        if to >= self.nodes.len() || self.nodes[from].is_fenced || self.nodes[to].is_fenced {
            return;
        }
        if datagram.len() > plan.mtu {
            return;
        }
        let corrupt_ppm = plan.corrupt_ppm;
        // No order is kept among datagrams, and they belong to no connection that the links know of.
        let unit =
            Unit { from, to, channel: Channel::Control, bytes: datagram, sent: u64::MAX, is_late: false };
        self.send_off(unit, None, 0, |world, bytes| {
            let is_struck = !world.is_ending && world.chances.faults.hits(corrupt_ppm);
            if is_struck { world.corrupted(bytes) } else { bytes }
        });
    }

    fn corrupted(&mut self, datagram: Bytes) -> Bytes {
        self.faults.add(FaultKind::Corrupt);
        let mut bytes = datagram.to_vec();
        let bit = self.chances.faults.below(8 * bytes.len().max(1) as u64) as usize;
        if let Some(byte) = bytes.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
        bytes.into()
    }

    /// A datagram arrives. Its bytes are sealed with keys that are new in every process: only their number counts.
    fn catch(&mut self, from: usize, to: usize, datagram: Bytes) {
        self.count(4, (datagram.len() as u64) << 16 | (from as u64) << 8 | to as u64);
        if let Some(end) = &self.nodes[to].quic {
            end.deliver(from, datagram);
            self.tend(to);
        }
    }

    /// What a real transport hands up, its engine gets.
    fn hear(&mut self, at: usize, word: Heard) {
        if !self.nodes[at].is_reachable() {
            return;
        }
        match word {
            Heard::Message(from, channel, bytes) => self.receive(from.0 as usize - 1, at, channel, bytes),
            Heard::Connected(peer) => {
                self.count(9, peer.0 << 8 | at as u64);
                if let Some(body) = &self.nodes[at].body {
                    body.connected(NodeId(peer.0));
                }
            }
            Heard::Disconnected(peer) => {
                self.count(5, peer.0 << 8 | at as u64);
                self.say(|| format!("n{}  has lost its connection to {peer}", at + 1));
                if let Some(body) = &self.nodes[at].body {
                    body.disconnected(NodeId(peer.0));
                }
            }
        }
    }
}
