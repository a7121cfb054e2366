//! What opening a lane has found: the groups as recovered, and any damage.

use raftwerk_frame::{Configuration, EntryId, GroupId, HardState, Index, Term};

use crate::format::lsn::Lsn;
use crate::index::GroupLog;

/// A group as recovered from its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// The group.
    pub group: GroupId,
    /// Its latest term and vote.
    pub hard_state: HardState,
    /// The floor of a replica that joined its group: the furthest entry of an earlier replica's log here,
    /// zero if there was none. `None` for an initial member.
    pub floor: Option<EntryId>,
    /// It joined as a witness, or its log holds withheld entries.
    pub is_witness: bool,
    /// The entry after which the log begins.
    pub compacted: EntryId,
    /// The latest configuration in the log, committed or not.
    pub configuration: Configuration,
    /// The configuration at `compacted`, then that of every membership entry in the log with its index: the
    /// ones to revert to if such an entry is replaced.
    pub configurations: Vec<(Index, Configuration)>,
    /// The log's terms and the first index of each; empty if it has no entry.
    pub runs: Vec<(Term, Index)>,
    /// The last entry's index.
    pub last: Index,
    /// Part of this group's log or metadata was lost, in terms up to this one, and has not been replaced: the
    /// replica may have cast votes and acknowledged entries of which no record is left. See
    /// [`OnDamage::Fence`](crate::OnDamage::Fence).
    pub fence: Option<Term>,
    /// The loss was found just now.
    pub is_hit: bool,
}

/// A place where bytes that were once durable are damaged or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The damaged file, relative to the log directory.
    pub file: String,
    /// Where the damage was noticed.
    pub offset: u64,
    /// What is wrong there.
    pub what: &'static str,
    /// The groups that lost frames; empty if unknown, so any group of the lane.
    pub groups: Vec<GroupId>,
}

/// The place where an unfinished batch, never reported as durable, ended the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment file, relative to the log directory.
    pub file: String,
    /// Where the unfinished batch begins.
    pub offset: u64,
}

/// The result of opening a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments with valid batches.
    pub segments: usize,
    /// Valid batches.
    pub batches: u64,
    /// Frames in them.
    pub frames: u64,
    /// Bytes in them, padding included.
    pub bytes: u64,
    /// The last batch.
    pub last: Lsn,
    /// Whether the log ended in an unfinished batch.
    pub torn: Option<TornTail>,
    /// Segments after the end of the log.
    pub discarded_segments: usize,
    /// Reads of single pages that the device refused, and that were replaced by zeros; only with
    /// [`OnDamage::Fence`](crate::OnDamage::Fence). If durable batches lay there, `damage` lists them; except
    /// the last batches, which no later record covers: then `torn` is set, or nothing is.
    pub refused_pages: u64,
    /// The losses, in order; only with [`OnDamage::Fence`](crate::OnDamage::Fence). Stay in the report until
    /// the damaged segments are freed.
    pub damage: Vec<Damage>,
    /// Frames of unidentified groups were lost, in terms up to this one: there may have been groups of which
    /// nothing is left. Set by the opening that finds the loss, and not again.
    pub lost_unknown: Option<Term>,
}

impl RecoveredGroup {
    /// The group of a log, as far as the log is whole.
    pub(crate) fn of(log: &GroupLog) -> Self {
        assert!(log.base.index <= log.last, "a log ends at its base or after it");
        let mut configurations = vec![(log.base.index, log.base_configuration.clone())];
        configurations.extend_from_slice(log.memberships());
        Self {
            group: log.group,
            hard_state: log.hard_state,
            floor: log.floor,
            is_witness: log.is_witness() || log.has_withheld(),
            compacted: log.base,
            configuration: log.configuration_at(log.last).clone(),
            configurations,
            runs: log.runs(),
            last: log.last,
            fence: log.fence_term(),
            is_hit: false,
        }
    }
}
