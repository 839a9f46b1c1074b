//! The pool against peers that misbehave at random: whoever asks for a stream gets one of the right peer, or a reason,
//! in bounded time, and nothing stays behind.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::hbone::pool::{Key, Pool};
use common::hbone::request::{Authority, Connect};
use common::hbone::server::{self, Arrival, Server};
use common::hbone::{Budget, Stream, limits};
use common::refusal::Refusal;
use common::spiffe::Identity;
use ebb_scenarios::seeds;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// The peer of this number behaves, and its workload is never drained: it owes an answer to every flow.
const HONEST: usize = 0;
const PEERS: usize = 4;
/// A flow waits for one dial and one answer, twice at most.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a peer behaves on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Says GOAWAY after a few streams.
    Drains,
    /// Hangs up after a few streams.
    Dies,
    /// Stops doing anything after a few streams.
    Freezes,
    /// Refuses, withdraws or answers late.
    Moody,
}

/// All there is of one seed.
struct Stage {
    pool: Pool,
    budget: Arc<Budget>,
    rng: Mutex<StdRng>,
    dialling: Arc<Mutex<HashMap<usize, usize>>>,
    open_servers: Arc<AtomicUsize>,
}

/// Counts a server for as long as it runs.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Counts a dial for as long as it lasts, given up or not.
struct Dialling(usize, Arc<Mutex<HashMap<usize, usize>>>);

impl Dialling {
    fn begin(peer: usize, dialling: &Arc<Mutex<HashMap<usize, usize>>>) -> Self {
        let mut counts = dialling.lock().expect("no test panics while it holds a lock");
        let count = counts.entry(peer).or_insert(0);
        *count += 1;
        // A workload that was drained is another one, which need not wait for the dial of the first.
        assert!(peer != HONEST || *count == 1, "two dials to one peer at a time");
        drop(counts);
        Self(peer, dialling.clone())
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        if let Some(count) = self.1.lock().expect("no test panics while it holds a lock").get_mut(&self.0) {
            *count -= 1;
        }
    }
}

fn key(peer: usize) -> Arc<Key> {
    Arc::new(Key {
        source_uid: format!("Kubernetes//Pod/shop/client-{peer}").into(),
        source_incarnation: "1".into(),
        source: Identity::new("cluster.local", "shop", "client"),
        destination: Identity::new("cluster.local", "shop", "web"),
        address: "10.0.0.7:15008".parse().expect("an address and a port"),
        source_ip: "10.0.0.2".parse().expect("an address and a port"),
    })
}

/// A request that says by its port which peer it is for.
fn to(peer: usize) -> Connect {
    Connect::to(Authority::parse(&format!("10.0.0.7:{}", 1000 + peer)).expect("an address and a port"))
}

impl Stage {
    fn new(mut rng: StdRng) -> Arc<Self> {
        let budget = Budget::new(limits::HELD_BYTES_PER_WORKER);
        let rng_of_stage = StdRng::seed_from_u64(rng.random());
        Arc::new(Self {
            pool: Pool::new(limits::IDLE_RELEASE, budget.clone()),
            budget,
            rng: Mutex::new(rng_of_stage),
            dialling: Arc::default(),
            open_servers: Arc::default(),
        })
    }

    fn random<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.rng.lock().expect("no test panics while it holds a lock"))
    }

    async fn open(&self, peer: usize) -> Result<Stream, Refusal> {
        let dial = || async {
            let _dialling = Dialling::begin(peer, &self.dialling);
            let (manner, delay) = self.random(|rng| (manner(rng, peer), rng.random_range(0..200)));
            sleep(Duration::from_millis(delay)).await;
            let fails = peer != HONEST && self.random(|rng| rng.random_bool(0.1));
            if fails {
                Err(Refusal::ConnectFailed("nobody there".into()))
            } else {
                Ok(self.serve(peer, manner))
            }
        };
        self.pool.open(&key(peer), &to(peer), dial).await
    }

    /// The other end of a dialled connection.
    fn serve(&self, peer: usize, manner: Manner) -> DuplexStream {
        let (near, far) = duplex(64 * 1024);
        let rng = self.random(|rng| StdRng::seed_from_u64(rng.random()));
        self.open_servers.fetch_add(1, Relaxed);
        let counted = Counted(self.open_servers.clone());
        let budget = self.budget.clone();
        tokio::spawn(async move {
            let _counted = counted;
            if let Ok(server) = server::accept(far, &budget).await {
                behave(server, peer, manner, rng).await;
            }
        });
        near
    }
}

fn manner(rng: &mut StdRng, peer: usize) -> Manner {
    if peer == HONEST {
        return Manner::Honest;
    }
    *[Manner::Honest, Manner::Drains, Manner::Dies, Manner::Freezes, Manner::Moody]
        .choose(rng)
        .expect("there are some")
}

