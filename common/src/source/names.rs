//! Looks up the names of endpoints outside the mesh, and keeps what was found current.
//!
//! Knows no mesh: it is told the names by the snapshots and tells the addresses as batches, like any other source. What was
//! found stays in force while a name cannot be looked up.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::Batch;
use crate::snapshot::publish::Reader;

/// Names that are looked up; further ones have no addresses.
pub const MAX_NAMES: usize = 1024;
/// Addresses kept of one name.
pub const MAX_ADDRESSES_PER_NAME: usize = 64;
/// Names that are looked up at once.
pub const MAX_LOOKUPS: usize = 16;
/// After how long a name is looked up again (Istio's `dnsRefreshRate`).
const AGAIN: Duration = Duration::from_secs(60);
/// The same for a name that could not be.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// How long one look may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Asks the machine's resolver.
///
/// # Errors
/// What it says.
pub async fn look_up(name: Arc<str>) -> io::Result<Vec<IpAddr>> {
    Ok(tokio::net::lookup_host((&*name, 0)).await?.map(|it| it.ip()).collect())
}

/// Follows the names that the mesh asks for, until nobody takes what is found.
pub async fn follow<F>(mut mesh: Reader, batches: mpsc::Sender<Batch>, look_up: impl Fn(Arc<str>) -> F)
where
    F: Future<Output = io::Result<Vec<IpAddr>>>,
{
    let mut names = Names::default();
    let mut asked = FuturesUnordered::new();
    loop {
        names.want(mesh.current().names());
        let now = Instant::now();
        while asked.len() < MAX_LOOKUPS
            && let Some(name) = names.next(now)
        {
            let looking = look_up(name.clone());
            asked.push(async move { (name, timeout(DEADLINE, looking).await) });
        }
        let due = names.due().filter(|_| asked.len() < MAX_LOOKUPS);
        let wait = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some((name, outcome)) = asked.next(), if !asked.is_empty() => {
                let found = outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                if let Some(addresses) = names.found(&name, found, Instant::now()) {
                    let resolved = vec![(name, addresses)];
                    if batches.send(Batch { resolved, ..Batch::default() }).await.is_err() {
                        return;
                    }
                }
            }
            _ = mesh.changed() => {}
            () = wait => {}
            () = batches.closed() => return,
        }
    }
}

/// Names and what is known of them.
#[derive(Debug, Default)]
struct Names {
    wanted: Arc<[Arc<str>]>,
    known: BTreeMap<Arc<str>, Known>,
}

#[derive(Debug)]
struct Known {
    /// When it is looked up next; `None` while it is being.
    due: Option<Instant>,
    addresses: Option<Box<[IpAddr]>>,
    failing: bool,
}

impl Names {
    /// Takes over what is asked for.
    fn want(&mut self, wanted: &Arc<[Arc<str>]>) {
        if Arc::ptr_eq(&self.wanted, wanted) {
            return;
        }
        if wanted.len() > MAX_NAMES {
            tracing::warn!(
                names = wanted.len(),
                most = MAX_NAMES,
                "too many names to look up; the last are not"
            );
        }
        self.wanted = wanted.clone();
        let names: BTreeSet<&Arc<str>> = wanted.iter().take(MAX_NAMES).collect();
        self.known.retain(|name, _| names.contains(name));
        for name in names {
            let new = || Known { due: Some(Instant::now()), addresses: None, failing: false };
            self.known.entry(name.clone()).or_insert_with(new);
        }
    }

    /// A name whose time has come.
    fn next(&mut self, now: Instant) -> Option<Arc<str>> {
        let (name, known) = self.known.iter_mut().find(|(_, it)| it.due.is_some_and(|due| due <= now))?;
        known.due = None;
        Some(name.clone())
    }

    /// When the next one's time comes.
    fn due(&self) -> Option<Instant> {
        self.known.values().filter_map(|it| it.due).min()
    }

    /// Takes note of a look. Returns the addresses, when they are others than before.
    fn found(
        &mut self,
        name: &Arc<str>,
        found: io::Result<Vec<IpAddr>>,
        now: Instant,
    ) -> Option<Box<[IpAddr]>> {
        let known = self.known.get_mut(name)?;
        let addresses = found.map(usable).and_then(|it| match it.is_empty() {
            true => Err(io::Error::other("no address that a backend can have")),
            false => Ok(it),
        });
        match addresses {
            Ok(addresses) => {
                known.due = Some(now + AGAIN);
                known.failing = false;
                if known.addresses.as_ref() == Some(&addresses) {
                    return None;
                }
                known.addresses = Some(addresses.clone());
                Some(addresses)
            }
            Err(error) => {
                known.due = Some(now + AFTER_FAILURE);
                if !std::mem::replace(&mut known.failing, true) {
                    tracing::warn!(%name, %error, "name of an endpoint not found; what was found before stays");
                }
                None
            }
        }
    }
}

