//! What Ebb does otherwise than Istio and Envoy on purpose, put into a part of the tables so that each is seen.

use rand::{Rng, rngs::StdRng};

use super::{aim, one};
use crate::differential::tables::{
    Action, Changes, Destination, Match, Redirect, RedirectPort, Retries, Rewrite, Rule, Table, Text,
};
use crate::differential::{backend::SCRIPT, tables::Request};

/// Among how many tables one has something of the kind.
const EVERY: usize = 4;

/// Paths that could be read in two ways.
const AMBIGUOUS: [&str; 10] = [
    "//v1",
    "/v1//item",
    "/v1/../item",
    "/./item",
    "/v1/%2e%2e/item",
    "/v1%2fitem",
    "/v1\\item",
    "/v1%00",
    "/%c0%af",
    "/v1/item#part",
];

/// Paths with escapes that have another form.
const ESCAPED: [&str; 5] = ["/caf%c3%a9", "/v1/%e2%82%ac", "/caf%C3%a9", "/item%3a", "/v1/%2b"];

/// Puts an oddity into a table, or none.
pub(super) fn put_in(rng: &mut StdRng, table: &mut Table) {
    if !table.number.is_multiple_of(EVERY) {
        return;
    }
    let which = table.number / EVERY;
    match which % 12 {
        0 => ambiguous(rng, table),
        1 => escapes(rng, table),
        2 => asterisk(rng, table),
        3 => source(rng, table),
        4 => gateways(rng, table),
        5 => without_attempts(rng, table),
        6 => clients_policy(rng, table),
        7 => elsewhere(rng, table),
        8 => elsewhere_for_grpc(rng, table),
        9 => no_path(rng, table),
        10 => formatter(rng, table),
        _ => repeated(rng, table),
    }
}

/// A rule before all others, for requests to a path.
fn first(table: &mut Table, path: Option<&str>, change: impl FnOnce(&mut Rule)) {
    let subset = if table.hash.is_some() { "v3" } else { "v1" };
    let mut headers = Changes::default();
    headers.request.set.push(("x-rule", "odd".into()));
    headers.response.set.push(("x-rule", "odd".into()));
    let to = Destination { subset: Some(subset), port: None, weight: 1, headers: Changes::default() };
    let mut rule = Rule {
        tag: "odd".into(),
        matches: vec![Match { path: path.map(|it| Text::Prefix(it.into())), ..Match::default() }],
        action: Action::Forward(vec![to]),
        headers,
        rewrite: None,
        timeout: None,
        retries: None,
        fault: None,
        cors: None,
    };
    change(&mut rule);
    table.rules.insert(0, rule);
}

