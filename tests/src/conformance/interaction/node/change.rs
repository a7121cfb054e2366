//! Changes of who takes part: where etcd's way and the core's differ, and what is made of it.
//!
//! etcd puts a change into the log at once, if no other is under way, and in force when it is applied. The core waits until
//! an entry of the leader's own term is committed; so does the wish here. Where etcd refuses a change, it takes an empty
//! entry instead: the entries that follow must have the same places.

use raftwerk_raft::{Admission, Effects, Input, Reconfigure, Reconfigured, Refusal};

use super::super::super::confchange;
use super::super::parcel::{Content, Parcel, Wish};
use super::Node;

impl Node {
    /// Wants a change. A follower passes it on; without a leader it is dropped.
    pub(in super::super) fn wish(&mut self, wish: Wish) -> Result<(), String> {
        if self.wishes.is_empty() {
            self.try_wish(wish)
        } else {
            self.wishes.push_back(Parcel::Wish(wish));
            Ok(())
        }
    }

    /// Whether a change waits for the core.
    pub(in super::super) fn has_wishes(&self) -> bool {
        !self.wishes.is_empty()
    }

    /// Tries again what the core was not ready for, and what came after it.
    pub(super) fn grant_wishes(&mut self) {
        for parcel in std::mem::take(&mut self.wishes) {
            match parcel {
                parcel if !self.wishes.is_empty() => self.wishes.push_back(parcel),
                Parcel::Wish(wish) => _ = self.try_wish(wish),
                Parcel::Proposal(payload) => _ = self.propose(payload),
                _ => {}
            }
        }
    }

    fn try_wish(&mut self, wish: Wish) -> Result<(), String> {
        let changes = confchange::changes(wish.words.split(' ').filter(|word| !word.is_empty()))?;
        let own = Content::Change { kind: wish.kind(), words: wish.words.clone(), to: None };
        if changes.is_empty() && !wish.words.is_empty() && self.group.is_leader() {
            // It is about what is nothing to Raft.
            return self.take_instead(own);
        }
        let reconfigure = Reconfigure {
            changes: &changes,
            logs: &[],
            expected_index: None,
            transition: wish.route,
            admission: Admission::Unchecked,
            dry_run: false,
        };
        self.turn(Input::Reconfigure(reconfigure), &[], &own);
        let is_joint = self.group.configuration().is_joint();
        match self.outcome_of_wish.take() {
            Some(Reconfigured::Started(_)) => Ok(()),
            // It names what is already so: an entry like any other. To leave what is not joint, etcd refuses.
            Some(Reconfigured::Unchanged(_)) if !changes.is_empty() => self.take_instead(own),
            Some(Reconfigured::Unchanged(_)) => self.take_instead(Content::Payload(String::new())),
            Some(Reconfigured::Refused(refusal)) => match refusal {
                Refusal::NotLeader { leader: Some(leader) } => {
                    self.unready.send.push((leader, Parcel::Wish(wish)));
                    Ok(())
                }
                // The change that is under way is not committed, and etcd would have to wait, too; or it is, and the two
                // disagree about what may follow.
                Refusal::InProgress(_) if !self.options.takes_all_changes || is_joint => {
                    self.take_instead(Content::Payload(String::new()))
                }
                Refusal::NotReady | Refusal::InProgress(_) => {
                    self.wishes.push_back(Parcel::Wish(wish));
                    Ok(())
                }
                Refusal::NotLeader { leader: None } | Refusal::Transferring => Ok(()),
                other => Err(format!("the core refuses the change: {other:?}")),
            },
            other => Err(format!("the core answers {other:?} to a change")),
        }
    }

    fn take_instead(&mut self, own: Content) -> Result<(), String> {
        match self.turn(Input::Propose { count: 1, bytes: 0 }, &[], &own) {
            None => Ok(()),
            Some(rejected) => Err(format!("an entry in place of a change is refused: {rejected:?}")),
        }
    }

    /// What a leader's own entry holds.
    pub(super) fn content_of(&self, effects: &Effects, noop: bool, own: &Content) -> Content {
        match (&effects.membership, own) {
            (Some(to), Content::Change { kind, words, .. }) => {
                Content::Change { kind, words: words.clone(), to: Some(to.clone()) }
            }
            // The leader leaves a joint configuration by itself.
            (Some(to), _) => {
                Content::Change { kind: "EntryConfChangeV2", words: String::new(), to: Some(to.clone()) }
            }
            (None, _) if noop => Content::Opening,
            (None, own) => own.clone(),
        }
    }
}
