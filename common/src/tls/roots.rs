//! The root certificates that peers' chains must end in. There may be several, so that one can replace another.
//!
//! Surprising: a trust anchor has no dates for webpki, so an expired root would be trusted for ever. The dates are
//! kept beside the anchors here and are checked at each handshake.

use std::borrow::Cow;
use std::fmt;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use x509_parser::certificate::X509Certificate;

use super::peer::parse_certificate;

/// How many root certificates are held at most. A rotation needs two.
pub const MAX_ROOTS: usize = 16;

/// How large a PEM file of roots may be, in bytes.
pub const MAX_ROOTS_PEM_BYTES: usize = 64 * 1024;

/// Why a list of root certificates cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRoots {
    /// There is none.
    #[error("it holds no certificate")]
    Empty,
    /// More than [`MAX_ROOTS`] or [`MAX_ROOTS_PEM_BYTES`].
    #[error("it holds more than {MAX_ROOTS} certificates or {MAX_ROOTS_PEM_BYTES} bytes")]
    TooMany,
    /// The text is not PEM.
    #[error("it is not PEM: {0}")]
    NotPem(String),
    /// This certificate cannot be decoded; counted from 1.
    #[error("certificate {0} in it cannot be decoded")]
    Malformed(usize),
    /// This certificate may not issue others; counted from 1.
    #[error("certificate {0} in it is not a certificate authority (basic constraints, key usage)")]
    NotAnAuthority(usize),
}

/// One root, with the dates that a trust anchor does not have.
struct Root {
    certificate: CertificateDer<'static>,
    not_before: UnixTime,
    not_after: UnixTime,
}

/// The root certificates of one trust domain.
pub struct TrustRoots {
    roots: Vec<Root>,
    /// In the order of `roots`, ready for webpki.
    anchors: Vec<TrustAnchor<'static>>,
}

impl TrustRoots {
    /// Holds these certificates as roots. Expired ones may be among them; they are skipped while they are.
    ///
    /// # Errors
    /// [`InvalidRoots`] when there is none, there are too many, or one is no certificate authority.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, InvalidRoots> {
        match certificates.len() {
            0 => return Err(InvalidRoots::Empty),
            1..=MAX_ROOTS => {}
            _ => return Err(InvalidRoots::TooMany),
        }
        let mut roots = Vec::with_capacity(certificates.len());
        let mut anchors = Vec::with_capacity(certificates.len());
        for (index, certificate) in certificates.into_iter().enumerate() {
            let anchor = webpki::anchor_from_trusted_cert(&certificate)
                .map_err(|_| InvalidRoots::Malformed(index + 1))?
                .to_owned();
            let parsed = parse_certificate(&certificate).ok_or(InvalidRoots::Malformed(index + 1))?;
            if !may_issue(&parsed) {
                return Err(InvalidRoots::NotAnAuthority(index + 1));
            }
            let (not_before, not_after) = validity(&parsed);
            drop(parsed);
            roots.push(Root { certificate, not_before, not_after });
            anchors.push(anchor);
        }
        Ok(Self { roots, anchors })
    }

    /// Reads one or more certificates in PEM. Other PEM sections are skipped.
    ///
    /// # Errors
    /// As [`TrustRoots::new`], and when the text is not PEM.
    pub fn from_pem(pem: &[u8]) -> Result<Self, InvalidRoots> {
        if pem.len() > MAX_ROOTS_PEM_BYTES {
            return Err(InvalidRoots::TooMany);
        }
        let certificates = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| InvalidRoots::NotPem(error.to_string()))?;
        Self::new(certificates)
    }

    /// The certificates, in the order given.
    pub fn certificates(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.roots.iter().map(|root| &root.certificate)
    }

    /// The anchors that are valid at `now`. Borrowed unless one has to be left out.
    pub(super) fn anchors_at(&self, now: UnixTime) -> Cow<'_, [TrustAnchor<'static>]> {
        if self.roots.iter().all(|root| root.valid_at(now)) {
            return Cow::Borrowed(&self.anchors);
        }
        let valid = self.roots.iter().zip(&self.anchors).filter(|(root, _)| root.valid_at(now));
        Cow::Owned(valid.map(|(_, anchor)| anchor.clone()).collect())
    }

    /// Every anchor, whether valid now or not: only to say why a chain was refused.
    pub(super) fn all_anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

impl Root {
    fn valid_at(&self, now: UnixTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

impl PartialEq for TrustRoots {
    fn eq(&self, other: &Self) -> bool {
        self.certificates().eq(other.certificates())
    }
}

impl fmt::Debug for TrustRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustRoots({})", self.roots.len())
    }
}

/// Basic constraints say CA; key usage, when present, allows signing certificates (RFC 5280, 4.2.1.3 and 4.2.1.9).
fn may_issue(certificate: &X509Certificate<'_>) -> bool {
    let signs = match certificate.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    };
    signs && certificate.is_ca()
}

/// Not before and not after. Dates before 1970 become 1970.
pub(crate) fn validity(certificate: &X509Certificate<'_>) -> (UnixTime, UnixTime) {
    let at = |seconds: i64| {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    };
    let validity = certificate.validity();
    (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()))
}
