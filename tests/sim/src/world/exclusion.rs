//! What must hold of leases at every moment, and of leaders that wait for a segment, after each turn of a worker.
//!
//! - `leases exclude`: a replica that would answer a read by itself now, by its own clock, knows of all that is committed anywhere,
//!   and no replica has led a later term. The parent's other half looks when a replica begins to lead.
//! - `a segment may take its time`: a leader whose entries have waited for the next segment for all of its T, and for less than four
//!   times that, does not step down in its term while a quorum of its voters' nodes support its node, and the group has received
//!   their messages a moment ago.
//!   Before, what it does not know may be older than the wait. A node whose turns take long has more to read than it can.
//!
//! What is not here: whether support is given to the living (`vouching`).

use raftwerk::drive::ReplicaView;
use raftwerk::{Configuration, GroupId, NodeId};
use raftwerk_frame::Message;
use raftwerk_frame::wire::{self, UnitHeader, UnitKind};
use smallvec::SmallVec;

use super::World;
use crate::watch::{Checked, Violation};

/// How long the next segment may take, in T (`engine/multiraft/src/worker/liveness/disk_health.rs`).
const SEGMENT_PATIENCE: u64 = 4;
/// A node with a message so lately, in parts of T, was not silent for T.
const LATELY: u64 = 2;

impl World<'_> {
    /// The leaders of a worker have no leases beside later ones.
    pub(super) fn check_exclusion(&mut self, at: usize, worker: usize) -> Checked {
        let node = &self.nodes[at];
        let Some(body) = node.body.as_ref().filter(|_| node.is_reachable()) else { return Ok(()) };
        for view in body.replicas(worker).filter(|view| view.core.is_leader()) {
            let (group, term, commit) = (view.group, view.core.term().0, view.core.commit().0);
            let place = group.0 as usize - 1;
            let (newest, committed) = (self.newest_led[place].max(term), self.watch.committed(group));
            self.newest_led[place] = newest;
            if newest == term && committed <= commit {
                continue;
            }
            let now = node.clock.local(self.now).max(node.latest);
            let Some(until) = body.lease_until(group).filter(|until| *until > now) else { continue };
            let what = format!(
                "n{} leads {group} in term {term} and has a lease for {} µs up to {commit}: {newest} is led, and {committed} are \
                 committed",
                at + 1,
                (until.0 - now.0) / 1_000
            );
            return Err(Violation::new("leases exclude", what));
        }
        Ok(())
    }

    /// Answers of followers come to a worker that waits for a segment. Late ones, of an earlier term, say nothing.
    pub(super) fn note_heard(&mut self, from: usize, to: usize, bytes: &[u8]) {
        let (node, groups) = (&mut self.nodes[to], self.plan.groups);
        if node.rounds.iter().all(|rounds| rounds.awaits_segment.is_none()) {
            return;
        }
        let Ok((header, records, _)) = UnitHeader::parse(bytes) else { return };
        if header.kind == UnitKind::Groups {
            node.heard.resize(self.plan.nodes * groups, 0);
            for record in wire::records(records).flatten().filter(|record| is_answer(&record.message)) {
                let of = |view: &ReplicaView<'_>| view.group == record.group;
                let view =
                    node.body.as_ref().and_then(|body| body.replicas(body.worker_of(record.group)).find(of));
                if view.is_none_or(|view| record.message.term() != view.core.term()) {
                    continue;
                }
                if let Some(heard) = node.heard.get_mut(from * groups + record.group.0 as usize - 1) {
                    *heard = self.now;
                }
            }
        }
    }

    /// No leader of a worker that waits for a segment is gone for that.
    pub(super) fn check_segments(&mut self, at: usize, worker: usize) -> Checked {
        let now = self.now;
        let node = &mut self.nodes[at];
        let Some(body) = &node.body else { return Ok(()) };
        if !body.awaits_segment(worker) {
            (node.rounds[worker].awaits_segment, node.rounds[worker].led) = (None, SmallVec::new());
            return Ok(());
        }
        let since = *node.rounds[worker].awaits_segment.get_or_insert(now);
        let before = std::mem::take(&mut node.rounds[worker].led);
        // By a clock that may be slow.
        let all = node.timeout + node.timeout / 8;
        let mut led = SmallVec::<[(GroupId, u64); 2]>::new();
        let mut checked = Ok(());
        for view in body.replicas(worker) {
            let (core, term) = (view.core, view.core.term().0);
            if core.is_leader() {
                led.push((view.group, term));
                continue;
            }
            let is_settled = core.configuration_index() <= core.commit() && !core.is_fenced();
            let has_stepped_down = before.contains(&(view.group, term)) && is_settled;
            let lately = now.saturating_sub(node.timeout / LATELY);
            let place = view.group.0 as usize - 1;
            let is_there = |voter: &NodeId| {
                let at = (voter.0 as usize - 1) * self.plan.groups + place;
                let was_heard = node.heard.get(at).is_some_and(|heard| *heard > lately);
                *voter == core.node() || core.is_supported_by(*voter) && was_heard
            };
            if has_stepped_down
                && (since + all..since + SEGMENT_PATIENCE * node.timeout).contains(&now)
                && now > node.slow_turns.1 + all
                && has_quorum(core.configuration(), core.node(), is_there)
            {
                let what = format!(
                    "n{} leads {} no longer in {term}, and has waited for a segment for {} ms",
                    at + 1,
                    view.group,
                    (now - since) / 1_000_000
                );
                checked = Err(Violation::new("a segment may take its time", what));
            }
        }
        self.nodes[at].rounds[worker].led = led;
        checked
    }
}

/// What a follower sends to a leader with messages that reach it.
const fn is_answer(message: &Message) -> bool {
    matches!(message, Message::HeartbeatAck { .. } | Message::AppendAck { .. } | Message::AppendReject { .. })
}

/// Whether a node is a voter, and it and others are a quorum of a configuration without a second half.
fn has_quorum(configuration: &Configuration, me: NodeId, is_there: impl Fn(&NodeId) -> bool) -> bool {
    let there = configuration.voters.iter().filter(|voter| is_there(voter)).count();
    configuration.outgoing.is_empty() && configuration.is_voter(me) && there > configuration.voters.len() / 2
}
