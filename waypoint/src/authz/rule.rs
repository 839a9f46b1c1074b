//! A policy ready to be asked, and whether a rule of it matches. Allocates nothing.

#[path = "unmet.rs"]
mod unmet;

use std::net::IpAddr;
use std::sync::Arc;

use common::authz::is_principal;
use common::config::ObjectName;
use common::config::path_template::PathTemplate;
use common::config::security::{
    Accounts, Addresses, Asked, PolicyAction, Ports, RequestPrincipal, RequestPrincipals, Strings,
};
use common::snapshot::model::StringMatch;
use common::spiffe::Identity;
use http::HeaderName;
use serde_json::Value;

use super::strings::{Host, fits};
use super::{Claims, Facts, HttpFacts, remote};

/// Claims that hold several words in one string (Istio's default for them).
const CLAIMS_OF_WORDS: [&str; 2] = ["scope", "permission"];

/// An AuthorizationPolicy, compiled.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub(super) key: Arc<str>,
    pub(super) action: PolicyAction,
    pub(super) dry_run: bool,
    pub(super) provider: Option<Arc<str>>,
    pub(super) rules: Box<[Rule]>,
}

/// One of its rules: `from`, `to` and each of `when` must hold. With none of them it always matches.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rule {
    /// Istio's name of it.
    pub(super) name: Arc<str>,
    /// Any of it is known of HTTP requests alone.
    pub(super) needs_http: bool,
    pub(super) from: Box<[Source]>,
    pub(super) to: Box<[Operation]>,
    pub(super) when: Box<[Condition]>,
}

/// A caller.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Source {
    pub(super) principals: Asked<Principal>,
    pub(super) namespaces: Strings,
    pub(super) accounts: Accounts,
    pub(super) addresses: Addresses,
    pub(super) remote: Addresses,
    pub(super) tokens: RequestPrincipals,
}

/// What is called.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Operation {
    pub(super) ports: Ports,
    pub(super) hosts: Asked<Host>,
    pub(super) methods: Strings,
    pub(super) paths: Asked<Path>,
}

/// A principal that is asked for. Whole ones are compared by their parts.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Principal {
    Whole(Identity),
    Part(StringMatch),
}

/// A path that is asked for, in canonical form.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Path {
    Text(StringMatch),
    Template(PathTemplate),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    SourceIp(Addresses),
    SourceNamespace(Strings),
    SourcePrincipal(Asked<Principal>),
    SourceAccount(Accounts),
    DestinationIp(Addresses),
    DestinationPort(Ports),
    RemoteIp(Addresses),
    ServerName(Strings),
    /// The authority, whether it is called so or `host`.
    Authority(Asked<Host>),
    Method(Strings),
    Header(HeaderName, Strings),
    Token(RequestPrincipals),
    Audiences(Strings),
    Presenter(Strings),
    Claim(Box<[Arc<str>]>, Strings),
    /// Known to nobody.
    Unknown,
}

impl Policy {
    /// `namespace/name`.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// Annotation `istio.io/dry-run: "true"`.
    pub fn dry_run(&self) -> bool {
        self.dry_run
    }

    /// Whom action CUSTOM asks.
    pub fn provider(&self) -> Option<&Arc<str>> {
        self.provider.as_ref()
    }

    /// What it does.
    pub fn action(&self) -> PolicyAction {
        self.action
    }

    /// The first rule that matches.
    pub(super) fn matching(&self, facts: &Facts<'_>) -> Option<&Rule> {
        self.rules.iter().find(|it| it.matches(facts, self.action == PolicyAction::Allow))
    }

    /// Which of its rules is the first that matches.
    pub(crate) fn matched(&self, facts: &Facts<'_>) -> Option<usize> {
        let rule = self.matching(facts)?;
        self.rules.iter().position(|it| std::ptr::eq(it, rule))
    }

    /// The headers it looks at.
    pub(super) fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.rules.iter().flat_map(|it| &it.when).filter_map(|it| match it {
            Condition::Header(name, _) => Some(name),
            _ => None,
        })
    }

    /// Whether it looks at paths.
    pub(super) fn looks_at_paths(&self) -> bool {
        self.rules.iter().flat_map(|it| &it.to).any(|it| !it.paths.is_empty())
    }
}

impl Rule {
    pub(super) fn name(&self) -> Arc<str> {
        self.name.clone()
    }

    /// What cannot be known of a connection that is not HTTP leaves a rule out that lets in, and is left out of one that
    /// keeps out: whichever admits less.
    fn matches(&self, facts: &Facts<'_>, lets_in: bool) -> bool {
        if lets_in && self.needs_http && facts.http.is_none() {
            return false;
        }
        (self.from.is_empty() || self.from.iter().any(|it| it.holds(facts)))
            && (self.to.is_empty() || self.to.iter().any(|it| it.holds(facts)))
            && self.when.iter().all(|it| it.holds(facts, lets_in))
    }
}

impl Source {
    fn holds(&self, facts: &Facts<'_>) -> bool {
        caller(&self.principals, facts, Principal::is)
            && caller(&self.namespaces, facts, in_namespace)
            && caller(&self.accounts, facts, is_account)
            && within(&self.addresses, || facts.source)
            && within(&self.remote, || remote::address(facts))
            && facts.http.as_ref().is_none_or(|http| token(&self.tokens, http.claims))
    }
}

