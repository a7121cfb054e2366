//! What goes on while the disk has no room for writes: elections, membership changes, and compaction, which
//! ends the shortage.

use super::*;
use crate::{Change, Consistency, ReadOptions, Reconfiguration};

#[test]
fn on_a_full_disk_leaders_are_elected_members_change_and_compaction_makes_room_by_itself() {
    let files = MemoryFiles::new();
    let mut node = Node::open(&files, u64::MAX);
    node.create(&[1, 2, 3]);
    let lead = |node: &mut Node| {
        for _ in 0..12 {
            node.turn(TIMEOUT / 2);
            let term = node.status().unwrap().term;
            node.hear(2, Message::PreVoteReply { term: Term(term.0 + 1), granted: true });
            node.hear(2, Message::PreVoteReply { term, granted: true });
            node.hear(2, Message::VoteReply { term, granted: true });
            node.settle();
            if node.status().unwrap().role == Role::Leader {
                return node.status().unwrap().term;
            }
        }
        panic!("no leader: {:?}", node.status());
    };
    let acknowledge = |node: &mut Node, term: Term| {
        for _ in 0..3 {
            let matched = node.status().unwrap().last.index;
            node.hear(2, Message::AppendAck { term, matched, progress_epoch: 0 });
            node.settle();
        }
    };
    let term = lead(&mut node);
    acknowledge(&mut node, term);
    leave_room(&files, 2000);
    let mut refused = None;
    while refused.is_none() {
        let mut answer = node.propose(&[7; 4096]);
        node.settle();
        refused = answer.try_recv().ok().and_then(Result::err);
    }
    assert_eq!(refused, Some(ProposeError::StorageFull));

    // Node 3 requests votes in a later term; this node campaigns again, and wins.
    node.hear(3, Message::Vote { term: Term(term.0 + 7), last: EntryId::default(), transfer: true });
    node.settle();
    assert_ne!(node.status().unwrap().role, Role::Leader);
    let later = lead(&mut node);
    assert!(later > term);
    acknowledge(&mut node, later);
    let mut still = node.propose(b"a write");
    node.settle();
    assert_eq!(still.try_recv().unwrap(), Err(ProposeError::StorageFull));

    // The third voter is removed: that is an entry, and is appended.
    let wish = Reconfiguration::of([Change::Remove(NodeId(3))]);
    let before = node.status().unwrap().last.index;
    let _changed = node.order(|reply| Order::Reconfigure { group: GROUP, wish, reply });
    node.settle();
    acknowledge(&mut node, later);
    assert!(node.worker.upkeep.is_full(), "it is still full");
    let status = node.status().unwrap();
    assert!(status.last.index > before, "the change is in the log");
    assert!(!status.configuration.contains(NodeId(3)), "{:?}", status.configuration);
    assert_eq!(status.commit, status.last.index);
    // What is applied is checkpointed without a request, which shortens the log.
    let healed = (0..40).any(|_| {
        let mut answer = node.propose(b"again");
        node.turn(TIMEOUT / 10);
        node.settle();
        acknowledge(&mut node, later);
        matches!(answer.try_recv(), Ok(Ok(_)))
    });
    assert!(healed, "it heals by itself: {:?}", node.worker.lane.stats());
    assert!(node.status().unwrap().compacted.index > Index(0));
}

/// Reads the number of writes that the state holds.
fn reads(node: &mut Node, level: Consistency) -> u64 {
    let demand = ReadOptions::new(level).demand(GROUP).unwrap();
    let (reply, mut answer) = oneshot::channel();
    let (group, query) = (GROUP, Bytes::new());
    assert!(node.inbox.request(Request::Read { group, query, demand, reply }).is_ok());
    node.settle();
    let read = answer.try_recv().expect("every read ends").expect("and needs no room");
    u64::from_le_bytes(read.reply[..].try_into().expect("a count"))
}

/// A read needs no room in the log, of whatever kind it is.
#[test]
fn on_a_full_disk_reads_are_answered() {
    let files = MemoryFiles::new();
    let mut node = Node::alone(&files, u64::MAX);
    leave_room(&files, 1000);
    let written = (0..100).take_while(|_| node.write(&[7; 4096]).is_ok()).count() as u64;
    assert!(node.worker.upkeep.is_full() && written > 0);
    assert!(!node.worker.awaits_segment(), "there will be none");
    for level in [Consistency::Strong, Consistency::Eventual] {
        assert_eq!(reads(&mut node, level), written);
    }
    assert_eq!(node.write(b"more"), Err(ProposeError::StorageFull));
}

/// A turn may bring more than the present segments hold. What has no certain place is refused at once: once
/// in the log, it could be neither acknowledged nor refused, and reads would wait for it.
#[test]
fn where_the_disk_gets_full_within_a_turn_every_write_ends_and_reads_are_answered() {
    let files = MemoryFiles::new();
    let mut node = Node::alone(&files, u64::MAX);
    leave_room(&files, 1000);
    let answers: Vec<_> = (0..60).map(|_| node.propose(&[7; 4096])).collect();
    node.settle();
    let ended: Vec<_> =
        answers.into_iter().map(|mut answer| answer.try_recv().expect("every write ends")).collect();
    let written = ended.iter().take_while(|end| end.is_ok()).count();
    assert!(written > 10, "what has a place is taken: {written}");
    assert!(ended[written..].iter().all(|end| *end == Err(ProposeError::StorageFull)) && written < 60);
    assert_eq!(reads(&mut node, Consistency::Strong), written as u64);
    // When there is room, writes are accepted again.
    files.limit(None);
    node.settle();
    assert!(node.write(b"more").is_ok());
}
