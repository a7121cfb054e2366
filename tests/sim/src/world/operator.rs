//! The operator of a cluster in which a node has lost its disk: the node is taken out of its groups; then it comes again,
//! with an empty disk, as a newcomer that joins groups and makes none, and its peers are told its new log.
//!
//! Until then it runs under its old id, and does what it would do at every start: makes its groups. Nobody may hear it.
//! What is not here: the loss itself (`faults`).

use raftwerk::drive::{PeerNote, Replacing};
use raftwerk::{Change, Newcomers, NodeId, Reconfiguration};
use raftwerk_frame::LogId;
use raftwerk_wal::memory::MemoryFiles;

use super::{Event, World, group_id, node_id};
use crate::node::State;
use crate::watch::Checked;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// How often the operator looks.
const EVERY: u64 = 300_000_000;

/// How far the peers of a node that lost its disk are with noting its new log.
#[derive(Default)]
pub(crate) struct Farewell {
    /// By position: asked, and not answered yet.
    asked: Vec<Option<Replacing>>,
    /// By position: it has noted it.
    done: Vec<bool>,
}

impl World<'_> {
    /// The log that a node has now.
    pub(super) fn log_of(&self, at: usize) -> u64 {
        let node = &self.nodes[at];
        self.seed ^ (at as u64 + 1) << 32 ^ node.disks_lost << 56
    }

    /// Whether all others have noted which log a node has: only then is it told from what comes after.
    pub(super) fn is_noted_by_all(&self, at: usize) -> bool {
        let noted = PeerNote { node: node_id(at), log: LogId(self.log_of(at)) };
        let mut others = self.nodes.iter().enumerate().filter(|(other, _)| *other != at);
        others.all(|(_, other)| match &other.body {
            Some(body) => body.peers().contains(&noted),
            None => other.noted.contains(&noted),
        })
    }

    /// Whether a node of a cluster whose groups change may lose its disk: one at a time, where every group can do without
    /// it, whatever its members are about to be.
    pub(super) fn can_do_without(&self, at: usize) -> bool {
        let id = node_id(at);
        self.nodes.iter().all(|node| {
            let Some(body) = node.body.as_ref().filter(|_| !node.is_damaged && !node.is_fenced) else {
                return false;
            };
            (0..body.workers()).flat_map(|worker| body.replicas(worker)).all(|view| {
                let core = view.core;
                let now = core.configuration();
                let committed = core.configuration_up_to(core.commit()).map(|(_, committed)| committed);
                let is_settled = committed == Some(now) && now.outgoing.is_empty();
                is_settled && (!now.voters.contains(&id) || now.voters.len() > 2)
            })
        })
    }

    /// Begins to look after a node that lost its disk.
    pub(super) fn look_after(&mut self, at: usize) {
        let count = self.nodes.len();
        let asked = (0..count).map(|_| None).collect();
        self.nodes[at].farewell = Some(Farewell { asked, done: vec![false; count] });
        self.at(self.now + EVERY, Event::Operate { node: at as u16 });
    }

    /// Does the next step for a node that lost its disk.
    pub(super) fn operate(&mut self, at: usize) -> Checked {
        if self.is_ending || self.nodes[at].farewell.is_none() {
            return Ok(());
        }
        if self.nodes[at].is_wiped && self.take_out(at) {
            self.say(|| format!("n{}  is a newcomer now", at + 1));
            self.fall(at, false)?;
            self.watch.reborn(at);
            let first_groups = self.first_groups(at);
            let node = &mut self.nodes[at];
            (node.files, node.disks_lost) = (MemoryFiles::new(), node.disks_lost + 1);
            (node.to_create, node.is_newcomer, node.is_wiped) = (first_groups, true, false);
        }
        if !self.nodes[at].is_wiped && self.has_everyone_noted(at) {
            let node = &mut self.nodes[at];
            (node.is_damaged, node.farewell) = (false, None);
            return Ok(());
        }
        self.at(self.now + EVERY, Event::Operate { node: at as u16 });
        Ok(())
    }

    /// Has all groups take the node out of their members; whether all leaders know that it is.
    fn take_out(&mut self, at: usize) -> bool {
        let gone: NodeId = node_id(at);
        let mut is_out = true;
        for group in (0..self.plan.groups).map(group_id) {
            let Some(leader) = self.leading(group) else {
                is_out = false;
                continue;
            };
            let Some(body) = &self.nodes[leader].body else { continue };
            let names = |configuration: &raftwerk::Configuration| configuration.replicas().contains(&gone);
            let is_named = body.replicas(body.worker_of(group)).any(|view| {
                let committed = view.core.configuration_up_to(view.core.commit());
                let was = committed.is_none_or(|(_, committed)| names(committed));
                view.group == group && (names(view.core.configuration()) || was)
            });
            if is_named {
                is_out = false;
                let newcomers = Newcomers::Unchecked;
                let wish = Reconfiguration { newcomers, ..Reconfiguration::of([Change::Remove(gone)]) };
                drop(body.reconfigure(group, wish));
                self.answer_bells(leader);
            }
        }
        is_out
    }

    /// Tells all others the node's new log; whether they have noted it.
    fn has_everyone_noted(&mut self, at: usize) -> bool {
        let Some(mut farewell) = self.nodes[at].farewell.take() else { return true };
        let log = LogId(self.log_of(at));
        for other in (0..self.nodes.len()).filter(|other| *other != at) {
            let answer = farewell.asked[other]
                .as_mut()
                .map(|asked| Pin::new(asked).poll(&mut Context::from_waker(Waker::noop())));
            match answer {
                Some(Poll::Ready(Ok(()))) => (farewell.asked[other], farewell.done[other]) = (None, true),
                Some(Poll::Ready(Err(_))) => farewell.asked[other] = None,
                _ => {}
            }
            let node = &self.nodes[other];
            if node.state == State::Up && !farewell.done[other] && farewell.asked[other].is_none() {
                farewell.asked[other] = node.body.as_ref().map(|body| body.replace_peer(node_id(at), log));
                self.answer_bells(other);
            }
        }
        let all = farewell.done.iter().enumerate().all(|(other, done)| other == at || *done);
        self.nodes[at].farewell = Some(farewell);
        all
    }
}
