//! Snapshots on their way: a follower that needs one gets it, though its leader goes on.
//!
//! | rule | what |
//! |---|---|
//! | `a snapshot arrives` | between two nodes that live, hear each other and refuse nothing, no more is sent than a few times the image, and then it is installed |
//!
//! What is sent is read off the units (`engine/multiraft/src/worker/storage/chunk.rs`). Whatever makes a transfer begin anew with good reason, a death, a
//! cut, a disk that hangs, a refusal, a lane that has no room for what is kept, makes the count begin anew. What is not here: how small chunks are (`plan/callers.rs`).

use raftwerk_frame::wire::{UNIT_HEADER_BYTES, UnitKind};
use rustc_hash::FxHashMap;

use super::{World, group_id};
use crate::node::State;
use crate::watch::{Checked, Violation};

/// So many images may be sent before one is installed: some of it is lost on the way, or waited for in vain.
const IMAGES: u64 = 6;
/// Of a network where so many of a million messages are lost, doubled or overtaken, twice as many.
const POOR_PPM: u64 = 100_000;
/// And so many chunks, of images that are hardly more than a few.
const CHUNKS: u64 = 64;
/// The head of a snapshot's unit: its bytes, and what kinds of it there are.
const HEAD_BYTES: usize = 56;
const CHUNK: u8 = 1;
const REFUSAL: u8 = 3;

/// What was sent of a group's images from one node to another, without anything coming of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Shipped {
    bytes: u64,
    /// Of the largest image among them.
    image: u64,
    /// What it began with: both lives, the term, where the follower's log began, and how many transfers of the sender have
    /// yielded, since there was no room for what they need.
    began: (u32, u32, u64, u64, u64),
}

/// By sender, receiver and group.
pub(super) type Shipping = FxHashMap<(usize, usize, u64), Shipped>;

impl World<'_> {
    /// A unit leaves a node.
    pub(super) fn note_shipped(&mut self, from: usize, to: usize, unit: &[u8]) -> Checked {
        if unit.get(4) != Some(&(UnitKind::Snapshot as u8)) {
            return Ok(());
        }
        let Some(head) = unit.get(UNIT_HEADER_BYTES..UNIT_HEADER_BYTES + HEAD_BYTES) else { return Ok(()) };
        let word = |n: usize| {
            let bytes = head.get(8 + 8 * n..16 + 8 * n).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_le_bytes)
        };
        let (group, term, image) = (word(0), word(1), word(5));
        if head[0] == REFUSAL {
            self.asides.shipping.remove(&(to, from, group));
        }
        let begins = self.begins_at(to, group).filter(|_| head[0] == CHUNK);
        let Some(begins) = begins.filter(|_| self.is_undisturbed(from, to)) else {
            self.asides.shipping.remove(&(from, to, group));
            return Ok(());
        };
        let yielded = self.nodes[from].body.as_ref().map_or(0, |body| body.stats().transfers_yielded);
        let began = (self.nodes[from].life, self.nodes[to].life, term, begins, yielded);
        let first = Shipped { bytes: 0, image, began };
        let shipped = self.asides.shipping.entry((from, to, group)).or_insert(first);
        if shipped.began != began {
            *shipped = first;
        }
        shipped.image = shipped.image.max(image);
        shipped.bytes += (unit.len() - UNIT_HEADER_BYTES - HEAD_BYTES) as u64;
        let chunk = self.plan.settings.limits.chunk_bytes;
        // Whatever is lost, doubled or overtaken has a window sent again.
        let net = &self.plan.net;
        let poor = u64::from(net.drop_ppm + net.duplicate_ppm + net.reorder_ppm);
        let images = IMAGES + IMAGES * poor / POOR_PPM;
        if shipped.bytes > images * shipped.image + CHUNKS * chunk {
            let (bytes, image) = (shipped.bytes, shipped.image);
            let what = format!(
                "n{} has sent n{} {bytes} bytes of images of {image}, and none is installed: {}",
                from + 1,
                to + 1,
                self.describe(group as usize - 1)
            );
            return Err(Violation::new("a snapshot arrives", what));
        }
        Ok(())
    }

    /// Bytes of a group's snapshots that were sent, and of which nothing has come yet.
    pub(super) fn shipped_of(&self, group: usize) -> u64 {
        let id = group_id(group).0;
        let of = self.asides.shipping.iter().filter(|((_, _, of), _)| *of == id);
        of.map(|(_, shipped)| shipped.bytes).sum()
    }

    /// Where a replica's log begins, which a snapshot changes.
    fn begins_at(&self, at: usize, group: u64) -> Option<u64> {
        let id = group_id((group as usize).checked_sub(1).filter(|group| *group < self.plan.groups)?);
        let body = self.nodes[at].body.as_ref()?;
        let view = body.replicas(body.worker_of(id)).find(|view| view.group == id)?;
        Some(view.core.compacted().index.0)
    }

    /// Whether two nodes hear each other, and are well.
    fn is_undisturbed(&self, from: usize, to: usize) -> bool {
        let is_well = |at: usize| {
            let node = &self.nodes[at];
            let still = (0..node.rounds.len()).map(|worker| node.still_until(worker)).max().unwrap_or(0);
            node.state == State::Up
                && !node.is_fenced
                && !node.is_wiped
                && node.hangs_until.max(still) <= self.now
        };
        let hear = self.is_clear(from, to) && self.is_clear(to, from);
        is_well(from) && is_well(to) && hear
    }
}
