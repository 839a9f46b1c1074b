//! The one with fewer requests under way (Istio `simple: LEAST_REQUEST`, the default).
//!
//! With equal weights two are drawn and the less busy taken. With different ones turns are taken, each candidate's
//! weight divided by its requests under way and one: Envoy's LEAST_REQUEST with an `active_request_bias` of 1.0. Unlike
//! Envoy's, the two drawn are never the same one.

use rand::Rng;

use super::schedule::Schedule;

/// How to choose among some candidates. Built anew when they or their weights change.
#[derive(Debug, Clone)]
pub struct LeastRequest(Way);

#[derive(Debug, Clone)]
enum Way {
    TwoDraws(usize),
    Turns(Schedule),
}

/// What is known of a candidate when it may be chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Requests under way to it, waiting ones included.
    pub outstanding: u32,
    /// Its weight now, above 0.
    pub weight: f64,
    /// It was tried before for this very request: of two drawn the other is taken, however busy. One that fails at once
    /// is never busy, and every try would go there. Turns come to another by themselves.
    pub tried: bool,
}

impl LeastRequest {
    /// For candidates of these weights, all above 0. While one of them warms up its weight differs from the others'.
    pub fn new(weights: &[f64], rng: &mut impl Rng) -> Self {
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        Self(if equal { Way::TwoDraws(weights.len()) } else { Way::Turns(Schedule::new(weights, rng)) })
    }

    /// The position of the one to use; `None` when there are no candidates.
    pub fn choose(&mut self, load: impl Fn(usize) -> Load, rng: &mut impl Rng) -> Option<usize> {
        match &mut self.0 {
            Way::TwoDraws(0) => None,
            Way::TwoDraws(1) => Some(0),
            Way::TwoDraws(count) => {
                let one = rng.random_range(0..*count);
                // Of all but that one.
                let other = (one + rng.random_range(1..*count)) % *count;
                let burden = |at| {
                    let Load { outstanding, tried, .. } = load(at);
                    (tried, outstanding)
                };
                Some(if burden(other) < burden(one) { other } else { one })
            }
            Way::Turns(schedule) => schedule.next(|candidate| {
                let Load { outstanding, weight, .. } = load(candidate);
                weight / (f64::from(outstanding) + 1.0)
            }),
        }
    }
}
