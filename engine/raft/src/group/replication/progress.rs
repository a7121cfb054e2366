//! A leader's progress of each peer, and the flow control of appends (paper, section 5.3; thesis, 10.2.1).

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::time::Duration;

use raftwerk_frame::{Configuration, EntryId, Index, NodeId, Time};

/// How a leader replicates to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// The match is not known: one append at a time.
    Probe,
    /// The match is known: appends are pipelined, within the window.
    Replicate,
    /// What it needs is compacted: it gets a snapshot.
    Snapshot,
}

/// A leader's progress of a peer, for monitoring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// How the leader replicates to it.
    pub state: PeerState,
    /// The highest index known to be durable on the peer and the same.
    pub matched: Index,
    /// The next entry to send.
    pub next: Index,
    /// Bytes of appends that are on their way.
    pub in_flight_bytes: u64,
    /// Whether a message from it was received since the last quorum check.
    pub is_active: bool,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    last: Index,
    bytes: u64,
    at: Time,
}

/// Appends that are not acknowledged, oldest first.
#[derive(Clone, Debug, Default)]
struct Appends {
    sent: VecDeque<Sent>,
    /// How many of the oldest are written on the peer, and not known to be durable. They no longer count as
    /// on their way.
    written: usize,
}

/// How many windows of appends may wait for acknowledgement, most of them written: this bounds the memory for
/// them.
const UNACKNOWLEDGED_WINDOWS: usize = 16;

/// Behind a pointer, since most leaders are idle; kept while there is work.
#[derive(Clone, Debug)]
struct InFlight(Option<Box<Appends>>);

impl InFlight {
    /// Whether another append may leave.
    fn has_room(&self, window: usize) -> bool {
        self.0.as_ref().is_none_or(|appends| {
            let (all, written) = (appends.sent.len(), appends.written);
            assert!(written <= all, "only appends in flight are written");
            all - written < window && all < window.saturating_mul(UNACKNOWLEDGED_WINDOWS)
        })
    }

    fn front(&self) -> Option<&Sent> {
        self.0.as_ref()?.sent.front()
    }

    fn back(&self) -> Option<&Sent> {
        self.0.as_ref()?.sent.back()
    }

    fn push(&mut self, sent: Sent) {
        let before = self.back();
        assert!(before.is_none_or(|before| before.last < sent.last), "appends leave in rising order");
        assert!(before.is_none_or(|before| before.at <= sent.at), "no append leaves before an earlier one");
        self.0.get_or_insert_default().sent.push_back(sent);
    }

    fn pop_front_if(&mut self, is_due: impl FnOnce(&mut Sent) -> bool) -> Option<Sent> {
        let appends = self.0.as_mut()?;
        let popped = appends.sent.pop_front_if(is_due)?;
        appends.written = appends.written.saturating_sub(1);
        Some(popped)
    }

    /// Appends that are written up to `to` are no longer on their way: returns their bytes.
    fn written(&mut self, to: Index) -> u64 {
        let Some(appends) = self.0.as_mut() else { return 0 };
        let mut bytes = 0;
        while let Some(sent) = appends.sent.get_mut(appends.written).filter(|sent| sent.last <= to) {
            bytes += core::mem::take(&mut sent.bytes);
            appends.written += 1;
        }
        assert!(appends.written <= appends.sent.len(), "only appends in flight are written");
        bytes
    }
}

/// Whether a replica holds payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplicaKind {
    /// It holds entries with their payloads.
    Full,
    /// It holds headers only.
    Witness,
}

impl ReplicaKind {
    pub(crate) fn in_configuration(configuration: &Configuration, node: NodeId) -> Self {
        if configuration.is_witness(node) { Self::Witness } else { Self::Full }
    }
}

/// What a peer's replies to heartbeats show of its support for this leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerSupport {
    /// It fortifies this leader, as long as its node supports this one.
    pub(crate) is_fortifying: bool,
    /// It has agreed to quiesce.
    pub(crate) is_quiescent: bool,
}

/// A leader's progress of one peer. Invariant: matched < next; only a peer in state `Replicate` has appends in
/// flight, all of them after `matched` and before `next`.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    state: PeerState,
    matched: Index,
    /// Written on the peer, if not known to be durable; may be below `matched`. Never falls.
    written: Index,
    next: Index,
    /// A probe, or a failed snapshot, waits for a reply, or the reply to a heartbeat.
    is_paused: bool,
    /// When it was last sent a message that it will answer.
    probed_at: Time,
    /// It is alive, and has left appends unanswered for long: an append without entries is to ask for its
    /// match.
    is_probe_due: bool,
    /// The compacted entry when the peer was found to need a snapshot: any snapshot that it gets holds at
    /// least this.
    snapshot_at: Option<Box<EntryId>>,
    is_active: bool,
    /// Whether a message from it was received in the period before.
    was_active: bool,
    /// The last commit index that was sent to it.
    commit_sent: Index,
    /// The latest read round that it has answered. Never falls.
    round: u64,
    support: PeerSupport,
    /// The leader's progress epoch of this peer: acknowledgements of an earlier epoch do not count here.
    progress_epoch: u16,
    /// It holds no payloads. Never changes.
    is_witness: bool,
    in_flight: InFlight,
    /// Invariant: the sum of the bytes of what is in flight and not written.
    in_flight_bytes: u64,
}

