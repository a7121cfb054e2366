//! State machines that panic, and an operator that has new ones made.
//!
//! A fuse is lit for a group: the next replica of it that applies something loses its machine. What it had taken in is of unknown
//! outcome; it must lead no longer than it takes to hand over, show no caller an older state when it is back, and hold up no other. The
//! operator comes some time later, again and again, as long as there is a replica in quarantine; a restart, or a snapshot of its
//! leader, may come first.
//!
//! What is not here: the panic itself (`ledger`), and that the states are equal in the end (`ending`).

use raftwerk::GroupId;

use super::asides::Aside;
use super::{World, group_id};
use crate::disk::held;
use crate::fault::Strike;
use crate::ledger::Fuse;

/// How often the operator looks.
const EVERY: u64 = 1_000_000_000;
/// How long after the first panic, at the most, the operator looks for the first time.
const AT_FIRST: u64 = 8_000_000_000;

impl World<'_> {
    pub(super) fn light_fuse(&mut self, strike: &Strike) {
        if self.is_ending {
            return;
        }
        let group = group_id(strike.salt as usize % self.plan.groups);
        let fuse = Fuse { in_between: strike.salt >> 32 & 1 == 0 };
        held(&self.ledger).fuses.insert(group.0, Some(fuse));
        self.say(|| format!("whoever applies the next entry of {group} panics"));
        self.aside(self.now + EVERY + (strike.salt >> 33) % AT_FIRST, Aside::Revive);
    }

    /// Has new machines made where there is none, for as long as there may be such.
    pub(super) fn revive_machines(&mut self) {
        if self.is_ending {
            held(&self.ledger).fuses.clear();
        }
        let mut is_done = held(&self.ledger).fuses.values().all(Option::is_none);
        for at in 0..self.nodes.len() {
            let Some(body) = &self.nodes[at].body else {
                is_done = false; // it may meet the entry when it opens
                continue;
            };
            let workers = 0..body.lanes();
            let ill: Vec<GroupId> = workers
                .flat_map(|worker| body.replicas(worker))
                .filter(|view| view.is_quarantined)
                .map(|view| view.group)
                .collect();
            for group in ill {
                is_done = false;
                // It is seen whether it has helped.
                drop(body.revive(group));
                self.say(|| format!("n{}  is to revive {group}", at + 1));
            }
            self.answer_bells(at);
        }
        if !is_done {
            self.aside(self.now + EVERY, Aside::Revive);
        }
    }
}
