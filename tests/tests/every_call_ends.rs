//! Every call ends, whatever becomes of the node: an answer, or an error that says what the caller may do next. Certain
//! and uncertain failures are told apart.

use std::time::Duration;

use raftwerk::{Config, Engine, GroupId, NodeId, Outcome, ProposeError, ReadError, ReplicaError};
use raftwerk_tests::facts::{PATIENCE, ends, until};
use raftwerk_tests::journal::Journal;
use raftwerk_tests::nodes::Nodes;

const GROUP: GroupId = GroupId(1);

/// A leader whose followers are gone: nothing that it is told can be committed.
fn lonely_leader(tune: impl Fn(&mut Config) + 'static) -> (Nodes, NodeId) {
    let mut nodes = Nodes::start(3, tune);
    nodes.create(&[GROUP]);
    nodes.write(GROUP, 0);
    let leader = nodes.leader(GROUP);
    for node in nodes.ids().to_vec().into_iter().filter(|node| *node != leader) {
        nodes.close(node);
    }
    (nodes, leader)
}

/// It does not give up its leadership for as long as a test may take. The first election does not wait for this.
fn patient(config: &mut Config) {
    config.election_timeout = PATIENCE * 2;
}

/// Waits until so many entries are in the leader's log that are not committed.
fn wait_for_log(nodes: &Nodes, leader: NodeId, uncommitted: u64) {
    let group = nodes.replica(leader, GROUP);
    until("what was proposed is in the log", || {
        let status = group.status().wait().ok()?;
        (status.last.index.0 == status.commit.0 + uncommitted).then_some(())
    });
}

type Pending = raftwerk::Call<raftwerk::Applied, ProposeError>;

fn outcome(what: &str, proposal: Pending) -> Result<raftwerk::Applied, ProposeError> {
    ends(what, || proposal.wait())
}

#[test]
fn calls_that_wait_for_a_quorum_end_when_the_node_shuts_down() {
    let (mut nodes, leader) = lonely_leader(patient);
    let group = nodes.replica(leader, GROUP);
    let proposals: Vec<Pending> = (0..100).map(|n| group.propose(format!("{n}"))).collect();
    let reads: Vec<_> = (0..10).map(|_| group.read("")).collect();
    wait_for_log(&nodes, leader, 100);
    nodes.close(leader);
    for proposal in proposals {
        assert_eq!(outcome("a proposal of a closed node", proposal), Err(ProposeError::Unknown));
    }
    for read in reads {
        assert_eq!(ends("a read of a closed node", || read.wait()), Err(ReadError::Closed));
    }
    assert_eq!(outcome("a proposal to a closed node", group.propose("late")), Err(ProposeError::Closed));
    assert_eq!(ends("a read of a closed node", move || group.read("").wait()), Err(ReadError::Closed));
}

#[test]
fn pipeline_operations_end_when_the_node_shuts_down() {
    let (mut nodes, leader) = lonely_leader(patient);
    let mut pipeline = nodes.engine(leader).pipeline(1000);
    for token in 0..1000 {
        pipeline.propose(GROUP, token, b"pending").unwrap();
    }
    assert_eq!(pipeline.propose(GROUP, 1000, b"one too many"), Err(ProposeError::Busy));
    pipeline.flush();
    wait_for_log(&nodes, leader, 1000);
    nodes.close(leader);
    let mut done = Vec::new();
    until("all completions", || {
        pipeline.take(&mut done);
        (pipeline.in_flight() == 0).then_some(())
    });
    let mut tokens: Vec<u64> = done.iter().map(|completion| completion.token).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, (0..1000).collect::<Vec<_>>(), "each once");
    assert!(
        done.iter().all(|completion| completion.outcome == Outcome::Proposal(Err(ProposeError::Unknown)))
    );
}

#[test]
fn leader_without_followers_gives_up_and_ends_its_calls() {
    let (nodes, leader) = lonely_leader(|_| ());
    let group = nodes.replica(leader, GROUP);
    // Either it has noticed already, or it notices while the proposal waits.
    let told = outcome("a proposal to a leader alone", group.propose("x")).unwrap_err();
    assert!(matches!(told, ProposeError::Unknown | ProposeError::NotLeader { .. }), "{told}");
    let read = group.read("");
    let told = ends("a read from a leader alone", || read.wait()).unwrap_err();
    assert!(matches!(told, ReadError::NotLeader { .. }), "{told}");
    assert_eq!(outcome("a later proposal", group.propose("x")), Err(ProposeError::NotLeader { hint: None }));
}

