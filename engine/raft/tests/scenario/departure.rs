//! Removal of replicas, up to the last message to them (thesis, section 4.2.2 and 4.2.3): followers that
//! learn of it from the log, leaders that wait for a successor.

use raftwerk_frame::{Configuration, EntryId, Index, Message, NodeId, Term};
use raftwerk_raft::reconfig::Change;
use raftwerk_raft::{Admission, PeerState, Reconfigure, Rejected, Transition};

use crate::cluster::{Cluster, Options, Packet, T};

/// The bound of removed peers that a leader serves.
const REMOVALS_MAX: usize = 16;

fn remove(node: u64) -> Change {
    Change::Remove(NodeId(node))
}

fn led_by_one(options: Options) -> Cluster {
    let mut cluster = Cluster::new(options);
    cluster.elect(1);
    cluster.run(T / 5);
    cluster
}

fn is_from(node: u64) -> impl Fn(&Packet) -> bool {
    move |packet| packet.from == node
}

fn is_hurry(packet: &Packet) -> bool {
    matches!(packet.message(), Some(Message::TimeoutNow { .. }))
}

fn is_notice(packet: &Packet) -> bool {
    matches!(packet.message(), Some(Message::Removed { .. }))
}

#[test]
fn who_is_removed_is_sent_the_log_until_it_has_acknowledged_that_it_is() {
    let mut cluster = led_by_one(Options::of(3));
    let at = cluster.change(1, Transition::Auto, &[remove(3)]);
    assert!(cluster.group(1).is_leaving(NodeId(3)) && !cluster.group(1).is_leaving(NodeId(2)));
    cluster.deliver_where(|packet| packet.to == 3);
    cluster.deliver_where(is_from(3));
    assert!(cluster.group(1).commit() < at, "it has the entry and counts for nothing");
    cluster.settle();
    assert_eq!((cluster.group(3).commit(), cluster.group(3).is_removed()), (at, true));
    assert_eq!(cluster.group(1).peers().collect::<Vec<_>>(), [NodeId(2)]);
    cluster.propose(1, 1);
    assert_eq!(cluster.count_where(|packet| packet.to == 3), 0, "and that was all");
}

#[test]
fn who_is_removed_gives_no_read_a_quorum() {
    let mut cluster = led_by_one(Options::of(4));
    cluster.change(1, Transition::Auto, &[remove(4)]);
    cluster.deliver_where(|packet| [2, 4].contains(&packet.to));
    cluster.deliver_where(|packet| [2, 4].contains(&packet.from));
    cluster.isolate(2);
    cluster.isolate(3);
    let token = cluster.read(1, 1);
    cluster.settle();
    assert!(cluster.replica(1).reads.iter().all(|(read, _)| *read != token), "only node 4 answers");
}

/// Whichever message is lost, all replicas learn the configuration, the removed one too.
#[test]
fn a_removal_survives_the_loss_of_any_message() {
    for removed in [1, 3] {
        for lost in 0..30 {
            let mut cluster = led_by_one(Options::of(3));
            cluster.change(1, Transition::Auto, &[remove(removed)]);
            for at in 0..200 {
                if cluster.network.is_empty() {
                    break;
                }
                if at == lost { cluster.drop_packet(0) } else { cluster.deliver(0) }
            }
            cluster.run(5 * T);
            let leader = cluster.leader().expect("somebody leads");
            let left = (1..=3).filter(|node| *node != removed).map(NodeId);
            assert_eq!(cluster.group(leader).configuration(), &Configuration::of_voters(left));
            assert_ne!(leader, removed, "message {lost}");
            assert!(cluster.group(removed).is_removed(), "node {removed}, message {lost}");
            assert_eq!(cluster.group(leader).commit(), cluster.group(leader).last().index);
        }
    }
}

#[test]
fn who_is_gone_already_is_served_for_an_election_timeout_and_told_once_more() {
    let mut cluster = led_by_one(Options::of(3));
    cluster.crash(3);
    cluster.change(1, Transition::Auto, &[remove(3)]);
    cluster.run(T / 2);
    assert!(cluster.group(1).is_leaving(NodeId(3)));
    for _ in 0..12 {
        cluster.advance(T / 10);
        cluster.deliver_where(|packet| packet.to != 3);
    }
    assert_eq!(cluster.group(1).peers().collect::<Vec<_>>(), [NodeId(2)]);
    assert_eq!(cluster.count_where(|packet| packet.to == 3 && is_notice(packet)), 1);
}

