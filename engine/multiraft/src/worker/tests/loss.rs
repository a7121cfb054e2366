//! The operator's last resort: refused by default, and for another loss; then the only voter leads again with
//! what is left.

use raftwerk_frame::HardState;
use raftwerk_wal::OnDamage;

use super::*;
use crate::api::error::AcceptLossError;
use crate::api::status::{Loss, ReplicaKind};

/// A group of several voters, of which this node's log holds nothing but its bootstrap.
const GONE: GroupId = GroupId(0x5EED_1234_5678_9ABC);

fn opened(files: &MemoryFiles, accept_losses: bool) -> Node {
    Node::open_with(files, u64::MAX, |settings, options| {
        (settings.accept_losses, options.on_damage) = (accept_losses, OnDamage::Fence);
    })
}

impl Node {
    fn loss(&mut self) -> Option<Loss> {
        self.loss_of(GROUP)
    }

    fn found(&mut self, group: GroupId) -> Result<(), CreateError> {
        let initial_members = Configuration::of_voters([1, 2, 3].map(NodeId));
        let mut made = self.order(|reply| Order::Bootstrap { group, initial_members, reply });
        self.settle();
        made.try_recv().unwrap()
    }

    fn loss_of(&mut self, group: GroupId) -> Option<Loss> {
        let mut answer = self.order(|reply| Order::Loss { group, reply });
        self.turn(Duration::ZERO);
        answer.try_recv().unwrap().unwrap()
    }

    fn accept(&mut self, loss: Loss) -> Result<(), AcceptLossError> {
        let mut answer = self.order(|reply| Order::AcceptLoss { loss, reply });
        self.turn(Duration::ZERO);
        answer.try_recv().unwrap()
    }

    fn leads_within(&mut self, timeouts: u32) -> bool {
        for _ in 0..timeouts {
            self.turn(TIMEOUT);
            self.settle();
        }
        self.status().unwrap().role == Role::Leader
    }
}

#[test]
fn the_only_voter_stands_still_after_a_loss_until_an_operator_accepts_just_that_loss() {
    let files = MemoryFiles::new();
    let mut node = Node::alone(&files, u64::MAX);
    for _ in 0..20 {
        node.write(&[3; 3000]).unwrap();
    }
    assert_eq!(node.loss(), None);
    let slot = node.worker.groups.slot_of(GROUP).unwrap();
    let place = node.worker.lane.read(slot, Index(9), Index(9), 1).unwrap()[0].place;
    let damaged = files.after_power_cut(|_, _| SectorFate::Old);
    assert!(damaged.rot(&format!("lane-0/seg-{:016x}.log", place.segment), u64::from(place.offset) + 70, 1));

    let mut node = opened(&damaged, false);
    node.settle();
    let loss = node.loss().unwrap();
    assert_eq!((loss.last.index, loss.applied), (Index(8), Index(0)));
    assert!(!node.leads_within(10));
    assert_eq!(node.accept(loss), Err(AcceptLossError::Forbidden));
    assert!(!node.leads_within(10));

    let files = damaged.after_power_cut(|_, _| SectorFate::Old);
    let mut node = opened(&files, true);
    node.settle();
    let loss = node.loss().unwrap();
    let other = Loss { last: EntryId::new(Term(1), Index(7)), ..loss };
    assert_eq!(node.accept(other), Err(AcceptLossError::Other(loss)));
    assert_eq!(node.accept(Loss { group: GroupId(9), ..loss }), Err(AcceptLossError::None));
    assert!(!node.leads_within(10));
    // The loss is accepted, and the node stops before anything is written: it must be accepted again.
    assert_eq!(node.accept(loss), Ok(()));
    let files = files.after_power_cut(|_, _| SectorFate::Old);
    let mut node = opened(&files, true);
    node.settle();
    assert!(!node.leads_within(10));
    let loss = node.loss().unwrap();
    assert_eq!(node.accept(loss), Ok(()));
    assert!(node.leads_within(10));
    assert_eq!((node.loss(), node.accept(loss)), (None, Err(AcceptLossError::None)));
    let written = node.write(b"after").unwrap();
    assert_eq!(written.id.index, Index(10), "eight entries, the one that opens the term, and this");

    // The log records it now: after a restart, no operator has to accept anything.
    let files = files.after_power_cut(|_, _| SectorFate::Old);
    let mut node = opened(&files, false);
    node.settle();
    assert!(node.leads_within(6), "{:?}", node.status());
    assert!(node.status().unwrap().applied >= written.id.index);
}

