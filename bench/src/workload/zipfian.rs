//! Zipf-distributed ranks, θ = 0.99, by the method YCSB uses (Gray et al., "Quickly generating billion-record
//! synthetic databases", SIGMOD 1994). Ranks only; the workload scatters them over keys.

const THETA: f64 = 0.99;

/// The distribution over a fixed number of items.
#[derive(Clone, Debug)]
pub struct Zipfian {
    items: f64,
    zeta_items: f64,
    alpha: f64,
    eta: f64,
}

impl Zipfian {
    /// Over `items` (at least 1). Cost: one pass over them.
    #[must_use]
    pub fn new(items: u32) -> Self {
        let zeta = |count: u32| (1..=count).map(|rank| f64::from(rank).powf(-THETA)).sum::<f64>();
        let zeta_items = zeta(items);
        let items = f64::from(items);
        let eta = (1.0 - (2.0 / items).powf(1.0 - THETA)) / (1.0 - zeta(2) / zeta_items);
        Self { items, zeta_items, alpha: 1.0 / (1.0 - THETA), eta }
    }

    /// The rank (0 is the most popular) for a number drawn evenly from [0, 1).
    #[inline]
    #[must_use]
    pub fn rank(&self, unit: f64) -> u32 {
        let weighed = unit * self.zeta_items;
        let rank = if weighed < 1.0 {
            0.0
        } else if weighed < 1.0 + 0.5f64.powf(THETA) {
            1.0
        } else {
            self.items * (self.eta * unit - self.eta + 1.0).powf(self.alpha)
        };
        rank.clamp(0.0, self.items - 1.0) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn frequencies_follow_the_law() {
        let zipfian = Zipfian::new(10_000);
        let mut rng = Rng::new(4);
        let mut counts = vec![0u32; 10_000];
        for _ in 0..400_000 {
            counts[zipfian.rank(rng.unit()) as usize] += 1;
        }
        let expected = 400_000.0 / zipfian.zeta_items;
        assert!((f64::from(counts[0]) / expected - 1.0).abs() < 0.05);
        assert!((f64::from(counts[1]) / (expected * 0.5f64.powf(THETA)) - 1.0).abs() < 0.05);
        let tenth_on: u32 = counts[9..19].iter().sum();
        let law: f64 = (10..20).map(|rank| expected * f64::from(rank).powf(-THETA)).sum();
        assert!((f64::from(tenth_on) / law - 1.0).abs() < 0.15, "{tenth_on} against {law}");
    }

    #[test]
    fn tiny_item_counts_stay_in_range() {
        for items in 1..4 {
            let zipfian = Zipfian::new(items);
            for step in 0..1000 {
                assert!(zipfian.rank(f64::from(step) / 1000.0) < items);
            }
        }
    }
}
