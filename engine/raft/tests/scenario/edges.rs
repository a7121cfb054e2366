//! Edge cases: equal indices, the turn after, a leader that leads again, a peer that moves in the order of
//! peers. Each test states what would go wrong there. Next to `membership`, `quiescence`, `read_index` and `transfer`,
//! which have the main scenarios.

use std::time::Duration;

use raftwerk_frame::{
    Configuration, EntryId, GroupId, HardState, Index, LogId, Membership, Message, NodeId, Run, Term, Time,
};
use raftwerk_raft::reconfig::Change;
use raftwerk_raft::{
    Admission, Config, Effects, Group, Input, Opening, PeerState, ReceiverStanding, Reconfigure, Restored,
    Role, TermRun, Transition,
};

use crate::cluster::{Cluster, MS, Options, Packet, T};

fn remove(node: u64) -> Change {
    Change::Remove(NodeId(node))
}

fn voter(node: u64) -> Change {
    Change::Voter(NodeId(node))
}

fn is_question(packet: &Packet) -> bool {
    matches!(packet.message(), Some(Message::ReadIndex { .. }))
}

/// Three voters led by 1, and new nodes up to `last`.
fn three(last: u64) -> Cluster {
    let mut cluster = Cluster::new(Options { newcomers: last - 3, ..Options::of(3) });
    cluster.elect(1);
    cluster
}

/// Whether a node supports another, and whether it is supported by it, as the replica there knows.
fn support(cluster: &Cluster, at: u64, node: u64) -> (bool, bool) {
    let group = cluster.group(at);
    (group.is_supporting(NodeId(node)), group.is_supported_by(NodeId(node)))
}

/// A snapshot brings one configuration; those of the log that it replaces are dropped with it.
#[test]
fn configurations_go_with_the_log_that_a_snapshot_replaces() {
    let mut cluster = three(5);
    cluster.change(1, Transition::Auto, &[Change::Learner(NodeId(4))]);
    cluster.settle();
    assert_eq!(cluster.group(3).memberships().count(), 2);
    cluster.crash(3);
    cluster.change(1, Transition::Auto, &[Change::Learner(NodeId(5))]);
    cluster.propose(1, 9);
    cluster.run(T);
    cluster.checkpoint(1, true);
    cluster.restart(3);
    cluster.run(2 * T);
    assert_eq!(cluster.seen.installed, 1);
    let known: Vec<Index> = cluster.group(3).memberships().map(|(index, _)| index).collect();
    assert_eq!(known, [cluster.group(3).compacted().index]);
}

/// A snapshot ends before a configuration that the log keeps. If an entry of a later term replaces that one,
/// the snapshot's configuration is in force again.
#[test]
fn a_log_whose_tail_stays_can_fall_back_to_the_configuration_of_the_snapshot() {
    let three = Configuration::of_voters([NodeId(1), NodeId(2), NodeId(3)]);
    let four = Configuration { learners: vec![NodeId(4)], ..three.clone() };
    let restored = Restored {
        hard_state: HardState { term: Term(1), vote: None },
        runs: vec![TermRun { term: Term(1), first: Index(1) }],
        last: Index(5),
        ..restored_of(&[1, 2, 3])
    };
    let tail = Membership { index: Index(5), configuration: four.clone() };
    let mut group = Group::restore(config_of(2, Duration::ZERO), restored, [tail], Time(MS));
    let (from, id, configuration) = (NodeId(1), EntryId::new(Term(1), Index(3)), &three);
    let snapshot = Input::SnapshotReceived { from, term: Term(1), id, configuration, progress_epoch: 0 };
    group.step(Time(MS), snapshot, &mut Effects::default());
    let known: Vec<_> = group.memberships().map(|(index, of)| (index, of.clone())).collect();
    assert_eq!(known, [(Index(3), three.clone()), (Index(5), four)]);
    let message = Message::Append { term: Term(2), prev: id, commit: Index(3), progress_epoch: 0 };
    let runs = &[Run { term: Term(2), count: 1 }];
    group.step(Time(MS), Input::Message { from: NodeId(3), message, runs }, &mut Effects::default());
    assert_eq!((group.configuration(), group.configuration_index()), (&three, Index(3)));
}