/// The segment that names the group for the first time.
const NAMED_IN: &str = "lane-0/seg-0000000000000001.log";

/// The files of two groups; the batch in which one of them is named for the first time is damaged, from its header on.
fn damaged_where_one_was() -> MemoryFiles {
    let files = MemoryFiles::new();
    let mut node = Node::alone(&files, 4096);
    node.found(GONE).unwrap();
    assert_eq!(node.loss_of(GroupId(9)), None);
    for _ in 0..4 {
        node.write(&[1; 3000]).unwrap();
    }
    let content = files.content(NAMED_IN).unwrap();
    let found = content.windows(8).position(|bytes| bytes == GONE.0.to_le_bytes()).unwrap();
    let damaged = files.after_power_cut(|_, _| SectorFate::Old);
    assert!(damaged.rot(NAMED_IN, (found & !4095) as u64 + 9, 1));
    damaged
}

/// Damage may take all that a log holds of a group, so that nothing shows that it was here: then no group is
/// bootstrapped here any more, until an operator accepts the loss for it; and the lane keeps that record
/// after the damaged file is deleted.
#[test]
fn a_group_that_may_have_been_lost_without_a_trace_is_not_founded_anew_unless_an_operator_says_so() {
    let damaged = damaged_where_one_was();
    let mut node = opened(&damaged, false);
    node.settle();
    assert_eq!(node.worker.replicas().count(), 1, "nothing is left of the other");
    assert_eq!(node.found(GONE), Err(CreateError::Lost(GONE)));
    // The damaged segment is deleted, and with it all traces of the damage.
    drop(node);
    let mut node = opened(&damaged, true);
    node.settle();
    let loss = node.loss().unwrap();
    node.accept(loss).unwrap();
    assert!(node.leads_within(10));
    for _ in 0..200 {
        node.write(&[1; 3000]).unwrap();
    }
    assert!(damaged.content(NAMED_IN).is_none(), "{:?}", damaged.paths());
    let files = damaged.after_power_cut(|_, _| SectorFate::Old);
    let mut node = opened(&files, false);
    node.settle();
    assert_eq!(node.loss(), None);
    assert_eq!(node.found(GONE), Err(CreateError::Lost(GONE)));
    let lost = node.loss_of(GONE).unwrap();
    assert_eq!((lost.group, lost.last, lost.applied), (GONE, EntryId::default(), Index(0)));
    assert!(lost.fence > Term(0));
    assert_eq!(node.accept(lost), Err(AcceptLossError::Forbidden));
    // The node may join a group, like one that never had a replica of it.
    let mut made = node.order(|reply| Order::Join { group: GroupId(8), kind: ReplicaKind::Full, reply });
    node.settle();
    assert_eq!(made.try_recv().unwrap(), Ok(()));

    drop(node);
    let mut node = opened(&files, true);
    node.settle();
    assert_eq!(
        node.accept(Loss { fence: Term(lost.fence.0 + 1), ..lost }),
        Err(AcceptLossError::Other(lost))
    );
    // The caller is answered once the acceptance is durable, and it need not be repeated.
    let mut answer = node.order(|reply| Order::AcceptLoss { loss: lost, reply });
    node.turn(Duration::ZERO);
    assert!(answer.try_recv().is_err(), "nothing is durable yet");
    let early = node.files.after_power_cut(|_, _| SectorFate::Old);
    node.settle();
    assert_eq!(answer.try_recv().unwrap(), Ok(()));
    assert_eq!(node.loss_of(GONE), None);
    assert_eq!(opened(&early, true).found(GONE), Err(CreateError::Lost(GONE)));
    let files = node.files.after_power_cut(|_, _| SectorFate::Old);
    let mut node = opened(&files, false);
    node.settle();
    assert!(node.worker.groups.find(GONE).is_none(), "it is not here for that");
    assert_eq!(node.found(GroupId(9)), Err(CreateError::Lost(GroupId(9))), "it was said of the other");
    assert_eq!(node.found(GONE), Ok(()));
    assert_eq!(node.loss_of(GONE), None);
    assert_eq!(node.found(GroupId(u64::MAX)), Err(CreateError::Reserved(GroupId(u64::MAX))));
    assert_eq!(node.found(GroupId(u64::MAX - 1)), Err(CreateError::Reserved(GroupId(u64::MAX - 1))));
}

