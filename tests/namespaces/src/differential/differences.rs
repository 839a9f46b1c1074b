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
    explains: fn(&Case<'_>) -> bool,
}

/// Those that a route table shows. Each has to be seen in a run of the whole suite.
pub const SHOWN: [Difference; 18] = [
    Difference { name: "path-refused", explains: path_refused },
    Difference { name: "path-hex-case", explains: path_hex_case },
    Difference { name: "path-asterisk", explains: path_asterisk },
    Difference { name: "authority-refused", explains: authority_refused },
    Difference { name: "cookies-joined", explains: cookies_joined },
    Difference { name: "user-agent-apart", explains: user_agent_apart },
    Difference { name: "source-conditions", explains: source_conditions },
    Difference { name: "match-gateways", explains: match_gateways },
    Difference { name: "retries-without-attempts", explains: retries_without_attempts },
    Difference { name: "retry-headers-ignored", explains: retry_headers_ignored },
    Difference { name: "retry-avoids-hosts", explains: retry_avoids_hosts },
    Difference { name: "redirect-port", explains: redirect_port },
    Difference { name: "redirect-two-ports", explains: redirect_two_ports },
    Difference { name: "cors-nothing-asked", explains: cors_nothing_asked },
    Difference { name: "redirect-grpc", explains: redirect_grpc },
    Difference { name: "rewrite-refused", explains: rewrite_refused },
    Difference { name: "original-host-of-destinations", explains: original_host },
    Difference { name: "formatter-commands", explains: formatter_commands },
];

/// Those that it does not, and why.
pub const NOT_SHOWN: [(&str, &str); 8] = [
    ("closest-host", "takes VirtualServices of several hosts, which istiod merges before Envoy sees them"),
    ("claims", "Envoy sees no claim here either, as there is no filter that verifies tokens"),
    ("delegate-both", "istiod merges delegates before Envoy sees them"),
    ("delegate-mirrors", "istiod merges delegates before Envoy sees them"),
    ("delegate-timeout-zero", "istiod merges delegates before Envoy sees them"),
    ("tls-order", "of connections, not of requests"),
    ("mirror-draws", "by chance"),
    ("mirror-address", "of mirrors, which are not compared"),
];

/// The difference that explains a disagreement.
#[must_use]
pub fn explanation(case: &Case<'_>) -> Option<&'static str> {
    SHOWN.iter().find(|it| (it.explains)(case)).map(|it| it.name)
}

impl<'a> Case<'a> {
    fn rule(&self, tag: Option<&str>) -> Option<&'a Rule> {
        self.table.rules.iter().find(|it| Some(it.tag.as_str()) == tag)
    }

    /// The rule that both took.
    fn common_rule(&self) -> Option<&'a Rule> {
        if self.ebb.rule() == self.envoy.rule() { self.rule(self.ebb.rule()) } else { None }
    }

    /// Whether they disagree in nothing but these.
    fn only(&self, permitted: impl Fn(&Field) -> bool) -> bool {
        self.fields.iter().all(permitted)
    }

    /// Ebb answered by itself, with this status.
    fn refused(&self, status: u16) -> bool {
        self.ebb.status == status && self.ebb.tries.is_empty() && self.ebb.headers.get("x-rule").is_none()
    }
}

fn path_refused(case: &Case<'_>) -> bool {
    let path = case.request.path().to_ascii_lowercase();
    let ambiguous = ["//", "\\", "%2f", "%5c", "%2e", "%00", "%c0", "#"].iter().any(|it| path.contains(it))
        || path.split('/').any(|it| matches!(it, "." | ".."));
    ambiguous && case.refused(400)
}

fn path_hex_case(case: &Case<'_>) -> bool {
    let has_escapes = |path: &str| path.contains('%');
    if !has_escapes(case.request.path()) {
        return false;
    }
    let written_alike = |one: &str, other: &str| one.eq_ignore_ascii_case(other) && one != other;
    let sent_alike = case.ebb.tries.iter().zip(&case.envoy.tries).all(|(ebb, envoy)| {
        ebb.target == envoy.target || written_alike(&ebb.target, &envoy.target)
    });
    let shows_path = |field: &Field| {
        matches!(field, Field::Target)
            || matches!(field, Field::Sent(name) if name == "x-envoy-original-path")
            || matches!(field, Field::Header(name) if name == "location")
    };
    let asks_for_escapes = case.table.rules.iter().flat_map(|it| &it.matches).any(|it| match &it.path {
        Some(super::tables::Text::Exact(path) | super::tables::Text::Prefix(path)) => has_escapes(path),
        _ => false,
    });
    sent_alike && case.only(shows_path) || asks_for_escapes && case.ebb.rule() != case.envoy.rule()
}

fn path_asterisk(case: &Case<'_>) -> bool {
    case.request.target == "*" && case.envoy.status == 404 && case.envoy.tries.is_empty()
}

fn authority_refused(case: &Case<'_>) -> bool {
    let port = case.request.authority.split_once(':').map(|(_, port)| port);
    port.is_some_and(|it| it.parse::<u16>().is_err()) && case.refused(400)
}

fn cookies_joined(case: &Case<'_>) -> bool {
    let joined = |tried: &super::outcome::Try| tried.headers.get("cookie").is_none_or(|it| it.len() == 1);
    is_repeated(case, "cookie") && case.ebb.tries.iter().all(joined)
}

fn user_agent_apart(case: &Case<'_>) -> bool {
    let apart = |tried: &super::outcome::Try| tried.headers.get("user-agent").is_none_or(|it| it.len() > 1);
    is_repeated(case, "user-agent") && case.ebb.tries.iter().all(apart)
}

