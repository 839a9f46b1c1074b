//! TLS towards endpoints as DestinationRules and BackendTLSPolicies state it, made once and not per connection.
//!
//! Files are read again now and then, because certificates are renewed in place; what could be read before stays in use
//! when they cannot be read now. Never plaintext instead. The surprising thing: who finds that it is time reads them, and
//! nobody waits for that but the very first, who have nothing else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::config::destination::tls::{Authorities, ClientTls};
use common::refusal::Refusal;
use common::tls::origin::{Inside, Origin};
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// Most different ones that are kept; beyond, the one read longest ago makes room.
pub const MAX_ORIGINS: usize = 1024;
/// After how long files are read again.
const READ_AGAIN: Duration = Duration::from_secs(60);

/// What one of them is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    tls: Arc<ClientTls>,
    names: Box<[Arc<str>]>,
    inside: Inside,
}

/// Those in use.
#[derive(Debug, Default)]
pub struct Origins(Kept<Key, Origin>);

impl Origins {
    /// TLS as stated. `names` are those of the ServiceEntry, of which a certificate has to have one.
    ///
    /// # Errors
    /// [`Refusal::TlsFailed`] when a file cannot be read, and could not be before.
    pub async fn get(
        &self,
        tls: &Arc<ClientTls>,
        names: &[Arc<str>],
        inside: Inside,
    ) -> Result<Arc<Origin>, Refusal> {
        // What cannot be takes no place of what can.
        if let Some(Authorities::Unusable(why)) = &tls.authorities {
            return Err(Refusal::TlsFailed(why.clone()));
        }
        let key = Key { tls: tls.clone(), names: names.into(), inside };
        let (stated, names) = (tls.clone(), key.names.clone());
        let read = async move {
            let reading = tokio::task::spawn_blocking(move || Origin::read(&stated, &names, inside));
            match reading.await {
                Ok(read) => read.map_err(|error| Refusal::TlsFailed(error.to_string().into())),
                Err(_) => Err(Refusal::TlsFailed("the process is ending".into())),
            }
        };
        self.0.get(key, read).await
    }
}

/// What was read, by what it is made of.
#[derive(Debug)]
struct Kept<K, V>(Mutex<HashMap<K, Reading<V>>>);

/// Empty until it was read for the first time.
#[derive(Debug)]
struct Reading<V> {
    cell: Arc<OnceCell<Arc<V>>>,
    /// When somebody last set out to read it.
    since: Instant,
}

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + std::hash::Hash + Clone, V> Kept<K, V> {
    /// What was read, or what `read` gives: of several at a time one reads.
    async fn get(&self, key: K, read: impl Future<Output = Result<V, Refusal>>) -> Result<Arc<V>, Refusal> {
        let (cell, is_due) = self.look(&key);
        match cell.get() {
            Some(known) if is_due => match read.await {
                Ok(read) => {
                    let read = Arc::new(read);
                    // One that was forgotten meanwhile stays so.
                    if let Some(reading) = self.lock().get_mut(&key) {
                        reading.cell = Arc::new(OnceCell::from(read.clone()));
                    }
                    Ok(read)
                }
                Err(error) => {
                    tracing::warn!(%error, "TLS to a backend stays as it was read before");
                    Ok(known.clone())
                }
            },
            Some(known) => Ok(known.clone()),
            None => cell.get_or_try_init(|| async { read.await.map(Arc::new) }).await.cloned(),
        }
    }

    /// What is there, and whether it is the caller who is to read it again.
    fn look(&self, key: &K) -> (Arc<OnceCell<Arc<V>>>, bool) {
        let mut all = self.lock();
        if let Some(reading) = all.get_mut(key) {
            let is_due = reading.since.elapsed() >= READ_AGAIN;
            if is_due {
                reading.since = Instant::now();
            }
            return (reading.cell.clone(), is_due);
        }
        let oldest = all.iter().min_by_key(|(_, it)| it.since).map(|(key, _)| key);
        if let Some(oldest) = oldest.filter(|_| all.len() >= MAX_ORIGINS).cloned() {
            all.remove(&oldest);
        }
        let cell = Arc::<OnceCell<_>>::default();
        all.insert(key.clone(), Reading { cell: cell.clone(), since: Instant::now() });
        (cell, false)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Reading<V>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;
    use tokio::time::{advance, sleep};

    use super::*;

    /// What many who ask at once get, and how many of them read.
    async fn ask(kept: &Kept<&'static str, u32>, given: Result<u32, Refusal>) -> (Vec<Option<u32>>, u32) {
        let reads = Cell::new(0);
        let one = || async {
            let read = async {
                reads.set(reads.get() + 1);
                sleep(Duration::from_secs(1)).await;
                given.clone()
            };
            kept.get("a", read).await.ok().map(|it| *it)
        };
        (join_all((0..5).map(|_| one())).await, reads.get())
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_who_ask_at_once_one_reads() {
        let kept = Kept::default();
        assert_eq!(ask(&kept, Ok(1)).await, (vec![Some(1); 5], 1));
        assert_eq!(ask(&kept, Ok(2)).await, (vec![Some(1); 5], 0), "too early");
        advance(READ_AGAIN).await;
        let (got, reads) = ask(&kept, Ok(3)).await;
        // Who reads has the new one, and the others do not wait for it.
        assert_eq!((got, reads), (vec![Some(3), Some(1), Some(1), Some(1), Some(1)], 1));
        assert_eq!(ask(&kept, Ok(4)).await, (vec![Some(3); 5], 0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_too_many_takes_the_place_of_the_oldest_alone() {
        let kept = Kept::default();
        for it in 0..=MAX_ORIGINS {
            advance(Duration::from_millis(1)).await;
            kept.look(&it);
        }
        let all = kept.lock();
        assert!(all.len() == MAX_ORIGINS && !all.contains_key(&0) && all.contains_key(&1));
        let _: &HashMap<usize, Reading<u32>> = &all;
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_read_again_stays_and_what_never_could_is_refused() {
        let broken = || Err(Refusal::TlsFailed("broken".into()));
        let kept = Kept::default();
        assert_eq!(ask(&kept, broken()).await.0, vec![None; 5]);
        assert_eq!(ask(&kept, Ok(1)).await, (vec![Some(1); 5], 1), "it is there now");
        advance(READ_AGAIN).await;
        assert_eq!(ask(&kept, broken()).await, (vec![Some(1); 5], 1));
        assert_eq!(ask(&kept, Ok(2)).await, (vec![Some(1); 5], 0), "until it is time again");
    }
}
