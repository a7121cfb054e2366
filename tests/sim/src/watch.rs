//! The invariants, checked after every step, and only where something changed.
//!
//! | name | what |
//! |---|---|
//! | `core 1` … `core 17` | the rules of one replica: `raftwerk_raft::invariant::check` |
//! | `one leader per term` | election safety (paper, section 5.2) |
//! | `follows its leader` | the node that a replica takes for its term's leader leads that term |
//! | `one vote per term` | a durable vote never changes within its term |
//! | `hands over` | a node that campaigns by its leader's request was asked by it, in the term before |
//! | `elected by a quorum` | a leader's term is on the disks of a quorum with a vote for it (section 5.2) |
//! | `acknowledged stays` | what a follower has acknowledged in a term, it keeps in that term |
//! | `counted as acknowledged` | what a leader counts for a follower, it has acknowledged in this term, and has on its disk |
//! | `commits its own term` | a leader's commit index moves to entries of its own term only (section 5.4.2, Figure 8) |
//! | `leader append-only` | a leader's log never shrinks in its term |
//! | `log matching` | equal entries have equal bytes and equal predecessors (section 5.3), read off the disks |
//! | `cut off is replaced` | no batch takes entries away without another in the place of one of them: the next may never come |
//! | `leader completeness` | a new leader holds everything committed (section 5.4.3) |
//! | `committed is final` | an index is committed with one term only |
//! | `durable on a quorum` | what is committed anywhere is on the disks of a quorum of the configuration in force |
//! | `dropped is committed` | no replica compacts its log beyond what it knows to be committed |
//! | `dropped is checkpointed` | and nothing that is not in a checkpoint on its disk, but for witnesses |
//! | `somebody holds it whole` | and on the disk of one of them that is no witness |
//! | `witnesses` | they are sent no payloads, ids only of what is durable with the leader or committed, and no request to campaign |
//! | `configurations are told` | none is withheld from a witness |
//! | `monotone` | term, commit and applied index never go back within a life |
//! | `applied is committed` | no machine sees what is not committed |
//! | `applied is durable` | no machine sees, and no core takes for durable, what was never on its own node's disk |
//! | `votes go to fresh logs` | votes and pre-votes are given to logs that are no older than the voter's (section 5.4.1) |
//! | `nothing leaves before it is durable` | votes, acknowledgements and terms in messages are on the sender's disk |
//! | `acknowledges what its leader has` | what a follower acknowledges is in the log of the leader that it answers |
//! | `snapshots replace what differs` | a snapshot drops nothing that follows its last entry in a log that has that entry |
//! | `configuration in force` | it is the latest in the log, or the latest committed one before the log's beginning |
//! | `one change at a time` | one configuration of a log is not committed, it may follow the one before, and the leader that appends it has committed in its term |
//! | `newcomers have caught up` | a new voter has acknowledged something to the leader that makes it one |
//! | `removed is removed` | a replica that gets a notice of removal, or acts on it: a committed configuration is without it, and no later one has it with a leader that serves it |
//! | `no vote, no entries` | a leader without a vote in the committed configuration takes in no more entries |
//! | `promises outlive a log` | a node that joins again is bound by term, vote and log of the replica that was there before |
//! | `created is durable` | a group that `create` has returned is on the disk |
//! | `durable is kept` | a node that opens again knows all that was durable |
//! | `opens` | a node with a whole disk opens, and reports no loss |
//! | `found is durable` | what a node finds under a name when it opens, and goes on with, has that name durably |
//! | `the unwilling do not ask` | a node of priority 0 asks no other whether it could lead |
//! | `bounds` | queues and buffers stay within their limits |
//! | `leases exclude` | a replica with a lease, by its own clock, knows all that is committed, and none has led a later term |
//! | `a segment may take its time` | a leader that waits for one, and is answered, goes on leading for 4 T |
//! | `rest is earned` | a leader lets its group rest only if all that support its node hold everything |
//! | `vouched for` | a node supports a worker only by signs of life of that worker; one with a disk that hangs leads no group |
//!
//! The ledger adds `one payload per index`, `applied once`, `applied in order`, `refused is refused`, `acknowledged is applied`, `reads
//! see what is committed` and `equal states`; the end of a run adds `linearizable`, `progress` and `convergence`, `what is read is given
//! back`, and, once that is judged, `the willing lead` (`world/preferring.rs`) and `a named loss` (`world/accepting.rs`). What readers at
//! the six levels add is listed at the head of `world/readers.rs`.

