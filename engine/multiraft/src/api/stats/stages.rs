//! Where the time of a write goes at its leader: distributions of its stages, from a sample of the writes.
//!
//! What is not here: the choice of the sample, and its way through a worker (`worker/calls/sampling.rs`).

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets to an octave: a quantile is at most a fifth too high.
const STEPS: u32 = 4;
/// The first bucket holds what is below so many nanoseconds …
const FIRST: u64 = 1 << 10;
/// … and the last one what is above 2^36 ns, over a minute.
const BUCKETS: usize = 26 * STEPS as usize + 1;

/// The durations of one stage, in buckets that grow by a fifth.
#[derive(Clone, PartialEq, Eq)]
pub struct Durations {
    count: u64,
    nanos: u64,
    buckets: [u64; BUCKETS],
}

impl Default for Durations {
    fn default() -> Self {
        Self { count: 0, nanos: 0, buckets: [0; BUCKETS] }
    }
}

impl std::fmt::Debug for Durations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (p50, p99) = (self.quantile(0.5), self.quantile(0.99));
        write!(f, "{} × {:?} (p50 {p50:?}, p99 {p99:?})", self.count, self.mean())
    }
}

/// The bucket of a duration.
const fn bucket_of(nanos: u64) -> usize {
    if nanos < FIRST {
        return 0;
    }
    let octave = nanos.ilog2();
    let step = (nanos >> (octave - STEPS.ilog2())) as u32 - STEPS;
    let bucket = ((octave - FIRST.ilog2()) * STEPS + step + 1) as usize;
    if bucket < BUCKETS { bucket } else { BUCKETS - 1 }
}

/// The least duration that is above a bucket.
const fn end_of(bucket: usize) -> u64 {
    let (octave, step) = (bucket as u32 / STEPS, bucket as u32 % STEPS);
    (FIRST << octave) / STEPS as u64 * (STEPS + step) as u64
}

impl Durations {
    /// How many there were.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Their mean; zero if there were none.
    #[must_use]
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.nanos.checked_div(self.count).unwrap_or(0))
    }

    /// The duration that the part `quantile` (0 to 1) of them does not exceed, rounded up by at most a quarter;
    /// zero if there were none.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Duration {
        let wanted = (self.count as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64;
        let mut below = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            below += count;
            if below >= wanted.max(1) {
                return Duration::from_nanos(end_of(at));
            }
        }
        Duration::ZERO
    }
}

impl AddAssign<&Self> for Durations {
    fn add_assign(&mut self, other: &Self) {
        self.count += other.count;
        self.nanos += other.nanos;
        for (ours, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *ours += theirs;
        }
    }
}

/// [`Durations`] that one thread adds to and any thread reads.
struct DurationCells {
    nanos: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Default for DurationCells {
    fn default() -> Self {
        Self { nanos: AtomicU64::new(0), buckets: [const { AtomicU64::new(0) }; BUCKETS] }
    }
}

impl DurationCells {
    fn record(&self, nanos: u64) {
        let add = |cell: &AtomicU64, by: u64| cell.store(cell.load(Relaxed).wrapping_add(by), Relaxed);
        add(&self.nanos, nanos);
        add(&self.buckets[bucket_of(nanos)], 1);
    }

    fn read(&self) -> Durations {
        let mut read = Durations { nanos: self.nanos.load(Relaxed), ..Durations::default() };
        for (count, cell) in read.buckets.iter_mut().zip(&self.buckets) {
            *count = cell.load(Relaxed);
        }
        read.count = read.buckets.iter().sum();
        read
    }
}

macro_rules! stages {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Where the time of writes goes at their leaders. Each worker follows one write at a time from its call to
        /// its answer, and chooses the next when that has ended: some thousand a second at most, so the cost is a
        /// few readings of the clock a turn. A write that its leader loses is not counted.
        ///
        /// All zero for nodes whose owner turns the workers (`drive`): they have no clock.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct WriteStages {
            $($(#[$doc])* pub $name: Durations,)*
        }

        impl AddAssign<&Self> for WriteStages {
            fn add_assign(&mut self, other: &Self) {
                $(self.$name += &other.$name;)*
            }
        }

        impl WriteStages {
            /// Each stage with its name, in the order of a write.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, &Durations)> {
                [$((stringify!($name), &self.$name),)*].into_iter()
            }
        }

        #[derive(Default)]
        pub(crate) struct StageCells {
            $($name: DurationCells,)*
        }

        impl std::fmt::Debug for StageCells {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.read().fmt(f)
            }
        }

        impl StageCells {
            pub(crate) fn read(&self) -> WriteStages {
                WriteStages { $($name: self.$name.read(),)* }
            }
        }

        /// The nanoseconds that the stages of one write took.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) struct StageNanos {
            $(pub(crate) $name: u64,)*
        }

        impl StageCells {
            /// One writer.
            pub(crate) fn record(&self, nanos: StageNanos) {
                $(self.$name.record(nanos.$name);)*
            }
        }
    };
}

stages! {
    /// From the call (of [`Pipeline::flush`](crate::Pipeline::flush), for a pipeline) to the beginning of the turn
    /// in which the worker takes it: the worker has other work.
    queue,
    /// Until its batch is handed to the disk: its turn's other work before that.
    batch,
    /// From there until the worker knows that the batch is durable in this node's own log.
    sync,
    /// From there too, until the worker knows that it is committed: this node's log and the followers' run side by
    /// side, and the slowest of the quorum counts.
    replicate,
    /// From its commit until the state machine has applied it: the turn's other work before that, and the entries
    /// before it.
    apply,
    /// From there until its answer is handed over, with the others of the turn.
    reply,
    /// All of it. The caller's own waking up is not in it.
    total,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_below_the_end_of_its_bucket_and_not_below_the_one_before() {
        for nanos in (0..64).flat_map(|bit| [1u64 << bit, (1 << bit) + 1, (1u64 << bit).wrapping_sub(1)]) {
            let bucket = bucket_of(nanos);
            assert!(nanos < end_of(bucket) || bucket == BUCKETS - 1, "{nanos} in {bucket}");
            assert!(bucket == 0 || nanos >= end_of(bucket - 1), "{nanos} in {bucket}");
        }
    }

    #[test]
    fn quantiles_and_means_are_those_of_what_was_recorded() {
        let cells = DurationCells::default();
        assert_eq!((cells.read().quantile(0.5), cells.read().mean()), (Duration::ZERO, Duration::ZERO));
        (1..=1000).for_each(|micros| cells.record(micros * 1000));
        let read = cells.read();
        assert_eq!((read.count(), read.mean()), (1000, Duration::from_nanos(500_500)));
        for (quantile, micros) in [(0.0, 1), (0.5, 500), (0.99, 990), (1.0, 1000)] {
            let found = read.quantile(quantile);
            let exact = Duration::from_micros(micros);
            assert!(
                found >= exact && found <= exact * 5 / 4 + Duration::from_micros(1),
                "{quantile}: {found:?}"
            );
        }
        let mut twice = read.clone();
        twice += &read;
        assert_eq!(
            (twice.count(), twice.mean(), twice.quantile(0.5)),
            (2000, read.mean(), read.quantile(0.5))
        );
    }
}
