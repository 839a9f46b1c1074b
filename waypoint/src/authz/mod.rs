//! Whether AuthorizationPolicy lets a request, or a connection, through: a pure function of the policies that are attached
//! to what was called and of the facts.
//!
//! Knows no routes and no endpoints. Policies and routes look at the same canonical path; what a server behind could read
//! differently from what a policy looked at is refused. The surprising thing: policies with a `selector`, and those with
//! neither selector nor `targetRefs`, are none of a waypoint's business, as with Istio; the `ztunnel` of the pod enforces
//! them, to which the waypoint is the caller.
//!
//! # Where it differs from Istio and Envoy
//!
//! - `policy-unreadable`: a policy that cannot be read refuses everything it may concern. Istio's API server turns it away,
//!   and what was applied past it is left out.
//! - `policy-custom-providers`: policies of action CUSTOM may name several providers; each is asked, and each has to agree.
//!   Istio refuses what several would be asked about. How they are asked: `authorizer`.
//! - `policy-custom-tcp`: a connection that is not HTTP is refused where a CUSTOM policy matches it, whatever its provider
//!   speaks; Istio asks those of gRPC.
//! - `policy-parameters`: where a policy looks at paths, one with `;` is refused with 400: some servers take what follows it
//!   off before they look.
//! - `policy-escaped-twice`: the same of a path with an escape within an escape (`%2561`), which some servers resolve twice.
//! - `policy-underscores`: where a policy looks at a header `x-a`, a request with `x_a` is refused with 400, and the other
//!   way round: some servers take the two for one.
//! - `policy-host-port`: a host that is asked for without a port is meant at every port, and a dot behind it is passed over.
//!   Envoy compares the authority as it stands, so that `Host: name:1` gets round a DENY for `name`.
//! - `policy-template-characters`: `{*}` and `{**}` take `=` and `*` too, which Envoy's leave.
//! - `policy-path-form`: the paths of rules are brought into the canonical form first, as requests are.
//! - `policy-remote-ip`: `x-forwarded-for` is believed of the pods of gateways. Of everybody else the address is their own.
//! - `policy-envoy-filters`: `experimental.envoy.filters...` holds for nobody in an ALLOW, and for everybody elsewhere.

pub(crate) mod called;
mod compile;
pub mod live;
mod remote;
mod rule;
mod set;
pub mod standing;
mod strings;
mod tables;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use common::refusal::Refusal;
use common::snapshot::model::Workload;
use common::spiffe::Identity;

use crate::routes::RequestFacts;

pub use self::compile::policy;
pub use self::rule::Policy;
pub use self::set::PolicySet;
pub(crate) use self::set::are_twins;
pub use self::tables::Policies;

/// The claims of a verified token.
pub type Claims = serde_json::Map<String, serde_json::Value>;

/// What policies look at, borrowed from whoever holds it.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The verified identity of the caller; `None` where nothing is proved.
    pub identity: Option<&'a Identity>,
    /// The workload that calls, known by its verified identity and address.
    pub caller: Option<&'a Workload>,
    /// The caller's own address.
    pub source: IpAddr,
    /// The address that was called.
    pub destination: IpAddr,
    /// The port of the service that was called.
    pub port: u16,
    /// The server name of a TLS ClientHello.
    pub server_name: Option<&'a str>,
    /// The request; `None` for a connection that is not HTTP, or whose HTTP nobody here sees.
    pub http: Option<HttpFacts<'a>>,
}

/// What only a request has.
#[derive(Debug, Clone, Copy)]
pub struct HttpFacts<'a> {
    /// Method, authority, canonical path and headers.
    pub request: RequestFacts<'a>,
    /// A segment of the path has parameters (`;`), or is escaped twice.
    pub reads_twice: bool,
    /// The claims of its verified token; `None` where it has none.
    pub claims: Option<&'a Claims>,
}

/// Why a request or a connection is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// What may be a policy that applies could not be read; its kind, `namespace/name`.
    Unknown(Arc<str>),
    /// A CUSTOM policy matched and nobody was asked who could agree; Istio's name of the rule.
    Custom(Arc<str>),
    /// A DENY policy matched; Istio's name of the rule.
    Denied(Arc<str>),
    /// There are ALLOW policies and none matched.
    NoneMatched,
    /// A server behind could see something else than the policies do; what, in words.
    Ambiguous(&'static str),
}

impl Denial {
    /// The policy, or the rule of it, that access logs name.
    pub fn policy(&self) -> Option<Arc<str>> {
        match self {
            Self::Unknown(name) | Self::Custom(name) | Self::Denied(name) => Some(name.clone()),
            Self::NoneMatched | Self::Ambiguous(_) => None,
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(policy) => write!(f, "{policy} may apply and could not be read"),
            Self::Custom(rule) => write!(f, "{rule}: CUSTOM, and nobody was asked who could agree"),
            Self::Denied(rule) => write!(f, "denied by {rule}"),
            Self::NoneMatched => f.write_str("allow policies exist, but none matched"),
            Self::Ambiguous(what) => f.write_str(what),
        }
    }
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        match denial {
            Denial::Unknown(policy) => Self::PolicyUnknown(policy),
            Denial::Custom(rule) | Denial::Denied(rule) => Self::DeniedByPolicy(rule),
            Denial::NoneMatched | Denial::Ambiguous(_) => Self::NoAllowPolicyMatched("none".into()),
        }
    }
}

