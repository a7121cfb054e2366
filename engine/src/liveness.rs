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
//!    (`raft::Config::abstention`, `worker::abstention`).
//! 6. An incarnation has one log. Groups whose configuration names another log of that node get no support
//!    from it: no node leads what the lost log led.
//! 7. A heartbeat requests support only if the log of its worker makes progress ([`crate::pulse`]). A worker
//!    that does not turn, for whatever reason, sends none at all.
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
//! What is not here: sending, and notifying groups (`worker::nodes`). Pure: time is a number.

use std::time::Duration;

use raftwerk_frame::{NodeHeartbeat, GroupId, LogId, NodeId, Time};

use crate::engine::worker_of;

/// A worker of another node that has `workers` workers. The groups shared with it are those that it owns
/// there and this worker owns here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerLane {
    pub(crate) node: NodeId,
    pub(crate) worker: u16,
    pub(crate) workers: u16,
}

impl PeerLane {
    /// The worker that owns a group on a node with `workers` workers.
    pub(crate) fn of(node: NodeId, group: GroupId, workers: u16) -> Self {
        Self { node, worker: worker_of(group, usize::from(workers)) as u16, workers }
    }

    /// Whether it owns the group on its node.
    pub(crate) fn has(self, group: GroupId) -> bool {
        worker_of(group, usize::from(self.workers)) == usize::from(self.worker)
    }
}

/// A change in the liveness of a node, or of a worker of it; every group that has it as a member is notified,
/// in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// This worker supports it from now on, or no longer, in the groups that both own.
    Supports(PeerLane, bool),
    /// It supports this worker from now on, or no longer, in those.
    SupportedBy(PeerLane, bool),
    /// A connection to it was established again. Only groups that are quiescent without it are notified.
    Reached(NodeId),
}

/// A received node heartbeat.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) from: PeerLane,
    /// The log of the sender.
    pub(crate) log: LogId,
    pub(crate) beat: NodeHeartbeat,
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
    heard: u64,
    /// Support given: its end, when the heartbeat that it answers was sent, and its number. No end: none is
    /// given.
    promised_until: Option<Time>,
    supported_at: u64,
    promise: u32,
    /// Support received: when it was requested, for how long, and its number.
    asked_at: Time,
    given: Duration,
    given_promise: u32,
    is_supported: bool,
    is_named: bool,
    /// The number of ends of support given of which not every replica has been notified.
    ends_untold: u32,
}

impl Link {
    const fn new(lane: PeerLane) -> Self {
        Self {
            lane,
            incarnation: 0,
            log: LogId(0),
            heard: 0,
            promised_until: None,
            supported_at: 0,
            promise: 0,
            asked_at: Time(0),
            given: Duration::ZERO,
            given_promise: 0,
            is_supported: false,
            is_named: true,
            ends_untold: 0,
        }
    }

    const fn is_tied(&self) -> bool {
        self.promised_until.is_some() || self.is_supported || self.ends_untold > 0
    }

    /// Ends the support given, if there is any.
    fn end_support(&mut self, news: &mut Vec<News>) {
        if self.promised_until.take().is_some() {
            self.ends_untold += 1;
            news.push(News::Supports(self.lane, false));
        }
    }
}

/// The parameters of support.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// This worker's incarnation: not 0, and different from every earlier one.
    pub(crate) incarnation: u64,
    /// The heartbeat interval.
    pub(crate) interval: Duration,
    /// T: the duration of support.
    pub(crate) promise: Duration,
    /// The maximum deviation of each node's clock rate, in parts per million. From a million on there are no
    /// leases.
    pub(crate) drift_ppm: u32,
}

/// A worker's table of the peer workers that it shares groups with. Few, and searched linearly.
#[derive(Debug)]
pub(crate) struct Liveness {
    terms: Terms,
    links: Vec<Link>,
    last_beat: Time,
    next_beat: Time,
    promises: u32,
    /// Support requested before this time is ignored, because this worker has been unhealthy since.
    asks_from: Time,
    is_healthy: bool,
    news: Vec<News>,
}

impl Liveness {
    pub(crate) const fn new(terms: Terms) -> Self {
        Self {
            terms,
            links: Vec::new(),
            last_beat: Time(0),
            next_beat: Time::NEVER,
            promises: 0,
            asks_from: Time(0),
            is_healthy: true,
            news: Vec::new(),
        }
    }

    /// Sets the peer workers that share groups with this one. Support given to others stands until it ends.
    pub(crate) fn name(&mut self, now: Time, lanes: &[PeerLane]) {
        self.links.iter_mut().for_each(|link| link.is_named = false);
        for &lane in lanes {
            match self.links.iter_mut().find(|link| link.lane == lane) {
                Some(link) => link.is_named = true,
                None => self.links.push(Link::new(lane)),
            }
        }
        self.links.retain(|link| link.is_named || link.is_tied());
        self.next_beat = if self.links.is_empty() { Time::NEVER } else { self.next_beat.min(now) };
    }

    /// Adds a peer worker that shares a group with this one.
    pub(crate) fn meet(&mut self, now: Time, lane: PeerLane) {
        match self.links.iter_mut().find(|link| link.lane == lane) {
            Some(link) => link.is_named = true,
            None => {
                self.links.push(Link::new(lane));
                self.next_beat = self.next_beat.min(now);
            }
        }
    }

