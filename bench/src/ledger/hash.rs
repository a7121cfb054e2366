//! The ledger of the hash machine: the sums of [`sums`](super::sums), and nothing else.

use super::sums::SumLedger;
use super::{Ask, Verdict, Write};
pub use crate::hash_machine::COUNT_QUERY;
use crate::rng::mix;
use crate::workload::KeyNumber;

/// A payload must have room for its write's counter.
pub const PAYLOAD_BYTES_MIN: usize = 8;

/// Payloads and outcomes.
pub struct HashSubject {
    sums: SumLedger,
    scratch: Vec<u8>,
}

impl HashSubject {
    /// For payloads of at least [`PAYLOAD_BYTES_MIN`].
    #[must_use]
    pub fn new(groups: u32, payload_bytes: usize) -> Self {
        let scratch = (0..payload_bytes).map(|at| mix(at as u64) as u8).collect();
        Self { sums: SumLedger::new(groups), scratch }
    }

    /// The group that a key's payloads go to.
    #[inline]
    #[must_use]
    pub fn group_of(&self, key: KeyNumber) -> u32 {
        super::kv::spread(key, self.sums.groups())
    }

    /// The payload of a write.
    #[inline]
    pub fn payload(&mut self, write: &Write) -> &[u8] {
        self.scratch[..8].copy_from_slice(&write.counter.to_le_bytes());
        &self.scratch
    }

    /// How many payloads a read of `group` that starts now must have counted.
    #[inline]
    #[must_use]
    pub fn floor(&self, group: u32) -> u64 {
        self.sums.count(group)
    }

    /// Notes an acknowledged payload.
    #[inline]
    pub fn acknowledged(&mut self, write: &Write) {
        self.payload(write);
        self.sums.acknowledged(write.group, &self.scratch);
    }

    /// Notes a payload that may or may not be applied.
    pub fn unknown(&mut self, write: &Write) {
        self.payload(write);
        self.sums.unknown(write.group, &self.scratch);
    }

    /// Compares a replica with the ledger.
    ///
    /// # Errors
    /// An error of `ask`, or an answer that makes no sense.
    pub fn verify(&mut self, ask: &mut Ask<'_>) -> Result<Verdict, String> {
        self.sums.verify(ask)
    }
}

/// The count in the answer to [`COUNT_QUERY`].
#[inline]
#[must_use]
pub fn count_of(answer: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(answer.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash_machine::{BUCKETS, bucket_of, payload_hash};

    fn write(counter: u64) -> Write {
        Write { group: (counter % 3) as u32, key: KeyNumber(0), counter }
    }

    /// Sums as the state machine would answer them after `applied`.
    fn verdict(subject: &mut HashSubject, applied: &[u64]) -> Verdict {
        let mut words = vec![vec![0u64; 2 + BUCKETS]; 3];
        for &counter in applied {
            let hash = payload_hash(subject.payload(&write(counter)));
            let group = &mut words[(counter % 3) as usize];
            group[0] += 1;
            group[2 + bucket_of(hash)] = group[2 + bucket_of(hash)].wrapping_add(hash);
        }
        let mut ask = |group: u32, _query: &[u8]| {
            Ok(words[group as usize].iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>().into())
        };
        subject.verify(&mut ask).unwrap()
    }

    fn subject() -> HashSubject {
        let mut subject = HashSubject::new(3, 16);
        (0..2000).for_each(|counter| subject.acknowledged(&write(counter)));
        (2000..2400).for_each(|counter| subject.unknown(&write(counter)));
        subject
    }

    #[test]
    fn any_subset_of_the_unknown_may_have_been_applied() {
        for step in [1, 2, 7, 1000] {
            let applied: Vec<u64> = (0..2000).chain((2000..2400).step_by(step)).collect();
            assert_eq!(verdict(&mut subject(), &applied), Verdict::default());
        }
    }

    #[test]
    fn a_lost_a_repeated_and_a_foreign_payload_are_noticed() {
        let lost: Vec<u64> = (0..2000).filter(|&counter| counter != 77).collect();
        assert_eq!(verdict(&mut subject(), &lost).lost, 1);
        let repeated: Vec<u64> = (0..2000).chain([77]).collect();
        assert_eq!(verdict(&mut subject(), &repeated).lost, 1);
        let foreign: Vec<u64> = (0..2000).chain([9999]).collect();
        assert_eq!(verdict(&mut subject(), &foreign).lost, 1);
        assert_eq!(verdict(&mut subject(), &[]).lost, 2000);
    }

    #[test]
    fn what_cannot_be_decided_is_said_so() {
        let mut subject = HashSubject::new(3, 16);
        (0..30_000).for_each(|counter| subject.unknown(&write(counter)));
        assert_eq!(verdict(&mut subject, &[3, 6, 9]).undecided.len(), 1);
    }
}
