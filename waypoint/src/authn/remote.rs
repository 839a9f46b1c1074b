//! Keys that are fetched, and kept current: one task for each place they come from, however many rules and requests want them.
//!
//! What was fetched stays in use while nothing new can be, but not for ever. The surprising thing: nobody is asked to fetch.
//! Whoever holds [`RemoteKeys`] keeps its task at work, and when nobody does any more, the task ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use common::config::authentication::KeySource;
use rand::Rng as _;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::fetch::{FetchError, Fetcher};
use super::keys::KeySet;

/// Places that keys are fetched from; tokens that need further ones are refused.
pub const MAX_KEY_SOURCES: usize = 256;
/// After how long keys are fetched again (Istio's default).
pub const REFRESH: Duration = Duration::from_secs(20 * 60);
/// For how long keys are used that cannot be fetched again.
pub const MAX_STALENESS: Duration = Duration::from_secs(24 * 3600);
/// The least time between two fetches that tokens of unknown keys give rise to.
pub const EARLY_REFRESH: Duration = Duration::from_secs(30);
/// The time after a first failure, which doubles with each further one up to [`MAX_RETRY`].
const RETRY: Duration = Duration::from_secs(1);
/// The longest time after a failure.
pub const MAX_RETRY: Duration = Duration::from_secs(60);

/// Who knows the keys of all places.
pub trait Keyring {
    /// The keys of a place, each fetch of which may take `timeout`.
    fn fetched(&self, source: &KeySource, timeout: Duration) -> Arc<RemoteKeys>;
}

/// The keys of one place.
#[derive(Debug)]
pub struct RemoteKeys {
    source: KeySource,
    timeout: Duration,
    keys: ArcSwapOption<KeySet>,
    tried: watch::Sender<bool>,
    /// Asks for new keys before their time; also fired when nobody wants any.
    again: Arc<Notify>,
}

impl RemoteKeys {
    fn new(source: KeySource, timeout: Duration) -> Self {
        let (tried, _) = watch::channel(false);
        Self { source, timeout, keys: ArcSwapOption::empty(), tried, again: Arc::default() }
    }

    /// Where they come from.
    pub fn source(&self) -> &KeySource {
        &self.source
    }

    /// The keys in use.
    pub fn now(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// Whether a first fetch is over, however it ended.
    pub fn was_tried(&self) -> bool {
        *self.tried.borrow()
    }

    /// Waits for the end of the first fetch, which has its own deadline.
    pub async fn tried(&self) {
        // The sender lives as long as `self`.
        let _ = self.tried.subscribe().wait_for(|tried| *tried).await;
    }

    /// Asks for new keys.
    pub fn ask_again(&self) {
        self.again.notify_one();
    }
}

impl Drop for RemoteKeys {
    fn drop(&mut self) {
        self.again.notify_one();
    }
}

/// Fetches no keys: every token that needs some waits for them for ever.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unfetched;

impl Keyring for Unfetched {
    fn fetched(&self, source: &KeySource, timeout: Duration) -> Arc<RemoteKeys> {
        Arc::new(RemoteKeys::new(source.clone(), timeout))
    }
}

/// Fetches keys.
#[derive(Debug)]
pub struct Keys {
    fetcher: Arc<Fetcher>,
    runtime: Handle,
    known: Mutex<HashMap<KeySource, Weak<RemoteKeys>>>,
}

impl Keys {
    /// With the tasks on this runtime.
    pub fn new(fetcher: Fetcher, runtime: Handle) -> Self {
        Self { fetcher: Arc::new(fetcher), runtime, known: Mutex::default() }
    }
}

impl Keyring for Keys {
    fn fetched(&self, source: &KeySource, timeout: Duration) -> Arc<RemoteKeys> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(source).and_then(Weak::upgrade) {
            return found;
        }
        known.retain(|_, it| it.strong_count() > 0);
        let made = Arc::new(RemoteKeys::new(source.clone(), timeout));
        if known.len() >= MAX_KEY_SOURCES {
            tracing::warn!(?source, most = MAX_KEY_SOURCES, "too many places of keys; this one is not asked");
            made.tried.send_replace(true);
            return made;
        }
        known.insert(source.clone(), Arc::downgrade(&made));
        self.runtime.spawn(keep(Arc::downgrade(&made), self.fetcher.clone()));
        made
    }
}

/// Keeps the keys of one place current until nobody wants them.
async fn keep(wanted: Weak<RemoteKeys>, fetcher: Arc<Fetcher>) {
    let mut last = Last::default();
    loop {
        let Some(keys) = wanted.upgrade() else { return };
        let began = Instant::now();
        let next = last.take(&keys, fetcher.keys(&keys.source, keys.timeout).await);
        let again = keys.again.clone();
        drop(keys);
        tokio::select! {
            () = sleep(next) => {}
            () = again.notified() => {
                if wanted.strong_count() == 0 {
                    return;
                }
                sleep_until(began + EARLY_REFRESH).await;
            }
        }
    }
}

/// What came of the last fetches of one place.
#[derive(Debug, Default)]
struct Last {
    good: Option<(Instant, Bytes)>,
    failures: u32,
}

impl Last {
    /// Takes note of a fetch. Returns after how long there should be another.
    fn take(&mut self, keys: &RemoteKeys, fetched: Result<Bytes, FetchError>) -> Duration {
        let read = fetched.and_then(|bytes| Ok((KeySet::read(&bytes)?, bytes)));
        let wait = match read {
            Ok((set, bytes)) => {
                // The same keys stay the same value, so that tokens verified by them need not be again.
                if self.good.as_ref().is_none_or(|(_, before)| *before != bytes) || keys.now().is_none() {
                    tracing::info!(source = ?keys.source, keys = set.len(), "keys are fetched");
                    keys.keys.store(Some(Arc::new(set)));
                }
                self.good = Some((Instant::now(), bytes));
                self.failures = 0;
                REFRESH.mul_f64(rand::rng().random_range(0.9..1.1))
            }
            Err(error) => {
                tracing::warn!(source = ?keys.source, %error, "keys cannot be fetched");
                if self.good.as_ref().is_some_and(|(when, _)| when.elapsed() > MAX_STALENESS) {
                    keys.keys.store(None);
                }
                self.failures = self.failures.saturating_add(1);
                (RETRY * 2u32.saturating_pow(self.failures - 1).min(1 << 16)).min(MAX_RETRY)
            }
        };
        keys.tried.send_replace(true);
        wait
    }
}

#[cfg(test)]
mod tests;
