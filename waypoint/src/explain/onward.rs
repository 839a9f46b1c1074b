//! What a rule does to a request that is let through, in the order in which it is done: faults, answers made here, the
//! split, what is changed, times and tries, copies; then each destination.

use std::time::Duration;

use common::config::routing::http::DirectResponse;
use common::config::routing::resilience::{AbortWith, Fault};
use common::config::routing::session::Carrier;
use common::config::routing::{HttpAction, Share};
use common::explain::Verdict;
use common::explain::connection::{Teller, together};
use http::HeaderMap;
use http::header::LOCATION;
use serde_json::json;

use super::towards::Towards;
use super::walk::Walk;
use super::words;
use crate::exchange::called::{Called, since_1970};
use crate::exchange::head::Head;
use crate::exchange::outgoing::Path;
use crate::exchange::{Onward, past_faults};
use crate::routes::{ConnectionRoute, Forward, RequestFacts, Rule, Target};
use crate::stages::respond::Answer;
use crate::stages::split;
use crate::stages::timeout::timeouts;

/// A request that is let through, and the rule it falls under.
pub(super) struct Onwards<'a, 'm> {
    pub(super) walk: &'a Walk<'m>,
    pub(super) called: &'a Called<'a>,
    pub(super) head: &'a Head,
    pub(super) facts: RequestFacts<'a>,
    /// The headers as rules see them.
    pub(super) before: &'a HeaderMap,
    pub(super) rule: Option<&'a Rule>,
}

impl Onwards<'_, '_> {
    /// Tells the rest of the walk.
    pub(super) fn tell(&self, teller: &mut Teller<'_>) -> Verdict {
        let Some(rule) = self.rule else {
            self.times(None, teller);
            return self.towards(None).tell(teller);
        };
        if let Some(filter) = rule.route.missing_filter() {
            return Verdict::Refused(format!("500: there is no HTTPFaultFilter {filter}"));
        }
        let fault = self.faults(rule.route.fault(), teller);
        if let Some((Share::ALL, answer)) = fault {
            return Verdict::Answered(answer);
        }
        let verdict = self.past_faults(rule, teller);
        match fault {
            Some((share, answer)) => {
                Verdict::Depends(format!("{share} are answered {answer}; of all others: {}", word(&verdict)))
            }
            None => verdict,
        }
    }

    /// The odds of a fault, and with what how many are answered.
    fn faults(&self, fault: &Fault, teller: &mut Teller<'_>) -> Option<(Share, String)> {
        if let Some(delay) = &fault.delay {
            let for_ms = u64::try_from(delay.fixed.as_millis()).unwrap_or(u64::MAX);
            let facts = json!({ "delayMs": for_ms, "perMillion": delay.share.per_million() });
            let says = format!("{} are delayed by {}", delay.share, words::duration(delay.fixed));
            teller.told.tell("fault", says, None, facts);
        }
        let abort = fault.abort.as_ref()?;
        let with = match abort.with {
            AbortWith::Http(status) => format!("{}: fault filter abort", status.as_u16()),
            AbortWith::Grpc(status) => format!("gRPC status {status}: fault filter abort"),
        };
        let facts = json!({ "abort": with, "perMillion": abort.share.per_million() });
        teller.told.tell("fault", format!("{} are answered {with}", abort.share), None, facts);
        (abort.share > Share::NONE).then_some((abort.share, with))
    }

    fn past_faults(&self, rule: &Rule, teller: &mut Teller<'_>) -> Verdict {
        let of_session = self.called.of_session(&rule.route, self.facts.headers);
        let destinations = match of_session {
            Some(kept) => vec![(kept, 1.0)],
            None => split::parts(&rule.route),
        };
        if let Some(refused) = self.authorizer(rule, teller) {
            return refused;
        }
        self.session(rule, of_session.is_some(), teller);
        let nowhere = Path { rule: Some(rule), chosen: None };
        if destinations.is_empty() {
            return self.ended(past_faults(&nowhere, rule, &self.facts), rule, None, teller);
        }
        self.times(Some(rule), teller);
        self.mirrors(rule.route.mirrors(), teller);
        let mut verdicts = Vec::with_capacity(destinations.len());
        for (chosen, part) in destinations {
            verdicts.push(self.to(rule, chosen, part, teller));
        }
        match together(&verdicts, false) {
            Some(Verdict::Depends(_)) if verdicts.iter().any(|it| *it != verdicts[0]) => {
                Verdict::Depends("the destinations of the split differ".to_owned())
            }
            verdict => verdict.unwrap_or(Verdict::Admitted),
        }
    }

