//! Disks that are lost, and replicas that are removed and join again.

use raftwerk_frame::EntryId;
use raftwerk_raft::Origin;

use super::Cluster;
use super::disk::{Disk, Image, MEMBERSHIPS};

impl Cluster {
    /// A node loses its disk, and comes back with an empty one, to join.
    pub(crate) fn lose_disk(&mut self, node: u64) {
        let origin = Origin::Joined { floor: EntryId::default() };
        self.lose_disk_and_begin_with(node, Image { origin, ..Image::default() });
    }

    /// As [`Cluster::lose_disk`], but the node bootstraps the group again.
    pub(crate) fn lose_disk_and_make_anew(&mut self, node: u64) {
        let mut image = Image { membership: MEMBERSHIPS, ..Image::default() };
        image.checkpoint.membership = MEMBERSHIPS;
        self.lose_disk_and_begin_with(node, image);
    }

    fn lose_disk_and_begin_with(&mut self, node: u64, image: Image) {
        let replica = self.replica_mut(node);
        replica.log.0 += 1;
        replica.first.clear();
        self.begin_anew(node, image);
    }

    /// A replica is removed from a node that keeps its disk, and joins again.
    pub(crate) fn leave_and_join(&mut self, node: u64) {
        let was = &self.replica(node).disk.written;
        let floor = was.last().max(was.origin.floor());
        let origin = Origin::Joined { floor };
        let image = Image { origin, hard_state: was.hard_state, ..Image::default() };
        self.begin_anew(node, image);
    }

    fn begin_anew(&mut self, node: u64, image: Image) {
        self.replica_mut(node).disk = Disk::new(image);
        self.restart(node);
        self.check();
    }
}
