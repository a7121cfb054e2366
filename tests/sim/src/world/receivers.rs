//! Receivers of proposals that no client waits for: bursts beside the clients' calls, and relaxed ones. Every answer is held against
//! the record of what machines were fed.
//!
//! | rule | what |
//! |---|---|
//! | `acknowledged is applied` | an answer names the entry, by index and term, that has this very payload and is committed, and brings its reply |
//! | `refused is refused` | what was refused with certainty is never applied |
//! | `a receipt is kept` | see `relaxed` |
//!
//! An answer wakes its node's receivers, so that those that wait cost nothing meanwhile. What is not here: clients, with
//! histories that are judged as well (`clients`), and the record (`ledger`).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use raftwerk::{Applied, Call, GroupId, ProposeError, Received};

use super::{World, group_id};
use crate::disk::held;
use crate::ledger::hash_of;

/// So many wait at one node; what is proposed beyond that goes unheard.
const RECEIVERS_MAX: usize = 1024;

/// Something of a node was answered.
#[derive(Debug, Default)]
struct Rung(AtomicBool);

impl Wake for Rung {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What wakes those that wait at a node.
#[derive(Clone, Debug)]
pub(crate) struct Doorbell {
    rung: Arc<Rung>,
    waker: Waker,
}

impl Default for Doorbell {
    fn default() -> Self {
        let rung: Arc<Rung> = Arc::default();
        Self { waker: Waker::from(Arc::clone(&rung)), rung }
    }
}

impl Doorbell {
    /// What futures are to wake.
    pub(super) const fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Whether anything was answered since.
    pub(super) fn has_rung(&self) -> bool {
        self.rung.0.swap(false, Ordering::Relaxed)
    }
}

/// A proposal on its way.
enum Sent {
    Synced(Call<Applied, ProposeError>),
    Relaxed(Call<Received, ProposeError>),
}

/// One that waits for what becomes of a proposal.
pub(crate) struct Receiver {
    group: GroupId,
    payload: u64,
    sent: Sent,
}

impl World<'_> {
    /// Proposals for a replica that are in no history, each unlike every other.
    pub(super) fn propose_besides(&mut self, group: usize, node: usize, count: u64, is_relaxed: bool) {
        if !self.nodes[node].is_reachable() {
            return;
        }
        for _ in 0..count {
            self.unique += 1;
            let Some(payload) = self.subject.noise(self.unique) else { return };
            self.propose_and_listen(group_id(group), node, payload, is_relaxed);
        }
        self.answer_bells(node);
    }

    /// Proposes something, and holds what becomes of it against the record.
    pub(super) fn propose_and_listen(
        &mut self,
        group: GroupId,
        node: usize,
        payload: Bytes,
        is_relaxed: bool,
    ) {
        let hash = hash_of(&payload);
        let of = &mut self.nodes[node];
        let Some(body) = &of.body else { return };
        let mut sent = if is_relaxed {
            Sent::Relaxed(body.group(group).propose_relaxed(payload))
        } else {
            Sent::Synced(body.group(group).propose(payload))
        };
        if of.receivers.len() >= RECEIVERS_MAX {
            return;
        }
        // Most that are refused are so at once.
        match sent.poll(&mut Context::from_waker(of.doorbell.waker())) {
            Poll::Pending => of.receivers.push(Receiver { group, payload: hash, sent }),
            Poll::Ready(outcome) => self.hear_outcome(node, group, hash, outcome),
        }
    }

    /// Hands out what a node has answered.
    pub(super) fn answer_receivers(&mut self, node: usize) {
        let of = &mut self.nodes[node];
        let (waker, mut at) = (of.doorbell.waker().clone(), 0);
        let mut receivers = std::mem::take(&mut of.receivers);
        while let Some(receiver) = receivers.get_mut(at) {
            match receiver.sent.poll(&mut Context::from_waker(&waker)) {
                Poll::Pending => at += 1,
                Poll::Ready(outcome) => {
                    let Receiver { group, payload, .. } = receivers.swap_remove(at);
                    self.hear_outcome(node, group, payload, outcome);
                }
            }
        }
        self.nodes[node].receivers = receivers;
    }

    fn hear_outcome(&self, node: usize, group: GroupId, payload: u64, outcome: Heard) {
        match outcome {
            Heard::Applied(applied) => self.check_told(node, group, &applied, payload),
            Heard::Received(index) => held(&self.ledger).received(group, index, payload),
            Heard::Refused => held(&self.ledger).refused(group, payload),
            Heard::Unknown => {}
        }
    }

    /// A call was answered that its payload is applied.
    pub(super) fn check_told(&self, node: usize, group: GroupId, applied: &Applied, payload: u64) {
        let mut ledger = held(&self.ledger);
        if self.nodes[node].is_fenced || self.nodes[node].is_wiped {
            return ledger.acknowledged(group, applied.id.index, payload); // what commits there is not noted
        }
        let committed = self.watch.committed_term(group, applied.id.index);
        ledger.told(group, applied, payload, committed);
    }
}

/// What became of a proposal.
enum Heard {
    Applied(Applied),
    Received(raftwerk::Index),
    Refused,
    Unknown,
}

impl Sent {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        let failed = |error| match error {
            ProposeError::Unknown => Heard::Unknown,
            _ => Heard::Refused,
        };
        match self {
            Self::Synced(proposal) => {
                Pin::new(proposal).poll(cx).map(|outcome| outcome.map_or_else(failed, Heard::Applied))
            }
            Self::Relaxed(proposal) => Pin::new(proposal)
                .poll(cx)
                .map(|outcome| outcome.map_or_else(failed, |received| Heard::Received(received.id.index))),
        }
    }
}
