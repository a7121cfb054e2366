//! One worker over a simulated disk and a transport that only records: faults of the disk and of state
//! machines.

mod incarnation;

use std::cell::Cell;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use raftwerk_frame::frame::{EntryKind, FrameWriter};
use raftwerk_frame::wire::{RECORD_BYTES, Record, UnitHeader, UnitKind, records};
use raftwerk_frame::{Configuration, EntryId, GroupId, Index, LogId, Message, NodeId, Term, Time};
use raftwerk_net::{Channel, Parts, PeerId, Receive as _, SendError, Transport};
use raftwerk_raft::Role;
use raftwerk_wal::simulated::{MemoryFiles, SectorFate, StepDisk};
use raftwerk_wal::{AppendMode, Completion, Directory, Disk, Files, Job, LaneOptions, PeerNote};
use tokio::sync::oneshot;

use super::{Settings, Worker, WorkerContext};
use crate::api::state_machine::{Checkpoint, Committed, Replies, StateMachine};
use crate::api::stats::WorkerMetrics;
use crate::api::status::ReplicaKind;
use crate::node::dispatch::Dispatch;
use crate::node::inbox::Inbox;
use crate::node::peers::Peers;
use crate::node::request::{Arrival, Order, ReceivedUnit, Request};
use crate::worker::storage::chunk::{ACK, CHUNK, Head};
use crate::worker::storage::sending::INSTALL_MAX;
use crate::{Applied, Condition, CreateError, GroupStatus, ProposeError, ReplaceError, Shortage};

mod bootstrap;
mod checkpoints;
mod clock;
mod figures;
mod full;
mod goodbyes;
mod leading;
mod loss;
mod lost_checkpoint;
mod memory;
mod patience;
mod quarantine;
mod reads;
mod relaxed;
mod scrub;
mod snapshots;
mod transfers;
mod waiting;

const GROUP: GroupId = GroupId(1);
const TIMEOUT: Duration = Duration::from_millis(500);

/// A disk that runs its jobs only when the test says so.
#[derive(Clone)]
struct SlowDisk {
    directory: Directory<MemoryFiles>,
    inner: Arc<Mutex<StepDisk<MemoryFiles>>>,
}

type File = <MemoryFiles as Files>::File;

impl Disk for SlowDisk {
    type Files = MemoryFiles;

    fn directory(&self) -> &Directory<MemoryFiles> {
        &self.directory
    }

    fn submit(&mut self, job: Job<File>) {
        self.inner.lock().unwrap().submit(job);
    }

    fn poll(&mut self) -> Option<Completion<File>> {
        self.inner.lock().unwrap().poll()
    }

    fn mode(&self) -> AppendMode {
        AppendMode::Direct
    }

    fn is_synced(&self) -> bool {
        true
    }
}

/// Records what was sent; of snapshot units the headers, and with each the number of its chunk's bytes.
#[derive(Default)]
struct Wire(
    Mutex<Vec<(PeerId, Record)>>,
    Mutex<Vec<Head>>,
    Mutex<Vec<(PeerId, LogId)>>,
    Mutex<Vec<(Head, usize)>>,
);

impl Transport for Wire {
    fn send(&self, to: PeerId, _: Channel, parts: Parts) -> Result<(), SendError> {
        let unit = parts.concat();
        let (header, heads, bodies) = UnitHeader::parse(&unit).unwrap();
        if header.kind == UnitKind::Snapshot {
            let (head, head_bytes) = Head::parse(bodies).unwrap();
            self.1.lock().unwrap().push(head);
            self.3.lock().unwrap().push((head, bodies.len() - head_bytes));
        }
        self.2.lock().unwrap().push((to, header.to_log));
        self.0.lock().unwrap().extend(records(heads).map(|record| (to, record.unwrap())));
        Ok(())
    }

    fn flush(&self) {}

    fn add_peer(&self, _: PeerId, _: SocketAddr) {}

    fn set_address(&self, _: PeerId, _: SocketAddr) {}
}

