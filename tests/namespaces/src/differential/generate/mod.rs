//! Makes tables by chance from a seed: few names and paths, so that rules overlap and requests come close to them.
//!
//! Each table is made from the seed and its number alone, so that one that fails can be made again by itself.

mod aim;
mod oddities;
mod words;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use self::words::{
    AUTHORITIES, HEADERS, METHODS, NAMES, ORIGINS, PARAMETERS, PATHS, PREFIXES, RETRY_ON, VALUES,
};
use super::{
    CLOSED_PORT, UNKNOWN_SUBSET,
    tables::{
        Abort, Action, Changes, Cors, Destination, Fault, Hash, HashKey, HashTable, Match, Operations,
        Redirect, RedirectPort, Retries, Rewrite, Rule, Table, Text, Value,
    },
};

/// Most rules of a table.
const RULES_MAX: usize = 8;

/// Milliseconds of a timeout, where a rule states one.
const TIMEOUT: u32 = 250;

/// Among how many tables one hashes consistently.
const HASHING: usize = 6;

/// Among how many tables one has no routes at all, only requests that were aimed at some.
const WITHOUT_ROUTES: usize = 34;

/// The table of a number.
#[must_use]
pub fn table(seed: u64, number: usize) -> Table {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
    let rng = &mut rng;
    let mut table = Table { number, hash: None, rules: Vec::new(), requests: Vec::new() };
    if number % HASHING == HASHING - 1 {
        table.hash = Some(hash(rng));
    }
    let name = table.name();
    let count = rng.random_range(1..=RULES_MAX);
    for at in 0..count {
        let is_last = at + 1 == count;
        let made = rule(rng, format!("r{at}"), &name, is_last, table.hash.is_some());
        table.rules.push(made);
    }
    aim::requests(rng, &mut table);
    if number % WITHOUT_ROUTES == WITHOUT_ROUTES - 1 {
        table.rules.clear();
    } else {
        oddities::put_in(rng, &mut table);
    }
    table
}

/// Whether something of this probability happens.
fn happens(rng: &mut StdRng, percent: u32) -> bool {
    rng.random_ratio(percent, 100)
}

fn one<T: Clone>(rng: &mut StdRng, of: &[T]) -> T {
    of.choose(rng).expect("lists to choose from have entries").clone()
}

fn some<T>(rng: &mut StdRng, percent: u32, make: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
    happens(rng, percent).then(|| make(rng))
}

fn hash(rng: &mut StdRng) -> Hash {
    let key = match rng.random_range(0..8) {
        0..3 => HashKey::Header("x-session"),
        3..5 => HashKey::Cookie("session", some(rng, 50, |rng| one(rng, &[0, 60]))),
        5..7 => HashKey::Parameter("session"),
        _ => HashKey::Source,
    };
    let upon = match rng.random_range(0..4) {
        0 => HashTable::Ring(1024),
        1 => HashTable::Ring(rng.random_range(1..5000)),
        2 => HashTable::Maglev(65_537),
        _ => HashTable::Maglev(one(rng, &[5, 251, 1021])),
    };
    Hash { key, upon }
}

fn rule(rng: &mut StdRng, tag: String, table: &str, is_last: bool, hashes: bool) -> Rule {
    let matches = match (is_last, rng.random_range(0..10)) {
        (true, 0..6) => Vec::new(),
        // Whatever the others are for: a table has a rule at every port.
        (true, _) => vec![Match { port: None, ..matched(rng, table) }],
        (false, 0..7) => vec![matched(rng, table)],
        (false, _) => (0..rng.random_range(2..4)).map(|_| matched(rng, table)).collect(),
    };
    let mut rule = Rule {
        tag,
        matches,
        action: Action::Respond(200, None),
        headers: Changes::default(),
        rewrite: None,
        timeout: None,
        retries: None,
        fault: None,
        cors: some(rng, 15, cors),
    };
    match rng.random_range(0..100) {
        0..14 => rule.action = Action::Redirect(redirect(rng, &rule.matches)),
        14..22 => {
            let status = one(rng, &[200, 204, 403, 404, 418, 503, 599]);
            let body = Some("made here").filter(|_| status != 204 && happens(rng, 60));
            rule.action = Action::Respond(status, body.map(str::to_owned));
        }
        _ => forward(rng, &mut rule, hashes),
    }
    if happens(rng, 45) {
        rule.headers = changes(rng);
    }
    let tag = ("x-rule", rule.tag.clone());
    if matches!(rule.action, Action::Forward(_)) {
        rule.headers.request.set.push(tag.clone());
    }
    rule.headers.response.set.push(tag);
    rule
}