/// A change needs no quorum of removed peers: however many of them are down, the members are not held up, and
/// the state for the removed ones is bounded.
#[test]
fn what_is_kept_for_those_that_left_is_bounded() {
    let newcomers = REMOVALS_MAX as u64 + 8;
    let mut cluster = led_by_one(Options { newcomers, ..Options::of(3) });
    for node in 4..4 + newcomers {
        cluster.crash(node);
        for change in [Change::Learner(NodeId(node)), remove(node)] {
            let wish = Reconfigure {
                changes: &[change],
                logs: &[],
                expected_index: None,
                transition: Transition::Auto,
                admission: Admission::Unchecked,
                dry_run: false,
            };
            cluster.reconfigure(1, wish);
            cluster.settle();
        }
    }
    let configuration = cluster.group(1).configuration();
    assert_eq!(configuration, &Configuration::of_voters((1..=3).map(NodeId)), "all came and went");
    let peers: Vec<NodeId> = cluster.group(1).peers().collect();
    assert_eq!(peers.len(), 2 + REMOVALS_MAX);
    assert!(peers.contains(&NodeId(3 + newcomers)), "the last to leave is among them");
    cluster.run(2 * T);
    assert_eq!(cluster.group(1).peers().count(), 2);
}

/// A leader that is elected in the middle of a change informs the removed peers that its predecessor has not
/// informed.
#[test]
fn the_next_leader_serves_who_is_removed_by_a_configuration_that_it_found() {
    let mut cluster = led_by_one(Options::of(4));
    let at = cluster.change(1, Transition::Auto, &[remove(4)]);
    cluster.deliver_where(|packet| packet.to == 2);
    cluster.crash(1);
    cluster.drop_where(is_from(1));
    cluster.elect_among(2);
    cluster.run(T);
    assert!(cluster.group(4).is_removed());
    assert!(cluster.group(4).commit() >= at, "by the log");
}

/// A leader's progress of a node from before its removal does not count when it comes back.
#[test]
fn who_comes_back_while_it_leaves_begins_anew() {
    let mut cluster = led_by_one(Options::of(3));
    cluster.cut_one_way(3, 1);
    cluster.change(1, Transition::Auto, &[remove(3)]);
    cluster.settle();
    assert!(cluster.group(1).is_leaving(NodeId(3)));
    cluster.change(1, Transition::Auto, &[Change::Learner(NodeId(3))]);
    assert!(!cluster.group(1).is_leaving(NodeId(3)));
    assert_eq!(cluster.progress(1, 3).matched, Index(0));
    cluster.heal();
    cluster.run(2 * T);
    assert_eq!(cluster.group(3).commit(), cluster.group(1).commit());
    assert!(!cluster.group(3).is_removed());
}

#[test]
fn a_removed_leader_takes_no_proposals_and_no_changes_and_leads_until_it_is_relieved() {
    let mut cluster = led_by_one(Options::of(3));
    let at = cluster.change(1, Transition::Auto, &[remove(1)]);
    cluster.deliver_where(Packet::is_append);
    cluster.deliver_where(Packet::is_ack);
    assert!(
        cluster.group(1).commit() >= at && cluster.group(1).is_leader() && cluster.group(1).is_retiring()
    );
    cluster.propose(1, 1);
    assert_eq!(cluster.replica(1).rejected, Some(Rejected::Busy));
    cluster.settle();
    let leader = cluster.leader().expect("the heir leads");
    assert!(leader != 1 && cluster.group(leader).term() == Term(2), "it was told, nobody waited");
    cluster.run(T / 5);
    assert!(!cluster.group(1).is_leader() && cluster.group(1).is_removed());
}

