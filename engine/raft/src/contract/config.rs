//! What a group is created with: its settings, and the state of its log.

use alloc::vec::Vec;
use core::time::Duration;

use raftwerk_frame::{Configuration, EntryId, GroupId, HardState, Index, LogId, NodeId, Term};

/// The settings of one replica. The driver must check all bounds.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node this replica is on.
    pub node: NodeId,
    /// The log that the replica is in: configurations name it once the replica was added to one. 0: they
    /// never do.
    pub log: LogId,
    /// The group it belongs to.
    pub group: GroupId,
    /// Seeds the election timeouts. Replicas of one group need different ones.
    pub seed: u64,
    /// T: without a leader for a random time in [T, 2T), a voter campaigns (paper, section 5.2).
    pub election_timeout: Duration,
    /// The interval between a leader's heartbeats. Well below T.
    pub heartbeat_interval: Duration,
    /// In a group without any history, this replica campaigns after this time. `None`: after a usual election
    /// timeout.
    pub first_timeout: Option<Duration>,
    /// Bytes of entries on their way to one peer; less than 4 GiB.
    pub window_bytes: u64,
    /// Appends on their way to one peer; at most 65,535.
    pub window_messages: u32,
    /// Bytes of entries in one append; less than 4 GiB.
    pub append_bytes_max: u64,
    /// Bytes of proposals that are not yet committed; proposals beyond it are rejected as busy. One proposal
    /// is always accepted. Less than 4 GiB.
    pub uncommitted_bytes_max: u64,
    /// How long a new commit index waits for an entry to travel with, at the most. If the next entry is sooner
    /// than that, the commit index costs no message of its own. Those of all groups fall due at the same times,
    /// the multiples of this: few messages carry them.
    pub commit_delay: Duration,
    /// Which side writes the entry that opens a leader's term.
    pub opening: Opening,
    /// Pre-vote before campaigning (thesis, section 9.6).
    pub pre_vote: bool,
    /// How long a leader without a vote in the committed configuration goes on, waiting for another voter to
    /// take over; T at most. It takes no proposals meanwhile. T is a good choice: it leaves time for the next
    /// successor if one does not answer. Zero: the leader steps down as soon as a voter has been sent the
    /// commit of that configuration.
    pub retirement: Duration,
    /// For this long after its creation the replica grants no vote, not even to itself: before a restart its
    /// node may have supported others ([`Input::Supports`](crate::Input)). The longest support that any
    /// earlier incarnation of the node may have given; zero for a replica without a past.
    pub abstention: Duration,
    /// A leader that receives no reply from a quorum within T steps down, and a follower that receives
    /// messages from its leader ignores candidates (thesis, section 6.2 and 4.2.3).
    pub check_quorum: bool,
}

/// Which side writes the entry that opens a leader's term. Before an entry of its own term is committed, a
/// leader does not know what is committed: it commits nothing, answers no read and begins no membership
/// change (paper, sections 5.4.2 and 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The core, at once, and the entry is empty. The usual choice.
    Core,
    /// The driver, by its first proposal. For state machines that begin each term with an entry of their own,
    /// a signature or the new leader's clock; and for groups that must write nothing when their leader
    /// changes without any request. The driver must then ensure that there is a proposal.
    Driver,
}

/// The part of its [`Config`] that a group keeps, in little memory: there are many groups.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) node: NodeId,
    /// The log that this replica is in.
    pub(crate) own_log: LogId,
    election_timeout_micros: u32,
    heartbeat_interval_micros: u32,
    commit_delay_micros: u32,
    retirement_micros: u32,
    window_bytes: u32,
    append_bytes_max: u32,
    uncommitted_bytes_max: u32,
    pub(crate) window_messages: u16,
    pub(crate) pre_vote: bool,
    pub(crate) check_quorum: bool,
}

