//! What became of a request through one proxy, and in what two of them disagree.
//!
//! What is left out of the comparison stands here in lists, each with its reason.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    backend::{KEY, Seen},
    tables::{HashKey, Request, Table},
    wire::Message,
};

/// Request headers that are not compared.
const REQUEST_NOISE: [(&str, &str); 4] = [
    (KEY, "says through whom the request came"),
    ("x-request-id", "drawn by chance where the client sends none"),
    (
        "x-envoy-expected-rq-timeout-ms",
        "Envoy tells a proxy behind it how long it waits; nothing else reads it",
    ),
    ("x-envoy-internal", "Envoy's verdict on the client, from x-forwarded-for"),
];

/// Response headers that are not compared.
const RESPONSE_NOISE: [(&str, &str); 5] = [
    ("date", "the time"),
    ("server", "each names itself, or nothing"),
    ("x-envoy-upstream-service-time", "how long it took"),
    ("connection", "whether the connection goes on is not the route's affair"),
    ("transfer-encoding", "how the body is framed; its bytes are compared"),
];

/// What comes before the words on a failure behind the proxy, whose causes each words in its own way.
const UNREACHED: &str = "upstream connect error or disconnect/reset before headers";

/// What became of a request.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The status.
    pub status: u16,
    /// The answer's headers, without the noise.
    pub headers: BTreeMap<String, Vec<String>>,
    /// The answer's body.
    pub body: String,
    /// Each try, as the endpoint saw it, without the noise.
    pub tries: Vec<Try>,
}

/// A try as an endpoint saw it.
#[derive(Clone, Debug)]
pub struct Try {
    /// Pod and port.
    pub endpoint: String,
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Its headers.
    pub headers: BTreeMap<String, Vec<String>>,
    /// Its body.
    pub body: Vec<u8>,
}

/// What two outcomes disagree in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// The status.
    Status,
    /// The number of tries.
    Tries,
    /// The endpoint of a try, by its number from 0.
    Endpoint(usize),
    /// The method.
    Method,
    /// Path and query as sent.
    Target,
    /// A header as sent.
    Sent(String),
    /// The body as sent.
    SentBody,
    /// A header of the answer.
    Header(String),
    /// The body of the answer.
    Body,
}

impl Outcome {
    /// Of an answer and what the endpoints saw of its request.
    #[must_use]
    pub fn new(request: &Request, status: u16, answer: &Message, seen: Vec<Seen>) -> Self {
        let text = String::from_utf8_lossy(&answer.body);
        let body = if text.starts_with(UNREACHED) { UNREACHED.into() } else { text.into_owned() };
        let mut headers = gathered(&answer.headers, &RESPONSE_NOISE);
        // The length of words that differ; of an answer to HEAD it is all that there is of them.
        let is_words = headers.get("content-type").is_some_and(|it| it == &["text/plain"]);
        if body == UNREACHED || request.method == "HEAD" && is_words {
            headers.remove("content-length");
        }
        // No call of gRPC is one of HEAD; to what pretends to be one Envoy says no words.
        if request.method == "HEAD" {
            headers.remove("grpc-message");
        }
        for words in headers.get_mut("grpc-message").into_iter().flatten() {
            if words.starts_with(UNREACHED) {
                *words = UNREACHED.into();
            }
        }
        if let Some(cookies) = headers.get_mut("set-cookie") {
            cookies.iter_mut().for_each(|it| *it = masked(it));
        }
        let tries = seen.into_iter().map(|it| Try {
            endpoint: format!("{}:{}", it.pod, it.port),
            method: it.method,
            target: it.target,
            headers: framed(gathered(&it.headers, &REQUEST_NOISE)),
            body: it.body,
        });
        Self { status, headers, body, tries: tries.collect() }
    }

    /// The tag of the rule that was taken, where it shows.
    #[must_use]
    pub fn rule(&self) -> Option<&str> {
        let sent = self.tries.first().and_then(|it| it.headers.get("x-rule"));
        let told = sent.or(self.headers.get("x-rule"))?;
        told.last().map(String::as_str)
    }
}

/// Headers by name, the values of each in their order.
fn gathered(headers: &[(String, String)], noise: &[(&str, &str)]) -> BTreeMap<String, Vec<String>> {
    let mut gathered: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| noise.iter().all(|(it, _)| it != name)) {
        gathered.entry(name.clone()).or_default().push(value.clone());
    }
    gathered
}

/// Without the length of no body, which one of two HTTP/1.1 clients says and the other does not.
fn framed(mut headers: BTreeMap<String, Vec<String>>) -> BTreeMap<String, Vec<String>> {
    if headers.get("content-length").is_some_and(|it| it == &["0"]) {
        headers.remove("content-length");
    }
    headers
}

/// A cookie without the hash that a proxy made for it, of addresses that differ from proxy to proxy.
fn masked(cookie: &str) -> String {
    match cookie.split_once("=\"").map(|(name, rest)| (name, rest.split_at_checked(16))) {
        Some((name, Some((made, rest)))) if made.bytes().all(|it| it.is_ascii_hexdigit()) => {
            format!("{name}=\"...{rest}")
        }
        _ => cookie.to_owned(),
    }
}

/// Whether the endpoint of a request is drawn by chance: its service hashes, and it has nothing to hash; or there are no
/// routes, and so nothing that says which of all endpoints.
#[must_use]
pub fn is_by_chance(table: &Table, request: &Request) -> bool {
    match table.hash.as_ref().map(|it| &it.key) {
        None => table.rules.is_empty(),
        Some(HashKey::Source) => false,
        Some(HashKey::Header(name)) => request.header(name).is_none(),
        Some(HashKey::Cookie(name, _)) => {
            request.headers.iter().all(|(it, value)| *it != "cookie" || !value.contains(&format!("{name}=")))
        }
        Some(HashKey::Parameter(name)) => !request.target.contains(&format!("{name}=")),
    }
}

/// What the outcomes of a request disagree in.
#[must_use]
pub fn disagreements(one: &Outcome, other: &Outcome, by_chance: bool) -> BTreeSet<Field> {
    let mut found = BTreeSet::new();
    let mut check = |field: Field, differs: bool| {
        if differs {
            found.insert(field);
        }
    };
    check(Field::Status, one.status != other.status);
    check(Field::Tries, one.tries.len() != other.tries.len());
    for name in differing(&one.headers, &other.headers) {
        let told_by_endpoint = matches!(name.as_str(), "x-of-app" | "content-length");
        check(Field::Header(name), !(by_chance && told_by_endpoint));
    }
    check(
        Field::Body,
        one.body != other.body && !(by_chance && is_of_endpoint(one) && is_of_endpoint(other)),
    );
    for (number, (one, other)) in one.tries.iter().zip(&other.tries).enumerate() {
        check(Field::Endpoint(number), one.endpoint != other.endpoint && !by_chance);
        check(Field::Method, one.method != other.method);
        check(Field::Target, one.target != other.target);
        check(Field::SentBody, one.body != other.body);
        differing(&one.headers, &other.headers).into_iter().for_each(|name| check(Field::Sent(name), true));
    }
    found
}

fn is_of_endpoint(outcome: &Outcome) -> bool {
    outcome.headers.contains_key("x-of-app")
}

fn differing(one: &BTreeMap<String, Vec<String>>, other: &BTreeMap<String, Vec<String>>) -> BTreeSet<String> {
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    names.into_iter().filter(|it| one.get(*it) != other.get(*it)).cloned().collect()
}