mod configurations;
mod damaged;
mod entries;
mod leaving;
mod lives;
mod load;

use std::collections::BTreeMap;

use raftwerk::drive::ReplicaView;
use raftwerk_frame::frame::{FrameHeader, FrameKind};
use raftwerk_frame::{Configuration, EntryId, GroupId, HardState, Index, LogId, NodeId, Term};
use raftwerk_raft::{Group, Role, invariant};
use rustc_hash::{FxHashMap, FxHashSet};

use self::configurations::{check_changes, check_in_force, check_removed, is_meant, is_quorum, is_voteless};
use self::damaged::{Loss, check_fenced};
use self::entries::{entries_match, spans_match};
use self::lives::{as_shown, monotone, new_leader};
pub(crate) use self::load::Bounds;
use crate::disk::Batch;
use crate::shadow::{Shadow, hard_state_of};

/// A rule that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// Its name.
    pub invariant: String,
    /// What was seen.
    pub what: String,
}

impl Violation {
    pub(crate) fn new(invariant: impl Into<String>, what: impl Into<String>) -> Self {
        Self { invariant: invariant.into(), what: what.into() }
    }
}

pub(crate) type Checked = Result<(), Violation>;

macro_rules! ensure {
    ($holds:expr, $rule:expr, $($what:tt)*) => {
        if !$holds {
            return Err(Violation::new($rule, format!($($what)*)));
        }
    };
}
use ensure;

/// What a replica looked like after its last turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Facts {
    hard_state: HardState,
    is_leader: bool,
    last: EntryId,
    commit: u64,
    applied: u64,
    compacted: u64,
    is_removed: bool,
    /// Leads, and has no vote in the committed configuration.
    is_voteless: bool,
}

/// What is known of a group as a whole.
#[derive(Default)]
struct GroupWatch {
    leaders: FxHashMap<Term, NodeId>,
    /// The term of every committed entry, by index from 1.
    committed: Vec<Term>,
    /// Every entry that was ever durable.
    entries: FxHashMap<(u64, Term), Durable>,
    /// What candidates have asked for votes with: by candidate and term, pre-votes apart.
    asked: FxHashMap<(NodeId, Term, bool), Asked>,
    /// The nodes that their leaders asked to campaign, and the terms.
    told_to_campaign: FxHashSet<(NodeId, Term)>,
    /// Every configuration that was ever durable.
    configurations: BTreeMap<(u64, Term), Configuration>,
}

/// An entry that was durable somewhere.
#[derive(Clone, Copy)]
struct Durable {
    /// The hash of its bytes.
    hash: u64,
    /// The term of the entry before it, if that was known.
    before: Option<Term>,
    /// On which nodes, by bit.
    nodes: u64,
}

/// A question for votes.
#[derive(Clone, Copy)]
struct Asked {
    /// The newest log end that it was asked with.
    last: EntryId,
    /// When it was asked first.
    since: u64,
}

/// One replica, as seen from outside.
#[derive(Default)]
struct ReplicaWatch {
    shadow: Shadow,
    facts: Option<Facts>,
    /// What it took for durable after its last turn.
    durable: u64,
    /// The configuration in force after its last turn, and where it stands in the log.
    configuration: Option<(u64, Configuration)>,
    /// When its log's end was last seen to be another.
    last_changed: u64,
    /// What it has acknowledged in the latest term in which it did.
    acknowledged: (Term, u64),
    /// Its disk has lost something.
    loss: Option<Loss>,
}

/// All checks of a run.
pub(crate) struct Watch {
    nodes: usize,
    /// Counts the calls of it: the order of things.
    told: u64,
    groups: FxHashMap<u64, GroupWatch>,
    replicas: FxHashMap<(usize, u64), ReplicaWatch>,
    /// Nodes that have lost their disks, and the logs that they have since.
    reborn: FxHashMap<NodeId, LogId>,
    /// How much of its group was committed when a replica joined, in this life of its node.
    joined: FxHashMap<(usize, u64), u64>,
    /// The groups with entries in the batch that is looked at, and what was durable before it.
    begun: FxHashMap<(usize, GroupId), Shadow>,
    /// Nodes that never campaign unasked.
    pub(crate) unwilling: FxHashSet<NodeId>,
    /// What a worker may hold.
    pub(crate) bounds: Bounds,
}

