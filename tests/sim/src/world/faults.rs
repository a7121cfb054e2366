//! What each kind of fault does, and what ends it.
//!
//! One rule holds for all: the last good copy of a committed entry is never taken. Kinds that take away what was durable
//! may befall a minority of each group's voters, and no other node after that. Whatever they do, a node may lose nothing
//! silently: it opens with all it had, or it refuses to, loudly.

use raftwerk::drive::PeerNote;
use raftwerk::{Admission, Change, GroupId, Reconfiguration, Transition};
use raftwerk_frame::LogId;
use raftwerk_wal::simulated::{MemoryFiles, SectorFate};

use super::{Event, World, group_id, node_id};
use crate::disk::held;
use crate::fault::{FaultKind, Strike};
use crate::node::{SimNode, State, Written};
use crate::watch::Checked;

/// A leader that has handed over is cut off after so long, or twice that.
const HANDED_OVER: u64 = 30_000;
/// Groups that are not made yet are nothing that an operator waits for.
const EARLY: u64 = 5_000_000_000;

impl World<'_> {
    /// A fault strikes, if it may.
    pub(super) fn strike(&mut self, at: usize) -> Checked {
        let strike = self.plan.strikes[at];
        if self.is_ending || !self.may(strike.kind, strike.node) {
            return Ok(());
        }
        self.count(8, strike.kind as u64);
        self.faults.add(strike.kind);
        self.say(|| format!("fault {at}: {} n{} n{}", strike.kind.name(), strike.node + 1, strike.other + 1));
        self.at(self.now + strike.span, Event::Relief { strike: at as u32 });
        match strike.kind {
            FaultKind::PowerCut => return self.fall(strike.node, true),
            FaultKind::Kill => return self.fall(strike.node, false),
            FaultKind::Workers => {
                self.nodes[strike.node].workers = 1 + (strike.salt % 4) as usize;
                return self.fall(strike.node, false);
            }
            FaultKind::Transfer | FaultKind::Reconfigure => self.wish(&strike),
            FaultKind::Rejoin if self.plan.replaces && self.begin_return(&strike) => {}
            FaultKind::Rejoin => self.drop_replica(&strike),
            FaultKind::Wipe if self.plan.is_churning => return self.lose_disk(&strike),
            kind if kind.is_damage() => return self.damage(&strike),
            FaultKind::Isolate | FaultKind::OneWay | FaultKind::Bridge | FaultKind::Split => {
                self.cut(&strike, 1)
            }
            FaultKind::Part => self.cut(&strike, 1),
            FaultKind::Murmur => self.murmur(&strike, 1),
            FaultKind::StallChannel => self.stall_channel(&strike),
            FaultKind::Resign if strike.span == 0 => self.last_words(&strike),
            FaultKind::Resign => self.resign(&strike),
            FaultKind::Lapse => self.lapse(&strike),
            FaultKind::Depose => self.depose(at),
            FaultKind::Oust => self.oust(at),
            FaultKind::Shrink => self.begin_shrinking(&strike),
            FaultKind::DropReplica => self.slip(&strike),
            FaultKind::FarTerm => self.forge(&strike),
            FaultKind::PanicMachine => self.light_fuse(&strike),
            FaultKind::Reset => self.reset(strike.node, strike.other),
            FaultKind::SlowTurns | FaultKind::SlowSegment | FaultKind::ClockRate | FaultKind::ClockStop => {
                self.delay(&strike)
            }
            _ => self.disturb(&strike),
        }
        Ok(())
    }

    /// Whether all others have noted which log a node has: only then do they tell it apart from a later one.
    fn is_noted_by_all(&self, at: usize) -> bool {
        let noted = PeerNote { node: node_id(at), log: LogId(self.log_of(at)) };
        let mut others = self.nodes.iter().enumerate().filter(|(other, _)| *other != at);
        others.all(|(_, other)| match &other.body {
            Some(body) => body.peers().contains(&noted),
            None => other.noted.contains(&noted),
        })
    }

    /// Whether a kind may befall a node now.
    fn may(&self, kind: FaultKind, node: usize) -> bool {
        let up = self.nodes[node].state == State::Up;
        if matches!(
            kind,
            FaultKind::Transfer
                | FaultKind::Reconfigure
                | FaultKind::Rejoin
                | FaultKind::Depose
                | FaultKind::Oust
                | FaultKind::Part
                | FaultKind::Murmur
                | FaultKind::StallChannel
                | FaultKind::Resign
                | FaultKind::Lapse
                | FaultKind::Shrink
                | FaultKind::DropReplica
                | FaultKind::FarTerm
                | FaultKind::PanicMachine
        ) {
            return true;
        }
        if kind == FaultKind::Wipe && self.plan.is_churning {
            return up && self.can_do_without(node);
        }
        if !kind.is_damage() {
            let is_about_links =
                matches!(kind, FaultKind::Bridge | FaultKind::Split | FaultKind::OneWay | FaultKind::Isolate);
            return up || is_about_links;
        }
        if self.plan.is_churning {
            return up && self.may_be_damaged(node);
        }
        up && (kind != FaultKind::Wipe || self.is_noted_by_all(node))
            && !self.nodes[node].is_fenced
            && self.plan.voters.iter().all(|voters| {
                let is_hit = |at: &&usize| **at == node || self.nodes[**at].is_damaged;
                !voters.contains(&node) || voters.iter().filter(is_hit).count() <= (voters.len() - 1) / 2
            })
    }

    /// The operator wants other leaders, or other members. No caller waits for the outcome.
    fn wish(&mut self, strike: &Strike) {
        let group = (strike.salt >> 32) as usize % self.plan.groups;
        let id = group_id(group);
        let is_busy = |at: usize| self.nodes[at].farewell || (self.is_busy_with(at) && self.now > EARLY);
        // A group that lacks one that was dropped can spare no other.
        let is_short = self.asides.slip.is_some();
        if strike.kind == FaultKind::Reconfigure && (is_short || (0..self.nodes.len()).any(is_busy)) {
            return; // one thing at a time
        }
        let Some(leader) = self.leading(id) else { return };
        let Some(body) = &self.nodes[leader].body else { return };
        if strike.kind == FaultKind::Transfer {
            drop(body.group(id).transfer_leadership(node_id(strike.other)));
        } else {
            let is_witness = |at: usize| self.is_witness(at, id);
            let mut wish = wish(strike, self.plan.nodes, is_witness);
            // Where witnesses are what the run is about, a group is not without one for long.
            if self.plan.insists_on_witnesses && !self.has_witness(id) {
                let witnesses: Vec<_> = (0..self.plan.nodes).filter(|at| is_witness(*at)).collect();
                let chosen = witnesses.get((strike.salt >> 16) as usize % witnesses.len().max(1));
                wish.changes = chosen.map(|at| Change::Witness(node_id(*at))).into_iter().collect();
            }
            if self.plan.replaces {
                let is_in = self.is_member(strike.node, id);
                let change = if is_in { Change::Remove } else { Change::Voter };
                wish.changes = vec![change(node_id(strike.node))];
            }
            drop(body.group(id).reconfigure(wish));
        }
        self.answer_bells(leader);
    }

    /// A node that leads a group, or takes itself for its leader: the one of the latest term.
    pub(super) fn leading(&self, id: GroupId) -> Option<usize> {
        let leads = |node: &SimNode| {
            let body = node.body.as_ref().filter(|_| node.is_reachable())?;
            let view = body.replicas(body.worker_of(id)).find(|view| view.group == id)?;
            view.core.is_leader().then(|| view.core.term())
        };
        let leaders = self.nodes.iter().enumerate().filter_map(|(at, node)| Some((leads(node)?, at)));
        leaders.max_by_key(|(term, _)| *term).map(|(_, at)| at)
    }

    /// A leader is cut off, alone or, in a larger group, with a follower; then it is given proposals that no other node will
    /// ever have or another leader has to replace. Some clients do not notice; some leaders' disks stand still meanwhile.
    fn depose(&mut self, at: usize) {
        let mut strike = self.plan.strikes[at];
        let group = (strike.salt >> 32) as usize % self.plan.groups;
        strike.node = self.leading(group_id(group)).unwrap_or(strike.node);
        if self.nodes.len() < 4 || strike.salt & 2 != 0 {
            strike.other = strike.node;
        }
        if self.plan.is_delicate && hands_over_before(&strike) && self.nodes[strike.node].is_reachable() {
            return self.depose_after_handing_over(at, strike, group);
        }
        self.plan.strikes[at] = strike;
        if is_mute(&strike) && self.nodes[strike.node].state == State::Up {
            // Its successor reaches it meanwhile: what it has is replaced before it is durable.
            let until = self.now + strike.span + strike.span / 4;
            self.nodes[strike.node].hang(self.now, until);
            self.faults.add(FaultKind::DiskHang);
        }
        if strike.salt & 4 != 0 {
            self.propose_unheard(group, strike.node, strike.salt >> 8 & 7);
        }
        self.cut(&strike, 1);
        // A few, or so many that others' logs are still shorter when they begin after it.
        self.propose_unheard(group, strike.node, (strike.salt >> 11 & 7) << (strike.salt >> 5 & 3));
        for client in 0..self.plan.clients {
            match strike.salt >> (16 + 2 * client) & 3 {
                0 => self.hold_on(client, group, strike.node),
                1 | 2 => self.hold_on(client, group, strike.other),
                _ => {}
            }
        }
    }

    /// A leader hands over, and is cut off before it learns what came of that: its successor leads and commits at once, while the
    /// other has just learnt from a quorum that it leads.
    fn depose_after_handing_over(&mut self, at: usize, strike: Strike, group: usize) {
        let mut heirs = self.plan.voters[group].clone();
        heirs.retain(|place| *place != strike.node);
        let Some(body) = self.nodes[strike.node].body.as_ref().filter(|_| !heirs.is_empty()) else { return };
        let heir = heirs[(strike.salt >> 48) as usize % heirs.len()];
        drop(body.group(group_id(group)).transfer_leadership(node_id(heir)));
        self.answer_bells(strike.node);
        // The word to the heir leaves in the next turn, if it lacks nothing; what is to pass must have left by then.
        let then = self.now + HANDED_OVER + (strike.salt >> 20) % HANDED_OVER;
        self.at(then, Event::Strike { strike: self.plan.strikes.len() as u32 });
        self.plan.strikes.push(Strike { at: then, kind: FaultKind::Isolate, ..strike });
        // What ends it ends nothing: the cut ends by itself.
        self.plan.strikes[at] = Strike { kind: FaultKind::Transfer, ..strike };
        for client in (0..self.plan.clients).filter(|client| strike.salt >> (16 + 2 * client) & 1 == 0) {
            self.hold_on(client, group, strike.node);
        }
    }

    /// A connection breaks, both ends know, and there is another at once.
    fn reset(&mut self, one: usize, other: usize) {
        if one == other {
            return;
        }
        self.links.remake(self.now, one, other);
        for (node, peer) in [(one, other), (other, one)] {
            let life = self.nodes[node].life;
            self.at(self.now, Event::Notice { node: node as u16, peer: peer as u16, life });
        }
        self.connect(one, other);
    }

    /// Faults that pass, and leave everything durable as it was.
    fn disturb(&mut self, strike: &Strike) {
        let until = self.now + strike.span;
        let node = &mut self.nodes[strike.node];
        let mut mishaps = held(&node.mishaps);
        match strike.kind {
            FaultKind::CrashAtCall => mishaps.crash_after = Some(strike.salt % 40),
            FaultKind::WriteError => {
                mishaps.failing_writes = 1 + (strike.salt % 3) as u32;
                mishaps.stays_cached = strike.salt >> 8 & 1 == 0;
            }
            // What is refused again and again is damage, and drawn as such.
            FaultKind::ReadError => mishaps.failing_reads = 1,
            FaultKind::ReadFlip => mishaps.flip = Some(strike.salt),
            FaultKind::Freeze => node.frozen_until = until,
            FaultKind::DiskHang => {
                drop(mishaps);
                node.hang(self.now, until);
            }
            FaultKind::Stuck => node.stuck = ((strike.salt % 4) as usize % node.rounds.len().max(1), until),
            FaultKind::ClockLeap => node.clock.leap(self.now, strike.span),
            FaultKind::DiskFull => node.files.limit(Some(node.files.used() + strike.salt % (64 << 10))),
            FaultKind::Clog => self.links.link(strike.node, strike.other).clogged_until = until,
            FaultKind::SlowLink => self.links.link(strike.node, strike.other).slow_until = until,
            _ => {}
        }
    }

    /// What a fault began ends.
    pub(super) fn relieve(&mut self, at: usize) {
        let strike = self.plan.strikes[at];
        match strike.kind {
            FaultKind::Isolate
            | FaultKind::OneWay
            | FaultKind::Bridge
            | FaultKind::Split
            | FaultKind::Depose
            | FaultKind::Part
                if !self.is_ending =>
            {
                self.cut(&strike, -1);
                self.connect_again(&strike);
            }
            FaultKind::Oust => self.end_ousting(&strike),
            FaultKind::Murmur if !self.is_ending => self.murmur(&strike, -1),
            FaultKind::DiskFull => self.nodes[strike.node].files.limit(None),
            _ => {}
        }
    }

    /// Cuts links, or mends them again.
    fn cut(&mut self, strike: &Strike, by: i32) {
        let count = self.nodes.len();
        for from in 0..count {
            for to in 0..count {
                if from != to && is_between(strike, from, to) {
                    let link = self.links.link(from, to);
                    link.cuts = link.cuts.saturating_add_signed(by);
                }
            }
        }
        if by > 0 && strike.salt.is_multiple_of(2) {
            self.notice_cuts();
        }
    }

    /// Connections that were given up when a cut began are made again where it ends.
    fn connect_again(&mut self, strike: &Strike) {
        if !strike.salt.is_multiple_of(2) {
            return;
        }
        for one in 0..self.nodes.len() {
            for other in one + 1..self.nodes.len() {
                if is_between(strike, one, other) || is_between(strike, other, one) {
                    self.connect(one, other);
                }
            }
        }
    }

    /// Connections that no longer work are given up by both ends, after a while.
    pub(super) fn notice_cuts(&mut self) {
        let soon = self.now + self.links.notice();
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                if from != to && self.links.is_cut(from, to) {
                    let life = self.nodes[from].life;
                    self.at(soon, Event::Notice { node: from as u16, peer: to as u16, life });
                }
            }
        }
    }

    /// Faults that take away what was durable. The node restarts right after, so that what it finds is what is left; but where
    /// it is to find out while it runs.
    fn damage(&mut self, strike: &Strike) -> Checked {
        let at = strike.node;
        if strike.kind == FaultKind::Rollback && self.nodes[at].image.is_none() {
            let image = self.nodes[at].files.after_power_cut(|_, _| SectorFate::Old);
            self.nodes[at].image = Some(image);
            return Ok(());
        }
        if strike.kind == FaultKind::Decay {
            if let Some((written, _)) = self.target(strike) {
                spoil(&self.nodes[at].files, strike, &written, None);
                self.nodes[at].damaged();
                self.say(|| {
                    format!("n{}  decays: {} at {} ({})", at + 1, written.path, written.offset, written.lsn)
                });
            }
            return Ok(());
        }
        let target = self.target(strike);
        let tail = if loses_all_since(strike) { self.tail(strike) } else { None };
        let lanes = self.nodes[at].vouched.len() as u64;
        self.fall(at, strike.salt & 1 == 0)?;
        if let Some(written) = tail {
            lose_all_since(&self.nodes[at].files, &written);
            self.nodes[at].damaged();
            self.say(|| {
                format!(
                    "n{}  loses all since {} at {} ({})",
                    at + 1,
                    written.path,
                    written.offset,
                    written.lsn
                )
            });
            return Ok(());
        }
        let first_groups = self.first_groups(at);
        let node = &mut self.nodes[at];
        match strike.kind {
            FaultKind::Wipe => {
                (node.files, node.is_wiped, node.disks_lost) = (MemoryFiles::new(), true, 1);
                node.to_create = first_groups;
                self.watch.replaced(at);
            }
            FaultKind::Rollback => {
                // Nothing in the log can tell an old image from the present. The operator must not let it back in.
                (node.files, node.is_fenced) = (node.image.take().unwrap_or_default(), true);
                self.watch.replaced(at);
            }
            FaultKind::LostRename => {
                // Neither the first segment nor the last: without the one the log is as if it had been freed up to there,
                // without the other as if it had never been begun. No node could notice. Which is first is known only now: the fall
                // may have freed some.
                let files = node.files.paths();
                let lane = u64::from(node.first_lane) + strike.salt % lanes.max(1);
                let of_lane = format!("lane-{lane}/seg-");
                let segments: Vec<&String> = files.iter().filter(|path| path.starts_with(&of_lane)).collect();
                if let [_, between @ .., _] = &segments[..]
                    && let Some(chosen) = between.get((strike.salt / 7) as usize % between.len().max(1))
                {
                    let chosen = (*chosen).clone();
                    return self.lose_file(at, &chosen);
                }
                return Ok(());
            }
            _ => {
                let Some((written, other)) = target else { return Ok(()) };
                let spoilt = |of: &Written| format!("{} at {} ({})", of.path, of.offset, of.lsn);
                let others = other.as_ref().map(spoilt).unwrap_or_default();
                let vouched = node.vouched.get(written.lane).copied().unwrap_or_default();
                let line = format!("n{}  spoilt: {} {others}, vouched {vouched}", at + 1, spoilt(&written));
                spoil(&node.files, strike, &written, other.as_ref());
                self.say(|| line);
            }
        }
        self.nodes[at].damaged();
        Ok(())
    }

    fn lose_file(&mut self, at: usize, path: &str) -> Checked {
        let node = &mut self.nodes[at];
        let kept = node.files.paths().into_iter().filter(|other| other != path);
        let files = node.files.with_only(kept);
        node.files = files;
        node.damaged();
        self.say(|| format!("n{}  loses {path}", at + 1));
        Ok(())
    }

    /// A durable batch for which later ones vouch, and another one of its file.
    fn target(&mut self, strike: &Strike) -> Option<(Written, Option<Written>)> {
        let node = &self.nodes[strike.node];
        let paths = node.files.paths();
        let is_vouched = |written: &&Written| {
            written.lsn <= node.vouched[written.lane] && paths.binary_search(&written.path).is_ok()
        };
        let vouched: Vec<&Written> = node.written.iter().filter(is_vouched).collect();
        let chosen = *vouched.get((strike.salt >> 8) as usize % vouched.len().max(1))?;
        let other = vouched.iter().find(|other| other.path == chosen.path && other.lsn < chosen.lsn);
        Some((chosen.clone(), other.map(|other| (*other).clone())))
    }
}