impl Operation {
    fn holds(&self, facts: &Facts<'_>) -> bool {
        self.ports.fits(|it| *it == facts.port) && facts.http.as_ref().is_none_or(|http| self.is_of(http))
    }

    fn is_of(&self, http: &HttpFacts<'_>) -> bool {
        let request = &http.request;
        self.methods.fits(|it| fits(it, request.method.as_bytes()))
            && self.paths.fits(|it| it.fits(request.path))
            && self.hosts.fits(|it| it.fits(request.authority))
    }
}

impl Condition {
    fn holds(&self, facts: &Facts<'_>, lets_in: bool) -> bool {
        match self {
            Self::SourceIp(asked) => within(asked, || facts.source),
            Self::SourceNamespace(asked) => caller(asked, facts, in_namespace),
            Self::SourcePrincipal(asked) => caller(asked, facts, Principal::is),
            Self::SourceAccount(asked) => caller(asked, facts, is_account),
            Self::DestinationIp(asked) => within(asked, || facts.destination),
            Self::DestinationPort(asked) => asked.fits(|it| *it == facts.port),
            Self::RemoteIp(asked) => within(asked, || remote::address(facts)),
            Self::ServerName(asked) => {
                let name = facts.server_name.unwrap_or_default();
                asked.fits(|it| fits(it, name.as_bytes()))
            }
            Self::Unknown => !lets_in,
            of_request => facts.http.as_ref().is_none_or(|http| of_request.is_of(http)),
        }
    }

    fn is_of(&self, http: &HttpFacts<'_>) -> bool {
        let request = &http.request;
        match self {
            Self::Authority(asked) => asked.fits(|it| it.fits(request.authority)),
            Self::Method(asked) => asked.fits(|it| fits(it, request.method.as_bytes())),
            Self::Header(name, asked) => asked.fits(|it| match it {
                // An empty header is there all the same.
                StringMatch::Presence => request.headers.contains_key(name),
                it => request.values(name).any(|value| fits(it, value)),
            }),
            Self::Token(asked) => token(asked, http.claims),
            Self::Audiences(asked) => claim(&["aud"], asked, http.claims),
            Self::Presenter(asked) => claim(&["azp"], asked, http.claims),
            Self::Claim(path, asked) => claim(path, asked, http.claims),
            _ => true,
        }
    }
}

impl Principal {
    pub(super) fn new(stated: &StringMatch) -> Self {
        let StringMatch::Exact(text) = stated else { return Self::Part(stated.clone()) };
        Identity::parse(&format!("spiffe://{text}")).map_or_else(|_| Self::Part(stated.clone()), Self::Whole)
    }

    fn is(&self, identity: &Identity) -> bool {
        match self {
            Self::Whole(whole) => whole == identity,
            Self::Part(part) => is_principal(identity, part),
        }
    }
}

impl Path {
    fn fits(&self, path: &str) -> bool {
        match self {
            Self::Text(text) => fits(text, path.as_bytes()),
            Self::Template(template) => template.matches(path),
        }
    }
}

/// Without a verified identity nothing asked of it holds, and nothing that must not be does.
fn caller<T>(asked: &Asked<T>, facts: &Facts<'_>, holds: fn(&T, &Identity) -> bool) -> bool {
    asked.fits(|it| facts.identity.is_some_and(|identity| holds(it, identity)))
}

fn in_namespace(asked: &StringMatch, identity: &Identity) -> bool {
    fits(asked, identity.namespace.as_bytes())
}

fn is_account(asked: &ObjectName, identity: &Identity) -> bool {
    asked.namespace == identity.namespace && asked.name == identity.service_account
}

fn within(asked: &Addresses, address: impl FnOnce() -> IpAddr) -> bool {
    if asked.is_empty() {
        return true;
    }
    let address = address();
    asked.fits(|it| it.contains(&address))
}

/// Whether the principal of a token is as asked. A token without issuer or subject has none.
fn token(asked: &RequestPrincipals, claims: Option<&Claims>) -> bool {
    if asked.is_empty() {
        return true;
    }
    let text = |name: &str| claims?.get(name)?.as_str();
    let principal = text("iss").zip(text("sub"));
    asked.fits(|RequestPrincipal { issuer, subject }| {
        principal.is_some_and(|(iss, sub)| fits(issuer, iss.as_bytes()) && fits(subject, sub.as_bytes()))
    })
}

/// Whether a claim, or one of a list, is a string as asked.
fn claim<S: AsRef<str>>(path: &[S], asked: &Strings, claims: Option<&Claims>) -> bool {
    let value = claims.and_then(|claims| {
        let (first, inner) = path.split_first()?;
        let outermost = claims.get(first.as_ref());
        inner.iter().fold(outermost, |value, name| value?.as_object()?.get(name.as_ref()))
    });
    let is_of_words = path.len() == 1 && CLAIMS_OF_WORDS.contains(&path[0].as_ref());
    asked.fits(|it| match value {
        Some(Value::String(text)) => {
            fits(it, text.as_bytes()) || is_of_words && text.split(' ').any(|word| fits(it, word.as_bytes()))
        }
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).any(|text| fits(it, text.as_bytes())),
        _ => false,
    })
}