impl Progress {
    pub(crate) fn new(next: Index, kind: ReplicaKind) -> Self {
        assert!(next > Index(0), "a peer is sent the log from its first entry on, or later");
        Self {
            state: PeerState::Probe,
            matched: Index(0),
            written: Index(0),
            next,
            is_paused: false,
            probed_at: Time(0),
            is_probe_due: false,
            snapshot_at: None,
            is_active: false,
            was_active: false,
            commit_sent: Index(0),
            round: 0,
            support: PeerSupport::default(),
            progress_epoch: 0,
            is_witness: kind == ReplicaKind::Witness,
            in_flight: InFlight(None),
            in_flight_bytes: 0,
        }
    }

    /// The progress of a new member: it had no time to reply, and does not count as inactive.
    pub(crate) fn of_new_member(next: Index, progress_epoch: u16, kind: ReplicaKind) -> Self {
        assert!(progress_epoch > 0, "a peer that is added has an epoch of its own");
        Self { is_active: true, progress_epoch, ..Self::new(next, kind) }
    }

    /// Its node no longer supports this one: the peer's fortification, and its consent to quiesce, are void.
    pub(crate) const fn lose_support(&mut self) {
        self.support = PeerSupport { is_fortifying: false, is_quiescent: false };
    }

    /// The offer to quiesce ends.
    pub(crate) const fn withdraw_consent(&mut self) {
        self.support.is_quiescent = false;
    }

    /// The peer's reply to a heartbeat.
    pub(crate) const fn set_support(&mut self, support: PeerSupport) {
        self.support = support;
    }

    pub(crate) const fn is_fortifying(&self) -> bool {
        self.support.is_fortifying
    }

    pub(crate) const fn is_quiescent(&self) -> bool {
        self.support.is_quiescent
    }

    pub(crate) const fn state(&self) -> PeerState {
        self.state
    }

    /// The highest index known to be durable on the peer and the same.
    pub(crate) const fn matched(&self) -> Index {
        self.matched
    }

    pub(crate) const fn written(&self) -> Index {
        self.written
    }

    /// The next entry to send.
    pub(crate) const fn next(&self) -> Index {
        self.next
    }

    pub(crate) const fn is_paused(&self) -> bool {
        self.is_paused
    }

    pub(crate) const fn is_probe_due(&self) -> bool {
        self.is_probe_due
    }

    pub(crate) const fn is_active(&self) -> bool {
        self.is_active
    }

    pub(crate) const fn is_witness(&self) -> bool {
        self.is_witness
    }

    pub(crate) const fn commit_sent(&self) -> Index {
        self.commit_sent
    }

    pub(crate) const fn round(&self) -> u64 {
        self.round
    }

    pub(crate) const fn progress_epoch(&self) -> u16 {
        self.progress_epoch
    }

    /// A message from it was received.
    pub(crate) const fn note_active(&mut self) {
        self.is_active = true;
    }

    /// A quorum check ends a period of activity, and begins the next.
    pub(crate) const fn begin_period(&mut self) {
        self.was_active = core::mem::replace(&mut self.is_active, false);
    }

    /// It was sent this commit index. An append that is sent again may carry less than one before it.
    pub(crate) const fn note_commit_sent(&mut self, commit: Index) {
        self.commit_sent = commit;
    }

    /// It has answered a read round.
    pub(crate) fn note_round(&mut self, round: u64) {
        let before = self.round;
        self.round = before.max(round);
        assert!(self.round >= before, "a peer's read rounds rise");
    }

    /// Whether a message from it was received in this period or the one before.
    pub(crate) const fn is_recently_active(&self) -> bool {
        self.is_active || self.was_active
    }

    pub(crate) const fn status(&self) -> PeerStatus {
        PeerStatus {
            state: self.state,
            matched: self.matched,
            next: self.next,
            in_flight_bytes: self.in_flight_bytes,
            is_active: self.is_active,
        }
    }

    /// Unacknowledged appends count as lost: one append at a time again, from just after the match.
    pub(crate) fn probe(&mut self) {
        self.state = PeerState::Probe;
        self.next = self.matched.next();
        self.is_paused = false;
        self.clear_in_flight();
        self.assert_order();
    }

