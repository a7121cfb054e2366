//! Faults and deliveries: loss, duplicates, cuts, crashes, and when writes become durable.

use raftwerk_frame::{EntryId, HardState, LogId, Membership, Message, NodeId, Term};
use raftwerk_raft::{Input, MessageKind, MessageSender, ReceiverStanding, Recipient};

use super::disk::runs_of;
use super::{Body, Cluster, Packet};

impl Cluster {
    /// The packet at this place in the network arrives, if the link is open and the receiver is up.
    pub(crate) fn deliver(&mut self, at: usize) {
        let packet = self.network.remove(at).expect("the packet is under way");
        if self.cut.contains(&(packet.from, packet.to)) || !self.is_up(packet.to) {
            return self.lose(&packet);
        }
        if !self.is_for(&packet) {
            return;
        }
        let Packet { from, to, body, .. } = packet;
        match body {
            Body::Message { message, entries } => {
                let prev =
                    if let Message::Append { prev, .. } = message { prev.index } else { Default::default() };
                let found = entries.iter().enumerate().filter(|(_, entry)| entry.is_membership());
                let placed = found.map(|(at, entry)| Membership {
                    index: prev.plus(at as u64 + 1),
                    configuration: self.configuration_of(entry.payload),
                });
                let memberships: Vec<Membership> = placed.collect();
                let (from, runs) = (NodeId(from), &runs_of(&entries));
                let input = if memberships.is_empty() {
                    Input::Message { from, message, runs }
                } else {
                    Input::Memberships { from, message, runs, memberships: &memberships }
                };
                self.input_with(to, input, Some((prev, &entries)), None);
            }
            Body::Snapshot { term, snapshot, progress_epoch } => {
                let configuration = self.configuration_of(snapshot.membership);
                let (from, id) = (NodeId(from), snapshot.id);
                let input =
                    Input::SnapshotReceived { from, term, id, configuration: &configuration, progress_epoch };
                self.input_with(to, input, None, Some(snapshot));
            }
        }
        self.finish(to);
    }

    /// The driver's half of `identity`: the sender's and the receiver's identity.
    fn is_for(&mut self, packet: &Packet) -> bool {
        let Some((log, address, names_itself, to_witness)) = packet.logs else { return true };
        let sender_knows = self.replica(packet.from).first.get(&packet.to).copied();
        let meant = match address {
            Recipient::Named(log) => Some(log),
            Recipient::InitialMember => sender_knows,
            Recipient::Anyone => None,
        };
        let receiver = self.replica_mut(packet.to);
        let is_first = *receiver.first.entry(packet.from).or_insert(log) == log;
        let is_named = matches!(address, Recipient::Named(_));
        let kind = packet.message().map_or(MessageKind::Request, |message| MessageKind::of(&message));
        let sender =
            MessageSender { from: NodeId(packet.from), log, is_first, is_named, names_itself, to_witness };
        let mine: LogId = receiver.log;
        let is_heard = meant.is_none_or(|meant| meant == mine) && self.group(packet.to).accepts(sender, kind);
        let standing = match packet.message() {
            Some(Message::Append { term, progress_epoch, .. }) => Some((term, Some(progress_epoch))),
            Some(Message::Heartbeat { term, .. }) => Some((term, None)),
            _ => None,
        };
        if let Some((term, progress_epoch)) = standing.filter(|_| is_heard) {
            let to = NodeId(packet.to);
            let leaves = self.is_up(packet.from) && self.group(packet.from).has_left(to);
            let receiver = self.replica_mut(packet.to).group.as_mut().expect("it is up");
            let is_member = is_named && !leaves;
            let standing = if is_member { ReceiverStanding::Member } else { ReceiverStanding::NotMember };
            receiver.note_standing(term, progress_epoch, standing);
        }
        is_heard
    }

    /// The packet at this place is lost.
    pub(crate) fn drop_packet(&mut self, at: usize) {
        let packet = self.network.remove(at).expect("the packet is under way");
        self.lose(&packet);
    }

    /// The sender of a snapshot learns that it did not arrive; no other loss is reported.
    fn lose(&mut self, packet: &Packet) {
        if matches!(packet.body, Body::Snapshot { .. }) && self.is_up(packet.from) {
            self.snapshot_failed(packet.from, packet.to);
        }
    }

    pub(crate) fn duplicate(&mut self, at: usize) {
        let packet = self.network[at].clone();
        self.network.push_back(packet);
    }

