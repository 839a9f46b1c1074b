//! A route of the Gateway API: a split between services, and a fault that the route names.

use anyhow::Result;

use super::{
    calls::{Called, Load, Question, count, statuses},
    chance::Bounds,
    market::{CUSTOMERS, Lab, Market, example},
};
use crate::{
    screen::{Claim, Facts, Row},
    stage::Stage,
};

const LAB: Lab = Lab { name: "gateway", file: example!("lab-gateway.yaml"), of: CUSTOMERS };

/// Requests, by a few callers at a time.
const LOAD: Load = Load { calls: 1000, callers: 8 };

/// What an aborted request is answered with, as the file has it.
const STATUS: u16 = 418;

/// The share that is aborted.
const ABORTED: f64 = 0.2;

/// The new version's share of the others.
const SHARE: f64 = 0.1;

struct Routed {
    calls: Vec<Called>,
}

/// Counts who answers, and what is aborted.
pub(super) fn play(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let mut market = Market::open(stage)?;
    let calls = market.under(&LAB, |market| market.call(CUSTOMERS, LOAD, |_| Question::path("/")))?;
    Ok(Box::new(Routed { calls }))
}

impl Routed {
    fn of(&self, version: &str) -> usize {
        self.calls.iter().filter(|call| call.status() == 200 && call.version() == version).count()
    }

    fn aborted(&self) -> usize {
        count(&self.calls, STATUS)
    }

    fn bounds(of: usize, share: f64) -> Bounds {
        Bounds::of(u32::try_from(of).unwrap_or(u32::MAX), share)
    }

    fn answered(&self) -> usize {
        self.of("v1") + self.of("v2")
    }
}

impl Facts for Routed {
    fn rows(&self) -> Vec<Row> {
        vec![
            Row::fact("route", "an HTTPRoute: 90 to customers-v1, 10 to customers-v2; a fault of 20 %"),
            Row::fact("expected aborts", Self::bounds(self.calls.len(), ABORTED).text()),
            Row::fact("counted", format!("{} aborted with {STATUS}", self.aborted())),
            Row::fact("expected at v2", Self::bounds(self.answered(), SHARE).text()),
            Row::fact("counted", format!("{} at v1, {} at v2", self.of("v1"), self.of("v2"))),
            Row::fact("answers", statuses(&self.calls)),
        ]
    }

    fn claims(&self) -> Vec<Claim> {
        let whole = self.calls.len() == LOAD.calls && self.answered() + self.aborted() == LOAD.calls;
        let aborted = Self::bounds(self.calls.len(), ABORTED).hold(self.aborted());
        let split = Self::bounds(self.answered(), SHARE).hold(self.of("v2"));
        vec![
            Claim::new("every request was answered by one of both versions, or aborted", whole),
            Claim::new("as many were aborted as the filter says", aborted),
            Claim::new("of the others the new version's share is what its weight says", split),
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

    fn routed(aborted: usize, new: usize) -> Routed {
        let call = |number| match number {
            number if number < aborted => status(STATUS, 1),
            number if number < aborted + new => answered("v2", 1),
            _ => answered("v1", 1),
        };
        Routed { calls: (0..LOAD.calls).map(call).collect() }
    }

    #[test]
    fn a_fifth_aborted_and_a_tenth_of_the_rest_bear_out_every_claim() {
        assert!(failing(&routed(200, 80)).is_empty());
        assert_eq!(failing(&routed(0, 100)), [1]);
        assert_eq!(failing(&routed(200, 400)), [2]);
        let mut lost = routed(200, 80);
        lost.calls[900] = status(503, 1);
        assert_eq!(failing(&lost), [0]);
    }
}
