//! Policies as an operator would write them, and requests to ask about.

mod attachment;
mod fields;
mod forms;
mod order;
mod paths;
mod random;

use std::sync::Arc;

use common::config::Resource;
use common::config::decode::yaml;
use common::config::names::Names;
use common::snapshot::model::Workload;
use common::spiffe::Identity;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::{Claims, Denial, Effective, Facts, HttpFacts, PolicySet, policy};
use crate::routes::{Malformed, RequestFacts, canonical_path};

/// A policy `p` of the namespace `shop`, attached to the service `web`.
fn stated(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {spec}\n"
    )
}

/// Compiles policies of specs such as `{action: DENY, rules: [{}]}`.
fn set(specs: &[&str]) -> PolicySet {
    let text: String = specs.iter().enumerate().map(|(at, spec)| stated(&format!("p{at}"), spec)).collect();
    read(&text)
}

fn read(text: &str) -> PolicySet {
    let decoded = yaml::decode(&Arc::from("p.yaml"), text.as_bytes(), &mut Names::default());
    assert!(decoded.rejected.is_empty(), "{:#?}\n{text}", decoded.rejected);
    let compiled = decoded.stated.into_iter().map(|it| match it.resource {
        Resource::AuthorizationPolicy(it) => Arc::new(policy(&it)),
        other => panic!("{other:?} is no policy"),
    });
    PolicySet::new(&compiled.collect::<Vec<_>>())
}

/// The policies, attached to what is called.
fn effective(set: &PolicySet) -> Effective<'_> {
    Effective { unknown: None, sets: [None, Some(set)] }
}

/// A request, or a connection, to ask about.
#[derive(Debug, Clone)]
struct Asking {
    method: String,
    authority: String,
    target: String,
    headers: HeaderMap,
    identity: Option<Identity>,
    caller: Option<Arc<Workload>>,
    source: String,
    destination: String,
    port: u16,
    server_name: Option<String>,
    claims: Option<Claims>,
    is_http: bool,
}

impl Default for Asking {
    /// `GET /orders/1` of the account `web` in `shop`.
    fn default() -> Self {
        Self {
            method: "GET".into(),
            authority: "web.shop".into(),
            target: "/orders/1".into(),
            headers: HeaderMap::new(),
            identity: Some(Identity::new("cluster.local", "shop", "web")),
            caller: None,
            source: "10.0.0.9".into(),
            destination: "10.96.0.10".into(),
            port: 80,
            server_name: None,
            claims: None,
            is_http: true,
        }
    }
}

impl Asking {
    fn method(mut self, method: &str) -> Self {
        self.method = method.into();
        self
    }

    fn path(mut self, target: &str) -> Self {
        self.target = target.into();
        self
    }

    fn host(mut self, authority: &str) -> Self {
        self.authority = authority.into();
        self
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        self
    }

    fn from(mut self, identity: Option<&str>) -> Self {
        self.identity = identity.map(|it| Identity::parse(it).unwrap());
        self
    }

    fn at(mut self, source: &str) -> Self {
        self.source = source.into();
        self
    }

    fn token(mut self, claims: Value) -> Self {
        self.claims = claims.as_object().cloned();
        self
    }

    fn tcp(mut self) -> Self {
        self.is_http = false;
        self
    }

    /// Asks with the facts of it; as malformed as it is on the wire.
    fn ask<R>(&self, ask: impl FnOnce(&Facts<'_>) -> R) -> Result<R, Malformed> {
        let canonical = canonical_path(&self.target)?;
        let request = RequestFacts {
            method: &self.method,
            scheme: "http",
            authority: &self.authority,
            path: &canonical.path,
            query: canonical.query,
            headers: &self.headers,
            port: self.port,
            source: self.caller.as_deref(),
            claims: None,
        };
        let reads_twice = canonical.reads_twice;
        let http = HttpFacts { request, reads_twice, claims: self.claims.as_ref() };
        Ok(ask(&Facts {
            identity: self.identity.as_ref(),
            caller: self.caller.as_deref(),
            source: self.source.parse().unwrap(),
            destination: self.destination.parse().unwrap(),
            port: self.port,
            server_name: self.server_name.as_deref(),
            http: self.is_http.then_some(http),
        }))
    }

    fn judge(&self, set: &PolicySet) -> Result<(), Denial> {
        self.ask(|facts| effective(set).judge(facts, &[])).unwrap()
    }

    /// Whether a rule matches it, the same whether it lets in or keeps out.
    fn falls_under(&self, rule: &str) -> bool {
        let allow = set(&[&format!("{{rules: [{rule}]}}")]);
        let deny = set(&[&format!("{{action: DENY, rules: [{rule}]}}")]);
        let allowed = self.judge(&allow).is_ok();
        assert_eq!(self.judge(&deny).is_err(), allowed, "{rule}: {self:?}");
        allowed
    }
}
