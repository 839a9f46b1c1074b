//! Routes that look at headers: one exactly, in the middle of a chain of services; one by an expression.

use anyhow::Result;
use harness::report::Described;

use super::{
    calls::{Called, Load, Question, statuses},
    market::{CUSTOMERS, FRONTEND, Lab, Market, called, example},
};
use crate::{
    screen::{Claim, Facts, Row},
    stage::Stage,
};

const HEADERS: Lab = Lab { name: "headers", file: example!("lab-headers.yaml"), of: CUSTOMERS };
const USER_AGENT: Lab = Lab { name: "user-agent", file: example!("lab-user-agent.yaml"), of: CUSTOMERS };

/// Requests of each kind.
const EACH: usize = 40;

/// Values of `user`, and the version that each is to reach.
const USERS: [(&str, &str); 4] = [("debug", "v2"), ("ann", "v1"), ("debugger", "v1"), ("", "v1")];

/// Browsers, and the version that each is to reach.
const BROWSERS: [(&str, &str); 4] = [
    ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "v2"),
    ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/139.0 Safari/537.36", "v1"),
    ("curl/8.14", "v1"),
    ("Firefox", "v1"),
];

/// Calls with one value of a header.
struct Sent {
    value: &'static str,
    wanted: &'static str,
    calls: Vec<Called>,
    /// The versions of `customers` that were reached, one for each call that got so far.
    reached: Vec<String>,
}

struct Matched {
    header: &'static str,
    sent: Vec<Sent>,
    /// Calls that came to the end of the chain, where there is one.
    at_the_end: Option<usize>,
}

/// Calls the front of the chain as several users.
pub(super) fn play_headers(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let mut market = Market::open(stage)?;
    let mut at_the_end = 0;
    let sent = market.under(&HEADERS, |market| {
        let each = USERS.into_iter().map(|(value, wanted)| {
            let question = Question::path("/");
            let question = if value.is_empty() { question } else { question.with("user", value) };
            let calls = market.call(FRONTEND, Load::in_turn(EACH), |_| question.clone())?;
            let customers: Vec<_> = calls.iter().filter_map(|call| called(&call.described()?)).collect();
            at_the_end += customers.iter().filter(|it| called(it).is_some()).count();
            Ok(Sent { value, wanted, reached: versions(customers), calls })
        });
        each.collect::<Result<Vec<_>>>()
    })?;
    Ok(Box::new(Matched { header: "user", sent, at_the_end: Some(at_the_end) }))
}

/// Calls with several browsers.
pub(super) fn play_user_agent(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let mut market = Market::open(stage)?;
    let sent = market.under(&USER_AGENT, |market| {
        let each = BROWSERS.into_iter().map(|(value, wanted)| {
            let question = Question::path("/").with("user-agent", value);
            let calls = market.call(CUSTOMERS, Load::in_turn(EACH), |_| question.clone())?;
            Ok(Sent { value, wanted, reached: versions(calls.iter().filter_map(Called::described)), calls })
        });
        each.collect::<Result<Vec<_>>>()
    })?;
    Ok(Box::new(Matched { header: "user-agent", sent, at_the_end: None }))
}

fn versions(servers: impl IntoIterator<Item = Described>) -> Vec<String> {
    servers.into_iter().map(|server| server.version).collect()
}

impl Sent {
    fn at(&self, version: &str) -> usize {
        self.reached.iter().filter(|reached| *reached == version).count()
    }

    fn is_as_wanted(&self) -> bool {
        self.at(self.wanted) == EACH && self.calls.len() == EACH
    }
}

impl Facts for Matched {
    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        if let Some(count) = self.at_the_end {
            rows.push(Row::fact(
                "the way",
                "client, frontend, customers, ratings; each call by the waypoint",
            ));
            rows.push(Row::fact("came to the end of it", format!("{count} of {}", EACH * self.sent.len())));
        }
        for sent in &self.sent {
            let value = if sent.value.is_empty() { "none" } else { sent.value };
            rows.push(Row::fact(self.header, value));
            let counted = format!(
                "expected {EACH} at {}; counted {} at v1, {} at v2 ({})",
                sent.wanted,
                sent.at("v1"),
                sent.at("v2"),
                statuses(&sent.calls)
            );
            rows.push(Row::fact("", counted));
        }
        rows
    }

    fn claims(&self) -> Vec<Claim> {
        let of = |version| self.sent.iter().filter(move |sent| sent.wanted == version);
        let mut claims = vec![
            Claim::new(
                format!("whose {} matches reached v2, every time", self.header),
                of("v2").all(Sent::is_as_wanted),
            ),
            Claim::new("everybody else reached v1, every time", of("v1").all(Sent::is_as_wanted)),
        ];
        if let Some(count) = self.at_the_end {
            let all = EACH * self.sent.len();
            claims.push(Claim::new("every call came to the end of the chain", count == all));
        }
        claims
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labs::{calls::made::answered, failing};

    fn matched() -> Matched {
        let sent = |(value, wanted): (&'static str, &'static str)| Sent {
            value,
            wanted,
            calls: vec![answered("v1", 1); EACH],
            reached: vec![wanted.to_owned(); EACH],
        };
        Matched {
            header: "user",
            sent: USERS.into_iter().map(sent).collect(),
            at_the_end: Some(EACH * USERS.len()),
        }
    }

    fn after(change: impl FnOnce(&mut Matched)) -> Vec<usize> {
        let mut matched = matched();
        change(&mut matched);
        failing(&matched)
    }

    #[test]
    fn requests_where_they_belong_bear_out_every_claim() {
        assert!(after(|_| {}).is_empty());
    }

    #[test]
    fn one_request_that_went_astray_or_got_lost_fails() {
        assert_eq!(after(|matched| matched.sent[0].reached[7] = "v1".into()), [0]);
        assert_eq!(after(|matched| matched.sent[2].reached[7] = "v2".into()), [1]);
        assert_eq!(after(|matched| _ = matched.sent[3].reached.pop()), [1]);
        assert_eq!(after(|matched| matched.at_the_end = Some(EACH)), [2]);
    }
}
