//! Makes roots and signs leaves. Knows no files.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use zeroize::{Zeroize, Zeroizing};

use crate::certs::ca::SigningRequest;
use crate::tls::{parse_certificate, validity};

/// How long a root that Ebb makes lives.
pub(super) const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How far in the past certificates begin, for peers whose clock is behind (Istio's grace is the same two minutes).
pub(super) const BACKDATE: Duration = Duration::from_secs(120);

/// A root certificate with its key.
#[derive(Debug)]
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    not_before: UnixTime,
    not_after: UnixTime,
}

impl Authority {
    /// Joins a root certificate and its key, which the caller has checked to belong together.
    pub(super) fn new(root: &CertificateDer<'static>, mut key: KeyPair) -> Result<Self, String> {
        let parsed = parse_certificate(root).ok_or("cannot be decoded")?;
        let (not_before, not_after) = validity(&parsed);
        // The serialized copy is not needed any more; the signing key inside stays.
        key.zeroize();
        let issuer =
            Issuer::from_ca_cert_der(root, key).map_err(|error| format!("cannot be used: {error}"))?;
        Ok(Self { issuer, not_before, not_after })
    }

    /// Says whether the root is valid at `now`, in words if it is not.
    pub(super) fn check_dates(&self, now: UnixTime) -> Result<(), String> {
        if now > self.not_after {
            let days = (now.as_secs() - self.not_after.as_secs()) / 86_400;
            return Err(format!("the root certificate expired {days} days ago; replace it and its key"));
        }
        if now < self.not_before {
            return Err("the root certificate is not valid yet; is this node's clock right?".to_owned());
        }
        Ok(())
    }

    /// Signs a leaf for the identity in `request`. Of the request itself only the public key is used.
    pub(super) fn sign(
        &self,
        request: &SigningRequest,
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, String> {
        self.check_dates(now)?;
        let csr = CertificateSigningRequestParams::from_der(&request.csr)
            .map_err(|error| format!("the request cannot be used: {error}"))?;
        let end = now.as_secs().saturating_add(request.lifetime.as_secs()).min(self.not_after.as_secs());
        let begin = now.as_secs().saturating_sub(BACKDATE.as_secs()).max(self.not_before.as_secs());
        let mut params = dated(begin, end)?;
        // An empty subject makes the name extension critical (RFC 5280, 4.2.1.6).
        params.distinguished_name = DistinguishedName::new();
        let uri = request.identity.to_string().try_into().map_err(|error| format!("{error}"))?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&csr.public_key, &self.issuer).map_err(|error| error.to_string())?;
        Ok(leaf.der().clone())
    }
}

/// A new root for `trust_domain`: its certificate and its key in PEM.
pub(super) fn new_root(
    trust_domain: &str,
    key: Option<KeyPair>,
    now: UnixTime,
) -> Result<(String, Zeroizing<String>), String> {
    let key = match key {
        Some(key) => key,
        None => KeyPair::generate().map_err(|error| error.to_string())?,
    };
    let key = Zeroizing::new(key);
    let begin = now.as_secs().saturating_sub(BACKDATE.as_secs());
    let mut params = dated(begin, now.as_secs().saturating_add(ROOT_LIFETIME.as_secs()))?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain);
    // Told apart by name, two overlapping roots cost no second signature check.
    let name = format!("Ebb root {:08x}", rand::random::<u32>());
    params.distinguished_name.push(DnType::CommonName, name);
    // No intermediates below it: every certificate it signs is a workload's.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root = params.self_signed(&*key).map_err(|error| error.to_string())?;
    Ok((root.pem(), Zeroizing::new(key.serialize_pem())))
}

/// The DER of the public half, as certificates hold it.
pub(super) fn public_key(key: &KeyPair) -> Vec<u8> {
    key.subject_public_key_info()
}

fn dated(begin: u64, end: u64) -> Result<CertificateParams, String> {
    let moment = |seconds: u64| {
        i64::try_from(seconds)
            .ok()
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .ok_or("this node's clock is beyond any calendar")
    };
    let mut params = CertificateParams::default();
    params.not_before = moment(begin)?;
    params.not_after = moment(end)?;
    params.serial_number = Some(random_serial());
    Ok(params)
}

/// 127 random bits, positive and not zero (RFC 5280, 4.1.2.2).
fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}
