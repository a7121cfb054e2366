//! Frames as they come with a message and go with one.

use bytes::{Bytes, BytesMut};
use raftwerk_frame::frame::{
    ENTRY_OVERHEAD_BYTES, Entries, EntryKind, FrameHeader, FrameKind, FrameWriter, HEADER_BYTES, withheld,
};
use raftwerk_frame::{Configuration, EntryId, GroupId, Index};
use raftwerk_raft::{AppendPlan, Group};

use crate::api::status::ReplicaKind;

/// A frame received with a message: its header, and all its bytes.
pub(in crate::worker) type ArrivedFrame<'a> = (FrameHeader, &'a [u8]);

/// The number of entries from `first` to `last`.
pub(in crate::worker) const fn span(first: Index, last: Index) -> u64 {
    (last.0 + 1).saturating_sub(first.0)
}

/// Whether a replica accepts a frame: a witness none with payloads, any other replica none that withholds
/// them.
pub(in crate::worker) fn suits(header: &FrameHeader, body: &[u8], kind: ReplicaKind) -> bool {
    let is_witness = kind == ReplicaKind::Witness;
    match header.kind {
        FrameKind::Withheld => is_witness,
        FrameKind::Entries if is_witness => {
            Entries::new(header, body).all(|entry| entry.kind == EntryKind::Membership)
        }
        FrameKind::Entries => true,
        _ => false,
    }
}

/// The entries of an append plan (`AppendPlan`) as sent to a witness, and the last of them: as many frames as
/// the plan allows, at least one. Adjacent entries of a term share a frame; each configuration has its own.
pub(in crate::worker) fn withheld_frames(
    group: GroupId,
    core: &Group,
    append_plan: &AppendPlan,
) -> Option<(Bytes, Index)> {
    let mut out = BytesMut::new();
    let mut first = append_plan.first;
    while first <= append_plan.last && (out.is_empty() || (out.len() as u64) < append_plan.bytes_max) {
        let term = core.term_at(first)?;
        let next = core.memberships().find(|(index, _)| *index >= first);
        if let Some((_, configuration)) = next.filter(|(index, _)| *index == first) {
            out.extend_from_slice(&configuration_frame(group, EntryId::new(term, first), configuration)?);
            first = first.next();
            continue;
        }
        let run_end = core.runs().iter().find(|run| run.first > first).map(|run| run.first.prev());
        let before_next = next.map(|(index, _)| index.prev());
        let last = [run_end, before_next].into_iter().flatten().fold(append_plan.last, Index::min);
        let count = u32::try_from(span(first, last)).unwrap_or(u32::MAX);
        out.extend_from_slice(&withheld(group, EntryId::new(term, first), count)?);
        first = first.plus(u64::from(count));
    }
    Some((out.freeze(), first.prev()))
}

/// A configuration entry in a frame of its own.
fn configuration_frame(group: GroupId, id: EntryId, configuration: &Configuration) -> Option<Vec<u8>> {
    let mut payload = Vec::new();
    configuration.encode(&mut payload);
    let mut out = vec![0; HEADER_BYTES + ENTRY_OVERHEAD_BYTES + payload.len()];
    let mut writer = FrameWriter::new(&mut out, group, id)?;
    let fits = writer.push(EntryKind::Membership, &payload);
    writer.finish().filter(|_| fits)?;
    Some(out)
}
