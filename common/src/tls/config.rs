//! Builds the rustls configurations of one workload, once per certificate and not per connection.
//!
//! Surprising: nothing is ever resumed. A ticket outlives the certificate and the policy it was given under, and a
//! resumed handshake shows no certificate, so a revoked or expired peer would come back; early data would reach the
//! other side before it knows the caller. Tunnels are long-lived and pooled, so full handshakes are rare anyway.

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, ServerConfig};

use super::provider::{ALPN_HTTP2, provider};
use super::roots::TrustRoots;
use super::verify::{ExpectedServer, PeerVerifier};
use crate::spiffe::Identity;

/// What one workload proves itself with, and whom it believes.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The chain, leaf first, and its private key.
    pub certified: Arc<CertifiedKey>,
    /// Where peers' chains must end.
    pub roots: Arc<TrustRoots>,
    /// The trust domain peers must be of: the workload's own.
    pub trust_domain: Arc<str>,
    /// The clock that dates are compared with.
    pub clock: Arc<dyn TimeProvider>,
}

/// The dialling half of a workload's TLS. It needs the expected peer for each connection, see [`super::connect`].
#[derive(Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
    verifier: Arc<PeerVerifier>,
}

impl Credentials {
    /// The accepting half: TLS 1.3, client certificate required, ALPN `h2`, nothing resumed.
    ///
    /// # Errors
    /// Only if the provider has no TLS 1.3 suite, which would be a defect of this crate.
    pub fn server(&self) -> Result<Arc<ServerConfig>, Error> {
        let mut config = ServerConfig::builder_with_details(provider().clone(), self.clock.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(self.verifier())
            .with_cert_resolver(self.certificate());
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Arc::new(config))
    }

    /// The dialling half: TLS 1.3, own certificate shown, ALPN `h2`, no SNI, nothing resumed.
    ///
    /// # Errors
    /// As [`Credentials::server`].
    pub fn client(&self) -> Result<Client, Error> {
        let verifier = self.verifier();
        let nobody = ExpectedServer { verifier: verifier.clone(), expected: None };
        let mut config = ClientConfig::builder_with_details(provider().clone(), self.clock.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(nobody))
            .with_client_cert_resolver(self.certificate());
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.enable_early_data = false;
        Ok(Client { config: Arc::new(config), verifier })
    }

    /// What judges peers in handshakes.
    pub(crate) fn verifier(&self) -> Arc<PeerVerifier> {
        Arc::new(PeerVerifier::new(self.roots.clone(), self.trust_domain.clone()))
    }

    fn certificate(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(self.certified.clone()))
    }
}

impl Client {
    /// The configuration for one connection, whose handshake fails unless `expected` answers.
    ///
    /// A copy of a dozen pointers: nothing beside the key exchange that follows.
    pub(super) fn expecting(&self, expected: &Identity) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.config);
        config.dangerous().set_certificate_verifier(Arc::new(ExpectedServer {
            verifier: self.verifier.clone(),
            expected: Some(expected.clone()),
        }));
        Arc::new(config)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("verifier", &self.verifier).finish_non_exhaustive()
    }
}
