//! A token bucket in one number: the time at which it will be full again. Pure; the clock is an argument.
//!
//! It admits no more than `burst + requests * time / per`: where an interval between two requests is no whole number of
//! nanoseconds it is rounded up. A bucket that is full says nothing, so that forgetting it forgives nobody anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::config::rate_limit::Limit;

/// Nanoseconds since some moment before all others.
pub type Nanos = u64;

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Between two requests that come evenly.
    interval: Nanos,
    /// For an empty bucket to be full.
    whole: Nanos,
    burst: u32,
}

/// What a bucket says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It is admitted; so many more would be now.
    Admitted {
        /// Tokens that are left.
        remaining: u32,
        /// Until the bucket is full.
        full_in: Duration,
    },
    /// It is not.
    Refused {
        /// Until there is a token.
        wait: Duration,
        /// Until the bucket is full.
        full_in: Duration,
    },
}

impl Rate {
    /// Of a limit as stated.
    pub fn of(limit: &Limit) -> Self {
        let per = u64::try_from(limit.per.as_nanos()).unwrap_or(u64::MAX);
        let interval = per.div_ceil(u64::from(limit.requests.get()));
        let burst = limit.burst.get();
        // What a bucket holds stays far from the end of time, or it would never be empty: 146 years.
        Self { interval, whole: interval.saturating_mul(u64::from(burst)).min(u64::MAX / 4), burst }
    }

    /// Tokens of a full bucket.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// Asks a bucket that is full at `full` for a token: what it says, and when it is full then.
    pub fn ask(&self, full: Nanos, now: Nanos) -> (Said, Nanos) {
        let after = full.max(now).saturating_add(self.interval);
        let missing = after - now;
        if missing > self.whole {
            let full_in = Duration::from_nanos(full.saturating_sub(now));
            return (Said::Refused { wait: Duration::from_nanos(missing - self.whole), full_in }, full);
        }
        let remaining = (self.whole - missing) / self.interval.max(1);
        let full_in = Duration::from_nanos(missing);
        (Said::Admitted { remaining: u32::try_from(remaining).unwrap_or(u32::MAX), full_in }, after)
    }

    /// When a bucket is full into which a token is put back.
    pub fn put_back(&self, full: Nanos) -> Nanos {
        full.saturating_sub(self.interval)
    }
}

/// A bucket that many take of at once, without a lock.
#[derive(Debug, Default)]
pub struct Shared(AtomicU64);

impl Shared {
    /// Takes a token, if there is one.
    pub fn take(&self, rate: &Rate, now: Nanos) -> Said {
        let mut full = self.0.load(Ordering::Relaxed);
        loop {
            let (said, after) = rate.ask(full, now);
            if matches!(said, Said::Refused { .. }) {
                return said;
            }
            match self.0.compare_exchange_weak(full, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return said,
                Err(changed) => full = changed,
            }
        }
    }

    /// Puts a token back.
    pub fn put_back(&self, rate: &Rate) {
        // The function never declines.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full| Some(rate.put_back(full)));
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;

    fn rate(requests: u32, per: Duration, burst: u32) -> Rate {
        let some = |it| NonZeroU32::new(it).unwrap();
        Rate::of(&Limit {
            name: "".into(),
            matches: Box::default(),
            requests: some(requests),
            per,
            burst: some(burst),
            by: Box::default(),
        })
    }

    const MS: Nanos = 1_000_000;

    #[test]
    fn the_largest_burst_over_the_longest_time_comes_to_an_end() {
        let rate = rate(1, Duration::from_secs(24 * 3600), 1_000_000);
        let mut full = 0;
        let admitted = (0..300_000).take_while(|_| {
            let (said, after) = rate.ask(full, MS);
            full = after;
            matches!(said, Said::Admitted { .. })
        });
        // What a bucket can hold is bounded by time.
        assert_eq!(admitted.count() as u64, u64::MAX / 4 / (24 * 3600 * 1_000 * MS));
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_what_comes_in() {
        let rate = rate(10, Duration::from_secs(1), 3);
        let mut full = 0;
        for (at_ms, expected) in [
            (0, Ok(2)),
            (0, Ok(1)),
            (0, Ok(0)),
            (0, Err(100)),
            (99, Err(1)),
            (100, Ok(0)),
            (150, Err(50)),
            (200, Ok(0)),
            (10_000, Ok(2)),
            (10_000, Ok(1)),
            (10_050, Ok(0)),
            (10_050, Err(50)),
        ] {
            let (said, after) = rate.ask(full, 1_000 * MS + at_ms * MS);
            full = after;
            let told = match said {
                Said::Admitted { remaining, .. } => Ok(remaining),
                Said::Refused { wait, .. } => Err(wait.as_millis()),
            };
            assert_eq!(told, expected, "at {at_ms} ms");
        }
    }

    #[test]
    fn a_token_that_is_put_back_is_there_again() {
        let (rate, bucket) = (rate(1, Duration::from_secs(60), 1), Shared::default());
        assert!(matches!(bucket.take(&rate, 5), Said::Admitted { remaining: 0, .. }));
        assert!(matches!(bucket.take(&rate, 6), Said::Refused { .. }));
        bucket.put_back(&rate);
        assert!(matches!(bucket.take(&rate, 7), Said::Admitted { remaining: 0, .. }));
    }

    #[test]
    fn however_many_take_at_once_no_more_are_admitted() {
        let (rate, bucket) = (rate(1, Duration::from_secs(3600), 1000), Shared::default());
        let admitted: usize = std::thread::scope(|scope| {
            let take =
                || (0..1000).filter(|_| matches!(bucket.take(&rate, 9), Said::Admitted { .. })).count();
            let all: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            all.into_iter().map(|it| it.join().unwrap()).sum()
        });
        assert_eq!(admitted, 1000);
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_the_rate_are_admitted_in_any_stretch_of_time(
            requests in 1..2_000_u32,
            per_ms in 1..100_000_u64,
            burst in 1..50_u32,
            steps in prop::collection::vec(0..2_000_000_000_u64, 1..300),
        ) {
            let rate = rate(requests, Duration::from_millis(per_ms), burst);
            let (mut now, mut full) = (7, 0);
            let mut admitted = Vec::new();
            for step in steps {
                now += step;
                let (said, after) = rate.ask(full, now);
                if matches!(said, Said::Admitted { .. }) {
                    admitted.push(now);
                }
                prop_assert!(after >= full && after <= now.max(full) + rate.interval);
                full = after;
            }
            for (from, first) in admitted.iter().enumerate() {
                for (to, last) in admitted.iter().enumerate().skip(from) {
                    let most = u128::from(burst) + u128::from(last - first) * u128::from(requests) / (u128::from(per_ms) * 1_000_000);
                    prop_assert!((to - from + 1) as u128 <= most, "{} within {} ns", to - from + 1, last - first);
                }
            }
        }
    }
}
