//! Requests that are aimed at a table: at each of its matches, just past each of them, and at none.

use rand::{Rng, rngs::StdRng};

use super::{
    happens, one,
    words::{
        AUTHORITIES, EVERY_METHOD, EVERY_ORIGIN, NAMES, ODD_TARGETS, PARAMETERS, STEPS, STEPS_OF, STRAYS,
        VALUES,
    },
};
use crate::differential::{
    backend::SCRIPT,
    tables::{Cors, HashKey, Match, Request, Rule, Table, Text, Value},
};

/// Most requests to one table, the odd ones beside.
const REQUESTS_MAX: usize = 14;

/// Requests to a table that hashes: keys that differ.
const KEYS: usize = 8;

/// Puts requests into a table.
pub(super) fn requests(rng: &mut StdRng, table: &mut Table) {
    let mut made = vec![plain(rng, table), astray(rng, table)];
    if table.hash.is_some() {
        made.extend((0..KEYS).map(|_| plain(rng, table)));
    }
    for rule in &table.rules {
        let matches = if rule.matches.is_empty() { &[Match::default()][..] } else { &rule.matches };
        for stated in matches {
            let hit = aimed(rng, table, rule, stated);
            let miss = past(rng, stated, hit.clone());
            made.push(hit);
            made.extend(miss.filter(|_| happens(rng, 70)));
        }
        if let Some(stated) = &rule.cors {
            let stated = stated.clone();
            let matched = matches[0].clone();
            made.push(across(rng, table, rule, &matched, &stated));
        }
    }
    while made.len() > REQUESTS_MAX {
        made.remove(rng.random_range(0..made.len()));
    }
    table.requests = made;
}

/// A request without anything that a rule may ask for.
pub(super) fn plain(rng: &mut StdRng, table: &Table) -> Request {
    let mut request = Request {
        method: "GET",
        target: "/".into(),
        authority: table.authority(),
        headers: Vec::new(),
        body: None,
        port: if happens(rng, 85) { 80 } else { 81 },
    };
    keyed(rng, table, &mut request);
    request
}

/// A request of any kind, aimed at nothing.
fn astray(rng: &mut StdRng, table: &Table) -> Request {
    let mut request = plain(rng, table);
    request.target = if happens(rng, 50) { one(rng, &STRAYS) } else { one(rng, &ODD_TARGETS) }.to_owned();
    request.method = one(rng, &EVERY_METHOD);
    dressed(rng, &mut request);
    keyed(rng, table, &mut request);
    request
}

/// A request that a match takes, with further things to it.
fn aimed(rng: &mut StdRng, table: &Table, rule: &Rule, stated: &Match) -> Request {
    let mut request = plain(rng, table);
    if let Some(path) = &stated.path {
        request.target = path_for(rng, path, stated.ignoring_case);
    } else if happens(rng, 50) {
        request.target = one(rng, &["/v1/x", "/item", "/old/x"]).to_owned();
    }
    if let Some(method) = &stated.method {
        request.method = one_of(EVERY_METHOD, &hit(rng, method));
    } else if happens(rng, 20) {
        request.method = one(rng, &EVERY_METHOD);
    }
    if let Some(authority) = &stated.authority {
        request.authority = hit(rng, authority);
    } else if happens(rng, 15) {
        request.authority = one(rng, &[AUTHORITIES[0], AUTHORITIES[1], "x.shop:8080"]).to_owned();
    }
    if let Some(port) = stated.port {
        request.port = port;
    }
    for (name, value) in &stated.headers {
        request.headers.push((name, for_value(rng, value)));
    }
    for (name, value) in &stated.parameters {
        let value = for_value(rng, value);
        add_parameter(&mut request.target, name, &value);
    }
    dressed(rng, &mut request);
    script(rng, rule, &mut request);
    keyed(rng, table, &mut request);
    request
}

/// What takes one thing from a request that a match asks for.
type Spoil<'m> = Box<dyn FnOnce(&mut StdRng, &mut Request) + 'm>;

