//! A certificate authority for tests that issues anything, good or bad, and a clock that stands where it is put.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use time::OffsetDateTime;

use super::{Credentials, TrustRoots, provider};
use crate::spiffe::Identity;

/// The moment at which tests begin, in seconds.
pub(crate) const NOON: u64 = 1_800_000_000;
pub(crate) const HOUR: u64 = 3600;

/// A wall clock that moves only when told to.
#[derive(Debug)]
pub(crate) struct StoppedClock(AtomicU64);

impl StoppedClock {
    pub(crate) fn at_noon() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(NOON)))
    }

    pub(crate) fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::Relaxed);
    }
}

impl TimeProvider for StoppedClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}

/// A root that signs whatever a test asks for.
pub(crate) struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) root: CertificateDer<'static>,
}

impl TestCa {
    pub(crate) fn new(name: &str) -> Self {
        Self::dated(name, NOON - 1000 * HOUR, NOON + 1000 * HOUR)
    }

    pub(crate) fn dated(name: &str, begin: u64, end: u64) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(begin, end);
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root }
    }

    pub(crate) fn roots(&self) -> Arc<TrustRoots> {
        roots_of(&[self])
    }

    /// Signs `leaf` for its own key, or for another when a test wants a wrong answer.
    pub(crate) fn sign(&self, leaf: &Leaf, key: &impl rcgen::PublicKeyData) -> CertificateDer<'static> {
        leaf.params.signed_by(key, &self.issuer).unwrap().der().clone()
    }

    /// Everything a workload needs to shake hands with this certificate.
    pub(crate) fn credentials(&self, leaf: &Leaf, clock: &Arc<StoppedClock>) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let chain = vec![self.sign(leaf, &key)];
        credentials(chain, &key, self.roots(), clock)
    }
}

pub(crate) fn roots_of(authorities: &[&TestCa]) -> Arc<TrustRoots> {
    Arc::new(TrustRoots::new(authorities.iter().map(|ca| ca.root.clone()).collect()).unwrap())
}

pub(crate) fn credentials(
    chain: Vec<CertificateDer<'static>>,
    key: &KeyPair,
    roots: Arc<TrustRoots>,
    clock: &Arc<StoppedClock>,
) -> Credentials {
    let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signing = provider().key_provider.load_private_key(secret).unwrap();
    let certified = Arc::new(CertifiedKey::new(chain, signing));
    Credentials { certified, roots, trust_domain: "cluster.local".into(), clock: clock.clone() }
}

/// What a test's certificate says. Begins as a good one.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) params: CertificateParams,
}

impl Leaf {
    pub(crate) fn of(identity: &Identity) -> Self {
        Self::named(&[&identity.to_string()])
    }

    pub(crate) fn named(uris: &[&str]) -> Self {
        let mut params = params(NOON - HOUR, NOON + 23 * HOUR);
        params.subject_alt_names =
            uris.iter().map(|uri| SanType::URI((*uri).to_owned().try_into().unwrap())).collect();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        Self { params }
    }

    /// A leaf whose subject alternative names are these raw DER bytes: what no library would write.
    pub(crate) fn raw_names(names: &[u8]) -> Self {
        let mut leaf = Self::named(&[]);
        let mut content = vec![0x30, u8::try_from(names.len()).unwrap()];
        content.extend_from_slice(names);
        leaf.params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], content)];
        leaf
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        change(&mut self.params);
        self
    }
}

pub(crate) fn moment(seconds: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds.try_into().unwrap()).unwrap()
}

pub(crate) fn workload(service_account: &str) -> Identity {
    Identity::new("cluster.local", "shop", service_account)
}

fn params(begin: u64, end: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = moment(begin);
    params.not_after = moment(end);
    params
}
