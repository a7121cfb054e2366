//! The operator's way out: refused by default, and of something else; then the only voter leads again with what is left.

use raftwerk_wal::OnDamage;

use super::*;
use crate::loss::{AcceptLossError, Loss};

fn opened(files: &MemoryFiles, accept_losses: bool) -> Node {
    Node::open_with(files, u64::MAX, |settings, options| {
        (settings.accept_losses, options.on_damage) = (accept_losses, OnDamage::Fence);
    })
}

impl Node {
    fn loss(&mut self) -> Option<Loss> {
        let mut answer = self.order(|reply| Order::Loss { group: GROUP, reply });
        self.turn(Duration::ZERO);
        answer.try_recv().unwrap()
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
    let slot = node.worker.slot_of(GROUP).unwrap();
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
    // It is told, and stops before anything came of it: it has to be told again.
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

    // The log says so now: nobody has to be told after a restart.
    let files = files.after_power_cut(|_, _| SectorFate::Old);
    let mut node = opened(&files, false);
    node.settle();
    assert!(node.leads_within(6), "{:?}", node.status());
    assert!(node.status().unwrap().applied >= written.id.index);
}