fn forward(rng: &mut StdRng, rule: &mut Rule, hashes: bool) {
    rule.action = Action::Forward(destinations(rng, hashes));
    rule.rewrite = some(rng, 30, rewrite);
    match rng.random_range(0..100) {
        0..4 => rule.timeout = Some(TIMEOUT),
        4..6 => (rule.timeout, rule.retries) = (Some(TIMEOUT), Some(retries(rng))),
        6..36 => rule.retries = Some(retries(rng)),
        _ => {}
    }
    rule.fault = some(rng, 8, fault);
}

fn destinations(rng: &mut StdRng, hashes: bool) -> Vec<Destination> {
    let destination = |rng: &mut StdRng, weight| Destination {
        subset: match (hashes, rng.random_range(0..100)) {
            (true, 0..50) => None,
            (true, _) => Some("v3"),
            (false, 0..46) => Some("v1"),
            (false, 46..94) => Some("v2"),
            (false, 94..97) => Some("v9"),
            (false, _) => Some(UNKNOWN_SUBSET),
        },
        port: some(rng, 12, |rng| one(rng, &[80, 81, 81, CLOSED_PORT])),
        weight,
        headers: some(rng, 25, changes).unwrap_or_default(),
    };
    match rng.random_range(0..10) {
        0..6 => {
            let weight = one(rng, &[0, 1, 100]);
            vec![destination(rng, weight)]
        }
        // All of the weight is one's.
        6..8 => {
            let mut all = vec![destination(rng, 0), destination(rng, 0), destination(rng, 0)];
            all.truncate(rng.random_range(2..4));
            let at = rng.random_range(0..all.len());
            all[at].weight = one(rng, &[1, 100]);
            all
        }
        // Several that are one and the same.
        _ => {
            let weight = rng.random_range(1..60);
            let twin = destination(rng, weight);
            vec![twin.clone(), Destination { weight: 50, ..twin }]
        }
    }
}

fn text(
    rng: &mut StdRng,
    exact: &[&str],
    prefixes: &[&str],
    patterns: &'static [super::tables::Pattern],
) -> Text {
    match rng.random_range(0..3) {
        0 => Text::Exact(one(rng, exact).to_owned()),
        1 => Text::Prefix(one(rng, prefixes).to_owned()),
        _ => Text::Regex(patterns.choose(rng).expect("there are patterns")),
    }
}

fn value(rng: &mut StdRng) -> Value {
    match rng.random_range(0..4) {
        0 => Value::Present,
        _ => Value::Is(text(rng, &VALUES, &["al", "b", "t"], &words::VALUE_PATTERNS)),
    }
}

/// One condition or two; rarely more.
fn matched(rng: &mut StdRng, table: &str) -> Match {
    let mut made = Match::default();
    let conditions = one(rng, &[1, 1, 1, 2, 2, 3]);
    for _ in 0..conditions {
        match rng.random_range(0..20) {
            0..9 => {
                made.path = Some(text(rng, &PATHS, &PREFIXES, &words::PATH_PATTERNS));
                made.ignoring_case = !matches!(made.path, Some(Text::Regex(_))) && happens(rng, 20);
            }
            9..11 => made.method = Some(text(rng, &METHODS, &["P", "G"], &words::METHOD_PATTERNS)),
            11 => {
                let own = format!("{table}.shop");
                let exact = [&own, AUTHORITIES[0], AUTHORITIES[1]];
                made.authority = Some(text(rng, &exact, &[table, "www."], &words::AUTHORITY_PATTERNS));
            }
            12 => made.scheme = Some(Text::Exact(one(rng, &["http", "http", "https"]).to_owned())),
            13..16 => put(&mut made.headers, one(rng, &NAMES), value(rng)),
            16 => put(&mut made.without, one(rng, &NAMES), value(rng)),
            17..19 => put(&mut made.parameters, one(rng, &PARAMETERS), value(rng)),
            _ => made.port = Some(one(rng, &[80, 81])),
        }
    }
    made
}