async fn behave(mut server: Server<DuplexStream>, peer: usize, manner: Manner, mut rng: StdRng) {
    let mut left = rng.random_range(1..8);
    let mut streams = Vec::new();
    let mut late = JoinSet::new();
    loop {
        let arrival = tokio::select! {
            arrival = server.next() => arrival,
            Some(stream) = late.join_next(), if !late.is_empty() => {
                streams.extend(stream.ok().flatten());
                continue;
            }
        };
        let Some(Ok(Arrival::Connect(incoming))) = arrival else { return };
        assert_eq!(
            usize::from(incoming.request.authority.port()),
            1000 + peer,
            "a stream on another's connection"
        );
        left -= 1;
        match manner {
            Manner::Moody => match rng.random_range(0..4) {
                0 => incoming.refuse(Refusal::NoAllowPolicyMatched("shop/p".into()).status()),
                1 => drop(incoming),
                2 => {
                    let delay = rng.random_range(1..30);
                    late.spawn(async move {
                        sleep(Duration::from_secs(delay)).await;
                        incoming.accept(None).ok()
                    });
                }
                _ => streams.extend(incoming.accept(None)),
            },
            Manner::Dies if left == 0 => return,
            Manner::Freezes if left == 0 => {
                sleep(Duration::from_secs(120)).await;
                return;
            }
            Manner::Drains if left == 0 => {
                streams.extend(incoming.accept(None));
                server.drain();
            }
            _ => streams.extend(incoming.accept(None)),
        }
    }
}

/// A flow: opens, stays for a while, and says how it went.
async fn flow(stage: Arc<Stage>, peer: usize, stay: Duration) {
    let began = Instant::now();
    let opened = timeout(PATIENCE, stage.open(peer)).await.unwrap_or_else(|_| panic!("peer {peer}: no end"));
    match opened {
        Ok(stream) => {
            sleep(stay).await;
            drop(stream);
        }
        Err(refusal) => {
            assert_ne!(peer, HONEST, "refused after {:?}: {refusal}", began.elapsed());
            let expected = matches!(
                refusal,
                Refusal::Http2Failed(_)
                    | Refusal::PeerRefused(401)
                    | Refusal::PodGone
                    | Refusal::ConnectFailed(_)
            );
            assert!(expected, "{refusal}");
        }
    }
}

#[test]
fn whatever_peers_do_a_flow_gets_its_own_peer_or_a_reason_and_nothing_stays_behind() {
    seeds::each(200, |mut rng| async move {
        let stage = Stage::new(StdRng::seed_from_u64(rng.random()));
        let mut flows = JoinSet::new();
        for _ in 0..60 {
            let peer = rng.random_range(0..PEERS);
            match rng.random_range(0..12) {
                0 if peer != HONEST => stage.pool.drain(&key(peer).source_uid),
                1 if peer != HONEST => stage.pool.close(&key(peer).source_uid),
                2 => sleep(Duration::from_secs(rng.random_range(1..40))).await,
                3..6 => sleep(Duration::from_millis(rng.random_range(0..300))).await,
                _ => {
                    let stay = Duration::from_millis(rng.random_range(0..20_000));
                    flows.spawn(flow(stage.clone(), peer, stay));
                }
            }
        }
        while let Some(ended) = flows.join_next().await {
            ended.unwrap();
        }
        // What is left is idle, and is released; what froze is found dead.
        sleep(2 * limits::IDLE_RELEASE).await;
        assert_eq!(stage.pool.stats(), []);
        assert_eq!(stage.budget.held(), 0);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(stage.open_servers.load(Relaxed), 0, "connections nobody uses any more");
    });
}

#[test]
fn a_herd_that_gives_up_half_way_leaves_one_connection_and_no_waiter() {
    seeds::each(50, |mut rng| async move {
        let stage = Stage::new(StdRng::seed_from_u64(rng.random()));
        let mut flows = JoinSet::new();
        for _ in 0..limits::STREAMS_PER_CONNECTION {
            let (stage, patience) = (stage.clone(), Duration::from_millis(rng.random_range(0..400)));
            flows
                .spawn(async move { timeout(patience, stage.open(HONEST)).await.is_ok_and(|it| it.is_ok()) });
            if rng.random_bool(0.1) {
                tokio::task::yield_now().await;
            }
        }
        while let Some(ended) = flows.join_next().await {
            ended.unwrap();
        }
        assert!(timeout(PATIENCE, stage.open(HONEST)).await.unwrap().is_ok());
        assert!(stage.pool.stats().len() <= 1, "{:?}", stage.pool.stats());
    });
}