/// `Config::first_timeout` is for a group without any history.
#[test]
fn only_a_replica_without_a_term_and_without_entries_campaigns_sooner() {
    let first_timeout = Some(Duration::from_nanos(MS));
    let deadline = |restored| {
        let config = Config { first_timeout, ..config_of(1, Duration::ZERO) };
        Group::new(config, restored, Time(MS)).next_deadline()
    };
    assert_eq!(deadline(restored_of(&[1, 2])), Time(2 * MS));
    let hard_state = HardState { term: Term(1), vote: None };
    assert!(deadline(Restored { hard_state, ..restored_of(&[1, 2]) }) >= Time(T * MS));
    let compacted = EntryId::new(Term(0), Index(1));
    let begins_later = Restored { compacted, last: Index(1), applied: Index(1), ..restored_of(&[1, 2]) };
    assert!(deadline(begins_later) >= Time(T * MS));
}

/// Of the configurations up to the new beginning of the log, the latest suffices; also if its index is the
/// beginning.
#[test]
fn a_log_that_begins_after_a_configuration_knows_none_before_it() {
    let mut cluster = three(5);
    let first = cluster.change(1, Transition::Auto, &[Change::Learner(NodeId(4))]);
    cluster.settle();
    cluster.checkpoint(2, false);
    assert_eq!(cluster.replica(2).disk.written.checkpoint.id.index, first);
    let second = cluster.change(1, Transition::Auto, &[Change::Learner(NodeId(5))]);
    cluster.settle();
    cluster.input(2, Input::Compacted { to: first });
    let known: Vec<Index> = cluster.group(2).memberships().map(|(index, _)| index).collect();
    assert_eq!(known, [first, second]);
}

/// A configuration that the log begins with is not also in it.
#[test]
fn a_replica_that_is_restored_takes_the_configuration_of_its_logs_beginning_once() {
    let configuration = Configuration::of_voters([NodeId(1), NodeId(2), NodeId(3)]);
    let compacted = EntryId::new(Term(1), Index(7));
    let at_beginning = restored_of(&[1, 2, 3]);
    let restored = Restored { compacted, last: compacted.index, applied: compacted.index, ..at_beginning };
    let again = Membership { index: Index(7), configuration };
    let group = Group::restore(config_of(1, Duration::ZERO), restored, [again], Time(MS));
    assert_eq!(group.memberships().count(), 1);
}

/// It has seen the commit of its removal, and the log that shows it may be compacted.
#[test]
fn a_removed_replica_knows_it_after_its_log_is_compacted() {
    let mut cluster = three(3);
    let at = cluster.change(1, Transition::Auto, &[remove(3)]);
    cluster.settle();
    assert_eq!((cluster.group(3).commit(), cluster.group(3).is_removed()), (at, true));
    cluster.input(3, Input::Compacted { to: at });
    assert_eq!(cluster.group(3).compacted().index, at);
    assert!(cluster.group(3).is_removed());
}

/// A leader of an earlier term had it as a member; a message of a term that no election can reach does not
/// count.
#[test]
fn late_words_of_an_earlier_leader_make_nobody_a_member_again() {
    let mut cluster = three(3);
    cluster.elect_among(2);
    cluster.run(T);
    cluster.change(2, Transition::Auto, &[remove(3)]);
    cluster.settle();
    assert!(cluster.group(3).is_removed());
    let now = cluster.group(3).term();
    for term in [Term(now.0 - 1), Term(now.0 + (1 << 33))] {
        for progress_epoch in [None, Some(0)] {
            cluster.replica_mut(3).group.as_mut().unwrap().note_standing(
                term,
                progress_epoch,
                ReceiverStanding::Member,
            );
            assert!(cluster.group(3).is_removed(), "{term}");
        }
    }
}

/// It waits for the commit of its second removal, and a late notice of the first does not count for that:
/// until then the others may need its vote.
#[test]
fn late_news_of_an_earlier_removal_remove_nobody() {
    let mut cluster = three(3);
    let first = cluster.change(1, Transition::Auto, &[remove(3)]);
    cluster.settle();
    cluster.change(1, Transition::Auto, &[voter(3)]);
    cluster.settle();
    assert!(!cluster.group(3).is_removed());
    let second = cluster.change(1, Transition::Auto, &[remove(3)]);
    cluster.deliver_where(|packet| packet.to == 3 && packet.is_append());
    assert_eq!(cluster.group(3).configuration_index(), second);
    assert!(cluster.group(3).commit() < second);
    let term = cluster.group(3).term();
    cluster.say(1, 3, Message::Removed { term, configuration: EntryId::new(term, first) }, &[]);
    assert!(!cluster.group(3).is_removed());
}