/// A lane that has lost state of unknown groups, in terms up to the one returned.
fn bereft() -> (Node, Term) {
    let damaged = damaged_where_one_was();
    let mut node = opened(&damaged, true);
    node.settle();
    let fence = node.loss_of(GONE).unwrap().fence;
    (node, fence)
}

impl Node {
    fn removes(&mut self, group: GroupId) {
        let mut gone = self.order(|reply| Order::Remove { group, reply });
        self.settle();
        assert_eq!(gone.try_recv(), Ok(Ok(())));
    }

    fn joins(&mut self, group: GroupId) -> (Term, Option<Term>) {
        let mut made = self.order(|reply| Order::Join { group, kind: ReplicaKind::Full, reply });
        self.settle();
        made.try_recv().unwrap().unwrap();
        self.fenced(group)
    }

    fn fenced(&self, group: GroupId) -> (Term, Option<Term>) {
        let replica = self.worker.groups.find(group).unwrap();
        let fence = self.worker.lane.fence(replica.slot).filter(|_| replica.core.is_fenced());
        (replica.core.term(), fence)
    }
}

/// A configuration may name this very log, and a lost replica may have voted: the new one grants no vote
/// before its repair.
#[test]
fn who_joins_where_it_may_have_been_lost_is_fenced_from_the_beginning() {
    let (mut node, fence) = bereft();
    let stepped_over = (fence.next(), Some(fence));
    assert_eq!(node.joins(GONE), stepped_over);
    let files = node.files.after_power_cut(|_, _| SectorFate::Old);
    let mut node = opened(&files, true);
    node.settle();
    assert_eq!(node.fenced(GONE), stepped_over);
    let is_joined = |node: &Node| {
        node.worker.groups.find(GONE).unwrap().core.origin() != raftwerk_raft::Origin::InitialMember
    };
    assert!(is_joined(&node));
    // The loss is the one reported before, though the replica is here now.
    let loss = node.loss_of(GONE).unwrap();
    assert_eq!((loss.fence, loss.last), (fence, EntryId::default()));

    // A replica removed here since is recorded with its hard state; that an earlier one may have voted more
    // is recorded, too.
    node.removes(GONE);
    assert_eq!((node.loss_of(GONE), node.found(GONE)), (Some(loss), Err(CreateError::Lost(GONE))));
    assert_eq!(node.joins(GONE), stepped_over);
}

/// A node on which a replica voted in term 7 and was removed; then damage took the vote, and left the group's
/// id.
fn bereft_of_a_vote() -> Node {
    let files = MemoryFiles::new();
    let mut node = Node::alone(&files, u64::MAX);
    node.found(GONE).unwrap();
    let slot = node.worker.groups.slot_of(GONE).unwrap();
    node.worker.lane.hard_state(slot, HardState { term: Term(7), vote: Some(NodeId(2)) }).unwrap();
    node.write(b"somebody else's").unwrap();
    node.removes(GONE);
    assert_eq!((node.loss_of(GONE), node.found(GONE)), (None, Err(CreateError::Removed(GONE))));
    node.write(b"which vouches for what came before").unwrap();
    drop(node);
    rot_hard_state(&files, GONE);
    let mut node = opened(&files, true);
    node.settle();
    node
}

