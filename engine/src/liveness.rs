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
mod tests {
    use super::*;

    const T: Duration = Duration::from_millis(500);
    const MS: u64 = 1_000_000;
    const ONE: PeerLane = PeerLane { node: NodeId(1), worker: 0, workers: 1 };
    const TWO: PeerLane = PeerLane { node: NodeId(2), worker: 0, workers: 1 };
    const GROUP: GroupId = GroupId(3);

    /// What `tie` says of the group.
    fn tie(of: &Liveness, with: PeerLane) -> (bool, bool) {
        of.tie(with.node, LOG, GROUP)
    }

    fn at(ms: u64) -> Time {
        Time(ms * MS)
    }

    fn one_of(life: u64, other: PeerLane) -> Liveness {
        let interval = Duration::from_millis(100);
        let mut liveness = Liveness::new(Terms { life, interval, promise: T, drift_ppm: 50_000 });
        liveness.name(at(0), &[other]);
        liveness
    }

    const LOG: LogId = LogId(9);

    const fn heard(from: PeerLane, beat: Beat) -> Heard {
        Heard { from, log: LOG, beat }
    }

    /// The beat that is due now.
    fn beat(of: &mut Liveness, ms: u64) -> Beat {
        of.beats(at(ms)).next().map(|(_, beat)| beat).expect("a beat is due")
    }

    /// The news since this was last asked, which every replica is told now.
    fn told(of: &mut Liveness) -> Vec<News> {
        let news = of.take_news();
        news.iter().for_each(|news| of.is_told(*news));
        news
    }

    /// Both beat at every 100 ms up to `to`, and hear each other at once; the clock of the second is a second ahead.
    fn converse(one: &mut Liveness, two: &mut Liveness, from: u64, to: u64) {
        for ms in (from..=to).step_by(100) {
            let (mine, theirs) = (beat(one, ms), beat(two, ms + 1000));
            two.hear(at(ms + 1000), &heard(ONE, mine));
            one.hear(at(ms), &heard(TWO, theirs));
        }
    }

    fn friends() -> (Liveness, Liveness) {
        let (mut one, mut two) = (one_of(11, TWO), one_of(22, ONE));
        converse(&mut one, &mut two, 100, 400);
        assert_eq!(tie(&one, TWO), (true, true));
        assert_eq!(tie(&two, ONE), (true, true));
        (one, two)
    }

    /// One worker here, two there: each of the two hears the one, and the groups of one are not the other's.
    #[test]
    fn a_promise_is_about_the_groups_that_both_workers_have() {
        let lower = PeerLane { node: NodeId(2), worker: 0, workers: 2 };
        let upper = PeerLane { worker: 1, ..lower };
        let of = |lane: PeerLane| (1..).map(GroupId).find(|group| lane.has(*group)).expect("both have some");
        let (mut one, mut two) = (one_of(11, lower), one_of(22, ONE));
        one.name(at(0), &[lower, upper]);
        for ms in [100, 200, 300, 400] {
            let mine: Vec<_> = one.beats(at(ms)).collect();
            assert_eq!(mine.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [lower, upper]);
            two.hear(at(ms + 1000), &heard(ONE, mine[0].1));
            let theirs = beat(&mut two, ms + 1000);
            one.hear(at(ms), &heard(lower, theirs));
        }
        let tied = |group| (one.tie(NodeId(2), LOG, group), one.kept_until(NodeId(2), group) > at(400));
        assert_eq!((tied(of(lower)), tied(of(upper))), (((true, true), true), ((false, false), false)));
        let supported: Vec<_> = told(&mut one).into_iter().collect();
        assert_eq!(supported, [News::Supports(lower, true), News::SupportedBy(lower, true)]);
        // The other worker stands still, and a beat of a node that takes it for as many as here says nothing.
        let strange = PeerLane { node: NodeId(2), worker: 0, workers: 1 };
        one.hear(at(450), &heard(strange, Beat { life: 5, sent: 1, is_well: true, ..Beat::default() }));
        assert_eq!(one.take_news(), []);
    }

