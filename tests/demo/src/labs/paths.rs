//! Routes that look at the path: one rewrites it, one sends the caller elsewhere.

use anyhow::{Context, Result};

use super::{
    calls::{Called, Load, Question},
    market::{CUSTOMERS, Lab, Market, example},
};
use crate::{
    screen::{Claim, Facts, Row},
    stage::Stage,
};

const REWRITE: Lab = Lab { name: "rewrite", file: example!("lab-rewrite.yaml"), of: CUSTOMERS };
const REDIRECT: Lab = Lab { name: "redirect", file: example!("lab-redirect.yaml"), of: CUSTOMERS };

/// Paths asked for, and those that the service is to see.
const REWRITTEN: [(&str, &str); 4] = [
    ("/legacy/orders/7?full=1", "/api/orders/7?full=1"),
    ("/legacy/", "/api/"),
    ("/legacy", "/legacy"),
    ("/orders/legacy/7", "/orders/legacy/7"),
];

/// The page that moved, where it is now, and one that did not move.
const MOVED: (&str, &str, &str) = ("/old-prices", "/prices", "/old-prices/2025");

struct Rewritten {
    calls: Vec<Called>,
}

/// Asks for old and new paths.
pub(super) fn play_rewrite(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let mut market = Market::open(stage)?;
    let load = Load::in_turn(REWRITTEN.len());
    let calls = market
        .under(&REWRITE, |market| market.call(CUSTOMERS, load, |at| Question::path(REWRITTEN[at].0)))?;
    Ok(Box::new(Rewritten { calls }))
}

impl Rewritten {
    /// The path asked for, the one wanted at the service, and the one it saw.
    fn each(&self) -> impl Iterator<Item = (&str, &str, String)> {
        REWRITTEN.into_iter().zip(&self.calls).map(|((asked, wanted), call)| {
            let seen = call.described().map(|it| it.path);
            (asked, wanted, seen.unwrap_or_else(|| format!("nothing, status {}", call.status())))
        })
    }
}

impl Facts for Rewritten {
    fn rows(&self) -> Vec<Row> {
        let row =
            |(asked, wanted, seen)| Row::fact(asked, format!("expected {wanted}; the service saw {seen}"));
        self.each().map(row).collect()
    }

    fn claims(&self) -> Vec<Claim> {
        let right = |moves: bool| {
            let mut of = self.each().filter(move |(asked, wanted, _)| (asked != wanted) == moves).peekable();
            of.peek().is_some() && of.all(|(_, wanted, seen)| wanted == seen)
        };
        vec![
            Claim::new("what begins with /legacy/ came to the service as /api/, with its query", right(true)),
            Claim::new("every other path came as it was", right(false)),
        ]
    }
}

struct Redirected {
    moved: Called,
    followed: Called,
    other: Called,
    /// Requests that the service had, of all three.
    served: u64,
}

/// Asks for the page that moved, follows, and asks for one that did not move.
pub(super) fn play_redirect(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let mut market = Market::open(stage)?;
    let redirected = market.under(&REDIRECT, |market| {
        let served =
            || Ok::<_, anyhow::Error>(market.served("customers-v1")? + market.served("customers-v2")?);
        let before = served()?;
        let ask = |path: &str| {
            let called = market.call(CUSTOMERS, Load::in_turn(1), |_| Question::path(path))?;
            called.into_iter().next().context("one call was made")
        };
        let moved = ask(MOVED.0)?;
        let location = moved.header("location").unwrap_or_default();
        // A whole URL or only a path; whose host is ours in either case.
        let path = location.strip_prefix("http://").and_then(|rest| rest.find('/').map(|at| &rest[at..]));
        let followed = ask(path.unwrap_or(if location.is_empty() { "/" } else { location }))?;
        let other = ask(MOVED.2)?;
        Ok(Redirected { moved, followed, other, served: served()? - before })
    })?;
    Ok(Box::new(redirected))
}

impl Facts for Redirected {
    fn rows(&self) -> Vec<Row> {
        let location = self.moved.header("location").unwrap_or("none");
        let seen = |call: &Called| call.described().map_or_else(|| "nothing".to_owned(), |it| it.path);
        vec![
            Row::fact(
                MOVED.0,
                format!("expected 301 to {}; got {} to {location}", MOVED.1, self.moved.status()),
            ),
            Row::fact(
                "followed",
                format!("{}, the service saw {}", self.followed.status(), seen(&self.followed)),
            ),
            Row::fact(MOVED.2, format!("{}, the service saw {}", self.other.status(), seen(&self.other))),
            Row::fact("requests at the service", format!("expected 2 of 3; counted {}", self.served)),
        ]
    }

    fn claims(&self) -> Vec<Claim> {
        let location = self.moved.header("location").unwrap_or_default();
        let sent_there = self.moved.status() == 301 && location == format!("http://market{}", MOVED.1);
        let saw = |call: &Called, path| call.described().is_some_and(|it| it.path == path);
        vec![
            Claim::new("the page that moved is answered with its new place", sent_there),
            Claim::new("who follows gets there, and the service never saw the old path", {
                saw(&self.followed, MOVED.1) && self.served == 2
            }),
            Claim::new("a longer path is not the page that moved", saw(&self.other, MOVED.2)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labs::{
        calls::made::{described, status},
        failing,
    };

    fn saw(path: &str) -> Called {
        described("v1", 1, |it| it.path = path.to_owned())
    }

    #[test]
    fn a_path_that_came_otherwise_fails() {
        let mut facts = Rewritten { calls: REWRITTEN.map(|(_, wanted)| saw(wanted)).to_vec() };
        assert!(failing(&facts).is_empty());
        facts.calls[0] = saw("/api/orders/7");
        assert_eq!(failing(&facts), [0]);
        facts.calls[2] = saw("/api");
        assert_eq!(failing(&facts), [0, 1]);
        assert_eq!(failing(&Rewritten { calls: Vec::new() }), [0, 1]);
    }

    fn redirected() -> Redirected {
        let mut moved = status(301, 1);
        let location = ("location".to_owned(), "http://market/prices".to_owned());
        moved.reply.as_mut().unwrap().headers.push(location);
        Redirected { moved, followed: saw(MOVED.1), other: saw(MOVED.2), served: 2 }
    }

    #[test]
    fn a_redirect_elsewhere_or_of_too_much_fails() {
        assert!(failing(&redirected()).is_empty());
        assert_eq!(failing(&Redirected { moved: status(302, 1), ..redirected() }), [0]);
        assert_eq!(failing(&Redirected { moved: status(301, 1), ..redirected() }), [0]);
        assert_eq!(failing(&Redirected { followed: saw("/"), ..redirected() }), [1]);
        assert_eq!(failing(&Redirected { served: 3, ..redirected() }), [1]);
        assert_eq!(failing(&Redirected { other: status(301, 1), ..redirected() }), [2]);
    }
}