/// A follower keeps support by the positions of its peers, and these have changed.
#[test]
fn a_follower_forgets_its_ties_when_others_take_part() {
    let mut cluster = three(4);
    cluster.befriend(2, 3, true);
    assert_eq!(support(&cluster, 2, 3), (true, true));
    cluster.change(1, Transition::Auto, &[Change::Learner(NodeId(4))]);
    cluster.settle();
    for node in [1, 3, 4] {
        assert_eq!(support(&cluster, 2, node), (false, false), "{node}");
    }
}

/// A new leader serves a peer that an uncommitted configuration removes: this adds a peer between the others,
/// and the support of one must not be taken for another's.
#[test]
fn a_leader_forgets_its_ties_when_it_serves_one_that_leaves() {
    let mut cluster = Cluster::new(Options::of(4));
    cluster.elect(1);
    cluster.change(1, Transition::Auto, &[remove(2)]);
    cluster.deliver_where(|packet| packet.is_append() && packet.to == 3);
    cluster.drop_where(|_| true);
    cluster.befriend(3, 4, true);
    cluster.isolate(1);
    for node in [2, 4] {
        cluster.crash(node);
        cluster.restart(node);
    }
    cluster.campaign(3);
    cluster.deliver_where(|packet| packet.is_vote() || packet.is_pre_vote());
    assert!(cluster.group(3).is_leader() && cluster.group(3).is_leaving(NodeId(2)));
    let support: Vec<_> = [1, 2, 4].map(|node| support(&cluster, 3, node)).into();
    assert_eq!(support, [(false, false); 3]);
}

/// A removed peer that has acknowledged its removal is dropped: the support of the others is kept.
#[test]
fn ties_stay_with_their_nodes_when_a_peer_is_served_no_longer() {
    let mut cluster = Cluster::new(Options::of(4));
    cluster.elect(1);
    cluster.run(T / 5);
    cluster.change(1, Transition::Auto, &[remove(2)]);
    assert!(cluster.group(1).is_leaving(NodeId(2)));
    cluster.supported_by(1, 3, true);
    cluster.settle();
    assert!(!cluster.group(1).is_leaving(NodeId(2)));
    assert_eq!([3, 4].map(|node| support(&cluster, 1, node).1), [true, false]);
}

/// Thesis, section 6.4, step 1, for a leader that led before: its commit index of then is not that of now.
#[test]
fn a_leader_that_leads_again_answers_no_read_before_it_has_committed_again() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.run(T / 5);
    cluster.elect_among(2);
    cluster.propose(2, 3);
    cluster.settle();
    cluster.crash(3);
    cluster.restart(3);
    cluster.campaign(1);
    cluster.deliver_where(|packet| packet.is_vote() || packet.is_pre_vote());
    assert!(cluster.group(1).is_leader());
    let token = cluster.read(1, 1);
    cluster.deliver_where(Packet::is_heartbeat);
    assert!(cluster.replica(1).reads.is_empty(), "a quorum has answered, and yet");
    cluster.settle();
    assert_eq!(cluster.replica(1).reads, [(token, cluster.group(1).commit())]);
}

/// It would have sent a request to a leader, and is one now.
#[test]
fn a_follower_that_comes_to_lead_answers_the_reads_that_it_was_to_ask_about() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.run(T / 5);
    let token = cluster.on_follower_read(2, 1);
    cluster.drop_where(is_question);
    cluster.transfer(1, 2);
    cluster.settle();
    assert_eq!(cluster.leader(), Some(2));
    assert_eq!(cluster.replica(2).reads.iter().filter(|(read, _)| *read == token).count(), 1);
}

/// No heartbeat interval passes: the new leader has received no request yet.
#[test]
fn a_new_leader_is_asked_at_once_what_the_old_one_did_not_answer() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.run(T / 5);
    let token = cluster.on_follower_read(2, 1);
    cluster.drop_where(is_question);
    let now = cluster.now;
    cluster.transfer(1, 3);
    cluster.settle();
    assert_eq!((cluster.leader(), cluster.now), (Some(3), now));
    assert_eq!(cluster.replica(2).reads.iter().filter(|(read, _)| *read == token).count(), 1);
}

/// A rejection that was overtaken by an acknowledgement of the same entry is no reason to give up the pipeline.
#[test]
fn a_late_rejection_of_what_was_acknowledged_since_stops_no_pipeline() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.propose(1, 3);
    cluster.settle();
    let matched = cluster.progress(1, 2).matched;
    assert_eq!((cluster.progress(1, 2).state, matched), (PeerState::Replicate, Index(4)));
    let term = cluster.group(1).term();
    let late = Message::AppendReject { term, rejected: matched, hint: EntryId::default() };
    cluster.say(2, 1, late, &[]);
    assert_eq!(cluster.progress(1, 2).state, PeerState::Replicate);
}

