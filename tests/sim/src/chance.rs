//! Random numbers in streams: one per concern, all from the seed. A draw of one concern never shifts another's numbers, so
//! that the same run without one fault stays much as it was.

/// A stream of chance.
#[derive(Clone, Debug)]
pub struct Chance(fastrand::Rng);

impl Chance {
    /// The stream of one concern of a seed.
    #[must_use]
    pub fn of(seed: u64, concern: &str) -> Self {
        let name = crc32fast::hash(concern.as_bytes());
        let mixed = (seed ^ (u64::from(name) << 32 | u64::from(name))).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self(fastrand::Rng::with_seed(mixed ^ (mixed >> 29)))
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.0.u64(..n) }
    }

    /// A number from `low` to `high`, both included.
    pub fn from_to(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True so many times out of a million.
    pub fn hits(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.0.u32(..1_000_000) < ppm
    }

    /// One of these.
    ///
    /// # Panics
    /// If there are none.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Around `usual`, with a heavy tail: half of the draws below it, one in 2^k above 2^k times as much, up to 1,024.
    pub fn heavy_tailed(&mut self, usual: u64) -> u64 {
        let doublings = self.0.u64(..).trailing_zeros().min(10);
        (usual << doublings) / 2 + self.below(usual / 2 + 1)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0.u64(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_do_not_depend_on_each_other() {
        let draw = |seed, concern| Chance::of(seed, concern).any();
        assert_eq!(draw(1, "disk"), draw(1, "disk"));
        assert_ne!(draw(1, "disk"), draw(1, "net"));
        assert_ne!(draw(1, "disk"), draw(2, "disk"));
    }

    #[test]
    fn heavy_tails_are_heavy_and_bounded() {
        let mut chance = Chance::of(7, "tail");
        let draws: Vec<u64> = (0..10_000).map(|_| chance.heavy_tailed(100)).collect();
        assert!(draws.iter().filter(|&&draw| draw < 200).count() > 6_000);
        assert!(draws.iter().any(|&draw| draw > 5_000) && draws.iter().all(|&draw| draw <= 51_300));
    }
}