/// A request to a path.
fn ask(rng: &mut StdRng, table: &mut Table, target: String, headers: &[(&'static str, &str)]) {
    let mut request = Request { target, ..aim::plain(rng, table) };
    request.headers.extend(headers.iter().map(|(name, value)| (*name, (*value).to_owned())));
    table.requests.push(request);
}

fn ambiguous(rng: &mut StdRng, table: &mut Table) {
    for _ in 0..3 {
        let path = one(rng, &AMBIGUOUS);
        ask(rng, table, path.to_owned(), &[]);
    }
}

fn escapes(rng: &mut StdRng, table: &mut Table) {
    let path = one(rng, &ESCAPED);
    if rng.random_ratio(1, 2) {
        first(table, Some(path), |_| {});
    }
    ask(rng, table, path.to_owned(), &[]);
    ask(rng, table, path.to_ascii_uppercase().replace("CAF", "caf").replace("/V1", "/v1"), &[]);
    let other = one(rng, &ESCAPED);
    ask(rng, table, other.to_owned(), &[]);
}

fn asterisk(rng: &mut StdRng, table: &mut Table) {
    let request = Request { method: "OPTIONS", target: "*".into(), ..aim::plain(rng, table) };
    table.requests.push(request);
}

fn source(rng: &mut StdRng, table: &mut Table) {
    let app = one(rng, &["client", "client", "somebody"]);
    first(table, Some("/"), |rule| rule.matches[0].source_app = Some(app));
    ask(rng, table, "/source".into(), &[]);
}

fn gateways(rng: &mut StdRng, table: &mut Table) {
    let gateway = one(rng, &["shop/edge", "shop/edge", "mesh"]);
    first(table, Some("/"), |rule| rule.matches[0].gateway = Some(gateway));
    ask(rng, table, "/gateway".into(), &[]);
}

fn without_attempts(rng: &mut StdRng, table: &mut Table) {
    let retries = Retries { attempts: None, on: Some("5xx".into()), per_try: None };
    first(table, Some("/tried"), |rule| rule.retries = Some(retries));
    ask(rng, table, "/tried".into(), &[(SCRIPT, "503,503,200")]);
    ask(rng, table, "/tried".into(), &[(SCRIPT, "503")]);
}

fn repeated(rng: &mut StdRng, table: &mut Table) {
    let cookies = [("cookie", "a=1"), ("cookie", "b=2")];
    ask(rng, table, "/repeated".into(), &cookies);
    ask(rng, table, "/repeated".into(), &[("user-agent", "one"), ("user-agent", "other")]);
    ask(rng, table, "/repeated".into(), &[("x-user", "bob"), ("x-user", "alice")]);
    let whole = format!("http://{}/v1/item?q=1", table.authority());
    ask(rng, table, whole, &[]);
    let authority = one(rng, &["a.shop:", "a.shop:x", "a.shop:99999"]);
    let request = Request { authority: authority.into(), ..aim::plain(rng, table) };
    table.requests.push(request);
}

fn clients_policy(rng: &mut StdRng, table: &mut Table) {
    first(table, Some("/asked"), |_| {});
    let asking = [("x-envoy-retry-on", "5xx"), ("x-envoy-max-retries", "3"), (SCRIPT, "500,200")];
    ask(rng, table, "/asked".into(), &asking);
    let inside = [&asking[..], &[("x-forwarded-for", "10.0.0.1")]].concat();
    ask(rng, table, "/asked".into(), &inside);
    let hurried =
        [("x-envoy-upstream-rq-timeout-ms", "100"), ("x-forwarded-for", "10.0.0.1"), (SCRIPT, "late")];
    ask(rng, table, "/asked".into(), &hurried);
}

fn elsewhere(rng: &mut StdRng, table: &mut Table) {
    let port = one(rng, &[RedirectPort::OfScheme, RedirectPort::OfRequest, RedirectPort::Number(80)]);
    let to = Redirect { path: Some("/moved".into()), port: Some(port), ..Redirect::default() };
    first(table, Some("/port"), |rule| {
        rule.action = Action::Redirect(to);
        rule.headers.request = super::Operations::default();
    });
    for authority in ["a.shop:8080", "a.shop:80", "a.shop"] {
        let request =
            Request { target: "/port".into(), authority: authority.into(), ..aim::plain(rng, table) };
        table.requests.push(request);
    }
}

fn elsewhere_for_grpc(rng: &mut StdRng, table: &mut Table) {
    let to = Redirect { path: Some("/moved".into()), ..Redirect::default() };
    first(table, Some("/grpc"), |rule| {
        rule.action = Action::Redirect(to);
        rule.headers.request = super::Operations::default();
    });
    ask(rng, table, "/grpc".into(), &[("content-type", "application/grpc")]);
}

fn no_path(rng: &mut StdRng, table: &mut Table) {
    let regex = one(rng, &[("^/", ""), ("path", "a path"), ("no", "#")]);
    first(table, Some("/no"), |rule| {
        rule.rewrite = Some(Rewrite { regex: Some(regex), ..Rewrite::default() })
    });
    ask(rng, table, "/no/path".into(), &[]);
    ask(rng, table, "/no/path?q=1".into(), &[]);
}

fn formatter(rng: &mut StdRng, table: &mut Table) {
    first(table, Some("/formatted"), |rule| {
        rule.headers.request.set.push(("x-new", "%REQ(x-user)%".into()));
        rule.headers.response.add.push(("x-new", "%PROTOCOL%".into()));
    });
    ask(rng, table, "/formatted".into(), &[("x-user", "alice")]);
}
