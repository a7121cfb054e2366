//! Which senders a worker accepts, and with which log it adds a node.

use super::*;
use crate::{Admission, Change, Reconfiguration, ReconfigureError};

/// A replica that has joined accepts requests only under a configuration that names its log.
#[test]
fn a_replica_that_joined_answers_only_who_means_it() {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    node.create(&[]);
    let last = EntryId::new(Term(8), Index(8));
    let ask = |node: &mut Node, term: u64, is_named: bool, to_log: u64| {
        let message = Message::Vote { term: Term(term), last, transfer: true };
        let record = Record { is_named, ..record_of(message) };
        node.receive(2, 5, to_log, Some(&record));
        node.settle();
        let said = node.said();
        said.iter().filter(|said| matches!(said, Message::VoteReply { granted: true, .. })).count()
    };
    assert_eq!(ask(&mut node, 9, false, 0), 0, "a straggler does not know who is here");
    assert_eq!(ask(&mut node, 10, false, 7), 0, "or it does, and its configuration does not");
    assert_eq!(ask(&mut node, 11, true, 6), 0, "that was another log");
    assert_eq!(node.dispatch.peers().refused(), 3);
    assert_eq!(ask(&mut node, 12, true, 7), 1);
}

/// A peer that does not have this node's log receives it; and a node is added with the log that it has, or
/// not at all.
#[test]
fn a_node_is_added_with_the_log_that_it_was_last_heard_with() {
    let files = MemoryFiles::new();
    let mut node = Node::alone(&files, u64::MAX);
    let wish = |node: &mut Node, change| {
        let wish = Reconfiguration { admission: Admission::Unchecked, ..Reconfiguration::of([change]) };
        let mut told = node.order(|reply| Order::Reconfigure { group: GROUP, wish, reply });
        node.settle();
        told.try_recv().ok()
    };
    let learner = Change::Learner(NodeId(2));
    assert_eq!(wish(&mut node, learner), Some(Err(ReconfigureError::UnknownPeer(NodeId(2)))));
    let asked = (PeerId(2), LogId(0));
    assert_eq!(node.wire.2.lock().unwrap().drain(..).collect::<Vec<_>>(), [asked]);
    node.receive(2, 5, 0, None);
    node.settle();
    assert!(node.wire.2.lock().unwrap().contains(&(PeerId(2), LogId(5))), "who asks is answered");
    let named = wish(&mut node, learner).unwrap().unwrap();
    assert_eq!(named.configuration.log_of(NodeId(2)), Some(LogId(5)));

    node.receive(2, 6, 7, None);
    let voter = Change::Voter(NodeId(2));
    assert_eq!(wish(&mut node, voter), Some(Err(ReconfigureError::OtherLog(NodeId(2)))));
    wish(&mut node, Change::Remove(NodeId(2))).unwrap().unwrap();
    let again = wish(&mut node, learner).unwrap().unwrap();
    assert_eq!(again.configuration.log_of(NodeId(2)), Some(LogId(6)));
    let mut reopened = Node::open(&files.after_power_cut(|_, _| SectorFate::Old), u64::MAX);
    assert_eq!(reopened.status().unwrap().configuration, again.configuration);
}
