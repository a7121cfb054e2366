//! Two workers, or three, whose heartbeats arrive or get lost.

use super::*;
use crate::node::placement::worker_of;

const T: Duration = Duration::from_millis(500);
const MS: u64 = 1_000_000;
const ONE: PeerLane = PeerLane { node: NodeId(1), worker: 0, workers: 1 };
const TWO: PeerLane = PeerLane { node: NodeId(2), worker: 0, workers: 1 };
const GROUP: GroupId = GroupId(3);

fn both(support: MutualSupport) -> (bool, bool) {
    (support.given, support.received)
}

/// What `support_with` returns for the group.
fn tie(of: &Liveness, with: PeerLane) -> (bool, bool) {
    both(of.support_with(with.node, LOG, GROUP))
}

fn at(ms: u64) -> Time {
    Time(ms * MS)
}

fn one_of(incarnation: u64, other: PeerLane) -> Liveness {
    let interval = Duration::from_millis(100);
    let mut liveness = Liveness::new(SupportTerms { incarnation, interval, duration: T, drift_ppm: 50_000 });
    liveness.set_peers(at(0), &[other]);
    liveness
}

const LOG: LogId = LogId(9);

const fn heard(from: PeerLane, heartbeat: NodeHeartbeat) -> ReceivedHeartbeat {
    ReceivedHeartbeat { from, log: LOG, heartbeat }
}

/// The heartbeat that is due now.
fn beat(of: &mut Liveness, ms: u64) -> NodeHeartbeat {
    of.due_heartbeats(at(ms)).next().map(|(_, heartbeat)| heartbeat).expect("a heartbeat is due")
}

/// The changes since the last call; every replica is notified of them now.
fn told(of: &mut Liveness) -> Vec<SupportEvent> {
    let events = of.take_events();
    events.iter().for_each(|events| of.on_all_notified(*events));
    events
}

/// Both send heartbeats at every 100 ms up to `to`, which arrive at once; the clock of the second is a second
/// ahead.
fn converse(one: &mut Liveness, two: &mut Liveness, from: u64, to: u64) {
    for ms in (from..=to).step_by(100) {
        let (mine, theirs) = (beat(one, ms), beat(two, ms + 1000));
        two.on_heartbeat(at(ms + 1000), &heard(ONE, mine));
        one.on_heartbeat(at(ms), &heard(TWO, theirs));
    }
}

fn friends() -> (Liveness, Liveness) {
    let (mut one, mut two) = (one_of(11, TWO), one_of(22, ONE));
    converse(&mut one, &mut two, 100, 400);
    assert_eq!(tie(&one, TWO), (true, true));
    assert_eq!(tie(&two, ONE), (true, true));
    (one, two)
}

/// One worker here, two there: each of the two receives from the one, and the groups of one are not the
/// other's.
#[test]
fn a_promise_is_about_the_groups_that_both_workers_have() {
    let lower = PeerLane { node: NodeId(2), worker: 0, workers: 2 };
    let upper = PeerLane { worker: 1, ..lower };
    let of = |lane: PeerLane| (1..).map(GroupId).find(|group| lane.has(*group)).expect("both have some");
    let (mut one, mut two) = (one_of(11, lower), one_of(22, ONE));
    one.set_peers(at(0), &[lower, upper]);
    for ms in [100, 200, 300, 400] {
        let mine: Vec<_> = one.due_heartbeats(at(ms)).collect();
        assert_eq!(mine.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [lower, upper]);
        two.on_heartbeat(at(ms + 1000), &heard(ONE, mine[0].1));
        let theirs = beat(&mut two, ms + 1000);
        one.on_heartbeat(at(ms), &heard(lower, theirs));
    }
    let tied = |group| {
        (both(one.support_with(NodeId(2), LOG, group)), one.support_until(NodeId(2), group) > at(400))
    };
    assert_eq!((tied(of(lower)), tied(of(upper))), (((true, true), true), ((false, false), false)));
    let supported: Vec<_> = told(&mut one).into_iter().collect();
    assert_eq!(supported, [SupportEvent::Supports(lower, true), SupportEvent::SupportedBy(lower, true)]);
    // The other worker stands still; a heartbeat of a node that assumes as many workers as its own has no
    // effect.
    let strange = PeerLane { node: NodeId(2), worker: 0, workers: 1 };
    one.on_heartbeat(
        at(450),
        &heard(
            strange,
            NodeHeartbeat { incarnation: 5, sent: 1, is_healthy: true, ..NodeHeartbeat::default() },
        ),
    );
    assert_eq!(one.take_events(), []);
}

