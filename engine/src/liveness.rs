//! Liveness at the cost of nodes, not of groups: who supports whom, and until when.
//!
//! Once per interval, a worker sends one small [`Beat`] to each worker of another node that it shares a group with; those of a
//! node's workers leave together. Whoever hears a beat *promises* to support its sender for T, by its own
//! monotonic clock, and says so in its next beat. What a promise means to a group is told in the core (`raft::rest`): a
//! replica that follows a leader over there waits for it. So a group that has nothing to say needs no heartbeat, and a leader whose
//! followers have promised may answer reads by itself.
//!
//! The rules:
//! 1. A promise counts from when it is *given* to whoever gives it, and from when the beat that it answers was *sent* to whoever
//!    has it; a lease is shorter than that by what the clocks' rates may differ. No two clocks are ever compared.
//! 2. A promise is never taken back early, but where its receiver says itself that it is not well; and what was asked for before
//!    that does not count there.
//! 3. A beat is answered only if its sender has heard one of ours lately: who hears nobody cannot lead.
//! 4. Each promise that does not continue the one before has another number, so that its receiver knows of the gap. None
//!    begins before every replica here knows that the one before has ended: a replica that does not know yet would pass for
//!    bound by the new promise, and be released from the old one a moment later.
//! 5. A node that restarts has another life. What was promised to the former stands until it ends, and the new one is not
//!    heard before; what the former promised stands, too: the core abstains from votes for as long as any earlier life may have
//!    promised (`raft::Config::abstention`, `worker::abstention`).
//! 6. A life speaks for one log. Groups that mean another log of that node are told of no support: what the lost one led,
//!    nobody leads.
//! 7. A beat asks for support only if its worker's log makes progress ([`crate::pulse`]). Whatever else may stop, a worker
//!    that does not turn sends no beat at all.
//!
//! Why by worker: a worker is what can hang. Its beats come out of its own turns, so there is nobody to vouch for it, and no
//! other worker's groups suffer with it.
//!
//! A promise is one worker's to another, and is about the groups that both have: those of [`PeerLane`]. With as many workers on both
//! nodes, that is one pair for each number. With a here and b there, groups are spread so that at most a + b − gcd(a, b) pairs
//! share any, and no more than those speak to each other. How many there are, a node's units tell; before the first one, as many as
//! here are taken for granted, and nothing rests on that: a beat to the wrong worker is answered by nobody.
//!
//! What is not here: sending, and telling groups (`worker::nodes`). Pure: time is a number.

use std::time::Duration;

use raftwerk_frame::{Beat, GroupId, LogId, NodeId, Time};

use crate::engine::worker_of;

/// A worker of another node, one of so many: what is shared with it are the groups of that one there and of this one here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerLane {
    pub(crate) node: NodeId,
    pub(crate) worker: u16,
    pub(crate) workers: u16,
}

impl PeerLane {
    /// The worker that has a group on a node with so many.
    pub(crate) fn of(node: NodeId, group: GroupId, workers: u16) -> Self {
        Self { node, worker: worker_of(group, usize::from(workers)) as u16, workers }
    }

    /// Whether it has the group, on its node.
    pub(crate) fn has(self, group: GroupId) -> bool {
        worker_of(group, usize::from(self.workers)) == usize::from(self.worker)
    }
}

/// What has become of a node, or of a worker of it; to be told to every group that knows it, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// We support it from now on, or no longer, in the groups that it has.
    Supports(PeerLane, bool),
    /// It supports us from now on, or no longer, in those.
    SupportedBy(PeerLane, bool),
    /// There is a connection to it again. Only those hear of this that went to rest without it.
    Reached(NodeId),
}

/// A beat that has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) from: PeerLane,
    /// The log that the sender speaks for.
    pub(crate) log: LogId,
    pub(crate) beat: Beat,
}

/// What two workers know of each other.
#[derive(Clone, Copy, Debug)]
struct Link {
    lane: PeerLane,
    /// Its life; 0 before it was heard.
    life: u64,
    /// The log of that life.
    log: LogId,
    /// The last beat of it: its clock.
    heard: u64,
    /// Our promise: its end, which beat it answers, and its number. No end: nothing is promised.
    promised_until: Option<Time>,
    promised_at: u64,
    promise: u32,
    /// Its promise: when we asked for it, for how long, and its number.
    asked_at: Time,
    given: Duration,
    given_promise: u32,
    is_supported: bool,
    is_named: bool,
    /// So many ends of our support not every replica has been told of.
    ends_untold: u32,
}