/// The same request, but for one thing that the match asks for.
fn past(rng: &mut StdRng, stated: &Match, mut request: Request) -> Option<Request> {
    let mut spoils: Vec<Spoil<'_>> = Vec::new();
    if let Some(path) = &stated.path {
        spoils.push(Box::new(|rng, it| it.target = miss(rng, path)));
    }
    if let Some(method) = &stated.method {
        spoils.push(Box::new(|rng, it| it.method = one_of(EVERY_METHOD, &miss(rng, method))));
    }
    if let Some(authority) = &stated.authority {
        spoils.push(Box::new(|rng, it| it.authority = miss(rng, authority)));
    }
    for (name, value) in &stated.headers {
        spoils.push(Box::new(move |rng, it| {
            it.headers.retain(|(other, _)| other != name);
            if let (Value::Is(text), true) = (value, happens(rng, 60)) {
                it.headers.push((name, miss(rng, text)));
            }
        }));
    }
    for (name, value) in &stated.without {
        spoils.push(Box::new(move |rng, it| it.headers.push((name, for_value(rng, value)))));
    }
    if !stated.parameters.is_empty() {
        spoils.push(Box::new(|_, it| it.target.truncate(it.target.find('?').unwrap_or(it.target.len()))));
    }
    if let Some(port) = stated.port {
        spoils.push(Box::new(move |_, it| it.port = if port == 80 { 81 } else { 80 }));
    }
    if spoils.is_empty() {
        return None;
    }
    let spoil = spoils.swap_remove(rng.random_range(0..spoils.len()));
    spoil(rng, &mut request);
    if !request.target.starts_with('/') {
        request.target.insert(0, '/');
    }
    Some(request)
}

/// What a script of another origin makes a browser send.
fn across(rng: &mut StdRng, table: &Table, rule: &Rule, matched: &Match, stated: &Cors) -> Request {
    let mut request = aimed(rng, table, rule, matched);
    let allowed = one(rng, &stated.origins);
    let origin = if happens(rng, 70) { hit(rng, &allowed) } else { one(rng, &EVERY_ORIGIN).to_owned() };
    request.headers.push(("origin", origin));
    if happens(rng, 70) {
        request.method = "OPTIONS";
        request.body = None;
        if happens(rng, 85) {
            request.headers.push(("access-control-request-method", one(rng, &["PUT", "GET"]).to_owned()));
        }
        if happens(rng, 50) {
            request.headers.push(("access-control-request-headers", "x-a,x-z".to_owned()));
        }
    }
    request
}

/// Things that no match of this request asked for, some of which other rules may.
fn dressed(rng: &mut StdRng, request: &mut Request) {
    for name in ["x-a", "x-b", "x-user", "x-env"] {
        let is_there = request.header(name).is_some();
        if !is_there && happens(rng, 30) {
            request.headers.push((name, one(rng, &["client", "alice", "bob"]).to_owned()));
        }
    }
    if happens(rng, 8) {
        let name = one(rng, &NAMES);
        request.headers.push((name, one(rng, &VALUES).to_owned()));
    }
    if happens(rng, 5) {
        let kind = one(rng, &["application/grpc", "application/grpc+proto", "application/json"]);
        request.headers.push(("content-type", kind.to_owned()));
    }
    if happens(rng, 20) {
        let name = one(rng, &PARAMETERS);
        let value = one(rng, &["alice", "", "a%20b", "test1"]);
        add_parameter(&mut request.target, name, value);
    }
    if matches!(request.method, "POST" | "PUT" | "PATCH") && happens(rng, 70) {
        request.body = Some(one(rng, &["a body", "{\"of\": \"some\", \"length\": 40, \"or\": \"so\"}"]));
    }
}

