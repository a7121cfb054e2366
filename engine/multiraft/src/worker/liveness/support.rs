//! Node liveness at the cost of nodes, not of groups: which worker supports which, and until when.
//!
//! Once per interval, a worker sends one small node heartbeat ([`NodeHeartbeat`]) to each worker of another node that
//! it shares a group with; those of a node's workers leave together. On receiving one, a worker *supports*
//! its sender until `now + T` on its own monotonic clock, and reports that in its next heartbeat. The effect
//! on a group is described in the core (`raft::rest`): a follower fortifies a leader that its node supports,
//! and does not campaign meanwhile. So a group without traffic needs no heartbeat of its own, and a leader
//! supported by a quorum may answer reads by lease.
//!
//! The rules:
//! 1. Support counts from when it is *given* on the supporting side, and from when the heartbeat that it
//!    answers was *sent* on the supported side; a lease is shorter than that by the allowed drift of the
//!    clocks' rates. No two clocks are ever compared.
//! 2. Support is never withdrawn early, unless its receiver reports itself unhealthy; and that receiver
//!    ignores support that it requested before its health last changed.
//! 3. Support is given only to a sender that has received one of this worker's heartbeats within T: a worker
//!    that receives nothing cannot lead.
//! 4. Each support that does not continue the previous one has another number, by which its receiver detects
//!    the gap. None begins before every replica here has been notified of the end of the previous one: a
//!    replica that has not been would count as fortifying by the new support, and drop the old one a moment
//!    later.
//! 5. A node that restarts has another incarnation. Support given to the former incarnation stands until it
//!    ends, and heartbeats of the new one are ignored until then; support that the former one gave stands,
//!    too: the core grants no vote for as long as any earlier incarnation may have given support
//!    (`raft::Config::abstention`, `worker::liveness::abstention`).
//! 6. An incarnation has one log. Groups whose configuration names another log of that node get no support
//!    from it: no node leads what the lost log led.
//! 7. A heartbeat requests support only if the log of its worker makes progress
//!    ([`crate::worker::liveness::disk_health`]). A worker that does not turn, for whatever reason, sends
//!    none at all.
//!
//! Why per worker: a worker is the unit that can hang. Its heartbeats come out of its own turns, so nothing
//! else vouches for it, and no other worker's groups are affected.
//!
//! Support is given by one worker to another, and concerns the groups that both own: those of [`PeerLane`].
//! With as many workers on both nodes, that is one pair for each number. With a here and b there, groups are
//! distributed so that at most a + b − gcd(a, b) pairs share any, and only those exchange heartbeats. A
//! node's units carry its number of workers; before the first one arrives, it is assumed to be the number
//! here, which affects nothing else: a heartbeat to the wrong worker gets no answer.
//!
//! What is not here: sending, and notifying groups (`worker::liveness::nodes`). Pure: time is a number.

use std::time::Duration;

use raftwerk_frame::{GroupId, LogId, NodeHeartbeat, NodeId, Time};

use crate::node::placement::PeerLane;
use crate::node::request::ReceivedHeartbeat;

/// A change in the liveness of a node, or of a worker of it; every group that has it as a member is notified,
/// in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SupportEvent {
    /// This worker supports it from now on, or no longer, in the groups that both own.
    Supports(PeerLane, bool),
    /// It supports this worker from now on, or no longer, in those.
    SupportedBy(PeerLane, bool),
    /// A connection to it was established again. Only groups that are quiescent without it are notified.
    Connected(NodeId),
}

/// The support between this worker and a node, as one group is to see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MutualSupport {
    /// This worker supports the node.
    pub(crate) given: bool,
    /// The node supports this worker.
    pub(crate) received: bool,
}

/// Whether a worker's log makes progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Healthy,
    /// The disk hangs, or has done so lately.
    Stalled,
}

/// The support between two workers.
#[derive(Clone, Copy, Debug)]
struct Link {
    lane: PeerLane,
    /// Its incarnation; 0 before its first heartbeat.
    incarnation: u64,
    /// The log of that incarnation.
    log: LogId,
    /// When its last heartbeat was sent, by its clock.
    last_sent: u64,
    /// Support given: its end, when the heartbeat that it answers was sent, and its number. No end: none is
    /// given.
    given_until: Option<Time>,
    given_for: u64,
    given_epoch: u32,
    /// Support received: when it was requested, for how long, and its number.
    requested_at: Time,
    received_for: Duration,
    received_epoch: u32,
    is_supported: bool,
    is_named: bool,
    /// The number of ends of support given of which not every replica has been notified.
    ends_pending: u32,
}

impl Link {
    const fn new(lane: PeerLane) -> Self {
        Self {
            lane,
            incarnation: 0,
            log: LogId(0),
            last_sent: 0,
            given_until: None,
            given_for: 0,
            given_epoch: 0,
            requested_at: Time(0),
            received_for: Duration::ZERO,
            received_epoch: 0,
            is_supported: false,
            is_named: true,
            ends_pending: 0,
        }
    }

