//! One after the other, by weight (Istio `simple: ROUND_ROBIN`).
//!
//! Earliest deadline first, as Envoy's: weights hold over every short stretch and not only in the long run. With equal
//! weights it is plain round robin, in an order drawn by chance when it is built.

use rand::Rng;

use super::schedule::Schedule;

/// Whose turn it is. Built anew when the candidates change.
#[derive(Debug, Clone)]
pub struct RoundRobin(Schedule);

impl RoundRobin {
    /// For candidates of these weights, all above 0.
    pub fn new(weights: &[f64], rng: &mut impl Rng) -> Self {
        Self(Schedule::new(weights, rng))
    }

    /// The position of the next; `None` when there are no candidates. `weight` says what weight a candidate has now:
    /// one that warms up has its next turns closer together.
    pub fn choose(&mut self, weight: impl FnOnce(usize) -> f64) -> Option<usize> {
        self.0.next(weight)
    }
}
