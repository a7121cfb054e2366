//! A receipt comes with the write, everything else with the sync.

use super::*;
use crate::relaxed::Received;

impl Node {
    fn propose_relaxed(&self, payload: &[u8]) -> oneshot::Receiver<Result<Received, ProposeError>> {
        let (reply, answer) = oneshot::channel();
        let payload = Bytes::copy_from_slice(payload);
        assert!(self.inbox.request(Request::ProposeRelaxed { group: GROUP, payload, reply }).is_ok());
        answer
    }

    fn write_relaxed(&mut self) -> EntryId {
        let mut answer = self.propose_relaxed(b"relaxed");
        self.settle();
        answer.try_recv().expect("it is written").unwrap().id
    }

    fn applied(&mut self) -> Index {
        self.status().unwrap().applied
    }
}

#[test]
fn a_relaxed_proposal_is_received_when_it_is_written_and_applied_when_it_is_durable() {
    let mut node = Node::alone(&MemoryFiles::new(), u64::MAX);
    let before = node.applied();
    let id = node.write_relaxed();
    assert!(id.index > before && node.applied() == before, "nothing is committed that is not durable");
    node.turn(Duration::from_millis(10));
    node.settle();
    assert_eq!(node.applied(), id.index, "the interval is over");
}

#[test]
fn a_write_of_the_usual_kind_takes_relaxed_ones_before_it_along() {
    let mut node = Node::alone(&MemoryFiles::new(), u64::MAX);
    let id = node.write_relaxed();
    let applied = node.write(b"durable").unwrap();
    assert!(applied.id > id);
    assert_eq!(node.applied(), applied.id.index);
}

#[test]
fn what_was_received_survives_the_process_and_perhaps_not_the_machine() {
    for is_power_cut in [false, true] {
        let mut files = MemoryFiles::new();
        let mut node = Node::alone(&files, u64::MAX);
        let kept = node.write(b"durable").unwrap().id;
        let id = node.write_relaxed();
        drop(node);
        if is_power_cut {
            files = files.after_power_cut(|_, _| SectorFate::Old);
        }
        let mut node = Node::open(&files, u64::MAX);
        let last = node.status().unwrap().last;
        assert_eq!(last, if is_power_cut { kept } else { id });
    }
}