    /// Lanes are intervals of one order: so few pairs share groups.
    #[test]
    fn pairs_of_lanes_that_share_groups_are_few() {
        for (here, there, most) in [(1, 1, 1), (2, 3, 4), (4, 6, 8), (8, 8, 8), (5, 32, 36), (256, 255, 510)]
        {
            let mut pairs: Vec<_> = (1..200_000)
                .map(GroupId)
                .map(|group| (worker_of(group, here), worker_of(group, there)))
                .collect();
            pairs.sort_unstable();
            pairs.dedup();
            assert!(pairs.len() <= most, "{here} and {there}: {}", pairs.len());
        }
    }

    /// If every answer were answered at once, two nodes would beat as fast as the wire between them allows.
    #[test]
    fn a_beat_is_answered_at_once_only_by_one_that_has_been_silent() {
        let (mut one, mut two) = (one_of(11, TWO), one_of(22, ONE));
        two.hear(at(100), &heard(ONE, beat(&mut one, 100)));
        assert_eq!(two.next_deadline(), at(100), "it has not beaten yet");
        one.hear(at(100), &heard(TWO, beat(&mut two, 100)));
        assert_eq!(one.next_deadline(), at(200), "it has just beaten");
    }

    #[test]
    fn who_hear_each_other_support_each_other_and_a_lease_ends_before_the_promise() {
        let (mut one, mut two) = friends();
        let (asked, kept) = (at(300), one.kept_until(TWO.node, GROUP));
        assert!(kept > asked + T * 9 / 10 && kept < asked + T * 10 / 11, "{kept:?}");
        // Silence: the lease is over first, then the promise.
        assert_eq!(two.next_deadline(), at(1500));
        told(&mut two);
        two.lapse(at(1900));
        assert_eq!(told(&mut two), [News::Supports(ONE, false), News::SupportedBy(ONE, false)]);
        told(&mut one);
        one.lapse(at(900));
        assert_eq!(told(&mut one), [News::Supports(TWO, false), News::SupportedBy(TWO, false)]);
        assert_eq!(one.kept_until(TWO.node, GROUP), Time(0));
    }

    #[test]
    fn a_group_that_means_another_log_of_a_node_is_tied_to_nobody() {
        let (one, _) = friends();
        assert_eq!(tie(&one, TWO), (true, true));
        assert_eq!(
            one.tie(TWO.node, LogId(8), GROUP),
            (false, false),
            "what speaks now is not what the group knows"
        );
    }

    #[test]
    fn who_hears_nobody_is_not_supported() {
        let (mut one, mut two) = friends();
        // Two's beats are lost from now on; one's are not.
        for ms in (500..2000).step_by(100) {
            let mine = beat(&mut one, ms);
            two.hear(at(ms + 1000), &heard(ONE, mine));
            two.lapse(at(ms + 1000));
            one.lapse(at(ms));
        }
        assert_eq!(tie(&one, TWO), (false, false));
        assert_eq!(tie(&two, ONE), (false, false), "it was heard, and did not hear");
    }

    #[test]
    fn a_gap_in_a_promise_is_seen_even_by_who_did_not_look() {
        let (mut one, mut two) = friends();
        two.lapse(at(2000));
        told(&mut two);
        // They converse again. One has not looked at its clock meanwhile, and first hears of the new promise.
        told(&mut one);
        let theirs = beat(&mut two, 2000);
        one.hear(at(1000), &heard(TWO, theirs));
        let mine = beat(&mut one, 1100);
        two.hear(at(2100), &heard(ONE, mine));
        let theirs = beat(&mut two, 2100);
        one.hear(at(1100), &heard(TWO, theirs));
        assert_eq!(told(&mut one), [News::SupportedBy(TWO, false), News::SupportedBy(TWO, true)]);
    }

    #[test]
    fn one_that_is_not_well_is_let_go_at_once_and_counts_on_nothing_that_it_asked_for_before() {
        let (mut one, mut two) = friends();
        let older = beat(&mut two, 1500);
        one.is_well(at(450), false);
        assert_eq!((tie(&one, TWO).1, one.kept_until(TWO.node, GROUP)), (false, Time(0)));
        let sigh = beat(&mut one, 450);
        told(&mut two);
        two.hear(at(1450), &heard(ONE, sigh));
        assert_eq!(told(&mut two), [News::Supports(ONE, false)]);
        one.is_well(at(460), true);
        one.hear(at(460), &heard(TWO, older));
        assert!(!tie(&one, TWO).1, "that was promised before");
        converse(&mut one, &mut two, 600, 800);
        assert_eq!(tie(&one, TWO), (true, true));
    }

