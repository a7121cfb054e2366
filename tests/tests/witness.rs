//! Witnesses on real engines: two nodes that hold a group's payloads, and one that votes and acknowledges headers. With one of
//! the two gone the other goes on; and no payload is ever found on the third one's disk.

use std::path::Path;
use std::time::Duration;

use raftwerk::{
    Admission, Change, ChangeError, Consistency, CreateError, GroupId, InitialMembers, Membership, NodeId,
    ReadError, ReadOptions, Reconfiguration, ReconfigureError, Refusal, Role, Session, TransferError,
    TransferRefusal,
};
use raftwerk_tests::facts::until;
use raftwerk_tests::nodes::{Nodes, assert_kept};

const GROUP: GroupId = GroupId(1);
const WITNESS: NodeId = NodeId(3);
/// What every payload of these tests begins with.
const MARK: &[u8] = b"write ";

/// Two voters with payloads, and a witness.
fn start() -> Nodes {
    let nodes = Nodes::start(3, |config| config.checkpoint_log_bytes = 64 << 10);
    let whole = [NodeId(1), NodeId(2)];
    for node in whole {
        nodes.engine(node).create_group(GROUP, &whole).wait().expect("a group can be made");
    }
    nodes.engine(WITNESS).join_group_as_witness(GROUP).wait().expect("a witness can be made");
    let made = change(&nodes, Change::Witness(WITNESS)).expect("a witness can be added");
    assert!(made.configuration.is_witness(WITNESS) && made.configuration.is_voter(WITNESS));
    nodes
}

/// The same members, who found the group together.
fn founded() -> Nodes {
    let nodes = Nodes::start(3, |config| config.checkpoint_log_bytes = 64 << 10);
    let initial_members = InitialMembers::of_voters([NodeId(1), NodeId(2)]).and_witness(WITNESS);
    for node in nodes.ids() {
        nodes.engine(*node).create_group(GROUP, &initial_members).wait().expect("a group can be made");
    }
    nodes
}

fn change(nodes: &Nodes, change: Change) -> Result<Membership, ReconfigureError> {
    nodes.try_reconfigure(GROUP, &Reconfiguration::of([change]))
}

/// Whether some bytes are anywhere in the files below a folder.
fn holds(folder: &Path, mark: &[u8]) -> bool {
    let entries = std::fs::read_dir(folder).expect("the folder can be listed");
    entries.map(|entry| entry.expect("it is there").path()).any(|path| {
        if path.is_dir() {
            return holds(&path, mark);
        }
        let bytes = std::fs::read(&path).expect("the file can be read");
        bytes.windows(mark.len()).any(|window| window == mark)
    })
}

#[test]
fn group_with_a_witness_survives_the_loss_of_either_node() {
    outlives_either_of_the_two(start());
}

#[test]
fn group_founded_with_a_witness_survives_either_loss() {
    outlives_either_of_the_two(founded());
}

fn outlives_either_of_the_two(mut nodes: Nodes) {
    let mut written: Vec<_> = (0..40).map(|_| nodes.write(GROUP, 4000)).collect();
    for lost in [NodeId(1), NodeId(2)] {
        // The one that stays has everything: otherwise nobody could lead without the other.
        let last = written.last().expect("something is written").1.id.index;
        until("both to have all of it", || {
            let has =
                |node| nodes.replica(node, GROUP).status().wait().ok().is_some_and(|now| now.applied >= last);
            [NodeId(1), NodeId(2)].into_iter().all(has).then_some(())
        });
        nodes.close(lost);
        written.extend((0..40).map(|_| nodes.write(GROUP, 4000)));
        nodes.close(WITNESS);
        nodes.open(WITNESS);
        written.extend((0..10).map(|_| nodes.write(GROUP, 4000)));
        nodes.open(lost);
    }
    assert_kept(&nodes.read(GROUP), &written);
    let last = written.last().expect("something is written").1.id.index;
    until("the witness to know what is committed", || {
        nodes.replica(WITNESS, GROUP).status().wait().ok().filter(|now| now.commit >= last)
    });
    let status = nodes.replica(WITNESS, GROUP).status().wait().expect("it is there");
    assert!(status.is_witness && status.role == Role::Follower);
    assert!(status.log_bytes < 64 << 10, "its log is cut: {} bytes", status.log_bytes);
    assert_eq!(nodes.replica(WITNESS, GROUP).digest().wait().ok(), None);
    let folders = nodes.ids().iter().map(|node| nodes.config(*node).data_dir).collect::<Vec<_>>();
    for node in nodes.ids().to_vec() {
        nodes.close(node);
    }
    assert_eq!(folders.iter().map(|folder| holds(folder, MARK)).collect::<Vec<_>>(), [true, true, false]);
}