    /// The next probe goes out at once, from `next` on.
    pub(crate) fn probe_from(&mut self, next: Index) {
        assert!(self.state == PeerState::Probe, "only a peer whose match is unknown is probed");
        self.next = next;
        self.is_paused = false;
        self.assert_order();
    }

    /// The match is known: continues with pipelined appends.
    pub(crate) fn replicate(&mut self) {
        assert!(self.state != PeerState::Replicate, "the match of a pipelined peer is known already");
        assert!(self.oldest_in_flight().is_none(), "only a pipelined peer has appends in flight");
        let has_snapshot = self.state != PeerState::Snapshot || self.matched >= self.snapshot_at().index;
        assert!(has_snapshot, "a peer that waits for a snapshot follows when it has one");
        self.state = PeerState::Replicate;
        self.snapshot_at = None;
        self.next = self.matched.next();
        self.is_paused = false;
        self.assert_order();
    }

    /// No appends until a snapshot has arrived, or failed.
    pub(crate) fn snapshot(&mut self, compacted: EntryId, now: Time) {
        assert!(self.state != PeerState::Snapshot, "a peer is sent one snapshot at a time");
        assert!(self.next <= compacted.index, "a snapshot replaces entries that are compacted");
        self.state = PeerState::Snapshot;
        self.snapshot_at = Some(Box::new(compacted));
        self.pause(now);
        self.clear_in_flight();
        self.assert_order();
    }

    pub(crate) fn snapshot_at(&self) -> EntryId {
        self.snapshot_at.as_deref().copied().unwrap_or_default()
    }

    /// Sends nothing more to this peer before it answers, or answers a heartbeat.
    pub(crate) fn pause(&mut self, now: Time) {
        assert!(self.state != PeerState::Replicate, "a pipelined peer is bounded by its window");
        assert!(self.probed_at <= now, "the time of a probe never falls");
        self.is_paused = true;
        self.probed_at = now;
    }

    /// The peer is alive. A probe that has gone unanswered for `patience` is lost; before that the reply may
    /// be on its way, and a heartbeat that overtook a probe is no reason to send it twice.
    ///
    /// In pipelined replication, a long silence may be due to a slow disk, and the window stays as it is.
    /// Once per `patience` the leader sends an append without entries after everything sent so far: the reply
    /// shows what was lost.
    pub(crate) fn on_heartbeat_reply(&mut self, now: Time, patience: Duration) {
        self.is_active = true;
        self.is_paused &= now < self.probed_at + patience;
        let oldest = self.in_flight.front().filter(|_| self.state == PeerState::Replicate);
        assert!(oldest.is_none_or(|sent| sent.at <= now), "no append was sent after now");
        self.is_probe_due = oldest.is_some_and(|sent| now >= sent.at.max(self.probed_at) + patience);
    }

    /// It has been sent a message that it will answer.
    pub(crate) fn note_probe_sent(&mut self, now: Time) {
        assert!(self.state == PeerState::Replicate, "a pipelined peer is probed beside its appends");
        assert!(self.probed_at <= now, "the time of a probe never falls");
        (self.is_probe_due, self.probed_at) = (false, now);
    }

    /// How many bytes may still be sent; `None` if the window is full.
    pub(crate) fn room(&self, window_bytes: u64, window_messages: u32) -> Option<u64> {
        let room = window_bytes.saturating_sub(self.in_flight_bytes);
        (room > 0 && self.in_flight.has_room(window_messages as usize)).then_some(room)
    }

    pub(crate) fn sent(&mut self, last: Index, bytes: u64, at: Time) {
        assert!(self.state == PeerState::Replicate, "only appends to a pipelined peer are counted");
        // It comes after all that is in flight, as `push` asserts, and so after what is matched: the order stays.
        assert!(last >= self.next, "an append goes on where the last one ended");
        assert!(self.matched < self.next, "what is matched is not sent again");
        self.in_flight.push(Sent { last, bytes, at });
        self.in_flight_bytes += bytes;
        self.next = last.next();
    }

    /// The peer has written the log up to `matched`, not durably. That is no acknowledgement: it only opens
    /// the window.
    pub(crate) fn note_written(&mut self, matched: Index) {
        self.written = self.written.max(matched);
        let bytes = self.in_flight.written(matched);
        assert!(bytes <= self.in_flight_bytes, "what is written was in flight");
        self.in_flight_bytes -= bytes;
        self.assert_order();
    }

    /// Processes an acknowledgement; whether it raised the match.
    pub(crate) fn acknowledged(&mut self, matched: Index) -> bool {
        while let Some(sent) = self.in_flight.pop_front_if(|sent| sent.last <= matched) {
            assert!(sent.bytes <= self.in_flight_bytes, "what is acknowledged was in flight");
            self.in_flight_bytes -= sent.bytes;
        }
        let news = matched > self.matched;
        if news {
            self.matched = matched;
            self.next = self.next.max(matched.next());
        }
        self.assert_order();
        news
    }

