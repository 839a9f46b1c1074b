//! TLS towards endpoints as DestinationRules state it, made once and not per connection.
//!
//! Files are read again now and then, because certificates are renewed in place; what could be read before stays in use
//! when they cannot be read now. Never plaintext instead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::config::destination::tls::ClientTls;
use common::refusal::Refusal;
use common::tls::origin::{Inside, Origin};
use tokio::time::Instant;

/// Most different ones that are kept; beyond, all are made anew.
pub const MAX_ORIGINS: usize = 256;
/// After how long files are read again.
const READ_AGAIN: Duration = Duration::from_secs(60);

/// What one of them is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    tls: Arc<ClientTls>,
    names: Box<[Arc<str>]>,
    inside: Inside,
}

#[derive(Debug, Clone)]
struct Made {
    origin: Arc<Origin>,
    read: Instant,
}

/// Those in use.
#[derive(Debug, Default)]
pub struct Origins(Mutex<HashMap<Key, Made>>);

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
        let key = Key { tls: tls.clone(), names: names.into(), inside };
        let known = self.lock().get(&key).cloned();
        if let Some(known) = known.as_ref().filter(|it| it.read.elapsed() < READ_AGAIN) {
            return Ok(known.origin.clone());
        }
        let (stated, names) = (tls.clone(), key.names.clone());
        let reading = tokio::task::spawn_blocking(move || Origin::read(&stated, &names, inside));
        let origin = match (reading.await, known) {
            (Ok(Ok(origin)), _) => Arc::new(origin),
            (Ok(Err(error)), Some(known)) => {
                tracing::warn!(%error, "TLS to a backend stays as it was read before");
                known.origin
            }
            (Ok(Err(error)), None) => return Err(Refusal::TlsFailed(error.to_string().into())),
            (Err(_), _) => return Err(Refusal::TlsFailed("the process is ending".into())),
        };
        let mut made = self.lock();
        if made.len() >= MAX_ORIGINS && !made.contains_key(&key) {
            made.clear();
        }
        made.insert(key, Made { origin: origin.clone(), read: Instant::now() });
        Ok(origin)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Made>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
