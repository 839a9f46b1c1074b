//! Faults on purpose: delays by the caller's clock, aborts by their status, and what of both the service got to see.

use std::time::Duration;

use anyhow::Result;

use super::{
    calls::{Called, Load, Question, count, statuses},
    chance::Bounds,
    market::{Lab, Market, RATINGS, Told, example},
};
use crate::{
    screen::{Claim, Facts, Row},
    stage::{Stage, marker},
};

const DELAY: Lab = Lab { name: "delay", file: example!("lab-delay.yaml"), of: RATINGS };
const ABORT: Lab = Lab { name: "abort", file: example!("lab-abort.yaml"), of: RATINGS };

/// Many callers, since half of the calls wait.
const DELAY_LOAD: Load = Load { calls: 200, callers: 25 };

const ABORT_LOAD: Load = Load { calls: 400, callers: 8 };

/// How long a delayed request waits, as the file has it.
const WAIT: Duration = Duration::from_millis(400);

/// What an aborted request is answered with, as the file has it.
const STATUS: u16 = 418;

/// The share of either, as the files have it.
const SHARE: f64 = 0.5;

struct Fault {
    calls: Vec<Called>,
    told: Vec<Told>,
    /// Requests that the service had.
    served: u64,
}

struct Delayed(Fault);

struct Aborted(Fault);

/// Counts by the clock.
pub(super) fn play_delay(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    Ok(Box::new(Delayed(Fault::provoke(stage, &DELAY, DELAY_LOAD)?)))
}

/// Counts by status.
pub(super) fn play_abort(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    Ok(Box::new(Aborted(Fault::provoke(stage, &ABORT, ABORT_LOAD)?)))
}

impl Fault {
    fn provoke(stage: &mut Stage, lab: &Lab, load: Load) -> Result<Self> {
        let mark = marker(lab.name)?;
        Market::open(stage)?.under(lab, |market| {
            let before = market.settled("ratings-v1")?;
            let calls = market.call(RATINGS, load, |_| Question::path(format!("/?{mark}")))?;
            let told = market.told(&mark, load.calls)?;
            Ok(Self { calls, told, served: market.settled("ratings-v1")? - before })
        })
    }

    fn flagged(&self, flag: &str) -> usize {
        self.told.iter().filter(|told| told.has(flag)).count()
    }

    fn bounds(&self) -> Bounds {
        Bounds::of(u32::try_from(self.calls.len()).unwrap_or(u32::MAX), SHARE)
    }
}

impl Delayed {
    /// Calls that took as long as a delayed one at least.
    fn late(&self) -> usize {
        self.0.calls.iter().filter(|call| call.took >= WAIT).count()
    }
}

impl Facts for Delayed {
    fn rows(&self) -> Vec<Row> {
        let Self(fault) = self;
        let quick = fault.calls.iter().map(|call| call.took).filter(|took| *took < WAIT).max();
        vec![
            Row::fact("expected to be delayed", fault.bounds().text()),
            Row::fact(
                "counted by the clock",
                format!("{} took {} ms or longer", self.late(), WAIT.as_millis()),
            ),
            Row::fact("the slowest of the others", format!("{} ms", quick.unwrap_or_default().as_millis())),
            Row::fact("flag DI in the log", fault.flagged("DI").to_string()),
            Row::fact("answers", statuses(&fault.calls)),
        ]
    }

    fn claims(&self) -> Vec<Claim> {
        let Self(fault) = self;
        let all = fault.calls.len() == DELAY_LOAD.calls && count(&fault.calls, 200) == DELAY_LOAD.calls;
        let flagged = fault.flagged("DI");
        vec![
            Claim::new("half of the requests were delayed", fault.bounds().hold(flagged)),
            // Not equal: on a busy machine a request can be as late without being delayed.
            Claim::new("each of them by as much as stated", flagged > 0 && self.late() >= flagged),
            Claim::new("every request was answered all the same", all),
        ]
    }
}

impl Facts for Aborted {
    fn rows(&self) -> Vec<Row> {
        let Self(fault) = self;
        vec![
            Row::fact("expected to be aborted", fault.bounds().text()),
            Row::fact("answers", statuses(&fault.calls)),
            Row::fact("flag FI in the log", fault.flagged("FI").to_string()),
            Row::fact("requests at the service", fault.served.to_string()),
        ]
    }

    fn claims(&self) -> Vec<Claim> {
        let Self(fault) = self;
        let (aborted, answered) = (count(&fault.calls, STATUS), count(&fault.calls, 200));
        let whole = fault.calls.len() == ABORT_LOAD.calls && aborted + answered == ABORT_LOAD.calls;
        vec![
            Claim::new(format!("half of the requests got {STATUS}"), fault.bounds().hold(aborted)),
            Claim::new("the log has each of them, and no other", fault.flagged("FI") == aborted),
            Claim::new("the others were answered, and only they came to the service", {
                whole && fault.served == answered as u64
            }),
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

    fn told(flags: &str) -> Told {
        Told { status: 200, flags: flags.into(), route: "delay".into() }
    }

    fn delayed(late: usize) -> Delayed {
        let took = |number| if number < late { 403 } else { 3 };
        let flags = |number| if number < late { "DI" } else { "-" };
        let numbers = 0..DELAY_LOAD.calls;
        Delayed(Fault {
            calls: numbers.clone().map(|number| answered("v1", took(number))).collect(),
            told: numbers.map(|number| told(flags(number))).collect(),
            served: 200,
        })
    }

    #[test]
    fn delays_that_are_too_many_too_few_or_too_short_fail() {
        assert!(failing(&delayed(100)).is_empty() && failing(&delayed(120)).is_empty());
        assert_eq!(failing(&delayed(0)), [0, 1]);
        assert_eq!(failing(&delayed(20)), [0]);
        assert_eq!(failing(&delayed(200)), [0]);
        let mut facts = delayed(100);
        facts.0.calls[3].took = Duration::from_millis(399);
        assert_eq!(failing(&facts), [1]);
        facts.0.calls[150] = status(503, 1);
        assert_eq!(failing(&facts), [1, 2]);
    }

    fn aborted(aborts: usize) -> Aborted {
        let call = |number| if number < aborts { status(STATUS, 1) } else { answered("v1", 1) };
        let flags = |number| if number < aborts { "FI" } else { "-" };
        let numbers = 0..ABORT_LOAD.calls;
        Aborted(Fault {
            calls: numbers.clone().map(call).collect(),
            told: numbers.map(|number| told(flags(number))).collect(),
            served: (ABORT_LOAD.calls - aborts) as u64,
        })
    }

    #[test]
    fn aborts_that_are_too_many_unlogged_or_sent_on_fail() {
        assert!(failing(&aborted(200)).is_empty());
        assert_eq!(failing(&aborted(40)), [0]);
        assert_eq!(failing(&aborted(400)), [0]);
        let mut facts = aborted(200);
        facts.0.told[0] = told("-");
        assert_eq!(failing(&facts), [1]);
        facts.0.served += 1;
        assert_eq!(failing(&facts), [1, 2]);
    }
}
