//! Events of the parts of a node: its disk, its lanes, its groups and its peers. Each change is a line of the
//! node's log, a call of [`Config::on_event`](crate::Config::on_event), and, while the condition lasts, an
//! entry of [`Engine::health`].
//!
//! A lasting condition is reported once when it begins and once when it ends, so the number of reports is
//! bounded by the number of changes. A momentary one (a slow sync, a damaged file) is reported
//! [`AT_ONCE_MAX`] times in a [`WINDOW`] for each kind and lane, and counted beyond that. The callback runs
//! on the thread that detects the change.
//!
//! What is not here: detection (`worker::groups::conditions`, and the places that find damage).
//!
//! [`Engine::health`]: crate::NodeHandle::health

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raftwerk_frame::{GroupId, NodeId, Time};
use raftwerk_wal::Shortage;

/// The maximum of reports of a momentary condition …
pub(crate) const AT_ONCE_MAX: u32 = 8;
/// … within this time; the rest is counted.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);

/// A condition of a part of a node that needs attention. Lanes count from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// The disk has no space for the lane's log: writes are refused with `StorageFull` until there is.
    DiskFull {
        /// Which lane.
        lane: u16,
    },
    /// The disk has completed nothing that was submitted by the lane for longer than an election timeout, or
    /// no segment for four: its groups are led by other nodes until it does.
    DiskHung {
        /// Which lane.
        lane: u16,
    },
    /// No segment of the log can be made: the node retries ten times a second, and writes wait, or are
    /// refused, meanwhile.
    NoSegment {
        /// Which lane.
        lane: u16,
        /// The resource that is short.
        why: Shortage,
    },
    /// A write or a sync of the lane's log has failed. Its groups take part in nothing until the node is opened again.
    LogFailed {
        /// Which lane.
        lane: u16,
        /// The error of the operating system.
        error: String,
    },
    /// The lane's worker has panicked. Its groups answer `Closed` until the node is opened again.
    LaneDied {
        /// Which lane.
        lane: u16,
        /// The panic message.
        what: String,
    },
    /// A group's state machine has panicked: see [`Quarantine`](crate::Quarantine).
    Quarantined {
        /// Which group.
        group: GroupId,
        /// The panic message.
        what: String,
    },
    /// Groups of the lane have had no known leader for longer than an election timeout.
    NoLeader {
        /// Which lane.
        lane: u16,
        /// Their number, at the time of the report.
        groups: u64,
        /// One of them.
        group: GroupId,
    },
    /// There is no connection to a peer.
    PeerLost {
        /// The peer.
        node: NodeId,
    },
    /// This node's certificate ends within 30 days: no peer accepts it then. Over with another identity
    /// ([`Engine::set_identity`](crate::Engine::set_identity)), or once it has ended.
    CertificateEnds {
        /// The number of whole days left, at the time of the report.
        days: u64,
    },
    /// This node's certificate has ended: no peer accepts it. Over with another identity.
    CertificateEnded,
    /// By this node's clock a peer's certificate has ended, or that of the authority behind it: it is
    /// refused. Over when there is a connection to the peer. Detected for peers that this node dials, which
    /// are those with higher ids, and for any that is connected when it ends.
    PeerCertificateEnded {
        /// The peer.
        node: NodeId,
    },
    /// A write and its sync took longer than [`SLOW_SYNC`]. Momentary.
    SlowSync {
        /// Which lane.
        lane: u16,
        /// How long it took, queueing included.
        took: Duration,
    },
    /// A file of the log, or a checkpoint, does not hold what was written. Its content is recovered from
    /// copies or from other nodes, where there are any ([`EngineStats::at_risk_bytes`](crate::EngineStats)).
    /// Momentary.
    Damaged {
        /// Which lane.
        lane: u16,
        /// The file, relative to the log's directory.
        file: String,
        /// The offset in it.
        offset: u64,
        /// The groups that the damaged bytes belong to.
        groups: Vec<GroupId>,
    },
}

/// The time that a write and its sync may take before [`Condition::SlowSync`] is reported.
pub const SLOW_SYNC: Duration = Duration::from_millis(100);

