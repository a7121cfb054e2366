//! Groups that change who takes part and who leads, on real engines over QUIC: every acknowledged write is there at the end,
//! once, on every replica (paper, section 6; thesis, sections 3.10 and 4). What the protocol does on the way is told by the
//! stories in `scripts`.

use std::time::Duration;

use bytes::Bytes;
use raftwerk::{
    Admission, Applied, Change, Configuration, Consistency, GroupId, NodeId, PRIORITY_MAX, ReadOptions,
    Reconfiguration, ReconfigureError, Refusal, TransferError, TransferRefusal, Transition,
};
use raftwerk_tests::facts::until;
use raftwerk_tests::journal;
use raftwerk_tests::nodes::{Nodes, assert_kept};

const GROUP: GroupId = GroupId(1);

const fn voter(node: u64) -> Change {
    Change::Voter(NodeId(node))
}

const fn remove(node: u64) -> Change {
    Change::Remove(NodeId(node))
}

fn voters(nodes: &[u64]) -> Configuration {
    Configuration::of_voters(nodes.iter().copied().map(NodeId))
}

/// A group with a voter on each of `first`; the other nodes have empty replicas.
fn start(count: u64, first: &[u64], checkpoint_log_bytes: u64) -> Nodes {
    let nodes = Nodes::start(count, move |config| config.checkpoint_log_bytes = checkpoint_log_bytes);
    let first = voters(first).voters;
    for &node in nodes.ids() {
        if first.contains(&node) {
            nodes.engine(node).create_group(GROUP, &first).wait().expect("a group can be made");
        } else {
            nodes.engine(node).join_group(GROUP).wait().expect("a replica can be made");
        }
    }
    nodes
}

/// Who takes part, whatever their logs.
fn nodes_of(configuration: Configuration) -> Configuration {
    Configuration { logs: Default::default(), ..configuration }
}

/// Waits until these nodes have all that is written; compares them, and looks for every acknowledged write.
fn assert_same(nodes: &Nodes, on: &[u64], written: &[(Bytes, Applied)]) {
    let on: Vec<NodeId> = on.iter().copied().map(NodeId).collect();
    until("replicas that have applied as much", || {
        let digests: Vec<_> =
            on.iter().map(|node| nodes.replica(*node, GROUP).digest().wait().ok()).collect();
        let (last, _) = digests[0]?;
        let is_all = written.iter().all(|(_, applied)| applied.id.index <= last);
        (is_all && digests.iter().all(|digest| *digest == digests[0])).then_some(())
    });
    for node in on {
        assert_kept(&nodes.local(node, GROUP), written);
    }
}

fn writes(nodes: &Nodes, count: usize, size: usize) -> Vec<(Bytes, Applied)> {
    (0..count).map(|_| nodes.write(GROUP, size)).collect()
}

#[test]
fn a_group_grows_from_one_to_three_and_survives_the_loss_of_the_first() {
    let mut nodes = start(3, &[1], 1 << 30);
    let mut written = writes(&nodes, 20, 100);
    let planned = Reconfiguration { dry_run: true, ..Reconfiguration::of([voter(2), voter(3)]) };
    let planned = nodes.reconfigure(GROUP, &planned);
    assert_eq!(planned.configuration.learners, [NodeId(2), NodeId(3)], "first they catch up");
    assert_eq!(
        nodes.replica(NodeId(1), GROUP).status().wait().unwrap().configuration,
        voters(&[1]),
        "it was a dry run"
    );

    let grown = nodes.reconfigure(GROUP, &Reconfiguration::of([voter(2), voter(3)]));
    let named = |node| grown.configuration.log_of(NodeId(node));
    assert_eq!((named(1), named(2)), (None, Some(nodes.engine(NodeId(2)).log_id())));
    assert_eq!(nodes_of(grown.configuration), voters(&[1, 2, 3]));
    written.extend(writes(&nodes, 20, 100));
    assert_same(&nodes, &[1, 2, 3], &written);

    nodes.close(NodeId(1));
    written.extend(writes(&nodes, 20, 100));
    nodes.open(NodeId(1));
    written.extend(writes(&nodes, 1, 100));
    assert_same(&nodes, &[1, 2, 3], &written);
    let status = nodes.replica(NodeId(1), GROUP).status().wait().unwrap();
    let now = (nodes_of(status.configuration), status.configuration_index);
    assert_eq!(now, (voters(&[1, 2, 3]), grown.index));
}

