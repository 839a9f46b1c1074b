//! Connections to endpoints that wait for the next request, by whom they may serve.
//!
//! A connection is used again only for the same cluster, endpoint (address and incarnation of the pod), version of HTTP,
//! client address (the endpoint's node was told of that client), and TLS; and, as in Envoy, not for a request that goes
//! by another `connectionPool` than it was made under. When that is in force no more, the next sweep that finds nothing
//! under way on it closes it. Unlike in Envoy it counts towards `maxConnections` as long as it lives, and what is under
//! way may last: where it is in the way of another one it can still be had, by [`Connections::take_busy`]. Knows nothing
//! of how connections are made.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use common::config::destination::tls::ClientTls;
use common::snapshot::model::External;
use http::Version;
use tokio::time::Instant;

use super::Stated;
use super::connection::Sender;

mod shared;

use self::shared::Expected;

/// Connections without a request that one pool keeps, of all keys; a further one is closed.
pub const MAX_IDLE_CONNECTIONS: usize = 4096;
/// How often connections that were idle for too long are looked for.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// What makes two requests share a connection: all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolKey {
    /// The cluster, by its name.
    pub cluster: Arc<str>,
    /// The endpoint.
    pub address: SocketAddr,
    /// Which pod is there; empty when it is none of the mesh.
    pub incarnation: Arc<str>,
    /// HTTP/1.1 or HTTP/2.
    pub version: Version,
    /// The client's address.
    pub client: IpAddr,
    /// TLS of its own, as stated when it was made.
    pub tls: Option<Arc<ClientTls>>,
    /// What the ServiceEntry says, if it is of one: names of certificates among it.
    pub external: Option<Arc<External>>,
    /// The service's namespace: several may have a ServiceEntry for one host.
    pub namespace: Arc<str>,
}

impl Hash for PoolKey {
    /// By what is short and nearly always tells keys apart; whether they are equal, all of it says.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => address.to_bits().into(),
            IpAddr::V6(address) => address.to_bits(),
        };
        // Few and whole words: each part that is told to a hasher costs as much as a long one.
        state.write_u128(bits(self.address.ip()));
        state.write_u128(bits(self.client).rotate_left(64) ^ u128::from(self.address.port()));
    }
}

/// What a connection takes as long as it lives: a place within a limit, a count of the endpoint.
pub type Held = dyn Send + Sync;

/// A connection that is in use, or waits.
pub struct Pooled {
    /// The connection.
    pub sender: Sender,
    /// What was stated of connections when it was made.
    pub made_under: Arc<Stated>,
    /// Requests it has taken.
    pub taken: u32,
    /// After how many requests it is closed.
    pub most: Option<u32>,
    /// How long it may wait; `None` is for ever.
    pub idle: Option<Duration>,
    /// When it takes no further request; `None` is never.
    pub until: Option<Instant>,
    /// Requests under way at a time, where it takes several.
    pub most_streams: u32,
    /// Held once by each request under way, and once more.
    pub streams: Arc<()>,
    /// What it takes, as long as it lives.
    pub place: Weak<Held>,
}

#[derive(Debug)]
struct Waiting {
    pooled: Pooled,
    since: Instant,
}

/// Connections by key.
#[derive(Debug, Default)]
pub struct Connections(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_key: HashMap<PoolKey, Vec<Waiting>>,
    /// How many there are of all keys.
    count: usize,
    /// Those that requests are making now, and others may wait for: never more than there are requests.
    expected: HashMap<PoolKey, Expected>,
    /// What all connections of a key hold, busy ones and those that are being made among them.
    alive: HashMap<PoolKey, Weak<()>>,
}

impl Connections {
    /// A connection that can take a request now, the one used last of those made while the same was `stated`. Others
    /// stay: who asks may have begun before what is in force now.
    pub fn take(&self, key: &PoolKey, stated: &Arc<Stated>) -> Option<Pooled> {
        self.lend(key, |pooled| pooled.made_under == *stated)
    }

    /// The same, of those on which requests are under way, whatever was stated when they were made.
    pub fn take_busy(&self, key: &PoolKey) -> Option<Pooled> {
        self.lend(key, Pooled::is_busy)
    }

