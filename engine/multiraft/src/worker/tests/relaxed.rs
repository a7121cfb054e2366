//! A receipt comes with the write, everything else with the sync.

use super::*;
use crate::api::status::Received;

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

    /// The leader of term 4, node 2, sends a relaxed entry.
    fn hear_relaxed(&self, prev: EntryId) {
        let mut frames = vec![0; 128];
        let first = EntryId::new(Term(4), prev.index.next());
        let mut writer = FrameWriter::new(&mut frames, GROUP, first).unwrap();
        writer.relax();
        assert!(writer.push(EntryKind::Payload, b"relaxed"));
        let length = writer.finish().unwrap().frame_bytes();
        frames.truncate(length);
        let message = Message::Append { term: Term(4), prev, commit: Index(0), progress_epoch: 0 };
        let record = Record { body_bytes: length as u32, ..record_of(message) };
        self.hear_unit(2, UnitKind::Groups, 1, &[&record.encode()[..], &frames].concat());
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

#[test]
fn a_note_that_an_entry_is_written_leaves_only_where_no_sync_says_more() {
    let mut node = Node::open_with(&MemoryFiles::new(), u64::MAX, |settings, _| {
        settings.relaxed_sync_interval = Duration::from_secs(3600);
    });
    node.create(&[1, 2, 3]);
    let (mut notes, mut prev) = (Vec::new(), EntryId::default());
    for _ in 0..6 {
        node.hear_relaxed(prev);
        node.settle();
        prev = EntryId::new(Term(4), prev.index.next());
        notes.extend(node.said().into_iter().filter_map(|said| match said {
            Message::AppendWritten { matched, .. } => Some(matched.0),
            _ => None,
        }));
    }
    assert_eq!(notes, [2, 3, 4, 5, 6], "the first came with the term, which was synced");
}
