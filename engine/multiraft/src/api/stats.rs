//! Counters of a worker: plain atomics with one writer, published once a turn, for any reader.

pub(crate) mod stages;

use std::ops::AddAssign;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

use raftwerk_wal::{AppendMode, LaneStats};

use crate::api::stats::stages::{StageCells, WriteStages};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Sums over a node's workers since it was opened.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct EngineStats {
            $($(#[$doc])* pub $name: u64,)*
            /// How the log is written: `direct`, `buffered` or `mapped`.
            pub append_mode: &'static str,
            /// Units dropped, in whole or in part, because of the log of their sender or the log that they are
            /// addressed to: mostly those of a peer that has another log than before
            /// ([`Engine::replace_peer`]).
            ///
            /// [`Engine::replace_peer`]: crate::NodeHandle::replace_peer
            pub refused_units: u64,
            /// Messages of peers that were no units of this version ([`raftwerk_frame::wire::UNIT_VERSION`]),
            /// or malformed. Always 0 among healthy nodes of one release, since nodes of other releases do
            /// not connect.
            pub unread_units: u64,
            /// Units of peers that were dropped because a worker's inbox was full: peers send faster than
            /// this node works.
            pub overflowed_units: u64,
            /// Bytes of requests, and of units of peers, queued for workers: memory beside
            /// [`Config::memory_bytes`](crate::Config), which documents the bounds.
            pub waiting_bytes: u64,
            /// Bytes of units that are queued for connections to peers, or are being written to them: memory
            /// beside [`Config::memory_bytes`](crate::Config), which documents the bounds. 0 for nodes
            /// without a transport of their own.
            pub outgoing_bytes: u64,
            /// Whether a worker's log has failed; its groups take no more writes until the engine is opened again.
            pub is_poisoned: bool,
            /// Lanes with a worker that has panicked; their groups answer `Closed` until the engine is opened
            /// again.
            pub dead_lanes: u64,
            /// Where the time of writes goes at this node's leaders.
            pub stages: WriteStages,
        }

        impl AddAssign<&Self> for EngineStats {
            fn add_assign(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
                self.append_mode = if other.append_mode.is_empty() { self.append_mode } else { other.append_mode };
                self.refused_units += other.refused_units;
                self.unread_units += other.unread_units;
                self.overflowed_units += other.overflowed_units;
                self.waiting_bytes += other.waiting_bytes;
                self.outgoing_bytes += other.outgoing_bytes;
                self.is_poisoned |= other.is_poisoned;
                self.dead_lanes += other.dead_lanes;
                self.stages += &other.stages;
            }
        }

        #[derive(Debug, Default)]
        pub(crate) struct WorkerMetrics {
            $($name: AtomicU64,)*
            append_mode: AtomicU8,
            is_poisoned: AtomicBool,
            is_dead: AtomicBool,
            stages: StageCells,
        }

        impl WorkerMetrics {
            /// A snapshot of all counters; each is exact, together they may be a turn apart.
            pub(crate) fn read(&self) -> EngineStats {
                EngineStats {
                    $($name: self.$name.load(Relaxed),)*
                    append_mode: AppendMode::ALL[usize::from(self.append_mode.load(Relaxed))].name(),
                    refused_units: 0,
                    unread_units: 0,
                    overflowed_units: 0,
                    waiting_bytes: 0,
                    outgoing_bytes: 0,
                    is_poisoned: self.is_poisoned.load(Relaxed),
                    dead_lanes: u64::from(self.is_dead.load(Relaxed)),
                    stages: self.stages.read(),
                }
            }
        }
    };
}

counters! {
    /// Replicas on this node.
    groups,
    /// Of those, witnesses: they vote, and hold no payloads.
    witnesses,
    /// Groups that this node leads and that have a witness. Where one of their nodes with payloads is down,
    /// few copies of committed entries are left, often one.
    led_with_witness,
    /// Proposals that became entries.
    proposals,
    /// Entries that were applied.
    applied,
    /// Writes to the log that were followed by a sync, or, without syncs, that were made.
    syncs,
    /// Of those, probes: pages of zeros written where nothing else was, to test that the disk makes progress.
    probes,
    /// Bytes of those writes, padding included.
    bytes_synced,
    /// Bytes of the log's files in use.
    log_bytes,
    /// Segments of the log that were made of files that had been segments before.
    segments_recycled,
    /// Bytes of memory in the log's batch buffers, in use or kept for use.
    buffer_bytes,
    /// Bytes of memory of the log's index, approximately: see [`EngineStats::index_bytes_per_entry`].
    index_bytes,
    /// Entries in the index.
    index_entries,
    /// Bytes of the log's files that readers hold, mostly for appends to followers.
    pinned_bytes,
    /// Bytes of the log that were read in search of damage ([`Config::scrub_bytes_per_second`](crate::Config)).
    scrubbed_bytes,
    /// Bytes of the log known to be damaged, in files that are still in use. They were found while the node ran.
    damaged_bytes,
    /// Checkpoints that were found damaged while the node ran; each is written again.
    checkpoints_damaged,
    /// Bytes of damaged entries that are still needed: until a checkpoint covers them, or the group's leader
    /// sends them again.
    at_risk_bytes,
    /// Replicas that have lost entries while the node ran, and are fenced: they grant no vote until a later
    /// leader has repaired them.
    replicas_fenced,
    /// Replicas that are in [quarantine](crate::Quarantine).
    replicas_quarantined,
    /// Checkpoints written.
    checkpoints,
    /// Bytes of snapshots sent.
    snapshot_bytes,
    /// Snapshots installed.
    installs,
    /// Snapshot transfers that resumed where an earlier attempt had stopped.
    transfers_resumed,
    /// Snapshot transfers, and followers that catch up after one, for which log and checkpoint are no longer
    /// retained, because the disk, the lane ([`Config::lane_bytes_max`](crate::Config)) or the memory had no
    /// space for it. Such a follower may be sent a later snapshot from its beginning.
    transfers_yielded,
    /// Units or frames of peers that were malformed or inconsistent.
    bad_units,
    /// Units handed to the transport, node heartbeats included.
    units_sent,
    /// Times that a replica here became leader.
    leaderships,
    /// Times that a peer's support of a worker here ended, by withdrawal or because it was not renewed: each
    /// unquiesces all groups that the two share. More than a few without a failed node indicate nodes that
    /// are too busy to exchange heartbeats in time.
    supports_ended,
    /// Linearizable reads answered by lease, without a message.
    leased_reads,
    /// Units that the transport refused: no connection, or a peer too slow.
    units_dropped,
    /// Appends dropped because the log had no space for them at that moment.
    no_room,
    /// 1 if the log was to be moved to another number of lanes at opening ([`Config::lanes`](crate::Config))
    /// and could not be; the node's log states why. It works as before.
    lanes_kept,
}