/// Where the bytes of a segment's first page say up to which batch everything was durable, and what the highest term was; and
/// where the batches begin (`wal/src/format/segment.rs`).
const FLOOR_AT: usize = 48;
const TERMS_AT: usize = 64;
const PAGE_BYTES: u64 = 4096;

impl World<'_> {
    /// A durable batch that only the first page of a later segment vouches for, when it and all that came after it is gone. That
    /// page must know of all terms that there were: of a later one nothing would be left, and no fence could reach that far.
    fn tail(&self, strike: &Strike) -> Option<Written> {
        let node = &self.nodes[strike.node];
        let (body, paths) = (node.body.as_ref()?, node.files.paths());
        let says = |path: &String, at: usize| {
            let page = node.files.content(path)?;
            page.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
        };
        let is_vouched = |written: &&Written| {
            let latest = body.replicas(written.lane).map(|view| view.core.term().0).max();
            let vouches = |path: &String| {
                says(path, FLOOR_AT).is_some_and(|floor| floor >= written.lsn.0)
                    && says(path, TERMS_AT).is_some_and(|terms| terms >= latest.unwrap_or(0))
            };
            paths.binary_search(&written.path).is_ok()
                && paths.iter().any(|path| is_later_segment(path, &written.path) && vouches(path))
        };
        let vouched: Vec<&Written> = node.written.iter().filter(is_vouched).collect();
        vouched.get((strike.salt >> 8) as usize % vouched.len().max(1)).map(|written| (*written).clone())
    }
}