/// A pre-vote request depends on no durable state, so it does not wait for the disk; a vote request does.
#[test]
fn a_question_about_a_campaign_does_not_wait_for_the_disk() {
    let mut cluster = Cluster::new(Options { syncs_at_once: false, ..Options::of(3) });
    let entry = crate::cluster::disk::Entry { term: Term(1), payload: 1 };
    let append =
        Message::Append { term: Term(1), prev: EntryId::default(), commit: Index(0), progress_epoch: 0 };
    cluster.say(1, 2, append, &[entry]);
    for node in cluster.nodes() {
        cluster.drop_where(|packet| packet.from == node);
    }
    cluster.sync_some(2, 1);
    cluster.drop_where(|_| true);
    cluster.campaign(2);
    assert_eq!(cluster.count_where(Packet::is_pre_vote), 2, "its entry is not durable yet");
    cluster.deliver_where(|packet| packet.is_pre_vote());
    assert_eq!((cluster.group(2).role(), cluster.count_where(Packet::is_vote)), (Role::Candidate, 0));
    cluster.sync(2);
    assert_eq!(cluster.count_where(Packet::is_vote), 2);
}

/// Followers that lose their leader together look for another together; one that was refused a pre-vote tries
/// again within T.
#[test]
fn who_loses_an_election_for_a_leader_that_is_gone_tries_again_soon() {
    let mut cluster = resting();
    cluster.isolate(1);
    for seed in 0..8 {
        cluster.supports(2, 1, false);
        cluster.campaign(2);
        assert_eq!(cluster.group(2).role(), Role::PreCandidate, "{seed}");
        let term = cluster.group(2).term();
        for node in [1, 3] {
            cluster.give(node, 2, Message::PreVoteReply { term, granted: false });
        }
        assert_eq!(cluster.group(2).role(), Role::Follower);
        assert!(cluster.group(2).next_deadline() < Time(cluster.now.0 + T * MS), "{seed}");
    }
}

/// A leader that restarts leads no longer: followers that fortified it grant it their votes again at once.
#[test]
fn a_leader_that_has_restarted_is_elected_again_by_those_that_were_bound_to_it() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.befriend_all();
    cluster.run(2 * T);
    assert!(cluster.group(2).is_fortifying() && cluster.group(3).is_fortifying());
    let now = cluster.now;
    cluster.crash(1);
    cluster.restart(1);
    cluster.elect(1);
    assert_eq!(cluster.now, now);
}

/// The head of `raft::rest`: without support no leader is fortified, and no group with peers quiesces, even
/// if one node is a quorum.
#[test]
fn a_leader_that_nobody_supports_does_not_rest() {
    let mut cluster = Cluster::new(Options { learners: 1, ..Options::of(1) });
    cluster.elect(1);
    cluster.crash(2);
    cluster.run(5 * T);
    assert!(!cluster.group(1).is_quiescent());
}

/// Followers would have to unquiesce for a new commit index: it is sent before the group quiesces.
#[test]
fn a_group_does_not_rest_while_news_of_a_commit_are_due() {
    let mut cluster = Cluster::new(Options { commit_delay: T / 5, ..Options::of(3) });
    cluster.elect(1);
    cluster.befriend_all();
    cluster.run(T);
    assert!(cluster.group(1).is_quiescent());
    cluster.propose(1, 1);
    cluster.run(T / 2);
    for node in cluster.nodes() {
        assert!(cluster.group(node).is_quiescent(), "{node}");
    }
}

