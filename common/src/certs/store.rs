//! The certificates of this node's workloads, by identity: one per service account, however many pods share it.
//!
//! Surprising: `get` never asks the CA itself. Each wanted identity has a keeper that does, so a thousand waiting
//! connections cost one request, and an identity nobody has declared wanted costs none.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use super::ca::CaClient;
use super::counters::{Counters, count};
use super::dump::{IdentityDump, dump_certificate};
use super::embedded::EmbeddedCa;
use super::issuance::Shared;
use super::keeper::{Entry, Progress, keep};
use super::workload::WorkloadCertificate;
use crate::refusal::Refusal;
use crate::settings::{CertificateSettings, NodeSettings};
use crate::spiffe::Identity;

/// How long certificates are asked to live (Istio's SECRET_TTL).
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How long a connection waits for the first certificate of its identity.
pub const FIRST_CERTIFICATE_WAIT: Duration = Duration::from_secs(5);

/// Identities kept at one time; a node has a few hundred pods.
pub const MAX_IDENTITIES: usize = 4096;

/// Connections that wait for a certificate at one time, over all identities.
pub const MAX_WAITERS: usize = 16_384;

/// What a store is made of beside its CA.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// How long certificates are asked to live.
    pub lifetime: Duration,
    /// The wall clock that validity is compared with.
    pub clock: Arc<dyn TimeProvider>,
    /// Where keepers run: keys are made there, so not a runtime that carries traffic.
    pub runtime: Handle,
}

impl StoreSettings {
    /// The defaults, with keepers on `runtime`.
    pub fn new(runtime: Handle) -> Self {
        Self { lifetime: DEFAULT_LIFETIME, clock: Arc::new(DefaultTimeProvider), runtime }
    }
}

/// Holds the certificates of the identities that have a live pod here. Clones share it.
#[derive(Debug, Clone)]
pub struct CertStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    runtime: Handle,
    /// Read for every connection; replaced whole, sharing structure, by `want` and `forget`.
    entries: ArcSwap<imbl::HashMap<Identity, Arc<Kept>>>,
    /// Held by `want` and `forget` while they replace `entries`: identities that the process wants for itself, whichever
    /// pods there are.
    pinned: Mutex<HashSet<Identity>>,
    waiters: AtomicUsize,
}

