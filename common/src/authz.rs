//! Decides whether policy admits a connection: a pure function of the policies in force and the connection's facts.
//!
//! Order as Istio's: undecodable policies refuse, then STRICT, then DENY, then ALLOW. Without a verified identity no
//! condition on identity holds, and every `not` of one does.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::refusal::Refusal;
use crate::snapshot::model::{EffectivePolicy, Match, MtlsMode, Policy, ServiceAccountMatch, StringMatch};
use crate::spiffe::Identity;

#[cfg(test)]
mod tests;

/// Policies that one refusal names.
pub const MAX_POLICIES_NAMED: usize = 3;

/// The facts that policies look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection<'a> {
    /// The verified identity of the caller; `None` for plaintext.
    pub source_identity: Option<&'a Identity>,
    /// The caller's address, as the network layer (or a trusted peer) states it.
    pub source: SocketAddr,
    /// The pod's own address and real target port, never 15008.
    pub destination: SocketAddr,
}

/// Judges one connection.
///
/// # Errors
/// The [`Refusal`] that names the policy.
pub fn evaluate(policy: &EffectivePolicy, connection: &Connection<'_>) -> Result<(), Refusal> {
    if let Some(unknown) = policy.unknown.first() {
        return Err(Refusal::PolicyUnknown(unknown.clone()));
    }
    if connection.source_identity.is_none() {
        plaintext(policy, connection.destination.port())?;
    }
    let facts = Facts::of(connection);
    if let Some(denied) = enforced(&policy.deny).find(|it| facts.meet(it)) {
        return Err(Refusal::DeniedByPolicy(denied.key.clone()));
    }
    if enforced(&policy.allow).next().is_none() || enforced(&policy.allow).any(|it| facts.meet(it)) {
        return Ok(());
    }
    Err(Refusal::NoAllowPolicyMatched(names(enforced(&policy.allow))))
}

/// The policies by name: the first few, and how many more there are.
fn names<'p>(policies: impl Iterator<Item = &'p Arc<Policy>>) -> Arc<str> {
    let mut all = policies.map(|it| &*it.key);
    let mut shown = all.by_ref().take(MAX_POLICIES_NAMED).collect::<Vec<_>>().join(", ");
    match all.count() {
        0 => {}
        more => shown.push_str(&format!(" and {more} more")),
    }
    shown.into()
}

/// The dry-run policy that would refuse a connection which is admitted now: the DENY policy that matches, or the first
/// ALLOW policy, when no ALLOW policy of either sort would match.
pub fn would_refuse(policy: &EffectivePolicy, connection: &Connection<'_>) -> Option<Arc<str>> {
    let mut denying = policy.deny.iter().filter(|it| it.dry_run);
    let first_allowing = policy.allow.iter().find(|it| it.dry_run);
    if first_allowing.is_none() && denying.clone().next().is_none() {
        return None;
    }
    evaluate(policy, connection).ok()?;
    let facts = Facts::of(connection);
    if let Some(denied) = denying.find(|it| facts.meet(it)) {
        return Some(denied.key.clone());
    }
    let admitted = policy.allow.iter().any(|it| facts.meet(it));
    first_allowing.filter(|_| !admitted).map(|it| it.key.clone())
}

/// Whether a policy has a rule for this connection.
pub fn matches(policy: &Policy, connection: &Connection<'_>) -> bool {
    Facts::of(connection).meet(policy)
}

fn enforced(policies: &[Arc<Policy>]) -> impl Iterator<Item = &Arc<Policy>> {
    policies.iter().filter(|it| !it.dry_run)
}