/// Followers are sent a new commit index when it is due, also in a turn without other inputs.
#[test]
fn news_of_a_commit_leave_in_the_turn_in_which_they_fall_due() {
    let mut group = Group::new(config_of(1, Duration::from_nanos(5 * MS)), restored_of(&[1, 2]), Time(MS));
    let mut effects = Effects::default();
    let step = |group: &mut Group, input: Input<'_>| group.step(Time(MS), input, &mut Effects::default());
    step(&mut group, Input::Campaign);
    let term = group.term();
    let message = Message::PreVoteReply { term: term.next(), granted: true };
    step(&mut group, Input::Message { from: NodeId(2), message, runs: &[] });
    let term = group.term();
    let message = Message::VoteReply { term, granted: true };
    step(&mut group, Input::Message { from: NodeId(2), message, runs: &[] });
    assert!(group.is_leader());
    let last = group.last();
    assert!(group.next_append(NodeId(2)).is_some());
    group.note_sent(NodeId(2), last.index, 0);
    step(&mut group, Input::Durable { id: last });
    let message = Message::AppendAck { term, matched: last.index, progress_epoch: 0 };
    step(&mut group, Input::Message { from: NodeId(2), message, runs: &[] });
    assert_eq!(group.commit(), last.index);
    group.flush(Time(2 * MS), &mut effects);
    assert_eq!(group.next_append(NodeId(2)), None, "it waits for company");
    assert_eq!(group.next_deadline(), Time(5 * MS), "those of all groups fall due at the same times");
    group.flush(Time(5 * MS), &mut effects);
    assert_eq!(group.next_append(NodeId(2)).map(|news| news.commit), Some(last.index));
}

/// It may step down as soon as a successor has been sent the commit, and the retirement time has passed.
#[test]
fn a_leader_without_a_vote_goes_after_its_retirement() {
    let mut cluster = Cluster::new(Options { retirement: T / 4, ..Options::of(3) });
    cluster.elect(1);
    cluster.run(T / 5);
    cluster.change(1, Transition::Auto, &[remove(1)]);
    let is_hurry = |packet: &Packet| matches!(packet.message(), Some(Message::TimeoutNow { .. }));
    for _ in 0..T / 2 {
        cluster.drop_where(is_hurry);
        cluster.deliver_where(|packet| !is_hurry(packet));
        cluster.drop_where(is_hurry);
        cluster.advance(1);
    }
    assert!(!cluster.group(1).is_leader());
}

/// Thesis, section 4.2.1: rounds, each up to the log's end when it began. A first round that took too long is
/// followed by a shorter one, though the log grows all the time.
#[test]
fn a_newcomer_whose_first_round_was_too_long_gets_in_by_a_later_one() {
    let mut cluster = three(4);
    cluster.propose(1, 20);
    cluster.settle();
    let changes = [voter(4)];
    let wish = Reconfigure {
        changes: &changes,
        logs: &[],
        expected_index: None,
        transition: Transition::Auto,
        admission: Admission::Awaited,
        dry_run: false,
    };
    cluster.reconfigure(1, wish);
    cluster.isolate(4);
    cluster.run(2 * T);
    cluster.heal();
    for _ in 0..T {
        // There is always an entry that it has not acknowledged.
        cluster.propose(1, 1);
        cluster.advance(1);
        cluster.deliver_where(|packet| packet.to == 4);
        cluster.propose(1, 1);
        cluster.deliver_where(|_| true);
    }
    assert!(cluster.group(1).configuration().is_voter(NodeId(4)));
}

/// A candidate that the leader chose ends the fortification of a quiescent replica, which had no deadline: it
/// waits for a leader again, also if that candidate's log is too short for its vote.
#[test]
fn a_replica_at_rest_that_refuses_a_vote_of_a_later_term_waits_for_a_leader_again() {
    let mut cluster = resting();
    assert_eq!(cluster.group(2).next_deadline(), Time::NEVER);
    let term = cluster.group(2).term().next();
    cluster.give(3, 2, Message::Vote { term, last: EntryId::default(), transfer: true });
    assert_eq!((cluster.group(2).term(), cluster.group(2).hard_state().vote), (term, None));
    assert!(cluster.group(2).next_deadline() <= Time(cluster.now.0 + 2 * T * MS));
}

/// A change to a configuration that stays joint is complete when that is committed; this is reported once.
#[test]
fn a_change_that_is_done_is_told_once() {
    let mut cluster = three(4);
    let at = cluster.change(1, Transition::JointHeld, &[voter(4)]);
    cluster.settle();
    assert_eq!(cluster.replica(1).settled, [at]);
    for _ in 0..3 {
        cluster.propose(1, 1);
        cluster.settle();
    }
    assert_eq!(cluster.replica(1).settled, [at]);
}

/// Leases are for a term; a transfer in an earlier one does not matter for this one.
#[test]
fn a_leader_that_handed_over_and_leads_again_has_leases_again() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.befriend_all();
    cluster.run(T);
    let has_lease =
        |cluster: &Cluster| cluster.group(1).lease(|_| Time(50)).is_some_and(|(_, to)| to > Time(0));
    assert!(has_lease(&cluster));
    for (from, to) in [(1, 2), (2, 1)] {
        cluster.transfer(from, to);
        cluster.settle();
        assert_eq!(cluster.leader(), Some(to));
    }
    cluster.run(T);
    assert!(has_lease(&cluster));
}

