//! How long a group stands still while nothing keeps it from going on: judged in the middle of the faults, too.
//!
//! | rule | what |
//! |---|---|
//! | `stands still` | where a quorum of voters is up, sound, and connected with each other for so long, and there are calls for the group, it commits something |
//!
//! The world makes such calls here: where nothing was committed for a third of that time, the leader is given proposals, and
//! followers are asked for strong reads, as any client might. A time counts only while the same voters are sound, in the same lives,
//! and while what is not sound is no member, or reaches none of them: a leader with a full disk, or one that stands still, may hold its group
//! back for as long as its messages arrive. A node that runs, and has no replica of the group, holds none back. A subject without noise
//! has nothing that could be proposed besides its clients' calls: its groups are not asked to go on, and not judged.
//! Groups with witnesses, or with voters that do not want to lead, may have to wait for others by their own rules, and are
//! not judged either.
//!
//! What is not here: progress once all faults have ended (`ending`).

use raftwerk::GroupId;
use raftwerk_frame::Configuration;
use smallvec::SmallVec;

use super::asides::Aside;
use super::ending::Reach;
use super::{World, group_id, node_id};
use crate::fault::FaultKind;
use crate::node::State;
use crate::plan::Crowd;
use crate::watch::{Checked, Violation};

/// How often the world looks.
const EVERY: u64 = 200_000_000;
/// A group may stand still for so many election timeouts (the longest that is drawn, 2 T), and for so long besides.
const TIMEOUTS: u64 = 12;
const BESIDES: u64 = 6_000_000_000;
/// It is asked to go on after such a part of that, and then again and again.
const ASKED_AFTER: u64 = 3;
const ASKED_EVERY: u64 = 12;

/// Sound voters, each in one of its lives.
type Quorum = SmallVec<[(usize, u32); 8]>;

/// How a group stands.
pub(super) struct Stand {
    /// The same voters are sound, and nothing was committed, since then.
    since: u64,
    asked_at: u64,
    quorum: Quorum,
    committed: u64,
    reach: Reach,
}

