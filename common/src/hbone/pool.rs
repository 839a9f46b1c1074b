//! Shares tunnel connections between flows of the same workload to the same peer.
//!
//! Knows nothing of routing or TLS: callers name the key and bring the dial. A connection is never shared across
//! workloads, incarnations or identities, because the peer judges by the certificate of the connection (N1, N2 of the
//! threat model); the key holds every part whole, never only a hash. One pool belongs to one worker thread.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::client::{self, Driver, Lease, OpenError, Tunnel};
use super::drive::Budget;
use super::request::Connect;
use super::{Stream, limits};
use crate::refusal::Refusal;
use crate::spiffe::Identity;

/// What makes two flows share a connection: all of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The source workload's uid.
    pub source_uid: Arc<str>,
    /// Which pod of that uid: a new pod never inherits a connection.
    pub source_incarnation: Arc<str>,
    /// The identity presented to the peer.
    pub source: Identity,
    /// The identity expected of the peer.
    pub destination: Identity,
    /// Where the connection goes.
    pub address: SocketAddr,
    /// The source address that the connection is bound to, one of the pod's own; unspecified where the pod has only one.
    pub source_ip: IpAddr,
}

/// One connection of a pool, for dumps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelStats {
    /// What it is shared by.
    pub key: Arc<Key>,
    /// Open streams.
    pub streams: usize,
    /// Time without streams.
    pub idle: Duration,
}

/// A worker's connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    entries: Mutex<HashMap<Arc<Key>, Arc<Entry>>>,
    /// Connections open or being dialled, of all keys.
    connections: AtomicUsize,
    /// Connections dialled so far; numbers them in order.
    dialled: AtomicU64,
    idle_release: Duration,
    budget: Arc<Budget>,
}

#[derive(Debug, Default)]
struct Entry(Mutex<EntryState>);

#[derive(Debug, Default)]
struct EntryState {
    tunnels: Vec<(u64, Arc<Tunnel>)>,
    /// The dial under way, whose end the others wait for. A sender dropped without a word was abandoned.
    dialling: Option<watch::Receiver<Option<Refusal>>>,
    drained: bool,
}

/// What a flow does next to get a connection.
enum Turn {
    Use(Lease),
    Wait(watch::Receiver<Option<Refusal>>),
    Dial(Dial),
}

impl Pool {
    /// An empty pool that releases unused connections after `idle_release` (usually [`limits::IDLE_RELEASE`]) and
    /// counts what slow readers hold in `budget`.
    pub fn new(idle_release: Duration, budget: Arc<Budget>) -> Self {
        Self(Arc::new(Inner {
            entries: Mutex::default(),
            connections: AtomicUsize::new(0),
            dialled: AtomicU64::new(0),
            idle_release,
            budget,
        }))
    }

