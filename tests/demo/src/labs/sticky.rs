//! Sessions by cookie: who has none is given one, and comes back to the same pod with it.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{
    calls::{Called, Load, Question, statuses},
    market::{CUSTOMERS, Lab, Market, example},
};
use crate::{
    screen::{Claim, Facts, Row},
    stage::Stage,
};

const LAB: Lab = Lab { name: "sticky", file: example!("lab-sticky.yaml"), of: CUSTOMERS };

/// Sessions.
const SESSIONS: usize = 100;

/// How often each comes back.
const RETURNS: usize = 3;

/// The cookie and how long it is good for in seconds, as the file has it.
const COOKIE: (&str, u32) = ("session", 60);

/// Both pods get sessions unless one of them has as good as all of the ring: with three quarters of it at most, every
/// one of 100 sessions falls to the same pod with a chance below this.
const ALL_ON_ONE: &str = "7e-13";

struct Sticky {
    /// The first call of each session, without a cookie.
    first: Vec<Called>,
    /// The others, session by session.
    later: Vec<Vec<Called>>,
}

/// Begins sessions and comes back to each of them.
pub(super) fn play(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let sticky = Market::open(stage)?.under(&LAB, |market| {
        let load = Load { calls: SESSIONS, callers: 4 };
        // The cookie that is given says which connection it was given on, so that one connection is one session.
        let first = market.call(CUSTOMERS, load, |_| Question::path("/").apart())?;
        let load = Load { calls: SESSIONS * RETURNS, callers: 4 };
        let with_cookie = |number: usize| {
            let cookie = first[number / RETURNS].header("set-cookie").unwrap_or_default();
            Question::path("/").with("cookie", cookie.split(';').next().unwrap_or_default())
        };
        let later = market.call(CUSTOMERS, load, with_cookie)?;
        Ok(Sticky { first, later: later.chunks(RETURNS).map(<[Called]>::to_vec).collect() })
    })?;
    Ok(Box::new(sticky))
}

/// Which pod answered; none where nobody did.
fn pod(call: &Called) -> Option<String> {
    call.described().map(|it| it.name)
}

impl Sticky {
    /// Sessions at each pod.
    fn spread(&self) -> BTreeMap<String, usize> {
        let mut spread = BTreeMap::new();
        self.first.iter().filter_map(pod).for_each(|pod| *spread.entry(pod).or_default() += 1);
        spread
    }

    fn given(&self) -> usize {
        let (name, seconds) = COOKIE;
        let good = |call: &&Called| {
            let cookie = call.header("set-cookie").unwrap_or_default();
            let valid = format!("Max-Age={seconds}");
            cookie.starts_with(&format!("{name}=")) && cookie.split("; ").any(|part| part == valid)
        };
        self.first.iter().filter(good).count()
    }

    /// Returns that came to the pod of their session.
    fn returned(&self) -> usize {
        let sessions = self.first.iter().zip(&self.later);
        let same = |(first, later): (&Called, &Vec<Called>)| {
            let home = pod(first);
            later.iter().filter(|call| home.is_some() && pod(call) == home).count()
        };
        sessions.map(same).sum()
    }

    fn given_again(&self) -> usize {
        self.later.iter().flatten().filter(|call| call.header("set-cookie").is_some()).count()
    }
}

impl Facts for Sticky {
    fn rows(&self) -> Vec<Row> {
        let example = self.first.first().and_then(|call| call.header("set-cookie")).unwrap_or("none");
        let spread: Vec<_> = self.spread().iter().map(|(pod, count)| format!("{count} at {pod}")).collect();
        vec![
            Row::fact("a first answer sets", example),
            Row::fact("sessions", spread.join(", ")),
            Row::fact("their first answers", statuses(&self.first)),
            Row::fact("came back to their pod", {
                format!("expected {0} of {0}; counted {1}", SESSIONS * RETURNS, self.returned())
            }),
        ]
    }

    fn claims(&self) -> Vec<Claim> {
        let whole = self.first.len() == SESSIONS && self.given() == SESSIONS;
        vec![
            Claim::new("who came without the cookie was given it, for a minute", whole),
            Claim::new("who came with it got to the same pod, every time", {
                self.returned() == SESSIONS * RETURNS && self.given_again() == 0
            }),
            Claim::new(
                format!("both pods have sessions (by chance one has all with less than {ALL_ON_ONE})"),
                self.spread().len() == 2,
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labs::{calls::made::answered, failing};

    fn first(version: &str) -> Called {
        let mut call = answered(version, 1);
        let cookie = ("set-cookie".to_owned(), "session=\"6fe0\"; Max-Age=60; HttpOnly".to_owned());
        call.reply.as_mut().unwrap().headers.push(cookie);
        call
    }

    fn sticky() -> Sticky {
        let version = |number: usize| if number.is_multiple_of(3) { "v2" } else { "v1" };
        Sticky {
            first: (0..SESSIONS).map(|number| first(version(number))).collect(),
            later: (0..SESSIONS).map(|number| vec![answered(version(number), 1); RETURNS]).collect(),
        }
    }

    fn after(change: impl FnOnce(&mut Sticky)) -> Vec<usize> {
        let mut facts = sticky();
        change(&mut facts);
        failing(&facts)
    }

    #[test]
    fn sessions_that_stay_bear_out_every_claim() {
        assert!(after(|_| {}).is_empty());
    }

    #[test]
    fn each_claim_fails_with_its_fact() {
        assert_eq!(after(|facts| facts.first[1] = answered("v1", 1)), [0]);
        assert_eq!(after(|facts| facts.later[1][2] = answered("v2", 1)), [1]);
        assert_eq!(after(|facts| facts.later[1][2] = first("v1")), [1]);
        assert_eq!(
            after(|facts| {
                facts.first = vec![first("v1"); SESSIONS];
                facts.later = vec![vec![answered("v1", 1); RETURNS]; SESSIONS];
            }),
            [2]
        );
    }

    #[test]
    fn the_chance_that_is_printed_is_the_one_that_is_meant() {
        let all_on_one: f64 = 2.0 * 0.75_f64.powi(100);
        assert!(all_on_one < ALL_ON_ONE.parse().unwrap(), "{all_on_one:e}");
    }
}
