//! Every difference that is meant, by the name that `waypoint/src/routes/mod.rs` gives it, and what it may explain.
//!
//! Each explains as little as it can: the request or the rule that brings it about, what Ebb then does, and the fields
//! that may differ for it. Those that one route table cannot show are listed with the reason.

use std::collections::BTreeSet;

use super::{
    outcome::{Field, Outcome},
    tables::{Action, RedirectPort, Request, Rule, Table},
};

/// The module whose documentation names them.
const NAMED_IN: &str = include_str!("../../../../waypoint/src/routes/mod.rs");

/// What it was that two proxies were asked, and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The routes.
    pub table: &'a Table,
    /// The request.
    pub request: &'a Request,
    /// Through Ebb.
    pub ebb: &'a Outcome,
    /// Through Envoy.
    pub envoy: &'a Outcome,
    /// What they disagree in.
    pub fields: &'a BTreeSet<Field>,
}

/// A difference that is meant.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// Its name.
    pub name: &'static str,
    /// Whether it brings about that a field differs.
    owns: fn(&Case<'_>, &Field) -> bool,
}

/// Those that a route table shows. Each has to be seen in a run of the whole suite.
pub const SHOWN: [Difference; 18] = [
    Difference { name: "path-refused", owns: path_refused },
    Difference { name: "path-hex-case", owns: path_hex_case },
    Difference { name: "path-asterisk", owns: path_asterisk },
    Difference { name: "authority-refused", owns: authority_refused },
    Difference { name: "cookies-joined", owns: cookies_joined },
    Difference { name: "user-agent-apart", owns: user_agent_apart },
    Difference { name: "source-conditions", owns: source_conditions },
    Difference { name: "match-gateways", owns: match_gateways },
    Difference { name: "retries-without-attempts", owns: retries_without_attempts },
    Difference { name: "retry-headers-ignored", owns: retry_headers_ignored },
    Difference { name: "retry-avoids-hosts", owns: retry_avoids_hosts },
    Difference { name: "redirect-port", owns: redirect_port },
    Difference { name: "redirect-two-ports", owns: redirect_two_ports },
    Difference { name: "cors-nothing-asked", owns: cors_nothing_asked },
    Difference { name: "redirect-grpc", owns: redirect_grpc },
    Difference { name: "rewrite-refused", owns: rewrite_refused },
    Difference { name: "original-host-of-destinations", owns: original_host },
    Difference { name: "formatter-commands", owns: formatter_commands },
];

/// Those that it does not, and why.
pub const NOT_SHOWN: [(&str, &str); 13] = [
    ("consumer-routes", "the tables are made of VirtualServices"),
    ("gateway-routes-last", "the tables are made of VirtualServices"),
    ("grpc-routes-for-grpc", "the tables are made of VirtualServices"),
    ("route-retries", "the tables are made of VirtualServices"),
    ("closest-host", "takes VirtualServices of several hosts, which istiod merges before Envoy sees them"),
    ("delegate-both", "istiod merges delegates before Envoy sees them"),
    ("delegate-mirrors", "istiod merges delegates before Envoy sees them"),
    ("delegate-timeout-zero", "istiod merges delegates before Envoy sees them"),
    ("tls-order", "of connections, not of requests"),
    ("mirror-draws", "by chance"),
    ("timeout-from-head", "of time, which is not compared"),
    ("stream-idle", "of time, which is not compared"),
    ("mirror-address", "of mirrors, which are not compared"),
];

/// The differences that explain a disagreement together, field by field; `None` where a field is left over.
#[must_use]
pub fn explanation(case: &Case<'_>) -> Option<BTreeSet<&'static str>> {
    let owner = |field| SHOWN.iter().find(|it| (it.owns)(case, field)).map(|it| it.name);
    case.fields.iter().map(owner).collect()
}

impl<'a> Case<'a> {
    fn rule(&self, tag: Option<&str>) -> Option<&'a Rule> {
        self.table.rules.iter().find(|it| Some(it.tag.as_str()) == tag)
    }

    /// The rule that both took.
    fn common_rule(&self) -> Option<&'a Rule> {
        if self.ebb.rule() == self.envoy.rule() { self.rule(self.ebb.rule()) } else { None }
    }

    /// Ebb answered by itself, with this status.
    fn refused(&self, status: u16) -> bool {
        self.ebb.status == status && self.ebb.tries.is_empty() && !self.ebb.headers.contains_key("x-rule")
    }
}

fn path_refused(case: &Case<'_>, _: &Field) -> bool {
    let path = case.request.path().to_ascii_lowercase();
    let ambiguous = ["//", "\\", "%2f", "%5c", "%2e", "%00", "%c0", "#"].iter().any(|it| path.contains(it))
        || path.split('/').any(|it| matches!(it, "." | ".."));
    ambiguous && case.refused(400)
}