/// Judges whether plaintext is taken on a port of the pod at all (PeerAuthentication), whatever else policy says of it.
///
/// # Errors
/// The [`Refusal`] that names the policy.
pub fn plaintext(policy: &EffectivePolicy, port: u16) -> Result<(), Refusal> {
    if let Some(unknown) = policy.unknown.first() {
        return Err(Refusal::PolicyUnknown(unknown.clone()));
    }
    let peers = &policy.peer_authentication;
    let own = peers.ports.iter().find(|(it, ..)| *it == port);
    let (mode, decided_by) =
        own.map_or((peers.mode, &peers.decided_by), |(_, mode, decided_by)| (*mode, decided_by));
    match mode {
        MtlsMode::Strict => Err(Refusal::PlaintextNotAllowed(decided_by.clone())),
        MtlsMode::Permissive => Ok(()),
    }
}

/// The connection in the forms that conditions compare. Addresses are canonical, so that an IPv4 peer on an IPv6
/// socket is the IPv4 peer it is.
struct Facts<'a> {
    identity: Option<&'a Identity>,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
}

impl<'a> Facts<'a> {
    fn of(connection: &Connection<'a>) -> Self {
        Self {
            identity: connection.source_identity,
            source: connection.source.ip().to_canonical(),
            destination: connection.destination.ip().to_canonical(),
            port: connection.destination.port(),
        }
    }

    /// Whether any rule holds.
    fn meet(&self, policy: &Policy) -> bool {
        policy.rules.iter().any(|clauses| clauses.iter().all(|matches| matches.iter().any(|it| self.fit(it))))
    }

    /// Whether every list holds. A match without any never does.
    fn fit(&self, it: &Match) -> bool {
        let namespace = |id: &Identity, want: &StringMatch| fits(want, &[&id.namespace]);
        let account = |id: &Identity, want: &ServiceAccountMatch| {
            id.namespace == want.namespace && id.service_account == want.service_account
        };
        *it != Match::default()
            && self.identified(&it.namespaces, &it.not_namespaces, namespace)
            && self.identified(&it.principals, &it.not_principals, is_principal)
            && self.identified(&it.service_accounts, &it.not_service_accounts, account)
            && among(&it.source_ips, &it.not_source_ips, |net: &IpNet| net.contains(&self.source))
            && among(&it.destination_ips, &it.not_destination_ips, |net| net.contains(&self.destination))
            && among(&it.destination_ports, &it.not_destination_ports, |port| *port == self.port)
    }

    fn identified<T>(&self, any: &[T], none: &[T], holds: impl Fn(&Identity, &T) -> bool) -> bool {
        among(any, none, |want| self.identity.is_some_and(|identity| holds(identity, want)))
    }
}

fn among<T>(any: &[T], none: &[T], holds: impl Fn(&T) -> bool) -> bool {
    (any.is_empty() || any.iter().any(&holds)) && !none.iter().any(&holds)
}

/// Whether an identity is the principal asked for. Compares `<trust domain>/ns/<namespace>/sa/<account>` without writing it out.
pub fn is_principal(identity: &Identity, want: &StringMatch) -> bool {
    let Identity { trust_domain, namespace, service_account } = identity;
    fits(want, &[trust_domain, "/ns/", namespace, "/sa/", service_account])
}

/// Whether a text is as asked.
pub fn is_text(want: &StringMatch, text: &str) -> bool {
    fits(want, &[text])
}

/// Whether the text made of these pieces fits.
fn fits(want: &StringMatch, pieces: &[&str]) -> bool {
    let bytes = || pieces.iter().flat_map(|piece| piece.bytes());
    let reversed = || pieces.iter().rev().flat_map(|piece| piece.bytes().rev());
    match want {
        StringMatch::Presence => bytes().next().is_some(),
        StringMatch::Exact(exact) => bytes().eq(exact.bytes()),
        StringMatch::Prefix(prefix) => starts(bytes(), prefix.bytes()),
        StringMatch::Suffix(suffix) => starts(reversed(), suffix.bytes().rev()),
    }
}

fn starts(mut text: impl Iterator<Item = u8>, with: impl Iterator<Item = u8>) -> bool {
    with.into_iter().all(|byte| text.next() == Some(byte))
}
