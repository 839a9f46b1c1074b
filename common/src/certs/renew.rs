//! Decides when to ask the CA: a pure function of what is held, what failed, and the time.
//!
//! Surprising: two clocks are read. Validity is wall time, which can jump; pauses between requests are monotonic, so
//! that no jump turns into a storm. Times are measured from the moment a certificate was received and not from its
//! own start, so that a CA whose clock is behind cannot make us ask again at once.

use std::time::Duration;

use rustls_pki_types::UnixTime;

/// The pause after the first failure, before jitter (Istio ztunnel's).
pub const BACKOFF_SHORTEST: Duration = Duration::from_millis(500);

/// The longest pause between two tries, before jitter (Istio ztunnel's).
pub const BACKOFF_LONGEST: Duration = Duration::from_secs(150);

/// The shortest pause between a certificate and the request that replaces it, whatever the clock or the CA say.
pub const SHORTEST_INTERVAL: Duration = Duration::from_secs(5);

/// The longest sleep before the wall clock is looked at again: a jump of it is noticed within this time.
pub const LONGEST_NAP: Duration = Duration::from_secs(60);

/// A renewal falls between 45 % and 55 % of the life that was left when the certificate came.
const RENEWAL_EARLIEST: f64 = 0.45;
const RENEWAL_SPREAD: f64 = 0.10;

/// The dates of the certificate at hand, wall time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// When it came.
    pub received: UnixTime,
    /// Its first second.
    pub not_before: UnixTime,
    /// Its last second.
    pub not_after: UnixTime,
}

/// Everything the decision looks at.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// The certificate at hand, if any.
    pub held: Option<Held>,
    /// The certificate at hand does not chain to the roots now known.
    pub issuer_retired: bool,
    /// Failed requests since the last success.
    pub failures: u32,
    /// Monotonic time since the last request ended; `None` before the first.
    pub since_request: Option<Duration>,
    /// Wall time.
    pub now: UnixTime,
    /// Between 0 and 1, drawn anew after each request.
    pub jitter: f64,
}

/// Why a certificate is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There is none yet.
    First,
    /// Half of its life is over.
    HalfLife,
    /// It has expired.
    Expired,
    /// It is not valid yet by our clock, which must have been set back.
    ClockWentBack,
    /// Its root is not trusted any more.
    IssuerRetired,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Ask the CA.
    Request(Reason),
    /// Decide again after this time, at most [`LONGEST_NAP`].
    Wait(Duration),
}

/// Ask now, or wait.
pub fn next_step(facts: &Facts) -> Step {
    let jitter = if facts.jitter.is_finite() { facts.jitter.clamp(0.0, 1.0) } else { 0.0 };
    let reason = match due(facts, jitter) {
        Ok(reason) => reason,
        Err(wait) => return Step::Wait(wait.min(LONGEST_NAP)),
    };
    let pause = match (facts.failures, facts.held) {
        (0, None) => Duration::ZERO,
        (0, Some(_)) => SHORTEST_INTERVAL,
        (failures, _) => backoff(failures, jitter),
    };
    match facts.since_request {
        Some(since) if since < pause => Step::Wait((pause - since).min(LONGEST_NAP)),
        _ => Step::Request(reason),
    }
}

/// The pause after this many failures in a row: doubling from [`BACKOFF_SHORTEST`], the upper half of it at random.
pub(super) fn backoff(failures: u32, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let full = BACKOFF_SHORTEST.saturating_mul(1 << doublings).min(BACKOFF_LONGEST);
    full.mul_f64(0.5 + 0.5 * jitter)
}

/// The reason to ask, or how long there is none.
fn due(facts: &Facts, jitter: f64) -> Result<Reason, Duration> {
    let Some(held) = facts.held else { return Ok(Reason::First) };
    if facts.now >= held.not_after {
        return Ok(Reason::Expired);
    }
    if facts.now < held.not_before {
        return Ok(Reason::ClockWentBack);
    }
    if facts.issuer_retired {
        return Ok(Reason::IssuerRetired);
    }
    let received = seconds(held.received);
    let left = seconds(held.not_after).saturating_sub(received);
    let renew_at = received + left.mul_f64(RENEWAL_EARLIEST + RENEWAL_SPREAD * jitter);
    match renew_at.checked_sub(seconds(facts.now)) {
        Some(wait) if !wait.is_zero() => Err(wait),
        _ => Ok(Reason::HalfLife),
    }
}