impl World<'_> {
    /// Looks at every group.
    pub(super) fn look_around(&mut self) -> Checked {
        if self.is_ending || self.subject.noise(0).is_none() {
            return Ok(());
        }
        self.aside(self.now + EVERY, Aside::Look);
        let timeout = 2 * self.plan.settings.election_timeout.as_nanos() as u64;
        let patience = TIMEOUTS * timeout + BESIDES + self.patience();
        for group in 0..self.plan.groups {
            self.look_at(group, patience)?;
        }
        Ok(())
    }

    fn look_at(&mut self, group: usize, patience: u64) -> Checked {
        let id = group_id(group);
        let quorum = self.sound_quorum(group).unwrap_or_default();
        let (committed, reach, now) = (self.watch.committed(id), Reach::of(self, group), self.now);
        let stands = &mut self.asides.stands;
        if stands.len() <= group {
            let first = || Stand { since: now, asked_at: 0, quorum: Quorum::new(), committed, reach };
            stands.resize_with(group + 1, first);
        }
        let stand = &mut stands[group];
        let has_moved = stand.committed < committed
            || stand.reach.has_grown_to(&reach)
            || stand.quorum != quorum
            || quorum.is_empty();
        if has_moved {
            *stand = Stand { since: now, asked_at: now + patience / ASKED_AFTER, quorum, committed, reach };
            return Ok(());
        }
        stand.reach = reach;
        let stood = now - stand.since;
        if stood > patience {
            let sound: Vec<_> = stand.quorum.iter().map(|(at, _)| node_id(*at)).collect();
            let (stood, what) = (stood / 1_000_000, self.describe(group));
            let what = format!("for {stood} ms, while {sound:?} were sound and connected: {what}");
            return Err(Violation::new("stands still", what));
        }
        if now >= stand.asked_at {
            stand.asked_at = now + patience / ASKED_EVERY;
            self.ask_to_go_on(group, patience)?;
        }
        Ok(())
    }

    /// A call for a group: a write at the leader, a read at a follower.
    pub(super) fn ask_to_go_on(&mut self, group: usize, patience: u64) -> Checked {
        let id = group_id(group);
        let (bytes, wait) = (64, patience / ASKED_EVERY);
        let one = Crowd { bytes, wait, count: 1, rounds: 1, ..Crowd::default() };
        for at in (0..self.nodes.len()).filter(|at| self.nodes[*at].is_reachable()).collect::<Vec<_>>() {
            let leads = self.nodes[at].body.as_ref().is_some_and(|body| {
                body.replicas(body.worker_of(id)).any(|view| view.group == id && view.core.is_leader())
            });
            if leads {
                self.propose_besides(group, at, 1, false);
            } else {
                self.come(&one, group, at, 0, false)?;
                self.answer_bells(at);
            }
        }
        Ok(())
    }

    /// A quorum of a group's voters that are sound and connected with each other; none, if something unsound might hold them back.
    fn sound_quorum(&self, group: usize) -> Option<Quorum> {
        let id = group_id(group);
        let founders = || Configuration {
            voters: self.plan.voters[group].iter().map(|at| node_id(*at)).collect(),
            ..Configuration::default()
        };
        let of = self.watch.latest_configuration(id).cloned().unwrap_or_else(founders);
        let is_plain = of.outgoing.is_empty() && of.witnesses.as_slice().is_empty();
        let is_willing = of.voters.iter().all(|node| self.plan.priorities[node.0 as usize - 1] > 0);
        if !is_plain || !is_willing || of.voters.is_empty() {
            return None;
        }
        let members: SmallVec<[usize; 8]> = of.replicas().iter().map(|node| node.0 as usize - 1).collect();
        let (mut sound, mut others) = (SmallVec::<[usize; 8]>::new(), SmallVec::<[usize; 8]>::new());
        for at in members {
            if self.nodes[at].state != State::Up || self.nodes[at].is_fenced {
                continue;
            }
            if self.is_absent(at, id) {
                continue;
            }
            let is_sound = self.is_sound(at, id, &of)?;
            if is_sound && of.is_voter(node_id(at)) {
                sound.push(at)
            } else if !is_sound {
                others.push(at)
            }
        }
        let enough = of.voters.len() / 2 + 1;
        let before = self.asides.stands.get(group).map(|stand| &stand.quorum);
        let quorum = self.connected(&sound, enough, before)?;
        let reaches = |from: usize, to: usize| !self.links.is_cut(from, to);
        let is_held_back = others
            .iter()
            .any(|other| quorum.iter().any(|(at, _)| reaches(*other, *at) || reaches(*at, *other)));
        (!is_held_back).then_some(quorum)
    }

    /// So many of these that are connected with each other: those of before, if they still are.
    fn connected(&self, sound: &[usize], enough: usize, before: Option<&Quorum>) -> Option<Quorum> {
        let in_life = |at: &usize| (*at, self.nodes[*at].life);
        let are_connected = |some: &[usize]| {
            some.iter().all(|from| some.iter().all(|to| from == to || self.is_clear(*from, *to)))
        };
        let known: SmallVec<[usize; 8]> = before.into_iter().flatten().map(|(at, _)| *at).collect();
        if known.len() == enough && known.iter().all(|at| sound.contains(at)) && are_connected(&known) {
            return Some(known.iter().map(in_life).collect());
        }
        (0_u32..1 << sound.len().min(16)).filter(|some| some.count_ones() as usize == enough).find_map(
            |some| {
                let chosen: SmallVec<[usize; 8]> =
                    (0..sound.len()).filter(|at| some >> at & 1 != 0).map(|at| sound[at]).collect();
                are_connected(&chosen).then(|| chosen.iter().map(in_life).collect())
            },
        )
    }

    /// Whether what one node sends is with the other within any patience.
    pub(super) fn is_clear(&self, from: usize, to: usize) -> bool {
        let soon = self.plan.settings.election_timeout.as_nanos() as u64 / 2;
        self.links.is_clear(self.now, from, to, soon)
    }

    /// Whether a node that runs has no replica of a group, and none on its way: it was dropped, and holds no group back, even taken
    /// for the leader.
    fn is_absent(&self, at: usize, id: GroupId) -> bool {
        let node = &self.nodes[at];
        let is_here =
            |body: &raftwerk::drive::Node<_>| body.replicas(body.worker_of(id)).any(|view| view.group == id);
        let is_leaving = node.leaving.iter().any(|(group, _)| *group == id);
        !is_leaving && !node.to_create.contains(&id) && node.body.as_ref().is_some_and(|body| !is_here(body))
    }

    /// Whether a node's replica lacks nothing that it takes to go on. `None`: its group is changing.
    fn is_sound(&self, at: usize, id: GroupId, of: &Configuration) -> Option<bool> {
        let node = &self.nodes[at];
        let Some(body) = &node.body else { return Some(false) };
        let worker = body.worker_of(id);
        let Some(view) = body.replicas(worker).find(|view| view.group == id) else { return Some(false) };
        if view.core.configuration() != of {
            return None;
        }
        let is_full = |strike: &&crate::fault::Strike| {
            strike.kind == FaultKind::DiskFull
                && strike.node == at
                && (strike.at..=strike.at + strike.span).contains(&self.now)
        };
        let stands = node.frozen_until.max(node.hangs_until).max(node.still_until(worker)) > self.now;
        Some(
            !node.is_wiped
                && !stands
                && view.fence.is_none()
                && view.machine.is_some()
                && view.core.last() >= view.core.origin().floor()
                && !body.load(worker).is_poisoned
                && !self.plan.strikes.iter().any(|strike| is_full(&strike)),
        )
    }
}
