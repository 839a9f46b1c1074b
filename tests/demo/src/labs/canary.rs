//! A canary by weights, counted over a thousand requests.

use anyhow::Result;

use super::{
    calls::{Called, Load, Question, statuses},
    chance::Bounds,
    market::{CUSTOMERS, Lab, Market, example},
};
use crate::{
    screen::{Claim, Facts, Row},
    stage::Stage,
};

const LAB: Lab = Lab { name: "canary", file: example!("lab-canary.yaml"), of: CUSTOMERS };

/// Requests, by a few callers at a time.
const LOAD: Load = Load { calls: 1000, callers: 8 };

/// The new version's share, as the file has it.
const SHARE: f64 = 0.1;

struct Canary {
    /// The nodes of the waypoint and of both versions.
    nodes: [String; 3],
    calls: Vec<Called>,
}

/// Counts who answers.
pub(super) fn play(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let mut market = Market::open(stage)?;
    let nodes = [market.node("waypoint")?, market.node("customers-v1")?, market.node("customers-v2")?];
    let calls = market.under(&LAB, |market| market.call(CUSTOMERS, LOAD, |_| Question::path("/")))?;
    Ok(Box::new(Canary { nodes, calls }))
}

impl Canary {
    fn of(&self, version: &str) -> usize {
        self.calls.iter().filter(|call| call.version() == version).count()
    }

    fn bounds(&self) -> Bounds {
        Bounds::of(u32::try_from(self.calls.len()).unwrap_or(u32::MAX), SHARE)
    }
}

impl Facts for Canary {
    fn rows(&self) -> Vec<Row> {
        let [waypoint, v1, v2] = &self.nodes;
        vec![
            Row::fact("the way", format!("client on node-1, waypoint on {waypoint}, v1 on {v1}, v2 on {v2}")),
            Row::fact("weights", "90 to v1, 10 to v2"),
            Row::fact("expected at v2", self.bounds().text()),
            Row::fact("counted", format!("{} at v1, {} at v2", self.of("v1"), self.of("v2"))),
            Row::fact("answers", statuses(&self.calls)),
        ]
    }

    fn claims(&self) -> Vec<Claim> {
        let (old, new) = (self.of("v1"), self.of("v2"));
        let whole = self.calls.len() == LOAD.calls && old + new == LOAD.calls;
        vec![
            Claim::new("every request was answered by one of both versions", whole),
            Claim::new("the new version's share is what its weight says", self.bounds().hold(new)),
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

    fn canary(new: usize) -> Canary {
        let version = |number| if number < new { "v2" } else { "v1" };
        Canary {
            nodes: Default::default(),
            calls: (0..LOAD.calls).map(|number| answered(version(number), 1)).collect(),
        }
    }

    #[test]
    fn a_tenth_bears_out_every_claim_and_other_shares_do_not() {
        assert!(failing(&canary(100)).is_empty());
        assert!(failing(&canary(80)).is_empty());
        for wrong in [0, 10, 500, 900, 1000] {
            assert_eq!(failing(&canary(wrong)), [1], "{wrong}");
        }
    }

    #[test]
    fn a_request_that_nobody_answered_fails() {
        let mut canary = canary(100);
        canary.calls[500] = status(503, 1);
        assert_eq!(failing(&canary), [0]);
        canary.calls.truncate(10);
        assert_eq!(failing(&canary)[0], 0);
    }
}