#[test]
fn a_node_is_replaced_in_one_change_under_load_and_by_snapshot() {
    let nodes = start(4, &[1, 2, 3], 64 << 10);
    let mut written = writes(&nodes, 200, 2048);
    let leader = nodes.leader(GROUP);
    until("a log that no longer begins at the beginning", || {
        (nodes.replica(leader, GROUP).status().wait().ok()?.compacted.index.0 > 0).then_some(())
    });
    let gone = (1..=3).find(|node| NodeId(*node) != leader).unwrap();
    let change = nodes.replica(leader, GROUP).reconfigure(Reconfiguration::of([voter(4), remove(gone)]));
    written.extend(writes(&nodes, 200, 2048));
    let left: Vec<u64> = (1..=4).filter(|node| *node != gone).collect();
    let outcome = change.wait();
    assert!(matches!(outcome, Ok(_) | Err(ReconfigureError::Unknown)), "{outcome:?}");
    let now = nodes.reconfigure(GROUP, &Reconfiguration::of([voter(4), remove(gone)]));
    assert_eq!(nodes_of(now.configuration), voters(&left));
    assert!(nodes.engine(NodeId(4)).stats().installs >= 1, "the log alone could not have done it");

    // The removed replica is told, and may go.
    until("a replica that knows that it is removed", || {
        nodes.replica(NodeId(gone), GROUP).status().wait().ok().filter(|status| status.is_removed)
    });
    nodes.engine(NodeId(gone)).remove_group(GROUP).wait().unwrap();
    let status = nodes.replica(nodes.leader(GROUP), GROUP).status().wait().unwrap();
    assert_eq!(status.peers.len(), 2);
    assert_same(&nodes, &left, &written);
}

#[test]
fn a_leader_that_removes_itself_hands_over() {
    let nodes = start(3, &[1, 2, 3], 1 << 30);
    let mut written = writes(&nodes, 10, 100);
    let old = nodes.leader(GROUP);
    let left: Vec<u64> = (1..=3).filter(|node| NodeId(*node) != old).collect();
    let now = nodes.reconfigure(GROUP, &Reconfiguration::of([remove(old.0)]));
    assert_eq!(nodes_of(now.configuration), voters(&left));
    let new = until("another leader", || Some(nodes.leader(GROUP)).filter(|leader| *leader != old));
    assert!(left.contains(&new.0));
    written.extend(writes(&nodes, 10, 100));
    assert_same(&nodes, &left, &written);
    assert!(nodes.replica(old, GROUP).status().wait().unwrap().is_removed);
}

#[test]
fn transfers_under_load_lose_no_write() {
    let nodes = start(3, &[1, 2, 3], 1 << 30);
    let mut written = writes(&nodes, 5, 100);
    for round in 0..6u64 {
        let leader = nodes.leader(GROUP);
        let group = nodes.replica(leader, GROUP);
        let to = NodeId(leader.0 % 3 + 1);
        // The second half is on its way while the lead is; each ends, and those that say so are there.
        let payload = |n: u64| Bytes::from(format!("round {round} write {n}"));
        let propose = |n: u64| (payload(n), group.propose(payload(n)));
        let early: Vec<_> = (0..25).map(propose).collect();
        let early =
            early.into_iter().filter_map(|(payload, proposal)| Some((payload, proposal.wait().ok()?)));
        written.extend(early);
        let under_way: Vec<_> = (25..75).map(propose).collect();
        let outcome = group.transfer_leadership(to).wait();
        let is_fair =
            matches!(outcome, Ok(()) | Err(TransferError::Abandoned(_) | TransferError::Refused(_)));
        assert!(is_fair, "{outcome:?}");
        for (payload, proposal) in under_way {
            if let Ok(applied) = proposal.wait() {
                written.push((payload, applied));
            }
        }
        written.extend(writes(&nodes, 5, 100));
    }
    assert!(written.len() >= 35 + 25, "the lead was led from under a load: {}", written.len());
    assert_same(&nodes, &[1, 2, 3], &written);
}

#[test]
fn a_transfer_goes_to_the_chosen_node_and_unfit_ones_are_refused() {
    let nodes = start(4, &[1, 2, 3], 1 << 30);
    let written = writes(&nodes, 5, 100);
    let leader = nodes.leader(GROUP);
    let group = nodes.replica(leader, GROUP);
    let refused = |to: NodeId| group.transfer_leadership(to).wait();
    assert_eq!(refused(leader), Err(TransferError::Refused(TransferRefusal::LeadsAlready)));
    assert_eq!(refused(NodeId(4)), Err(TransferError::Refused(TransferRefusal::NotAVoter)));
    let to = NodeId(leader.0 % 3 + 1);
    until("a transfer", || match nodes.replica(nodes.leader(GROUP), GROUP).transfer_leadership(to).wait() {
        Ok(()) | Err(TransferError::Refused(TransferRefusal::LeadsAlready)) => Some(()),
        Err(_) => None,
    });
    until("the chosen leader", || (nodes.leader(GROUP) == to).then_some(()));
    assert_same(&nodes, &[1, 2, 3], &written);
}