#[test]
fn witness_answers_no_read_and_gets_no_lead() {
    let nodes = start();
    nodes.write(GROUP, 100);
    let session = Session::new();
    let levels = [
        Consistency::Strong,
        Consistency::BoundedStaleness(Duration::from_secs(9)),
        Consistency::Monotonic,
        Consistency::ReadMyWrites,
        Consistency::ConsistentPrefix,
        Consistency::Eventual,
    ];
    let witness = nodes.replica(WITNESS, GROUP);
    for level in levels {
        let options = ReadOptions::new(level).in_session(&session).or_wait(Duration::from_secs(1));
        let refused = witness.query("", options).wait();
        assert!(matches!(refused, Err(ReadError::Witness { .. })), "{level:?}: {refused:?}");
        let refused = witness.freeze(options).wait();
        assert!(matches!(refused, Err(ReadError::Witness { .. })), "{level:?}: {refused:?}");
    }
    let refused = until("a leader that refuses", || {
        match nodes.replica(nodes.leader(GROUP), GROUP).transfer_leadership(WITNESS).wait() {
            Err(TransferError::Refused(TransferRefusal::NotLeader { .. })) => None,
            answer => Some(answer),
        }
    });
    assert_eq!(refused, Err(TransferError::Refused(TransferRefusal::Witness)));
}

#[test]
fn replica_stays_a_witness_or_none_until_it_is_dropped() {
    let nodes = start();
    let refused = |made: Change| match change(&nodes, made) {
        Err(ReconfigureError::Refused(Refusal::Change(error))) => error,
        other => panic!("{made:?}: {other:?}"),
    };
    assert_eq!(refused(Change::Voter(WITNESS)), ChangeError::OtherKind(WITNESS));
    assert_eq!(refused(Change::Learner(WITNESS)), ChangeError::OtherKind(WITNESS));
    assert_eq!(refused(Change::Witness(NodeId(2))), ChangeError::OtherKind(NodeId(2)));
    assert_eq!(refused(Change::Remove(NodeId(2))), ChangeError::TooManyWitnesses);
    let dry_run = Reconfiguration { dry_run: true, ..Reconfiguration::of([Change::Remove(NodeId(2))]) };
    let planned = nodes.try_reconfigure(GROUP, &dry_run);
    assert_eq!(planned, Err(ReconfigureError::Refused(Refusal::Change(ChangeError::TooManyWitnesses))));
    assert_eq!(nodes.engine(WITNESS).join_group(GROUP).wait().err(), Some(CreateError::Exists(GROUP)));

    // Added again as what it is not, it is not heard, and so never catches up; dropped and joined anew, it is.
    change(&nodes, Change::Remove(WITNESS)).unwrap();
    until("it to know", || nodes.replica(WITNESS, GROUP).status().wait().ok().filter(|now| now.is_removed));
    let checked =
        Reconfiguration { admission: Admission::Checked, ..Reconfiguration::of([Change::Voter(WITNESS)]) };
    let asked = nodes.try_reconfigure(GROUP, &checked);
    assert_eq!(asked, Err(ReconfigureError::Refused(Refusal::NotCaughtUp(WITNESS))));
    nodes.engine(WITNESS).remove_group(GROUP).wait().unwrap();
    nodes.engine(WITNESS).join_group(GROUP).wait().unwrap();
    let written: Vec<_> = (0..5).map(|_| nodes.write(GROUP, 100)).collect();
    let made = change(&nodes, Change::Voter(WITNESS)).unwrap();
    assert!(made.configuration.may_lead(WITNESS));
    nodes.assert_equal(GROUP);
    assert_kept(&nodes.local(WITNESS, GROUP), &written);
}

