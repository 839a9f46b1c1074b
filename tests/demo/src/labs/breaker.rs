//! A circuit breaker: one connection and one place to wait, and ten callers at the same moment.

use std::time::Duration;

use anyhow::Result;

use super::{
    calls::{Called, Load, Question, count, statuses},
    market::{Lab, Market, RATINGS, Told, example},
};
use crate::{
    screen::{Claim, Facts, Row},
    stage::{Stage, marker},
};

const LAB: Lab = Lab { name: "breaker", file: example!("lab-breaker.yaml"), of: RATINGS };

/// Callers at the same moment.
const CROWD: usize = 10;

/// How long each of their requests takes at the service, so that all are there before the first is done.
const BUSY: Duration = Duration::from_millis(1000);

/// At most so many of them find a place: one on the connection, one waiting for it.
const PLACES: usize = 2;

/// Calls afterwards, one after the other.
const LATER: usize = 10;

struct Broken {
    crowd: Vec<Called>,
    told: Vec<Told>,
    /// Requests of the crowd that came to the service.
    served: u64,
    later: Vec<Called>,
}

/// Calls all at once, then one after the other.
pub(super) fn play(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let mark = marker("breaker")?;
    let broken = Market::open(stage)?.under(&LAB, |market| {
        let before = market.settled("ratings-v1")?;
        let path = format!("/delay/{}?{mark}", BUSY.as_millis());
        let crowd = market.call(RATINGS, Load::at_once(CROWD), |_| Question::path(&path))?;
        let told = market.told(&mark, CROWD)?;
        let served = market.settled("ratings-v1")? - before;
        let later = market.call(RATINGS, Load::in_turn(LATER), |_| Question::path("/"))?;
        Ok(Broken { crowd, told, served, later })
    })?;
    Ok(Box::new(broken))
}

impl Broken {
    fn turned_away(&self) -> impl Iterator<Item = &Called> {
        self.crowd.iter().filter(|call| call.status() == 503)
    }

    fn flagged(&self) -> usize {
        self.told.iter().filter(|told| told.status == 503 && told.has("UO")).count()
    }
}

impl Facts for Broken {
    fn rows(&self) -> Vec<Row> {
        let slowest = self.turned_away().map(|call| call.took.as_millis()).max().unwrap_or_default();
        vec![
            Row::fact("expected of 10 at once", "1 or 2 x 200 (one connection, one waiting), the others 503"),
            Row::fact("got", format!("{}; the slowest 503 after {slowest} ms", statuses(&self.crowd))),
            Row::fact("flag UO in the log", format!("{} of them", self.flagged())),
            Row::fact("requests at the service", self.served.to_string()),
            Row::fact("one after the other then", statuses(&self.later)),
        ]
    }

    fn claims(&self) -> Vec<Claim> {
        let (ok, away) = (count(&self.crowd, 200), count(&self.crowd, 503));
        let at_once = self.turned_away().all(|call| call.took < BUSY);
        let says_so = self.turned_away().all(|call| call.header("x-envoy-overloaded") == Some("true"));
        vec![
            Claim::new("no more got through than there are places, and somebody did", {
                (1..=PLACES).contains(&ok) && ok + away == CROWD
            }),
            Claim::new("the others were turned away at once, and told why", at_once && says_so),
            Claim::new("the log says of each of them that the breaker was open (UO)", self.flagged() == away),
            Claim::new("the service saw only those that got through", self.served == ok as u64),
            Claim::new("when the crowd is gone everybody gets through", {
                self.later.len() == LATER && count(&self.later, 200) == LATER
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

    fn broken(ok: usize) -> Broken {
        let mut away = status(503, 4);
        let why = ("x-envoy-overloaded".to_owned(), "true".to_owned());
        away.reply.as_mut().unwrap().headers.push(why);
        let told = Told { status: 503, flags: "UO".into(), route: "breaker".into() };
        Broken {
            crowd: [vec![answered("v1", 1005); ok], vec![away; CROWD - ok]].concat(),
            told: vec![told; CROWD - ok],
            served: ok as u64,
            later: vec![answered("v1", 2); LATER],
        }
    }

    fn after(change: impl FnOnce(&mut Broken)) -> Vec<usize> {
        let mut facts = broken(2);
        change(&mut facts);
        failing(&facts)
    }

    #[test]
    fn a_breaker_that_lets_through_too_much_or_nothing_fails() {
        assert!(failing(&broken(1)).is_empty() && failing(&broken(2)).is_empty());
        assert_eq!(failing(&broken(0)), [0]);
        assert_eq!(failing(&broken(3)), [0]);
        assert_eq!(failing(&broken(10)), [0]);
    }

    #[test]
    fn each_claim_fails_with_its_fact() {
        assert_eq!(after(|facts| facts.crowd[9].took = Duration::from_millis(1200)), [1]);
        assert_eq!(after(|facts| facts.crowd[9] = status(503, 4)), [1]);
        assert_eq!(after(|facts| facts.told[0].flags = "-".into()), [2]);
        assert_eq!(after(|facts| facts.served = 3), [3]);
        assert_eq!(after(|facts| facts.later[4] = status(503, 1)), [4]);
    }
}
