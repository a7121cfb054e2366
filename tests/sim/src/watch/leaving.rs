//! What must hold of the messages that leave a node: they name only what is durable there, and what is true.
//!
//! What is not here: what becomes of them on the way (`net`).

use raftwerk_frame::frame::{self, Entries, EntryKind, FrameKind};
use raftwerk_frame::wire::{Record, UnitHeader, UnitKind, records};
use raftwerk_frame::{EntryId, GroupId, Index, Message, NodeId, Term};

use super::{Asked, Checked, ReplicaWatch, Violation, Watch, ensure};
use crate::shadow::Shadow;

/// Questions for votes that are remembered for a group, of all its nodes, before older terms' are forgotten.
const QUESTIONS_KEPT: usize = 64;

impl Watch {
    /// Checks what leaves a node against what is durable there.
    pub(crate) fn leaving(&mut self, node: usize, to: NodeId, unit: &[u8]) -> Checked {
        let Ok((header, heads, mut bodies)) = UnitHeader::parse(unit) else {
            return Err(Violation::new("wire", format!("n{} sends what is no unit", node + 1)));
        };
        if header.kind != UnitKind::Groups {
            return Ok(());
        }
        for record in records(heads).flatten() {
            let body = bodies.split_off(..record.body_bytes as usize).unwrap_or_default();
            let Some(watch) = self.replicas.get(&(node, record.group.0)) else { continue };
            if let Err(what) = may_leave(watch, NodeId(node as u64 + 1), &record) {
                let what = format!("n{} {}: {:?}, {what}", node + 1, record.group, record.message);
                return Err(Violation::new("nothing leaves before it is durable", what));
            }
            let me = NodeId(node as u64 + 1);
            match record.message {
                Message::Append { term, .. } | Message::Heartbeat { term, .. } => {
                    if record.to_witness {
                        tells_a_witness(&watch.shadow, &record, body).map_err(|what| {
                            Violation::new("witnesses", format!("n{} {}: {what}", node + 1, record.group))
                        })?;
                    }
                    let group = self.groups.entry(record.group.0).or_default();
                    let first = *group.leaders.entry(term).or_insert(me);
                    ensure!(
                        first == me,
                        "one leader per term",
                        "n{} {}: {first} leads {term}, too",
                        node + 1,
                        record.group
                    );
                }
                Message::TimeoutNow { term } => {
                    ensure!(
                        !record.to_witness,
                        "witnesses",
                        "n{} {}: tells {to} to campaign, which holds nothing to lead with",
                        node + 1,
                        record.group
                    );
                    let group = self.groups.entry(record.group.0).or_default();
                    group.told_to_campaign.insert((to, term.next()));
                }
                Message::AppendAck { term, matched, .. } => {
                    self.acknowledges(node, to, record.group, term, matched.0)?;
                    let watch = self.replicas.entry((node, record.group.0)).or_default();
                    watch.acknowledged = watch.acknowledged.max((term, matched.0));
                }
                Message::Removed { configuration, .. } => {
                    self.check_notice(to, record.group, configuration, node)?;
                }
                Message::PreVote { term, .. } if self.unwilling.contains(&me) => {
                    let what = format!("n{} {}: asks whether it could lead {term}", node + 1, record.group);
                    return Err(Violation::new("the unwilling do not ask", what));
                }
                Message::PreVote { term, last } => self.asks(node, record.group, term, last, true),
                Message::Vote { term, last, transfer } => {
                    let group = self.groups.entry(record.group.0).or_default();
                    ensure!(
                        !transfer || group.told_to_campaign.contains(&(me, term)),
                        "hands over",
                        "n{} {}: campaigns in {term}, and nobody who led the term before has told it to",
                        node + 1,
                        record.group
                    );
                    self.asks(node, record.group, term, last, false);
                }
                Message::PreVoteReply { term, granted: true } => {
                    self.grants(node, to, record.group, term, true)?;
                }
                Message::VoteReply { term, granted: true } => {
                    self.grants(node, to, record.group, term, false)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A follower acknowledges. What is of an older term, its leader held durably before it asked for votes.
    fn acknowledges(&self, node: usize, to: NodeId, group: GroupId, term: Term, matched: u64) -> Checked {
        let of = |node: usize| self.replicas.get(&(node, group.0)).map(|watch| &watch.shadow);
        let (Some(mine), Some(its)) = (of(node), of(to.0 as usize - 1)) else { return Ok(()) };
        let Some(here) = mine.term_at(matched).filter(|here| *here < term) else { return Ok(()) };
        // A leader that was dropped by mistake, and has joined again, held what its floor covers.
        let was_dropped = matched <= its.floor.index.0;
        ensure!(
            mine.hard_state.term != term
                || its.hard_state.term != term
                || was_dropped
                || its.holds(EntryId::new(here, Index(matched))),
            "acknowledges what its leader has",
            "n{} {group}: acknowledges {matched}@{} to {to} in {term}, which has {:?} there",
            node + 1,
            here.0,
            its.term_at(matched)
        );
        Ok(())
    }

    /// A candidate asks for votes.
    fn asks(&mut self, node: usize, group: GroupId, term: Term, last: EntryId, is_pre: bool) {
        self.told += 1;
        let asked = &mut self.groups.entry(group.0).or_default().asked;
        if asked.len() >= QUESTIONS_KEPT {
            asked.retain(|(_, of, _), _| *of >= term);
        }
        let key = (NodeId(node as u64 + 1), term, is_pre);
        let question = asked.entry(key).or_insert(Asked { last, since: self.told });
        question.last = question.last.max(last);
    }

    /// A voter grants a vote. Its log may have grown while the answer waited for the disk: only one that has not changed
    /// since the question is certainly the one that was compared.
    fn grants(&self, node: usize, to: NodeId, group: GroupId, term: Term, is_pre: bool) -> Checked {
        let asked = self.groups.get(&group.0).and_then(|of| of.asked.get(&(to, term, is_pre)));
        let (Some(asked), Some(watch)) = (asked, self.replicas.get(&(node, group.0))) else { return Ok(()) };
        let Some(facts) = watch.facts.filter(|_| watch.last_changed < asked.since) else { return Ok(()) };
        ensure!(
            asked.last >= facts.last.max(watch.shadow.floor),
            "votes go to fresh logs",
            "n{} {group}: with {} (once {}) for {to} with {} in {term}, pre-vote: {is_pre}",
            node + 1,
            facts.last,
            watch.shadow.floor,
            asked.last
        );
        Ok(())
    }
}

/// Whether an append brings a witness no payloads, and only ids of what is durable here or committed.
fn tells_a_witness(shadow: &Shadow, record: &Record, mut body: &[u8]) -> Result<(), String> {
    let Message::Append { commit, .. } = record.message else { return Ok(()) };
    while !body.is_empty() {
        let (header, entries) = frame::parse(body).map_err(|error| error.to_string())?;
        let is_withheld = header.kind == FrameKind::Withheld;
        if !is_withheld && Entries::new(&header, entries).any(|entry| entry.kind != EntryKind::Membership) {
            return Err(format!("a witness is sent the payloads from {} on", header.index));
        }
        let (last, durable) = (header.last_index(), shadow.last());
        if last.0 > durable && last > commit {
            return Err(format!("a witness is told of {last}, {durable} is durable, {commit} committed"));
        }
        body = &body[header.frame_bytes()..];
    }
    Ok(())
}

/// Whether a message names only what is durable.
fn may_leave(watch: &ReplicaWatch, me: NodeId, record: &Record) -> Result<(), String> {
    let shadow = &watch.shadow;
    let durable = shadow.hard_state;
    let term = record.message.term();
    let voted_for =
        |whom: Option<NodeId>| durable.term > term || durable.term == term && durable.vote == whom;
    let good = match record.message {
        Message::PreVote { .. } => term.0 <= durable.term.0 + 1,
        Message::PreVoteReply { granted: true, .. } => true,
        Message::Vote { .. } => voted_for(Some(me)),
        Message::VoteReply { granted: true, .. } => {
            durable.term > term || durable.term == term && durable.vote.is_some()
        }
        // Of an earlier term: since then another leader may have replaced what was acknowledged and is now gone.
        // Of a replica that is gone by now, what it held is its floor; a leader that has read why it may go does not count it.
        Message::AppendAck { matched, .. } => {
            let held = if shadow.is_there { shadow.last() } else { shadow.floor.index.0 };
            durable.term > term || durable.term == term && held.max(watch.held_in(term)) >= matched.0
        }
        _ => durable.term >= term,
    };
    if good { Ok(()) } else { Err(format!("with {durable:?} and {} durable", shadow.last())) }
}