    /// All packets under way for which `like` holds are lost.
    pub(crate) fn drop_where(&mut self, like: impl Fn(&Packet) -> bool) {
        for _ in 0..100_000 {
            let Some(at) = self.network.iter().position(&like) else { return };
            self.drop_packet(at);
        }
        panic!("what is lost is sent again at once, and again");
    }

    /// All packets under way for which `like` holds arrive, and no others.
    pub(crate) fn deliver_where(&mut self, like: impl Fn(&Packet) -> bool) {
        for _ in 0..100_000 {
            let Some(at) = self.network.iter().position(&like) else { return };
            self.deliver(at);
        }
        panic!("the replicas never fall silent");
    }

    /// How many packets under way `like` holds for.
    pub(crate) fn count_where(&self, like: impl Fn(&Packet) -> bool) -> usize {
        self.network.iter().filter(|packet| like(packet)).count()
    }

    /// Packets from `from` to `to` are lost from now on.
    pub(crate) fn cut_one_way(&mut self, from: u64, to: u64) {
        self.cut.insert((from, to));
    }

    /// No packet passes between this node and any other.
    pub(crate) fn isolate(&mut self, node: u64) {
        for other in self.nodes().filter(|&other| other != node) {
            self.cut.insert((node, other));
            self.cut.insert((other, node));
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    /// The process ends; what was not durable is lost.
    pub(crate) fn crash(&mut self, node: u64) {
        let replica = self.replica_mut(node);
        replica.group = None;
        replica.held.clear();
        let lost = replica.disk.pending() as u64;
        replica.disk.crash();
        self.seen.lost_writes += lost;
        self.check();
        self.give_up_snapshots(node);
    }

    /// The process ends, and its disk has lost all but the first `kept` entries, and the vote; it restarts
    /// fenced, as recovery after damage does.
    pub(crate) fn damage(&mut self, node: u64, kept: usize) {
        self.crash(node);
        self.replica_mut(node).has_lost = true;
        let durable = &mut self.replica_mut(node).disk.durable;
        let fence = durable.hard_state.term;
        durable.entries.truncate(kept);
        durable.hard_state = HardState { term: Term(fence.0 + 1), vote: Some(NodeId(node)) };
        self.restart(node);
        self.replica_mut(node).group.as_mut().expect("just started").set_fence(fence);
    }

    /// As [`Cluster::damage`], and the record of the group's first configuration is lost, too.
    pub(crate) fn damage_founding(&mut self, node: u64, kept: usize) {
        let durable = &mut self.replica_mut(node).disk.durable;
        assert_eq!(durable.compacted, EntryId::default(), "the log begins with the group");
        (durable.membership, durable.checkpoint.membership) = (0, 0);
        self.damage(node, kept);
    }

    /// `by` sends `to` the entry that its log begins after, and the configuration there.
    pub(crate) fn tell_founding(&mut self, by: u64, to: u64) {
        let known =
            self.group(by).initial_configuration().map(|(id, configuration)| (id, configuration.clone()));
        let Some((id, configuration)) = known else { return };
        self.input(to, Input::InitialConfiguration { id, configuration: &configuration });
        self.finish(to);
    }

    /// A snapshot may have arrived at a node that crashed before it was durable there: no acknowledgement
    /// will come, and the sender's driver times out.
    fn give_up_snapshots(&mut self, to: u64) {
        for from in self.nodes() {
            let is_travelling =
                |packet: &Packet| packet.is_snapshot() && (packet.from, packet.to) == (from, to);
            if from != to && self.is_up(from) && !self.network.iter().any(is_travelling) {
                self.snapshot_failed(from, to);
            }
        }
    }

    /// All writes of this replica become durable.
    pub(crate) fn sync(&mut self, node: u64) {
        let pending = self.replica(node).disk.pending();
        self.sync_some(node, pending);
    }

    /// The next `count` writes become durable: messages that waited for them leave, and the core receives the
    /// notice.
    pub(crate) fn sync_some(&mut self, node: u64, count: usize) {
        let last = self.make_durable(node, count);
        if let Some(id) = last
            && self.is_up(node)
        {
            self.input(node, Input::Durable { id });
        }
        self.finish(node);
    }

    /// As [`Cluster::sync_some`], but without a notice to the core: the test gives it later.
    pub(crate) fn make_durable(&mut self, node: u64, count: usize) -> Option<EntryId> {
        let last = self.replica_mut(node).disk.sync(count);
        self.release(node);
        last
    }
}
