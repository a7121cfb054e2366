//! What nodes say of their own health: once everything is mended, nothing of it is left that was mended.
//!
//! | rule | what |
//! |---|---|
//! | `well is said to be well` | when every group has committed something and all replicas are equal, no node goes on saying that its disk is full or hangs, that it can make no segment, that its log has failed or a lane has died, that a machine is in quarantine, or that a group has no leader that it is a member of |
//!
//! What has no end by itself (a slow sync, a damaged file) is no state, and connections are the transport's. What is not here: when a
//! node reports so (`raftwerk::Condition`).

use raftwerk::Condition;

use super::World;
use crate::watch::{Checked, Violation};

/// How long it may take a node to notice, at most: it looks for groups without a leader once in an election timeout, and tries to make a
/// segment ten times a second.
const TO_NOTICE: u64 = 60_000_000_000;

impl World<'_> {
    /// Every node that takes part is well by its own account, soon.
    pub(super) fn be_well(&mut self) -> Checked {
        if self.run_until(self.now + TO_NOTICE, |world| world.still_ill().is_none())? {
            return Ok(());
        }
        match self.still_ill() {
            Some((at, condition)) => {
                let what = format!("n{} goes on saying so: {condition}", at + 1);
                Err(Violation::new("well is said to be well", what))
            }
            None => Ok(()),
        }
    }

    /// A node, and a condition in its report that is over.
    fn still_ill(&self) -> Option<(usize, Condition)> {
        let sound = |at: &usize| self.nodes[*at].is_reachable() && !self.nodes[*at].is_wiped;
        let all = (0..self.nodes.len()).filter(sound).flat_map(|at| {
            let conditions = self.nodes[at].body.as_ref().map_or(Vec::new(), |body| body.health());
            conditions.into_iter().map(move |condition| (at, condition))
        });
        let mut over = all.filter(|(at, condition)| self.is_over(*at, condition));
        over.next()
    }

    /// Whether a condition of a node's report cannot hold any more.
    fn is_over(&self, at: usize, condition: &Condition) -> bool {
        match condition {
            Condition::PeerLost { .. } | Condition::SlowSync { .. } | Condition::Damaged { .. } => false,
            // Of several groups one is named. A replica that was let go without a word waits for its operator, and so does one that lacks
            // what it lost.
            Condition::NoLeader { group, .. } => {
                self.members(group.0 as usize - 1).contains(&at)
                    && self.nodes[at].body.as_ref().is_some_and(|body| {
                        let mut views = body.replicas(body.worker_of(*group));
                        views.any(|view| view.group == *group && !view.core.is_fenced())
                    })
            }
            _ => true,
        }
    }
}