fn seconds(time: UnixTime) -> Duration {
    Duration::from_secs(time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_800_000_000;
    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    /// A certificate of 24 h received at noon, backdated by two minutes, a long time after the last request.
    fn facts(now: u64) -> Facts {
        Facts {
            held: Some(Held { received: at(NOON), not_before: at(NOON - 120), not_after: at(NOON + DAY) }),
            issuer_retired: false,
            failures: 0,
            since_request: Some(Duration::from_secs(DAY)),
            now: at(now),
            jitter: 0.5,
        }
    }

    #[test]
    fn each_moment_has_its_step() {
        let cases = [
            ("just received", NOON, Step::Wait(LONGEST_NAP)),
            ("20 s before half life", NOON + DAY / 2 - 20, Step::Wait(Duration::from_secs(20))),
            ("half life", NOON + DAY / 2, Step::Request(Reason::HalfLife)),
            ("last second", NOON + DAY - 1, Step::Request(Reason::HalfLife)),
            ("expired", NOON + DAY, Step::Request(Reason::Expired)),
            ("clock forward 48 h", NOON + 2 * DAY, Step::Request(Reason::Expired)),
            ("clock back 1 min", NOON - 60, Step::Wait(LONGEST_NAP)),
            ("clock back 48 h", NOON - 2 * DAY, Step::Request(Reason::ClockWentBack)),
            ("clock at 1970", 0, Step::Request(Reason::ClockWentBack)),
            ("clock at the end of time", u64::MAX, Step::Request(Reason::Expired)),
        ];
        for (name, now, expected) in cases {
            assert_eq!(next_step(&facts(now)), expected, "{name}");
        }
    }

    #[test]
    fn nothing_held_is_requested_at_once_and_after_a_failure_with_backoff() {
        let first = Facts { held: None, since_request: None, ..facts(NOON) };
        assert_eq!(next_step(&first), Step::Request(Reason::First));
        let just_failed = Facts { failures: 1, since_request: Some(Duration::ZERO), jitter: 1.0, ..first };
        assert_eq!(next_step(&just_failed), Step::Wait(BACKOFF_SHORTEST));
        let later = Facts { since_request: Some(BACKOFF_SHORTEST), ..just_failed };
        assert_eq!(next_step(&later), Step::Request(Reason::First));
    }

    #[test]
    fn renewals_are_spread_around_half_life() {
        let wait = |jitter| {
            (0..DAY)
                .find(|after| {
                    next_step(&Facts { jitter, ..facts(NOON + after) }) == Step::Request(Reason::HalfLife)
                })
                .unwrap()
        };
        assert_eq!(wait(0.0), DAY * 45 / 100);
        assert_eq!(wait(1.0), DAY * 55 / 100);
    }

    #[test]
    fn backoff_doubles_to_its_bound_and_never_panics() {
        let full = |failures| backoff(failures, 1.0);
        assert_eq!(full(1), Duration::from_millis(500));
        assert_eq!(full(2), Duration::from_secs(1));
        assert_eq!(full(9), Duration::from_secs(128));
        for failures in [10, 64, u32::MAX] {
            assert_eq!(full(failures), BACKOFF_LONGEST);
            assert_eq!(backoff(failures, 0.0), BACKOFF_LONGEST / 2);
        }
    }

    #[test]
    fn no_clock_makes_a_fresh_certificate_be_requested_again_at_once() {
        for now in [0, NOON - DAY, NOON, NOON + DAY, NOON + 100 * DAY, u64::MAX] {
            let fresh = Facts { since_request: Some(Duration::ZERO), ..facts(now) };
            assert!(matches!(next_step(&fresh), Step::Wait(wait) if wait >= SHORTEST_INTERVAL), "{now}");
        }
    }

    #[test]
    fn a_ca_whose_clock_is_behind_causes_no_storm() {
        // It backdates so far that more than half of the life is over on arrival.
        let held =
            Held { received: at(NOON), not_before: at(NOON - 20 * HOUR), not_after: at(NOON + 4 * HOUR) };
        let step = next_step(&Facts { held: Some(held), ..facts(NOON + 10) });
        assert_eq!(step, Step::Wait(LONGEST_NAP));
    }

    #[test]
    fn a_retired_issuer_is_left_but_no_faster_than_the_interval() {
        let retired = Facts { issuer_retired: true, ..facts(NOON) };
        assert_eq!(next_step(&retired), Step::Request(Reason::IssuerRetired));
        let again = Facts { since_request: Some(Duration::from_secs(1)), ..retired };
        assert_eq!(next_step(&again), Step::Wait(SHORTEST_INTERVAL - Duration::from_secs(1)));
    }

    #[test]
    fn a_jitter_that_is_no_number_is_none() {
        for jitter in [f64::NAN, f64::INFINITY, -3.0, 7.0] {
            next_step(&Facts {
                jitter,
                failures: 3,
                since_request: Some(Duration::ZERO),
                ..facts(NOON + DAY)
            });
        }
    }
}