    /// The authorizer of the rule; a refusal where there is none to ask.
    fn authorizer(&self, rule: &Rule, teller: &mut Teller<'_>) -> Option<Verdict> {
        let (_, asked) = rule.route.external_auth()?;
        let named = target(asked, self.facts.port);
        if asked.missing.is_none() && self.called.cluster(Some(asked)).is_ok() {
            let says = format!("authorizer {named} is asked first; what follows is if it agrees");
            teller.told.say("authorizer", says, None);
            return None;
        }
        teller.told.say("authorizer", format!("{named} cannot be asked, and nothing is sent without"), None);
        Some(Verdict::Refused(format!("500: there is no authorizer {named}")))
    }

    fn session(&self, rule: &Rule, is_kept: bool, teller: &mut Teller<'_>) {
        let Some(session) = rule.route.session() else { return };
        let what = match &session.carrier {
            Carrier::Cookie { name, .. } => format!("the cookie {name}"),
            Carrier::Header(name) => format!("the header {name}"),
        };
        let asked = session.kept(self.facts.headers, since_1970()).map(|it| it.endpoint);
        let says = match (asked, is_kept) {
            (Some(endpoint), true) => format!("{what} keeps it to {endpoint}, whatever the weights say"),
            (Some(endpoint), false) => {
                format!("{what} names {endpoint}, which is nobody of the route any more")
            }
            (None, _) => format!("{what} will keep what follows to the endpoint that is picked now"),
        };
        teller.told.tell("session", says, None, json!({ "endpoint": asked }));
    }

    /// One destination of a route.
    fn to(&self, rule: &Rule, chosen: Forward<'_>, part: f64, teller: &mut Teller<'_>) -> Verdict {
        let path = Path { rule: Some(rule), chosen: Some(chosen) };
        let says = format!("{} to {}", words::percent(part), target(chosen.target, self.facts.port));
        let facts = json!({
            "part": part,
            "host": chosen.target.host,
            "port": chosen.target.port(self.facts.port),
            "subset": chosen.target.subset,
        });
        teller.told.tell("split", says, None, facts);
        match past_faults(&path, rule, &self.facts) {
            Onward::Sent(_) => {}
            ended => return self.ended(ended, rule, Some(chosen.target), teller),
        }
        match path.outgoing(self.head.clone(), (self.facts.port, self.facts.source)) {
            Err(why) => return Verdict::Refused(format!("500: {why}")),
            Ok(mut outgoing) => {
                let (was, is) = (self.facts.target(), outgoing.target.as_str());
                if was != is || *outgoing.authority != *self.facts.authority {
                    let says = format!("{}{was} becomes {}{is}", self.facts.authority, outgoing.authority);
                    let facts = json!({ "authority": outgoing.authority, "target": is });
                    teller.told.tell("rewrite", says, None, facts);
                }
                let mut before = self.before.clone();
                for name in [http::header::HOST, http::header::CONNECTION, http::header::UPGRADE] {
                    before.remove(&name);
                    outgoing.headers.remove(name);
                }
                let changes = words::changes(&before, &outgoing.headers);
                if !changes.is_empty() {
                    teller.told.tell("headers", changes.join(", "), None, json!({ "request": changes }));
                }
            }
        }
        self.mirrors(chosen.mirrors(), teller);
        self.towards(Some(chosen.target)).tell(teller)
    }

    fn towards<'t>(&'t self, target: Option<&'t Target>) -> Towards<'t> {
        Towards {
            sight: self.walk.sight,
            called: self.called,
            target,
            waypoint: &self.walk.stand.pod,
            original: self.walk.original,
        }
    }

    /// A request that is answered here, or an end that sends nothing on.
    fn ended(
        &self,
        onward: Onward<'_>,
        rule: &Rule,
        target: Option<&Target>,
        teller: &mut Teller<'_>,
    ) -> Verdict {
        let (what, answer) = match (onward, rule.route.action()) {
            (Onward::Preflight(answer), _) => ("cors", answer),
            (Onward::Answered(answer), HttpAction::Redirect(_)) => ("redirect", answer),
            (Onward::Answered(answer), HttpAction::Respond(stated)) => {
                return self.directly(stated, answer.status.as_u16(), teller);
            }
            (Onward::Answered(answer), _) => {
                let missing = target.and_then(|it| it.missing);
                let why = missing.map_or("the route leads to nobody", |it| it.meaning());
                return Verdict::Refused(format!("{}: {why}", answer.status.as_u16()));
            }
            (Onward::Sent(_), _) => return Verdict::Admitted,
        };
        let says = told(&answer);
        teller.told.tell(what, says.clone(), None, json!({ "status": answer.status.as_u16() }));
        Verdict::Answered(says)
    }