/// Lanes are intervals of one order of the groups, so few pairs share groups.
#[test]
fn pairs_of_lanes_that_share_groups_are_few() {
    for (here, there, most) in [(1, 1, 1), (2, 3, 4), (4, 6, 8), (8, 8, 8), (5, 32, 36), (256, 255, 510)] {
        let mut pairs: Vec<_> = (1..200_000)
            .map(GroupId)
            .map(|group| (worker_of(group, here), worker_of(group, there)))
            .collect();
        pairs.sort_unstable();
        pairs.dedup();
        assert!(pairs.len() <= most, "{here} and {there}: {}", pairs.len());
    }
}

/// If every answer were answered at once, two nodes would send heartbeats as fast as the wire between them
/// allows.
#[test]
fn a_beat_is_answered_at_once_only_by_one_that_has_been_silent() {
    let (mut one, mut two) = (one_of(11, TWO), one_of(22, ONE));
    two.on_heartbeat(at(100), &heard(ONE, beat(&mut one, 100)));
    assert_eq!(two.next_deadline(), at(100), "it has not beaten yet");
    one.on_heartbeat(at(100), &heard(TWO, beat(&mut two, 100)));
    assert_eq!(one.next_deadline(), at(200), "it has just beaten");
}

#[test]
fn who_hear_each_other_support_each_other_and_a_lease_ends_before_the_promise() {
    let (mut one, mut two) = friends();
    let (asked, kept) = (at(300), one.support_until(TWO.node, GROUP));
    assert!(kept > asked + T * 9 / 10 && kept < asked + T * 10 / 11, "{kept:?}");
    // Without heartbeats, the lease ends first, then the support.
    assert_eq!(two.next_deadline(), at(1500));
    told(&mut two);
    two.expire(at(1900));
    assert_eq!(told(&mut two), [SupportEvent::Supports(ONE, false), SupportEvent::SupportedBy(ONE, false)]);
    told(&mut one);
    one.expire(at(900));
    assert_eq!(told(&mut one), [SupportEvent::Supports(TWO, false), SupportEvent::SupportedBy(TWO, false)]);
    assert_eq!(one.support_until(TWO.node, GROUP), Time(0));
}

#[test]
fn a_group_that_means_another_log_of_a_node_is_tied_to_nobody() {
    let (one, _) = friends();
    assert_eq!(tie(&one, TWO), (true, true));
    assert_eq!(
        both(one.support_with(TWO.node, LogId(8), GROUP)),
        (false, false),
        "what speaks now is not what the group knows"
    );
}

#[test]
fn who_hears_nobody_is_not_supported() {
    let (mut one, mut two) = friends();
    // Two's heartbeats are lost from now on; one's are not.
    for ms in (500..2000).step_by(100) {
        let mine = beat(&mut one, ms);
        two.on_heartbeat(at(ms + 1000), &heard(ONE, mine));
        two.expire(at(ms + 1000));
        one.expire(at(ms));
    }
    assert_eq!(tie(&one, TWO), (false, false));
    assert_eq!(tie(&two, ONE), (false, false), "it was heard, and did not hear");
}

#[test]
fn a_gap_in_a_promise_is_seen_even_by_who_did_not_look() {
    let (mut one, mut two) = friends();
    two.expire(at(2000));
    told(&mut two);
    // Heartbeats arrive again. One has not checked its clock meanwhile, and first learns of the new support.
    told(&mut one);
    let theirs = beat(&mut two, 2000);
    one.on_heartbeat(at(1000), &heard(TWO, theirs));
    let mine = beat(&mut one, 1100);
    two.on_heartbeat(at(2100), &heard(ONE, mine));
    let theirs = beat(&mut two, 2100);
    one.on_heartbeat(at(1100), &heard(TWO, theirs));
    assert_eq!(told(&mut one), [SupportEvent::SupportedBy(TWO, false), SupportEvent::SupportedBy(TWO, true)]);
}

#[test]
fn one_that_is_not_well_is_let_go_at_once_and_counts_on_nothing_that_it_asked_for_before() {
    let (mut one, mut two) = friends();
    let older = beat(&mut two, 1500);
    one.set_health(at(450), Health::Stalled);
    assert_eq!((tie(&one, TWO).1, one.support_until(TWO.node, GROUP)), (false, Time(0)));
    let sigh = beat(&mut one, 450);
    told(&mut two);
    two.on_heartbeat(at(1450), &heard(ONE, sigh));
    assert_eq!(told(&mut two), [SupportEvent::Supports(ONE, false)]);
    one.set_health(at(460), Health::Healthy);
    one.on_heartbeat(at(460), &heard(TWO, older));
    assert!(!tie(&one, TWO).1, "that was promised before");
    converse(&mut one, &mut two, 600, 800);
    assert_eq!(tie(&one, TWO), (true, true));
}

