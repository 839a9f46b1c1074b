//! Obtains one certificate: makes a key, asks the CA under a deadline, checks the answer, builds what handshakes need.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData, SanType};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::ca::{CaClient, CaError, SigningRequest};
use super::counters::{Counters, count};
use super::validate::validate;
use super::workload::WorkloadCertificate;
use crate::spiffe::Identity;

/// How long a CA may take for one answer.
pub const ISSUE_DEADLINE: Duration = Duration::from_secs(10);

/// Requests that wait for the CA at one time, over all identities of the node.
pub const MAX_ISSUANCES_IN_FLIGHT: usize = 8;

/// The pause between two renewals that nobody waits for: fewer than two a second, however many fall due together.
pub(super) const RENEWAL_SPACING: Duration = Duration::from_millis(600);

/// What the keepers of all identities share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) ca: Arc<dyn CaClient>,
    pub(super) clock: Arc<dyn TimeProvider>,
    pub(super) lifetime: Duration,
    pub(super) counters: Counters,
    slots: Semaphore,
    next_renewal: Mutex<Option<Instant>>,
}

impl Shared {
    pub(super) fn new(ca: Arc<dyn CaClient>, clock: Arc<dyn TimeProvider>, lifetime: Duration) -> Self {
        let slots = Semaphore::new(MAX_ISSUANCES_IN_FLIGHT);
        Self { ca, clock, lifetime, counters: Counters::default(), slots, next_renewal: Mutex::default() }
    }

    /// Wall time. A clock that cannot be read counts as the end of time: everything has expired, nothing is shown.
    pub(super) fn now(&self) -> UnixTime {
        let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
        self.clock.current_time().unwrap_or(end_of_time)
    }

    /// Reserves the moment at which a renewal that nobody waits for may be sent.
    pub(super) fn reserve_renewal(&self) -> Instant {
        // One assignment under the lock: a poisoned one holds a true value.
        let mut next = self.next_renewal.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let turn = next.map_or(now, |next| next.max(now));
        *next = Some(turn + RENEWAL_SPACING);
        turn
    }

    /// Asks the CA for a certificate of `identity` and accepts it only if peers would.
    pub(super) async fn issue(&self, identity: &Identity) -> Result<WorkloadCertificate, CaError> {
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        count(&self.counters.requests);
        let key = LeafKey::generate(identity).map_err(|error| CaError::Local(error.to_string()))?;
        let request = SigningRequest { identity: identity.clone(), csr: key.csr, lifetime: self.lifetime };
        let mut chain = timeout(ISSUE_DEADLINE, self.ca.issue(&request)).await.map_err(|_| {
            CaError::Unreachable(format!("no answer within {} s", ISSUE_DEADLINE.as_secs()))
        })??;

        let roots = self.ca.roots().borrow().clone();
        let now = self.now();
        let leaf = validate(&chain, identity, &key.public_key, &roots, now)?;
        // Peers have the roots already; istiod sends them along.
        chain.retain(|certificate| !roots.certificates().any(|root| root == certificate));
        let certified = Arc::new(CertifiedKey::new(chain, key.signing));
        WorkloadCertificate::new(identity.clone(), leaf, certified, roots, self.clock.clone(), now)
            .map_err(|error| CaError::Local(error.to_string()))
    }
}

/// A new key with the request for it. The only copy of the secret is the one inside `signing`.
struct LeafKey {
    signing: Arc<dyn SigningKey>,
    csr: CertificateSigningRequestDer<'static>,
    public_key: Vec<u8>,
}

impl LeafKey {
    /// Some 0.1 ms of work, done on the runtime of the keepers and never on one that carries traffic.
    fn generate(identity: &Identity) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let key = Zeroizing::new(KeyPair::generate()?);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        let csr = params.serialize_request(&*key)?.der().clone();
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialized_der()));
        Ok(Self { signing: any_ecdsa_type(&secret)?, csr, public_key: key.subject_public_key_info() })
    }
}
