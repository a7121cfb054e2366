//! Whether support is given to whoever lives: the rule `vouched for`, after each turn of a worker.
//!
//! Both halves hold whatever the network does. A beat is answered only if it was sent after one of ours that is younger
//! than T, and a promise lasts T: so who is supported has had a turn within 2 T. And a worker finds out by itself that its disk
//! hangs, and that it is supported no longer; then it leads nobody that could not also be led by others.

use super::World;
use crate::fault::FaultKind;
use crate::node::State;
use crate::watch::{Checked, Violation};

/// Within so many twentieths of T a supported worker has had a turn: 2 T, and what clocks and steps may add.
const ALIVE_WITHIN: u64 = 50;
/// So many T after its disk began to hang, a worker leads nobody: a probe comes within 1.5 T and hangs for T, and who hears
/// no quorum steps down within 2 T.
const HUNG_AND_LEADING: u64 = 6;

impl World<'_> {
    pub(super) fn check_vouching(&self, at: usize, worker: usize) -> Checked {
        let node = &self.nodes[at];
        let Some(body) = node.body.as_ref().filter(|_| node.state == State::Up) else { return Ok(()) };
        let timeout = self.plan.settings.election_timeout.as_nanos() as u64;
        let begun = node.hangs_since.max(node.opened).max(node.frozen_until).max(node.stuck.1);
        let hangs = node.hangs_until > self.now && self.now > begun + HUNG_AND_LEADING * timeout;
        let leaps = self.plan.strikes.iter().any(|strike| strike.kind == FaultKind::ClockLeap);
        for view in body.replicas(worker) {
            for peer in view.core.peers().filter(|peer| view.core.tie(*peer).0) {
                let other = &self.nodes[peer.0 as usize - 1];
                let turned = other.turned.get(worker).copied().unwrap_or_default();
                if !leaps && self.now > turned + timeout * ALIVE_WITHIN / 20 {
                    let what = format!(
                        "n{} supports worker {worker} of n{}, which has had no turn for {} ms",
                        at + 1,
                        peer.0,
                        (self.now - turned) / 1_000_000
                    );
                    return Err(Violation::new("vouched for", what));
                }
            }
            let is_alone = view.core.configuration().voters.len() < 2;
            if hangs && view.core.is_leader() && !is_alone {
                let load = body.load(worker);
                // Where no segment has room, nothing can be asked of the disk.
                if !load.is_poisoned && load.lane.ready_segments > 0 {
                    let what = format!(
                        "n{} leads {}, and its disk has done nothing for {} ms",
                        at + 1,
                        view.group,
                        (self.now - begun) / 1_000_000
                    );
                    return Err(Violation::new("vouched for", what));
                }
            }
        }
        Ok(())
    }
}