/// The voter with the longest log is requested to campaign first; a heartbeat later, any other that holds
/// everything.
#[test]
fn a_dead_heir_costs_a_heartbeat_and_not_an_election_timeout() {
    let mut cluster = led_by_one(Options::of(4));
    cluster.change(1, Transition::Auto, &[remove(1)]);
    cluster.deliver_where(Packet::is_append);
    cluster.deliver_where(Packet::is_ack);
    let heir = cluster.group(1).transfer_target().expect("there is an heir").0;
    cluster.crash(heir);
    cluster.drop_where(is_hurry);
    cluster.run(T / 4);
    let leader = cluster.leader().expect("another leads");
    assert!(![1, heir].contains(&leader) && cluster.group(leader).term() == Term(2), "{leader}");
}

#[test]
fn a_removed_leader_that_nobody_relieves_goes_after_an_election_timeout() {
    let mut cluster = led_by_one(Options { check_quorum: false, ..Options::of(3) });
    cluster.change(1, Transition::Auto, &[remove(1)]);
    cluster.deliver_where(Packet::is_append);
    cluster.deliver_where(Packet::is_ack);
    cluster.drop_where(|_| true);
    cluster.isolate(1);
    cluster.advance(T * 9 / 10);
    assert!(cluster.group(1).is_leader());
    cluster.advance(T / 5);
    assert!(!cluster.group(1).is_leader());
    cluster.run(5 * T);
    assert!(cluster.leader().is_some_and(|leader| leader != 1));
}

/// A slow disk is sent a question, and keeps its window: nothing is sent twice, nothing is given up.
#[test]
fn a_slow_disk_is_asked_and_keeps_its_window() {
    let mut cluster = led_by_one(Options { append_bytes_max: 10, ..Options::of(3) });
    cluster.options.syncs_at_once = false;
    for _ in 0..20 {
        cluster.propose(1, 1);
    }
    let window = cluster.progress(1, 3).in_flight_bytes;
    assert_eq!(window, 10 * cluster.options.window_messages as u64, "full");
    let (mut entries, mut questions) = (0, 0);
    for _ in 0..30 {
        cluster.advance(T / 10);
        cluster.deliver_where(Packet::is_heartbeat);
        cluster.deliver_where(Packet::is_heartbeat);
        let to_three = |packet: &&Packet| packet.to == 3 && packet.is_append();
        entries +=
            cluster.network.iter().filter(to_three).map(|packet| packet.entries().len()).sum::<usize>();
        questions +=
            cluster.network.iter().filter(to_three).filter(|packet| packet.entries().is_empty()).count();
        cluster.settle();
        for node in [1, 2] {
            cluster.sync(node);
        }
        cluster.settle();
        assert_eq!(cluster.progress(1, 3).state, PeerState::Replicate);
    }
    assert!(entries <= cluster.options.window_messages as usize, "{entries}: sent once");
    assert!((20..=32).contains(&questions), "{questions}: one a heartbeat");
    assert_eq!(cluster.progress(1, 3).in_flight_bytes, window);
    cluster.sync(3);
    cluster.settle();
    cluster.sync(3);
    cluster.settle();
    assert!(cluster.group(3).last().index > Index(10));
}

#[test]
fn who_comes_back_by_a_snapshot_with_the_configuration_that_it_knew_is_no_longer_removed() {
    let mut cluster = led_by_one(Options::of(3));
    cluster.isolate(3);
    let at = cluster.change(1, Transition::Auto, &[remove(3)]);
    cluster.run(3 * T);
    assert!(cluster.group(1).commit() >= at);
    let configuration = EntryId::new(cluster.group(1).term_at(at).unwrap(), at);
    let term = cluster.group(1).term();
    cluster.give(2, 3, Message::Removed { term, configuration });
    assert!(cluster.group(3).is_removed());
    cluster.change(1, Transition::Auto, &[Change::Voter(NodeId(3))]);
    cluster.run(T);
    cluster.propose(1, 3);
    cluster.run(T);
    cluster.checkpoint(1, true);
    cluster.heal();
    cluster.run(5 * T);
    assert!(cluster.group(3).configuration().is_voter(NodeId(3)));
    assert_eq!(cluster.seen.installed, 1);
    assert!(cluster.group(3).commit() > at);
    assert!(!cluster.group(3).is_removed());
}