fn path_hex_case(case: &Case<'_>, field: &Field) -> bool {
    let has_escapes = |path: &str| path.contains('%');
    if !has_escapes(case.request.path()) {
        return false;
    }
    let written_alike = |one: &str, other: &str| one.eq_ignore_ascii_case(other) && one != other;
    // A regex may go by the digits.
    let by_regex = |rule: &Rule| rule.rewrite.as_ref().is_some_and(|it| it.regex.is_some());
    let sent_alike = case.common_rule().is_some_and(by_regex)
        || case
            .ebb
            .tries
            .iter()
            .zip(&case.envoy.tries)
            .all(|(ebb, envoy)| ebb.target == envoy.target || written_alike(&ebb.target, &envoy.target));
    let shows_path = matches!(field, Field::Target)
        || is_sent(field, "x-envoy-original-path")
        || is_told(field, "location");
    let asks_for_escapes = case.table.rules.iter().flat_map(|it| &it.matches).any(|it| match &it.path {
        Some(super::tables::Text::Exact(path) | super::tables::Text::Prefix(path)) => has_escapes(path),
        _ => false,
    });
    sent_alike && shows_path || asks_for_escapes && case.ebb.rule() != case.envoy.rule()
}

fn path_asterisk(case: &Case<'_>, _: &Field) -> bool {
    case.request.target == "*" && case.envoy.status == 404 && case.envoy.tries.is_empty()
}

fn authority_refused(case: &Case<'_>, _: &Field) -> bool {
    let port = case.request.authority.split_once(':').map(|(_, port)| port);
    port.is_some_and(|it| it.parse::<u16>().is_err()) && case.refused(400)
}

fn cookies_joined(case: &Case<'_>, field: &Field) -> bool {
    let joined = |tried: &super::outcome::Try| tried.headers.get("cookie").is_none_or(|it| it.len() == 1);
    is_repeated(case, field, "cookie") && case.ebb.tries.iter().all(joined)
}

fn user_agent_apart(case: &Case<'_>, field: &Field) -> bool {
    let apart = |tried: &super::outcome::Try| tried.headers.get("user-agent").is_none_or(|it| it.len() > 1);
    is_repeated(case, field, "user-agent") && case.ebb.tries.iter().all(apart)
}

/// The client sent a header more than once, and it is what differs, or a rule asks for it.
fn is_repeated(case: &Case<'_>, field: &Field, name: &str) -> bool {
    let asks = |rule: &Rule| {
        rule.matches.iter().any(|it| it.headers.iter().chain(&it.without).any(|(asked, _)| *asked == name))
    };
    let sent = case.request.headers.iter().filter(|(it, _)| *it == name).count();
    sent > 1 && (is_sent(field, name) || case.table.rules.iter().any(asks))
}

fn original_host(case: &Case<'_>, field: &Field) -> bool {
    let one_of_several = |rule: &Rule| match &rule.action {
        Action::Forward(all) => all.iter().filter(|it| it.weight > 0).count() > 1,
        _ => false,
    };
    case.common_rule().is_some_and(one_of_several) && is_sent(field, "x-envoy-original-host")
}

fn source_conditions(case: &Case<'_>, _: &Field) -> bool {
    let asks = |rule: &Rule| rule.matches.iter().any(|it| it.source_app == Some("client"));
    case.rule(case.ebb.rule()).is_some_and(asks) && case.ebb.rule() != case.envoy.rule()
}

fn match_gateways(case: &Case<'_>, _: &Field) -> bool {
    let elsewhere = |rule: &Rule| rule.matches.iter().any(|it| it.gateway.is_some_and(|it| it != "mesh"));
    case.rule(case.envoy.rule()).is_some_and(elsewhere) && case.ebb.rule() != case.envoy.rule()
}

fn retries_without_attempts(case: &Case<'_>, _: &Field) -> bool {
    let silent = |rule: &Rule| rule.retries.as_ref().is_some_and(|it| it.attempts.is_none());
    let (ours, theirs) = (case.ebb.tries.len(), case.envoy.tries.len());
    case.common_rule().is_some_and(silent) && theirs == 1 && (2..=3).contains(&ours)
}

fn retry_headers_ignored(case: &Case<'_>, _: &Field) -> bool {
    let asks = ["x-envoy-retry-on", "x-envoy-max-retries", "x-envoy-upstream-rq-timeout-ms"];
    asks.iter().any(|it| case.request.header(it).is_some())
        && case.common_rule().is_some_and(|it| it.retries.is_none())
        && case.ebb.tries.len() == 1
}

