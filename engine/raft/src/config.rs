//! What a group is told once: its settings, and where its log stood.

use alloc::vec::Vec;
use core::time::Duration;

use raftwerk_frame::{Configuration, EntryId, GroupId, HardState, Index, LogId, NodeId};

use crate::TermRun;

/// The settings of one replica. All bounds are the driver's to check.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node this replica is on.
    pub node: NodeId,
    /// The log that it is in, by which configurations name it once it was added to one. 0: they never do.
    pub log: LogId,
    /// The group it belongs to.
    pub group: GroupId,
    /// Seeds the election timeouts. Replicas of one group need different ones.
    pub seed: u64,
    /// T: without a leader for a random time in [T, 2T), a voter campaigns (paper, section 5.2).
    pub election_timeout: Duration,
    /// How often a leader is heard. Well below T.
    pub heartbeat_interval: Duration,
    /// In a group without any history, this replica campaigns so soon. `None`: after a usual timeout.
    pub first_timeout: Option<Duration>,
    /// Bytes of entries on their way to one peer; less than 4 GiB.
    pub window_bytes: u64,
    /// Appends on their way to one peer; at most 65,535.
    pub window_messages: u32,
    /// Bytes of entries in one append; less than 4 GiB.
    pub append_bytes_max: u64,
    /// Bytes of proposals that are not yet committed; beyond it more are refused as busy. One is always let in. Less than 4 GiB.
    pub uncommitted_bytes_max: u64,
    /// How long the news of a commit waits for an entry to travel with. With the next entry sooner than that, it costs
    /// no message of its own.
    pub commit_delay: Duration,
    /// Who writes the entry that opens a leader's term.
    pub opening: Opening,
    /// Ask before campaigning (thesis, section 9.6).
    pub pre_vote: bool,
    /// How long a leader that the committed configuration gives no vote goes on, waiting for another voter to take over from
    /// it; T at the most. It takes no proposals meanwhile. T is a good choice: an heir that does not answer is followed by the
    /// next. Zero: it goes as soon as a voter has been sent the news that it may.
    pub retirement: Duration,
    /// For so long after it begins, this replica grants no vote, to itself neither: before a restart its node may have promised to support
    /// others ([`Input::Supports`](crate::Input)). The longest promise that any earlier life of the node may have given; zero
    /// for a replica that has no past.
    pub abstention: Duration,
    /// A leader that does not hear a quorum within T steps down, and a follower that hears its leader ignores
    /// candidates (thesis, section 6.2 and 4.2.3).
    pub check_quorum: bool,
}

/// Who writes the entry that opens a leader's term. Before one of its own term is committed, a leader does not know what is:
/// it commits nothing, answers no read and begins no change (paper, sections 5.4.2 and 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The core, at once, and it is empty. The usual choice.
    Core,
    /// The driver, by its first proposal. For state machines whose terms begin with something of their own, a signature or the
    /// new leader's clock; and for groups that are to write nothing when their leader changes and nobody asks anything of
    /// them. That there will be a proposal is then the driver's business.
    Driver,
}

/// What a group keeps of its [`Config`], and no more: there are many groups.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) node: NodeId,
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

/// Whole microseconds, up to an hour and more: enough for a timeout, in half the memory.
const fn micros(duration: Duration) -> u32 {
    let micros = duration.as_micros();
    if micros > u32::MAX as u128 { u32::MAX } else { micros as u32 }
}

/// How a replica came into being.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// With its group: configurations that name no log of its node mean it, too.
    #[default]
    Founder,
    /// Later: only configurations that name its log mean it.
    Joined {
        /// There was a replica of this group in this log before, whose log reached up to here; zero if there was none. What
        /// it had acknowledged may be committed: nobody whose log ends before gets a vote.
        floor: EntryId,
    },
}

impl Origin {
    /// No vote for a log that ends before this.
    #[must_use]
    pub const fn floor(self) -> EntryId {
        match self {
            Self::Founder => EntryId::new(raftwerk_frame::Term(0), Index(0)),
            Self::Joined { floor } => floor,
        }
    }
}

/// Where a replica stood when its log was read back; all zero for a new one.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// How it came into being.
    pub origin: Origin,
    /// Whether it holds no payloads: a witness for as long as it is there. It votes and acknowledges where configurations have
    /// it for one, hears nobody else, and never campaigns.
    pub is_witness: bool,
    /// Term and vote. One that was removed and has joined again still keeps them.
    pub hard_state: HardState,
    /// The entry just before the log's first.
    pub compacted: EntryId,
    /// The configuration in force at the end of the log.
    pub configuration: Configuration,
    /// The terms of the log, in rising order.
    pub runs: Vec<TermRun>,
    /// The log's last index; `compacted.index` if it is empty.
    pub last: Index,
    /// What the state machine holds: at least `compacted.index`, at most `last`. Known to be committed. Where a state
    /// machine is ahead of its log, restore as from a snapshot: an empty log after what it holds. Of a witness, which has no
    /// state machine, `compacted.index`.
    pub applied: Index,
}
