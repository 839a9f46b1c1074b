//! A shadow: it is slow and always fails, so that whoever had to do with it would notice.

use std::time::Duration;

use anyhow::Result;

use super::{
    calls::{Called, Load, Question, statuses},
    market::{CUSTOMERS, Lab, Market, example},
};
use crate::{
    figures::median,
    screen::{Claim, Facts, Row},
    stage::Stage,
};

const LAB: Lab = Lab { name: "mirror", file: example!("lab-mirror.yaml"), of: CUSTOMERS };

const LOAD: Load = Load { calls: 100, callers: 4 };

/// How long the shadow takes for an answer, as its manifest has it.
const SHADOW: Duration = Duration::from_millis(300);

struct Mirrored {
    calls: Vec<Called>,
    /// Requests at the shadow.
    shadowed: u64,
    /// Requests at both pods of the service.
    served: u64,
}

/// Counts at the shadow and at the service.
pub(super) fn play(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let mirrored = Market::open(stage)?.under(&LAB, |market| {
        let served = |market: &Market<'_>| {
            Ok::<_, anyhow::Error>(market.settled("customers-v1")? + market.settled("customers-v2")?)
        };
        let before = (market.settled("audit-v1")?, served(market)?);
        let calls = market.call(CUSTOMERS, LOAD, |_| Question::path("/"))?;
        let after = (market.settled("audit-v1")?, served(market)?);
        Ok(Mirrored { calls, shadowed: after.0 - before.0, served: after.1 - before.1 })
    })?;
    Ok(Box::new(mirrored))
}

impl Mirrored {
    fn of_service(&self) -> usize {
        let of_service =
            |call: &&Called| call.described().is_some_and(|it| it.name.starts_with("customers-"));
        self.calls.iter().filter(of_service).count()
    }

    fn median_ms(&self) -> f64 {
        median(self.calls.iter().map(|call| call.took.as_secs_f64() * 1000.0))
    }
}

impl Facts for Mirrored {
    fn rows(&self) -> Vec<Row> {
        vec![
            Row::fact("the shadow", format!("fails always, after {} ms", SHADOW.as_millis())),
            Row::fact(
                "requests at the shadow",
                format!("expected {}; counted {}", LOAD.calls, self.shadowed),
            ),
            Row::fact("requests at the service", format!("expected {}; counted {}", LOAD.calls, self.served)),
            Row::fact("answers", format!("{}, {} by the service", statuses(&self.calls), self.of_service())),
            Row::fact("median of their times", format!("{:.1} ms", self.median_ms())),
        ]
    }

    fn claims(&self) -> Vec<Claim> {
        let wanted = LOAD.calls as u64;
        let by_service = self.calls.len() == LOAD.calls && self.of_service() == LOAD.calls;
        vec![
            Claim::new("the shadow got a copy of every request, once", self.shadowed == wanted),
            Claim::new("every answer is the service's, which had each request once", {
                by_service && self.served == wanted
            }),
            Claim::new("nobody waited for the shadow", {
                !self.calls.is_empty() && self.median_ms() < SHADOW.as_secs_f64() * 1000.0
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

    fn mirrored(took_ms: u64) -> Mirrored {
        Mirrored { calls: vec![answered("v1", took_ms); LOAD.calls], shadowed: 100, served: 100 }
    }

    #[test]
    fn a_shadow_that_misses_something_or_is_noticed_fails() {
        assert!(failing(&mirrored(3)).is_empty());
        assert_eq!(failing(&Mirrored { shadowed: 99, ..mirrored(3) }), [0]);
        assert_eq!(failing(&Mirrored { shadowed: 200, ..mirrored(3) }), [0]);
        assert_eq!(failing(&Mirrored { served: 101, ..mirrored(3) }), [1]);
        assert_eq!(failing(&mirrored(310)), [2]);
        let mut facts = mirrored(3);
        facts.calls[9] = status(503, 3);
        assert_eq!(failing(&facts), [1]);
    }
}