    #[test]
    fn another_life_is_not_heard_before_what_was_promised_to_the_former_is_over() {
        let (_, mut two) = friends();
        let mut reborn = one_of(12, TWO);
        let cry = beat(&mut reborn, 0);
        told(&mut two);
        two.hear(at(1410), &heard(ONE, cry));
        assert_eq!((tie(&two, ONE).0, told(&mut two).len()), (true, 0));
        two.lapse(at(1900));
        assert_eq!(tie(&two, ONE), (false, false));
        told(&mut two);
        let cry = beat(&mut reborn, 100);
        two.hear(at(2000), &heard(ONE, cry));
        assert_eq!(beat(&mut two, 2000).your_life, 12);
    }

    /// A replica that has not been told yet would answer the next heartbeat as bound, by the new promise as far as its leader can
    /// tell, and be free when the end of the old one reaches it.
    #[test]
    fn no_promise_begins_before_every_replica_knows_that_the_last_has_ended() {
        let (mut one, mut two) = friends();
        two.lapse(at(2000));
        let news = two.take_news();
        assert!(news.contains(&News::Supports(ONE, false)));
        for ms in [1000, 1100, 1200] {
            let mine = beat(&mut one, ms);
            two.hear(at(ms + 1000), &heard(ONE, mine));
            assert!(!tie(&two, ONE).0 && !two.take_news().contains(&News::Supports(ONE, true)));
            let theirs = beat(&mut two, ms + 1000);
            assert_eq!(theirs.promised_at, 0);
            one.hear(at(ms), &heard(TWO, theirs));
        }
        // Nor does another life begin one, or a node that is met anew.
        two.name(at(2300), &[]);
        two.name(at(2300), &[ONE]);
        let mine = beat(&mut one, 1300);
        two.hear(at(2300), &heard(ONE, mine));
        assert!(!tie(&two, ONE).0);
        news.iter().for_each(|news| two.is_told(*news));
        let theirs = beat(&mut two, 2400);
        one.hear(at(1400), &heard(TWO, theirs));
        converse(&mut one, &mut two, 1500, 1700);
        assert!(tie(&two, ONE).0);
    }

    #[test]
    fn a_beat_that_is_late_or_doubled_changes_nothing() {
        let (mut one, mut two) = friends();
        let first = beat(&mut one, 500);
        let second = beat(&mut one, 600);
        two.hear(at(1600), &heard(ONE, second));
        let until = two.next_deadline();
        two.hear(at(1700), &heard(ONE, first));
        two.hear(at(1700), &heard(ONE, second));
        assert_eq!(two.next_deadline(), until);
    }

    #[test]
    fn nobody_is_beaten_for_and_nothing_is_due_where_no_group_is_shared() {
        let mut one = one_of(11, TWO);
        one.name(at(1), &[]);
        assert_eq!((one.next_deadline(), one.beats(at(5)).count()), (Time::NEVER, 0));
    }

    #[test]
    fn a_beat_that_left_as_the_clock_began_gives_no_more_than_any_other() {
        let (mut one, mut two) = (one_of(1, TWO), one_of(2, ONE));
        let first = beat(&mut one, 0);
        assert_eq!(first.sent, 1, "0 stands for none");
        two.hear(at(1), &heard(ONE, first));
        let answer = Beat { promised_at: 1, promise_us: 500_000, promise: 1, ..beat(&mut two, 1) };
        // Asked for before it was ill, if only just.
        one.is_well(at(0), false);
        one.is_well(at(0), true);
        one.hear(at(2), &heard(TWO, answer));
        assert_eq!(one.kept_until(TWO.node, GROUP), Time(0));
        let mut one = Liveness::new(Terms { drift_ppm: 0, ..one.terms });
        one.name(at(0), &[TWO]);
        one.hear(at(2), &heard(TWO, answer));
        assert_eq!(one.kept_until(TWO.node, GROUP), at(500));
    }
}