/// Node 2 is the one that a group of this number prefers. It does not lead unless it is told to.
#[test]
fn node_of_the_lowest_priority_leads_only_on_request() {
    let unwilling = NodeId(2);
    let nodes = Nodes::start(3, move |config| {
        config.priority = if config.node == unwilling { 0 } else { PRIORITY_MAX };
    });
    nodes.create(&[GROUP]);
    let mut written = writes(&nodes, 5, 100);
    for _ in 0..3 {
        // Whoever leads hands over to the other that is willing.
        let leader = nodes.leader(GROUP);
        assert_ne!(leader, unwilling);
        let to = NodeId(4 - leader.0);
        _ = nodes.replica(leader, GROUP).transfer_leadership(to).wait();
        written.extend(writes(&nodes, 5, 100));
    }
    until("a transfer", || {
        match nodes.replica(nodes.leader(GROUP), GROUP).transfer_leadership(unwilling).wait() {
            Ok(()) | Err(TransferError::Refused(TransferRefusal::LeadsAlready)) => Some(()),
            Err(_) => None,
        }
    });
    assert_same(&nodes, &[1, 2, 3], &written);
}

#[test]
fn wishes_are_guarded_and_a_joint_configuration_can_be_held_across_a_restart() {
    let mut nodes = start(4, &[1, 2, 3], 1 << 30);
    let written = writes(&nodes, 5, 100);
    let ask = |nodes: &Nodes, wish: Reconfiguration| {
        nodes.replica(nodes.leader(GROUP), GROUP).reconfigure(wish).wait()
    };
    let all = Reconfiguration::of([remove(1), remove(2), remove(3)]);
    assert!(matches!(ask(&nodes, all), Err(ReconfigureError::Refused(Refusal::Change(_)))));
    let unready = Reconfiguration { admission: Admission::Checked, ..Reconfiguration::of([voter(4)]) };
    let refusal = Refusal::NotCaughtUp(NodeId(4));
    assert_eq!(ask(&nodes, unready), Err(ReconfigureError::Refused(refusal)));

    let learner = nodes.reconfigure(GROUP, &Reconfiguration::of([Change::Learner(NodeId(4))]));
    let late =
        Reconfiguration { expected_index: Some(raftwerk::Index(0)), ..Reconfiguration::of([remove(4)]) };
    assert_eq!(ask(&nodes, late), Err(ReconfigureError::Refused(Refusal::Stale(learner.index))));

    let held =
        Reconfiguration { transition: Transition::JointHeld, ..Reconfiguration::of([voter(4), remove(1)]) };
    let joint = nodes.reconfigure(GROUP, &held).configuration;
    assert_eq!((joint.voters.len(), joint.outgoing.len(), joint.auto_leave), (3, 3, false));
    for node in [1, 2, 3, 4].map(NodeId) {
        nodes.close(node);
    }
    for node in [1, 2, 3, 4].map(NodeId) {
        nodes.open(node);
    }
    assert_eq!(nodes.replica(nodes.leader(GROUP), GROUP).status().wait().unwrap().configuration, joint);
    let left = nodes.reconfigure(GROUP, &Reconfiguration::of([]));
    assert_eq!(nodes_of(left.configuration), voters(&[2, 3, 4]));
    assert_same(&nodes, &[2, 3, 4], &written);
}

#[test]
fn every_replica_reads_acknowledged_writes_while_leaders_change() {
    let nodes = start(3, &[1, 2, 3], 1 << 30);
    let mut written = Vec::new();
    for round in 0..9u64 {
        written.push(nodes.write(GROUP, 100));
        let reader = nodes.replica(NodeId(round % 3 + 1), GROUP);
        let options = ReadOptions::new(Consistency::Strong).or_wait(Duration::from_secs(5));
        let answer = until("a read at any node", || reader.query("", options).wait().ok());
        assert_kept(&journal::read(&answer.reply).expect("the journal answers with itself"), &written);
        if round % 3 == 2 {
            let leader = nodes.leader(GROUP);
            // Whether it succeeds is not the question here.
            let _outcome = nodes.replica(leader, GROUP).transfer_leadership(NodeId(leader.0 % 3 + 1)).wait();
        }
    }
}