/// Every other lost write is the first of many: the device has done nothing since.
const fn loses_all_since(strike: &Strike) -> bool {
    matches!(strike.kind, FaultKind::LostWrite) && strike.salt >> 40 & 1 == 0
}

/// Whether one is a segment of the same lane as the other, and a later one.
fn is_later_segment(path: &str, than: &str) -> bool {
    let lane_of = |path: &str| path.rsplit_once('/').map(|(lane, _)| lane.to_owned());
    path > than && path.ends_with(".log") && lane_of(path) == lane_of(than)
}

/// Takes away a batch and all that was written to the lane after it. What first pages say stays: they are written ahead.
fn lose_all_since(files: &MemoryFiles, written: &Written) {
    let zero = |path: &str, from: u64| {
        let bytes = files.content(path).map_or(0, |content| content.len() as u64);
        files.overwrite(path, from, &vec![0; bytes.saturating_sub(from) as usize]);
    };
    zero(&written.path, written.offset);
    for path in files.paths().iter().filter(|path| is_later_segment(path, &written.path)) {
        zero(path, PAGE_BYTES);
    }
}

/// Some changes for some nodes: of one, of two, of all.
fn wish(strike: &Strike, nodes: usize, is_witness: impl Fn(usize) -> bool) -> Reconfiguration {
    let mut bits = strike.salt;
    let mut next = |below: u64| {
        let drawn = bits % below;
        bits /= below;
        drawn
    };
    let change = |node: usize, kind: u64| match kind {
        0 | 1 if is_witness(node) => Change::Witness(node_id(node)),
        0 | 1 => Change::Voter(node_id(node)),
        2 if is_witness(node) => Change::WitnessLearner(node_id(node)),
        2 => Change::Learner(node_id(node)),
        _ => Change::Remove(node_id(node)),
    };
    let mut changes = vec![change(strike.node, next(4))];
    match next(3) {
        0 => {}
        1 => changes.push(change(strike.other, next(4))),
        _ => changes.extend((0..nodes).map(|node| change(node, next(4)))),
    }
    let newcomers = if next(4) == 0 { Admission::Checked } else { Admission::Awaited };
    let route = match next(8) {
        0 | 1 => Transition::Joint,
        2 | 3 => Transition::JointHeld,
        _ => Transition::Auto,
    };
    if next(3) == 0 {
        changes.clear(); // leaves a joint configuration that was to be held
    }
    Reconfiguration { transition: route, admission: newcomers, ..Reconfiguration::of(changes) }
}