impl Condition {
    /// The part that the condition is about: a kind, and a number within it.
    const fn part(&self) -> (u8, u64) {
        match self {
            Self::DiskFull { lane } => (0, *lane as u64),
            Self::DiskHung { lane } => (1, *lane as u64),
            Self::NoSegment { lane, .. } => (2, *lane as u64),
            Self::LogFailed { lane, .. } => (3, *lane as u64),
            Self::LaneDied { lane, .. } => (4, *lane as u64),
            Self::Quarantined { group, .. } => (5, group.0),
            Self::NoLeader { lane, .. } => (6, *lane as u64),
            Self::PeerLost { node } => (7, node.0),
            Self::SlowSync { lane, .. } => (8, *lane as u64),
            Self::Damaged { lane, .. } => (9, *lane as u64),
            Self::CertificateEnds { .. } => (10, 0),
            Self::CertificateEnded => (11, 0),
            Self::PeerCertificateEnded { node } => (12, node.0),
        }
    }

    /// Whether it lasts until it is reported as over.
    const fn lasts(&self) -> bool {
        !matches!(self, Self::SlowSync { .. } | Self::Damaged { .. })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiskFull { lane } => write!(f, "lane {lane}: the disk is full"),
            Self::DiskHung { lane } => write!(f, "lane {lane}: the disk does not answer"),
            Self::NoSegment { lane, why } => write!(f, "lane {lane}: no segment can be made: {why:?}"),
            Self::LogFailed { lane, error } => write!(f, "lane {lane}: the log has failed: {error}"),
            Self::LaneDied { lane, what } => write!(f, "lane {lane}: its worker has panicked: {what}"),
            Self::Quarantined { group, what } => {
                write!(f, "{group}: its state machine has panicked, and is in quarantine: {what}")
            }
            Self::NoLeader { lane, groups, group } => {
                write!(f, "lane {lane}: {groups} groups have no leader, {group} among them")
            }
            Self::PeerLost { node } => write!(f, "{node}: no connection"),
            Self::CertificateEnds { days } => write!(f, "this node's certificate ends in {days} days"),
            Self::CertificateEnded => write!(f, "this node's certificate has ended"),
            Self::PeerCertificateEnded { node } => write!(f, "{node}: its certificate has ended"),
            Self::SlowSync { lane, took } => write!(f, "lane {lane}: a sync took {took:?}"),
            Self::Damaged { lane, file, offset, groups } => {
                write!(f, "lane {lane}: {file} is damaged at {offset}, of groups {groups:?}")
            }
        }
    }
}

/// A report that a condition has begun, or is over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The condition.
    pub condition: Condition,
    /// Whether it is over, having been reported before.
    pub is_over: bool,
    /// For a momentary condition: the number of reports of the same kind and lane that were suppressed before
    /// this one.
    pub suppressed: u32,
}

/// The callback for events: see [`Config::on_event`](crate::Config::on_event).
#[derive(Clone)]
pub struct OnEvent(Arc<dyn Fn(&Event) + Send + Sync>);

impl OnEvent {
    /// `callback` is called by the threads that turn groups and by those of the network: it must not block,
    /// and must not make a blocking call to this engine. If it panics, the panic is caught.
    pub fn new(callback: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(callback))
    }
}

impl fmt::Debug for OnEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnEvent")
    }
}

/// Recent reports of a momentary condition.
#[derive(Debug, Default)]
struct RecentReports {
    since: Time,
    count: u32,
    suppressed: u32,
}

#[derive(Debug, Default)]
struct Known {
    /// The lasting conditions, by part.
    conditions: BTreeMap<(u8, u64), Condition>,
    recent: BTreeMap<(u8, u64), RecentReports>,
}

/// All conditions of a node at present, and the callback.
#[derive(Debug, Default)]
pub(crate) struct Events {
    node: u64,
    on_event: Option<OnEvent>,
    known: Mutex<Known>,
}

impl Events {
    pub(crate) fn new(node: NodeId, on_event: Option<OnEvent>) -> Arc<Self> {
        Arc::new(Self { node: node.0, on_event, known: Mutex::default() })
    }