thread_local! {
    /// Machines of this test have been repaired: they panic no longer.
    static ARE_MENDED: Cell<bool> = const { Cell::new(false) };
    /// Machines of this test refuse to restore an image.
    static REFUSE_IMAGES: Cell<bool> = const { Cell::new(false) };
}

/// Panics at payloads and queries of this kind, until the machines are repaired.
fn may_panic(words: &[u8]) {
    assert!(!words.starts_with(b"panic") || ARE_MENDED.get(), "as the test wants it");
}

/// Counts, and panics at payloads and queries that begin with "panic".
#[derive(Default)]
struct Counting(u64);

impl StateMachine for Counting {
    fn apply(&mut self, entries: Committed<'_>, _: &mut Replies) {
        for entry in entries {
            may_panic(entry.payload);
            self.0 += 1;
        }
    }

    fn query(&self, query: &[u8]) -> Bytes {
        may_panic(query);
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    fn checkpoint(&self) -> Checkpoint {
        let count = self.0;
        Box::new(move |out| out.write_all(&count.to_le_bytes()))
    }

    fn restore(&mut self, image: &mut dyn Read) -> io::Result<()> {
        if REFUSE_IMAGES.get() {
            return Err(io::Error::other("as the test wants it"));
        }
        let mut count = [0; 8];
        image.read_exact(&mut count)?;
        self.0 = u64::from_le_bytes(count);
        Ok(())
    }
}

struct Node {
    worker: Worker<SlowDisk>,
    disk: SlowDisk,
    files: MemoryFiles,
    inbox: Arc<Inbox>,
    dispatch: Arc<Dispatch>,
    wire: Arc<Wire>,
    now: Time,
}

/// A message to the group, from a sender with a configuration that names no logs.
fn record_of(message: Message) -> Record {
    Record {
        group: GROUP,
        message,
        body_bytes: 0,
        is_named: false,
        names_itself: false,
        to_witness: false,
        lacks_configuration: false,
        is_leaving: false,
    }
}

impl Node {
    fn open(files: &MemoryFiles, checkpoint_log_bytes: u64) -> Self {
        Self::open_with(files, checkpoint_log_bytes, |_, _| ())
    }

    fn open_with(
        files: &MemoryFiles,
        checkpoint_log_bytes: u64,
        change: impl FnOnce(&mut Settings, &mut LaneOptions),
    ) -> Self {
        let directory = Directory::open(files.clone(), 1, 7).unwrap();
        let mut inner = StepDisk::new(directory.clone());
        inner.runs_by_itself = false;
        let inner = Arc::new(Mutex::new(inner));
        let inbox = Inbox::new(64, u64::MAX, Waker::noop().clone(), None);
        let dispatch = Arc::new(Dispatch::new(
            vec![Arc::clone(&inbox)],
            Peers::new(directory.peers()),
            LogId(7),
            Arc::default(),
        ));
        let disk = SlowDisk { directory, inner };
        let wire = Arc::new(Wire::default());
        let context = WorkerContext {
            machines: Arc::new(|_: GroupId| Counting::default()),
            transport: Arc::clone(&wire) as Arc<dyn Transport>,
            inbox: Arc::clone(&inbox),
            dispatch: Arc::clone(&dispatch),
            metrics: Arc::new(WorkerMetrics::default()),
            clock: None,
        };
        let mut settings = Settings {
            node: NodeId(1),
            worker: 0,
            workers: 1,
            payload_bytes_max: 8 << 10,
            election_timeout: TIMEOUT,
            heartbeat_interval: TIMEOUT / 5,
            window_bytes: 1 << 20,
            window_messages: 256,
            append_bytes_max: 1 << 20,
            uncommitted_bytes_max: 1 << 20,
            commit_delay: Duration::ZERO,
            relaxed_sync_interval: Duration::from_millis(10),
            checkpoint_log_bytes,
            checkpoint_state_percent: 0,
            lane_bytes_max: u64::MAX,
            scrub_bytes_per_second: 0,
            scrub_interval: Duration::ZERO,
            priority: raftwerk_raft::PRIORITY_MAX,
            seed: 1,
            incarnation: 1,
            clock_drift_ppm: 50_000,
            reads_max: 1024,
            read_bytes_max: 1 << 20,
            limits: crate::worker::TurnLimits::default(),
            accept_losses: false,
        };
        let mut options = LaneOptions {
            segment_bytes: 64 << 10,
            frame_bytes_max: 16 << 10,
            recent_bytes_max: 0,
            ..LaneOptions::default()
        };
        change(&mut settings, &mut options);
        let worker = Worker::open(settings, options, disk.clone(), context, Time(0)).unwrap();
        Self { worker, disk, files: files.clone(), inbox, dispatch, wire, now: Time(0) }
    }