/// Damages the body of the last record of a group's term and vote: its header still holds the group's id.
fn rot_hard_state(files: &MemoryFiles, group: GroupId) {
    let content = files.content(NAMED_IN).unwrap();
    let is_it = |at: &usize| content[at - 4] == 2 && content[*at..at + 8] == group.0.to_le_bytes();
    let at = (4096..content.len() - 48).rfind(is_it).unwrap();
    assert!(files.rot(NAMED_IN, at as u64 + 32, 1));
}

/// The hard state of a removed replica holds for the next one, which grants no vote if some of it was lost.
#[test]
fn who_joins_where_a_vote_of_an_earlier_replica_was_lost_is_fenced_from_the_beginning() {
    let mut node = bereft_of_a_vote();
    assert!(node.worker.groups.find(GONE).is_none());
    assert_eq!(node.found(GONE), Err(CreateError::Lost(GONE)));
    assert_eq!(node.loss_of(GroupId(9)), None, "nobody else has lost anything");
    let stepped_over = (Term(8), Some(Term(7)));
    assert_eq!(node.joins(GONE), stepped_over);
    let files = node.files.after_power_cut(|_, _| SectorFate::Old);
    let mut node = opened(&files, true);
    node.settle();
    assert_eq!(node.fenced(GONE), stepped_over);
    // The replica is removed before a leader has repaired it, and joins again.
    node.removes(GONE);
    let files = node.files.after_power_cut(|_, _| SectorFate::Old);
    let mut node = opened(&files, true);
    node.settle();
    assert_eq!(node.found(GONE), Err(CreateError::Lost(GONE)));
    assert_eq!(node.joins(GONE), stepped_over);
}

#[test]
fn an_operator_may_live_with_the_lost_vote_of_a_removed_replica() {
    let mut node = bereft_of_a_vote();
    let lost = node.loss_of(GONE).unwrap();
    assert_eq!(lost, Loss { group: GONE, fence: Term(7), last: EntryId::default(), applied: Index(0) });
    let mut answer = node.order(|reply| Order::AcceptLoss { loss: lost, reply });
    node.settle();
    assert_eq!(answer.try_recv().unwrap(), Ok(()));
    let files = node.files.after_power_cut(|_, _| SectorFate::Old);
    let mut node = opened(&files.after_power_cut(|_, _| SectorFate::Old), true);
    node.settle();
    assert_eq!(node.loss_of(GONE), None);
    assert_eq!(node.joins(GONE), (Term(0), None));
    let mut node = opened(&files, true);
    node.settle();
    assert_eq!(node.found(GONE), Ok(()));
}

/// The record of the loss is damaged itself: the loss was of terms before that.
#[test]
fn a_lane_that_lost_the_note_of_what_it_lost_goes_on_knowing_that_it_did() {
    let (mut node, fence) = bereft();
    let whole = node.loss().unwrap();
    node.accept(whole).unwrap();
    assert!(node.leads_within(10));
    node.write(b"which vouches for what came before").unwrap();
    let files = node.files.after_power_cut(|_, _| SectorFate::Old);
    drop(node);
    let note = GroupId(u64::MAX - 1 - u64::from(u16::MAX));
    let is_it =
        |content: &[u8], at: usize| content[at - 4] == 2 && content[at..at + 8] == note.0.to_le_bytes();
    let (path, at) = files
        .paths()
        .into_iter()
        .filter(|path| path.contains("/seg-"))
        .find_map(|path| {
            let content = files.content(&path).unwrap();
            (4096..content.len() - 48).rfind(|at| is_it(&content, *at)).map(|at| (path, at))
        })
        .unwrap();
    assert!(files.rot(&path, at as u64 + 32, 1));
    for _ in 0..2 {
        let mut node = opened(&files, false);
        node.settle();
        let known = node.loss_of(GONE).map(|loss| loss.fence);
        assert!(known >= Some(fence), "{known:?}");
        assert_eq!(node.found(GONE), Err(CreateError::Lost(GONE)));
    }
}

