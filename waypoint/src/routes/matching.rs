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
        Self { rules: rules.into(), index: Arc::new(index) }
    }

    /// What a request falls under. Allocates nothing.
    pub fn find(&self, facts: &RequestFacts<'_>) -> Found<'_> {
        if self.rules.is_empty() {
            return Found::Service;
        }
        let found = self.index.first(facts, |at| self.rules[at].stated().is_none_or(|it| holds(it, facts)));
        found.map_or(Found::NoRoute, |at| Found::Rule(&self.rules[at]))
    }

    /// Every rule, in the order in which they are asked.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

/// Whether everything that a match states holds. Its port and gateways were looked at when it was compiled.
pub(crate) fn holds(stated: &HttpMatch, facts: &RequestFacts<'_>) -> bool {
    let is = |stated: &Option<StringMatch>, value: &str| stated.as_ref().is_none_or(|it| it.matches(value));
    is(&stated.path, facts.path)
        && (!stated.is_grpc || facts.is_grpc())
        && is(&stated.method, facts.method)
        && is(&stated.scheme, facts.scheme)
        && is(&stated.authority, facts.authority)
        && comes_from(&stated.source_labels, stated.source_namespace.as_deref(), facts.source)
        && stated.headers.iter().all(|(key, value)| has(key, value, facts))
        && !stated.without_headers.iter().any(|(key, value)| has_or_lacks(key, value, facts))
        && stated.query.iter().all(|(name, value)| {
            let found = facts.parameter(name);
            match value {
                ValueMatch::Present => found.is_some(),
                ValueMatch::Value(value) => found.is_some_and(|it| value.matches(it)),
            }
        })
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