impl Settings {
    pub(crate) const fn new(config: &Config) -> Self {
        Self {
            node: config.node,
            own_log: config.log,
            election_timeout_micros: micros(config.election_timeout),
            heartbeat_interval_micros: micros(config.heartbeat_interval),
            commit_delay_micros: micros(config.commit_delay),
            retirement_micros: micros(config.retirement),
            window_bytes: below_4_gib(config.window_bytes),
            append_bytes_max: below_4_gib(config.append_bytes_max),
            uncommitted_bytes_max: below_4_gib(config.uncommitted_bytes_max),
            window_messages: if config.window_messages > u16::MAX as u32 {
                u16::MAX
            } else {
                config.window_messages as u16
            },
            pre_vote: config.pre_vote,
            check_quorum: config.check_quorum,
        }
    }

    pub(crate) const fn window_bytes(&self) -> u64 {
        self.window_bytes as u64
    }

    pub(crate) const fn uncommitted_bytes_max(&self) -> u64 {
        self.uncommitted_bytes_max as u64
    }

    pub(crate) const fn append_bytes_max(&self) -> u64 {
        self.append_bytes_max as u64
    }

    pub(crate) const fn election_timeout(&self) -> Duration {
        Duration::from_micros(self.election_timeout_micros as u64)
    }

    pub(crate) const fn commit_delay(&self) -> Duration {
        Duration::from_micros(self.commit_delay_micros as u64)
    }

    pub(crate) const fn retirement(&self) -> Duration {
        Duration::from_micros(self.retirement_micros as u64)
    }

    pub(crate) const fn heartbeat_interval(&self) -> Duration {
        Duration::from_micros(self.heartbeat_interval_micros as u64)
    }
}

const fn below_4_gib(bytes: u64) -> u32 {
    if bytes > u32::MAX as u64 { u32::MAX } else { bytes as u32 }
}

/// Whole microseconds, up to more than an hour: enough for a timeout, in half the memory.
const fn micros(duration: Duration) -> u32 {
    let micros = duration.as_micros();
    if micros > u32::MAX as u128 { u32::MAX } else { micros as u32 }
}

/// How a replica was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// At bootstrap of its group: configurations that name no log of its node mean it, too.
    #[default]
    InitialMember,
    /// Later, by joining: only configurations that name its log mean it.
    Joined {
        /// The end of the log of an earlier replica of this group in this log; zero if there was none. What
        /// that replica had acknowledged may be committed: no vote is granted to a candidate with a log that
        /// ends before.
        floor: EntryId,
    },
}

impl Origin {
    /// No vote is granted to a candidate with a log that ends before this.
    #[must_use]
    pub const fn floor(self) -> EntryId {
        match self {
            Self::InitialMember => EntryId::new(raftwerk_frame::Term(0), Index(0)),
            Self::Joined { floor } => floor,
        }
    }
}

/// A run of entries of one term, up to where the next run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermRun {
    /// Their term.
    pub term: Term,
    /// The first of them.
    pub first: Index,
}

/// The state of a replica as recovery found it in its log; all zero for a new one.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// How it was created.
    pub origin: Origin,
    /// Whether it holds no payloads: a witness stays one for as long as it exists. It votes and acknowledges
    /// where configurations have it as a witness, accepts no other requests, and never campaigns.
    pub is_witness: bool,
    /// Term and vote. A replica that was removed and has joined again still keeps them.
    pub hard_state: HardState,
    /// The entry just before the log's first.
    pub compacted: EntryId,
    /// The configuration in force where the log begins.
    pub configuration: Configuration,
    /// The terms of the log, in rising order.
    pub runs: Vec<TermRun>,
    /// The log's last index; `compacted.index` if it is empty.
    pub last: Index,
    /// What the state machine has applied: at least `compacted.index`, at most `last`. Known to be committed.
    /// Where a state machine is ahead of its log, restore as from a snapshot: an empty log after what it has
    /// applied. Of a witness, which has no state machine, `compacted.index`.
    pub applied: Index,
}
