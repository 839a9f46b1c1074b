//! How long, and how often: a timeout before a slow service, and retries before one that fails now and then.

use std::time::Duration;

use anyhow::Result;

use super::{
    calls::{Called, Load, Question, count, statuses},
    market::{FLAKY, Lab, Market, SLOW, Told, example},
};
use crate::{
    screen::{Claim, Facts, Row},
    stage::{Stage, marker},
};

const TIMEOUT: Lab = Lab { name: "timeout", file: example!("lab-timeout.yaml"), of: SLOW };
const RETRIES: Lab = Lab { name: "retries", file: example!("lab-retries.yaml"), of: FLAKY };

/// How long a request may take, as the file has it.
const LIMIT: Duration = Duration::from_secs(1);

/// How long the service takes, as its manifest has it.
const NEEDED: Duration = Duration::from_secs(2);

/// Calls to the slow service, at once.
const SLOW_CALLS: usize = 5;

/// Calls to the failing service, each with and without retries, one after the other.
const FLAKY_CALLS: usize = 90;

/// Which of its requests it fails, as its manifest has it: each third.
const FAILS: usize = 3;

struct TimedOut {
    without: Vec<Called>,
    with: Vec<Called>,
    told: Vec<Told>,
}

/// Calls a slow service, first without a timeout.
pub(super) fn play_timeout(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let mut market = Market::open(stage)?;
    let mark = marker("timeout")?;
    let without = market.call(SLOW, Load::at_once(SLOW_CALLS), |_| Question::path("/"))?;
    let (with, told) = market.under(&TIMEOUT, |market| {
        let with = market.call(SLOW, Load::at_once(SLOW_CALLS), |_| Question::path(format!("/?{mark}")))?;
        Ok((with, market.told(&mark, SLOW_CALLS)?))
    })?;
    Ok(Box::new(TimedOut { without, with, told }))
}

/// The shortest and the longest of the calls, in words.
fn span(calls: &[Called]) -> String {
    let times = || calls.iter().map(|call| call.took.as_millis());
    format!("after {} to {} ms", times().min().unwrap_or_default(), times().max().unwrap_or_default())
}

impl Facts for TimedOut {
    fn rows(&self) -> Vec<Row> {
        let flags: Vec<_> = self.told.iter().map(|told| format!("{} {}", told.status, told.flags)).collect();
        vec![
            Row::fact("without a timeout", format!("{}, {}", statuses(&self.without), span(&self.without))),
            Row::fact("expected with one", format!("{SLOW_CALLS} x 504 after 1000 ms and before 2000 ms")),
            Row::fact("got", format!("{}, {}", statuses(&self.with), span(&self.with))),
            Row::fact("the waypoint's log", flags.join(", ")),
        ]
    }

    fn claims(&self) -> Vec<Claim> {
        let whole =
            |calls: &[Called], status| calls.len() == SLOW_CALLS && count(calls, status) == SLOW_CALLS;
        let slow = self.without.iter().all(|call| call.took >= NEEDED);
        let cut = self.with.iter().all(|call| (LIMIT..NEEDED).contains(&call.took));
        let logged = self.told.iter().filter(|told| told.status == 504 && told.has("UT")).count();
        vec![
            Claim::new(
                "without a timeout callers wait as long as it takes",
                whole(&self.without, 200) && slow,
            ),
            Claim::new("with it they get 504 when it is over, and before the service is done", {
                whole(&self.with, 504) && cut
            }),
            Claim::new("the log says of each that the service was too late (UT)", logged == SLOW_CALLS),
        ]
    }
}

struct Retried {
    without: Vec<Called>,
    with: Vec<Called>,
    /// Requests that the service had while the calls were made with retries.
    served: u64,
}

