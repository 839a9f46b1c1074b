//! Keeps one identity supplied: one task per identity carries out what `renew` decides.
//!
//! Surprising: a failure is told to those who wait, but never takes the certificate at hand away. Only its expiry does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use rustls_pki_types::UnixTime;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::ca::CaError;
use super::counters::count;
use super::issuance::Shared;
use super::renew::{Facts, Held, Reason, Step, backoff, next_step};
use super::workload::WorkloadCertificate;
use crate::spiffe::Identity;
use crate::tls::{PeerCertificateError, PeerRole, PeerVerifier, TrustRoots};

/// One identity: what its keeper writes and connections read.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) identity: Identity,
    /// Read for every connection, without a lock.
    pub(super) current: ArcSwapOption<WorkloadCertificate>,
    /// Changed after `current`, so that whoever sees it change finds the certificate.
    pub(super) progress: watch::Sender<Progress>,
    /// Rouses the keeper from its sleep.
    pub(super) wake: Notify,
    /// Connections waiting for a certificate now.
    pub(super) waiting: AtomicUsize,
}

/// How the supply of one identity stands.
#[derive(Debug, Clone)]
pub(super) enum Progress {
    /// The first request has not ended yet.
    First,
    /// The last request brought a certificate.
    Supplied,
    /// The last request failed; the next one goes out then.
    Failed { reason: Arc<str>, retry_at: Instant },
    /// No pod here has the identity any more.
    Forgotten,
}

impl Entry {
    pub(super) fn new(identity: Identity) -> Self {
        Self {
            identity,
            current: ArcSwapOption::empty(),
            progress: watch::Sender::new(Progress::First),
            wake: Notify::new(),
            waiting: AtomicUsize::new(0),
        }
    }

    pub(super) fn usable(&self, now: UnixTime) -> Option<Arc<WorkloadCertificate>> {
        self.current.load_full().filter(|certificate| certificate.usable_at(now))
    }

    fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// What a keeper remembers between requests.
struct Memory {
    failures: u32,
    last_request: Option<Instant>,
    jitter: f64,
    issuer_retired: bool,
}

/// Keeps `entry` supplied until it is aborted. Cancel-safe: every change is published whole, between two awaits.
pub(super) async fn keep(entry: Arc<Entry>, shared: Arc<Shared>) {
    let mut roots = shared.ca.roots();
    let mut memory =
        Memory { failures: 0, last_request: None, jitter: rand::random(), issuer_retired: false };
    loop {
        let known = roots.borrow_and_update().clone();
        adopt_roots(&entry, &shared, &mut memory, known);
        match next_step(&memory.facts(&entry, &shared)) {
            Step::Wait(nap) => tokio::select! {
                () = sleep(nap) => {}
                () = entry.wake.notified() => {}
                () = changed(&mut roots) => {}
            },
            Step::Request(reason) => {
                turn(reason, &entry, &shared).await;
                let answer = shared.issue(&entry.identity).await;
                record(answer, reason, &entry, &shared, &mut memory);
            }
        }
    }
}

impl Memory {
    fn facts(&self, entry: &Entry, shared: &Shared) -> Facts {
        let held = entry.current.load().as_ref().map(|certificate| Held {
            received: certificate.received,
            not_before: certificate.leaf.not_before,
            not_after: certificate.leaf.not_after,
        });
        Facts {
            held,
            issuer_retired: self.issuer_retired,
            failures: self.failures,
            since_request: self.last_request.map(|last| last.elapsed()),
            now: shared.now(),
            jitter: self.jitter,
        }
    }
}

/// Waits for this request's turn. One that a connection waits for, or the first, goes at once.
async fn turn(reason: Reason, entry: &Entry, shared: &Shared) {
    if reason == Reason::First || entry.is_waited_for() {
        return;
    }
    let turn = shared.reserve_renewal();
    while !entry.is_waited_for() {
        tokio::select! {
            () = sleep_until(turn) => return,
            () = entry.wake.notified() => {}
        }
    }
}

fn record(
    answer: Result<WorkloadCertificate, CaError>,
    reason: Reason,
    entry: &Entry,
    shared: &Shared,
    memory: &mut Memory,
) {
    let now = Instant::now();
    memory.last_request = Some(now);
    memory.jitter = rand::random();
    let identity = &entry.identity;
    match answer {
        Ok(certificate) => {
            memory.failures = 0;
            memory.issuer_retired = false;
            count(&shared.counters.issued);
            if reason != Reason::First {
                count(&shared.counters.renewals);
            }
            tracing::info!(%identity, serial = %certificate.leaf.serial, ?reason, "certificate issued");
            entry.current.store(Some(Arc::new(certificate)));
            entry.progress.send_replace(Progress::Supplied);
        }
        Err(error) => {
            memory.failures = memory.failures.saturating_add(1);
            count(&shared.counters.failures);
            if matches!(error, CaError::BadAnswer(_)) {
                count(&shared.counters.rejected);
            }
            let pause = backoff(memory.failures, memory.jitter);
            tracing::warn!(%identity, %error, ?reason, retry_in = ?pause, "certificate not issued");
            let reason = Arc::from(error.to_string());
            entry.progress.send_replace(Progress::Failed { reason, retry_at: now + pause });
        }
    }
}

/// Gives the certificate at hand the roots now known, and notices when it does not chain to them any more.
fn adopt_roots(entry: &Entry, shared: &Shared, memory: &mut Memory, roots: Arc<TrustRoots>) {
    let Some(certificate) = entry.current.load_full() else { return };
    if *certificate.roots == *roots {
        return;
    }
    let verifier = PeerVerifier::new(roots.clone(), entry.identity.trust_domain.clone());
    if let Some((leaf, intermediates)) = certificate.chain().split_first() {
        memory.issuer_retired = matches!(
            verifier.verify(leaf, intermediates, shared.now(), PeerRole::Client),
            Err(PeerCertificateError::UnknownIssuer | PeerCertificateError::RootNotValid)
        );
    }
    match certificate.with_roots(roots) {
        Ok(certificate) => {
            count(&shared.counters.root_reloads);
            entry.current.store(Some(Arc::new(certificate)));
        }
        Err(error) => tracing::error!(identity = %entry.identity, %error, "new roots cannot be used"),
    }
}

/// Ends when the roots change; never, when their source is gone.
async fn changed(roots: &mut watch::Receiver<Arc<TrustRoots>>) {
    if roots.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