    /// Opens a stream on a shared connection, or on one that `dial` makes. Of several flows in need of a connection
    /// one dials and the others wait for it, and share its failure.
    ///
    /// A connection that turns out to be gone is replaced by a fresh one once: no payload has been sent on it.
    ///
    /// # Errors
    /// The dial's refusal, the peer's, or the bound that was reached.
    pub async fn open<D, F, T>(&self, key: &Arc<Key>, request: &Connect, dial: D) -> Result<Stream, Refusal>
    where
        D: Fn() -> F,
        F: Future<Output = Result<T, Refusal>>,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let lease = self.lease(key, 0, &dial).await?;
        let failed = Arc::clone(lease.tunnel());
        match lease.open(request).await {
            Ok(stream) => return Ok(stream),
            Err(OpenError::Refused(refusal)) => return Err(refusal),
            Err(OpenError::Gone(_)) => failed.retire(),
        }
        // Its contemporaries are likely gone with it, so only a connection dialled from now on will do.
        let fresh = self.0.dialled.load(Relaxed) + 1;
        match self.lease(key, fresh, &dial).await?.open(request).await {
            Ok(stream) => Ok(stream),
            Err(OpenError::Refused(refusal)) => Err(refusal),
            Err(OpenError::Gone(why)) => Err(Refusal::Http2Failed(why.into())),
        }
    }

    /// Lets no flow use the connections of a workload any more; each closes after its last stream. To be called when
    /// the workload goes away; a dial under way then ends as [`Refusal::PodGone`].
    pub fn drain(&self, source_uid: &str) {
        self.remove(source_uid, Tunnel::retire);
    }

    /// Ends the connections of a workload now, with their streams.
    pub fn close(&self, source_uid: &str) {
        self.remove(source_uid, Tunnel::abort);
    }

    /// The open connections.
    pub fn stats(&self) -> Vec<TunnelStats> {
        let mut stats = Vec::new();
        for (key, entry) in self.0.entries().iter() {
            stats.extend(entry.lock().tunnels.iter().map(|(_, tunnel)| TunnelStats {
                key: Arc::clone(key),
                streams: tunnel.streams(),
                idle: tunnel.idle(),
            }));
        }
        stats
    }

    fn remove(&self, source_uid: &str, end: fn(&Tunnel)) {
        self.0.entries().retain(|key, entry| {
            if *key.source_uid != *source_uid {
                return true;
            }
            let mut state = entry.lock();
            state.drained = true;
            for (_, tunnel) in &state.tunnels {
                end(tunnel);
            }
            false
        });
    }

    /// A place on a connection numbered `oldest` or later.
    async fn lease<D, F, T>(&self, key: &Arc<Key>, oldest: u64, dial: &D) -> Result<Lease, Refusal>
    where
        D: Fn() -> F,
        F: Future<Output = Result<T, Refusal>>,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        loop {
            match self.turn(key, oldest)? {
                Turn::Use(lease) => return Ok(lease),
                Turn::Wait(mut ended) => {
                    // An error means that the dialler was dropped or has succeeded; both want another look.
                    if let Ok(refusal) = ended.wait_for(Option::is_some).await
                        && let Some(refusal) = refusal.clone()
                    {
                        return Err(refusal);
                    }
                }
                // Boxed, or the TLS handshake's state would stay part of every flow's task.
                Turn::Dial(turn) => return Box::pin(turn.run(dial)).await,
            }
        }
    }

    fn turn(&self, key: &Arc<Key>, oldest: u64) -> Result<Turn, Refusal> {
        let mut entries = self.0.entries();
        let entry = Arc::clone(entries.entry(Arc::clone(key)).or_default());
        let mut state = entry.lock();
        let usable = state.tunnels.iter().filter(|(number, _)| *number >= oldest);
        if let Some(lease) = usable.rev().find_map(|(_, tunnel)| tunnel.lease()) {
            return Ok(Turn::Use(lease));
        }
        if let Some(ended) = &state.dialling {
            return Ok(Turn::Wait(ended.clone()));
        }
        if state.tunnels.len() >= limits::CONNECTIONS_PER_KEY {
            return Err(Refusal::LimitReached("CONNECTIONS_PER_KEY"));
        }
        if self.0.connections.load(Relaxed) >= limits::CONNECTIONS_PER_WORKER {
            drop(state);
            drop_if_unused(&mut entries, key);
            return Err(Refusal::LimitReached("CONNECTIONS_PER_WORKER"));
        }
        let (outcome, ended) = watch::channel(None);
        state.dialling = Some(ended);
        drop(state);
        self.0.connections.fetch_add(1, Relaxed);
        let number = self.0.dialled.fetch_add(1, Relaxed) + 1;
        let place = Place { pool: Arc::downgrade(&self.0), key: Arc::clone(key), number };
        Ok(Turn::Dial(Dial { entry, outcome, place: Some(place), pool: Arc::clone(&self.0) }))
    }
}

impl Inner {
    fn entries(&self) -> MutexGuard<'_, HashMap<Arc<Key>, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn lock(&self) -> MutexGuard<'_, EntryState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn drop_if_unused(entries: &mut HashMap<Arc<Key>, Arc<Entry>>, key: &Key) {
    let is_unused = |entry: &Arc<Entry>| {
        let state = entry.lock();
        state.tunnels.is_empty() && state.dialling.is_none()
    };
    if entries.get(key).is_some_and(is_unused) {
        entries.remove(key);
    }
}

/// The turn to dial. Dropped at any point, even cancelled in the midst of the dial, it lets another flow try.
struct Dial {
    entry: Arc<Entry>,
    outcome: watch::Sender<Option<Refusal>>,
    place: Option<Place>,
    pool: Arc<Inner>,
}

impl Dial {
    async fn run<D, F, T>(mut self, dial: &D) -> Result<Lease, Refusal>
    where
        D: Fn() -> F,
        F: Future<Output = Result<T, Refusal>>,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let made = async {
            let io = dial().await?;
            client::handshake(io, &self.pool.budget, self.pool.idle_release).await
        };
        match made.await {
            Ok((tunnel, driver)) => self.succeed(tunnel, driver),
            Err(refusal) => {
                self.outcome.send_replace(Some(refusal.clone()));
                Err(refusal)
            }
        }
    }

    fn succeed<T>(&mut self, tunnel: Arc<Tunnel>, driver: Driver<T>) -> Result<Lease, Refusal>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut state = self.entry.lock();
        if state.drained {
            self.outcome.send_replace(Some(Refusal::PodGone));
            return Err(Refusal::PodGone);
        }
        let gone = || Refusal::Http2Failed("the connection closed at once".into());
        let lease = tunnel.lease().ok_or_else(gone)?;
        let place = self.place.take().ok_or_else(gone)?;
        state.tunnels.push((place.number, tunnel));
        tokio::spawn(async move {
            // Why it ended is reported by the streams that were on it.
            let _ = driver.await;
            drop(place);
        });
        Ok(lease)
    }
}

impl Drop for Dial {
    fn drop(&mut self) {
        self.entry.lock().dialling = None;
        // A place that is still here came to nothing, and clears the entry when it is dropped.
    }
}

/// A connection's place in the pool, from the decision to dial until its end.
struct Place {
    pool: Weak<Inner>,
    key: Arc<Key>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(pool) = self.pool.upgrade() else { return };
        pool.connections.fetch_sub(1, Relaxed);
        let mut entries = pool.entries();
        if let Some(entry) = entries.get(&self.key) {
            entry.lock().tunnels.retain(|(number, _)| *number != self.number);
        }
        drop_if_unused(&mut entries, &self.key);
    }
}