/// Both requests are sent at the end of their turns, without waiting for a heartbeat.
#[test]
fn a_read_that_comes_while_another_waits_is_asked_for_at_once() {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    for questions in [1, 2] {
        cluster.on_follower_read(2, 1);
        assert_eq!(cluster.count_where(is_question), questions);
    }
}

/// An append that ends before the entry which removes its receiver does not inform it of that commit,
/// whatever commit index it carries: the receiver is served on.
#[test]
fn a_replica_that_is_behind_is_served_until_it_holds_its_removal() {
    let mut cluster = Cluster::new(Options { append_bytes_max: 10, window_messages: 1, ..Options::of(3) });
    cluster.elect(1);
    cluster.run(T / 5);
    cluster.propose(1, 3);
    let removed_at = cluster.change(1, Transition::Auto, &[remove(3)]);
    cluster.deliver_where(|packet| packet.from != 3 && packet.to != 3);
    assert_eq!(cluster.group(1).commit(), removed_at);
    while cluster.group(3).last().index < removed_at {
        assert!(cluster.group(1).is_leaving(NodeId(3)), "it has {}", cluster.group(3).last());
        assert!(cluster.count_where(|packet| packet.to == 3 || packet.from == 3) > 0);
        cluster.deliver_where(|packet| packet.to == 3);
        let at = cluster.network.iter().position(|packet| packet.from == 3).unwrap();
        cluster.deliver(at);
    }
    cluster.settle();
    assert_eq!((cluster.group(3).commit(), cluster.group(3).is_removed()), (removed_at, true));
}

/// The record that it is a witness was lost with that of the first configuration.
#[test]
fn one_that_is_told_that_it_is_a_witness_is_one() {
    let restored = Restored { configuration: Configuration::default(), ..restored_of(&[]) };
    let mut group = Group::new(config_of(1, Duration::ZERO), restored, Time(MS));
    assert!(group.may_be_witness() && !group.is_witness());
    group.become_witness();
    assert!(group.is_witness() && !group.may_be_witness());
}

/// Three replicas of a quiescent group.
fn resting() -> Cluster {
    let mut cluster = Cluster::new(Options::of(3));
    cluster.elect(1);
    cluster.befriend_all();
    cluster.propose(1, 1);
    cluster.settle();
    cluster.run(2 * T);
    cluster
}

pub(super) fn config_of(node: u64, commit_delay: Duration) -> Config {
    Config {
        node: NodeId(node),
        log: LogId(100 * node),
        group: GroupId(1),
        seed: 1,
        election_timeout: Duration::from_nanos(T * MS),
        heartbeat_interval: Duration::from_nanos(T * MS / 10),
        first_timeout: None,
        window_bytes: 1 << 20,
        window_messages: 8,
        append_bytes_max: 1 << 16,
        uncommitted_bytes_max: 1 << 20,
        commit_delay,
        retirement: Duration::from_nanos(T * MS),
        abstention: Duration::ZERO,
        opening: Opening::Core,
        pre_vote: true,
        check_quorum: true,
    }
}

fn restored_of(voters: &[u64]) -> Restored {
    Restored {
        configuration: Configuration::of_voters(voters.iter().copied().map(NodeId)),
        ..Restored::default()
    }
}

/// A leader is waited for within T after its last message, and no longer.
#[test]
fn a_leader_that_was_heard_a_whole_timeout_ago_is_not_waited_for() {
    for (early, grants) in [(0, true), (1, false)] {
        let mut cluster = Cluster::new(Options::of(3));
        cluster.elect(1);
        cluster.settle();
        let (term, commit) = (cluster.group(1).term(), cluster.group(2).commit());
        cluster.say(1, 2, Message::Heartbeat { term, commit, round: 0, quiesce: false }, &[]);
        cluster.drop_where(|_| true);
        cluster.now = Time(cluster.now.0 + T * MS - early);
        cluster.give(3, 2, Message::PreVote { term: term.next(), last: EntryId::new(term, Index(9)) });
        let is_granted =
            |packet: &Packet| matches!(packet.message(), Some(Message::PreVoteReply { granted: true, .. }));
        assert_eq!(cluster.count_where(is_granted), usize::from(grants), "{early} ns before it is over");
    }
}
