//! One simulated node: a disk that outlives it, a clock, an end of the network, and, while it is up, the real engine.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

use bytes::Bytes;
use raftwerk::drive::{self, PeerNote};
use raftwerk::{Call, CreateError, Group, GroupId, NodeId, ReplicaError};
use raftwerk_frame::Time;
use raftwerk_wal::Lsn;
use raftwerk_wal::simulated::MemoryFiles;
use smallvec::SmallVec;

use crate::clock::Clock;
use crate::disk::{Batch, Mishaps, SimDisk};
use crate::net::SimTransport;
use crate::quic::QuicEnd;
use crate::world::crowds::Patient;
use crate::world::receivers::{Doorbell, Receiver};

/// Whether a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It runs.
    Up,
    /// It is down, and will start again.
    Down,
    /// It refused to open a damaged log, loudly, and stays down.
    Retired,
}

/// The workers that have been woken, as bits.
#[derive(Debug, Default)]
pub(crate) struct Bells(AtomicU64);

struct Bell {
    bells: Arc<Bells>,
    worker: usize,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.bells.0.fetch_or(1 << self.worker, Ordering::Relaxed);
    }
}

impl Bells {
    pub(crate) fn waker(self: &Arc<Self>, worker: usize) -> Waker {
        Waker::from(Arc::new(Bell { bells: Arc::clone(self), worker }))
    }

    /// The workers that were woken since the last call, as bits.
    pub(crate) fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// A batch that is durable, for faults that take it away again.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) lane: usize,
    pub(crate) path: String,
    pub(crate) offset: u64,
    pub(crate) batch: Bytes,
    pub(crate) lsn: Lsn,
    /// The groups that it has entries of.
    pub(crate) groups: SmallVec<[GroupId; 2]>,
}

/// What a node's worker waits for.
#[derive(Clone, Debug)]
pub(crate) struct Rounds {
    /// When its next turn is due, in the world's time.
    pub(crate) turn_at: u64,
    /// Which of its disk's queues have a job under way.
    pub(crate) is_working: [bool; 3],
    /// How many batches the running write takes along: later ones wait for the next.
    pub(crate) batches: usize,
    /// The end of its present turn.
    pub(crate) free_at: u64,
    /// Since when its entries wait for a segment; `None` while they do not.
    pub(crate) awaits_segment: Option<u64>,
    /// The groups that it has led since then, and their terms.
    pub(crate) led: SmallVec<[(GroupId, u64); 2]>,
}

impl Rounds {
    /// Of a worker that has had no turn.
    pub(crate) fn new() -> Self {
        Self {
            turn_at: u64::MAX,
            is_working: [false; 3],
            batches: 0,
            free_at: 0,
            awaits_segment: None,
            led: SmallVec::new(),
        }
    }
}

/// One node.
pub(crate) struct SimNode {
    pub(crate) id: NodeId,
    pub(crate) state: State,
    /// Counts the starts: events of an earlier life have an earlier number, and no effect.
    pub(crate) life: u32,
    pub(crate) files: MemoryFiles,
    pub(crate) mishaps: Arc<Mutex<Mishaps>>,
    pub(crate) clock: Clock,
    pub(crate) latest: Time,
    pub(crate) body: Option<drive::Node<SimDisk>>,
    pub(crate) disks: Vec<SimDisk>,
    pub(crate) rounds: Vec<Rounds>,
    pub(crate) transport: Arc<SimTransport>,
    /// Its end of the network, where transports are real and it is up.
    pub(crate) quic: Option<QuicEnd>,
    pub(crate) bells: Arc<Bells>,
    /// Workers to ask for at the next start.
    pub(crate) workers: usize,
    /// The number on the disk of the first of its lanes.
    pub(crate) first_lane: u16,
    pub(crate) frozen_until: u64,
    /// Its clock stands still until then: no timer of it falls due.
    pub(crate) clock_still_until: u64,
    pub(crate) hangs_until: u64,
    /// How long each of its turns takes, and until when.
    pub(crate) slow_turns: (u64, u64),
    /// No segment is ready before.
    pub(crate) segments_until: u64,
    /// The election timeout of this life, in nanoseconds.
    pub(crate) timeout: u64,
    /// By node and group: the time of the last message, while entries wait for a segment here.
    pub(crate) heard: Vec<u64>,
    /// When that hang began.
    pub(crate) hangs_since: u64,
    /// This worker has no turns until then.
    pub(crate) stuck: (usize, u64),
    /// After its next death it starts at once.
    pub(crate) hurries: bool,
    /// When the node was last opened, and when each worker last had a turn, in this life or the one before.
    pub(crate) opened: u64,
    pub(crate) turned: Vec<u64>,
    /// A fault may have taken durable state from it.
    pub(crate) is_damaged: bool,
    /// And that was since it was last opened.
    pub(crate) is_damaged_anew: bool,
    /// Its disk was emptied: it knows nothing of what it promised, and no message of it may arrive.
    pub(crate) is_wiped: bool,
    /// How often its disk was lost.
    pub(crate) disks_lost: u64,
    /// Its groups are to forget its earlier log, and to let it in again.
    pub(crate) farewell: bool,
    /// Groups that it joins, and does not make.
    pub(crate) joins: Vec<GroupId>,
    /// Replicas that were being dropped when it fell.
    pub(crate) dropped: Vec<GroupId>,
    /// Replicas that are being dropped.
    pub(crate) leaving: Vec<(GroupId, Call<(), ReplicaError>)>,
    /// Which logs its peers had, as it knew when it fell.
    pub(crate) noted: Vec<PeerNote>,
    /// It is opened by an operator that accepts losses.
    pub(crate) accepts_losses: bool,
    /// It must not be let near the others: its disk is an old image.
    pub(crate) is_fenced: bool,
    /// An old image of its disk.
    pub(crate) image: Option<MemoryFiles>,
    /// Groups that are to be made here, and those that are on their way.
    pub(crate) to_create: Vec<GroupId>,
    pub(crate) creations: Vec<(GroupId, Call<Group, CreateError>)>,
    /// When those that were refused are tried again.
    pub(crate) create_again_at: u64,
    /// Clients that wait for it.
    pub(crate) callers: Vec<usize>,
    /// Readers that wait for it.
    pub(crate) readers: Vec<usize>,
    /// Clients with an attempt at it.
    pub(crate) repeaters: Vec<usize>,
    /// Receivers of its answers to proposals of no client, and what wakes them.
    pub(crate) receivers: Vec<Receiver>,
    pub(crate) doorbell: Doorbell,
    /// Readers of crowds that wait for it.
    pub(crate) patients: Vec<Patient>,
    pub(crate) written: VecDeque<Written>,
    /// Batches that were not durable when it fell, since it was opened last.
    pub(crate) undecided: Vec<Batch>,
    /// By lane: batches up to here are vouched for by later durable ones.
    pub(crate) vouched: Vec<Lsn>,
    /// Snapshots installed in this life.
    pub(crate) installs: u64,
    /// It has died in the middle of a call, and will soon after it has come back: of a power cut.
    pub(crate) dies_again: bool,
    /// A segment's name could not be made durable, and that is tried again.
    pub(crate) has_refused_name: bool,
    /// The operator has noticed that its log failed, and will start it again.
    pub(crate) is_doomed: bool,
}

