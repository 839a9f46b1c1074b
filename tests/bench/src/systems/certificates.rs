//! Makes certificates for systems that do not make their own: one authority, a leaf for each identity, shaped as Istio's are.
//!
//! ECDSA P-256 keys and one SPIFFE URI each, so that both meshes of a comparison pay for the same handshake. They live as
//! long as the run and are written nowhere but into its directory.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};

/// A leaf certificate with its key, both PEM.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) uri: String,
    pub(super) chain: String,
    pub(super) key: String,
}

/// Whoever signs them.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new one.
    pub(super) fn new() -> Result<Self> {
        let mut params = named("bench authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().context("make the authority's key")?;
        let issuer = CertifiedIssuer::self_signed(params, key).context("sign the authority's certificate")?;
        Ok(Self { issuer })
    }

    /// Its certificate, PEM.
    pub(super) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A new leaf for a service account.
    pub(super) fn identity(&self, account: &str) -> Result<Identity> {
        let uri = format!("spiffe://cluster.local/ns/bench/sa/{account}");
        let mut params = named(account);
        params.subject_alt_names =
            vec![SanType::URI(uri.as_str().try_into().context("a SPIFFE URI is ASCII")?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().context("make a leaf's key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("sign a leaf certificate")?;
        Ok(Identity { uri, chain: certificate.pem(), key: key.serialize_pem() })
    }
}

/// A certificate to be, for somebody of this name. OpenSSL takes one whose name is its issuer's for signed by itself.
fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
