//! Support between nodes: in production it comes from node heartbeats, here the test sets it.

use raftwerk_frame::NodeId;
use raftwerk_raft::Input;

use super::Cluster;

impl Cluster {
    /// `node` begins, or ends, to support `other`.
    pub(crate) fn supports(&mut self, node: u64, other: u64, yes: bool) {
        self.input(node, Input::Supports { node: NodeId(other), yes });
        self.finish(node);
    }

    /// `node` learns that `other` supports it, or no longer does.
    pub(crate) fn supported_by(&mut self, node: u64, other: u64, yes: bool) {
        self.input(node, Input::SupportedBy { node: NodeId(other), yes });
        self.finish(node);
    }

    /// The two support each other, and know it; or no longer. Support begins before the other learns of it,
    /// and ends after.
    pub(crate) fn befriend(&mut self, one: u64, other: u64, yes: bool) {
        for (node, other) in [(one, other), (other, one)] {
            if yes {
                self.supports(node, other, true);
                self.supported_by(other, node, true);
            } else {
                self.supported_by(other, node, false);
                self.supports(node, other, false);
            }
        }
    }

    /// All nodes support each other.
    pub(crate) fn befriend_all(&mut self) {
        for one in self.nodes() {
            for other in one + 1..=*self.nodes().end() {
                self.befriend(one, other, true);
            }
        }
    }
}