    fn turn(&mut self, passed: Duration) {
        self.now = self.now + passed;
        self.worker.count_requests();
        self.worker.turn(self.now);
    }

    /// Lets disk and worker finish everything.
    fn settle(&mut self) {
        for _ in 0..8 {
            self.turn(Duration::from_millis(1));
            let mut disk = self.disk.inner.lock().unwrap();
            while disk.run_background() || disk.run_appends() {}
        }
        self.turn(Duration::from_millis(1));
    }

    fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> oneshot::Receiver<T> {
        let (reply, answer) = oneshot::channel();
        self.inbox.order(order(reply));
        answer
    }

    fn create(&mut self, voters: &[u64]) {
        let initial_members = Configuration::of_voters(voters.iter().map(|&id| NodeId(id)));
        let mut made = self.order(|reply| match initial_members.is_empty() {
            true => Order::Join { group: GROUP, kind: ReplicaKind::Full, reply },
            false => Order::Bootstrap { group: GROUP, initial_members, reply },
        });
        self.settle();
        made.try_recv().unwrap().unwrap();
    }

    /// A group of one replica that has become leader.
    fn alone(files: &MemoryFiles, checkpoint_log_bytes: u64) -> Self {
        let mut node = Self::open(files, checkpoint_log_bytes);
        node.create(&[1]);
        node.turn(2 * TIMEOUT);
        node.settle();
        node
    }

    /// Creates the group on three nodes, makes this one leader, and appends so many writes of so many bytes;
    /// node 2 acknowledges all of them, node 3 nothing.
    fn lead_with_one(&mut self, writes: usize, bytes: usize) -> Term {
        self.create(&[1, 2, 3]);
        self.turn(2 * TIMEOUT);
        let (term, granted) = (Term(1), true);
        for answer in [Message::PreVoteReply { term, granted }, Message::VoteReply { term, granted }] {
            self.hear(2, answer);
            self.settle();
        }
        for _ in 0..writes {
            drop(self.propose(&vec![1; bytes]));
            self.settle();
            let matched = self.status().unwrap().last.index;
            self.hear(2, Message::AppendAck { term, matched, progress_epoch: 0 });
            self.settle();
        }
        term
    }

    fn propose(&self, payload: &[u8]) -> oneshot::Receiver<Result<Applied, ProposeError>> {
        let (reply, answer) = oneshot::channel();
        let payload = Bytes::copy_from_slice(payload);
        assert!(self.inbox.request(Request::Propose { group: GROUP, payload, reply }).is_ok());
        answer
    }

    fn write(&mut self, payload: &[u8]) -> Result<Applied, ProposeError> {
        let mut answer = self.propose(payload);
        self.settle();
        answer.try_recv().expect("every proposal ends")
    }

    /// All conditions that the node reports at present.
    fn conditions(&self) -> Vec<Condition> {
        self.dispatch.events().conditions()
    }

    fn status(&mut self) -> Option<GroupStatus> {
        let mut answer = self.order(|reply| Order::Status { group: GROUP, reply });
        self.turn(Duration::ZERO);
        answer.try_recv().unwrap().ok()
    }