/// One of the two that hold payloads is not there yet: the other two are a majority, and begin. Who was founded as what is told
/// again changes nothing, and nobody becomes something else.
#[test]
fn witness_and_one_voter_begin_without_the_other() {
    let nodes = Nodes::start(3, |_| ());
    let initial_members = InitialMembers::of_voters([NodeId(1), NodeId(2)]).and_witness(WITNESS);
    let crowded = InitialMembers::of_voters([NodeId(1)]).and_witness(NodeId(2)).and_witness(WITNESS);
    let refused = nodes.engine(NodeId(1)).create_group(GROUP, &crowded).wait().err();
    assert_eq!(refused, Some(CreateError::InitialMembers(ChangeError::TooManyWitnesses)));
    assert_eq!(nodes.engine(NodeId(1)).groups().wait(), Ok(Vec::new()), "nothing was made");
    for node in [NodeId(1), WITNESS] {
        nodes.engine(node).create_group(GROUP, &initial_members).wait().expect("a group can be made");
    }
    assert_eq!(nodes.leader(GROUP), NodeId(1), "nobody else holds what it would lead with");
    let mut written = vec![nodes.write(GROUP, 100)];
    let witness = nodes.engine(WITNESS);
    assert!(witness.create_group(GROUP, &initial_members).wait().is_ok());
    assert_eq!(witness.create_group(GROUP, nodes.ids()).wait().err(), Some(CreateError::Exists(GROUP)));
    assert_eq!(witness.join_group(GROUP).wait().err(), Some(CreateError::Exists(GROUP)));
    nodes.engine(NodeId(2)).create_group(GROUP, &initial_members).wait().expect("a group can be made");
    written.push(nodes.write(GROUP, 100));
    let last = written[1].1.id.index;
    until("the second to have it", || {
        nodes.replica(NodeId(2), GROUP).status().wait().ok().filter(|now| now.applied >= last)
    });
    assert_kept(&nodes.local(NodeId(2), GROUP), &written);

    // A founder goes as any other: it is taken out, dropped, and joins as what it is to be.
    change(&nodes, Change::Remove(WITNESS)).unwrap();
    until("it to know", || nodes.replica(WITNESS, GROUP).status().wait().ok().filter(|now| now.is_removed));
    witness.remove_group(GROUP).wait().unwrap();
    assert_eq!(witness.create_group(GROUP, &initial_members).wait().err(), Some(CreateError::Removed(GROUP)));
    witness.join_group(GROUP).wait().unwrap();
    change(&nodes, Change::Voter(WITNESS)).unwrap();
    nodes.assert_equal(GROUP);
    assert_kept(&nodes.local(WITNESS, GROUP), &written);
}

/// What an operator sees of witnesses, on each node and over time.
#[test]
fn node_counts_its_witnesses_and_groups_it_leads_with_one() {
    let mut nodes = founded();
    let (other, all) = (GroupId(2), nodes.ids().to_vec());
    nodes.create(&[other]);
    let _led = (nodes.write(GROUP, 100), nodes.write(other, 100));
    let counts = |nodes: &Nodes| {
        let stats = nodes.open_ids().map(|node| nodes.engine(node).stats());
        stats.map(|stats| (stats.groups, stats.witnesses, stats.led_with_witness)).collect::<Vec<_>>()
    };
    let leader = nodes.leader(GROUP);
    let of = |node: NodeId| (2, u64::from(node == WITNESS), u64::from(node == leader));
    until("figures to be told", || {
        (counts(&nodes) == all.iter().map(|node| of(*node)).collect::<Vec<_>>()).then_some(())
    });

    // It is so after a restart, and where another leads.
    nodes.close(WITNESS);
    nodes.open(WITNESS);
    nodes.close(leader);
    let next = nodes.leader(GROUP);
    until("one who leads with a witness", || {
        let expected = nodes.open_ids().map(|node| (2, u64::from(node == WITNESS), u64::from(node == next)));
        (counts(&nodes) == expected.collect::<Vec<_>>()).then_some(())
    });
    nodes.open(leader);

    // And no longer when it is gone.
    change(&nodes, Change::Remove(WITNESS)).unwrap();
    until("it to know", || nodes.replica(WITNESS, GROUP).status().wait().ok().filter(|now| now.is_removed));
    nodes.engine(WITNESS).remove_group(GROUP).wait().unwrap();
    until("nothing of it to be told", || (counts(&nodes) == [(2, 0, 0), (2, 0, 0), (1, 0, 0)]).then_some(()));
}
