//! A node reports where the time of its writes goes, by writes that it follows from call to answer.

use std::time::{Duration, Instant};

use raftwerk::{GroupId, NodeId, WriteStages};
use raftwerk_tests::facts::until;
use raftwerk_tests::nodes::Nodes;

const GROUP: GroupId = GroupId(1);

/// The stages of the node that leads, after so many more writes that it followed.
fn after(nodes: &Nodes, leader: NodeId, more: u64, mut write: impl FnMut()) -> WriteStages {
    let count = || nodes.engine(leader).stats().stages.total.count();
    let before = count();
    until("writes that are followed", || {
        write();
        (count() >= before + more).then_some(())
    });
    nodes.engine(leader).stats().stages
}

#[test]
fn the_stages_of_the_followed_writes_add_up_to_all_of_them() {
    let nodes = Nodes::start(3, |_| {});
    nodes.create(&[GROUP]);
    let leader = nodes.leader(GROUP);
    let began = Instant::now();
    let mut pipeline = nodes.engine(leader).pipeline(64);
    let mut done = Vec::new();
    let stages = after(&nodes, leader, 20, || {
        for token in 0..64 {
            pipeline.propose(GROUP, token, b"a payload").expect("there is room in flight");
        }
        while pipeline.in_flight() > 0 {
            pipeline.wait(Duration::from_millis(10));
            pipeline.take(&mut done);
        }
    });
    let took = began.elapsed();

    let counts: Vec<u64> = stages.named().map(|(_, durations)| durations.count()).collect();
    assert!(counts.iter().all(|count| *count == stages.total.count()), "each passes all stages: {stages:?}");
    let WriteStages { queue, batch, sync, replicate, apply, reply, total, .. } = &stages;
    let parts = queue.mean() + batch.mean() + replicate.mean() + apply.mean() + reply.mean();
    let rounding = Duration::from_nanos(5);
    assert!(
        parts <= total.mean() && total.mean() <= parts + rounding,
        "the others are all of it: {stages:?}"
    );
    // The own log's sync runs beside the followers'; nothing is applied before it.
    assert!(sync.mean() <= replicate.mean() + apply.mean() + rounding, "{stages:?}");
    assert!(replicate.mean() > Duration::ZERO && total.quantile(1.0) <= took * 5 / 4, "{stages:?}");

    // A refused call is not followed, and does not keep others from it; nor does one by a single caller.
    let follower = nodes.ids().iter().copied().find(|node| *node != leader).expect("there are three");
    let refused = nodes.engine(follower).group(GROUP).propose("to the wrong node").wait();
    refused.expect_err("a follower refuses");
    assert_eq!(nodes.engine(follower).stats().stages.total.count(), 0);
    after(&nodes, leader, 3, || {
        nodes.engine(leader).group(GROUP).propose("one").wait().expect("it leads");
    });
}