/// Those that somebody else can have: a name must not lead to this proxy's own ports.
fn usable(found: Vec<IpAddr>) -> Box<[IpAddr]> {
    let canonical = found.into_iter().map(|it| it.to_canonical());
    let foreign = |it: &IpAddr| !(it.is_loopback() || it.is_unspecified() || it.is_multicast());
    let addresses: BTreeSet<IpAddr> = canonical.filter(foreign).collect();
    addresses.into_iter().take(MAX_ADDRESSES_PER_NAME).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::snapshot::publish::channel;
    use crate::snapshot::{Mesh, MeshSettings};

    /// A resolver that says what it is told to.
    type Answers = Arc<Mutex<BTreeMap<&'static str, Vec<&'static str>>>>;

    fn answer(answers: &Answers, name: &str) -> io::Result<Vec<IpAddr>> {
        let answers = answers.lock().unwrap();
        let found = answers.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(found.iter().map(|it| it.parse().unwrap()).collect())
    }

    fn mesh_with(hosts: &[&str]) -> Arc<crate::snapshot::Snapshot> {
        let text: String = hosts
            .iter()
            .map(|host| {
                format!(
                    "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {}}}\nspec: {{hosts: \
                     [{host}], resolution: DNS, ports: [{{number: 80, name: a, protocol: HTTP}}]}}\n",
                    host.replace('.', "-")
                )
            })
            .collect();
        let names = &mut crate::config::names::Names::default();
        let decoded = crate::config::decode::yaml::decode(&"a.yaml".into(), text.as_bytes(), names);
        assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
        let batch = Batch { upserts: decoded.stated, ..Batch::default() };
        Mesh::new(MeshSettings::default()).apply(batch)
    }

    async fn told(batches: &mut mpsc::Receiver<Batch>) -> (String, Vec<String>) {
        let batch = timeout(Duration::from_secs(600), batches.recv()).await.expect("a batch").unwrap();
        let (name, addresses) = batch.resolved.into_iter().next().unwrap();
        (name.to_string(), addresses.iter().map(ToString::to_string).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_looked_up_again_and_what_was_found_outlives_failures() {
        let answers: Answers = Arc::default();
        answers.lock().unwrap().insert("a.example.com", vec!["198.51.100.2", "127.0.0.1", "198.51.100.1"]);
        let (publisher, reader) = channel();
        publisher.publish(mesh_with(&["a.example.com", "b.example.com"]));
        let (sender, mut batches) = mpsc::channel(4);
        let theirs = answers.clone();
        tokio::spawn(follow(reader, sender, move |name| {
            let found = answer(&theirs, &name);
            async move { found }
        }));
        // Sorted, and without those that would lead back here.
        let first = ("a.example.com".to_owned(), vec!["198.51.100.1".to_owned(), "198.51.100.2".to_owned()]);
        assert_eq!(told(&mut batches).await, first);
        answers.lock().unwrap().insert("b.example.com", vec!["198.51.100.3"]);
        let began = Instant::now();
        assert_eq!(told(&mut batches).await.0, "b.example.com");
        assert!(began.elapsed() <= AFTER_FAILURE + Duration::from_secs(1), "tried again soon");
        answers.lock().unwrap().clear();
        let silence = timeout(AGAIN * 3, batches.recv()).await;
        assert!(silence.is_err(), "a failure takes nothing back");
        answers.lock().unwrap().insert("a.example.com", vec!["198.51.100.9"]);
        assert_eq!(told(&mut batches).await, ("a.example.com".to_owned(), vec!["198.51.100.9".to_owned()]));
    }

    #[tokio::test]
    async fn the_machines_resolver_is_asked() {
        let found = look_up("localhost".into()).await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty(), "{found:?}");
        assert!(usable(found).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_asked_for_later_is_looked_up_at_once() {
        let answers: Answers = Arc::default();
        answers.lock().unwrap().insert("a.example.com", vec!["198.51.100.1"]);
        let (publisher, reader) = channel();
        let (sender, mut batches) = mpsc::channel(4);
        tokio::spawn(follow(reader, sender, move |name| {
            let found = answer(&answers, &name);
            async move { found }
        }));
        tokio::task::yield_now().await;
        let began = Instant::now();
        publisher.publish(mesh_with(&["a.example.com"]));
        assert_eq!(told(&mut batches).await.0, "a.example.com");
        assert!(began.elapsed() < Duration::from_secs(1));
    }
}
