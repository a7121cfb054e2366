//! Handing on what waits: to the disk, the state machine and the other nodes.

use raftwerk_frame::{EntryId, Index, Message, NodeId};
use raftwerk_raft::Input;

use super::super::parcel::{Parcel, content, is_request};
use super::super::printed::Fact;
use super::{Batch, Node, Outcome, Unready};

impl Node {
    /// Whether there is something to hand on.
    pub(in super::super) fn has_ready(&self) -> bool {
        let Unready { hard_state, install, entries, send, send_durable } = &self.unready;
        hard_state.is_some()
            || install.is_some()
            || !(entries.is_empty() && send.is_empty() && send_durable.is_empty())
            || self.told_commit != self.group.commit()
            || self.to_apply().is_some()
    }

    /// The last entry that the state machine may have now: with asynchronous writes, only what is durable here.
    fn to_apply(&self) -> Option<Index> {
        let commit = self.group.commit();
        let known = if self.options.is_async { commit.min(self.group.durable()) } else { commit };
        let to = if self.options.applies_singly { known.min(self.handed.next()) } else { known };
        (to > self.handed).then_some(to)
    }

    /// Hands on what waits.
    pub(in super::super) fn ready(&mut self, outcome: &mut Outcome) {
        // A group of one votes and leads in one step; etcd hands on the term first, then what was appended in it.
        let leads_alone = self.group.is_leader() && !self.unready.entries.is_empty();
        if leads_alone && self.unready.hard_state.take().is_some() {
            return;
        }
        let Unready { hard_state, install, entries, mut send, send_durable } =
            std::mem::take(&mut self.unready);
        let is_commit_new =
            std::mem::replace(&mut self.told_commit, self.group.commit()) != self.group.commit();
        self.tell_votes(&send_durable, outcome);
        self.tell_snapshots(&send, outcome);
        let applied = self.to_apply();
        if let Some(to) = applied {
            for entry in self.log.range(self.handed.next()..=to).map(|(_, entry)| entry.to_string()) {
                outcome.tell(&Fact::Applied { node: self.group.node().0, entry: &entry });
            }
            self.handed = to;
        }
        // Requests for votes speak of the term and the vote, and those are durable now.
        let (requests, answers) =
            send_durable.into_iter().partition::<Vec<_>, _>(|(_, parcel)| is_request(parcel));
        send.extend(requests);
        let batch = Batch { install, entries, then: answers };
        if self.options.is_async {
            outcome.letters.append(&mut send);
            let is_written = hard_state.is_some() || is_commit_new || batch.install.is_some();
            if is_written || !batch.entries.is_empty() || !batch.then.is_empty() {
                self.writes.push_back(batch);
            }
            self.applies.extend(applied);
            return;
        }
        let durable = self.write(&batch, outcome);
        outcome.letters.append(&mut send);
        outcome.letters.extend(batch.then);
        if let Some(index) = applied {
            self.step(Input::Applied { index });
        }
        if let Some(id) = durable {
            self.step(Input::Durable { id });
        }
    }

    fn write(&mut self, batch: &Batch, outcome: &mut Outcome) -> Option<EntryId> {
        let node = self.group.node().0;
        if let Some(install) = &batch.install {
            if !install.keep_tail {
                self.disk.clear();
            }
            self.disk = self.disk.split_off(&install.id.index.next());
            self.disk_compacted = install.id;
            outcome.tell(&Fact::Installed { node, what: &content(install.id, &install.configuration) });
        }
        if let Some(first) = batch.entries.first() {
            self.disk.split_off(&first.id.index);
        }
        for entry in &batch.entries {
            outcome.tell(&Fact::Durable { node, entry: &entry.to_string() });
            self.disk.insert(entry.id.index, entry.clone());
        }
        batch.entries.last().map(|entry| entry.id)
    }

    /// Writes what waits longest, and lets go what waited for it. `false`: there is nothing.
    pub(in super::super) fn append_work(&mut self, outcome: &mut Outcome) -> bool {
        let Some(batch) = self.writes.pop_front() else { return false };
        let durable = self.write(&batch, outcome);
        outcome.letters.extend(batch.then);
        let node = self.group.node();
        outcome.letters.extend(durable.map(|id| (node, Parcel::Durable(id))));
        true
    }

    /// Applies what waits longest. `false`: there is nothing.
    pub(in super::super) fn apply_work(&mut self, outcome: &mut Outcome) -> bool {
        let Some(index) = self.applies.pop_front() else { return false };
        outcome.letters.push((self.group.node(), Parcel::Applied(index)));
        true
    }

    pub(in super::super) fn has_append_work(&self) -> bool {
        !self.writes.is_empty()
    }

    pub(in super::super) fn has_apply_work(&self) -> bool {
        !self.applies.is_empty()
    }

    fn tell_votes(&self, letters: &[(NodeId, Parcel)], outcome: &mut Outcome) {
        let from = self.group.node().0;
        for (to, parcel) in letters {
            let Parcel::Message { message, .. } = parcel else { continue };
            let (is_pre, term, granted) = match *message {
                Message::VoteReply { term, granted } => (false, term, granted),
                Message::PreVoteReply { term, granted } => (true, term, granted),
                _ => continue,
            };
            outcome.tell(&Fact::Vote { from, to: to.0, is_pre, granted, term: term.0 });
        }
    }

    fn tell_snapshots(&self, letters: &[(NodeId, Parcel)], outcome: &mut Outcome) {
        for (to, parcel) in letters {
            if let Parcel::Snapshot { id, configuration, .. } = parcel {
                let (from, what) = (self.group.node().0, content(*id, configuration));
                outcome.tell(&Fact::SnapshotSent { from, to: to.0, what: &what });
            }
        }
    }
}
