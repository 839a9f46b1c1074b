//! The store against a CA that can be told to misbehave, and the embedded CA against its files.

mod embedded;
mod store;
mod supply;

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, KeyPair};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{CaClient, CaError, CertStore, IssueFuture, SigningRequest, StoreSettings};
use crate::refusal::Refusal;
use crate::tls::TrustRoots;
use crate::tls::testing::{HOUR, Leaf, NOON, TestCa, moment, workload};

/// How long the fake CA's certificates live.
const LIFETIME: u64 = 24 * HOUR;

/// What the fake CA does with the next requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Good,
    Down,
    Hanging,
    OtherIdentity,
    OtherKey,
    Expired,
    NotYetValid,
    ServerOnly,
    UnknownRoot,
    Empty,
    TwoMebibytes,
    Garbage,
}

/// A CA that does as it is told and counts what it is asked.
struct FakeCa {
    mode: Mutex<Mode>,
    requests: AtomicUsize,
    signer: Mutex<Arc<TestCa>>,
    roots: watch::Sender<Arc<TrustRoots>>,
    clock: Arc<MeshClock>,
}

impl std::fmt::Debug for FakeCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeCa")
    }
}

impl FakeCa {
    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    fn answer(&self, request: &SigningRequest, mode: Mode) -> Vec<CertificateDer<'static>> {
        let now = self.clock.seconds();
        let csr = CertificateSigningRequestParams::from_der(&request.csr).unwrap();
        let leaf = |identity| {
            Leaf::of(identity).with(|p| {
                p.not_before = moment(now.saturating_sub(120));
                p.not_after = moment(now + LIFETIME);
            })
        };
        let good = leaf(&request.identity);
        let signer = self.signer.lock().unwrap().clone();
        let sign = |leaf: &Leaf| vec![signer.sign(leaf, &csr.public_key)];
        match mode {
            Mode::OtherIdentity => sign(&leaf(&workload("somebody-else"))),
            Mode::OtherKey => vec![signer.sign(&good, &KeyPair::generate().unwrap())],
            Mode::Expired => sign(&good.with(|p| p.not_after = moment(now - 1))),
            Mode::NotYetValid => sign(&good.with(|p| p.not_before = moment(now + 60))),
            Mode::ServerOnly => {
                sign(&good.with(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]))
            }
            Mode::UnknownRoot => vec![TestCa::new("stranger").sign(&good, &csr.public_key)],
            Mode::Empty => Vec::new(),
            Mode::TwoMebibytes => {
                let mut chain = sign(&good);
                chain.push(CertificateDer::from(vec![0; 2 << 20]));
                chain
            }
            Mode::Garbage => vec![CertificateDer::from(b"garbage".to_vec())],
            // As istiod: the root comes along.
            Mode::Good | Mode::Down | Mode::Hanging => {
                let mut chain = sign(&good);
                chain.push(signer.root.clone());
                chain
            }
        }
    }
}

impl CaClient for FakeCa {
    fn issue<'a>(&'a self, request: &'a SigningRequest) -> IssueFuture<'a> {
        Box::pin(async move {
            self.requests.fetch_add(1, Ordering::Relaxed);
            let mode = *self.mode.lock().unwrap();
            match mode {
                Mode::Down => Err(CaError::Unreachable("connection refused".to_owned())),
                Mode::Hanging => std::future::pending().await,
                _ => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Ok(self.answer(request, mode))
                }
            }
        })
    }

    fn roots(&self) -> watch::Receiver<Arc<TrustRoots>> {
        self.roots.subscribe()
    }
}

/// A wall clock that runs with the runtime's paused time and can be made to jump.
#[derive(Debug)]
struct MeshClock {
    began: Instant,
    /// Seconds since 1970 at `began`.
    offset: AtomicI64,
}

impl MeshClock {
    fn at_noon() -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), offset: AtomicI64::new(NOON.cast_signed()) })
    }

    fn jump(&self, seconds: i64) {
        self.offset.fetch_add(seconds, Ordering::Relaxed);
    }

    fn seconds(&self) -> u64 {
        let seconds = self.offset.load(Ordering::Relaxed) + self.began.elapsed().as_secs().cast_signed();
        u64::try_from(seconds).unwrap_or(0)
    }
}

impl TimeProvider for MeshClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.seconds())))
    }
}

/// A store, its CA and its clock.
struct Bench {
    store: CertStore,
    ca: Arc<FakeCa>,
    clock: Arc<MeshClock>,
}

impl Bench {
    fn new(mode: Mode) -> Self {
        let clock = MeshClock::at_noon();
        let signer = Arc::new(TestCa::dated("mesh", 0, NOON + 100_000 * HOUR));
        let ca = Arc::new(FakeCa {
            mode: Mutex::new(mode),
            requests: AtomicUsize::new(0),
            roots: watch::Sender::new(signer.roots()),
            signer: Mutex::new(signer),
            clock: clock.clone(),
        });
        let settings = StoreSettings { clock: clock.clone(), ..StoreSettings::new(Handle::current()) };
        Self { store: CertStore::new(ca.clone(), settings), ca, clock }
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn why<T: std::fmt::Debug>(answer: Result<T, Refusal>) -> String {
    match answer.unwrap_err() {
        refusal @ Refusal::IdentityUnavailable(_) => refusal.to_string(),
        other => panic!("another refusal: {other}"),
    }
}