#[test]
fn who_joins_where_an_operator_lives_with_the_loss_is_not_fenced() {
    let (mut node, _) = bereft();
    let lost = node.loss_of(GONE).unwrap();
    let mut answer = node.order(|reply| Order::AcceptLoss { loss: lost, reply });
    node.settle();
    assert_eq!(answer.try_recv().unwrap(), Ok(()));
    assert_eq!(node.joins(GONE), (Term(0), None));
}

/// An acceptance covers only what was lost by then.
#[test]
fn a_later_loss_is_not_accepted_with_the_first() {
    let (mut node, _) = bereft();
    let lost = node.loss_of(GONE).unwrap();
    let mut answer = node.order(|reply| Order::AcceptLoss { loss: lost, reply });
    node.settle();
    assert_eq!(answer.try_recv().unwrap(), Ok(()));
    node.found(GONE).unwrap();
    let whole = node.loss().unwrap();
    node.accept(whole).unwrap();
    assert!(node.leads_within(10));
    node.write(&[1; 3000]).unwrap();
    node.write(&[1; 3000]).unwrap();
    // Of the two records of the group, the later one is the bootstrap.
    let mut found = None;
    for path in node.files.paths().into_iter().filter(|path| path.ends_with(".log")) {
        let content = node.files.content(&path).unwrap();
        let places = content.windows(8).enumerate().filter(|(_, bytes)| *bytes == GONE.0.to_le_bytes());
        found = places.map(|(at, _)| (path.clone(), at)).next_back().or(found);
    }
    let (path, at) = found.unwrap();
    let damaged = node.files.after_power_cut(|_, _| SectorFate::Old);
    drop(node);
    assert!(damaged.rot(&path, (at & !4095) as u64 + 9, 1));
    let mut node = opened(&damaged, true);
    node.settle();
    assert!(node.worker.groups.find(GONE).is_none());
    assert_eq!(node.found(GONE), Err(CreateError::Lost(GONE)));
}

/// The segment that holds the acceptance is deleted, and the acceptance remains.
#[test]
fn what_an_operator_lives_with_outlives_the_segment_that_it_was_written_to() {
    let (mut node, _) = bereft();
    let (lost, whole) = (node.loss_of(GONE).unwrap(), node.loss().unwrap());
    let mut answer = node.order(|reply| Order::AcceptLoss { loss: lost, reply });
    node.settle();
    assert_eq!(answer.try_recv().unwrap(), Ok(()));
    let files = node.files.after_power_cut(|_, _| SectorFate::Old);
    let says_so = |path: &&String| {
        let content = files.content(path).unwrap();
        path.contains("/seg-") && content.windows(8).any(|bytes| bytes == GONE.0.to_le_bytes())
    };
    let segment = files.paths().iter().rfind(says_so).unwrap().clone();
    drop(node);
    let mut node = Node::open_with(&files, 4096, |settings, options| {
        (settings.accept_losses, options.on_damage) = (true, OnDamage::Fence);
    });
    node.settle();
    node.accept(whole).unwrap();
    assert!(node.leads_within(10));
    for _ in 0..200 {
        node.write(&[1; 3000]).unwrap();
    }
    assert!(node.files.content(&segment).is_none(), "{segment}: {:?}", node.files.paths());
    let files = node.files.after_power_cut(|_, _| SectorFate::Old);
    drop(node);
    let mut node = opened(&files, false);
    node.settle();
    assert_eq!(node.found(GroupId(9)), Err(CreateError::Lost(GroupId(9))));
    assert_eq!(node.found(GONE), Ok(()));
}
