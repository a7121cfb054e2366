//! What must hold of entries as they become durable: the rule `log matching`.
//!
//! What is not here: what a log is as a whole (`shadow`).

use raftwerk_frame::frame::{Entries, EntryKind, FrameHeader};
use raftwerk_frame::{Configuration, Term};

use super::{Checked, Durable, GroupWatch, Violation, Watch, ensure};
use crate::ledger::hash_of;

/// Entries that a witness gets as ids alone, and holds nothing of: as far as they are known, they follow what they follow
/// elsewhere; and no configuration is among them.
pub(super) fn spans_match(
    group: &GroupWatch,
    header: &FrameHeader,
    mut before: Option<Term>,
    whose: &str,
) -> Checked {
    for index in header.index.0..=header.last_index().0 {
        let known = group.entries.get(&(index, header.term)).and_then(|entry| entry.before);
        ensure!(
            known.is_none() || before.is_none() || known == before,
            "log matching",
            "{whose}: is told of {index}@{} after {before:?}, and elsewhere it is after {known:?}",
            header.term.0
        );
        ensure!(
            !group.configurations.contains_key(&(index, header.term)),
            "configurations are told",
            "{whose}: {index}@{} is a configuration, and withheld",
            header.term.0
        );
        before = Some(header.term);
    }
    Ok(())
}

impl Watch {
    /// The watch has seen all frames of a durable batch. Batches are what is durable as a whole: entries that one of them cuts off and the
    /// next is to write again are gone if that does not come.
    pub(crate) fn batch_ends(&mut self) -> Checked {
        for ((node, group), before) in std::mem::take(&mut self.begun) {
            let Some(watch) = self.replicas.get(&(node, group.0)) else { continue };
            if watch.loss.is_some() {
                // What was on its way when the loss was found becomes durable behind it, and is gone all the same.
                continue;
            }
            let now = &watch.shadow;
            let (was, last) = (before.last(), now.last());
            ensure!(
                last >= was || now.base != before.base || now.term_at(last) != before.term_at(last),
                "cut off is replaced",
                "n{} {group}: a batch takes {} to {was} away, and has nothing in their place",
                node + 1,
                last + 1
            );
        }
        Ok(())
    }
}

/// Entries with the same id are the same, and so are those before them.
pub(super) fn entries_match(
    group: &mut GroupWatch,
    node: usize,
    header: &FrameHeader,
    body: &[u8],
    mut before: Option<Term>,
    whose: &str,
) -> Checked {
    for entry in Entries::new(header, body) {
        let hash = hash_of(entry.payload) ^ entry.kind as u64;
        if entry.kind == EntryKind::Membership
            && let Ok(configuration) = Configuration::decode(entry.payload)
        {
            group.configurations.entry((entry.id.index.0, entry.id.term)).or_insert(configuration);
        }
        let first = group.entries.entry((entry.id.index.0, entry.id.term));
        let first = first.or_insert(Durable { hash, before, nodes: 0 });
        first.nodes |= 1 << node;
        let same_before = first.before.is_none() || before.is_none() || first.before == before;
        ensure!(
            first.hash == hash && same_before,
            "log matching",
            "{whose}: {} is not what it is elsewhere: {hash:x} after {before:?}, {:x} after {:?}",
            entry.id,
            first.hash,
            first.before
        );
        first.before = first.before.or(before);
        before = Some(entry.id.term);
    }
    Ok(())
}
