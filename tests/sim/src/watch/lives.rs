//! What must hold of a replica from one turn to the next, and of a new leader: the rules `monotone`, `leader append-only`,
//! `no vote, no entries`, `one leader per term` and `leader completeness`.
//!
//! What is not here: what it has on its disk (`shadow`), and the votes that a leader needs (the parent).

use raftwerk::drive::ReplicaView;
use raftwerk_frame::{Index, LogId, NodeId};
use raftwerk_raft::Group;

use super::{Checked, Facts, GroupWatch, Violation, Watch, ensure};

impl Watch {
    /// A node has lost its disk, and has another log: it is as if it had never been.
    pub(crate) fn reborn(&mut self, node: usize, log: LogId) {
        self.replicas.retain(|(of, _), _| *of != node);
        self.reborn.insert(NodeId(node as u64 + 1), log);
    }
}

impl GroupWatch {
    /// A sole voter leads by its own vote, also before that is durable. If it dies first it has sent nothing of it, and another
    /// may lead the term.
    pub(super) fn forget_unheard(&mut self, view: &ReplicaView<'_>, last_seen: Option<&Facts>) {
        let led = last_seen.filter(|was| was.is_leader).map(|was| was.hard_state.term);
        if let Some(led) = led.filter(|led| *led > view.core.term()) {
            self.leaders.retain(|term, node| *term != led || *node != view.core.node());
        }
    }
}

/// A machine that is made anew applies once more what the one before it had, and shows nothing of that.
pub(super) fn as_shown(was: Option<&Facts>, view: &ReplicaView<'_>, now: Facts) -> Facts {
    let seen = was.filter(|_| view.is_quarantined).map_or(0, |was| was.applied);
    Facts { applied: seen.max(now.applied), ..now }
}

/// What a replica looks like now, after what it looked like before, in the same life.
pub(super) fn monotone(whose: &str, was: &Facts, now: &Facts) -> Checked {
    ensure!(
        now.hard_state.term >= was.hard_state.term
            && now.commit >= was.commit
            && now.applied >= was.applied
            && now.compacted >= was.compacted,
        "monotone",
        "{whose}: {was:?}, then {now:?}"
    );
    let same_term = now.hard_state.term == was.hard_state.term;
    ensure!(
        !same_term || was.hard_state.vote.is_none() || was.hard_state.vote == now.hard_state.vote,
        "one vote per term",
        "{whose}: {was:?}, then {now:?}"
    );
    ensure!(
        !(same_term && was.is_leader && now.is_leader) || now.last.index >= was.last.index,
        "leader append-only",
        "{whose}: {was:?}, then {now:?}"
    );
    ensure!(
        !(same_term && was.is_voteless && now.is_voteless) || now.last == was.last,
        "no vote, no entries",
        "{whose}: {was:?}, then {now:?}"
    );
    Ok(())
}

/// A replica leads a term that it did not lead before.
pub(super) fn new_leader(group: &mut GroupWatch, core: &Group, whose: &str) -> Checked {
    let first = *group.leaders.entry(core.term()).or_insert(core.node());
    ensure!(first == core.node(), "one leader per term", "{whose}: {first} leads {}, too", core.term());
    if let Some(term) = group.committed.last() {
        let last = Index(group.committed.len() as u64);
        let holds = core.compacted().index >= last || core.term_at(last) == Some(*term);
        // A deposed leader of an older term that comes late may lack what was committed since.
        let is_latest = group.leaders.keys().max() == Some(&core.term());
        ensure!(
            holds || !is_latest,
            "leader completeness",
            "{whose}: leads {} without {last}@{}, which is committed",
            core.term(),
            term.0
        );
    }
    Ok(())
}
