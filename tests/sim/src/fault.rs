//! The kinds of faults: their names in reports, their counters, and the schedule drawn from the seed.
//!
//! Ambient kinds strike call by call and message by message, at a rate; the others strike at moments drawn ahead, so
//! that a run can be repeated without one of them. What is not here: what each one does (`world::faults`).

use crate::chance::Chance;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum FaultKind { $($(#[$doc])* $name,)* }

        impl FaultKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name in reports and on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

kinds! {
    /// Ambient: a message is lost.
    Drop = "drop",
    /// Ambient: a message arrives twice.
    Duplicate = "duplicate",
    /// Ambient: a message overtakes others of its channel.
    Reorder = "reorder",
    /// Ambient: delays have a heavy tail.
    Delay = "delay",
    /// Ambient: the transport refuses a message.
    Refuse = "refuse",
    /// Ambient: a second copy of a message arrives when leaders have come and gone.
    Late = "late",
    /// Ambient: a sync or read takes many times as long.
    SlowDisk = "slow-disk",
    /// The power of a node is cut: every unsynced sector is old, new or garbage.
    PowerCut = "power-cut",
    /// A node's process dies; what it has written stays.
    Kill = "kill",
    /// A node dies at one of its next calls to the disk.
    CrashAtCall = "crash-at-call",
    /// A node stands still: no worker gets a turn, and its disk does nothing.
    Freeze = "freeze",
    /// A node restarts with another number of workers asked for.
    Workers = "workers",
    /// No message from or to a node arrives.
    Isolate = "isolate",
    /// Messages pass in one direction only.
    OneWay = "one-way",
    /// Two halves of the nodes reach each other through one node only.
    Bridge = "bridge",
    /// Two halves of the nodes do not reach each other.
    Split = "split",
    /// A link holds everything back for a while, then lets it all go.
    Clog = "clog",
    /// A link is many times slower for a while.
    SlowLink = "slow-link",
    /// A connection breaks and is made again: what was on its way in it is lost.
    Reset = "reset",
    /// A leader is cut off, with proposals that no other node has and clients that hold on to it.
    Depose = "depose",
    /// The next writes or syncs of a node fail.
    WriteError = "write-error",
    /// The next reads of a node fail.
    ReadError = "read-error",
    /// A node's disk has no room for a while.
    DiskFull = "disk-full",
    /// A node's disk does nothing for a while.
    DiskHang = "disk-hang",
    /// A node's clock leaps ahead.
    ClockLeap = "clock-leap",
    /// A leader is asked to hand over.
    Transfer = "transfer",
    /// A group is asked for other voters and learners.
    Reconfigure = "reconfigure",
    /// A bit of a durable batch, segment header, snapshot or manifest flips, and the node restarts.
    BitRot = "bit-rot",
    /// A read of a running node gives a flipped bit, once.
    ReadFlip = "read-flip",
    /// A write that was reported as durable never happened.
    LostWrite = "lost-write",
    /// A write that was reported as durable went to another place.
    Misdirected = "misdirected",
    /// A place of the log reads as it was before.
    StaleRead = "stale-read",
    /// A file is gone, as if its rename had never happened.
    LostRename = "lost-rename",
    /// A node comes back with an empty disk.
    Wipe = "wipe",
    /// A node comes back with an old image of its disk.
    Rollback = "rollback",
    /// Ambient: a datagram arrives with a flipped bit.
    Corrupt = "corrupt",
    /// A replica that was removed is dropped from a disk that is kept, and joins again.
    Rejoin = "rejoin",
    /// A worker of a node gets no turns for a while; the others do.
    Stuck = "stuck",
    /// Two nodes do not reach each other; all others reach both.
    Part = "part",
    /// A leader loses its followers one by one, and with them the support that they have promised.
    Oust = "oust",
    /// A bit of a durable batch flips while the node runs, and no read has met it yet.
    Decay = "decay",
    /// Every turn of a node's workers takes up to a tenth of an election timeout, for a while.
    SlowTurns = "slow-turns",
    /// One channel of a link stands still for a while; the others go on.
    StallChannel = "stall-channel",
    /// The making of a node's next segments takes long; its appends do not.
    SlowSegment = "slow-segment",
    /// A node's clock runs at another rate from now on, within the bound.
    ClockRate = "clock-rate",
    /// A node's clock stands still for a while; in every second case the node with it.
    ClockStop = "clock-stop",
    /// Only signs of life pass one direction of a link.
    Murmur = "murmur",
    /// A leader takes itself out of its group, and its messages arrive no longer when that has just begun.
    Resign = "resign",
    /// Messages of a leader do not reach a follower for just about as long as a promise lasts.
    Lapse = "lapse",
    /// A leader makes way for the last voter of its group, and is cut off from it at that moment.
    Shrink = "shrink",
    /// A replica is dropped that is a member or leads.
    DropReplica = "drop-replica",
    /// One message arrives with a term far beyond all others.
    FarTerm = "far-term",
    /// The machine of a group panics on the node that applies something next.
    PanicMachine = "panic-machine",
}

impl FaultKind {
    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Strikes at a rate, not at moments.
    #[must_use]
    pub const fn is_ambient(self) -> bool {
        (self as u8) <= Self::SlowDisk as u8 || matches!(self, Self::Corrupt)
    }

    /// Whether its draws come from a stream of its own: no other draw depends on it.
    pub(crate) const fn is_drawn_apart(self) -> bool {
        matches!(
            self,
            Self::Decay
                | Self::Shrink
                | Self::DropReplica
                | Self::FarTerm
                | Self::PanicMachine
                | Self::SlowTurns
                | Self::StallChannel
                | Self::SlowSegment
                | Self::ClockRate
                | Self::ClockStop
                | Self::Murmur
                | Self::Resign
                | Self::Lapse
        )
    }

    /// Whether it is a request of an operator and no fault.
    pub(crate) const fn is_wish(self) -> bool {
        matches!(self, Self::Transfer | Self::Reconfigure | Self::Rejoin)
    }

    /// Takes away what was durable: only a minority of nodes may suffer such.
    #[must_use]
    pub const fn is_damage(self) -> bool {
        matches!(
            self,
            Self::BitRot
                | Self::LostWrite
                | Self::Misdirected
                | Self::StaleRead
                | Self::LostRename
                | Self::Wipe
                | Self::Rollback
                | Self::Decay
        )
    }
}

/// How often each kind has struck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultCounts([u64; FaultKind::ALL.len()]);

impl Default for FaultCounts {
    fn default() -> Self {
        Self([0; FaultKind::ALL.len()])
    }
}

impl FaultCounts {
    /// One more.
    pub const fn add(&mut self, kind: FaultKind) {
        self.0[kind as usize] += 1;
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(&other.0) {
            *sum += more;
        }
    }

    /// Every kind with its count.
    pub fn iter(&self) -> impl Iterator<Item = (FaultKind, u64)> + '_ {
        FaultKind::ALL.iter().map(|kind| (*kind, self.0[*kind as usize]))
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultSet(u64);

impl FaultSet {
    /// Every kind that `belongs`.
    pub fn of(belongs: impl Fn(FaultKind) -> bool) -> Self {
        let chosen = FaultKind::ALL.iter().filter(|kind| belongs(**kind));
        Self(chosen.fold(0, |set, kind| set | 1 << *kind as u8))
    }

    /// Whether a kind is in it.
    #[must_use]
    pub const fn has(self, kind: FaultKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    /// With one kind more.
    pub const fn insert(&mut self, kind: FaultKind) {
        self.0 |= 1 << kind as u8;
    }

    /// Those of this set that are not in the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The kinds in it.
    pub fn iter(self) -> impl Iterator<Item = FaultKind> {
        FaultKind::ALL.iter().copied().filter(move |kind| self.has(*kind))
    }
}

/// A fault that strikes at a moment drawn ahead. What its numbers mean depends on the kind.
#[derive(Clone, Copy, Debug)]
pub struct Strike {
    /// When, in nanoseconds of the world's time.
    pub at: u64,
    /// Its kind.
    pub kind: FaultKind,
    /// The node that it strikes, out of all nodes.
    pub node: usize,
    /// Another node, out of all nodes.
    pub other: usize,
    /// For how long, in nanoseconds.
    pub span: u64,
    /// The source of further choices, which depend on the kind.
    pub salt: u64,
}

/// Out of so many strikes of a run without stable leaders, one is of a kind drawn like any other; the rest depose.
const OTHERS_AMONG_DEPOSED: u64 = 3;

/// Draws the moments of a run. `election`: the election timeout in nanoseconds, since what is shorter deposes no leader.
pub(crate) fn schedule(
    mut chance: Chance,
    kinds: FaultSet,
    nodes: usize,
    end: u64,
    usual_gap: u64,
    election: u64,
) -> Vec<Strike> {
    let kinds: Vec<FaultKind> = kinds.iter().filter(|kind| !kind.is_ambient()).collect();
    // Logs part where leaders change, again and again, before they have sent what they know.
    let is_unstable = kinds.contains(&FaultKind::Depose) && chance.below(3) == 0;
    let usual_span = chance.one_of(&[400_000_000, 400_000_000, 2 * election]);
    let (mut strikes, mut at) = (Vec::new(), usual_gap);
    while at < end && !kinds.is_empty() {
        let kind = chance.one_of(&kinds);
        let deposes = is_unstable && chance.below(OTHERS_AMONG_DEPOSED) > 0;
        let kind = if deposes { FaultKind::Depose } else { kind };
        let node = chance.below(nodes as u64) as usize;
        let other = (node + 1 + chance.below(nodes.max(2) as u64 - 1) as usize) % nodes;
        let span = match kind {
            FaultKind::Depose => chance.from_to(election, 6 * election),
            FaultKind::Oust => chance.from_to(3 * election, 5 * election),
            _ => chance.heavy_tailed(usual_span).min(8_000_000_000),
        };
        strikes.push(Strike { at, kind, node, other, span, salt: chance.any() });
        at += chance.heavy_tailed(usual_gap);
    }
    strikes
}

/// Bits that flip in durable batches while their nodes run: drawn apart, so that all else strikes as it would without.
pub(crate) fn decays(seed: u64, nodes: usize, end: u64) -> Vec<Strike> {
    let mut chance = Chance::of(seed, "decay");
    let count = chance.below(4);
    let mut strike = || {
        let (at, node) = (chance.from_to(end / 10, end), chance.below(nodes as u64) as usize);
        Strike { at, kind: FaultKind::Decay, node, other: node, span: 0, salt: chance.any() }
    };
    (0..count).map(|_| strike()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        for kind in FaultKind::ALL {
            assert_eq!(FaultKind::named(kind.name()), Some(*kind));
        }
        assert!(FaultKind::ALL.len() <= 64, "a set is one word");
    }

    #[test]
    fn a_schedule_repeats_and_holds_what_was_asked_for() {
        let kinds = FaultSet::of(|kind| matches!(kind, FaultKind::Kill | FaultKind::Drop));
        let strikes =
            schedule(Chance::of(3, "strikes"), kinds, 3, 60_000_000_000, 500_000_000, 1_000_000_000);
        assert!(strikes.len() > 10);
        assert!(strikes.iter().all(|strike| strike.kind == FaultKind::Kill && strike.node != strike.other));
    }
}
