//! Decides whether policy admits a connection: a pure function of the policies in force and the connection's facts.
//!
//! Order as Istio's: undecodable policies refuse, then STRICT, then DENY, then ALLOW.

use std::net::SocketAddr;

use crate::refusal::Refusal;
use crate::snapshot::model::EffectivePolicy;
use crate::spiffe::Identity;

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
    let _ = connection;
    if let Some(unknown) = policy.unknown.first() {
        return Err(Refusal::PolicyUnknown(unknown.clone()));
    }
    Err(Refusal::NotReady)
}
