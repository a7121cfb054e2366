//! Groups that are founded with a member besides their voters: where groups change and there are users of the faces, every second
//! one has a witness or a learner among its founders.

use raftwerk::{GroupId, InitialMembers};

use super::World;
use crate::chance::Chance;
use crate::world::node_id;

impl World<'_> {
    /// Which node founds a group without being one of its planned voters.
    pub(in crate::world) fn founds_beside(&self, group: GroupId) -> Option<usize> {
        if !self.plan.is_churning || self.faces.users.is_empty() {
            return None;
        }
        let mut chance = Chance::of(self.seed ^ group.0 << 32, "founders");
        let voters = &self.plan.voters[group.0 as usize - 1];
        let others: Vec<usize> = (0..self.plan.nodes).filter(|at| !voters.contains(at)).collect();
        (chance.below(2) == 0 && !others.is_empty()).then(|| chance.one_of(&others))
    }

    /// The members that a group begins with.
    pub(in crate::world) fn founders(&self, group: GroupId) -> InitialMembers {
        let voters = &self.plan.voters[group.0 as usize - 1];
        let founders = InitialMembers::of_voters(voters.iter().map(|at| node_id(*at)));
        match self.founds_beside(group) {
            None => founders,
            Some(at) if self.is_witness(at, group) => founders.and_witness(node_id(at)),
            Some(at) => founders.and_learner(node_id(at)),
        }
    }
}