#[test]
fn another_life_is_not_heard_before_what_was_promised_to_the_former_is_over() {
    let (_, mut two) = friends();
    let mut reborn = one_of(12, TWO);
    let cry = beat(&mut reborn, 0);
    told(&mut two);
    two.on_heartbeat(at(1410), &heard(ONE, cry));
    assert_eq!((tie(&two, ONE).0, told(&mut two).len()), (true, 0));
    two.expire(at(1900));
    assert_eq!(tie(&two, ONE), (false, false));
    told(&mut two);
    let cry = beat(&mut reborn, 100);
    two.on_heartbeat(at(2000), &heard(ONE, cry));
    assert_eq!(beat(&mut two, 2000).your_incarnation, 12);
}

/// A replica that has not been notified yet would answer the next heartbeat as fortifying, by the new support
/// as far as its leader can see, and be free when the end of the old one reaches it.
#[test]
fn no_promise_begins_before_every_replica_knows_that_the_last_has_ended() {
    let (mut one, mut two) = friends();
    two.expire(at(2000));
    let events = two.take_events();
    assert!(events.contains(&SupportEvent::Supports(ONE, false)));
    for ms in [1000, 1100, 1200] {
        let mine = beat(&mut one, ms);
        two.on_heartbeat(at(ms + 1000), &heard(ONE, mine));
        assert!(!tie(&two, ONE).0 && !two.take_events().contains(&SupportEvent::Supports(ONE, true)));
        let theirs = beat(&mut two, ms + 1000);
        assert_eq!(theirs.supported_at, 0);
        one.on_heartbeat(at(ms), &heard(TWO, theirs));
    }
    // Nor does another incarnation begin one, or a node that is added anew.
    two.set_peers(at(2300), &[]);
    two.set_peers(at(2300), &[ONE]);
    let mine = beat(&mut one, 1300);
    two.on_heartbeat(at(2300), &heard(ONE, mine));
    assert!(!tie(&two, ONE).0);
    events.iter().for_each(|events| two.on_all_notified(*events));
    let theirs = beat(&mut two, 2400);
    one.on_heartbeat(at(1400), &heard(TWO, theirs));
    converse(&mut one, &mut two, 1500, 1700);
    assert!(tie(&two, ONE).0);
}

#[test]
fn a_beat_that_is_late_or_doubled_changes_nothing() {
    let (mut one, mut two) = friends();
    let first = beat(&mut one, 500);
    let second = beat(&mut one, 600);
    two.on_heartbeat(at(1600), &heard(ONE, second));
    let until = two.next_deadline();
    two.on_heartbeat(at(1700), &heard(ONE, first));
    two.on_heartbeat(at(1700), &heard(ONE, second));
    assert_eq!(two.next_deadline(), until);
}

#[test]
fn nobody_is_beaten_for_and_nothing_is_due_where_no_group_is_shared() {
    let mut one = one_of(11, TWO);
    one.set_peers(at(1), &[]);
    assert_eq!((one.next_deadline(), one.due_heartbeats(at(5)).count()), (Time::NEVER, 0));
}

#[test]
fn a_beat_that_left_as_the_clock_began_gives_no_more_than_any_other() {
    let (mut one, mut two) = (one_of(1, TWO), one_of(2, ONE));
    let first = beat(&mut one, 0);
    assert_eq!(first.sent, 1, "0 stands for none");
    two.on_heartbeat(at(1), &heard(ONE, first));
    let answer =
        NodeHeartbeat { supported_at: 1, support_us: 500_000, support_epoch: 1, ..beat(&mut two, 1) };
    // Requested before it was unhealthy, if only just.
    one.set_health(at(0), Health::Stalled);
    one.set_health(at(0), Health::Healthy);
    one.on_heartbeat(at(2), &heard(TWO, answer));
    assert_eq!(one.support_until(TWO.node, GROUP), Time(0));
    let mut one = Liveness::new(SupportTerms { drift_ppm: 0, ..one.terms });
    one.set_peers(at(0), &[TWO]);
    one.on_heartbeat(at(2), &heard(TWO, answer));
    assert_eq!(one.support_until(TWO.node, GROUP), at(500));
}
