//! Membership changes (paper, section 6; thesis, chapter 4): each step, combined with the faults that may
//! happen at it.

use raftwerk_frame::{Configuration, EntryId, Index, Message, NodeId, Term};
use raftwerk_raft::reconfig::{Change, ChangeError};
use raftwerk_raft::{Admission, Reconfigure, Reconfigured, Refusal, Role, Transition};

use crate::cluster::{Cluster, Options, Packet, T};

fn voter(node: u64) -> Change {
    Change::Voter(NodeId(node))
}

fn remove(node: u64) -> Change {
    Change::Remove(NodeId(node))
}

fn voters(nodes: &[u64]) -> Configuration {
    Configuration::of_voters(nodes.iter().copied().map(NodeId))
}

const fn wish(changes: &[Change], admission: Admission) -> Reconfigure<'_> {
    Reconfigure {
        changes,
        logs: &[],
        expected_index: None,
        transition: Transition::Auto,
        admission,
        dry_run: false,
    }
}

/// Three voters led by node 1, and nodes 4 to `last` without any state.
fn three(last: u64) -> Cluster {
    let mut cluster = Cluster::new(Options { newcomers: last - 3, ..Options::of(3) });
    cluster.elect(1);
    cluster
}

fn refusal(outcome: Option<Reconfigured>) -> Refusal {
    match outcome {
        Some(Reconfigured::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// Paper, section 6: "a server always uses the latest configuration in its log, regardless of whether it is committed".
#[test]
fn a_configuration_is_in_force_as_soon_as_it_is_in_the_log() {
    let mut cluster = three(4);
    let at = cluster.change(1, Transition::Auto, &[voter(4)]);
    assert_eq!(cluster.group(1).configuration(), &voters(&[1, 2, 3, 4]));
    assert!(cluster.group(1).commit() < at);
    assert_eq!(cluster.group(2).configuration(), &voters(&[1, 2, 3]));
    cluster.settle();
    assert!(cluster.nodes().all(|node| cluster.group(node).configuration() == &voters(&[1, 2, 3, 4])));
    assert_eq!(cluster.replica(1).settled, [at]);
}

/// Paper, section 6: an entry that is replaced takes its configuration with it.
#[test]
fn a_configuration_goes_with_its_entry() {
    let mut cluster = three(4);
    cluster.isolate(1);
    cluster.change(1, Transition::Auto, &[voter(4)]);
    cluster.elect_among(2);
    cluster.propose(2, 1);
    cluster.heal();
    cluster.run(3 * T);
    assert_eq!(cluster.group(1).configuration(), &voters(&[1, 2, 3]));
    assert_eq!(cluster.seen.rolled_back, 1);
    assert_eq!(cluster.log(1), cluster.log(cluster.leader().unwrap()));
}

/// Thesis, section 4.3: from the joint configuration on, both majorities have to agree.
#[test]
fn a_joint_configuration_commits_by_both_majorities_only() {
    let mut cluster = three(5);
    let at = cluster.change(1, Transition::Joint, &[voter(4), voter(5), remove(2), remove(3)]);
    // The new half alone: 1, 4 and 5.
    cluster.deliver_where(|packet| ![2, 3].contains(&packet.to) && ![2, 3].contains(&packet.from));
    assert!(cluster.group(1).commit() < at, "the old majority has not agreed");
    cluster.settle();
    assert_eq!(cluster.group(1).configuration(), &voters(&[1, 4, 5]));
    assert_eq!(cluster.replica(1).settled, [at.next()], "only the end is the end");

    let mut cluster = three(5);
    let at = cluster.change(1, Transition::Joint, &[voter(4), voter(5), remove(2), remove(3)]);
    // The old half alone.
    cluster.deliver_where(|packet| packet.to <= 3 && packet.from <= 3);
    assert!(cluster.group(1).commit() < at, "the new majority has not agreed");
}

/// Thesis, section 4.3: the leader that commits the joint configuration leaves it, whichever node leads then.
#[test]
fn a_joint_configuration_is_left_though_its_leader_is_gone_at_any_step() {
    for heard_by in 0..=4usize {
        let mut cluster = three(4);
        cluster.change(1, Transition::Joint, &[voter(4), remove(3)]);
        // The leader crashes after this many deliveries.
        for _ in 0..heard_by {
            cluster.deliver(0);
        }
        cluster.crash(1);
        cluster.drop_where(|packet| packet.from == 1);
        let leader = cluster.run_to_leader();
        cluster.restart(1);
        cluster.run(10 * T);
        let leader = cluster.leader().unwrap_or(leader);
        let now = cluster.group(leader).configuration();
        let ends = [voters(&[1, 2, 3]), voters(&[1, 2, 4])];
        assert!(ends.contains(now), "{heard_by}: {now:?}");
        cluster.propose(leader, 1);
        cluster.run(T);
        assert_eq!(cluster.group(leader).commit(), cluster.group(leader).last().index);
    }
}

/// One message of the whole change is lost in each run, every message once: the change still ends in the same
/// way.
#[test]
fn a_change_survives_the_loss_of_any_one_message() {
    for lost in 0..40 {
        let mut cluster = three(4);
        cluster.change(1, Transition::Joint, &[voter(4), remove(3)]);
        for at in 0..400 {
            if cluster.network.is_empty() {
                break;
            }
            if at == lost { cluster.drop_packet(0) } else { cluster.deliver(0) }
        }
        cluster.run(5 * T);
        let leader = cluster.leader().unwrap();
        assert_eq!(cluster.group(leader).configuration(), &voters(&[1, 2, 4]), "message {lost}");
        assert!(cluster.group(3).is_removed(), "message {lost}");
    }
}

/// Each replica crashes after each number of messages, and restarts from its disk.
#[test]
fn a_change_survives_the_restart_of_any_replica_at_any_step() {
    for node in 1..=4 {
        for step in 0..12 {
            let mut cluster = three(4);
            cluster.change(1, Transition::Joint, &[voter(4), remove(2)]);
            for _ in 0..step {
                if !cluster.network.is_empty() {
                    cluster.deliver(0);
                }
            }
            cluster.crash(node);
            cluster.restart(node);
            cluster.run(10 * T);
            let leader = cluster.run_to_leader();
            let now = cluster.group(leader).configuration().clone();
            assert!(!now.is_joint(), "node {node} at {step}: {now:?}");
            cluster.propose(leader, 1);
            cluster.run(3 * T);
            for voter in now.voters {
                let (voter, leader) = (cluster.group(voter.0), cluster.group(leader));
                assert_eq!(voter.commit(), leader.last().index, "node {node} at {step}");
            }
        }
    }
}

/// The bug of 2015 in single-server changes: two leaders in turn take steps from the same configuration, and
/// decide by majorities that do not overlap. The cure: an entry of the leader's own term is committed first.
#[test]
fn no_change_begins_before_an_entry_of_the_leaders_term_is_committed() {
    let mut cluster = Cluster::new(Options { newcomers: 1, ..Options::of(4) });
    cluster.campaign(1);
    // All its votes, and nothing more.
    cluster.deliver_where(|packet| packet.is_vote() || packet.is_pre_vote());
    assert_eq!(cluster.group(1).role(), Role::Leader);
    for transition in [Transition::Auto, Transition::Joint] {
        let changes = [voter(5)];
        let wish = Reconfigure { transition, ..wish(&changes, Admission::Unchecked) };
        assert_eq!(refusal(cluster.reconfigure(1, wish)), Refusal::NotReady);
    }
    cluster.settle();
    cluster.change(1, Transition::Auto, &[voter(5)]);
}

#[test]
fn one_change_at_a_time() {
    let mut cluster = three(5);
    let at = cluster.change(1, Transition::Auto, &[voter(4)]);
    let second = [voter(5)];
    let outcome = cluster.reconfigure(1, wish(&second, Admission::Unchecked));
    assert_eq!(refusal(outcome), Refusal::InProgress(at));
    cluster.settle();
    let at = cluster.change(1, Transition::JointHeld, &[voter(5)]);
    cluster.settle();
    let outcome = cluster.reconfigure(1, wish(&second, Admission::Unchecked));
    assert_eq!(refusal(outcome), Refusal::InProgress(at), "joint, and held so");
    cluster.run(5 * T);
    assert!(cluster.group(1).configuration().is_joint());
    cluster.change(1, Transition::Auto, &[]);
    cluster.settle();
    assert_eq!(cluster.group(1).configuration(), &voters(&[1, 2, 3, 4, 5]));
}

/// Compare and set: a request based on an older configuration is refused.
#[test]
fn a_wish_of_an_older_configuration_is_refused() {
    let mut cluster = three(5);
    let expected_index = Some(cluster.group(1).configuration_index());
    let at = cluster.change(1, Transition::Auto, &[voter(4)]);
    cluster.settle();
    let changes = [voter(5)];
    let late = Reconfigure { expected_index, ..wish(&changes, Admission::Unchecked) };
    assert_eq!(refusal(cluster.reconfigure(1, late)), Refusal::Stale(at));
    let fresh = Reconfigure { expected_index: Some(at), ..late };
    assert!(matches!(cluster.reconfigure(1, fresh), Some(Reconfigured::Started(_))));
}

#[test]
fn what_leads_nowhere_is_refused_and_a_dry_run_changes_nothing() {
    let mut cluster = three(4);
    let before = cluster.group(1).last();
    let nobody = [remove(1), remove(2), remove(3)];
    let outcome = cluster.reconfigure(1, wish(&nobody, Admission::Unchecked));
    assert_eq!(refusal(outcome), Refusal::Change(ChangeError::AllVotersRemoved));
    let same = [voter(1), remove(9)];
    let outcome = cluster.reconfigure(1, wish(&same, Admission::Checked));
    assert_eq!(outcome, Some(Reconfigured::Unchanged(Index(0))));
    let one = [voter(4)];
    let dry = Reconfigure { dry_run: true, ..wish(&one, Admission::Unchecked) };
    assert_eq!(cluster.reconfigure(1, dry), Some(Reconfigured::Planned(voters(&[1, 2, 3, 4]))));
    assert_eq!(cluster.group(1).last(), before);
    let outcome = cluster.reconfigure(2, wish(&one, Admission::Unchecked));
    assert_eq!(refusal(outcome), Refusal::NotLeader { leader: Some(NodeId(1)) });
}

/// A group does not remove voters that it needs while others are down.
#[test]
fn a_change_that_would_lose_the_majority_is_refused() {
    let mut cluster = three(3);
    cluster.run(T);
    cluster.crash(2);
    cluster.run(3 * T);
    assert!(cluster.group(1).is_leader());
    let changes = [remove(3)];
    let outcome = cluster.reconfigure(1, wish(&changes, Admission::Checked));
    assert_eq!(refusal(outcome), Refusal::QuorumAtRisk);
    let changes = [remove(2)];
    let outcome = cluster.reconfigure(1, wish(&changes, Admission::Checked));
    assert!(matches!(outcome, Some(Reconfigured::Started(_))), "the dead one may go: {outcome:?}");
}

/// Thesis, section 4.2.1: a new member that is far behind would delay the others if it voted at once.
#[test]
fn a_newcomer_votes_only_when_it_has_caught_up() {
    let mut cluster = three(4);
    cluster.propose(1, 200);
    cluster.settle();
    let changes = [voter(4)];
    let outcome = cluster.reconfigure(1, wish(&changes, Admission::Checked));
    assert_eq!(refusal(outcome), Refusal::NotCaughtUp(NodeId(4)));
    cluster.isolate(4);
    let outcome = cluster.reconfigure(1, wish(&changes, Admission::Awaited));
    assert_eq!(outcome, Some(Reconfigured::Admitting));
    cluster.run(5 * T);
    assert_eq!(cluster.group(1).configuration().learners, [NodeId(4)], "in, and without a vote");
    let newcomer = cluster.group(1).new_members().next().unwrap();
    assert_eq!((newcomer.node, newcomer.matched), (NodeId(4), Index(0)));
    // Meanwhile the group works, and no other change begins.
    cluster.propose(1, 1);
    cluster.run(T);
    assert_eq!(cluster.group(1).commit(), cluster.group(1).last().index);
    let others = [remove(3)];
    let outcome = cluster.reconfigure(1, wish(&others, Admission::Unchecked));
    assert!(matches!(refusal(outcome), Refusal::InProgress(_)));
    cluster.heal();
    cluster.run(3 * T);
    assert_eq!(cluster.group(1).configuration(), &voters(&[1, 2, 3, 4]));
}

/// The wait for a new member that never catches up can be ended.
#[test]
fn the_wait_for_a_newcomer_can_be_ended_and_ends_with_the_leader() {
    let mut cluster = three(4);
    cluster.isolate(4);
    let changes = [voter(4)];
    cluster.reconfigure(1, wish(&changes, Admission::Awaited));
    cluster.run(T);
    let outcome = cluster.reconfigure(1, wish(&[], Admission::Checked));
    assert!(matches!(outcome, Some(Reconfigured::Unchanged(_))));
    assert_eq!(cluster.group(1).new_members().count(), 0);
    cluster.reconfigure(1, wish(&changes, Admission::Awaited));
    cluster.crash(1);
    let leader = cluster.run_to_leader();
    cluster.heal();
    cluster.run(5 * T);
    assert_eq!(cluster.group(leader).configuration().learners, [NodeId(4)], "nobody asked the new leader");
}

/// Thesis, section 4.2.2: a leader that is removed leads until that is committed, does not count itself, and steps down.
#[test]
fn a_removed_leader_does_not_count_itself_and_hands_over() {
    let mut cluster = three(3);
    let at = cluster.change(1, Transition::Auto, &[remove(1)]);
    cluster.deliver_where(|packet| packet.to == 2);
    cluster.deliver_where(|packet| packet.from == 2);
    assert!(cluster.group(1).commit() < at, "1 and 2 have it, but only 2 counts");
    assert!(cluster.group(1).is_leader());
    cluster.settle();
    assert!(!cluster.group(1).is_leader() && cluster.group(1).is_removed());
    let leader = cluster.leader().unwrap();
    assert_ne!(leader, 1);
    assert_eq!(cluster.group(leader).term(), Term(2), "it was told to campaign, nobody waited");
    cluster.run(10 * T);
    assert_eq!(cluster.leader(), Some(leader), "the one that left disturbs nobody");
}

/// Thesis, section 4.2.2: a replica that is not in its own latest configuration may still be needed to commit
/// it.
#[test]
fn a_removed_voter_that_the_others_still_need_campaigns() {
    let mut cluster = Cluster::new(Options::of(2));
    cluster.elect(1);
    cluster.change(1, Transition::Auto, &[remove(1)]);
    // Node 1 alone has it; without node 1, node 2 can never win: its log is behind.
    cluster.drop_where(|_| true);
    cluster.crash(1);
    cluster.restart(1);
    cluster.run(10 * T);
    assert_eq!(cluster.leader(), Some(2));
    assert_eq!(cluster.group(2).configuration(), &voters(&[2]));
    assert!(cluster.group(1).is_removed());
}

/// Thesis, section 4.2.2: a replica does not campaign after its removal is committed.
#[test]
fn a_replica_that_knows_its_removal_is_silent_for_good() {
    let mut cluster = three(3);
    cluster.change(1, Transition::Auto, &[remove(3)]);
    cluster.settle();
    assert!(cluster.group(3).is_removed());
    let term = cluster.group(1).term();
    cluster.isolate(1);
    cluster.isolate(2);
    cluster.advance(20 * T);
    assert_eq!(cluster.count_where(|packet| packet.from == 3), 0);
    cluster.campaign(3);
    assert_eq!((cluster.group(3).role(), cluster.group(3).term()), (Role::Follower, term));
}

/// A replica that was removed while it was down is sent nothing any longer; its vote requests are answered
/// with a removal notice.
#[test]
fn a_replica_removed_while_it_was_down_is_told_when_it_asks_for_votes() {
    for pre_vote in [false, true] {
        let mut cluster = Cluster::new(Options { pre_vote, check_quorum: pre_vote, ..Options::of(3) });
        cluster.elect(1);
        cluster.crash(3);
        cluster.change(1, Transition::Auto, &[remove(3)]);
        cluster.run(T);
        let term = cluster.group(1).term();
        cluster.restart(3);
        cluster.run(5 * T);
        assert!(cluster.group(3).is_removed());
        assert_eq!((cluster.leader(), cluster.group(1).term()), (Some(1), term), "and nobody was disturbed");
    }
}

/// A removal notice may be late: a replica with a later configuration ignores it.
#[test]
fn a_stale_notice_of_removal_is_ignored() {
    let mut cluster = three(3);
    cluster.change(1, Transition::Auto, &[remove(3)]);
    cluster.settle();
    cluster.change(1, Transition::Auto, &[voter(3)]);
    cluster.run(2 * T);
    assert!(!cluster.group(3).is_removed());
    let stale = Message::Removed { term: Term(1), configuration: EntryId::new(Term(1), Index(2)) };
    cluster.give(1, 3, stale);
    assert!(!cluster.group(3).is_removed());
    // And a leader ignores notices that contradict its own log.
    let bold = Message::Removed { term: Term(1), configuration: EntryId::new(Term(9), Index(90)) };
    cluster.give(3, 1, bold);
    assert!(cluster.group(1).is_leader() && !cluster.group(1).is_removed());
}

/// Paper, section 6: a replica uses messages from servers that its own configuration does not name.
#[test]
fn a_replica_of_an_old_configuration_follows_a_leader_that_it_does_not_know() {
    let mut cluster = three(5);
    cluster.isolate(3);
    cluster.change(1, Transition::Joint, &[voter(4), voter(5), remove(1), remove(2)]);
    cluster.run(5 * T);
    let leader = cluster.leader().unwrap();
    assert!([4, 5].contains(&leader), "{leader}");
    assert_eq!(cluster.group(3).configuration(), &voters(&[1, 2, 3]));
    cluster.heal();
    cluster.run(5 * T);
    assert_eq!(cluster.group(3).configuration(), &voters(&[3, 4, 5]));
    assert_eq!(cluster.group(3).leader(), Some(NodeId(leader)));
}

/// Paper, section 7: a snapshot carries the configuration, and replaces all earlier ones.
#[test]
fn a_snapshot_brings_the_configuration_in_force_at_its_last_entry() {
    let mut cluster = three(5);
    cluster.change(1, Transition::Auto, &[voter(4)]);
    cluster.settle();
    cluster.propose(1, 5);
    cluster.settle();
    cluster.checkpoint(1, true);
    // One more change, not in the snapshot: the new member gets it as an entry.
    let at = cluster.change(1, Transition::Auto, &[voter(5)]);
    cluster.run(3 * T);
    assert!(cluster.seen.installed >= 1);
    assert_eq!(cluster.group(5).configuration_index(), at);
    let base = cluster.group(5).memberships().next().map(|(_, base)| base.clone());
    assert_eq!(base, Some(voters(&[1, 2, 3, 4])));
    cluster.crash(5);
    cluster.restart(5);
    assert_eq!(cluster.group(5).configuration(), &voters(&[1, 2, 3, 4, 5]));
}

/// The compacted log is represented by one configuration; each later one is kept, since it may be rolled
/// back.
#[test]
fn configurations_are_kept_back_to_the_beginning_of_the_log_and_no_further() {
    let mut cluster = three(5);
    let first = cluster.change(1, Transition::Auto, &[voter(4)]);
    cluster.settle();
    let second = cluster.change(1, Transition::Auto, &[voter(5)]);
    cluster.settle();
    let group = cluster.group(1);
    assert_eq!(group.memberships().map(|(at, _)| at).collect::<Vec<_>>(), [Index(0), first, second]);
    assert_eq!(group.configuration_up_to(first), Some((first, &voters(&[1, 2, 3, 4]))));
    assert_eq!(group.configuration_up_to(Index(1)), Some((Index(0), &voters(&[1, 2, 3]))));
    cluster.propose(1, 1);
    cluster.settle();
    cluster.checkpoint(1, true);
    let group = cluster.group(1);
    assert_eq!(group.memberships().map(|(at, _)| at).collect::<Vec<_>>(), [second]);
    assert_eq!(group.configuration_up_to(first), None);
}

/// Learners receive everything and count in no quorum; a demoted voter stops voting when the joint
/// configuration is left.
#[test]
fn promotion_and_demotion_in_one_change() {
    let mut cluster = Cluster::new(Options { learners: 1, ..Options::of(3) });
    cluster.elect(1);
    cluster.run(T);
    let changes = [voter(4), Change::Learner(NodeId(2))];
    let outcome = cluster.reconfigure(1, wish(&changes, Admission::Checked));
    assert!(matches!(outcome, Some(Reconfigured::Started(_))), "{outcome:?}");
    assert_eq!(cluster.group(1).configuration().learners_next, [NodeId(2)]);
    cluster.settle();
    let expected = Configuration { learners: vec![NodeId(2)], ..voters(&[1, 3, 4]) };
    assert_eq!(cluster.group(1).configuration(), &expected);
    cluster.campaign(2);
    assert_eq!(cluster.group(2).role(), Role::Follower);
    cluster.propose(1, 1);
    cluster.deliver_where(|packet| [packet.from, packet.to].contains(&2));
    assert!(cluster.group(1).commit() < cluster.group(1).last().index, "a learner is not counted");
    cluster.settle();
    assert_eq!(cluster.group(2).commit(), cluster.group(1).commit());
}

/// All voters but one may be removed: the one left is the majority.
#[test]
fn a_group_shrinks_to_one_and_grows_again() {
    let mut cluster = three(3);
    cluster.change(1, Transition::Joint, &[remove(2), remove(3)]);
    cluster.settle();
    assert_eq!(cluster.group(1).configuration(), &voters(&[1]));
    cluster.propose(1, 3);
    assert_eq!(cluster.group(1).commit(), cluster.group(1).last().index, "alone, and at once");
    cluster.change(1, Transition::Joint, &[voter(2), voter(3)]);
    cluster.run(3 * T);
    assert_eq!(cluster.group(1).configuration(), &voters(&[1, 2, 3]));
    assert!(cluster.nodes().all(|node| cluster.group(node).commit() == cluster.group(1).commit()));
    assert!(!cluster.group(2).is_removed());
}

/// An acknowledgement from an earlier membership does not count in the present one.
#[test]
fn what_was_acknowledged_before_a_removal_is_compared_anew_after_the_return() {
    let mut cluster = three(3);
    cluster.propose(1, 3);
    cluster.deliver_where(|packet| packet.is_append());
    let late: Vec<Packet> = cluster.network.iter().filter(|packet| packet.from == 3).cloned().collect();
    cluster.settle();
    cluster.change(1, Transition::Auto, &[remove(3)]);
    cluster.settle();
    cluster.change(1, Transition::Auto, &[voter(3)]);
    assert_eq!(cluster.progress(1, 3).matched, Index(0));
    for packet in late {
        cluster.network.push_back(packet);
    }
    cluster.run(3 * T);
    assert_eq!(cluster.group(3).commit(), cluster.group(1).commit());
}
