//! Who may ask for what: by method and path, and by tokens. Each case is one request; what is refused must not have reached
//! a server.

use anyhow::Result;

use super::{
    calls::{Called, Load, Question, statuses},
    market::{CUSTOMERS, Lab, Market, example},
};
use crate::{
    screen::{Claim, Facts, Row},
    stage::Stage,
};

const POLICY: Lab = Lab { name: "policy", file: example!("lab-policy.yaml"), of: CUSTOMERS };
const JWT: Lab = Lab { name: "jwt", file: example!("lab-jwt.yaml"), of: CUSTOMERS };

/// The Deployments behind the service.
const SERVERS: [&str; 2] = ["customers-v1", "customers-v2"];

/// Of `ann`, a shopper, valid until 2100. The key that signed these was thrown away.
const ANN: &str = concat!(
    "Bearer eyJhbGciOiJFUzI1NiIsImtpZCI6Im1hcmtldC0xIn0.",
    "eyJpc3MiOiJtYXJrZXQuZXhhbXBsZSIsInN1YiI6ImFubiIsImdyb3VwIjoic2hvcHBlciIsImV4cCI6NDEwMjQ0NDgwMH0",
    ".",
    "9ZjtavpVlrVLzWAihEuOqQgJhi3_V_G-eidgdo8mliOJSQLFNV4I7Qf5dUvQJuoudkoaKCl_87RFzUmOgjB6yQ",
);
/// Of `otto`, of the staff.
const OTTO: &str = concat!(
    "Bearer eyJhbGciOiJFUzI1NiIsImtpZCI6Im1hcmtldC0xIn0.",
    "eyJpc3MiOiJtYXJrZXQuZXhhbXBsZSIsInN1YiI6Im90dG8iLCJncm91cCI6InN0YWZmIiwiZXhwIjo0MTAyNDQ0ODAwfQ",
    ".",
    "w_Fq6VU8NFEodp9ndS6JQ9k7xoY6qd57S7RmX-vk9o4O0SqqfroU5ruaStw-Lqn9G0hXit10Ijh2Mx_VwUqlaA",
);
/// Of `ann` as one of the staff, until 2017.
const EXPIRED: &str = concat!(
    "Bearer eyJhbGciOiJFUzI1NiIsImtpZCI6Im1hcmtldC0xIn0.",
    "eyJpc3MiOiJtYXJrZXQuZXhhbXBsZSIsInN1YiI6ImFubiIsImdyb3VwIjoic3RhZmYiLCJleHAiOjE1MDAwMDAwMDB9",
    ".",
    "cuP1S4tnT03c5taKvxpGboCZ1jqSa4EwvX2JCob4TlCG0C-WPkO6oq004yAGt-fMhBrZfnuxnx9Pq_hVHPEFNg",
);
/// What `otto` has, but signed by somebody else.
const FORGED: &str = concat!(
    "Bearer eyJhbGciOiJFUzI1NiIsImtpZCI6Im1hcmtldC0xIn0.",
    "eyJpc3MiOiJtYXJrZXQuZXhhbXBsZSIsInN1YiI6Im90dG8iLCJncm91cCI6InN0YWZmIiwiZXhwIjo0MTAyNDQ0ODAwfQ",
    ".",
    "LMTBHJ6ZalHSKrmrqv6HZPgUaX69jGj0UBoYMBCYLIQ0m_7GGI7NBdkK7cMsqqY1qp82q0yuWQMe0VoAcUNGHw",
);
/// Of an issuer that nobody knows.
const STRANGER: &str = concat!(
    "Bearer eyJhbGciOiJFUzI1NiIsImtpZCI6Im90aGVyIn0.",
    "eyJpc3MiOiJlbHNld2hlcmUuZXhhbXBsZSIsInN1YiI6Im90dG8iLCJncm91cCI6InN0YWZmIiwiZXhwIjo0MTAyNDQ0ODAwfQ",
    ".",
    "Tj1Na0XlqGy_LYsToixS5MTJ0zG74SXVtRXqCjktHynMSoMpOpcEvKXZ1ycDBx1cunP-GXkibBStujbufnWI2g",
);

/// A request, and what is to become of it.
#[derive(Clone, Debug)]
struct Case {
    what: &'static str,
    question: Question,
    status: u16,
    /// The version that is to answer; empty for any.
    version: &'static str,
    /// What the server is to be told of who asks.
    customer: Option<&'static str>,
}

/// One case and its answer.
#[derive(Clone, Debug)]
struct Asked {
    case: Case,
    called: Called,
}

struct Guarded {
    rule: &'static str,
    asked: Vec<Asked>,
    /// Requests that reached the servers.
    served: u64,
}