impl Watch {
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            nodes,
            told: 0,
            groups: FxHashMap::default(),
            replicas: FxHashMap::default(),
            reborn: FxHashMap::default(),
            joined: FxHashMap::default(),
            begun: FxHashMap::default(),
            unwilling: FxHashSet::default(),
            bounds: Bounds::default(),
        }
    }

    /// How many entries of a group are committed.
    pub(crate) fn committed(&self, group: GroupId) -> u64 {
        self.groups.get(&group.0).map_or(0, |of| of.committed.len() as u64)
    }

    /// The term of a committed entry.
    pub(crate) fn committed_term(&self, group: GroupId, index: Index) -> Option<Term> {
        let committed = &self.groups.get(&group.0)?.committed;
        committed.get(index.0.checked_sub(1)? as usize).copied()
    }

    /// Checks one replica after a turn of its worker. Cheap if nothing about it has changed.
    pub(crate) fn replica(&mut self, node: usize, view: &ReplicaView<'_>) -> Result<bool, Violation> {
        let core = view.core;
        let now = Facts {
            hard_state: core.hard_state(),
            is_leader: core.role() == Role::Leader,
            last: core.last(),
            commit: core.commit().0,
            applied: view.applied.0,
            compacted: core.compacted().index.0,
            is_removed: core.is_removed(),
            is_voteless: is_voteless(core),
        };
        let watch = self.replicas.entry((node, view.group.0)).or_default();
        watch.may_lose(core, view.fence);
        let now = as_shown(watch.facts.as_ref(), view, now);
        let before = watch.facts.replace(now);
        let was_durable = std::mem::replace(&mut watch.durable, core.durable().0);
        if before == Some(now) {
            if was_durable != core.durable().0 {
                self.check_durable(node, view, core.durable())?;
            }
            return Ok(false);
        }
        let index = core.configuration_index().0;
        // A founder that has lost the record of its founding gets it again, at the same index.
        let is_other =
            watch.configuration.as_ref().is_none_or(|(of, known)| *of != index || known.is_empty());
        let earlier =
            is_other.then(|| watch.configuration.replace((index, core.configuration().clone()))).flatten();
        self.told += 1;
        if before.is_none_or(|was| was.last != now.last) {
            watch.last_changed = self.told;
        }
        let whose = format_args!("n{} {}", node + 1, view.group).to_string();
        invariant::check(core).map_err(|broken| {
            Violation::new(format!("core {}", broken.rule), format!("{whose}: {}", broken.what))
        })?;
        if let Some(before) = before {
            monotone(&whose, &before, &now)?;
        }
        let (term, matched) = watch.acknowledged;
        ensure!(
            term != now.hard_state.term || matched <= now.last.index.max(core.origin().floor().index).0,
            "acknowledged stays",
            "{whose}: has acknowledged {matched} in {term}, and ends at {}",
            now.last
        );
        if is_other && now.is_leader {
            self.check_newcomers(view.group, core, earlier.as_ref().map(|(_, earlier)| earlier), &whose)?;
        }
        self.check_served(node, view.group, core, &whose)?;
        let group = self.groups.entry(view.group.0).or_default();
        check_in_force(group, core, &whose)?;
        check_removed(group, core, &whose)?;
        check_fenced(core, &whose)?;
        if now.is_leader
            && !before.is_some_and(|was| was.is_leader && was.hard_state.term == now.hard_state.term)
        {
            new_leader(group, core, &whose)?;
            self.check_elected(view.group, core, &whose)?;
        }
        let group = self.groups.entry(view.group.0).or_default();
        ensure!(
            now.applied <= now.commit,
            "applied is committed",
            "{whose}: applied {} of {} committed",
            now.applied,
            now.commit
        );
        let leader = group.leaders.get(&core.term()).copied();
        ensure!(
            core.leader().is_none_or(|followed| leader == Some(followed)),
            "follows its leader",
            "{whose}: follows {:?} in {}, which {leader:?} leads",
            core.leader(),
            core.term()
        );
        self.check_durable(node, view, view.applied)?;
        self.check_durable(node, view, core.durable())?;
        if let Some(before) = before.filter(|was| was.is_leader && now.is_leader)
            && before.hard_state.term == now.hard_state.term
            && before.commit < now.commit
        {
            ensure!(
                core.term_at(core.commit()) == Some(core.term()),
                "commits its own term",
                "{whose}: leads {} and commits {}, of {:?}",
                core.term(),
                now.commit,
                core.term_at(core.commit())
            );
        }
        if now.is_leader {
            self.check_counted(view.group, core, &whose)?;
        }
        if before.is_none_or(|was| was.commit < now.commit) {
            self.check_commit(view.group, core, earlier.map(|(_, earlier)| earlier).as_ref(), &whose)?;
        }
        if is_other {
            check_changes(self.groups.entry(view.group.0).or_default(), core, &whose)?;
        }
        Ok(true)
    }

    /// Something is applied, or taken for durable: it is, or was, on this node's disk.
    fn check_durable(&self, node: usize, view: &ReplicaView<'_>, index: Index) -> Checked {
        let core = view.core;
        let Some(watch) = self.replicas.get(&(node, view.group.0)) else { return Ok(()) };
        let id = EntryId::new(core.term_at(index).unwrap_or_default(), index);
        let was_here = || {
            let entry = self.groups.get(&view.group.0).and_then(|of| of.entries.get(&(index.0, id.term)));
            entry.is_some_and(|entry| entry.nodes & 1 << node != 0)
        };
        ensure!(
            index <= core.compacted().index || watch.shadow.holds(id) || was_here(),
            "applied is durable",
            "n{} {}: {id} is applied, or taken for durable, and {} is",
            node + 1,
            view.group,
            watch.shadow.last()
        );
        Ok(())
    }

    /// What a leader counts for each follower, that follower has acknowledged to it in this term.
    fn check_counted(&self, id: GroupId, core: &Group, whose: &str) -> Checked {
        for peer in
            core.peers().filter(|peer| !core.is_leaving(*peer) && self.is_meant(core.configuration(), *peer))
        {
            // What a node does that has lost its disk is not looked at before its operator knows.
            let watch = self.replicas.get(&(peer.0 as usize - 1, id.0)).filter(|watch| watch.facts.is_some());
            let Some(watch) = watch else { continue };
            let (term, told) = (watch.acknowledged.0, watch.acknowledged_in(core.term()));
            let counted = core.progress(peer).map_or(0, |status| status.matched.0);
            ensure!(
                // A follower of a later term no longer shows what it acknowledged in this one.
                counted <= told || term > core.term(),
                "counted as acknowledged",
                "{whose}: counts {counted} for {peer}, which has acknowledged {told} in it, and was last in {term}"
            );
            let term = core.term_at(Index(counted)).filter(|_| counted > core.compacted().index.0);
            ensure!(
                watch.shadow.hard_state.term > core.term()
                    || term.is_none_or(|term| watch.keeps(EntryId::new(term, Index(counted)))),
                "counted as acknowledged",
                "{whose}: counts {counted}@{} for {peer}, which has {:?} there",
                term.unwrap_or_default().0,
                watch.shadow.term_at(counted)
            );
        }
        Ok(())
    }

    /// A leader has the votes of a quorum, each on its voter's disk. Its own may still be on the way there, and a voter
    /// that has moved on to a later term no longer shows how it voted.
    fn check_elected(&self, id: GroupId, core: &Group, whose: &str) -> Checked {
        let (me, term) = (core.node(), core.term());
        let voted = |node: &NodeId| {
            let watch = self.replicas.get(&(node.0 as usize - 1, id.0));
            let durable = watch.map(|watch| watch.shadow.hard_state).unwrap_or_default();
            !self.is_meant(core.configuration(), *node)
                || *node == me
                || durable.term > term
                || durable.term == term && durable.vote == Some(me)
        };
        ensure!(
            !core.configuration().is_empty() && is_quorum(core.configuration(), voted),
            "elected by a quorum",
            "{whose}: leads {term} with the votes of {:?}",
            (1..=self.nodes as u64).map(NodeId).filter(|node| voted(node)).collect::<Vec<_>>()
        );
        Ok(())
    }

    /// The commit index has moved: to entries that others have committed, too, or that a quorum has on its disks.
    /// `earlier`: the configuration before this turn, if it has changed: the entries may have been committed before that.
    fn check_commit(
        &mut self,
        id: GroupId,
        core: &Group,
        earlier: Option<&Configuration>,
        whose: &str,
    ) -> Checked {
        let group = self.groups.entry(id.0).or_default();
        let (commit, known) = (core.commit().0, group.committed.len() as u64);
        let from = core.compacted().index.0.max(1);
        for index in from..=commit.min(known) {
            let Some(term) = core.term_at(Index(index)) else { continue };
            let first = group.committed[index as usize - 1];
            ensure!(
                first == term,
                "committed is final",
                "{whose}: {index}@{} was committed as @{}",
                term.0,
                first.0
            );
        }
        if commit <= known {
            return Ok(());
        }
        for index in known + 1..=commit {
            let term = core.term_at(Index(index));
            ensure!(
                term.is_some(),
                "committed is final",
                "{whose}: {index} is committed and compacted unseen"
            );
            group.committed.extend(term);
        }
        let id_at_commit = EntryId::new(group.committed[commit as usize - 1], core.commit());
        let configuration = core.configuration();
        let holds = |node: &NodeId| {
            let watch = self.replicas.get(&(node.0 as usize - 1, id.0));
            watch.is_some_and(|watch| watch.keeps(id_at_commit))
                || !is_meant(&self.reborn, configuration, *node)
        };
        ensure!(
            is_quorum(configuration, holds) || earlier.is_some_and(|earlier| is_quorum(earlier, holds)),
            "durable on a quorum",
            "{whose}: {id_at_commit} is committed, durable on {:?} of {configuration:?}",
            (1..=self.nodes as u64).map(NodeId).filter(|node| holds(node)).collect::<Vec<_>>()
        );
        let is_whole_in = |of: &Configuration| {
            of.replicas().iter().any(|node| !of.is_witness(*node) && holds(node)) || of.is_empty()
        };
        ensure!(
            is_whole_in(configuration) || earlier.is_some_and(is_whole_in),
            "somebody holds it whole",
            "{whose}: {id_at_commit} is committed, durable with witnesses only of {configuration:?}"
        );
        Ok(())
    }

    /// A batch is durable: one of its frames.
    pub(crate) fn durable(&mut self, node: usize, header: &FrameHeader, body: &[u8]) -> Checked {
        let whose = format_args!("n{} {}", node + 1, header.group).to_string();
        let watch = self.replicas.entry((node, header.group.0)).or_default();
        let (shadow, facts) = (&mut watch.shadow, watch.facts);
        if matches!(header.kind, FrameKind::Entries | FrameKind::Withheld) {
            self.begun.entry((node, header.group)).or_insert_with(|| shadow.clone());
        }
        match header.kind {
            FrameKind::Entries => {
                let before = header.index.0.checked_sub(1).and_then(|index| shadow.term_at(index));
                shadow.take(header, body);
                let group = self.groups.entry(header.group.0).or_default();
                return entries_match(group, node, header, body, before, &whose);
            }
            FrameKind::Withheld => {
                let before = header.index.0.checked_sub(1).and_then(|index| shadow.term_at(index));
                shadow.take(header, body);
                let group = self.groups.entry(header.group.0).or_default();
                return spans_match(group, header, before, &whose);
            }
            FrameKind::HardState => {
                let (was, is) = (shadow.hard_state, hard_state_of(header, body));
                let kept =
                    is.term > was.term || is.term == was.term && (was.vote.is_none() || was.vote == is.vote);
                ensure!(kept, "one vote per term", "{whose}: {was:?}, then {is:?}");
                shadow.take(header, body);
            }
            FrameKind::Snapshot => {
                let id = header.id();
                ensure!(
                    shadow.term_at(id.index.0) != Some(id.term) || shadow.last() == id.index.0,
                    "snapshots replace what differs",
                    "{whose}: a snapshot at {id} drops the log up to {}, which agrees with it",
                    shadow.last()
                );
                shadow.take(header, body);
            }
            FrameKind::Compact => {
                let commit = facts.map_or(u64::MAX, |facts| facts.commit);
                let (id, what) = (header.id(), "drops its log up to");
                ensure!(id.index.0 <= commit, "dropped is committed", "{whose}: {what} {id}, knows {commit}");
                shadow.take(header, body);
            }
            FrameKind::Fence => {}
            FrameKind::Remove => {
                shadow.take(header, body);
                let (shadow, acknowledged) = (shadow.clone(), watch.acknowledged);
                let watch = ReplicaWatch { shadow, acknowledged, ..ReplicaWatch::default() };
                self.replicas.insert((node, header.group.0), watch);
            }
            FrameKind::Join => {
                let (floor, known) = (header.id(), shadow.floor);
                ensure!(
                    floor >= known,
                    "promises outlive a log",
                    "{whose}: joins with {floor}, and held {known}"
                );
                let is_new = !shadow.is_there;
                shadow.take(header, body);
                if is_new {
                    self.note_joined(node, header.group);
                }
            }
        }
        Ok(())
    }

    /// A node has opened its log: every replica must know what was durable.
    ///
    /// `is_anew`: its disk was damaged since the last time. `dropped`: replicas that were being dropped when it fell; they may be gone.
    /// `undecided`: batches that were not durable when it fell; so many of the first as luck would have it are there.
    pub(crate) fn opened<'a>(
        &mut self,
        node: usize,
        (is_damaged, is_anew, dropped): (bool, bool, &[GroupId]),
        undecided: &[Batch],
        views: impl Iterator<Item = ReplicaView<'a>>,
    ) -> Checked {
        self.forget_joined(node);
        let mut there = Vec::new();
        for view in views {
            there.push(view.group.0);
            let watch = self.replicas.entry((node, view.group.0)).or_default();
            let shadow = Shadow::of(view.core);
            if watch.has_lost(view.fence, is_anew) {
                // A tail that was never durable is not to be taken for a loss.
                let what = "says that it has lost something, and nothing was taken from its disk";
                ensure!(is_damaged, "opens", "n{} {}: {what}", node + 1, view.group);
                watch.lose(view.core, view.fence.unwrap_or_default());
            } else if watch.shadow.is_there {
                watch.shadow.is_kept_with(view.group, undecided, &shadow).map_err(|what| {
                    Violation::new("durable is kept", format!("n{} {}: {what}", node + 1, view.group))
                })?;
            }
            let (acknowledged, loss) = (watch.acknowledged, watch.loss.take());
            let last_seen = watch.facts.filter(|_| !is_anew);
            *watch = ReplicaWatch { shadow, acknowledged, loss, ..ReplicaWatch::default() };
            let group = self.groups.entry(view.group.0).or_default();
            group.forget_unheard(&view, last_seen.as_ref());
            // What was on the disk by luck, since it died before that was certain, was not read off a batch.
            for (index, configuration) in view.core.memberships() {
                if let Some(term) = view.core.term_at(index).filter(|_| index > view.core.compacted().index) {
                    group.configurations.entry((index.0, term)).or_insert_with(|| configuration.clone());
                }
            }
        }
        for ((of, group), watch) in &mut self.replicas {
            if *of == node && !there.contains(group) {
                watch.facts = None; // it may come again, as if it had never been
                if dropped.contains(&GroupId(*group)) {
                    watch.shadow = watch.shadow.gone(EntryId::default());
                }
            }
        }
        let lost = self
            .replicas
            .iter()
            .find(|((of, group), watch)| *of == node && watch.shadow.is_there && !there.contains(group));
        match lost {
            Some(((_, group), _)) => {
                Err(Violation::new("durable is kept", format!("n{} has forgotten g{group}", node + 1)))
            }
            None => Ok(()),
        }
    }

    /// Whether a group that is durable on a node is not among those found there.
    pub(crate) fn forgets(&self, node: usize, found: &[u64]) -> bool {
        let of_node = self.replicas.iter().filter(|((of, _), _)| *of == node);
        of_node.into_iter().any(|((_, group), watch)| watch.shadow.is_there && !found.contains(group))
    }

    /// `create` has returned a group: so it is durable.
    pub(crate) fn created(&self, node: usize, group: GroupId) -> Checked {
        let is_there = self.replicas.get(&(node, group.0)).is_some_and(|watch| watch.shadow.is_there);
        ensure!(is_there, "created is durable", "n{} {group}: it is not on the disk", node + 1);
        Ok(())
    }

    /// A node's disk was replaced: what it promised is gone, and so is the node as a voter.
    pub(crate) fn replaced(&mut self, node: usize) {
        for (_, watch) in self.replicas.iter_mut().filter(|((of, _), _)| *of == node) {
            watch.facts = None;
        }
    }

    /// Whether a configuration means the log that a node has now: what an earlier one had is gone.
    fn is_meant(&self, configuration: &Configuration, node: NodeId) -> bool {
        is_meant(&self.reborn, configuration, node)
    }
}
