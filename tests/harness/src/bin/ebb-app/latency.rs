//! A histogram of durations in a fixed amount of memory, right to within 1 %.

use std::time::Duration;

use harness::report::Latency;

/// Buckets per doubling.
const STEPS: u64 = 128;

/// Doublings above the first `STEPS` nanoseconds; 2^38 ns is more than four minutes, all above counts as that.
const DOUBLINGS: u64 = 31;

pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum_ns: u128,
    max_ns: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { buckets: vec![0; (STEPS * (DOUBLINGS + 1)) as usize], count: 0, sum_ns: 0, max_ns: 0 }
    }

    pub(crate) fn add(&mut self, sample: Duration) {
        let ns = u64::try_from(sample.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(ns)] += 1;
        self.count += 1;
        self.sum_ns += u128::from(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    pub(crate) fn summary(&self) -> Latency {
        if self.count == 0 {
            return Latency::default();
        }
        Latency {
            count: self.count,
            mean_us: self.sum_ns as f64 / self.count as f64 / 1000.0,
            p50_us: self.quantile(0.5),
            p90_us: self.quantile(0.9),
            p99_us: self.quantile(0.99),
            p999_us: self.quantile(0.999),
            max_us: self.max_ns as f64 / 1000.0,
        }
    }

    fn quantile(&self, part: f64) -> f64 {
        let rank = (self.count as f64 * part).ceil() as u64;
        let mut below = 0;
        for (at, in_bucket) in self.buckets.iter().enumerate() {
            below += in_bucket;
            if below >= rank {
                return middle_ns(at as u64).min(self.max_ns as f64) / 1000.0;
            }
        }
        self.max_ns as f64 / 1000.0
    }
}

/// Values below `STEPS` have a bucket each, those of each doubling above share `STEPS` evenly.
fn bucket(ns: u64) -> usize {
    let doubling = u64::from((ns | 1).ilog2()).saturating_sub(STEPS.ilog2().into());
    let doubling_or_zero = if ns < STEPS { 0 } else { doubling + 1 };
    let index = match doubling_or_zero {
        0 => ns,
        above => above * STEPS + (ns >> (above - 1)) - STEPS,
    };
    index.min(STEPS * (DOUBLINGS + 1) - 1) as usize
}

fn middle_ns(bucket: u64) -> f64 {
    let (above, step) = (bucket / STEPS, bucket % STEPS);
    match above {
        0 => step as f64,
        above => ((STEPS + step) as f64 + 0.5) * (1_u64 << (above - 1)) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_one_percent_over_the_whole_range() {
        for scale in [1_u64, 77, 1000, 123_456, 10_000_000] {
            let mut histogram = Histogram::new();
            for step in 1..=1000 {
                histogram.add(Duration::from_nanos(step * scale));
            }
            let latency = histogram.summary();
            for (got, want) in
                [(latency.p50_us, 500), (latency.p90_us, 900), (latency.p99_us, 990), (latency.max_us, 1000)]
            {
                let want = (want * scale) as f64 / 1000.0;
                assert!((got - want).abs() <= want * 0.01, "{got} for {want} at scale {scale}");
            }
        }
    }

    #[test]
    fn buckets_follow_each_other_and_the_last_takes_the_rest() {
        let mut last = 0;
        for ns in 1..100_000 {
            let here = bucket(ns);
            assert!(here == last || here == last + 1, "{ns} is in {here} after {last}");
            last = here;
        }
        assert_eq!(bucket(u64::MAX), (STEPS * (DOUBLINGS + 1) - 1) as usize);
    }
}