    fn lend(&self, key: &PoolKey, will_do: impl Fn(&Pooled) -> bool) -> Option<Pooled> {
        let mut kept = self.lock();
        let waiting = kept.by_key.get_mut(key)?;
        let before = waiting.len();
        waiting.retain(|Waiting { pooled, .. }| !pooled.sender.is_closed() && !pooled.is_spent());
        // One that is not ready is an HTTP/1.1 connection whose last answer is just being put away.
        let found = waiting
            .iter()
            .rposition(|it| will_do(&it.pooled) && it.pooled.sender.is_ready() && !it.pooled.is_full());
        let taken = found.map(|at| match waiting[at].pooled.share() {
            Some(shared) => {
                waiting[at].since = Instant::now();
                shared
            }
            None => {
                let mut pooled = waiting.swap_remove(at).pooled;
                pooled.taken += 1;
                pooled
            }
        });
        let after = waiting.len();
        // An empty list stays for what is given back soon, until the next sweep.
        if after == 0 && kept.by_key.len() > MAX_IDLE_CONNECTIONS {
            kept.by_key.remove(key);
        }
        kept.count -= before - after;
        taken
    }

    /// Keeps a connection for the next request.
    pub fn keep(&self, key: &PoolKey, pooled: Pooled) {
        if pooled.sender.is_closed() || pooled.is_spent() {
            return;
        }
        let mut kept = self.lock();
        if kept.count < MAX_IDLE_CONNECTIONS {
            kept.count += 1;
            let waiting = Waiting { pooled, since: Instant::now() };
            match kept.by_key.get_mut(key) {
                Some(others) => others.push(waiting),
                None => drop(kept.by_key.insert(key.clone(), vec![waiting])),
            }
        }
    }

    /// What a connection of this key has to hold from before it is made to its end.
    pub fn begin(&self, key: &PoolKey) -> Arc<()> {
        self.lock().begin(key)
    }

    /// The same, where there is no other connection of this key.
    pub fn begin_first(&self, key: &PoolKey) -> Option<Arc<()>> {
        let mut kept = self.lock();
        let is_first = kept.alive.get(key).is_none_or(|others| others.strong_count() == 0);
        is_first.then(|| kept.begin(key))
    }

    /// Closes one connection of a cluster on which nothing is under way, to make room for another.
    pub fn evict(&self, cluster: &str) {
        let mut kept = self.lock();
        let mut of_cluster = kept.by_key.iter_mut().filter(|(key, _)| *key.cluster == *cluster);
        let evicted = of_cluster.any(|(_, waiting)| {
            let idle = waiting.iter().position(|it| !it.pooled.is_busy());
            idle.map(|at| waiting.swap_remove(at)).is_some()
        });
        if evicted {
            kept.count -= 1;
        }
    }

    /// Closes what has waited for too long, may take no further request, or was made under what is in force no more.
    /// Nothing that is under way is broken off.
    pub fn sweep(&self, now: Instant) {
        let mut kept = self.lock();
        kept.by_key.retain(|_, waiting| {
            waiting.retain(|it| it.is_kept(now));
            !waiting.is_empty()
        });
        kept.count = kept.by_key.values().map(Vec::len).sum();
        kept.alive.retain(|_, alive| alive.strong_count() > 0);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // The count is right again before the lock is given back.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn begin(&mut self, key: &PoolKey) -> Arc<()> {
        let alive = self.alive.entry(key.clone()).or_default();
        alive.upgrade().unwrap_or_else(|| {
            let first = Arc::new(());
            *alive = Arc::downgrade(&first);
            first
        })
    }
}

impl Waiting {
    /// Whether it is there for a further request, or for those that are under way on it.
    fn is_kept(&self, now: Instant) -> bool {
        let Self { pooled, since } = self;
        let in_time = || pooled.idle.is_none_or(|most| now.duration_since(*since) < most);
        let waits = || !pooled.made_under.is_over() && in_time();
        !pooled.sender.is_closed() && !pooled.is_spent() && (pooled.is_busy() || waits())
    }
}

impl fmt::Debug for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pooled")
            .field("sender", &self.sender)
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

impl Pooled {
    /// Another handle for one more request on the same connection, where it takes several at a time.
    pub fn share(&mut self) -> Option<Self> {
        let sender = self.sender.shared()?;
        self.taken += 1;
        let (made_under, streams, place) =
            (self.made_under.clone(), self.streams.clone(), self.place.clone());
        Some(Self { sender, made_under, streams, place, ..*self })
    }

    /// Whether it has taken as many requests as it may.
    pub fn is_spent(&self) -> bool {
        self.most.is_some_and(|most| self.taken >= most)
            || self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Whether requests are under way on it.
    fn is_busy(&self) -> bool {
        Arc::strong_count(&self.streams) > 1
    }

    /// Whether as many requests are under way on it as may be.
    fn is_full(&self) -> bool {
        let others = Arc::strong_count(&self.streams) - 1;
        !self.sender.is_exclusive() && others >= self.most_streams as usize
    }
}

#[cfg(test)]
mod tests;