    /// Reports that a condition has begun, or that a momentary one has occurred. A known condition is not
    /// reported again.
    pub(crate) fn report(&self, now: Time, condition: Condition) {
        let part = condition.part();
        let suppressed = if condition.lasts() {
            let before = self.known().conditions.insert(part, condition.clone());
            if before.is_some() {
                return;
            }
            0
        } else {
            let mut known = self.known();
            let recent = known.recent.entry(part).or_default();
            if now >= recent.since + WINDOW {
                *recent = RecentReports { since: now, count: 0, ..*recent };
            }
            if recent.count == AT_ONCE_MAX {
                recent.suppressed = recent.suppressed.saturating_add(1);
                return;
            }
            recent.count += 1;
            std::mem::take(&mut recent.suppressed)
        };
        match &condition {
            Condition::SlowSync { .. }
            | Condition::PeerLost { .. }
            | Condition::NoLeader { .. }
            | Condition::CertificateEnds { .. } => {
                tracing::warn!(node = self.node, suppressed, "{condition}");
            }
            _ => tracing::error!(node = self.node, suppressed, "{condition}"),
        }
        self.call(&Event { condition, is_over: false, suppressed });
    }

    /// Reports that a condition is over, if it had begun. `like` identifies the part; its other fields are
    /// ignored.
    pub(crate) fn resolve(&self, like: &Condition) {
        let Some(condition) = self.known().conditions.remove(&like.part()) else { return };
        tracing::info!(node = self.node, "no longer: {condition}");
        self.call(&Event { condition, is_over: true, suppressed: 0 });
    }

    /// All conditions that have begun and are not over.
    pub(crate) fn conditions(&self) -> Vec<Condition> {
        self.known().conditions.values().cloned().collect()
    }

    fn call(&self, event: &Event) {
        let Some(OnEvent(callback)) = &self.on_event else { return };
        if catch_unwind(AssertUnwindSafe(|| callback(event))).is_err() {
            tracing::error!(node = self.node, ?event, "the callback for events has panicked");
        }
    }

    // Each change under the lock is complete, so a poisoned lock is usable.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded() -> (Arc<Events>, Arc<Mutex<Vec<Event>>>) {
        let seen: Arc<Mutex<Vec<Event>>> = Arc::default();
        let sink = Arc::clone(&seen);
        let on_event = OnEvent::new(move |event| sink.lock().unwrap().push(event.clone()));
        (Events::new(NodeId(1), Some(on_event)), seen)
    }

    #[test]
    fn a_state_is_told_when_it_begins_and_when_it_is_over_and_is_known_in_between() {
        let (events, seen) = recorded();
        let full = Condition::DiskFull { lane: 3 };
        for _ in 0..100 {
            events.report(Time(1), full.clone());
        }
        assert_eq!(events.conditions(), std::slice::from_ref(&full));
        events.resolve(&Condition::DiskFull { lane: 2 });
        for _ in 0..100 {
            events.resolve(&full);
        }
        assert!(events.conditions().is_empty());
        let event = |is_over| Event { condition: full.clone(), is_over, suppressed: 0 };
        assert_eq!(*seen.lock().unwrap(), [event(false), event(true)]);
    }

    #[test]
    fn what_has_no_end_is_told_so_often_and_then_counted() {
        let (events, seen) = recorded();
        let slow = |lane| Condition::SlowSync { lane, took: Duration::from_secs(1) };
        for _ in 0..1000 {
            events.report(Time(5), slow(0));
        }
        events.report(Time(6), slow(1));
        events.report(Time(5) + WINDOW, slow(0));
        let seen = seen.lock().unwrap();
        let suppressed: Vec<u32> = seen.iter().map(|event| event.suppressed).collect();
        assert_eq!(suppressed, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1000 - AT_ONCE_MAX]);
        assert!(events.conditions().is_empty(), "it does not last");
    }

    #[test]
    fn a_panic_of_whoever_is_told_is_caught() {
        let events = Events::new(NodeId(1), Some(OnEvent::new(|_| panic!("as planned"))));
        events.report(Time(1), Condition::PeerLost { node: NodeId(2) });
        assert_eq!(events.conditions(), [Condition::PeerLost { node: NodeId(2) }]);
    }
}