    fn directly(&self, stated: &DirectResponse, status: u16, teller: &mut Teller<'_>) -> Verdict {
        let says = format!("{status} with {} bytes of body", stated.body.len());
        teller.told.tell("answer", says.clone(), None, json!({ "status": status }));
        Verdict::Answered(says)
    }

    /// Times and tries.
    fn times(&self, rule: Option<&Rule>, teller: &mut Teller<'_>) {
        let times = timeouts(rule.map(|it| &*it.route), &self.facts);
        let shown = |it: Option<Duration>| it.map_or_else(|| "none".to_owned(), words::duration);
        let whose = if times.of_client { ", as the client says" } else { "" };
        let per_try =
            times.per_try.map(|it| format!(", {} each try", words::duration(it))).unwrap_or_default();
        let ms = |it: Option<Duration>| it.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX));
        let facts = json!({ "totalMs": ms(times.total), "perTryMs": ms(times.per_try) });
        teller.told.tell("timeout", format!("{}{whose}{per_try}", shown(times.total)), None, facts);
        let path = Path { rule, chosen: None };
        let Some(retry) = path.retries() else {
            return teller.told.tell("retries", "none", None, json!({ "retries": 0 }));
        };
        let mut when: Vec<String> = retry.conditions().iter().map(ToString::to_string).collect();
        when.extend(retry.statuses().iter().map(|it| it.as_u16().to_string()));
        let says = format!(
            "up to {} after {}, waiting up to {} at first",
            retry.retries,
            when.join(", "),
            words::duration(retry.first_backoff())
        );
        teller.told.tell("retries", says, None, json!({ "retries": retry.retries, "after": when }));
    }

    fn mirrors<'t>(&self, all: impl Iterator<Item = (Share, &'t Target)>, teller: &mut Teller<'_>) {
        for (share, mirror) in all {
            let there = self.called.cluster(Some(mirror)).is_ok();
            let lost = if there { "" } else { ", which is not there and gets none" };
            let says = format!("{share} are copied to {}{lost}", target(mirror, self.facts.port));
            let facts = json!({ "host": mirror.host, "perMillion": share.per_million(), "exists": there });
            teller.told.tell("mirror", says, None, facts);
        }
    }
}

/// A destination as it is named.
fn target(target: &Target, called: u16) -> String {
    let subset = target.subset.as_ref().map(|it| format!(" subset {it}")).unwrap_or_default();
    format!("{}:{}{subset}", target.host, target.port(called))
}

fn told(answer: &Answer) -> String {
    let to = answer.headers.get(LOCATION).and_then(|it| it.to_str().ok());
    match to {
        Some(to) => format!("{} to {to}", answer.status.as_u16()),
        None => answer.status.as_u16().to_string(),
    }
}

fn word(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Admitted => "admitted".to_owned(),
        Verdict::Answered(with) => format!("answered {with}"),
        Verdict::Depends(on) => format!("depends: {on}"),
        Verdict::Refused(why) => format!("refused {why}"),
    }
}

/// A connection of bytes to its destinations.
pub(super) fn connection(
    walk: &Walk<'_>,
    called: &Called<'_>,
    route: Option<&ConnectionRoute>,
    teller: &mut Teller<'_>,
) -> Verdict {
    let towards = |target| Towards {
        sight: walk.sight,
        called,
        target,
        waypoint: &walk.stand.pod,
        original: walk.original,
    };
    let Some(route) = route else { return towards(None).tell(teller) };
    let total: u64 = route.forwards().map(|(weight, _)| u64::from(weight)).sum();
    let mut verdicts = Vec::new();
    for (weight, to) in route.forwards() {
        let part = if total == 0 { 1.0 } else { f64::from(weight) / total as f64 };
        let says = format!("{} to {}", words::percent(part), target(to, walk.original.port()));
        teller.told.tell("split", says, None, json!({ "part": part, "host": to.host, "subset": to.subset }));
        verdicts.push(towards(Some(to)).tell(teller));
    }
    together(&verdicts, false).unwrap_or_else(|| Verdict::Refused("the route leads to nobody".to_owned()))
}