    /// Processes a received heartbeat. Call before [`Liveness::lapse`] in the same turn: support that would
    /// have ended while the heartbeat was queued is then renewed instead.
    pub(crate) fn hear(&mut self, now: Time, heard: &Heard) {
        let Heard { from, log, ref beat } = *heard;
        let Self { terms, links, news, promises, asks_from, is_healthy, last_beat, next_beat } = self;
        let Some(link) = links.iter_mut().find(|link| link.lane == from) else { return };
        if link.incarnation != beat.incarnation {
            if link.is_tied() || beat.incarnation == 0 {
                return;
            }
            *link = Link { incarnation: beat.incarnation, log, is_named: link.is_named, ..Link::new(from) };
        }
        // Late, or duplicate.
        if beat.sent <= link.heard {
            return;
        }
        link.heard = beat.sent;
        // Synchronises the nodes' heartbeats: an immediate answer carries the transport's acknowledgement as
        // well, and saves a wake-up.
        if now >= *last_beat + terms.interval / 2 {
            *next_beat = now;
        }
        let is_ours = beat.your_incarnation == terms.incarnation;
        let hears_us = is_ours && beat.heard != 0 && now.since(Time(beat.heard)) < terms.promise;
        if !beat.is_healthy {
            link.end_support(news);
        } else if hears_us && link.ends_untold == 0 {
            if link.promised_until.is_none() {
                *promises += 1;
                link.promise = *promises;
                news.push(News::Supports(from, true));
            }
            (link.promised_until, link.supported_at) = (Some(now + terms.promise), beat.sent);
        }
        let given = Duration::from_micros(u64::from(beat.support_us));
        // A heartbeat sent at time 0 carries a 1, since 0 stands for none: that must neither extend a lease
        // nor make the request look later.
        let asked_at = Time(if beat.supported_at == 1 { 0 } else { beat.supported_at });
        let counts = is_ours && *is_healthy && beat.supported_at != 0 && asked_at >= *asks_from;
        if counts && asked_at + given > now {
            if link.is_supported && link.given_promise != beat.promise {
                link.is_supported = false;
                news.push(News::SupportedBy(from, false));
            }
            if !link.is_supported {
                link.is_supported = true;
                news.push(News::SupportedBy(from, true));
            }
            (link.asked_at, link.given, link.given_promise) = (asked_at, given, beat.promise);
        }
    }

    /// Ends support that has expired.
    pub(crate) fn lapse(&mut self, now: Time) {
        for link in &mut self.links {
            if link.promised_until.is_some_and(|until| until <= now) {
                link.end_support(&mut self.news);
            }
            if link.is_supported && link.asked_at + link.given <= now {
                link.is_supported = false;
                self.news.push(News::SupportedBy(link.lane, false));
            }
        }
    }

    /// Sets whether this worker's log makes progress. One that does not must not lead: it requests no
    /// support, and ignores the support that it has.
    pub(crate) fn is_healthy(&mut self, now: Time, is_healthy: bool) {
        if std::mem::replace(&mut self.is_healthy, is_healthy) == is_healthy {
            return;
        }
        // Strictly later than every request so far.
        self.asks_from = Time(now.0 + 1);
        self.next_beat = self.next_beat.min(now);
        for link in self.links.iter_mut().filter(|link| link.is_supported) {
            link.is_supported = false;
            self.news.push(News::SupportedBy(link.lane, false));
        }
    }

    /// The heartbeats that are due: to all peer workers at once.
    pub(crate) fn beats(&mut self, now: Time) -> impl Iterator<Item = (PeerLane, NodeHeartbeat)> + '_ {
        let is_due = now >= self.next_beat;
        if is_due {
            self.last_beat = now;
            self.next_beat = now + self.terms.interval;
        }
        let (terms, is_healthy) = (self.terms, self.is_healthy);
        // A clock at 0 has not begun to run; the `sent` of a heartbeat is never 0.
        let sent = now.0.max(1);
        self.links.iter().filter(move |_| is_due).map(move |link| {
            let is_promised = link.promised_until.is_some();
            let beat = NodeHeartbeat {
                incarnation: terms.incarnation,
                your_incarnation: link.incarnation,
                sent,
                heard: link.heard,
                supported_at: if is_promised { link.supported_at } else { 0 },
                support_us: if is_promised { terms.promise.as_micros() as u32 } else { 0 },
                promise: link.promise,
                is_healthy,
            };
            (link.lane, beat)
        })
    }

    /// Until when, by this node's clock, a node's support of a group is certain: the bound of a lease.
    pub(crate) fn kept_until(&self, node: NodeId, group: GroupId) -> Time {
        let links = self.links_of(node, group).filter(|link| link.is_supported);
        let until = links.map(|link| {
            let drift = u64::from(self.terms.drift_ppm.min(1_000_000));
            let given = u128::from(link.given.as_nanos() as u64);
            let kept = given * u128::from(1_000_000 - drift) / u128::from(1_000_000 + drift);
            link.asked_at + Duration::from_nanos(kept as u64)
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
    pub(crate) fn tie(&self, node: NodeId, log: LogId, group: GroupId) -> (bool, bool) {
        let links = self.links_of(node, group).filter(|link| link.log == log);
        links.fold((false, false), |(ours, theirs), link| {
            (ours || link.promised_until.is_some(), theirs || link.is_supported)
        })
    }

    /// Every replica has been notified of it.
    pub(crate) fn is_told(&mut self, news: News) {
        if let News::Supports(lane, false) = news
            && let Some(link) = self.links.iter_mut().find(|link| link.lane == lane)
        {
            link.ends_untold = link.ends_untold.saturating_sub(1);
        }
    }

    /// Takes the changes since the last call.
    pub(crate) fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// When a heartbeat is due, or support given ends.
    pub(crate) fn next_deadline(&self) -> Time {
        let ends = self.links.iter().filter_map(|link| link.promised_until);
        ends.min().unwrap_or(Time::NEVER).min(self.next_beat)
    }
}

#[cfg(test)]
mod tests;
