//! By chance (Istio `simple: RANDOM`), and which group of endpoints when a level has several.
//!
//! Weights count, as `WorkloadEntry.weight` promises for every way of balancing. Envoy's RANDOM ignores them.

use rand::Rng;

/// Candidates and their chances. Built anew when these change.
#[derive(Debug, Clone)]
pub struct Random {
    /// For each candidate the sum of its weight and those before it.
    sums: Box<[f64]>,
}

impl Random {
    /// For candidates of these weights, none below 0.
    pub fn new(weights: impl IntoIterator<Item = f64>) -> Self {
        let add = |sum: &mut f64, weight| {
            *sum += weight;
            Some(*sum)
        };
        Self { sums: weights.into_iter().scan(0.0, add).collect() }
    }

    /// The position of the one drawn; `None` when none has a weight.
    pub fn choose(&self, rng: &mut impl Rng) -> Option<usize> {
        let total = self.sums.last().copied().filter(|total| *total > 0.0)?;
        let drawn = rng.random_range(0.0..total);
        Some(self.sums.partition_point(|sum| *sum <= drawn))
    }
}
