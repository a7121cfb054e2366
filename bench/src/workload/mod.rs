//! Which operation comes next: kind and key, from a seed.
//!
//! It knows numbers of keys, not their bytes, and never looks at answers. The named mixes are those of YCSB
//! (Cooper et al., 2010): A 50 % reads, B 95 %, C reads only, F read-modify-write; all zipfian, θ = 0.99, scrambled.

mod zipfian;

pub use zipfian::Zipfian;

use crate::rng::{Rng, mix};

/// The number of a key, below the number of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyNumber(pub u32);

impl KeyNumber {
    /// The key that barriers write, outside every workload.
    pub const BARRIER: Self = Self(u32::MAX);
}

/// A named mix, as the command line knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WorkloadKind {
    /// Every key equally often.
    Uniform,
    /// A few keys often, most rarely.
    Zipfian,
    /// Half reads, zipfian.
    YcsbA,
    /// 95 % reads, zipfian.
    YcsbB,
    /// Reads only, zipfian.
    YcsbC,
    /// Half reads, half read-modify-writes, zipfian.
    YcsbF,
}

impl WorkloadKind {
    /// Its name on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipfian => "zipfian",
            Self::YcsbA => "ycsb-a",
            Self::YcsbB => "ycsb-b",
            Self::YcsbC => "ycsb-c",
            Self::YcsbF => "ycsb-f",
        }
    }

    /// The percentage of reads that the name stands for; `None` where the user sets it.
    #[must_use]
    pub const fn reads_percent(self) -> Option<u32> {
        match self {
            Self::Uniform | Self::Zipfian => None,
            Self::YcsbA | Self::YcsbF => Some(50),
            Self::YcsbB => Some(95),
            Self::YcsbC => Some(100),
        }
    }
}

/// What to do with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Propose a new value.
    Write,
    /// Read it, linearizably.
    Read,
    /// Read it, then propose a new value.
    ReadModifyWrite,
}

#[derive(Clone, Debug)]
enum Keys {
    Uniform,
    Zipfian(Zipfian),
}

/// A stream of operations.
#[derive(Clone, Debug)]
pub struct Workload {
    rng: Rng,
    keys: Keys,
    key_count: u32,
    reads_percent: u32,
    other: Operation,
}

impl Workload {
    /// The stream of `kind` over `key_count` keys (at least 1). `reads_percent` counts where the kind leaves it open.
    #[must_use]
    pub fn new(kind: WorkloadKind, key_count: u32, reads_percent: u32, seed: u64) -> Self {
        assert!(key_count > 0, "a workload needs a key");
        let keys = match kind {
            WorkloadKind::Uniform => Keys::Uniform,
            _ => Keys::Zipfian(Zipfian::new(key_count)),
        };
        let other = if kind == WorkloadKind::YcsbF { Operation::ReadModifyWrite } else { Operation::Write };
        let reads_percent = kind.reads_percent().unwrap_or(reads_percent);
        Self { rng: Rng::new(seed), keys, key_count, reads_percent, other }
    }

    /// The next operation. Cost: a few nanoseconds, zipfian some twenty.
    #[inline]
    pub fn draw(&mut self) -> (Operation, KeyNumber) {
        let operation = match self.reads_percent {
            0 => self.other,
            percent if self.rng.below(100) < u64::from(percent) => Operation::Read,
            _ => self.other,
        };
        let key = match &self.keys {
            Keys::Uniform => self.rng.below(u64::from(self.key_count)) as u32,
            Keys::Zipfian(zipfian) => {
                let rank = zipfian.rank(self.rng.unit());
                scramble(rank, self.key_count)
            }
        };
        (operation, KeyNumber(key))
    }
}

/// Spreads popular ranks over the key space, as YCSB does, so that they do not share a shard.
fn scramble(rank: u32, key_count: u32) -> u32 {
    ((u128::from(mix(u64::from(rank) + 1)) * u128::from(key_count)) >> 64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(kind: WorkloadKind, reads: u32, seed: u64, count: usize) -> Vec<(Operation, KeyNumber)> {
        let mut workload = Workload::new(kind, 1000, reads, seed);
        (0..count).map(|_| workload.draw()).collect()
    }

    #[test]
    fn a_seed_names_the_whole_stream() {
        for kind in [WorkloadKind::Uniform, WorkloadKind::Zipfian, WorkloadKind::YcsbA, WorkloadKind::YcsbF] {
            assert_eq!(first(kind, 20, 5, 500), first(kind, 20, 5, 500));
            assert_ne!(first(kind, 20, 5, 500), first(kind, 20, 6, 500));
        }
    }

    #[test]
    fn mixes_are_what_their_names_say() {
        let share = |kind, reads| {
            let operations = first(kind, reads, 3, 20_000);
            let count =
                |wanted| operations.iter().filter(|(operation, _)| *operation == wanted).count() / 200;
            (count(Operation::Read), count(Operation::Write), count(Operation::ReadModifyWrite))
        };
        assert_eq!(share(WorkloadKind::Uniform, 0), (0, 100, 0));
        assert_eq!(share(WorkloadKind::YcsbC, 0), (100, 0, 0));
        let (reads, writes, _) = share(WorkloadKind::YcsbB, 0);
        assert!((94..=95).contains(&reads) && (4..=5).contains(&writes));
        let (reads, writes, both) = share(WorkloadKind::YcsbF, 0);
        assert!((48..=51).contains(&reads) && writes == 0 && (48..=51).contains(&both));
        let (reads, ..) = share(WorkloadKind::Zipfian, 20);
        assert!((19..=20).contains(&reads));
    }

    #[test]
    fn keys_stay_in_range_and_zipfian_ones_are_skewed_and_scattered() {
        let mut counts = vec![0u32; 1000];
        for (_, key) in first(WorkloadKind::Zipfian, 0, 9, 50_000) {
            counts[key.0 as usize] += 1;
        }
        let mut popular: Vec<usize> = (0..1000).collect();
        popular.sort_by_key(|&key| std::cmp::Reverse(counts[key]));
        assert!(counts[popular[0]] > 4_000, "the most popular key draws about an eighth");
        assert!(popular[..10].iter().any(|&key| key > 500) && popular[..10].iter().any(|&key| key < 500));
    }
}