impl EngineStats {
    /// Bytes of the log's index per entry, groups included. Zero without entries.
    #[must_use]
    pub fn index_bytes_per_entry(&self) -> f64 {
        if self.index_entries == 0 { 0.0 } else { self.index_bytes as f64 / self.index_entries as f64 }
    }

    /// The bytes counted against [`Config::memory_bytes`](crate::Config).
    #[must_use]
    pub const fn memory_bytes(&self) -> u64 {
        self.buffer_bytes + self.index_bytes + self.pinned_bytes
    }
}

/// Each counter has one writer: a load and a store are enough.
fn add(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed) + by, Relaxed);
}

impl WorkerMetrics {
    pub(crate) fn proposed(&self, count: u64) {
        add(&self.proposals, count);
    }

    pub(crate) fn applied(&self, count: u64) {
        add(&self.applied, count);
    }

    /// One thread records.
    pub(crate) const fn stages(&self) -> &StageCells {
        &self.stages
    }

    pub(crate) fn groups(&self, count: usize) {
        self.groups.store(count as u64, Relaxed);
    }

    pub(crate) fn witness_added(&self) {
        add(&self.witnesses, 1);
    }

    pub(crate) fn witness_removed(&self) {
        self.witnesses.store(self.witnesses.load(Relaxed).saturating_sub(1), Relaxed);
    }

    pub(crate) fn leads_with_witness(&self) {
        add(&self.led_with_witness, 1);
    }

    pub(crate) fn no_longer_leads_with_witness(&self) {
        self.led_with_witness.store(self.led_with_witness.load(Relaxed).saturating_sub(1), Relaxed);
    }

    pub(crate) fn at_risk(&self, bytes: u64) {
        self.at_risk_bytes.store(bytes, Relaxed);
    }

    pub(crate) fn checkpoint_damaged(&self) {
        add(&self.checkpoints_damaged, 1);
    }

    pub(crate) fn fenced(&self) {
        add(&self.replicas_fenced, 1);
    }

    pub(crate) fn quarantined(&self, count: u64) {
        self.replicas_quarantined.store(count, Relaxed);
    }

    pub(crate) fn checkpointed(&self) {
        add(&self.checkpoints, 1);
    }

    pub(crate) fn snapshot_bytes(&self, bytes: u64) {
        add(&self.snapshot_bytes, bytes);
    }

    pub(crate) fn installed(&self) {
        add(&self.installs, 1);
    }

    pub(crate) fn resumed(&self) {
        add(&self.transfers_resumed, 1);
    }

    pub(crate) fn yielded(&self, count: u64) {
        add(&self.transfers_yielded, count);
    }

    pub(crate) fn leads(&self) {
        add(&self.leaderships, 1);
    }

    pub(crate) fn supports_ended(&self, count: u64) {
        add(&self.supports_ended, count);
    }

    pub(crate) fn leased_read(&self) {
        add(&self.leased_reads, 1);
    }

    pub(crate) fn bad_unit(&self) {
        add(&self.bad_units, 1);
    }

    pub(crate) fn no_room(&self) {
        add(&self.no_room, 1);
    }

    pub(crate) fn keeps_lanes(&self) {
        self.lanes_kept.store(1, Relaxed);
    }

    pub(crate) fn poisoned(&self) {
        self.is_poisoned.store(true, Relaxed);
    }

    pub(crate) fn died(&self) {
        self.is_dead.store(true, Relaxed);
        self.groups.store(0, Relaxed);
    }

    /// What the lane counted, at the end of a turn.
    pub(crate) fn publish(&self, lane: &LaneStats, log_bytes: u64, units_sent: u64, units_dropped: u64) {
        self.syncs.store(lane.syncs, Relaxed);
        self.probes.store(lane.probes, Relaxed);
        self.bytes_synced.store(lane.bytes_synced, Relaxed);
        self.log_bytes.store(log_bytes, Relaxed);
        self.segments_recycled.store(lane.recycled, Relaxed);
        self.buffer_bytes.store(lane.buffer_bytes, Relaxed);
        self.index_bytes.store(lane.index_bytes, Relaxed);
        self.index_entries.store(lane.index_entries, Relaxed);
        self.pinned_bytes.store(lane.pinned_bytes, Relaxed);
        self.scrubbed_bytes.store(lane.scrubbed_bytes, Relaxed);
        self.damaged_bytes.store(lane.damaged_bytes, Relaxed);
        self.units_sent.store(units_sent, Relaxed);
        self.units_dropped.store(units_dropped, Relaxed);
        self.append_mode.store(lane.mode as u8, Relaxed); // its place in `AppendMode::ALL`
    }
}
