//! Cross-origin requests: permission for a script of one origin to call another, as browsers ask for it.
//!
//! Only the browser enforces it. A request of an origin that has no permission is sent on all the same, and its answer
//! merely lacks the headers with which the browser would let the script see it.

use common::config::routing::cors::{CorsPolicy, Listed};
use common::config::routing::{HttpAction, StringMatch};
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::respond::Answer;
use crate::routes::{RequestFacts, Route};

/// What is done for a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Cors<'r> {
    /// Nothing.
    Nothing,
    /// It asks for permission, and this is the answer; it is not sent on.
    Preflight(Answer),
    /// Its answer will carry the permission.
    Granted(Grant<'r>),
}

/// A permission to be told with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant<'r> {
    policy: &'r CorsPolicy,
    origin: HeaderValue,
}

impl Grant<'_> {
    /// Tells the permission in the headers of an answer.
    pub fn tell(&self, response: &mut HeaderMap) {
        response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.origin.clone());
        tell_credentials(self.policy, response);
        set(response, ACCESS_CONTROL_EXPOSE_HEADERS, listed(&self.policy.expose));
    }
}

/// Decides about one request. Routes that redirect or answer by themselves grant nothing.
pub fn decide<'r>(route: &'r Route, facts: &RequestFacts<'_>) -> Cors<'r> {
    let forwards = matches!(route.action(), HttpAction::Forward(_));
    let Some(policy) = route.cors().filter(|_| forwards) else { return Cors::Nothing };
    let Some(origin) = facts.headers.get(ORIGIN).filter(|it| !it.is_empty()) else { return Cors::Nothing };
    let is_allowed = policy.origins.iter().any(|it| allows(it, origin));
    let asked = facts.headers.get(ACCESS_CONTROL_REQUEST_METHOD).filter(|it| !it.is_empty());
    match asked.filter(|_| facts.method == "OPTIONS") {
        Some(method) if is_allowed => Cors::Preflight(preflight(policy, Some(origin), method, facts.headers)),
        Some(method) if policy.ignore_unmatched => {
            Cors::Preflight(preflight(policy, None, method, facts.headers))
        }
        None if is_allowed => Cors::Granted(Grant { policy, origin: origin.clone() }),
        _ => Cors::Nothing,
    }
}

fn allows(condition: &StringMatch, origin: &HeaderValue) -> bool {
    condition.matches("*") || condition.matches(origin.as_bytes())
}

/// The answer to a preflight; without the origin it grants nothing.
fn preflight(
    policy: &CorsPolicy,
    origin: Option<&HeaderValue>,
    method: &HeaderValue,
    request: &HeaderMap,
) -> Answer {
    let mut answer = Answer::bare(StatusCode::OK);
    let told = &mut answer.headers;
    set(told, ACCESS_CONTROL_ALLOW_ORIGIN, origin.cloned());
    tell_credentials(policy, told);
    let methods = match &*policy.methods {
        [only] if **only == *"*" => Some(method.clone()),
        methods => joined(methods.iter().map(|it| &**it)),
    };
    set(told, ACCESS_CONTROL_ALLOW_METHODS, methods);
    let headers = match &policy.headers {
        Listed::Any => request.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
        names => listed(names),
    };
    set(told, ACCESS_CONTROL_ALLOW_HEADERS, headers);
    // As in Envoy, of all that is told this alone is left out where there is no permission.
    set(told, ACCESS_CONTROL_EXPOSE_HEADERS, listed(&policy.expose).filter(|_| origin.is_some()));
    set(told, ACCESS_CONTROL_MAX_AGE, policy.max_age.map(|it| it.as_secs().into()));
    answer
}

