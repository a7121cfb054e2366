//! A follower that needs a snapshot while its group goes on writing, once all faults have ended.
//!
//! It is out of reach until its leader's log begins after its own; then it is back, and every write is followed by the next. Images
//! that are many chunks long take as long as many writes, and many checkpoints, on the way: the follower has to get one all the
//! same, and what follows it, also where another leads meanwhile. The rule is `a snapshot arrives` (`shipping`).
//!
//! What is not here: how small chunks are (`plan/callers.rs`), and replicas without a vote that come back (`reaching`).

use raftwerk::GroupId;

use super::{World, group_id, node_id};
use crate::chance::Chance;
use crate::node::State;
use crate::watch::{Checked, Violation};

/// So much may be written until a log is cut, and how long that may take.
const WRITES_MAX: u64 = 400;
const TO_CUT: u64 = 20_000_000_000;
/// A write is waited for so many times as long as the next one waits at least.
const PATIENCE_GAPS: u64 = 20;
/// Chunks of a transfer on their way at a time, and what a write takes of a lane that has a sync for each.
const WINDOW_CHUNKS: u64 = 8;
const PAGE: u64 = 4 << 10;
/// Images are this long at most, usually.
const IMAGE: u64 = 8 << 10;
/// A transfer may take so many times as long as its round trips alone.
const TRANSFERS: u64 = 2;
/// How long a follower may take to get what it lacks, at the most.
const TO_ARRIVE: u64 = 120_000_000_000;

/// One writer: it waits for each write, and a while, before the next.
struct Writer {
    group: usize,
    /// How long after a write the next may come.
    gap: u64,
    written: u64,
    next_at: u64,
    waits_for: u64,
}