/// What Istio appends to the name of a CUSTOM rule whose provider cannot be asked.
const BAD_CUSTOM: &str = "-deny-due-to-bad-CUSTOM-action";

/// The policies that are in force for what was called.
#[derive(Debug, Clone, Copy, Default)]
pub struct Effective<'p> {
    /// Those that could not be read and may be among them.
    pub unknown: Option<&'p Arc<str>>,
    /// Those attached to the waypoint, and those attached to what was called.
    pub sets: [Option<&'p PolicySet>; 2],
}

impl<'p> Effective<'p> {
    pub(crate) fn sets(&self) -> impl Iterator<Item = &'p PolicySet> + use<'p> {
        self.sets.into_iter().flatten()
    }

    /// The providers that have to agree before anything else is asked, each once. Nothing is allocated where there is none.
    ///
    /// # Errors
    /// The [`Denial`], where nobody needs to be asked.
    pub fn providers(&self, facts: &Facts<'_>) -> Result<Vec<Arc<str>>, Denial> {
        if self.sets().all(|it| it.custom().is_empty()) {
            return Ok(Vec::new());
        }
        self.certain(facts)?;
        let mut providers: Vec<Arc<str>> = Vec::new();
        for (policy, rule) in self.custom(facts) {
            match policy.provider() {
                Some(provider) if providers.contains(provider) => {}
                Some(provider) => providers.push(provider.clone()),
                None => return Err(Denial::Custom(format!("{}{BAD_CUSTOM}", rule.name()).into())),
            }
        }
        Ok(providers)
    }

    /// That everything about it can be known: nothing unreadable, and nothing that could be read in two ways.
    fn certain(&self, facts: &Facts<'_>) -> Result<(), Denial> {
        if let Some(unknown) = self.unknown {
            return Err(Denial::Unknown(unknown.clone()));
        }
        if let Some(http) = &facts.http {
            self.sets().try_for_each(|set| set.unambiguous(http))?;
        }
        Ok(())
    }

    /// The CUSTOM policies that match. A dry run of them is nothing, as in Istio.
    fn custom<'f>(
        &self,
        facts: &'f Facts<'_>,
    ) -> impl Iterator<Item = (&'p Arc<Policy>, &'p rule::Rule)> + use<'p, 'f, '_> {
        let enforced = self.sets().flat_map(PolicySet::custom).filter(|it| !it.dry_run());
        enforced.filter_map(|it| it.matching(facts).map(|rule| (it, rule)))
    }

    /// Whether a request or connection is let through: nothing unreadable, then CUSTOM, DENY, ALLOW. Of CUSTOM nobody was
    /// asked but the providers that `agreed`.
    ///
    /// # Errors
    /// The [`Denial`] that names the policy.
    pub fn judge(&self, facts: &Facts<'_>, agreed: &[Arc<str>]) -> Result<(), Denial> {
        self.certain(facts)?;
        let first = |of: fn(&PolicySet) -> &[Arc<Policy>]| {
            self.sets().flat_map(of).filter(|it| !it.dry_run()).find_map(|it| it.matching(facts))
        };
        let has_agreed = |it: &Arc<Policy>| it.provider().is_some_and(|it| agreed.contains(it));
        if let Some((_, rule)) = self.custom(facts).find(|(policy, _)| !has_agreed(policy)) {
            return Err(Denial::Custom(format!("{}{BAD_CUSTOM}", rule.name()).into()));
        }
        if let Some(rule) = first(PolicySet::deny) {
            return Err(Denial::Denied(rule.name()));
        }
        let allowed = first(PolicySet::allow).is_some();
        let asks = || self.sets().flat_map(PolicySet::allow).any(|it| !it.dry_run());
        if allowed || !asks() { Ok(()) } else { Err(Denial::NoneMatched) }
    }

    /// The first AUDIT policy that matches.
    pub fn audited(&self, facts: &Facts<'_>) -> Option<Arc<str>> {
        self.sets().flat_map(PolicySet::audit).find_map(|it| it.matching(facts)).map(rule::Rule::name)
    }

    /// The dry-run policy that would refuse what is let through now: the rule that matches, or the first ALLOW policy
    /// when no ALLOW policy of either sort would match.
    pub fn would_refuse(&self, facts: &Facts<'_>) -> Option<Arc<str>> {
        if !self.sets().any(PolicySet::has_dry_run) {
            return None;
        }
        let refusing = self.sets().flat_map(PolicySet::deny);
        if let Some(rule) = refusing.filter(|it| it.dry_run()).find_map(|it| it.matching(facts)) {
            return Some(rule.name());
        }
        let allowing = || self.sets().flat_map(PolicySet::allow);
        let first = allowing().find(|it| it.dry_run())?;
        allowing().all(|it| it.matching(facts).is_none()).then(|| first.key().clone())
    }
}
