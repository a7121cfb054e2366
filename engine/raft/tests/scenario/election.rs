//! Elections (paper, sections 5.2 and 5.4.1).

use crate::cluster::{Cluster, Options};

/// Paper, section 5.2.
#[test]
fn three_replicas_elect_a_leader_and_commit_its_no_op() {
    let mut cluster = Cluster::new(Options::of(3));
    let leader = cluster.run_to_leader();
    cluster.propose(leader, 3);
    cluster.settle();
    assert_eq!(cluster.committed(), 4);
}
