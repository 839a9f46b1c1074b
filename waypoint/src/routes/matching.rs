//! Which rule a request falls under: the first, in their order, of which everything stated holds.

use std::sync::Arc;

use common::config::routing::StringMatch;
use common::config::routing::request::{HeaderKey, HttpMatch, ValueMatch};
use serde_json::Value;

use super::connection::comes_from;
use super::facts::RequestFacts;
use super::index::Index;
use super::route::Rule;

/// The rules of HTTP requests to one port of a service.
#[derive(Debug, Clone, Default)]
pub struct HttpRoutes {
    rules: Arc<[Rule]>,
    index: Arc<Index>,
    asks: bool,
}

/// What a request falls under.
#[derive(Debug, Clone, Copy)]
pub enum Found<'r> {
    /// This rule.
    Rule(&'r Rule),
    /// There are rules and none takes it: 404, flag `NR`.
    NoRoute,
    /// There are none for this port: it goes to the service that was called, at the port that was called.
    Service,
}

impl HttpRoutes {
    pub(super) fn new(rules: Vec<Rule>) -> Self {
        let index = Index::new(rules.iter().map(Rule::stated));
        let asks = rules.iter().any(|it| it.route.external_auth().is_some());
        Self { rules: rules.into(), index: Arc::new(index), asks }
    }

    /// What a request falls under. Allocates nothing.
    pub fn find(&self, facts: &RequestFacts<'_>) -> Found<'_> {
        if self.rules.is_empty() {
            return Found::Service;
        }
        let found = self.index.first(facts, |at| self.rules[at].takes(facts));
        found.map_or(Found::NoRoute, |at| Found::Rule(&self.rules[at]))
    }

    /// Every rule, in the order in which they are asked.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether any of them has somebody asked who has to agree (`ExternalAuth`).
    pub(crate) fn asks(&self) -> bool {
        self.asks
    }
}

impl Rule {
    /// Whether a request is one of those it is for: everything that it states holds.
    pub fn takes(&self, facts: &RequestFacts<'_>) -> bool {
        self.stated().is_none_or(|it| unmet(it, facts).is_none())
    }
}

/// What a match states and a request is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unmet<'m> {
    /// `uri`.
    Path(&'m StringMatch),
    /// A call of gRPC, which GRPCRoutes ask for.
    Grpc,
    /// `method`.
    Method(&'m StringMatch),
    /// `scheme`.
    Scheme(&'m StringMatch),
    /// `authority`.
    Authority(&'m StringMatch),
    /// `sourceLabels` or `sourceNamespace`.
    Source,
    /// One of `headers`, claims among them.
    Header(&'m HeaderKey, &'m ValueMatch),
    /// One of `withoutHeaders`, which the request has.
    Without(&'m HeaderKey, &'m ValueMatch),
    /// One of `queryParams`.
    Parameter(&'m Arc<str>, &'m ValueMatch),
}

/// The first that does not hold of all that a match states. Its port and gateways were looked at when it was compiled.
pub(super) fn unmet<'m>(stated: &'m HttpMatch, facts: &RequestFacts<'_>) -> Option<Unmet<'m>> {
    fn not<'m>(stated: &'m Option<StringMatch>, value: &str) -> Option<&'m StringMatch> {
        stated.as_ref().filter(|it| !it.matches(value))
    }
    if let Some(path) = not(&stated.path, facts.path) {
        return Some(Unmet::Path(path));
    }
    if stated.is_grpc && !facts.is_grpc() {
        return Some(Unmet::Grpc);
    }
    if let Some(method) = not(&stated.method, facts.method) {
        return Some(Unmet::Method(method));
    }
    if let Some(scheme) = not(&stated.scheme, facts.scheme) {
        return Some(Unmet::Scheme(scheme));
    }
    if let Some(authority) = not(&stated.authority, facts.authority) {
        return Some(Unmet::Authority(authority));
    }
    if !comes_from(&stated.source_labels, stated.source_namespace.as_deref(), facts.source) {
        return Some(Unmet::Source);
    }
    if let Some((key, value)) = stated.headers.iter().find(|(key, value)| !has(key, value, facts)) {
        return Some(Unmet::Header(key, value));
    }
    if let Some((key, value)) =
        stated.without_headers.iter().find(|(key, value)| has_or_lacks(key, value, facts))
    {
        return Some(Unmet::Without(key, value));
    }
    let differs = |name: &str, value: &ValueMatch| {
        let found = facts.parameter(name);
        match value {
            ValueMatch::Present => found.is_none(),
            ValueMatch::Value(value) => !found.is_some_and(|it| value.matches(it)),
        }
    };
    let (name, value) = stated.query.iter().find(|(name, value)| differs(name, value))?;
    Some(Unmet::Parameter(name, value))
}

/// Whether everything that a match states holds.
pub(crate) fn holds(stated: &HttpMatch, facts: &RequestFacts<'_>) -> bool {
    unmet(stated, facts).is_none()
}

/// Whether a header, or a claim of a verified token, is there and one of its values is what is asked for.
fn has(key: &HeaderKey, value: &ValueMatch, facts: &RequestFacts<'_>) -> bool {
    let name = match key {
        HeaderKey::Header(name) => name,
        HeaderKey::Claim(path) => return claims(path, value, facts),
    };
    match value {
        ValueMatch::Present => facts.headers.contains_key(name),
        ValueMatch::Value(value) => facts.values(name).any(|it| value.matches(it)),
    }
}

/// Whether a token claims this. Of a list one entry is enough; only strings are compared (Istio).
fn claims(path: &[Arc<str>], value: &ValueMatch, facts: &RequestFacts<'_>) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    let top = facts.claims.and_then(|it| it.get(&**first));
    let Some(found) = rest.iter().try_fold(top, |at, name| Some(at?.as_object()?.get(&**name))).flatten()
    else {
        return false;
    };
    let ValueMatch::Value(asked) = value else { return true };
    match found {
        Value::String(text) => asked.matches(text),
        Value::Array(all) => all.iter().filter_map(Value::as_str).any(|it| asked.matches(it)),
        _ => false,
    }
}

/// The same for `withoutHeaders`, where a header that is not there counts as an empty one.
fn has_or_lacks(key: &HeaderKey, value: &ValueMatch, facts: &RequestFacts<'_>) -> bool {
    let (HeaderKey::Header(name), ValueMatch::Value(asked)) = (key, value) else {
        return has(key, value, facts);
    };
    facts.values(name).any(|it| asked.matches(it)) || !facts.headers.contains_key(name) && asked.matches("")
}