    const fn has_support(&self) -> bool {
        self.given_until.is_some() || self.is_supported || self.ends_pending > 0
    }

    /// Ends the support given, if there is any.
    fn end_support(&mut self, events: &mut Vec<SupportEvent>) {
        if self.given_until.take().is_some() {
            self.ends_pending += 1;
            events.push(SupportEvent::Supports(self.lane, false));
        }
    }
}

/// The parameters of support.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SupportTerms {
    /// This worker's incarnation: not 0, and different from every earlier one.
    pub(crate) incarnation: u64,
    /// The heartbeat interval.
    pub(crate) interval: Duration,
    /// T: the duration of support.
    pub(crate) duration: Duration,
    /// The maximum deviation of each node's clock rate, in parts per million. From a million on there are no
    /// leases.
    pub(crate) drift_ppm: u32,
}

/// A worker's table of the peer workers that it shares groups with. Few, and searched linearly.
#[derive(Debug)]
pub(crate) struct Liveness {
    terms: SupportTerms,
    links: Vec<Link>,
    last_heartbeat: Time,
    next_heartbeat: Time,
    epochs: u32,
    /// Support requested before this time is ignored, because this worker has been unhealthy since.
    requests_valid_from: Time,
    is_healthy: bool,
    events: Vec<SupportEvent>,
}

impl Liveness {
    pub(crate) const fn new(terms: SupportTerms) -> Self {
        Self {
            terms,
            links: Vec::new(),
            last_heartbeat: Time(0),
            next_heartbeat: Time::NEVER,
            epochs: 0,
            requests_valid_from: Time(0),
            is_healthy: true,
            events: Vec::new(),
        }
    }

    /// Sets the peer workers that share groups with this one. Support given to others stands until it ends.
    pub(crate) fn set_peers(&mut self, now: Time, lanes: &[PeerLane]) {
        self.links.iter_mut().for_each(|link| link.is_named = false);
        for &lane in lanes {
            match self.links.iter_mut().find(|link| link.lane == lane) {
                Some(link) => link.is_named = true,
                None => self.links.push(Link::new(lane)),
            }
        }
        self.links.retain(|link| link.is_named || link.has_support());
        self.next_heartbeat = if self.links.is_empty() { Time::NEVER } else { self.next_heartbeat.min(now) };
    }

    /// Adds a peer worker that shares a group with this one.
    pub(crate) fn add_peer(&mut self, now: Time, lane: PeerLane) {
        match self.links.iter_mut().find(|link| link.lane == lane) {
            Some(link) => link.is_named = true,
            None => {
                self.links.push(Link::new(lane));
                self.next_heartbeat = self.next_heartbeat.min(now);
            }
        }
    }

    /// Processes a received heartbeat. Call before [`Liveness::expire`] in the same turn: support that would
    /// have ended while the heartbeat was queued is then renewed instead.
    pub(crate) fn on_heartbeat(&mut self, now: Time, received: &ReceivedHeartbeat) {
        let ReceivedHeartbeat { from, log, ref heartbeat } = *received;
        let Self {
            terms,
            links,
            events,
            epochs,
            requests_valid_from,
            is_healthy,
            last_heartbeat,
            next_heartbeat,
        } = self;
        let Some(link) = links.iter_mut().find(|link| link.lane == from) else { return };
        if link.incarnation != heartbeat.incarnation {
            if link.has_support() || heartbeat.incarnation == 0 {
                return;
            }
            *link =
                Link { incarnation: heartbeat.incarnation, log, is_named: link.is_named, ..Link::new(from) };
        }
        // Late, or duplicate.
        if heartbeat.sent <= link.last_sent {
            return;
        }
        link.last_sent = heartbeat.sent;
        // Synchronises the nodes' heartbeats: an immediate answer carries the transport's acknowledgement as
        // well, and saves a wake-up.
        if now >= *last_heartbeat + terms.interval / 2 {
            *next_heartbeat = now;
        }
        let is_ours = heartbeat.your_incarnation == terms.incarnation;
        let receives_us =
            is_ours && heartbeat.your_sent != 0 && now.since(Time(heartbeat.your_sent)) < terms.duration;
        if !heartbeat.is_healthy {
            link.end_support(events);
        } else if receives_us && link.ends_pending == 0 {
            if link.given_until.is_none() {
                *epochs += 1;
                link.given_epoch = *epochs;
                events.push(SupportEvent::Supports(from, true));
            }
            (link.given_until, link.given_for) = (Some(now + terms.duration), heartbeat.sent);
        }
        let given = Duration::from_micros(u64::from(heartbeat.support_us));
        // A heartbeat sent at time 0 carries a 1, since 0 stands for none: that must neither extend a lease
        // nor make the request look later.
        let requested_at = Time(if heartbeat.supported_at == 1 { 0 } else { heartbeat.supported_at });
        let counts =
            is_ours && *is_healthy && heartbeat.supported_at != 0 && requested_at >= *requests_valid_from;
        if counts && requested_at + given > now {
            if link.is_supported && link.received_epoch != heartbeat.support_epoch {
                link.is_supported = false;
                events.push(SupportEvent::SupportedBy(from, false));
            }
            if !link.is_supported {
                link.is_supported = true;
                events.push(SupportEvent::SupportedBy(from, true));
            }
            (link.requested_at, link.received_for, link.received_epoch) =
                (requested_at, given, heartbeat.support_epoch);
        }
    }

