//! One workload's certificate, ready to use: everything a handshake needs is built once, here.

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::validate::Leaf;
use crate::spiffe::Identity;
use crate::tls::{Client, Credentials, PeerCertificateError, PeerRole, TrustRoots};

/// The certificate of one identity with its TLS configurations. Never changed: a renewal makes another.
///
/// A connection that began under it keeps it alive, with its key, until the connection ends.
pub struct WorkloadCertificate {
    /// Whose it is.
    pub identity: Identity,
    /// For connections that come in.
    pub server: Arc<ServerConfig>,
    /// For connections that go out.
    pub client: Client,
    /// Dates and serial number.
    pub leaf: Leaf,
    /// The roots peers are judged by under this certificate.
    pub roots: Arc<TrustRoots>,
    /// When it was taken into use, wall time.
    pub received: UnixTime,
    credentials: Credentials,
}

impl WorkloadCertificate {
    pub(super) fn new(
        identity: Identity,
        leaf: Leaf,
        certified: Arc<CertifiedKey>,
        roots: Arc<TrustRoots>,
        clock: Arc<dyn TimeProvider>,
        received: UnixTime,
    ) -> Result<Self, rustls::Error> {
        let trust_domain = identity.trust_domain.clone();
        let credentials = Credentials { certified, roots: roots.clone(), trust_domain, clock };
        let (server, client) = (credentials.server()?, credentials.client()?);
        Ok(Self { identity, server, client, leaf, roots, received, credentials })
    }

    /// The same certificate and key, judging peers by `roots`.
    pub(super) fn with_roots(&self, roots: Arc<TrustRoots>) -> Result<Self, rustls::Error> {
        let (certified, clock) = (self.credentials.certified.clone(), self.credentials.clock.clone());
        Self::new(self.identity.clone(), self.leaf.clone(), certified, roots, clock, self.received)
    }

    /// The chain shown to peers, leaf first, without the root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.credentials.certified.cert
    }

    /// Who `peer` is to this workload: judged as its chain would be in a handshake in which it had the part of `role`.
    /// That it holds the key of its certificate was made sure of when it was issued.
    ///
    /// # Errors
    /// Why this side would end such a handshake.
    pub fn judge(&self, peer: &Self, role: PeerRole) -> Result<Identity, PeerCertificateError> {
        let (leaf, intermediates) = peer.chain().split_first().ok_or(PeerCertificateError::Missing)?;
        let unknown = || PeerCertificateError::Chain("this node's clock cannot be read".to_owned());
        let now = self.credentials.clock.current_time().ok_or_else(unknown)?;
        self.credentials.verifier().verify(leaf, intermediates, now, role)
    }

    /// Whether it may still be shown at `now`. The start of its validity is for the peer to judge: a clock of ours
    /// that was set back must not stop traffic that every peer would accept.
    pub fn usable_at(&self, now: UnixTime) -> bool {
        now < self.leaf.not_after
    }
}

impl fmt::Debug for WorkloadCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadCertificate")
            .field("identity", &self.identity)
            .field("leaf", &self.leaf)
            .finish_non_exhaustive()
    }
}