/// An entry with the task that keeps it supplied.
#[derive(Debug)]
struct Kept {
    entry: Arc<Entry>,
    keeper: AbortHandle,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl CertStore {
    /// A store whose certificates are signed by the built-in authority, as the settings say. To be called on the control
    /// runtime, where its keepers will run.
    ///
    /// # Errors
    /// When the authority cannot be opened: the sentence names the file.
    pub fn open(given: &CertificateSettings, node: &NodeSettings) -> anyhow::Result<Self> {
        let clock = Arc::new(DefaultTimeProvider);
        let trust_domain: Arc<str> = node.trust_domain.as_str().into();
        let ca = match (&given.ca_root_cert, &given.ca_root_key) {
            (Some(cert), Some(key)) => {
                EmbeddedCa::from_files(cert.clone(), key.clone(), trust_domain, clock)?
            }
            _ => EmbeddedCa::open_or_create(&given.ca_dir, trust_domain, clock)?,
        };
        let (ca, control) = (Arc::new(ca), Handle::current());
        control.spawn(ca.clone().watch_files());
        Ok(Self::new(ca, StoreSettings { lifetime: given.secret_ttl, ..StoreSettings::new(control) }))
    }

    /// An empty store.
    pub fn new(ca: Arc<dyn CaClient>, settings: StoreSettings) -> Self {
        let shared = Arc::new(Shared::new(ca, settings.clock, settings.lifetime));
        let inner = Inner {
            shared,
            runtime: settings.runtime,
            entries: ArcSwap::default(),
            pinned: Mutex::default(),
            waiters: AtomicUsize::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Declares that a live pod of this node has `identity`, and begins to supply it. Doing so again changes nothing.
    ///
    /// # Errors
    /// [`Refusal::LimitReached`] at [`MAX_IDENTITIES`].
    pub fn want(&self, identity: &Identity) -> Result<(), Refusal> {
        let _writing = self.inner.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        self.supply(identity)
    }

    /// Declares that the process itself has `identity`, and begins to supply it: a pod that has it too, and goes, does not
    /// take it along. Doing so again changes nothing.
    ///
    /// # Errors
    /// [`Refusal::LimitReached`] at [`MAX_IDENTITIES`].
    pub fn pin(&self, identity: &Identity) -> Result<(), Refusal> {
        let mut pinned = self.inner.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        self.supply(identity)?;
        if !pinned.contains(identity) {
            pinned.insert(identity.clone());
        }
        Ok(())
    }

    /// Whoever calls holds the lock of `pinned`.
    fn supply(&self, identity: &Identity) -> Result<(), Refusal> {
        let inner = &*self.inner;
        let entries = inner.entries.load_full();
        if entries.contains_key(identity) {
            return Ok(());
        }
        if entries.len() >= MAX_IDENTITIES {
            return Err(Refusal::LimitReached("identities on this node"));
        }
        let entry = Arc::new(Entry::new(identity.clone()));
        let keeper = inner.runtime.spawn(keep(entry.clone(), inner.shared.clone())).abort_handle();
        let kept = Arc::new(Kept { entry, keeper });
        inner.entries.store(Arc::new(entries.update(identity.clone(), kept)));
        Ok(())
    }

    /// Declares that no live pod of this node has `identity` any more: its key is dropped and waiters are refused.
    /// Connections that are open under the certificate keep it until they end. One that was pinned stays.
    pub fn forget(&self, identity: &Identity) {
        let inner = &*self.inner;
        let pinned = inner.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        if pinned.contains(identity) {
            return;
        }
        let entries = inner.entries.load_full();
        let Some(kept) = entries.get(identity) else { return };
        inner.entries.store(Arc::new(entries.without(identity)));
        kept.keeper.abort();
        kept.entry.current.store(None);
        kept.entry.progress.send_replace(Progress::Forgotten);
    }

    /// The certificate of `identity` if there is a usable one now. No lock and no waiting: for each connection.
    pub fn try_get(&self, identity: &Identity) -> Option<Arc<WorkloadCertificate>> {
        let entries = self.inner.entries.load();
        entries.get(identity)?.entry.usable(self.inner.shared.now())
    }

    /// The certificate of `identity`, waiting up to [`FIRST_CERTIFICATE_WAIT`] for the first one.
    ///
    /// Refuses at once when the CA has failed and will not be asked again within that time.
    ///
    /// # Errors
    /// [`Refusal::IdentityUnavailable`] with the reason; [`Refusal::LimitReached`] at [`MAX_WAITERS`].
    pub async fn get(&self, identity: &Identity) -> Result<Arc<WorkloadCertificate>, Refusal> {
        if let Some(certificate) = self.try_get(identity) {
            return Ok(certificate);
        }
        let answer = self.wait_for(identity).await;
        if answer.is_err() {
            count(&self.inner.shared.counters.refused);
        }
        answer
    }

    async fn wait_for(&self, identity: &Identity) -> Result<Arc<WorkloadCertificate>, Refusal> {
        let deadline = Instant::now() + FIRST_CERTIFICATE_WAIT;
        let unwanted = || Refusal::IdentityUnavailable(format!("no pod of this node has {identity}").into());
        let entry = self.inner.entries.load().get(identity).ok_or_else(unwanted)?.entry.clone();
        let _place = Place::take(&self.inner, &entry)?;
        let mut progress = entry.progress.subscribe();
        // The keeper may be asleep beside a certificate that a jump of the clock has just ended.
        entry.wake.notify_one();
        loop {
            let standing = progress.borrow_and_update().clone();
            if let Some(certificate) = entry.usable(self.inner.shared.now()) {
                return Ok(certificate);
            }
            match &standing {
                Progress::Forgotten => return Err(unwanted()),
                Progress::Failed { reason, retry_at } if *retry_at > deadline => {
                    return Err(Refusal::IdentityUnavailable(reason.clone()));
                }
                _ => {}
            }
            match timeout_at(deadline, progress.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(unwanted()),
                Err(_) => return Err(not_in_time(identity, &standing)),
            }
        }
    }

    /// Every identity with its certificates, sorted, for `/config_dump`. Never a key.
    pub fn dump(&self) -> Vec<IdentityDump> {
        let now = self.inner.shared.now();
        let mut dump: Vec<_> =
            self.inner.entries.load().values().map(|kept| dump_entry(&kept.entry, now)).collect();
        dump.sort_by(|a, b| a.identity.cmp(&b.identity));
        dump
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.inner.shared.counters
    }

    /// Identities that have a live pod here.
    pub fn wanted(&self) -> usize {
        self.inner.entries.load().len()
    }
}

fn not_in_time(identity: &Identity, standing: &Progress) -> Refusal {
    let seconds = FIRST_CERTIFICATE_WAIT.as_secs();
    Refusal::IdentityUnavailable(match standing {
        Progress::Failed { reason, .. } => reason.clone(),
        _ => format!("none for {identity} within {seconds} s; is the certificate authority slow?").into(),
    })
}

fn dump_entry(entry: &Entry, now: rustls_pki_types::UnixTime) -> IdentityDump {
    let certificate = entry.current.load_full();
    let state = match (&certificate, &*entry.progress.borrow()) {
        (Some(certificate), _) if certificate.usable_at(now) => "Available".to_owned(),
        (_, Progress::Failed { reason, .. }) => format!("Unavailable: {reason}"),
        (Some(_), _) => "Unavailable: the certificate has expired".to_owned(),
        (None, Progress::Forgotten) => "Unavailable: the identity is no longer needed".to_owned(),
        (None, _) => "Initializing".to_owned(),
    };
    let (cert_chain, root_certs) = certificate.map_or_else(Default::default, |certificate| {
        let chain = certificate.chain().iter().map(dump_certificate).collect();
        (chain, certificate.roots.certificates().map(dump_certificate).collect())
    });
    IdentityDump { identity: entry.identity.to_string(), state, cert_chain, root_certs }
}

/// A connection's place among those that wait.
struct Place<'a> {
    inner: &'a Inner,
    entry: &'a Entry,
}

impl<'a> Place<'a> {
    fn take(inner: &'a Inner, entry: &'a Entry) -> Result<Self, Refusal> {
        let taken = inner.waiters.fetch_add(1, Ordering::Relaxed);
        entry.waiting.fetch_add(1, Ordering::Relaxed);
        // Made before the bound is looked at, so that dropping it undoes both additions.
        let place = Self { inner, entry };
        if taken >= MAX_WAITERS {
            return Err(Refusal::LimitReached("connections waiting for a certificate"));
        }
        Ok(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.inner.waiters.fetch_sub(1, Ordering::Relaxed);
        self.entry.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