    /// Ends support that has expired.
    pub(crate) fn expire(&mut self, now: Time) {
        for link in &mut self.links {
            if link.given_until.is_some_and(|until| until <= now) {
                link.end_support(&mut self.events);
            }
            if link.is_supported && link.requested_at + link.received_for <= now {
                link.is_supported = false;
                self.events.push(SupportEvent::SupportedBy(link.lane, false));
            }
        }
    }

    /// Sets whether this worker's log makes progress. One that does not must not lead: it requests no
    /// support, and ignores the support that it has.
    pub(crate) fn set_health(&mut self, now: Time, health: Health) {
        let is_healthy = health == Health::Healthy;
        if std::mem::replace(&mut self.is_healthy, is_healthy) == is_healthy {
            return;
        }
        // Strictly later than every request so far.
        self.requests_valid_from = Time(now.0 + 1);
        self.next_heartbeat = self.next_heartbeat.min(now);
        for link in self.links.iter_mut().filter(|link| link.is_supported) {
            link.is_supported = false;
            self.events.push(SupportEvent::SupportedBy(link.lane, false));
        }
    }

    /// The heartbeats that are due: to all peer workers at once.
    pub(crate) fn due_heartbeats(
        &mut self,
        now: Time,
    ) -> impl Iterator<Item = (PeerLane, NodeHeartbeat)> + '_ {
        let is_due = now >= self.next_heartbeat;
        if is_due {
            self.last_heartbeat = now;
            self.next_heartbeat = now + self.terms.interval;
        }
        let (terms, health) = (self.terms, self.is_healthy);
        // A clock at 0 has not begun to run; the `sent` of a heartbeat is never 0.
        let sent = now.0.max(1);
        self.links.iter().filter(move |_| is_due).map(move |link| {
            let is_given = link.given_until.is_some();
            let heartbeat = NodeHeartbeat {
                incarnation: terms.incarnation,
                your_incarnation: link.incarnation,
                sent,
                your_sent: link.last_sent,
                supported_at: if is_given { link.given_for } else { 0 },
                support_us: if is_given { terms.duration.as_micros() as u32 } else { 0 },
                support_epoch: link.given_epoch,
                is_healthy: health,
            };
            (link.lane, heartbeat)
        })
    }

    /// Until when, by this node's clock, a node's support of a group is certain: the bound of a lease.
    pub(crate) fn support_until(&self, node: NodeId, group: GroupId) -> Time {
        let links = self.links_of(node, group).filter(|link| link.is_supported);
        let until = links.map(|link| {
            let drift = u64::from(self.terms.drift_ppm.min(1_000_000));
            let given = u128::from(link.received_for.as_nanos() as u64);
            let kept = given * u128::from(1_000_000 - drift) / u128::from(1_000_000 + drift);
            link.requested_at + Duration::from_nanos(kept as u64)
        });
        until.max().unwrap_or(Time(0))
    }

    /// The links to those workers of a node that own a group: one at a time, unless support of an earlier
    /// incarnation has not ended.
    fn links_of(&self, node: NodeId, group: GroupId) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(move |link| link.lane.node == node && link.lane.has(group))
    }

    /// Whether this worker supports a node, and whether it is supported by it, in a group that names `log` as
    /// the node's log. A node that has restarted with another log does not lead what the earlier one led: no
    /// replica may wait for it.
    pub(crate) fn support_with(&self, node: NodeId, log: LogId, group: GroupId) -> MutualSupport {
        let links = self.links_of(node, group).filter(|link| link.log == log);
        links.fold(MutualSupport::default(), |support, link| MutualSupport {
            given: support.given || link.given_until.is_some(),
            received: support.received || link.is_supported,
        })
    }

    /// Every replica has been notified of it.
    pub(crate) fn on_all_notified(&mut self, events: SupportEvent) {
        if let SupportEvent::Supports(lane, false) = events
            && let Some(link) = self.links.iter_mut().find(|link| link.lane == lane)
        {
            link.ends_pending = link.ends_pending.saturating_sub(1);
        }
    }

    /// Takes the changes since the last call.
    pub(crate) fn take_events(&mut self) -> Vec<SupportEvent> {
        std::mem::take(&mut self.events)
    }

    /// When a heartbeat is due, or support given ends.
    pub(crate) fn next_deadline(&self) -> Time {
        let ends = self.links.iter().filter_map(|link| link.given_until);
        ends.min().unwrap_or(Time::NEVER).min(self.next_heartbeat)
    }
}

#[cfg(test)]
mod tests;
