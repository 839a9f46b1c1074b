//! Checks what a CA answered before a workload shows it to anyone. No CA is trusted to answer the question asked.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;

use crate::spiffe::Identity;
use crate::tls::{
    MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES, PeerCertificateError, PeerRole, PeerVerifier, TrustRoots,
};

/// Why an answer of a CA is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// The chain is empty, or more than a peer would read ([`MAX_CHAIN_CERTIFICATES`], [`MAX_CHAIN_BYTES`]).
    #[error(
        "the chain has {certificates} certificates and {bytes} bytes; \
         1 to {MAX_CHAIN_CERTIFICATES} and at most {MAX_CHAIN_BYTES} are allowed"
    )]
    Size {
        /// Certificates in the answer.
        certificates: usize,
        /// Bytes in the answer.
        bytes: usize,
    },
    /// The certificate is for another workload.
    #[error("the certificate is for {found}, not for {requested}")]
    OtherIdentity {
        /// In the answer.
        found: Identity,
        /// In the request.
        requested: Identity,
    },
    /// The certificate is for another key than the one made for this request.
    #[error("the certificate holds another public key than the request")]
    OtherKey,
    /// Peers would not accept it.
    #[error("peers would refuse the workload: {0}")]
    Unacceptable(#[from] PeerCertificateError),
}

/// What there is to know about an accepted leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// First second of validity.
    pub not_before: UnixTime,
    /// Last second of validity.
    pub not_after: UnixTime,
    /// The serial number in decimal, as Istio's dumps show it.
    pub serial: String,
}

/// Accepts `chain` only as an answer to the request for `identity` with the key `public_key` (DER of its
/// SubjectPublicKeyInfo), valid at `now` as client and as server, and ending in one of `roots`.
///
/// # Errors
/// The first [`BadAnswer`] found.
pub fn validate(
    chain: &[CertificateDer<'_>],
    identity: &Identity,
    public_key: &[u8],
    roots: &Arc<TrustRoots>,
    now: UnixTime,
) -> Result<Leaf, BadAnswer> {
    let bytes = chain.iter().map(|certificate| certificate.len()).sum();
    let size = BadAnswer::Size { certificates: chain.len(), bytes };
    if chain.len() > MAX_CHAIN_CERTIFICATES || bytes > MAX_CHAIN_BYTES {
        return Err(size);
    }
    let (leaf, intermediates) = chain.split_first().ok_or(size)?;
    let found = crate::tls::identity_in_certificate(leaf)?;
    if found != *identity {
        return Err(BadAnswer::OtherIdentity { found, requested: identity.clone() });
    }
    let parsed = crate::tls::parse_certificate(leaf).ok_or(PeerCertificateError::Malformed)?;
    if parsed.public_key().raw != public_key {
        return Err(BadAnswer::OtherKey);
    }
    let verifier = PeerVerifier::new(roots.clone(), identity.trust_domain.clone());
    for role in [PeerRole::Client, PeerRole::Server] {
        verifier.verify(leaf, intermediates, now, role)?;
    }
    Ok(describe(&parsed))
}

/// Dates and serial number of a certificate.
pub(super) fn describe(certificate: &X509Certificate<'_>) -> Leaf {
    let (not_before, not_after) = crate::tls::validity(certificate);
    Leaf { not_before, not_after, serial: certificate.tbs_certificate.serial.to_string() }
}