/// Whether a leader is deposed by a disk that stands still, and only its messages are lost.
const fn is_mute(strike: &Strike) -> bool {
    strike.salt >> 3 & 3 == 0
}

/// Whether a leader is deposed by its own word.
const fn hands_over_before(strike: &Strike) -> bool {
    strike.salt >> 42 & 3 == 0
}

/// Whether a cut lies on the way between two nodes.
fn is_between(strike: &Strike, from: usize, to: usize) -> bool {
    let side = |node: usize| strike.salt >> (node % 32) & 1;
    match strike.kind {
        FaultKind::Depose => {
            let is_inside = |node: usize| node == strike.node || node == strike.other;
            is_inside(from) != is_inside(to) && (is_inside(from) || !is_mute(strike))
        }
        FaultKind::Part => {
            [from, to] == [strike.node, strike.other] || [to, from] == [strike.node, strike.other]
        }
        FaultKind::Isolate => from == strike.node || to == strike.node,
        FaultKind::OneWay => from == strike.node && (to == strike.other || strike.salt & 1 == 0),
        FaultKind::Bridge => from != strike.node && to != strike.node && side(from) != side(to),
        _ => side(from) != side(to),
    }
}

/// Does to a batch what a bad device does.
pub(super) fn spoil(files: &MemoryFiles, strike: &Strike, written: &Written, other: Option<&Written>) {
    let bytes = written.batch.len() as u64;
    match strike.kind {
        FaultKind::LostWrite => files.overwrite(&written.path, written.offset, &vec![0; bytes as usize]),
        FaultKind::StaleRead | FaultKind::Misdirected => {
            let Some(other) = other else {
                return files.overwrite(&written.path, written.offset, &vec![0; bytes as usize]);
            };
            let (from, to) =
                if strike.kind == FaultKind::StaleRead { (other, written) } else { (written, other) };
            let cut = from.batch.len().min(to.batch.len());
            files.overwrite(&to.path, to.offset, &from.batch[..cut]);
        }
        _ => {
            // Anywhere in the bytes that count; the padding holds nothing.
            let word =
                |at: usize| u32::from_le_bytes([at, at + 1, at + 2, at + 3].map(|at| written.batch[at]));
            let length = u64::from(word(8)).clamp(1, bytes);
            files.rot(&written.path, written.offset + (strike.salt >> 16) % length, 1 << (strike.salt % 8));
        }
    }
}