/// Calls a failing service, first without retries.
pub(super) fn play_retries(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let mut market = Market::open(stage)?;
    let load = Load::in_turn(FLAKY_CALLS);
    let without = market.call(FLAKY, load, |_| Question::path("/"))?;
    let (with, served) = market.under(&RETRIES, |market| {
        let before = market.settled("flaky-v1")?;
        let with = market.call(FLAKY, load, |_| Question::path("/"))?;
        Ok((with, market.settled("flaky-v1")? - before))
    })?;
    Ok(Box::new(Retried { without, with, served }))
}

impl Retried {
    /// Requests beyond those of the callers.
    fn again(&self) -> u64 {
        self.served.saturating_sub(self.with.len() as u64)
    }
}

impl Facts for Retried {
    fn rows(&self) -> Vec<Row> {
        vec![
            Row::fact("each third request fails", format!("{} without retries", statuses(&self.without))),
            Row::fact(
                "expected with them",
                format!("{FLAKY_CALLS} x 200, the service asked about 45 times more"),
            ),
            Row::fact("got", statuses(&self.with)),
            Row::fact(
                "requests at the service",
                format!("{}, {} of them retries", self.served, self.again()),
            ),
        ]
    }

    fn claims(&self) -> Vec<Claim> {
        let fails = FLAKY_CALLS / FAILS;
        let seen = count(&self.without, 503) == fails && count(&self.without, 200) == FLAKY_CALLS - fails;
        let hidden = self.with.len() == FLAKY_CALLS && count(&self.with, 200) == FLAKY_CALLS;
        // Of the requests at the service, which come in turn, each third failed and was made once more. Where in three
        // the count stood at first is open, so the number is known but for one.
        let served = usize::try_from(self.served).unwrap_or(usize::MAX);
        let exact = served.saturating_sub(FLAKY_CALLS).abs_diff(served / FAILS) <= 1;
        vec![
            Claim::new("without retries each third call failed", seen),
            Claim::new("with them none did", hidden),
            Claim::new("the service failed as before: each failure was tried again once", exact),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labs::{
        calls::made::{answered, status},
        failing,
    };

    fn timed_out() -> TimedOut {
        let told = Told { status: 504, flags: "UT".into(), route: "timeout".into() };
        TimedOut {
            without: vec![answered("v1", 2005); SLOW_CALLS],
            with: vec![status(504, 1003); SLOW_CALLS],
            told: vec![told; SLOW_CALLS],
        }
    }

    fn after(change: impl FnOnce(&mut TimedOut)) -> Vec<usize> {
        let mut facts = timed_out();
        change(&mut facts);
        failing(&facts)
    }

    #[test]
    fn a_timeout_too_soon_too_late_or_unlogged_fails() {
        assert!(after(|_| {}).is_empty());
        assert_eq!(after(|facts| facts.without[0] = answered("v1", 5)), [0]);
        assert_eq!(after(|facts| facts.with[0] = status(504, 990)), [1]);
        assert_eq!(after(|facts| facts.with[0] = status(504, 2100)), [1]);
        assert_eq!(after(|facts| facts.with[0] = answered("v1", 1500)), [1]);
        assert_eq!(after(|facts| facts.told[0].flags = "-".into()), [2]);
        assert_eq!(after(|facts| _ = facts.told.pop()), [2]);
    }

    fn retried() -> Retried {
        let call = |number: usize| if number % FAILS == 1 { status(503, 1) } else { answered("v1", 1) };
        Retried {
            without: (0..FLAKY_CALLS).map(call).collect(),
            with: vec![answered("v1", 2); FLAKY_CALLS],
            served: 135,
        }
    }

    #[test]
    fn failures_that_show_or_were_none_fail() {
        assert!(failing(&retried()).is_empty());
        assert!(failing(&Retried { served: 134, ..retried() }).is_empty());
        assert_eq!(failing(&Retried { without: retried().with, ..retried() }), [0]);
        assert_eq!(failing(&Retried { with: retried().without, ..retried() }), [1]);
        assert_eq!(failing(&Retried { served: 90, ..retried() }), [2]);
        assert_eq!(failing(&Retried { served: 270, ..retried() }), [2]);
    }
}
