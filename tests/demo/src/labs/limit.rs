//! A rate limit: more calls than are stated, as fast as one caller can, and again after a pause.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{
    calls::{Called, Load, Question, count, statuses},
    market::{Lab, Market, RATINGS, Told, example},
};
use crate::{
    screen::{Claim, Facts, Row},
    stage::{Stage, marker, pause},
};

const LAB: Lab = Lab { name: "rate-limit", file: example!("lab-rate-limit.yaml"), of: RATINGS };

/// Calls one after the other, as fast as they come.
const CALLS: usize = 100;

/// So many at once after a pause, as the lab's file states.
const BURST: usize = 5;

/// So many a second, as the lab's file states.
const PER_SECOND: f64 = 2.0;

/// What the caller waits before it comes again: longer than it takes to have the burst once more.
const PAUSE: Duration = Duration::from_secs(3);

struct Limited {
    calls: Vec<Called>,
    /// For all of them.
    took: Duration,
    told: Vec<Told>,
    /// Requests of them that came to the service.
    served: u64,
    later: Vec<Called>,
}

/// Calls without a pause, and after one.
pub(super) fn play(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let mark = marker("rate-limit")?;
    let limited = Market::open(stage)?.under(&LAB, |market| {
        let before = market.settled("ratings-v1")?;
        let path = format!("/limited?{mark}");
        let began = Instant::now();
        let calls = market.call(RATINGS, Load::in_turn(CALLS), |_| Question::path(&path))?;
        let took = began.elapsed();
        let told = market.told(&mark, CALLS)?;
        let served = market.settled("ratings-v1")? - before;
        pause(PAUSE)?;
        let later = market.call(RATINGS, Load::in_turn(BURST), |_| Question::path("/limited"))?;
        Ok(Limited { calls, took, told, served, later })
    })?;
    Ok(Box::new(limited))
}

impl Limited {
    fn turned_away(&self) -> impl Iterator<Item = &Called> {
        self.calls.iter().filter(|call| call.status() == 429)
    }

    /// What may have been let through in the time that it took.
    fn most(&self) -> f64 {
        BURST as f64 + PER_SECOND * self.took.as_secs_f64()
    }
}

impl Facts for Limited {
    fn rows(&self) -> Vec<Row> {
        let flagged = self.told.iter().filter(|told| told.has("RL")).count();
        vec![
            Row::fact("stated", format!("{BURST} at once and {PER_SECOND} a second of each caller")),
            Row::fact("calls", format!("{CALLS} within {} ms", self.took.as_millis())),
            Row::fact("got", statuses(&self.calls)),
            Row::fact("let through at most", format!("{:.1}", self.most())),
            Row::fact("flag RL in the log", format!("{flagged} of them")),
            Row::fact("requests at the service", self.served.to_string()),
            Row::fact(format!("{BURST} more after {} s", PAUSE.as_secs()), statuses(&self.later)),
        ]
    }

    fn claims(&self) -> Vec<Claim> {
        let (ok, away) = (count(&self.calls, 200), count(&self.calls, 429));
        let says_when = self.turned_away().all(|call| call.header("retry-after") == Some("1"));
        let flagged = self.told.iter().filter(|told| told.status == 429 && told.has("RL")).count();
        vec![
            Claim::new("the burst got through, and no more than burst and rate allow", {
                ok >= BURST && ok as f64 <= self.most() && ok + away == CALLS
            }),
            Claim::new("the others were told when to come again", says_when && away > 0),
            Claim::new("the log says of each of them that a limit was reached (RL)", flagged == away),
            Claim::new("the service saw only those that got through", self.served == ok as u64),
            Claim::new("after a pause the burst is there again", {
                self.later.len() == BURST && count(&self.later, 200) == BURST
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

    fn limited(ok: usize) -> Limited {
        let mut away = status(429, 1);
        let when = ("retry-after".to_owned(), "1".to_owned());
        away.reply.as_mut().unwrap().headers.push(when);
        let told = Told { status: 429, flags: "RL".into(), route: "rate-limit".into() };
        Limited {
            calls: [vec![answered("v1", 1); ok], vec![away; CALLS - ok]].concat(),
            took: Duration::from_millis(600),
            told: vec![told; CALLS - ok],
            served: ok as u64,
            later: vec![answered("v1", 1); BURST],
        }
    }

    fn after(change: impl FnOnce(&mut Limited)) -> Vec<usize> {
        let mut facts = limited(6);
        change(&mut facts);
        failing(&facts)
    }

    #[test]
    fn a_limit_that_lets_through_too_much_or_too_little_fails() {
        assert!(failing(&limited(5)).is_empty() && failing(&limited(6)).is_empty());
        assert_eq!(failing(&limited(4)), [0]);
        assert_eq!(failing(&limited(7)), [0]);
        assert_eq!(failing(&limited(CALLS)), [0, 1]);
    }

    #[test]
    fn each_claim_fails_with_its_fact() {
        assert_eq!(after(|facts| facts.calls[99] = status(429, 1)), [1]);
        assert_eq!(after(|facts| facts.told[0].flags = "-".into()), [2]);
        assert_eq!(after(|facts| facts.served = 7), [3]);
        assert_eq!(after(|facts| facts.later[4] = status(429, 1)), [4]);
    }
}
