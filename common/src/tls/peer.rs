//! Reads the identity out of a peer's certificate, and holds every reason why a peer's certificate is not accepted.
//!
//! Knows nothing of roots or time; `verify` does. Surprising: a certificate with a DNS or address name beside its
//! SPIFFE id is refused, because two names are two answers to "who is this".

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::spiffe::{Identity, InvalidIdentity};

/// How many certificates a peer may present, leaf included.
pub const MAX_CHAIN_CERTIFICATES: usize = 8;

/// How many bytes a presented chain may have in all. rustls itself stops reading a handshake message at 64 KiB.
pub const MAX_CHAIN_BYTES: usize = 32 * 1024;

/// Why a certificate does not prove who the peer is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerCertificateError {
    /// The peer presented none.
    #[error("it presented no certificate")]
    Missing,
    /// More certificates than [`MAX_CHAIN_CERTIFICATES`] or more bytes than [`MAX_CHAIN_BYTES`].
    #[error(
        "its chain is too large ({certificates} certificates, {bytes} bytes; \
         at most {MAX_CHAIN_CERTIFICATES} and {MAX_CHAIN_BYTES} are read)"
    )]
    TooLarge {
        /// Certificates presented.
        certificates: usize,
        /// Bytes presented.
        bytes: usize,
    },
    /// The bytes are not one X.509 certificate.
    #[error("its certificate cannot be decoded")]
    Malformed,
    /// There is not exactly one subject alternative name.
    #[error("its certificate has {0} subject alternative names; exactly one, a SPIFFE id, is expected")]
    NameCount(usize),
    /// The one subject alternative name is not a URI.
    #[error("the subject alternative name of its certificate is not a URI")]
    NotAUri,
    /// The URI is not a SPIFFE id of a workload.
    #[error("the name in its certificate is not a workload's SPIFFE id: {0}")]
    NotAnIdentity(#[from] InvalidIdentity),
    /// The identity is from a trust domain that is not ours.
    #[error("its identity {theirs} is of another trust domain than {ours}")]
    OtherTrustDomain {
        /// Who the peer is.
        theirs: Identity,
        /// The trust domain of this side.
        ours: String,
    },
    /// The peer is a workload, but not the one that was dialled.
    #[error("it is {found}, not the expected {expected}; has its address been given to another pod?")]
    NotExpected {
        /// Who answered.
        found: Identity,
        /// Who should have.
        expected: Identity,
    },
    /// Its validity, or that of a certificate above it, is over.
    #[error("its certificate, or one above it, expired {seconds_ago} s ago by this node's clock")]
    Expired {
        /// How long ago.
        seconds_ago: u64,
    },
    /// Its validity has not begun.
    #[error("its certificate is valid only in {seconds} s by this node's clock; are the clocks apart?")]
    NotYetValid {
        /// How far in the future.
        seconds: u64,
    },
    /// It chains to a root we know but whose own validity is over or has not begun.
    #[error("its certificate was issued by a root certificate that is not valid now")]
    RootNotValid,
    /// It chains to no root this side knows.
    #[error(
        "its certificate was not issued by a root known here; is it of another mesh, or is a root missing?"
    )]
    UnknownIssuer,
    /// Extended key usage forbids this use.
    #[error("its certificate may not be used by a {0} (extended key usage)")]
    WrongPurpose(&'static str),
    /// Anything else found while following the chain.
    #[error("its certificate chain is not valid: {0}")]
    Chain(String),
}

/// Who the presented chain says the peer is. Says nothing of whether to believe it: the handshake has checked that.
///
/// # Errors
/// [`PeerCertificateError`] when the chain is empty or its leaf does not carry exactly one SPIFFE id.
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Result<Identity, PeerCertificateError> {
    identity_in_certificate(chain.first().ok_or(PeerCertificateError::Missing)?)
}

/// Reads the one SPIFFE id from the DER bytes of one certificate (SPIFFE X.509-SVID, section 2).
///
/// A total function of hostile bytes: the fuzzer calls it as it is.
///
/// # Errors
/// [`PeerCertificateError`] for anything but exactly one certificate with exactly one name, a URI that is an identity.
pub fn identity_in_certificate(der: &[u8]) -> Result<Identity, PeerCertificateError> {
    if der.len() > MAX_CHAIN_BYTES {
        return Err(PeerCertificateError::TooLarge { certificates: 1, bytes: der.len() });
    }
    let certificate = parse_certificate(der).ok_or(PeerCertificateError::Malformed)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| PeerCertificateError::Malformed)?
        .map(|ext| ext.value);
    let names = names.map_or(&[][..], |names| &names.general_names[..]);
    match names {
        [GeneralName::URI(uri)] => Ok(Identity::parse(uri)?),
        [_] => Err(PeerCertificateError::NotAUri),
        several => Err(PeerCertificateError::NameCount(several.len())),
    }
}

/// Reads a SPIFFE id from bytes that may not even be text. A total function of hostile bytes, for the fuzzer.
///
/// # Errors
/// [`InvalidIdentity`] when the bytes are not exactly the id of a workload.
pub fn identity_in_uri_bytes(uri: &[u8]) -> Result<Identity, InvalidIdentity> {
    Identity::parse(std::str::from_utf8(uri).map_err(|_| InvalidIdentity::Shape)?)
}

/// One certificate and nothing behind it; trailing bytes would be read by nobody and signed by nobody.
pub(crate) fn parse_certificate(der: &[u8]) -> Option<X509Certificate<'_>> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Some(certificate),
        _ => None,
    }
}