    fn hear(&self, from: u64, message: Message) {
        let record = record_of(message);
        self.hear_unit(from, UnitKind::Groups, 1, &record.encode());
    }

    fn hear_unit(&self, from: u64, kind: UnitKind, records: u32, rest: &[u8]) {
        let bodies_bytes = (rest.len() - records as usize * RECORD_BYTES) as u64;
        let from_node = NodeId(from);
        let log = LogId(from);
        let to_log = LogId(7);
        let header = UnitHeader {
            kind,
            worker: 0,
            workers: 1,
            to_worker: 0,
            records,
            from: from_node,
            bodies_bytes,
            log,
            to_log,
        };
        let unit = [&header.encode()[..], rest].concat().into();
        assert!(self.inbox.arrive(Arrival::Unit(ReceivedUnit { from: NodeId(from), is_first: true, unit })));
    }

    /// The leader of `term`, node 2, sends entries with payloads of so many bytes.
    fn hear_append(&self, term: u64, prev: EntryId, count: u64, bytes: usize, commit: u64) {
        self.hear_entries(term, prev, &vec![vec![7; bytes]; count as usize], commit);
    }

    /// … or with these payloads.
    fn hear_entries(&self, term: u64, prev: EntryId, payloads: &[Vec<u8>], commit: u64) {
        let mut frames = vec![0; payloads.iter().map(|payload| payload.len() + 64).sum::<usize>() + 64];
        let first = EntryId::new(Term(term), prev.index.next());
        let mut writer = FrameWriter::new(&mut frames, GROUP, first).unwrap();
        for payload in payloads {
            assert!(writer.push(EntryKind::Payload, payload));
        }
        let length = writer.finish().map_or(0, |header| header.frame_bytes());
        frames.truncate(length);
        let message = Message::Append { term: Term(term), prev, commit: Index(commit), progress_epoch: 0 };
        let record = Record { body_bytes: frames.len() as u32, ..record_of(message) };
        self.hear_unit(2, UnitKind::Groups, 1, &[&record.encode()[..], &frames].concat());
    }

    /// Receives a pre-vote request of node 2 from that log; returns the number of replies.
    fn answers_to(&mut self, log: u64) -> usize {
        let message = Message::PreVote { term: Term(9), last: EntryId::new(Term(8), Index(8)) };
        let record = record_of(message);
        let header = UnitHeader {
            kind: UnitKind::Groups,
            worker: 0,
            workers: 1,
            to_worker: 0,
            records: 1,
            from: NodeId(2),
            bodies_bytes: 0,
            log: LogId(log),
            to_log: LogId(7),
        };
        let unit = [&header.encode()[..], &record.encode()].concat().into();
        self.dispatch.receive(PeerId(2), Channel::Control, unit);
        self.settle();
        self.said().iter().filter(|said| matches!(said, Message::PreVoteReply { .. })).count()
    }

    /// Receives a unit as from the network; without a record it is a bare announcement of its sender's log.
    fn receive(&self, from: u64, log: u64, to_log: u64, record: Option<&Record>) {
        let header = UnitHeader {
            kind: UnitKind::Groups,
            worker: 0,
            workers: 1,
            to_worker: 0,
            records: u32::from(record.is_some()),
            from: NodeId(from),
            bodies_bytes: 0,
            log: LogId(log),
            to_log: LogId(to_log),
        };
        let mut unit = header.encode().to_vec();
        unit.extend(record.iter().flat_map(|record| record.encode()));
        self.dispatch.receive(PeerId(from), Channel::Control, unit.into());
    }

    fn replace_peer(&mut self, log: u64) -> Result<(), ReplaceError> {
        let peer = PeerNote { node: NodeId(2), log: LogId(log) };
        let mut told = self.order(|reply| Order::ReplacePeer { peer, checked: 0, reply });
        self.settle();
        told.try_recv().expect("every order ends")
    }

