//! An initial member that lost the record of the first configuration: entries come back from the leader, the
//! configuration from any member that has it.

use raftwerk_frame::{Configuration, EntryId, Index, NodeId, Term};
use raftwerk_raft::reconfig::Change;
use raftwerk_raft::{Input, Role, Transition};

use crate::cluster::{Cluster, Options, T};

/// Three voters with some entries; 2 has lost the record of the first configuration, and all entries but the
/// first `kept`.
fn lost(kept: usize) -> Cluster {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.propose(1, 4);
    cluster.run(T);
    cluster.damage_founding(2, kept);
    cluster
}

fn repaired(kept: usize) -> (Cluster, u64) {
    let mut cluster = lost(kept);
    cluster.run(6 * T);
    let leader = cluster.run_to_leader();
    cluster.run(2 * T);
    assert_eq!((cluster.log(2), cluster.group(2).is_fenced()), (cluster.log(leader), false));
    (cluster, leader)
}

#[test]
fn entries_alone_bring_no_configuration_back_and_whoever_is_told_leads_again() {
    for kept in [0, 2] {
        let (mut cluster, leader) = repaired(kept);
        assert!(cluster.group(2).lacks_configuration());
        cluster.tell_founding(leader, 2);
        assert!(!cluster.group(2).lacks_configuration());
        assert_eq!(cluster.group(2).configuration(), cluster.group(leader).configuration());
        cluster.crash(2);
        cluster.restart(2);
        assert!(!cluster.group(2).lacks_configuration(), "it was written down");
        cluster.run(T);
        cluster.isolate(leader);
        cluster.elect_among(2);
    }
}

/// The replica with the longest log must be able to lead, or none can: so any member may send the
/// configuration.
#[test]
fn a_follower_tells_as_well_as_a_leader() {
    let (mut cluster, leader) = repaired(0);
    let other = if leader == 3 { 1 } else { 3 };
    cluster.isolate(other);
    cluster.propose(leader, 3);
    cluster.run(T);
    cluster.crash(leader);
    cluster.heal();
    cluster.run(10 * T);
    assert_eq!(cluster.leader(), None, "2 refuses a log that is too short, and does not campaign");
    cluster.tell_founding(other, 2);
    assert_eq!(cluster.run_to_leader(), 2);
}

/// The sender's log begins later: the configuration in force there has been in force since bootstrap.
#[test]
fn what_is_in_force_at_an_entry_that_is_held_is_told() {
    let (mut cluster, leader) = repaired(0);
    cluster.checkpoint(leader, true);
    let (id, _) = cluster.group(leader).initial_configuration().unwrap();
    assert!(id.index > Index(0));
    cluster.tell_founding(leader, 2);
    assert!(!cluster.group(2).lacks_configuration());
    assert_eq!(cluster.group(2).compacted(), EntryId::default(), "its own log begins where it did");
}

#[test]
fn nothing_is_taken_that_need_not_be_so() {
    let (mut cluster, leader) = repaired(0);
    let (_, configuration) = cluster.group(leader).initial_configuration().unwrap();
    let configuration = configuration.clone();
    let last = cluster.group(2).last();
    let without = Configuration::of_voters([1, 3].map(NodeId));
    let mut as_witness = configuration.clone();
    as_witness.witnesses = [NodeId(2)].into_iter().collect();
    let beyond = EntryId::new(last.term, last.index.next());
    let another = EntryId::new(Term(last.term.0 + 1), last.index);
    let tell = |cluster: &mut Cluster, id, configuration: &Configuration| {
        cluster.input(2, Input::InitialConfiguration { id, configuration });
        !cluster.group(2).lacks_configuration()
    };
    assert!(!tell(&mut cluster, beyond, &configuration), "entries may lie in between");
    assert!(!tell(&mut cluster, another, &configuration), "another log's");
    assert!(!tell(&mut cluster, last, &without), "a founder is one of them");
    assert!(!tell(&mut cluster, last, &as_witness), "as what it is");
    assert!(!tell(&mut cluster, last, &Configuration::default()), "nobody");
    assert!(tell(&mut cluster, last, &configuration));
    let wider = Configuration::of_voters([1, 2, 3, 4].map(NodeId));
    cluster.input(2, Input::InitialConfiguration { id: last, configuration: &wider });
    assert_eq!(cluster.group(2).configuration(), &configuration, "who knows is not told");
}

/// An entry with a configuration brings it as well.
#[test]
fn a_configuration_that_comes_as_an_entry_is_as_good() {
    let mut options = Options::of(3);
    options.learners = 1;
    let mut cluster = Cluster::new(options);
    cluster.elect(1);
    cluster.run(T);
    cluster.damage_founding(2, 0);
    cluster.run(6 * T);
    let leader = cluster.run_to_leader();
    cluster.run(T);
    assert!(cluster.group(2).lacks_configuration());
    let change = [Change::Remove(NodeId(4))];
    cluster.isolate(if leader == 3 { 1 } else { 3 });
    cluster.change(leader, Transition::Auto, &change);
    cluster.settle();
    assert!(!cluster.group(2).lacks_configuration());
    cluster.run(T);
    cluster.isolate(leader);
    cluster.heal();
    cluster.crash(leader);
    cluster.run(10 * T);
    assert_eq!(cluster.group(2).role(), Role::Leader);
}
