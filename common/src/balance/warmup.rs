//! How much of its weight an endpoint has that has only just become ready (Istio `loadBalancer.warmup`).
//!
//! Envoy's slow start: the part grows with time to the power of one over the aggression. For round robin and least
//! request only; consistent hashing would move keys all the time.

use std::time::Duration;

/// `warmup.minimumPercent` when it is not stated.
pub const DEFAULT_MINIMUM_PERCENT: f64 = 10.0;
/// `warmup.aggression` when it is not stated: the part grows evenly.
pub const DEFAULT_AGGRESSION: f64 = 1.0;

/// The least part of a weight. Turns are dealt out by weight, and an endpoint with next to none would have its next
/// turn long after it is warm.
const LEAST_FACTOR: f64 = 0.01;
/// Age is counted from one millisecond, as Envoy does, so that there is always some.
const YOUNGEST: Duration = Duration::from_millis(1);

/// The setting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Warmup {
    /// `duration`: when an endpoint has all its weight.
    pub duration: Duration,
    /// `minimumPercent` of the weight, from the start.
    pub minimum_percent: f64,
    /// `aggression`: the higher, the more of the weight comes early. Without meaning unless above 0, and then 1.
    pub aggression: f64,
}

impl Warmup {
    /// The part of its weight that an endpoint has at this age, above 0 and up to 1.
    pub fn factor(&self, age: Duration) -> f64 {
        if age >= self.duration {
            return 1.0;
        }
        let elapsed = age.max(YOUNGEST).as_secs_f64() / self.duration.as_secs_f64();
        let aggression = if self.aggression > 0.0 { self.aggression } else { DEFAULT_AGGRESSION };
        let grown = elapsed.powf(aggression.recip());
        grown.max(self.minimum_percent / 100.0).clamp(LEAST_FACTOR, 1.0)
    }
}
