//! Leaders that lose their followers one by one, in the ways that only promises between nodes guard against: what stands
//! between a lease and the next leader is tried where it is thinnest.
//!
//! - One follower is parted from the leader, and waits until it may campaign. Then another, with a promise that gives the leader
//!   its lease, is parted, too, and dies, and is back at once: it has promised to vote for no other, and must know that still.
//! - A leader hands over, and only signs of life of its heir reach it: its node supports the heir's, and it follows no leader. Then
//!   the heir is parted from the nodes that do follow it: what the old leader's node has promised is no lease.
//!
//! What is not here: how often this happens (`plan`), and what must not come of it (`vouching`).

use super::{Event, World, group_id, node_id};
use crate::chance::Chance;
use crate::fault::{FaultKind, Strike};

impl World<'_> {
    pub(super) fn oust(&mut self, at: usize) {
        let strike = self.plan.strikes[at];
        let mut chance = Chance::of(strike.salt, "ousting");
        let group = chance.below(self.plan.groups as u64) as usize;
        let Some(leader) = self.leading(group_id(group)) else { return };
        let mut others = self.places(group);
        others.retain(|place| *place != leader);
        if others.is_empty() {
            return;
        }
        let other = others.swap_remove(chance.below(others.len() as u64) as usize);
        let hands_over = chance.below(2) == 0;
        // What ends it finds the same nodes.
        let salt = u64::from(hands_over);
        self.plan.strikes[at] = Strike { node: leader, other, salt, ..strike };
        if hands_over {
            self.links.link(other, leader).murmurs += 1;
            if let Some(body) = &self.nodes[leader].body {
                drop(body.group(group_id(group)).transfer_leadership(node_id(other)));
            }
            self.answer_bells(leader);
        } else {
            self.part(strike, self.now, leader, other);
        }
        let timeout = self.plan.settings.election_timeout.as_nanos() as u64;
        let patience = if hands_over { timeout / 4 } else { timeout };
        let then = self.now + patience + chance.below(timeout / 2);
        for third in others {
            if hands_over {
                self.part(strike, then, other, third);
            } else {
                self.part(strike, then, leader, third);
                let life = self.nodes[third].life;
                self.nodes[third].hurries = true;
                self.at(then, Event::Doom { node: third as u16, life, power: false });
            }
        }
    }

    /// Two nodes will not hear each other, until what this belongs to ends.
    fn part(&mut self, of: Strike, at: u64, node: usize, other: usize) {
        let span = (of.at + of.span).saturating_sub(at);
        self.at(at, Event::Strike { strike: self.plan.strikes.len() as u32 });
        self.plan.strikes.push(Strike { at, kind: FaultKind::Part, node, other, span, salt: of.salt });
    }

    /// What has begun ends; the parted nodes connect again by themselves.
    pub(super) fn end_ousting(&mut self, strike: &Strike) {
        if strike.salt == 1 {
            let link = self.links.link(strike.other, strike.node);
            link.murmurs = link.murmurs.saturating_sub(1);
        }
    }
}