fn retry_avoids_hosts(case: &Case<'_>, field: &Field) -> bool {
    let is_of_later_tries = match field {
        Field::Endpoint(number) => *number > 0,
        Field::Body => true,
        field => is_told(field, "x-of-app") || is_told(field, "content-length"),
    };
    let stays = case.ebb.tries.windows(2).all(|two| two[0].endpoint == two[1].endpoint);
    case.table.hash.is_some() && case.ebb.tries.len() > 1 && stays && is_of_later_tries
}

/// A header of the request as it was sent.
fn is_sent(field: &Field, name: &str) -> bool {
    matches!(field, Field::Sent(it) if it == name)
}

/// A header of the answer.
fn is_told(field: &Field, name: &str) -> bool {
    matches!(field, Field::Header(it) if it == name)
}

fn redirect_port(case: &Case<'_>, field: &Field) -> bool {
    let leaves_out = |rule: &Rule| match &rule.action {
        Action::Redirect(to) => match to.port {
            Some(RedirectPort::OfScheme) => true,
            Some(RedirectPort::Number(port)) => port == if to.scheme == Some("https") { 443 } else { 80 },
            Some(RedirectPort::OfRequest) => {
                case.request.port == if to.scheme == Some("https") { 443 } else { 80 }
            }
            None => false,
        },
        _ => false,
    };
    case.common_rule().is_some_and(leaves_out) && is_told(field, "location")
}

fn redirect_two_ports(case: &Case<'_>, field: &Field) -> bool {
    let states_both = |rule: &Rule| match &rule.action {
        Action::Redirect(to) => to.port.is_some() && to.authority.as_ref().is_some_and(|it| it.contains(':')),
        _ => false,
    };
    case.common_rule().is_some_and(states_both) && is_told(field, "location")
}

fn cors_nothing_asked(case: &Case<'_>, field: &Field) -> bool {
    const ALLOWED: &str = "access-control-allow-headers";
    let allows_any = |rule: &Rule| rule.cors.as_ref().is_some_and(|it| it.headers.contains(&"*"));
    case.table.rules.iter().any(allows_any)
        && case.request.header("access-control-request-headers").is_none()
        && !case.ebb.headers.contains_key(ALLOWED)
        && case.envoy.headers.get(ALLOWED).is_some_and(|it| it == &[""])
        && is_told(field, ALLOWED)
}

fn redirect_grpc(case: &Case<'_>, _: &Field) -> bool {
    let is_redirect = |rule: &Rule| matches!(rule.action, Action::Redirect(_));
    case.request.header("content-type").is_some_and(|it| it.starts_with("application/grpc"))
        && case.rule(case.ebb.rule()).is_some_and(is_redirect)
        && (300..400).contains(&case.ebb.status)
        && case.envoy.headers.contains_key("grpc-status")
}

fn rewrite_refused(case: &Case<'_>, _: &Field) -> bool {
    let rewrites = |rule: &Rule| rule.rewrite.as_ref().is_some_and(|it| it.regex.is_some());
    let is_path = |target: &str| {
        target.starts_with('/') && target.bytes().all(|it| it.is_ascii_graphic() && it != b'#')
    };
    case.ebb.status == 500
        && case.ebb.tries.is_empty()
        && case.rule(case.envoy.rule()).is_none_or(rewrites)
        && case.table.rules.iter().any(rewrites)
        && case.envoy.tries.iter().all(|it| !is_path(&it.target))
}

fn formatter_commands(case: &Case<'_>, field: &Field) -> bool {
    let Some(rule) = case.common_rule() else { return false };
    let request = &rule.headers.request;
    let response = &rule.headers.response;
    let commands = |name: &str, all: &super::tables::Operations| {
        all.set.iter().chain(&all.add).any(|(it, value)| *it == name && value.contains('%'))
    };
    match field {
        Field::Sent(name) => commands(name, request),
        Field::Header(name) => commands(name, response),
        _ => false,
    }
}

/// The names that the module's documentation lists.
#[must_use]
pub fn named() -> BTreeSet<&'static str> {
    let lists = NAMED_IN.lines().filter_map(|line| line.strip_prefix("//! - `"));
    lists.filter_map(|rest| rest.split('`').next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_that_is_named_is_shown_or_said_not_to_be_and_no_other() {
        let listed: Vec<_> = SHOWN.iter().map(|it| it.name).chain(NOT_SHOWN.iter().map(|it| it.0)).collect();
        let once: BTreeSet<_> = listed.iter().copied().collect();
        assert_eq!(once.len(), listed.len(), "each is listed once");
        assert_eq!(once, named());
    }
}