fn put(all: &mut Vec<(&'static str, Value)>, name: &'static str, value: Value) {
    if all.iter().all(|(it, _)| *it != name) {
        all.push((name, value));
    }
}

fn redirect(rng: &mut StdRng, matches: &[Match]) -> Redirect {
    let by_prefix = !matches.is_empty() && matches.iter().all(|it| matches!(it.path, Some(Text::Prefix(_))));
    let mut made = Redirect {
        authority: some(rng, 40, |rng| one(rng, &["else.example", "else.example:8443"]).to_owned()),
        scheme: some(rng, 30, |rng| one(rng, &["http", "https"])),
        port: some(rng, 30, |rng| match rng.random_range(0..6) {
            0 => RedirectPort::OfScheme,
            1..3 => RedirectPort::OfRequest,
            _ => RedirectPort::Number(one(rng, &[80, 443, 8080])),
        }),
        status: some(rng, 60, |rng| one(rng, &[301, 302, 303, 307, 308])),
        ..Redirect::default()
    };
    if by_prefix && happens(rng, 60) {
        made.prefix = Some(one(rng, &["/new", "/new/", "/"]).to_owned());
    } else if happens(rng, 60) {
        made.path = Some(one(rng, &["/moved", "/moved/there", "/moved?q=own"]).to_owned());
    }
    let changes = made.path.is_some() || made.prefix.is_some() || made.authority.is_some();
    if !changes && made.scheme.is_none() && made.port.is_none() {
        made.authority = Some("else.example".into());
    }
    made
}

fn rewrite(rng: &mut StdRng) -> Rewrite {
    let mut made = Rewrite::default();
    match rng.random_range(0..10) {
        0..5 => made.path = Some(one(rng, &["/new", "/new/", "/", "/new/deep"]).to_owned()),
        5..8 => {
            made.regex = Some(one(
                rng,
                &[
                    ("^/v([0-9])/(.*)$", r"/\2/v\1"),
                    ("/old", "/new"),
                    ("a", "bb"),
                    ("(x)|([0-9])", r"[\1]"),
                    ("^(/[^/]*)/?", r"\1/in/"),
                ],
            ));
        }
        _ => {}
    }
    if made.path.is_none() && made.regex.is_none() || happens(rng, 25) {
        made.authority = Some(one(rng, &["rewritten.example", "rewritten.example:8080"]).to_owned());
    }
    made
}

fn changes(rng: &mut StdRng) -> Changes {
    let mut made = Changes { request: operations(rng), response: operations(rng) };
    if happens(rng, 12) {
        let name = one(rng, &["host", ":authority"]);
        let value = one(rng, &["set.example", "set.example:81"]).to_owned();
        let to = if happens(rng, 70) { &mut made.request.set } else { &mut made.request.add };
        to.push((name, value));
    }
    made
}

fn operations(rng: &mut StdRng) -> Operations {
    let mut made = Operations::default();
    for name in HEADERS {
        match rng.random_range(0..12) {
            0 => made.set.push((name, one(rng, &["set", "set, twice", "a=b; c"]).to_owned())),
            1 => made.add.push((name, one(rng, &["added", "more"]).to_owned())),
            2 => made.remove.push(name),
            3 => {
                made.set.push((name, "set".into()));
                made.add.push((name, "added".into()));
            }
            _ => {}
        }
    }
    made
}

fn retries(rng: &mut StdRng) -> Retries {
    let attempts = one(rng, &[0, 1, 1, 2, 3, 4]);
    if attempts == 0 {
        return Retries { attempts: Some(0), ..Retries::default() };
    }
    let on = some(rng, 85, |rng| {
        let words: Vec<_> = (0..one(rng, &[1, 1, 2, 3])).map(|_| one(rng, &RETRY_ON)).collect();
        words.join(one(rng, &[",", ", "]))
    });
    Retries { attempts: Some(attempts), on, per_try: some(rng, 6, |_| TIMEOUT) }
}

fn fault(rng: &mut StdRng) -> Fault {
    let abort = some(rng, 75, |rng| match rng.random_range(0..4) {
        0 => one(rng, &[Abort::Grpc("UNAVAILABLE", 14), Abort::Grpc("NOT_FOUND", 5)]),
        _ => Abort::Http(one(rng, &[400, 418, 503])),
    });
    let delay = if abort.is_none() || happens(rng, 20) { Some(10) } else { None };
    Fault { delay, abort, percent: one(rng, &[100, 100, 100, 0]) }
}

fn cors(rng: &mut StdRng) -> Cors {
    let origins = (0..rng.random_range(1..3)).map(|_| match rng.random_range(0..5) {
        0 => Text::Exact("*".into()),
        _ => text(rng, &ORIGINS, &["https://good"], &words::ORIGIN_PATTERNS),
    });
    Cors {
        origins: origins.collect(),
        methods: one(rng, &[&[][..], &["*"], &["GET"], &["GET", "PUT"]]).to_vec(),
        headers: one(rng, &[&[][..], &["*"], &["x-a"], &["x-a", "x-b"]]).to_vec(),
        expose: one(rng, &[&[][..], &["*"], &["x-c"], &["x-c", "x-d"]]).to_vec(),
        max_age: some(rng, 50, |rng| one(rng, &[0, 600, 86_400])),
        credentials: some(rng, 50, |rng| one(rng, &[true, false])),
        ignoring_unmatched: happens(rng, 30),
    }
}
