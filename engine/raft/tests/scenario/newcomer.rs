//! New members on their way to being voters (thesis, section 4.2.1): what ends a round, and what the change
//! waits for. Next to `membership`, which tests how they are added.

use raftwerk_frame::{Index, NodeId};
use raftwerk_raft::reconfig::Change;
use raftwerk_raft::{Admission, Reconfigure, Reconfigured, Refusal, Transition};

use crate::cluster::{Cluster, Options, Packet, T};

/// Three voters led by 1, with this many entries in the log; and node 4.
fn three_with(entries: u32, options: Options) -> Cluster {
    let mut cluster = Cluster::new(Options { newcomers: 1, ..options });
    cluster.elect(1);
    cluster.propose(1, entries);
    cluster.settle();
    cluster
}

/// Requests that node 4 becomes a voter.
fn ask(cluster: &mut Cluster, admission: Admission) -> Option<Reconfigured> {
    let changes = [Change::Voter(NodeId(4))];
    let wish = Reconfigure {
        changes: &changes,
        logs: &[],
        expected_index: None,
        transition: Transition::Auto,
        admission,
        dry_run: false,
    };
    cluster.reconfigure(1, wish)
}

fn votes(cluster: &Cluster) -> bool {
    cluster.group(1).configuration().is_voter(NodeId(4))
}

const fn is_of_newcomer(packet: &Packet) -> bool {
    packet.to == 4 || packet.from == 4
}

/// It was sent everything, and has acknowledged some of it: as a voter it would delay commits of the others.
#[test]
fn a_newcomer_that_was_sent_everything_does_not_vote_before_it_holds_it() {
    let mut cluster = three_with(30, Options::of(3));
    assert_eq!(ask(&mut cluster, Admission::Awaited), Some(Reconfigured::Admitting));
    cluster.deliver_where(|packet| !is_of_newcomer(packet));
    // Probe and rejection, a first append and its acknowledgement; then the rest, one append after another.
    for _ in 0..2 {
        cluster.deliver_where(|packet| packet.to == 4);
        cluster.deliver_where(|packet| packet.from == 4);
    }
    cluster.deliver_where(|packet| packet.to == 4);
    assert_eq!(cluster.group(4).last(), cluster.group(1).last());
    let at = cluster.network.iter().position(|packet| packet.from == 4).unwrap();
    cluster.deliver(at);
    let progress = cluster.progress(1, 4);
    assert_eq!((progress.matched, progress.next), (Index(20), cluster.group(1).last().index.next()));
    assert!(!votes(&cluster));
    cluster.settle();
    assert!(votes(&cluster));
}

/// The entry that adds it is not committed yet: one change at a time.
#[test]
fn a_newcomer_that_is_quicker_than_the_voters_is_waited_with() {
    let mut cluster = three_with(3, Options::of(3));
    assert_eq!(ask(&mut cluster, Admission::Awaited), Some(Reconfigured::Admitting));
    cluster.deliver_where(is_of_newcomer);
    assert_eq!(cluster.progress(1, 4).matched, cluster.group(1).last().index);
    assert_eq!(cluster.group(1).new_members().count(), 1);
    cluster.settle();
    assert!(votes(&cluster));
    let told = &cluster.replica(1).reconfigured;
    assert!(matches!(told[..], [Reconfigured::Admitting, Reconfigured::Started(_)]), "{told:?}");
}

/// The committed log counts, to the last entry.
#[test]
fn a_learner_that_was_not_sent_the_last_committed_entry_has_not_caught_up() {
    let mut cluster = three_with(3, Options { window_messages: 1, ..Options::of(3) });
    cluster.change(1, Transition::Auto, &[Change::Learner(NodeId(4))]);
    cluster.settle();
    // One append fills the window to 4, and the next entry is committed without it.
    for _ in 0..2 {
        cluster.propose(1, 1);
        cluster.deliver_where(|packet| !is_of_newcomer(packet));
    }
    let commit = cluster.group(1).commit();
    assert_eq!((cluster.progress(1, 4).next, commit), (commit, cluster.group(1).last().index));
    let outcome = ask(&mut cluster, Admission::Checked);
    assert_eq!(outcome, Some(Reconfigured::Refused(Refusal::NotCaughtUp(NodeId(4)))));
    cluster.settle();
    assert!(matches!(ask(&mut cluster, Admission::Checked), Some(Reconfigured::Started(_))));
}

/// Its first round took longer than an election, so it would delay the others for as long: the next round
/// decides.
#[test]
fn a_newcomer_that_took_too_long_and_is_behind_again_does_not_vote_yet() {
    let mut cluster = three_with(3, Options::of(3));
    ask(&mut cluster, Admission::Awaited);
    cluster.isolate(4);
    cluster.run(2 * T);
    let target = cluster.group(1).new_members().next().unwrap().target;
    cluster.heal();
    // It gets the log up to the end when the round began; by the time it acknowledges that, the log has
    // grown.
    cluster.advance(T / 10);
    while cluster.group(4).last().index < target {
        cluster.deliver_where(|packet| packet.to == 4);
        cluster.deliver_where(|packet| packet.from == 4 && !packet.is_ack());
    }
    cluster.propose(1, 1);
    cluster.deliver_where(Packet::is_ack);
    let newcomer = cluster.group(1).new_members().next().unwrap();
    assert_eq!((newcomer.matched, newcomer.target), (target, target.next()));
    assert!(!votes(&cluster));
    cluster.settle();
    assert!(votes(&cluster), "the second round was quick");
}

/// A leadership transfer is under way when the new member is ready. The transfer fails, and the wait
/// continues.
#[test]
fn a_newcomer_that_is_ready_at_the_wrong_time_is_not_forgotten() {
    let mut cluster = three_with(3, Options::of(3));
    cluster.run(T / 5);
    ask(&mut cluster, Admission::Awaited);
    cluster.deliver_where(|packet| !is_of_newcomer(packet));
    cluster.isolate(2);
    cluster.propose(1, 1);
    cluster.transfer(1, 2);
    assert_eq!(cluster.group(1).transfer_target(), Some(NodeId(2)));
    cluster.settle();
    assert_eq!(cluster.progress(1, 4).matched, cluster.group(1).last().index);
    assert_eq!(cluster.group(1).new_members().count(), 1);
    assert!(!votes(&cluster));
    cluster.run(2 * T);
    cluster.propose(1, 1);
    cluster.settle();
    assert!(votes(&cluster));
}
