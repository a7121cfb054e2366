//! What a script sees when it looks at a node.

use raftwerk_frame::{Configuration, Index};

use super::super::parcel::{Entry, role_name};
use super::Node;

impl Node {
    /// The lines of `raft-log`: what is on disk.
    pub(in super::super) fn disk_lines(&self) -> Vec<String> {
        if self.disk.is_empty() {
            let last = self.disk_compacted.index;
            return vec![format!("log is empty: first index={}, last index={}", last.next().0, last.0)];
        }
        self.disk.values().map(Entry::to_string).collect()
    }

    /// Who takes part, as far as this replica has applied it: that is where etcd's configurations begin to count.
    pub(in super::super) fn configuration(&self) -> Configuration {
        let applied = self.group.configuration_up_to(self.group.applied());
        applied.map(|(_, configuration)| configuration.clone()).unwrap_or_default()
    }

    /// The lines of `status`, as far as they are compared: how far each replica is known to match, in the leader's eyes.
    pub(in super::super) fn match_lines(&self) -> Vec<String> {
        let group = &self.group;
        if !group.is_leader() {
            return Vec::new();
        }
        let matched = |node| match group.progress(node) {
            Some(peer) => peer.matched,
            None => group.durable(),
        };
        let replicas = group.configuration().replicas();
        replicas.into_iter().map(|node| format!("{}: match={}", node.0, matched(node).0)).collect()
    }

    /// The entry at `index`, if it is held.
    pub(in super::super) fn entry(&self, index: Index) -> Option<&Entry> {
        self.log.get(&index)
    }

    /// The line of `raft-state`.
    pub(in super::super) fn state_line(&self) -> String {
        let group = &self.group;
        let node = group.node();
        let voter = if self.configuration().is_voter(node) { "Voter" } else { "Non-Voter" };
        let leader = group.leader().map_or(0, |leader| leader.0);
        format!("{}: {} ({voter}) Term:{} Lead:{leader}", node.0, role_name(group.role()), group.term().0)
    }
}