/// The client sent a header more than once, and either nothing but it differs or a rule asks for it.
fn is_repeated(case: &Case<'_>, name: &str) -> bool {
    let asks = |rule: &Rule| {
        rule.matches.iter().any(|it| it.headers.iter().chain(&it.without).any(|(asked, _)| *asked == name))
    };
    let sent = case.request.headers.iter().filter(|(it, _)| *it == name).count();
    let alone = case.only(|field| matches!(field, Field::Sent(it) if it == name));
    sent > 1 && (alone || case.table.rules.iter().any(asks))
}

fn original_host(case: &Case<'_>) -> bool {
    let one_of_several = |rule: &Rule| match &rule.action {
        Action::Forward(all) => all.iter().filter(|it| it.weight > 0).count() > 1,
        _ => false,
    };
    let of_original = |field: &Field| matches!(field, Field::Sent(name) if name == "x-envoy-original-host");
    case.common_rule().is_some_and(one_of_several) && case.only(of_original)
}

fn source_conditions(case: &Case<'_>) -> bool {
    let asks = |rule: &Rule| rule.matches.iter().any(|it| it.source_app == Some("client"));
    case.rule(case.ebb.rule()).is_some_and(asks) && case.ebb.rule() != case.envoy.rule()
}

fn match_gateways(case: &Case<'_>) -> bool {
    let elsewhere = |rule: &Rule| rule.matches.iter().any(|it| it.gateway.is_some_and(|it| it != "mesh"));
    case.rule(case.envoy.rule()).is_some_and(elsewhere) && case.ebb.rule() != case.envoy.rule()
}

fn retries_without_attempts(case: &Case<'_>) -> bool {
    let silent = |rule: &Rule| rule.retries.as_ref().is_some_and(|it| it.attempts.is_none());
    let (ours, theirs) = (case.ebb.tries.len(), case.envoy.tries.len());
    case.common_rule().is_some_and(silent) && theirs == 1 && (2..=3).contains(&ours)
}

fn retry_headers_ignored(case: &Case<'_>) -> bool {
    let asks = ["x-envoy-retry-on", "x-envoy-max-retries", "x-envoy-upstream-rq-timeout-ms"];
    asks.iter().any(|it| case.request.header(it).is_some())
        && case.common_rule().is_some_and(|it| it.retries.is_none())
        && case.ebb.tries.len() == 1
}

fn retry_avoids_hosts(case: &Case<'_>) -> bool {
    let of_later_tries = |field: &Field| match field {
        Field::Endpoint(number) => *number > 0,
        Field::Body => true,
        Field::Header(name) => matches!(name.as_str(), "x-of-app" | "content-length"),
        _ => false,
    };
    let stays = case.ebb.tries.windows(2).all(|two| two[0].endpoint == two[1].endpoint);
    case.table.hash.is_some() && case.ebb.tries.len() > 1 && stays && case.only(of_later_tries)
}

fn of_location(field: &Field) -> bool {
    matches!(field, Field::Header(name) if name == "location")
}

fn redirect_port(case: &Case<'_>) -> bool {
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
    case.common_rule().is_some_and(leaves_out) && case.only(of_location)
}

fn redirect_two_ports(case: &Case<'_>) -> bool {
    let states_both = |rule: &Rule| match &rule.action {
        Action::Redirect(to) => to.port.is_some() && to.authority.as_ref().is_some_and(|it| it.contains(':')),
        _ => false,
    };
    case.common_rule().is_some_and(states_both) && case.only(of_location)
}

fn cors_nothing_asked(case: &Case<'_>) -> bool {
    const ALLOWED: &str = "access-control-allow-headers";
    let allows_any = |rule: &Rule| rule.cors.as_ref().is_some_and(|it| it.headers.contains(&"*"));
    case.table.rules.iter().any(allows_any)
        && case.request.header("access-control-request-headers").is_none()
        && case.ebb.headers.get(ALLOWED).is_none()
        && case.envoy.headers.get(ALLOWED).is_some_and(|it| it == &[""])
        && case.only(|field| matches!(field, Field::Header(name) if name == ALLOWED))
}

fn redirect_grpc(case: &Case<'_>) -> bool {
    let is_redirect = |rule: &Rule| matches!(rule.action, Action::Redirect(_));
    case.request.header("content-type") == Some("application/grpc")
        && case.rule(case.ebb.rule()).is_some_and(is_redirect)
        && (300..400).contains(&case.ebb.status)
        && case.envoy.headers.contains_key("grpc-status")
}

fn rewrite_refused(case: &Case<'_>) -> bool {
    let rewrites = |rule: &Rule| rule.rewrite.as_ref().is_some_and(|it| it.regex.is_some());
    let is_path = |target: &str| target.starts_with('/') && target.bytes().all(|it| it.is_ascii_graphic() && it != b'#');
    case.ebb.status == 500
        && case.ebb.tries.is_empty()
        && case.rule(case.envoy.rule()).is_none_or(rewrites)
        && case.table.rules.iter().any(rewrites)
        && case.envoy.tries.iter().all(|it| !is_path(&it.target))
}

fn formatter_commands(case: &Case<'_>) -> bool {
    let Some(rule) = case.common_rule() else { return false };
    let request = &rule.headers.request;
    let response = &rule.headers.response;
    let commands = |name: &str, all: &super::tables::Operations| {
        all.set.iter().chain(&all.add).any(|(it, value)| *it == name && value.contains('%'))
    };
    case.only(|field| match field {
        Field::Sent(name) => commands(name, request),
        Field::Header(name) => commands(name, response),
        _ => false,
    })
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
