//! The CA that comes with Ebb: a root key in a directory, and certificates signed in this process.
//!
//! Whoever can read the key file can be any workload, so the file must be readable by its owner alone or it is not
//! used. Surprising: the certificate file may hold several roots. The one that matches the key signs, all of them are
//! believed, and both files are read again when they change: add the new root, then change the key, then remove the old.

mod files;
mod sign;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use tokio::sync::watch;

use self::files::{Paths, Stamp};
use self::sign::Authority;
use super::ca::{CaClient, CaError, IssueFuture, SigningRequest};
use crate::tls::TrustRoots;

pub use self::files::{CaFileError, ROOT_CERTIFICATE_FILE, ROOT_KEY_FILE};

/// How often the root files are looked at for changes: two `stat` calls each time.
pub const ROOT_RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// Signs certificates for the workloads of one trust domain.
#[derive(Debug)]
pub struct EmbeddedCa {
    paths: Paths,
    trust_domain: Arc<str>,
    clock: Arc<dyn TimeProvider>,
    loaded: ArcSwap<Loaded>,
    roots: watch::Sender<Arc<TrustRoots>>,
}

#[derive(Debug)]
struct Loaded {
    authority: Authority,
    stamp: Stamp,
}

impl EmbeddedCa {
    /// Uses `root-cert.pem` and `root-key.pem` of `directory`, and makes them first when neither is there.
    ///
    /// Several processes may do so at the same time: one makes the root, the others use it. Blocks for file work, up
    /// to ten seconds if another process holds the lock; call it at start-up.
    ///
    /// # Errors
    /// [`CaFileError`] naming the file and the reason.
    pub fn open_or_create(
        directory: &Path,
        trust_domain: Arc<str>,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<Self, CaFileError> {
        let paths = Paths::in_directory(directory);
        files::create_if_absent(directory, &paths, &trust_domain, now(&*clock))?;
        Self::load(paths, trust_domain, clock)
    }

    /// Uses a root certificate (or several, see the module head) and its key from anywhere; both are PEM.
    ///
    /// # Errors
    /// As [`EmbeddedCa::open_or_create`].
    pub fn from_files(
        certificate: PathBuf,
        key: PathBuf,
        trust_domain: Arc<str>,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<Self, CaFileError> {
        Self::load(Paths { certificate, key }, trust_domain, clock)
    }

    fn load(paths: Paths, trust_domain: Arc<str>, clock: Arc<dyn TimeProvider>) -> Result<Self, CaFileError> {
        let (loaded, roots) = read(&paths, now(&*clock))?;
        let (loaded, roots) = (ArcSwap::from_pointee(loaded), watch::Sender::new(Arc::new(roots)));
        Ok(Self { paths, trust_domain, clock, loaded, roots })
    }

    /// Reads the files again if they have changed; says whether it did. On an error all stays as it was.
    ///
    /// # Errors
    /// [`CaFileError`] as at start. A pair read while it is being replaced does not match, and does the next time.
    pub fn reload(&self) -> Result<bool, CaFileError> {
        if Stamp::of(&self.paths)? == self.loaded.load().stamp {
            return Ok(false);
        }
        let (loaded, roots) = read(&self.paths, now(&*self.clock))?;
        self.loaded.store(Arc::new(loaded));
        self.roots.send_if_modified(|current| {
            let changed = **current != roots;
            if changed {
                *current = Arc::new(roots);
            }
            changed
        });
        Ok(true)
    }

    /// Reloads the files when they change, for ever. Spawn it on the control runtime.
    pub async fn watch_files(self: Arc<Self>) {
        let mut last_error = None;
        let mut ticks = tokio::time::interval(ROOT_RELOAD_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let ca = self.clone();
            let Ok(outcome) = tokio::task::spawn_blocking(move || ca.reload()).await else { return };
            match outcome {
                Ok(true) => {
                    tracing::info!(path = %self.paths.certificate.display(), "root certificates reloaded")
                }
                Ok(false) => {}
                // The same sentence every ten seconds would drown the log.
                Err(error) if last_error.as_ref() == Some(&error) => continue,
                Err(error) => {
                    tracing::warn!(%error, "root certificates not reloaded; the previous ones stay in use");
                    last_error = Some(error);
                    continue;
                }
            }
            last_error = None;
        }
    }

    fn sign(&self, request: &SigningRequest) -> Result<rustls_pki_types::CertificateDer<'static>, CaError> {
        if request.identity.trust_domain != self.trust_domain {
            return Err(CaError::Refused(format!(
                "{} is not of the trust domain {}",
                request.identity, self.trust_domain
            )));
        }
        self.loaded
            .load()
            .authority
            .sign(request, now(&*self.clock))
            .map_err(|why| CaError::Refused(format!("{}: {why}", self.paths.certificate.display())))
    }
}

impl CaClient for EmbeddedCa {
    fn issue<'a>(&'a self, request: &'a SigningRequest) -> IssueFuture<'a> {
        Box::pin(async move { Ok(vec![self.sign(request)?]) })
    }

    fn roots(&self) -> watch::Receiver<Arc<TrustRoots>> {
        self.roots.subscribe()
    }
}

fn read(paths: &Paths, now: UnixTime) -> Result<(Loaded, TrustRoots), CaFileError> {
    // Taken first: a change between the two is then seen as one at the next look.
    let stamp = Stamp::of(paths)?;
    let (authority, roots) = files::read_pair(paths, now)?;
    Ok((Loaded { authority, stamp }, roots))
}

/// A clock that cannot be read is at 1970, where no root is valid yet.
fn now(clock: &dyn TimeProvider) -> UnixTime {
    clock.current_time().unwrap_or(UnixTime::since_unix_epoch(Duration::ZERO))
}