impl World<'_> {
    pub(super) fn arrive_late(&mut self) -> Checked {
        let mut chance = Chance::of(self.seed, "arriving");
        let group = chance.below(self.plan.groups as u64) as usize;
        let is_spared = self.plan.end == 0 || self.plan.quic.is_some() || chance.below(3) > 0;
        let changes_leader = chance.below(3) == 0;
        if is_spared || self.plan.ballast == 0 {
            return Ok(());
        }
        let id = group_id(group);
        let Some((leader, followers)) = self.spare_followers(id) else { return Ok(()) };
        let late = chance.one_of(&followers);
        let mut writer = self.writer(group);
        if !self.miss_much(&mut writer, late)? {
            return self.become_equal(group, late);
        }
        let heir = followers.into_iter().find(|at| *at != late).filter(|_| changes_leader);
        let hands_over_at = self.now + chance.below(64) * writer.gap;
        let mut heir = heir;
        let arrived = self.run_until(self.now + TO_ARRIVE, |world| {
            writer.go_on(world);
            if world.now >= hands_over_at
                && let Some(heir) = heir.take()
                && let Some(body) = &world.nodes[leader].body
            {
                drop(body.group(id).transfer_leadership(node_id(heir)));
                world.answer_bells(leader);
            }
            world.has_caught_up(id, late) || world.nodes[late].state == State::Retired
        })?;
        if self.nodes[late].state == State::Retired {
            return Ok(());
        }
        if arrived {
            return self.become_equal(group, late);
        }
        let seconds = TO_ARRIVE / 1_000_000_000;
        let what = format!("n{} lacks it for {seconds} s: {}", late + 1, self.describe(group));
        Err(Violation::new("a snapshot arrives", what))
    }

    /// A node is out of reach until a group's log begins after its own, and back then; whether it has come to that.
    fn miss_much(&mut self, writer: &mut Writer, late: usize) -> Result<bool, Violation> {
        let id = group_id(writer.group);
        self.say(|| format!("n{}  is out of reach, and {id} writes", late + 1));
        self.set_apart(late, 1);
        let is_cut = self.run_until(self.now + TO_CUT, |world| {
            writer.go_on(world);
            world.needs_snapshot(id, late) || writer.written >= WRITES_MAX
        })?;
        self.say(|| format!("n{}  is back, and lacks what {id} has cut: {is_cut}", late + 1));
        self.bring_back(late);
        Ok(is_cut && self.needs_snapshot(id, late))
    }

    /// A writer that leaves followers time for more than it writes: one entry may have to wait for the one before. And a lane has room
    /// for what is written while the image is on its way: where it has not, transfers yield, as they are to.
    fn writer(&self, group: usize) -> Writer {
        let (net, disk, settings) = (&self.plan.net, &self.plan.disk, &self.plan.settings);
        let commit_delay = settings.commit_delay.as_nanos() as u64;
        let windows = 1 + (IMAGE + self.plan.ballast) / (WINDOW_CHUNKS * settings.limits.chunk_bytes.max(1));
        let transfer = windows * 2 * (net.delay + net.jitter + disk.sync);
        let gap = 4 * (net.delay + net.jitter + disk.sync) + commit_delay;
        let gap = gap.max(TRANSFERS * transfer * PAGE / settings.lane_bytes_max);
        Writer { group, gap, written: 0, next_at: 0, waits_for: 0 }
    }

    /// A leader, and the followers without each of which its group still has a quorum.
    fn spare_followers(&self, id: GroupId) -> Option<(usize, Vec<usize>)> {
        let (leader, now, committed) = self.led_by(id)?;
        let is_well = |at: &usize| {
            let node = &self.nodes[*at];
            let Some(body) = node.body.as_ref().filter(|_| node.is_reachable() && !node.is_wiped) else {
                return false;
            };
            let view = body.replicas(body.worker_of(id)).find(|view| view.group == id);
            view.is_some_and(|view| {
                view.fence.is_none() && view.machine.is_some() && *view.core.configuration() == now
            })
        };
        let voters = now.voters.iter().map(|node| node.0 as usize - 1);
        let well: Vec<usize> = voters.filter(is_well).collect();
        let can_spare = well.len() > now.voters.len() / 2 + 1 && now.outgoing.is_empty() && now == committed;
        let followers: Vec<usize> = well.into_iter().filter(|at| *at != leader).collect();
        (can_spare && !followers.is_empty()).then_some((leader, followers))
    }

    /// Where a replica's log begins, and ends.
    fn log_of_replica(&self, id: GroupId, at: usize) -> Option<(u64, u64)> {
        let body = self.nodes[at].body.as_ref()?;
        let view = body.replicas(body.worker_of(id)).find(|view| view.group == id)?;
        Some((view.core.compacted().index.0, view.core.last().index.0))
    }

    /// Whether the latest leader's log begins after a replica's ends.
    fn needs_snapshot(&self, id: GroupId, at: usize) -> bool {
        let led = self.leading(id).and_then(|leader| self.log_of_replica(id, leader));
        let (led, own) = (led.unwrap_or_default(), self.log_of_replica(id, at).unwrap_or_default());
        led.0 > own.1
    }

    /// Whether a replica has what it takes to follow write by write.
    fn has_caught_up(&self, id: GroupId, at: usize) -> bool {
        self.leading(id).is_some() && !self.needs_snapshot(id, at)
    }

    fn become_equal(&mut self, group: usize, late: usize) -> Checked {
        if self.run_until(self.now + TO_ARRIVE, |world| world.is_equal(group).is_some())? {
            return Ok(());
        }
        let what = format!("n{} came late: {}", late + 1, self.describe(group));
        Err(Violation::new("convergence", what))
    }
}

impl Writer {
    fn go_on(&mut self, world: &mut World<'_>) {
        let id = group_id(self.group);
        let committed = world.watch.committed(id);
        // What was refused is not waited for.
        let has_waited = world.now > self.next_at + PATIENCE_GAPS * self.gap;
        if world.now < self.next_at || committed < self.waits_for && !has_waited {
            return;
        }
        self.next_at = world.now + self.gap;
        let Some(leader) = world.leading(id) else { return };
        self.waits_for = committed + 1;
        self.written += 1;
        world.propose_besides(self.group, leader, 1, false);
    }
}
