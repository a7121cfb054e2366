//! Timeouts of snapshot transfers: how long the sender waits for the receiver.

use super::transfers::{Follower, asked, beat, install, leader, say, take_all, write};
use super::*;
use crate::worker::storage::chunk::WINDOW_CHUNKS;
use crate::worker::storage::sending::{PATIENCE, RETRY};

const BEAT: Duration = Duration::from_millis(100);

fn checkpoints(node: &Node) -> u64 {
    node.worker.env.metrics.read().checkpoints
}

/// A leader, and a follower that has received the whole file, with its last acknowledgement.
fn whole() -> (Node, Term, Follower, Head) {
    let (mut node, term) = leader(|_, _| ());
    let mut follower = asked(&mut node, term);
    let last = take_all(&mut node, term, &mut follower);
    (node, term, follower, last)
}

#[test]
fn a_question_is_repeated_when_its_time_has_come_and_not_a_turn_later() {
    let (mut node, term) = leader(|_, _| ());
    let slot = node.worker.groups.slot_of(GROUP).unwrap();
    node.worker.start_transfer(slot, NodeId(3));
    drop(node.wire.3.lock().unwrap().drain(..));
    let deadline = node.worker.transfers.next_deadline();
    assert_eq!(deadline, node.now + RETRY);
    node.hear(2, Message::HeartbeatAck { term, round: 0, fortifies: false, quiesce: false });
    node.turn(RETRY);
    assert!(node.worker.transfers.next_deadline() > node.now, "it is not the past that is waited for");
}

#[test]
fn a_follower_that_says_that_it_has_all_of_a_file_is_waited_for() {
    let (mut node, term, _follower, last) = whole();
    let made = checkpoints(&node);
    let mut passed = Duration::ZERO;
    while passed < 2 * PATIENCE {
        write(&mut node, term, 2048);
        beat(&mut node, term);
        say(&node, &last);
        passed += BEAT;
    }
    assert_eq!(checkpoints(&node), made, "its file is kept");
}

#[test]
fn a_follower_that_stops_to_catch_up_keeps_nothing_for_long() {
    let (mut node, term, mut follower, _) = whole();
    install(&mut node, &mut follower, term);
    for _ in 0..15 {
        write(&mut node, term, 1024);
        beat(&mut node, term);
    }
    follower.matched = follower.matched.next();
    let matched = follower.matched;
    node.hear(3, Message::AppendAck { term, matched, progress_epoch: 0 });
    let mut passed = Duration::ZERO;
    while node.status().unwrap().compacted.index <= matched {
        write(&mut node, term, 2048);
        beat(&mut node, term);
        passed += BEAT;
        assert!(passed < 2 * PATIENCE, "what it lacks is kept still");
    }
    assert!(passed > PATIENCE / 2, "it was given time: {passed:?}");
}

#[test]
fn a_transfer_is_over_when_its_follower_has_caught_up_and_not_before() {
    let (mut node, term, mut follower, _) = whole();
    write(&mut node, term, 1024);
    install(&mut node, &mut follower, term);
    (0..12).for_each(|_| beat(&mut node, term));
    assert_ne!(node.worker.transfers.next_deadline(), Time::NEVER, "it lacks an entry");
    let matched = node.status().unwrap().last.index;
    node.hear(3, Message::AppendAck { term, matched, progress_epoch: 0 });
    (0..12).for_each(|_| beat(&mut node, term));
    assert_eq!(node.worker.transfers.next_deadline(), Time::NEVER);
}

/// Chunks sent since the last call, without those that are empty.
fn sent(node: &Node) -> u64 {
    let sent = node.wire.3.lock().unwrap().drain(..).filter(|(_, bytes)| *bytes > 0).count();
    sent as u64
}

#[test]
fn silence_halves_the_window() {
    let (mut node, term) = leader(|_, _| ());
    let mut follower = asked(&mut node, term);
    node.settle();
    assert_eq!(sent(&node), WINDOW_CHUNKS);
    (0..6).for_each(|_| beat(&mut node, term));
    let answers = follower.take(&node, 0);
    assert_eq!(answers.len(), 1, "it is asked what it has");
    say(&node, &answers[0]);
    node.settle();
    assert_eq!(sent(&node), WINDOW_CHUNKS / 2);
}

#[test]
fn a_gap_that_is_known_is_sent_once() {
    let (mut node, term) = leader(|_, _| ());
    let mut follower = asked(&mut node, term);
    node.settle();
    let chunk = node.wire.3.lock().unwrap().drain(..).next().unwrap();
    // Each chunk behind the gap causes the same reply.
    node.wire.3.lock().unwrap().push((Head { offset: 1, ..chunk.0 }, chunk.1));
    let answers = follower.take(&node, 1);
    assert_eq!(
        answers.iter().map(|answer| (answer.is_start, answer.offset)).collect::<Vec<_>>(),
        [(true, 0)]
    );
    say(&node, &answers[0]);
    node.settle();
    assert_eq!(sent(&node), 0);
}
