//! An operator that shuts nodes down while they have much to do, and opens them again. Every call that is open there ends, by
//! whatever face it was made; what comes later is refused; and what was acknowledged is there again, as after any other end.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use raftwerk::{ProposeError, ReadError, ReadOptions};

use super::{Event, World, group_id};
use crate::chance::Chance;
use crate::node::State;
use crate::watch::{Checked, Violation};

/// Between two shutdowns, usually, in nanoseconds.
const EVERY: u64 = 4_000_000_000;

impl World<'_> {
    pub(super) fn plan_leaving(&mut self) {
        if self.faces.users.is_empty() {
            return;
        }
        let mut chance = Chance::of(self.seed, "shutdowns");
        let mut when = chance.heavy_tailed(EVERY);
        while when < self.plan.end {
            let node = chance.below(self.plan.nodes as u64) as u16;
            self.at(when, Event::Leave { node });
            when += chance.heavy_tailed(EVERY);
        }
    }

    /// A node is asked to shut down, just after it was given something to do.
    pub(in crate::world) fn leave(&mut self, node: usize) -> Checked {
        let is_up = self.nodes[node].state == State::Up && self.faces.leaving[node] == 0;
        if self.is_ending || !is_up {
            return Ok(());
        }
        self.count(43, node as u64);
        self.say(|| format!("n{}  is asked to shut down", node + 1));
        for at in 0..self.faces.users.len() {
            let group = self.faces.chance.below(self.plan.groups as u64) as usize;
            let mut user = std::mem::take(&mut self.faces.users[at]);
            let mut called = Ok(());
            for _ in 0..self.faces.chance.below(6) {
                called = called.and_then(|()| self.call_as(&mut user, group, node));
            }
            self.faces.users[at] = user;
            called?;
        }
        let Some(body) = &self.nodes[node].body else { return Ok(()) };
        drop(body.shutdown());
        self.faces.leaving[node] = (1 << body.lanes()) - 1;
        self.answer_bells(node);
        Ok(())
    }

    /// A worker has ended. With the last one the node has: the world waits for nothing of it, and opens it again.
    pub(in crate::world) fn worker_left(&mut self, node: usize, worker: usize) -> Checked {
        let left = self.faces.leaving[node];
        self.faces.leaving[node] &= !(1 << worker);
        if left == 0 || self.faces.leaving[node] > 0 {
            return Ok(());
        }
        self.say(|| format!("n{}  has shut down", node + 1));
        self.check_all_ended(node)?;
        self.check_closed(node)?;
        self.fall(node, false)
    }

    /// A node that was shutting down when faults ended does so at once.
    pub(in crate::world) fn finish_leaving(&mut self) -> Checked {
        for node in 0..self.nodes.len() {
            if self.faces.leaving[node] > 0 {
                self.fall(node, false)?;
            }
        }
        Ok(())
    }

    fn check_all_ended(&mut self, node: usize) -> Checked {
        // What a full inbox had refused was not handed over yet.
        for user in &mut self.faces.users {
            if let Some(door) = &mut user.doors[node] {
                door.pipeline.flush();
            }
        }
        self.answer_faces(node)?;
        let of_users = self.faces.users.iter().find_map(|user| user.waits_at(node));
        let at = &self.nodes[node];
        let others = at.callers.len() + at.readers.len() + at.repeaters.len() + self.awaited_at(node);
        if of_users.is_none() && others == 0 {
            return Ok(());
        }
        let what = format!("n{} has shut down, and {others} wait for it, and {of_users:?}", node + 1);
        Err(Violation::new("every call ends", what))
    }

    /// A node that has shut down takes nothing in, by whatever face.
    fn check_closed(&self, node: usize) -> Checked {
        let Some(body) = &self.nodes[node].body else { return Ok(()) };
        let mut cx = Context::from_waker(Waker::noop());
        let wrong = |what: String| Err(Violation::new("closed is closed", format!("n{}: {what}", node + 1)));
        for group in (0..self.plan.groups).map(group_id) {
            if !body.replicas(body.worker_of(group)).any(|view| view.group == group) {
                continue;
            }
            let handle = body.group(group);
            let told = Pin::new(&mut handle.propose(Bytes::new())).poll(&mut cx);
            if told != Poll::Ready(Err(ProposeError::Closed)) {
                return wrong(format!("{group}: a proposal: {told:?}"));
            }
            let told = Pin::new(&mut handle.query(Bytes::new(), ReadOptions::default())).poll(&mut cx);
            if told != Poll::Ready(Err(ReadError::Closed)) {
                return wrong(format!("{group}: a read: {told:?}"));
            }
        }
        Ok(())
    }
}
