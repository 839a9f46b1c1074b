//! Judges a peer's certificate inside the handshake: chain, dates, usage, one SPIFFE id, trust domain, expected peer.
//!
//! Surprising: the cheap reading of the name comes before the signatures, so that a stranger's certificate costs little.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};

use super::peer::{MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES, PeerCertificateError, identity_in_certificate};
use super::provider::provider;
use super::roots::TrustRoots;
use crate::spiffe::Identity;

/// Which end of the handshake the certificate must be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerRole {
    /// The peer dialled us.
    Client,
    /// We dialled the peer.
    Server,
}

/// Judges peers' certificates against the roots and the trust domain of one workload.
#[derive(Debug)]
pub struct PeerVerifier {
    roots: Arc<TrustRoots>,
    trust_domain: Arc<str>,
}

impl PeerVerifier {
    /// Peers must chain to `roots` and be of `trust_domain`.
    pub fn new(roots: Arc<TrustRoots>, trust_domain: Arc<str>) -> Self {
        Self { roots, trust_domain }
    }

    /// Who the peer is, when its chain proves it at `now`.
    ///
    /// Extended key usage, when present, must allow the role; its absence allows all (RFC 5280, 4.2.1.12).
    ///
    /// # Errors
    /// The first [`PeerCertificateError`] found.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        role: PeerRole,
    ) -> Result<Identity, PeerCertificateError> {
        let certificates = 1 + intermediates.len();
        let bytes = leaf.len() + intermediates.iter().map(|certificate| certificate.len()).sum::<usize>();
        if certificates > MAX_CHAIN_CERTIFICATES || bytes > MAX_CHAIN_BYTES {
            return Err(PeerCertificateError::TooLarge { certificates, bytes });
        }
        let identity = identity_in_certificate(leaf)?;
        if identity.trust_domain != self.trust_domain {
            return Err(PeerCertificateError::OtherTrustDomain {
                theirs: identity,
                ours: self.trust_domain.to_string(),
            });
        }
        self.follow(leaf, intermediates, now, role)?;
        Ok(identity)
    }

    fn follow(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        role: PeerRole,
    ) -> Result<(), PeerCertificateError> {
        let chain_to = |anchors: &[TrustAnchor<'static>]| {
            let usage = match role {
                PeerRole::Client => webpki::KeyUsage::client_auth(),
                PeerRole::Server => webpki::KeyUsage::server_auth(),
            };
            let algorithms = provider().signature_verification_algorithms.all;
            let leaf = webpki::EndEntityCert::try_from(leaf)?;
            leaf.verify_for_usage(algorithms, anchors, intermediates, now, usage, None, None).map(|_| ())
        };
        let anchors = self.roots.anchors_at(now);
        let Err(error) = chain_to(&anchors) else { return Ok(()) };
        let some_left_out = anchors.len() < self.roots.all_anchors().len();
        if some_left_out && chain_to(self.roots.all_anchors()).is_ok() {
            return Err(PeerCertificateError::RootNotValid);
        }
        Err(chain_error(error, role))
    }
}

fn chain_error(error: webpki::Error, role: PeerRole) -> PeerCertificateError {
    match error {
        webpki::Error::CertExpired { time, not_after } => {
            PeerCertificateError::Expired { seconds_ago: time.as_secs().saturating_sub(not_after.as_secs()) }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            PeerCertificateError::NotYetValid { seconds: not_before.as_secs().saturating_sub(time.as_secs()) }
        }
        // Roots of two meshes often have the same name (Istio's is always the trust domain), and then it is the
        // signature that tells them apart.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            PeerCertificateError::UnknownIssuer
        }
        webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension => {
            PeerCertificateError::WrongPurpose(match role {
                PeerRole::Client => "client",
                PeerRole::Server => "server",
            })
        }
        webpki::Error::BadDer => PeerCertificateError::Malformed,
        other => PeerCertificateError::Chain(other.to_string()),
    }
}

/// Carries our own reason through rustls, which sends the peer a `certificate_unknown` alert for it.
fn refuse(reason: PeerCertificateError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason))))
}

fn verify_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider().signature_verification_algorithms;
    rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
}

fn signature_schemes() -> Vec<SignatureScheme> {
    provider().signature_verification_algorithms.supported_schemes()
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A proxy has one certificate per connection and needs no help to choose it; hints would only cost bytes,
        // and a stale hint during a root rotation could make a peer send none.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, intermediates, now, PeerRole::Client).map_err(refuse)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::SupportedVersionsExtensionRequired))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        signature_schemes()
    }
}

/// Judges the server we dialled: a valid peer, and the one that was asked for.
#[derive(Debug)]
pub(super) struct ExpectedServer {
    pub(super) verifier: Arc<PeerVerifier>,
    /// `None` accepts nobody: a client configuration must be given its peer before it is used.
    pub(super) expected: Option<Identity>,
}

impl ServerCertVerifier for ExpectedServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = self.verifier.verify(leaf, intermediates, now, PeerRole::Server).map_err(refuse)?;
        match &self.expected {
            Some(expected) if *expected == found => Ok(ServerCertVerified::assertion()),
            Some(expected) => {
                Err(refuse(PeerCertificateError::NotExpected { found, expected: expected.clone() }))
            }
            None => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        signature_schemes()
    }
}