fn tell_credentials(policy: &CorsPolicy, response: &mut HeaderMap) {
    if policy.credentials == Some(true) {
        response.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    if let Some(value) = value {
        headers.insert(name, value);
    }
}

fn listed(names: &Listed) -> Option<HeaderValue> {
    match names {
        Listed::Any => Some(HeaderValue::from_static("*")),
        Listed::Names(names) => joined(names.iter().map(HeaderName::as_str)),
    }
}

fn joined<'n>(names: impl Iterator<Item = &'n str>) -> Option<HeaderValue> {
    let text = names.collect::<Vec<_>>().join(",");
    HeaderValue::try_from(text).ok().filter(|it| !it.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::Rule;
    use crate::routes::tests::rule;

    fn forwarding(policy: &str) -> Rule {
        rule(&format!("route: [{{destination: {{host: reviews}}}}]\ncorsPolicy: {{{policy}}}"))
    }

    /// What is decided, as `nothing`, `granted` or `preflight`, and the headers that are told, in order.
    fn told(rule: &Rule, method: &str, sent: &[(&'static str, &str)]) -> (&'static str, Vec<String>) {
        let pairs = sent.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let headers = HeaderMap::from_iter(pairs);
        let facts = RequestFacts {
            method,
            scheme: "http",
            authority: "a",
            path: "/",
            query: None,
            headers: &headers,
            port: 80,
            source: None,
            claims: None,
        };
        let (what, told) = match decide(&rule.route, &facts) {
            Cors::Nothing => ("nothing", HeaderMap::new()),
            Cors::Preflight(answer) => {
                assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0));
                ("preflight", *answer.headers)
            }
            Cors::Granted(grant) => {
                let mut response = HeaderMap::new();
                response
                    .insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("what the service said"));
                grant.tell(&mut response);
                ("granted", response)
            }
        };
        let mut lines: Vec<String> = told
            .iter()
            .map(|(name, value)| {
                format!("{}: {}", &name.as_str()["access-control-".len()..], value.to_str().unwrap())
            })
            .collect();
        lines.sort();
        (what, lines)
    }

    const ASKS: (&str, &str) = ("access-control-request-method", "PUT");
    const NAMES: (&str, &str) = ("access-control-request-headers", "x-a,x-b");
    const GOOD: (&str, &str) = ("origin", "https://good.example");
    const BAD: (&str, &str) = ("origin", "https://bad.example");
    const POLICY: &str = "allowOrigins: [{exact: 'https://good.example'}], allowMethods: [GET, PUT], allowHeaders: [x-a], \
                          exposeHeaders: [x-c, x-d], maxAge: 24h, allowCredentials: true";

    #[test]
    fn a_preflight_of_an_allowed_origin_is_answered_here() {
        let (what, lines) = told(&forwarding(POLICY), "OPTIONS", &[GOOD, ASKS, NAMES]);
        assert_eq!(what, "preflight");
        assert_eq!(
            lines,
            [
                "allow-credentials: true",
                "allow-headers: x-a",
                "allow-methods: GET,PUT",
                "allow-origin: https://good.example",
                "expose-headers: x-c,x-d",
                "max-age: 86400"
            ]
        );
    }

    #[test]
    fn stars_allow_what_is_asked_for() {
        let stars = forwarding(
            "allowOrigins: [{exact: '*'}], allowMethods: ['*'], allowHeaders: ['*'], exposeHeaders: ['*']",
        );
        assert_eq!(
            told(&stars, "OPTIONS", &[BAD, ASKS, NAMES]).1,
            [
                "allow-headers: x-a,x-b",
                "allow-methods: PUT",
                "allow-origin: https://bad.example",
                "expose-headers: *"
            ]
        );
        assert_eq!(told(&stars, "GET", &[BAD]).1, ["allow-origin: https://bad.example", "expose-headers: *"]);
    }

    #[test]
    fn an_actual_request_is_granted_in_its_answer_in_place_of_what_the_service_said() {
        let (what, lines) = told(&forwarding(POLICY), "GET", &[GOOD]);
        assert_eq!(what, "granted");
        let expected =
            ["allow-credentials: true", "allow-origin: https://good.example", "expose-headers: x-c,x-d"];
        assert_eq!(lines, expected);
        assert_eq!(
            told(&forwarding(POLICY), "OPTIONS", &[GOOD]).0,
            "granted",
            "OPTIONS alone asks for nothing"
        );
    }

    #[test]
    fn other_origins_are_sent_on_unless_their_preflights_are_to_be_ignored() {
        let forward = forwarding(POLICY);
        assert_eq!(told(&forward, "OPTIONS", &[BAD, ASKS]), ("nothing", vec![]));
        assert_eq!(told(&forward, "GET", &[BAD]), ("nothing", vec![]));
        assert_eq!(told(&forward, "OPTIONS", &[ASKS]), ("nothing", vec![]), "no origin, nothing to permit");
        let ignore = forwarding(&format!("{POLICY}, unmatchedPreflights: IGNORE"));
        let (what, lines) = told(&ignore, "OPTIONS", &[BAD, ASKS]);
        assert_eq!(what, "preflight");
        let granted = ["allow-origin", "expose-headers"];
        assert!(!lines.iter().any(|it| granted.iter().any(|name| it.starts_with(name))), "{lines:?}");
        assert_eq!(told(&ignore, "GET", &[BAD]), ("nothing", vec![]));
    }

    #[test]
    fn a_route_that_answers_by_itself_grants_nothing() {
        let direct = rule(&format!("directResponse: {{status: 200}}\ncorsPolicy: {{{POLICY}}}"));
        assert_eq!(told(&direct, "OPTIONS", &[GOOD, ASKS]), ("nothing", vec![]));
    }
}
