//! Takes turns by weight: earliest deadline first, as Envoy's scheduler of the same name.
//!
//! In a time of its own, a candidate's next turn is due one over its weight after the last, so that over any stretch
//! each has had its part, give or take one turn. The first turns are due at random: workers and waypoints that start
//! together do not march in step.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use rand::Rng;

/// Whose turn it is, and when the others' are.
#[derive(Debug, Clone)]
pub(super) struct Schedule(BinaryHeap<Reverse<Turn>>);

#[derive(Debug, Clone)]
struct Turn {
    due: f64,
    candidate: usize,
}

impl Schedule {
    /// A schedule for candidates of these weights, all above 0.
    pub(super) fn new(weights: &[f64], rng: &mut impl Rng) -> Self {
        let first = |(candidate, weight): (usize, &f64)| {
            Reverse(Turn { due: rng.random_range(0.0..1.0) / weight, candidate })
        };
        Self(weights.iter().enumerate().map(first).collect())
    }

    /// The candidate whose turn it is. `weight` says what weight it has now, which decides when its next turn is.
    pub(super) fn next(&mut self, weight: impl FnOnce(usize) -> f64) -> Option<usize> {
        let mut turn = self.0.peek_mut()?;
        let Reverse(Turn { due, candidate }) = &mut *turn;
        let candidate = *candidate;
        *due += 1.0 / weight(candidate);
        // Puts it in its new place.
        drop::<PeekMut<'_, _>>(turn);
        Some(candidate)
    }
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        self.due.total_cmp(&other.due).then(self.candidate.cmp(&other.candidate))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Turn {}