    fn said(&self) -> Vec<Message> {
        self.wire.0.lock().unwrap().drain(..).map(|(_, record)| record.message).collect()
    }
}

#[test]
fn a_peer_that_lost_its_log_is_not_heard_until_its_new_one_is_noted() {
    let files = MemoryFiles::new();
    let mut node = Node::open(&files, u64::MAX);
    node.create(&[1, 2, 3]);
    assert_eq!(node.answers_to(5), 1, "whoever comes first is noted, and heard");
    assert_eq!((node.answers_to(6), node.dispatch.peers().refused()), (0, 1), "another log is another node");
    assert_eq!(node.answers_to(5), 1);

    // The record survives a power cut.
    let files = files.after_power_cut(|_, _| SectorFate::Old);
    drop(node);
    let mut node = Node::open(&files, u64::MAX);
    assert_eq!(node.answers_to(6), 0);
    assert_eq!(node.replace_peer(6), Err(ReplaceError::Member(GROUP)), "it is counted on still");
    assert_eq!(node.answers_to(6), 0);

    let mut gone = node.order(|reply| Order::Remove { group: GROUP, reply });
    node.settle();
    assert_eq!(gone.try_recv(), Ok(Ok(())));
    assert_eq!(node.replace_peer(6), Ok(()));
    node.create(&[1, 3]);
    node.answers_to(6);
    let noted = PeerNote { node: NodeId(2), log: LogId(6) };
    assert_eq!(node.dispatch.peers().list(), [noted]);
}

#[test]
fn a_peer_that_cannot_be_noted_is_not_heard_and_can_be_later() {
    let files = MemoryFiles::new();
    let mut node = Node::open(&files, u64::MAX);
    node.create(&[1, 2, 3]);
    files.limit(Some(0));
    assert_eq!(node.answers_to(5), 0);
    assert_eq!(node.dispatch.peers().list(), []);
    files.limit(None);
    assert_eq!(node.answers_to(5), 1);
}

/// From now on the disk has room for so many bytes more than it holds.
fn leave_room(files: &MemoryFiles, bytes: u64) {
    let used: u64 =
        files.paths().iter().filter_map(|path| files.content(path)).map(|file| file.len() as u64).sum();
    files.limit(Some(used + bytes));
}

#[test]
fn a_full_disk_refuses_writes_and_serves_again_when_there_is_room() {
    let files = MemoryFiles::new();
    let mut node = Node::alone(&files, u64::MAX);
    leave_room(&files, 1000);
    let refused = (0..100).find_map(|_| node.write(&[7; 4096]).err());
    assert_eq!(refused, Some(ProposeError::StorageFull));
    assert_eq!(node.write(b"more"), Err(ProposeError::StorageFull), "and it stays so");
    let (lane, why) = (0, Shortage::Storage);
    assert_eq!(node.conditions(), [Condition::DiskFull { lane }, Condition::NoSegment { lane, why }]);
    // Terms and their empty entries are still taken: an election on a full disk breaks nothing.
    node.hear(9, Message::Vote { term: Term(99), last: Default::default(), transfer: true });
    node.settle();
    files.limit(None);
    let healed = (0..20).any(|_| {
        node.turn(TIMEOUT);
        node.settle();
        node.write(b"again").is_ok()
    });
    assert!(healed, "service resumes by itself");
    assert_eq!(node.conditions(), [], "and so it says");
}

#[test]
fn a_leader_whose_disk_hangs_falls_silent_steps_down_and_ends_its_calls() {
    let mut node = Node::open(&MemoryFiles::new(), u64::MAX);
    node.create(&[1, 2, 3]);
    node.turn(2 * TIMEOUT);
    node.hear(2, Message::PreVoteReply { term: Term(1), granted: true });
    node.settle();
    node.hear(2, Message::VoteReply { term: Term(1), granted: true });
    node.settle();
    assert_eq!(node.status().map(|status| status.role), Some(Role::Leader));

    let mut hanging = node.propose(b"never durable");
    node.turn(Duration::ZERO);
    let _appends = node.said();
    let mut silent_since = None;
    for beat in 0..30 {
        // Its followers would acknowledge everything it sends.
        node.hear(2, Message::HeartbeatAck { term: Term(1), round: 0, fortifies: false, quiesce: false });
        node.turn(TIMEOUT / 5);
        let spoke = !node.said().is_empty();
        silent_since = if spoke { None } else { silent_since.or(Some(beat)) };
        if silent_since.is_some() {
            break;
        }
    }
    assert!(silent_since.is_some_and(|beat| beat <= 7), "silent soon after T: {silent_since:?}");
    assert_eq!(node.conditions(), [Condition::DiskHung { lane: 0 }]);
    for _ in 0..15 {
        node.turn(TIMEOUT / 5); // a leader that sends nothing receives no acknowledgement
    }
    assert_ne!(node.status().map(|status| status.role), Some(Role::Leader));
    assert_eq!(hanging.try_recv().unwrap(), Err(ProposeError::Unknown));
    assert!(node.said().is_empty());
    node.turn(2 * TIMEOUT);
    node.turn(TIMEOUT);
    let leaderless = Condition::NoLeader { lane: 0, groups: 1, group: GROUP };
    assert_eq!(node.conditions(), [Condition::DiskHung { lane: 0 }, leaderless.clone()]);
    node.settle();
    assert_eq!(node.conditions(), [leaderless], "the disk answers");
    node.turn(2 * TIMEOUT);
    node.settle();
    assert!(!node.said().is_empty(), "it speaks again when the disk does");
}

#[test]
fn a_removed_group_leaves_no_file_behind_even_if_the_node_stops_in_between() {
    let files = MemoryFiles::new();
    let has_snapshots = |files: &MemoryFiles| files.paths().iter().any(|path| path.ends_with(".snap"));
    let mut node = Node::alone(&files, 4096);
    for _ in 0..8 {
        node.write(&[1; 1024]).unwrap();
    }
    assert!(has_snapshots(&files), "{:?}", files.paths());

    // The removal is durable; the files are not deleted yet, and the caller is not answered.
    let mut gone = node.order(|reply| Order::Remove { group: GROUP, reply });
    node.turn(Duration::ZERO);
    assert!(has_snapshots(&files));
    let stopped = files.copy();
    node.settle();
    assert_eq!(gone.try_recv(), Ok(Ok(())));
    assert!(!has_snapshots(&files));

    // A stop before the removal was durable: the replica is whole.
    let mut node = Node::open(&stopped, 4096);
    node.settle();
    assert!(node.status().is_some_and(|status| status.compacted.index.0 > 0));
    let _gone = node.order(|reply| Order::Remove { group: GROUP, reply });
    node.turn(Duration::ZERO);
    node.disk.inner.lock().unwrap().run_appends();
    let stopped = node.files.copy();
    assert!(has_snapshots(&stopped));
    // A stop after it: opening deletes the files.
    let mut node = Node::open(&stopped, 4096);
    assert_eq!(node.status(), None);
    assert!(!has_snapshots(&stopped));

    // Its hard state is kept: the group cannot be bootstrapped here again, and a replica that joins begins
    // with that state.
    let initial_members = Configuration::of_voters([NodeId(1)]);
    let mut made = node.order(|reply| Order::Bootstrap { group: GROUP, initial_members, reply });
    node.settle();
    assert_eq!(made.try_recv().unwrap(), Err(CreateError::Removed(GROUP)));
    node.create(&[]);
    let status = node.status().unwrap();
    assert!(status.term > Term(0) && status.last == EntryId::default(), "{status:?}");
    let floor = |node: &Node| node.worker.replicas().next().unwrap().core.origin().floor();
    assert_eq!(floor(&node).index, Index(9), "the empty entry, and eight");
    let files = node.files.after_power_cut(|_, _| SectorFate::Old);
    let reopened = Node::open(&files, 4096);
    assert_eq!(floor(&reopened), floor(&node));
}
