//! Does some subset of these numbers add up to that one? Decides which writes of unknown outcome were applied.

use std::collections::HashMap;

/// The most numbers that are decided; two halves of 2¹⁶ sums each meet in the middle.
pub const ADDENDS_MAX: usize = 32;

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubsetSum {
    /// Such a subset exists, of so many numbers.
    Found(u32),
    /// None does.
    None,
    /// There are more than [`ADDENDS_MAX`] numbers.
    TooMany,
}

/// Whether a subset of `addends` has the sum `wanted`, modulo 2⁶⁴.
///
/// For random addends a subset found by chance has a probability of 2⁻³² at the very most.
#[must_use]
pub fn subset_sum(addends: &[u64], wanted: u64) -> SubsetSum {
    if wanted == 0 {
        return SubsetSum::Found(0);
    }
    if addends.len() > ADDENDS_MAX {
        return SubsetSum::TooMany;
    }
    let (left, right) = addends.split_at(addends.len() / 2);
    let left: HashMap<u64, u32> = sums(left).collect();
    let found =
        sums(right).find_map(|(sum, count)| left.get(&wanted.wrapping_sub(sum)).map(|more| count + more));
    found.map_or(SubsetSum::None, SubsetSum::Found)
}

/// The sum and size of every subset.
fn sums(addends: &[u64]) -> impl Iterator<Item = (u64, u32)> {
    (0..1u32 << addends.len()).map(|chosen| {
        let picked = addends.iter().enumerate().filter(|(at, _)| chosen >> at & 1 == 1);
        (picked.fold(0u64, |sum, (_, addend)| sum.wrapping_add(*addend)), chosen.count_ones())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn every_subset_is_found_and_a_wrong_sum_is_not() {
        let mut rng = Rng::new(2);
        let addends: Vec<u64> = (0..9).map(|_| rng.next()).collect();
        for (sum, count) in sums(&addends) {
            assert_eq!(subset_sum(&addends, sum), SubsetSum::Found(count));
            assert_eq!(subset_sum(&addends, sum.wrapping_add(1)), SubsetSum::None);
        }
        assert_eq!(subset_sum(&[], 0), SubsetSum::Found(0));
        assert_eq!(subset_sum(&[], 5), SubsetSum::None);
    }

    #[test]
    fn thirty_two_are_decided_and_more_are_not() {
        let mut rng = Rng::new(3);
        let addends: Vec<u64> = (0..33).map(|_| rng.next()).collect();
        let sum = addends[..32].iter().step_by(3).fold(0u64, |sum, addend| sum.wrapping_add(*addend));
        assert_eq!(subset_sum(&addends[..32], sum), SubsetSum::Found(11));
        assert_eq!(subset_sum(&addends, sum), SubsetSum::TooMany);
    }
}
