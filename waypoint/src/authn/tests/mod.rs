//! Rules and requests in, claims or refusals out.

mod binding;
mod carrying;
mod remembering;
pub(crate) mod signer;
mod verifying;

use std::sync::{Arc, Mutex};

use common::config::Resource;
use common::config::authentication::{KeySource, RequestAuthentication};
use common::config::decode::yaml;
use common::config::names::Names;
use http::{HeaderMap, HeaderName};
use serde_json::json;

use self::signer::{Signer, signer};
use super::places::Carrier;
use super::refusal::Refusal;
use super::remote::{Keyring, RemoteKeys};
use super::rules::{Rule, Rules};
use super::verified::Cache;
use super::{Authenticated, Stopped, authenticate};

/// The time of all tests.
const NOW: u64 = 1_800_000_000;

/// Nobody fetches anything.
pub(crate) struct NoKeyring;

impl Keyring for NoKeyring {
    fn fetched(&self, source: &KeySource, _timeout: std::time::Duration) -> Arc<RemoteKeys> {
        panic!("{source:?} is asked for")
    }
}

/// What `jwtRules` state, in YAML's flow style.
fn stated(rules: &str) -> Arc<RequestAuthentication> {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: a, namespace: shop}}\n\
         spec:\n  targetRefs: [{{kind: Service, name: web}}]\n  jwtRules: [{rules}]\n"
    );
    let decoded = yaml::decode(&"a.yaml".into(), text.as_bytes(), &mut Names::default());
    assert!(decoded.rejected.is_empty(), "{:#?}\n{text}", decoded.rejected);
    match &decoded.stated[0].resource {
        Resource::RequestAuthentication(it) => it.clone(),
        other => panic!("{other:?}"),
    }
}

fn rules(text: &str) -> Rules {
    Rules::new(stated(text).rules.iter().map(|it| Arc::new(Rule::new(it, &NoKeyring))).collect())
}

/// A rule for tokens of `me` by [`signer`], with more in it.
fn rule_with(more: &str) -> String {
    let jwks = signer().jwks("k");
    format!("{{issuer: me, jwks: '{jwks}'{more}}}")
}

/// A good token of `me`, with further claims.
pub(crate) fn token(more: serde_json::Value) -> String {
    token_of(signer(), more)
}

fn token_of(signer: &Signer, more: serde_json::Value) -> String {
    let mut claims = json!({ "iss": "me", "sub": "you", "exp": NOW + 600 });
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    signer.token("k", &claims)
}

/// A request, as far as it matters.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    headers: HeaderMap,
    query: Option<String>,
}

impl Asked {
    fn with(fields: &[(&str, &str)]) -> Self {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        Self { headers, query: None }
    }

    pub(crate) fn bearing(token: &str) -> Self {
        Self::with(&[("authorization", &format!("Bearer {token}"))])
    }

    fn query(mut self, query: &str) -> Self {
        self.query = Some(query.to_owned());
        self
    }

    pub(crate) fn judge(&mut self, rules: &Rules) -> Result<Authenticated, Refusal> {
        self.judge_at(NOW, rules, &Mutex::default())
    }

    fn judge_at(&mut self, now: u64, rules: &Rules, cache: &Mutex<Cache>) -> Result<Authenticated, Refusal> {
        let mut carrier = Carrier { headers: &mut self.headers, query: &mut self.query };
        authenticate(rules, &mut carrier, cache, now).map_err(|stopped| match stopped {
            Stopped::Refused(refusal) => refusal,
            Stopped::Pending(keys) => panic!("{keys:?} is waited for"),
        })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|it| it.to_str().unwrap())
    }
}