#[test]
fn calls_to_a_replica_that_is_removed_end() {
    let (nodes, leader) = lonely_leader(patient);
    let group = nodes.replica(leader, GROUP);
    // Requests are taken in order: when the proposal is in the log, the read waits for its quorum too.
    let (read, proposal) = (group.read(""), group.propose("x"));
    wait_for_log(&nodes, leader, 1);
    nodes.engine(leader).remove_group(GROUP).wait().unwrap();
    assert_eq!(outcome("a proposal to a removed replica", proposal), Err(ProposeError::Unknown));
    assert_eq!(ends("a read of a removed replica", || read.wait()), Err(ReadError::NoSuchGroup(GROUP)));
    assert_eq!(outcome("a later proposal", group.propose("y")), Err(ProposeError::NoSuchGroup(GROUP)));
    assert_eq!(group.status().wait().ok(), None);
    assert_eq!(
        nodes.engine(leader).remove_group(GROUP).wait(),
        Err(ReplicaError::NoReplica(GROUP)),
        "it is gone already"
    );
    assert_eq!(nodes.engine(leader).groups().wait(), Ok(Vec::new()));
}

#[test]
fn calls_that_wait_for_a_quorum_are_bounded() {
    let (nodes, leader) = lonely_leader(|config| {
        patient(config);
        config.uncommitted_bytes_max = 1000;
    });
    let group = nodes.replica(leader, GROUP);
    let payload = || vec![0; 600];
    let first = group.propose(payload());
    wait_for_log(&nodes, leader, 1);
    assert_eq!(outcome("a proposal beyond the bound", group.propose(payload())), Err(ProposeError::Busy));
    nodes.engine(leader).remove_group(GROUP).wait().unwrap();
    assert_eq!(outcome("the one within", first), Err(ProposeError::Unknown));
}

#[test]
fn full_inbox_answers_busy_and_drops_the_call() {
    let dir = tempfile::tempdir().unwrap();
    let authority = raftwerk::identity::ClusterAuthority::new("tests").unwrap();
    let mut config = Config::new(NodeId(1), dir.path(), authority.issue(raftwerk::PeerId(1)).unwrap());
    (config.workers, config.inbox_max, config.segment_bytes) = (1, 1, 1 << 20);
    config.payload_bytes_max = 64 << 10;
    let engine = Engine::open(config, |_| Journal::default()).wait().unwrap();
    let group = engine.create_group(GROUP, &[NodeId(1)]).wait().unwrap();
    until("a first write", || group.propose("first").wait().ok());
    let (mut done, mut busy) = (1, 0);
    until("a full inbox", || {
        let burst: Vec<Pending> = (0..100).map(|n| group.propose(format!("{n}"))).collect();
        for proposal in burst {
            match outcome("a proposal of the burst", proposal) {
                Ok(_) => done += 1,
                Err(ProposeError::Busy) => busy += 1,
                Err(other) => panic!("{other}"),
            }
        }
        (busy > 0).then_some(())
    });
    let answer = until("a read", || group.read("").wait().ok());
    assert_eq!(
        raftwerk_tests::journal::read(&answer.reply).unwrap().len(),
        done,
        "what was refused did not happen"
    );
}

#[test]
fn impossible_calls_are_refused_with_certainty() {
    let nodes = Nodes::start(1, |config| config.heartbeat_interval = Duration::from_millis(50));
    nodes.create(&[GROUP]);
    nodes.write(GROUP, 0);
    let group = nodes.replica(NodeId(1), GROUP);
    let max = nodes.config(NodeId(1)).payload_bytes_max;
    let told = group.propose(vec![0; max + 1]).wait();
    assert_eq!(told, Err(ProposeError::TooLarge { bytes: max + 1, max }));
    assert!(group.propose(vec![0; max]).wait().is_ok(), "the limit itself is allowed");
    let status = nodes.engine(NodeId(1)).group(GroupId(9)).status().wait();
    assert_eq!(status, Err(ReplicaError::NoReplica(GroupId(9))));
    let mut pipeline = nodes.engine(NodeId(1)).pipeline(10);
    pipeline.propose(GroupId(9), 7, b"x").unwrap();
    pipeline.flush();
    assert!(pipeline.wait(PATIENCE));
    let mut done = Vec::new();
    pipeline.take(&mut done);
    assert_eq!(done[0].token, 7);
    assert_eq!(done[0].outcome, Outcome::Proposal(Err(ProposeError::NoSuchGroup(GroupId(9)))));
}
