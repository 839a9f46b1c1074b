//! Makes the certificates of an Envoy pair: one authority, one leaf for each side, shaped as Istio's are.
//!
//! ECDSA P-256 keys and one SPIFFE URI each, so that both meshes of a comparison pay for the same handshake. They live as
//! long as the run and are never written anywhere but into Envoy's configuration.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

/// A leaf certificate with its key, both PEM.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) uri: String,
    pub(super) chain: String,
    pub(super) key: String,
}

/// Both sides' identities and the authority that both trust, PEM.
#[derive(Clone, Debug)]
pub(super) struct Certificates {
    pub(super) authority: String,
    pub(super) client: Identity,
    pub(super) server: Identity,
}

impl Certificates {
    /// Makes new ones.
    pub(super) fn generate() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().context("make the authority's key")?;
        let authority =
            CertifiedIssuer::self_signed(params, key).context("sign the authority's certificate")?;
        Ok(Self {
            authority: authority.pem(),
            client: leaf(&authority, "client")?,
            server: leaf(&authority, "server")?,
        })
    }
}

fn leaf(authority: &CertifiedIssuer<'_, KeyPair>, account: &str) -> Result<Identity> {
    let uri = format!("spiffe://cluster.local/ns/bench/sa/{account}");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().context("a SPIFFE URI is ASCII")?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().context("make a leaf's key")?;
    let certificate = params.signed_by(&key, authority).context("sign a leaf certificate")?;
    Ok(Identity { uri, chain: certificate.pem(), key: key.serialize_pem() })
}