    /// After every change of the match, of `next`, or of what is in flight.
    fn assert_order(&self) {
        assert!(self.matched < self.next, "what is matched is not sent again");
        let (oldest, newest) = (self.in_flight.front(), self.in_flight.back());
        assert!(oldest.is_none_or(|sent| sent.last > self.matched), "what is matched is not in flight");
        assert!(newest.is_none_or(|sent| sent.last < self.next), "what is in flight is not sent again");
        let is_empty = newest.is_none();
        assert!(
            is_empty || self.state == PeerState::Replicate,
            "only a pipelined peer has appends in flight"
        );
        assert!(!is_empty || self.in_flight_bytes == 0, "the bytes in flight are those of appends");
    }

    /// Whether appends to it are pipelined, it is active, and none has gone unanswered for `patience`.
    pub(crate) fn keeps_up(&self, now: Time, patience: Duration) -> bool {
        self.state == PeerState::Replicate
            && self.is_recently_active()
            && self.oldest_in_flight().is_none_or(|sent| now < sent + patience)
    }

    /// When the oldest unanswered append was sent.
    pub(crate) fn oldest_in_flight(&self) -> Option<Time> {
        self.in_flight.front().map(|sent| sent.at)
    }

    pub(crate) fn shrink(&mut self) {
        self.in_flight.0.take_if(|appends| appends.sent.is_empty());
    }

    pub(crate) fn in_flight_capacity_bytes(&self) -> usize {
        let bytes = |appends: &Appends| size_of_val(appends) + appends.sent.capacity() * size_of::<Sent>();
        self.in_flight.0.as_deref().map_or(0, bytes)
    }

    fn clear_in_flight(&mut self) {
        if let Some(appends) = &mut self.in_flight.0 {
            appends.sent.clear();
            appends.written = 0;
        }
        self.in_flight_bytes = 0;
        self.is_probe_due = false;
    }
}

#[cfg(test)]
mod tests {
    use raftwerk_frame::Term;

    use super::*;

    #[test]
    fn the_window_is_bounded_in_bytes_and_messages_and_acks_open_it() {
        let mut progress = Progress::new(Index(1), ReplicaKind::Full);
        progress.replicate();
        progress.sent(Index(3), 60, Time(1));
        assert_eq!(progress.room(100, 2), Some(40));
        progress.sent(Index(4), 60, Time(2));
        assert_eq!(progress.room(100, 9), None, "bytes");
        assert_eq!(progress.room(1000, 2), None, "messages");
        assert!(progress.acknowledged(Index(3)));
        assert_eq!((progress.room(100, 2), progress.next), (Some(40), Index(5)));
        assert!(!progress.acknowledged(Index(2)), "an old ack is no news");
        progress.probe();
        assert_eq!((progress.next, progress.room(100, 2)), (Index(4), Some(100)));
    }

    #[test]
    fn what_is_written_is_on_its_way_no_longer_and_still_not_acknowledged() {
        let mut progress = Progress::new(Index(1), ReplicaKind::Full);
        progress.replicate();
        for index in 1..=16 {
            assert_eq!(progress.room(100, 1), Some(100), "{index}");
            progress.sent(Index(index), 60, Time(index));
            assert_eq!(progress.room(100, 1), None);
            progress.note_written(Index(index));
        }
        assert_eq!((progress.matched, progress.written, progress.in_flight_bytes), (Index(0), Index(16), 0));
        assert_eq!(progress.oldest_in_flight(), Some(Time(1)));
        assert_eq!(progress.room(100, 1), None, "so many are remembered, and no more");
        assert!(progress.acknowledged(Index(3)));
        assert_eq!((progress.room(100, 1), progress.oldest_in_flight()), (Some(100), Some(Time(4))));
        progress.sent(Index(17), 60, Time(17));
        progress.note_written(Index(2));
        assert_eq!((progress.room(100, 1), progress.in_flight_bytes), (None, 60), "old news");
        assert_eq!(progress.written, Index(16), "never back");
        assert!(progress.acknowledged(Index(17)));
        assert_eq!((progress.room(100, 1), progress.in_flight_bytes), (Some(100), 0));
    }

    /// Appends that are on their way do not matter to a peer that needs a snapshot.
    #[test]
    fn nothing_is_in_flight_to_a_peer_that_is_sent_a_snapshot() {
        let mut progress = Progress::new(Index(1), ReplicaKind::Full);
        progress.replicate();
        progress.sent(Index(3), 60, Time(1));
        progress.snapshot(EntryId::new(Term(1), Index(9)), Time(2));
        assert_eq!((progress.status().in_flight_bytes, progress.oldest_in_flight()), (0, None));
    }
}