impl Link {
    const fn new(lane: PeerLane) -> Self {
        Self {
            lane,
            life: 0,
            log: LogId(0),
            heard: 0,
            promised_until: None,
            promised_at: 0,
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

    /// Our support ends, if there is any.
    fn end_support(&mut self, news: &mut Vec<News>) {
        if self.promised_until.take().is_some() {
            self.ends_untold += 1;
            news.push(News::Supports(self.lane, false));
        }
    }
}

/// How support is given and counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// This worker's life: any number but 0 that no life before it had.
    pub(crate) life: u64,
    /// How often a beat leaves.
    pub(crate) interval: Duration,
    /// T: for how long support is promised.
    pub(crate) promise: Duration,
    /// How far each node's clock may be from the right rate, in parts per million. From a million on there are no leases.
    pub(crate) drift_ppm: u32,
}

/// A worker's table of those that it shares groups with. Few, and looked up by walking.
#[derive(Debug)]
pub(crate) struct Liveness {
    terms: Terms,
    links: Vec<Link>,
    last_beat: Time,
    next_beat: Time,
    promises: u32,
    /// Answers to what we asked for before this do not count: we were not well since.
    asks_from: Time,
    is_well: bool,
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
            is_well: true,
            news: Vec::new(),
        }
    }

    /// These are who has groups that are here, too. What was promised to others stands until it ends.
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

    /// This one has a group that is here, too.
    pub(crate) fn meet(&mut self, now: Time, lane: PeerLane) {
        match self.links.iter_mut().find(|link| link.lane == lane) {
            Some(link) => link.is_named = true,
            None => {
                self.links.push(Link::new(lane));
                self.next_beat = self.next_beat.min(now);
            }
        }
    }

    /// A beat has come. Before [`Liveness::lapse`] in the same turn: what ended while the beat waited has not ended for
    /// anybody.
    pub(crate) fn hear(&mut self, now: Time, heard: &Heard) {
        let Heard { from, log, ref beat } = *heard;
        let Self { terms, links, news, promises, asks_from, is_well, last_beat, next_beat } = self;
        let Some(link) = links.iter_mut().find(|link| link.lane == from) else { return };
        if link.life != beat.life {
            if link.is_tied() || beat.life == 0 {
                return;
            }
            *link = Link { life: beat.life, log, is_named: link.is_named, ..Link::new(from) };
        }
        // Late, or doubled.
        if beat.sent <= link.heard {
            return;
        }
        link.heard = beat.sent;
        // Nodes fall into step: an answer at once carries the transport's acknowledgement along, and wakes nobody twice.
        if now >= *last_beat + terms.interval / 2 {
            *next_beat = now;
        }
        let is_ours = beat.your_life == terms.life;
        let hears_us = is_ours && beat.heard != 0 && now.since(Time(beat.heard)) < terms.promise;
        if !beat.is_well {
            link.end_support(news);
        } else if hears_us && link.ends_untold == 0 {
            if link.promised_until.is_none() {
                *promises += 1;
                link.promise = *promises;
                news.push(News::Supports(from, true));
            }
            (link.promised_until, link.promised_at) = (Some(now + terms.promise), beat.sent);
        }
        let given = Duration::from_micros(u64::from(beat.promise_us));
        // A beat that left at 0 bears a 1, since 0 stands for none: nothing is to last longer for that, nor seem asked for later.
        let asked_at = Time(if beat.promised_at == 1 { 0 } else { beat.promised_at });
        let counts = is_ours && *is_well && beat.promised_at != 0 && asked_at >= *asks_from;
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

    /// Ends what has lasted long enough.
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

    /// Whether this worker makes progress. One that does not leads nobody: it asks for no support, and counts on none.
    pub(crate) fn is_well(&mut self, now: Time, is_well: bool) {
        if std::mem::replace(&mut self.is_well, is_well) == is_well {
            return;
        }
        // Strictly later than anything that was asked for.
        self.asks_from = Time(now.0 + 1);
        self.next_beat = self.next_beat.min(now);
        for link in self.links.iter_mut().filter(|link| link.is_supported) {
            link.is_supported = false;
            self.news.push(News::SupportedBy(link.lane, false));
        }
    }

    /// The beats that are due: to all at once.
    pub(crate) fn beats(&mut self, now: Time) -> impl Iterator<Item = (PeerLane, Beat)> + '_ {
        let is_due = now >= self.next_beat;
        if is_due {
            self.last_beat = now;
            self.next_beat = now + self.terms.interval;
        }
        let (terms, is_well) = (self.terms, self.is_well);
        // A clock that shows 0 has not begun to run; a beat's time is never 0.
        let sent = now.0.max(1);
        self.links.iter().filter(move |_| is_due).map(move |link| {
            let is_promised = link.promised_until.is_some();
            let beat = Beat {
                life: terms.life,
                your_life: link.life,
                sent,
                heard: link.heard,
                promised_at: if is_promised { link.promised_at } else { 0 },
                promise_us: if is_promised { terms.promise.as_micros() as u32 } else { 0 },
                promise: link.promise,
                is_well,
            };
            (link.lane, beat)
        })
    }

    /// Until when, by our clock, a node certainly keeps what it promised a group: what a lease may count on.
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

    /// What is known of a node's workers that have a group: of one at a time, but that a promise to an earlier log may not have ended.
    fn links_of(&self, node: NodeId, group: GroupId) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(move |link| link.lane.node == node && link.lane.has(group))
    }

    /// Whether we support a node, and whether it supports us, in a group that means the node's log `log` when it speaks of it.
    /// A node that lives again with another log does not lead what the earlier one led: nobody must wait for it.
    pub(crate) fn tie(&self, node: NodeId, log: LogId, group: GroupId) -> (bool, bool) {
        let links = self.links_of(node, group).filter(|link| link.log == log);
        links.fold((false, false), |(ours, theirs), link| {
            (ours || link.promised_until.is_some(), theirs || link.is_supported)
        })
    }

    /// Every replica has been told of it.
    pub(crate) fn is_told(&mut self, news: News) {
        if let News::Supports(lane, false) = news
            && let Some(link) = self.links.iter_mut().find(|link| link.lane == lane)
        {
            link.ends_untold = link.ends_untold.saturating_sub(1);
        }
    }

    /// What happened since this was last asked.
    pub(crate) fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// When a beat is due, or a promise ends.
    pub(crate) fn next_deadline(&self) -> Time {
        let ends = self.links.iter().filter_map(|link| link.promised_until);
        ends.min().unwrap_or(Time::NEVER).min(self.next_beat)
    }
}

#[cfg(test)]
mod tests;