/// Calls by method and path.
pub(super) fn play_policy(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let rule = "callers read /customer, the frontend adds, nobody sees what is internal";
    let case = |what, question, status| Case { what, question, status, version: "", customer: None };
    let path = |path: &str| Question::path(path);
    let cases = vec![
        case("GET /customer", path("/customer"), 200),
        case("GET /customer/7?all=1", path("/customer/7?all=1"), 200),
        case("POST /customer, by the client", path("/customer").by("POST"), 403),
        case("DELETE /customer/7", path("/customer/7").by("DELETE"), 403),
        case("GET /customers", path("/customers"), 403),
        case("GET /customer/7/internal", path("/customer/7/internal"), 403),
        case("GET /customer/internal/a/b", path("/customer/internal/a/b"), 403),
        case("GET /customer/7/%69nternal", path("/customer/7/%69nternal"), 403),
        case("GET /customer/../internal", path("/customer/../internal"), 400),
    ];
    play(stage, &POLICY, rule, cases)
}

/// Calls with tokens and without.
pub(super) fn play_jwt(stage: &mut Stage) -> Result<Box<dyn Facts>> {
    let rule = "a token of market.example; for /staff one with group=staff, which leads to v2";
    let case = |what, token: &'static str, path: &'static str, status| {
        let question = Question::path(path);
        let question = if token.is_empty() { question } else { question.with("authorization", token) };
        Case { what, question, status, version: "", customer: None }
    };
    let of = |case: Case, version, customer| Case { version, customer: Some(customer), ..case };
    // Whoever says who they are by the header that claims are told in is not believed.
    let lying = case("ann, who says that she is otto", ANN, "/", 200);
    let lying = Case { question: lying.question.with("x-customer", "otto"), ..lying };
    let cases = vec![
        case("no token", "", "/", 403),
        of(case("ann", ANN, "/", 200), "v1", "ann"),
        of(lying, "v1", "ann"),
        case("ann asks for /staff", ANN, "/staff", 403),
        of(case("otto asks for /staff", OTTO, "/staff", 200), "v2", "otto"),
        case("an expired token", EXPIRED, "/", 401),
        case("a token signed by another key", FORGED, "/", 401),
        case("a token of another issuer", STRANGER, "/", 401),
    ];
    play(stage, &JWT, rule, cases)
}

fn play(stage: &mut Stage, lab: &Lab, rule: &'static str, cases: Vec<Case>) -> Result<Box<dyn Facts>> {
    let mut market = Market::open(stage)?;
    let guarded = market.under(lab, |market| {
        let served = || SERVERS.iter().map(|server| market.settled(server)).sum::<Result<u64>>();
        let before = served()?;
        let called =
            market.call(CUSTOMERS, Load::in_turn(cases.len()), |number| cases[number].question.clone())?;
        let asked = cases.iter().cloned().zip(called).map(|(case, called)| Asked { case, called }).collect();
        Ok(Guarded { rule, asked, served: served()? - before })
    })?;
    Ok(Box::new(guarded))
}

impl Asked {
    fn is_as_wanted(&self) -> bool {
        self.called.status() == self.case.status
    }

    /// Whether the right server answered and was told the truth of who asks.
    fn is_told(&self) -> bool {
        let case = &self.case;
        let Some(customer) = case.customer else { return true };
        self.called.described().is_some_and(|it| {
            it.version == case.version && it.headers.get("x-customer").is_some_and(|told| told == customer)
        })
    }
}

impl Guarded {
    fn allowed(&self) -> usize {
        self.asked.iter().filter(|it| it.case.status == 200).count()
    }
}

impl Facts for Guarded {
    fn rows(&self) -> Vec<Row> {
        let called: Vec<_> = self.asked.iter().map(|it| it.called.clone()).collect();
        let mut rows = vec![Row::fact("rule", self.rule)];
        rows.extend(self.asked.iter().map(|it| {
            Row::fact(it.case.what, format!("{}, expected {}", it.called.status(), it.case.status))
        }));
        rows.push(Row::fact("answers", statuses(&called)));
        rows.push(Row::fact("reached servers", format!("{} of {}", self.served, self.asked.len())));
        rows
    }

    fn claims(&self) -> Vec<Claim> {
        let reached = usize::try_from(self.served).is_ok_and(|served| served == self.allowed());
        vec![
            Claim::new("each was allowed or refused as stated", self.asked.iter().all(Asked::is_as_wanted)),
            Claim::new("nothing that was refused reached a server", reached),
            Claim::new(
                "servers are told whose request it is, and not what it says itself",
                self.asked.iter().all(Asked::is_told),
            ),
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

    fn guarded() -> Guarded {
        let case = |status, customer| Case {
            what: "",
            question: Question::path("/"),
            status,
            version: "v1",
            customer,
        };
        let told = described("v1", 1, |it| drop(it.headers.insert("x-customer".into(), "ann".into())));
        Guarded {
            rule: "",
            asked: vec![
                Asked { case: case(200, Some("ann")), called: told },
                Asked { case: case(403, None), called: status(403, 1) },
            ],
            served: 1,
        }
    }

    #[test]
    fn what_is_allowed_arrives_and_what_is_refused_does_not() {
        assert!(failing(&guarded()).is_empty());
        let mut open = guarded();
        open.asked[1].called = status(200, 1);
        assert_eq!(failing(&open), [0]);
        let leaked = Guarded { served: 2, ..guarded() };
        assert_eq!(failing(&leaked), [1]);
        let mut believed = guarded();
        believed.asked[0].case.customer = Some("otto");
        assert_eq!(failing(&believed), [2]);
    }
}