/// How its tries are answered: by chance where it may be tried again, and now and then elsewhere.
fn script(rng: &mut StdRng, rule: &Rule, request: &mut Request) {
    let per_try = rule.retries.as_ref().and_then(|it| it.per_try);
    if rule.timeout.is_some() || per_try.is_some() {
        if happens(rng, 60) {
            let late = match (&rule.retries, per_try) {
                (_, Some(_)) => "late,200",
                (Some(_), None) => one(rng, &["late", "503,late", "reset,503,late"]),
                (None, None) => "late",
            };
            request.headers.push((SCRIPT, late.into()));
        }
        return;
    }
    if happens(rng, if rule.retries.is_some() { 90 } else { 12 }) {
        let mut steps: Vec<_> = (0..rng.random_range(1..5)).map(|_| one(rng, &STEPS)).collect();
        let on = rule.retries.as_ref().and_then(|it| it.on.as_deref());
        let word = on.and_then(|it| it.split(',').next()).unwrap_or("unavailable").trim();
        if happens(rng, 60) {
            // One that is tried again, perhaps until no try is left.
            let first = STEPS_OF.iter().find(|(it, _)| *it == word).map_or(word, |(_, step)| *step);
            let first = if first.parse::<u16>().is_ok() || STEPS.contains(&first) { first } else { "503" };
            let times = rng.random_range(1..4);
            steps.splice(0..0, std::iter::repeat_n(first, times));
        }
        request.headers.push((SCRIPT, steps.join(",")));
    }
}

/// What is hashed, where a table hashes and the request does not have it.
fn keyed(rng: &mut StdRng, table: &Table, request: &mut Request) {
    let Some(hash) = &table.hash else { return };
    let key = format!("key-{}", rng.random_range(0..10_000));
    match hash.key {
        HashKey::Header(name) if request.header(name).is_none() => {
            request.headers.push((name, key));
            if happens(rng, 10) {
                request.headers.push((name, "second".into()));
            }
        }
        HashKey::Cookie(name, _) if request.header("cookie").is_none() => {
            request.headers.push(("cookie", format!("first=1; {name}={key}; last=2")));
        }
        HashKey::Parameter(name) if !request.target.contains("session=") => {
            add_parameter(&mut request.target, name, &key);
        }
        _ => {}
    }
}

pub(super) fn add_parameter(target: &mut String, name: &str, value: &str) {
    target.push(if target.contains('?') { '&' } else { '?' });
    target.push_str(name);
    if !value.is_empty() {
        target.push('=');
        target.push_str(value);
    }
}

fn for_value(rng: &mut StdRng, value: &Value) -> String {
    match value {
        Value::Present => one(rng, &["", "anything", "alice"]).to_owned(),
        Value::Is(text) => hit(rng, text),
    }
}

/// A path that a condition holds of.
fn path_for(rng: &mut StdRng, stated: &Text, ignoring_case: bool) -> String {
    let mut path = match stated {
        Text::Prefix(prefix) if prefix.ends_with('/') => {
            format!("{prefix}{}", one(rng, &["", "more", "more/things"]))
        }
        Text::Prefix(prefix) => format!("{prefix}{}", one(rng, &["", "x", "/more", "/more/things"])),
        other => hit(rng, other),
    };
    if ignoring_case && happens(rng, 70) {
        path = if happens(rng, 50) { path.to_ascii_uppercase() } else { path.to_ascii_lowercase() };
    }
    path
}

/// A string that a condition holds of.
fn hit(rng: &mut StdRng, stated: &Text) -> String {
    match stated {
        Text::Exact(text) => text.clone(),
        Text::Prefix(text) => format!("{text}{}", one(rng, &["", "x", "9"])),
        Text::Regex(pattern) => one(rng, pattern.hits).to_owned(),
    }
}

/// A string that it just does not hold of.
fn miss(rng: &mut StdRng, stated: &Text) -> String {
    match stated {
        Text::Exact(text) | Text::Prefix(text) => match rng.random_range(0..3) {
            0 => text[..text.len() - 1].to_owned(),
            1 => format!("{text}x"),
            _ => format!("{}x", &text[..text.len() - 1]),
        },
        Text::Regex(pattern) => one(rng, pattern.misses).to_owned(),
    }
}

/// The word of a list that a text is, or the first one.
fn one_of<const N: usize>(words: [&'static str; N], text: &str) -> &'static str {
    words.iter().find(|it| **it == text).copied().unwrap_or(words[0])
}