impl SimNode {
    pub(crate) fn new(at: usize, workers: usize) -> Self {
        Self {
            id: NodeId(at as u64 + 1),
            state: State::Down,
            life: 0,
            files: MemoryFiles::new(),
            mishaps: Arc::default(),
            clock: Clock::new(0, 0, 0),
            latest: Time(0),
            body: None,
            disks: Vec::new(),
            rounds: Vec::new(),
            transport: Arc::default(),
            quic: None,
            bells: Arc::default(),
            workers,
            first_lane: 0,
            frozen_until: 0,
            clock_still_until: 0,
            hangs_until: 0,
            slow_turns: (0, 0),
            segments_until: 0,
            timeout: 0,
            heard: Vec::new(),
            hangs_since: 0,
            stuck: (0, 0),
            hurries: false,
            opened: 0,
            turned: Vec::new(),
            is_damaged: false,
            is_damaged_anew: false,
            is_wiped: false,
            disks_lost: 0,
            farewell: false,
            joins: Vec::new(),
            leaving: Vec::new(),
            dropped: Vec::new(),
            noted: Vec::new(),
            accepts_losses: false,
            is_fenced: false,
            image: None,
            to_create: Vec::new(),
            creations: Vec::new(),
            create_again_at: 0,
            callers: Vec::new(),
            readers: Vec::new(),
            repeaters: Vec::new(),
            receivers: Vec::new(),
            doorbell: Doorbell::default(),
            patients: Vec::new(),
            written: VecDeque::new(),
            undecided: Vec::new(),
            vouched: Vec::new(),
            installs: 0,
            dies_again: false,
            has_refused_name: false,
            is_doomed: false,
        }
    }

    /// Its disks do nothing more: of what they had not made durable, some may be there when it is opened again.
    pub(crate) fn keep_undecided(&mut self) {
        self.undecided.extend(self.disks.drain(..).flat_map(|disk| disk.undecided()));
    }

    /// Durable state may be taken from it.
    pub(crate) const fn damaged(&mut self) {
        (self.is_damaged, self.is_damaged_anew) = (true, true);
    }

    /// Whether it runs and may be spoken to.
    pub(crate) const fn is_reachable(&self) -> bool {
        matches!(self.state, State::Up) && !self.is_fenced
    }

    /// Its disk does nothing until then.
    pub(crate) const fn hang(&mut self, now: u64, until: u64) {
        if self.hangs_until <= now {
            self.hangs_since = now;
        }
        self.hangs_until = until;
    }

    /// Until when a worker has no turns.
    pub(crate) const fn still_until(&self, worker: usize) -> u64 {
        let (stuck, until) = self.stuck;
        if stuck == worker && until > self.frozen_until { until } else { self.frozen_until }
    }

    /// Its own time.
    pub(crate) fn local(&mut self, now: u64) -> Time {
        self.latest = self.latest.max(self.clock.local(now));
        self.latest
    }
}
