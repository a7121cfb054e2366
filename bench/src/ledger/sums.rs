//! Sums of what was acknowledged, against those of a machine that has folded in every payload ([`HashMachine`]).
//!
//! Payloads are unique. A replica has applied every acknowledged payload exactly once if and only if, in each bucket,
//! what it has summed up beyond the acknowledged is the sum of a subset of the unknown ones (up to the chance that
//! 64-bit hashes conspire), and the sizes of these subsets account for its count.
//!
//! [`HashMachine`]: crate::hash_machine::HashMachine

use std::collections::HashMap;

use super::subset::{SubsetSum, subset_sum};
use super::{Ask, Verdict};
use crate::hash_machine::{BUCKETS, SUMS_BYTES, SUMS_QUERY, bucket_of, payload_hash};

#[derive(Clone, Debug, Default)]
struct Sums {
    count: u64,
    buckets: Option<Box<[u64; BUCKETS]>>,
}

/// The sums of all groups. 2 KiB a group that was written to, and 8 bytes for each write of unknown outcome.
#[derive(Debug)]
pub struct SumLedger {
    groups: Vec<Sums>,
    unknown: HashMap<(u32, usize), Vec<u64>>,
}

impl SumLedger {
    /// Nothing was written yet.
    #[must_use]
    pub fn new(groups: u32) -> Self {
        Self { groups: vec![Sums::default(); groups as usize], unknown: HashMap::new() }
    }

    /// How many groups there are.
    #[must_use]
    pub fn groups(&self) -> u32 {
        self.groups.len() as u32
    }

    /// How many payloads of a group were acknowledged.
    #[must_use]
    pub fn count(&self, group: u32) -> u64 {
        self.groups[group as usize].count
    }

    /// Notes an acknowledged payload.
    #[inline]
    pub fn acknowledged(&mut self, group: u32, payload: &[u8]) {
        let hash = payload_hash(payload);
        let sums = &mut self.groups[group as usize];
        sums.count += 1;
        let buckets = sums.buckets.get_or_insert_with(|| Box::new([0; BUCKETS]));
        let sum = &mut buckets[bucket_of(hash)];
        *sum = sum.wrapping_add(hash);
    }

    /// Notes a payload that may or may not be applied.
    pub fn unknown(&mut self, group: u32, payload: &[u8]) {
        let hash = payload_hash(payload);
        self.unknown.entry((group, bucket_of(hash))).or_default().push(hash);
    }

    /// Compares a replica with the ledger.
    ///
    /// # Errors
    /// An error of `ask`, or an answer that makes no sense.
    pub fn verify(&self, ask: &mut Ask<'_>) -> Result<Verdict, String> {
        let mut verdict = Verdict::default();
        for group in 0..self.groups.len() as u32 {
            let answer = ask(group, SUMS_QUERY)?;
            if answer.len() != SUMS_BYTES {
                return Err(format!("group {group} answered {} bytes instead of {SUMS_BYTES}", answer.len()));
            }
            let words: Vec<u64> =
                answer.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
            self.judge(group, words[0], &words[2..], &mut verdict);
        }
        Ok(verdict)
    }

    fn judge(&self, group: u32, count: u64, applied: &[u64], verdict: &mut Verdict) {
        let sums = &self.groups[group as usize];
        let (mut lost, mut decided) = (0, true);
        let mut accounted = sums.count;
        for (bucket, &sum) in applied.iter().enumerate() {
            let acknowledged = sums.buckets.as_ref().map_or(0, |buckets| buckets[bucket]);
            let unknown = self.unknown.get(&(group, bucket)).map_or(&[][..], Vec::as_slice);
            match subset_sum(unknown, sum.wrapping_sub(acknowledged)) {
                SubsetSum::Found(size) => accounted += u64::from(size),
                SubsetSum::None => lost += 1,
                SubsetSum::TooMany => decided = false,
            }
        }
        if !decided {
            let many = "too many writes of unknown outcome to tell which were applied; use more groups";
            verdict.undecided.push(format!("group {group}: {many}"));
        } else if lost == 0 && accounted != count {
            lost = 1;
        }
        verdict.lost += lost.max(sums.count.saturating_sub(count));
    }
}
